//! On which journals new partitions are laid: the catalog spreads them over all, and where some of those have no leader at the moment, the
//! partitions go to the others, so that what is made can be used at once.

use std::collections::BTreeSet;

use tidegate_model::JournalId;

use super::Inner;

impl Inner {
    /// A journal for each of `count` new partitions, the emptiest first; none, if the catalog may choose among all.
    ///
    /// What is known here of leaders may be old: a journal can lose its leader just after, and its partitions are opened when it has one again.
    pub(super) fn laid_on(&self, placement_group: Option<&str>, count: u32) -> Vec<JournalId> {
        // A group's partitions are where those of its other topics are.
        if self.is_alone() || placement_group.is_some() || count == 0 {
            return Vec::new();
        }
        let all: BTreeSet<(u32, JournalId)> = self
            .catalog
            .read_state(|state| state.catalog().fleet().data_journals().map(|(id, info)| (info.partitions, id)).collect());
        let led = all.iter().copied().filter(|(_, journal)| self.has_leader(*journal)).collect::<BTreeSet<_>>();
        if led.len() == all.len() {
            return Vec::new();
        }
        spread(led, count)
    }

    /// Whether a journal has a leader that is heard, as far as is known here.
    fn has_leader(&self, journal: JournalId) -> bool {
        match self.leader_of(journal) {
            Some(leader) if leader == self.broker => {
                self.hosted.get(journal).is_some_and(|hosted| hosted.leadership().borrow().is_self)
            }
            Some(leader) => self.catalog.hears(leader),
            None => false,
        }
    }
}

/// One after the other to whatever has the fewest partitions then.
fn spread(mut loads: BTreeSet<(u32, JournalId)>, count: u32) -> Vec<JournalId> {
    let mut chosen = Vec::new();
    for _ in 0..count {
        let Some((load, journal)) = loads.pop_first() else { return Vec::new() };
        chosen.push(journal);
        loads.insert((load + 1, journal));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_partitions_fill_what_is_emptiest_and_without_a_leader_anywhere_the_catalog_chooses() {
        let loads = BTreeSet::from([(3, JournalId(1)), (1, JournalId(2)), (1, JournalId(4))]);
        let chosen: Vec<u32> = spread(loads, 6).into_iter().map(|journal| journal.0).collect();
        assert_eq!(chosen, [2, 4, 2, 4, 1, 2]);
        assert!(spread(BTreeSet::new(), 3).is_empty());
    }
}
