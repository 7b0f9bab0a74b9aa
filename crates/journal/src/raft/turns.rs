//! Whose turn it is to stand for election: each journal has an order of its voters, the same on all brokers, so that those that lost their leader at one
//! moment do not split the votes.

use std::collections::BTreeSet;

use tidegate_model::{BrokerId, JournalId};

use super::peers::broker_of;

/// How many voters that are heard come before `own`.
pub(super) fn ahead(journal: JournalId, own: u64, voters: &[BTreeSet<u64>], is_heard: impl Fn(BrokerId) -> bool) -> u32 {
    let place = precedence(journal, own);
    let voters: BTreeSet<u64> = voters.iter().flatten().copied().collect();
    let ahead = voters.into_iter().filter(|voter| (precedence(journal, *voter), *voter) < (place, own));
    u32::try_from(ahead.filter(|voter| is_heard(broker_of(*voter))).count()).unwrap_or(u32::MAX)
}

/// Where a voter stands: in another place in each journal, so that what a dead broker led is spread. (The last step of splitmix64.)
fn precedence(journal: JournalId, voter: u64) -> u64 {
    let mut bits = voter.wrapping_add(u64::from(journal.0) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_have_turns_of_their_own_and_all_lead_about_as_often() {
        let voters = [BTreeSet::from([1, 2, 3, 4, 5])];
        let mut first = [0; 6];
        for journal in (0..1000).map(JournalId) {
            for dead in 1..=5 {
                let alive: Vec<u64> = (1..=5).filter(|voter| *voter != dead).collect();
                let turn = |voter: u64| ahead(journal, voter, &voters, |broker| broker != broker_of(dead));
                let turns: BTreeSet<u32> = alive.iter().map(|voter| turn(*voter)).collect();
                assert_eq!(turns, BTreeSet::from([0, 1, 2, 3]), "journal {journal}");
                alive.into_iter().filter(|voter| turn(*voter) == 0).for_each(|voter| first[voter as usize] += 1);
            }
        }
        assert!(first[1..].iter().all(|times| (900..1100).contains(times)), "{first:?}");
    }
}
