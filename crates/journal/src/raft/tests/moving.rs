//! Members that come and go: learners, snapshots, changes of voters, transfers, reads that are surely fresh.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::cluster::*;
use super::*;
use crate::entry::{ObjectInfo, ObjectKey, TierRange};

const THREE: [u64; 3] = [1, 2, 3];

/// Commits that everything up to `end` is in the object store.
async fn tier(journal: &Journal, base: i64, end: i64) {
    let key = ObjectKey::from(format!("objects/{base}").as_str());
    journal.propose(unit(Operation::Intend { key: key.clone() })).await.unwrap();
    let range = TierRange {
        at: at(0),
        base: Offset(base),
        end: Offset(end),
        position: 0,
        bytes: 1_000,
        min_timestamp: TimestampMs(1_000),
        max_timestamp: TimestampMs(1_000),
    };
    let object = ObjectInfo { key, bytes: 1_000, crc32c: 1 };
    let tiered = journal.propose(unit(Operation::Tier { object, ranges: vec![range] })).await.unwrap();
    assert!(matches!(tiered, UnitOutcome::Applied(_)), "{tiered:?}");
}

#[test]
fn a_one_voter_journal_grows_to_three_and_shrinks_to_another_one_while_written_to() {
    on_threads(async {
        let mut cluster = Cluster::of(&[1], 11).await;
        cluster.leader().await;
        cluster.propose(open(0)).await;
        let mut sequence = 0;
        for id in [2, 3] {
            cluster.start(id, Beginning::Join).await.unwrap();
            let leader = cluster.journal(1);
            leader.add_learner(id).await.unwrap();
            for _ in 0..20 {
                cluster.propose(numbered(0, 9, sequence, &sequence.to_string())).await;
                sequence += 1;
            }
            leader.caught_up(id, 8).await.unwrap();
            let voters: BTreeSet<u64> = (1..=id).collect();
            leader.change_voters(voters.clone(), FormerVoters::Leave).await.unwrap();
            let members = leader.members();
            assert_eq!((members.voters, members.unsettled), (voters, BTreeSet::new()));
        }
        cluster.converged().await;
        cluster.journal(1).transfer_leadership(3, PATIENCE).await.unwrap();
        cluster.leader().await;
        cluster.journal(3).change_voters(BTreeSet::from([2, 3]), FormerVoters::Learn).await.unwrap();
        assert_eq!(cluster.journal(3).members().learners, BTreeSet::from([1]), "who votes no more follows on");
        cluster.journal(3).change_voters(BTreeSet::from([3]), FormerVoters::Leave).await.unwrap();
        assert_eq!(cluster.journal(3).members().learners, BTreeSet::from([1]), "2 left, 1 was a learner and stays one");
        for id in [1, 2] {
            cluster.kill(id);
        }
        for _ in 0..20 {
            cluster.propose(numbered(0, 9, sequence, &sequence.to_string())).await;
            sequence += 1;
        }
        let expected: Vec<String> = (0..sequence).map(|number| number.to_string()).collect();
        assert_eq!(cluster.values(0).await, expected);
    });
}

#[test]
fn a_change_of_voters_that_was_cut_off_shows_and_is_finished_by_the_next_leader() {
    on_threads(async {
        let mut cluster = Cluster::of(&[1], 15).await;
        cluster.leader().await;
        for id in [2, 3] {
            cluster.start(id, Beginning::Join).await.unwrap();
            cluster.journal(1).add_learner(id).await.unwrap();
            cluster.journal(1).caught_up(id, 0).await.unwrap();
        }
        let three = BTreeSet::from([1, 2, 3]);
        // The first of its two entries takes so long that the caller can go away in time.
        cluster.syncs.values().for_each(|sync| sync.store(300, Ordering::Relaxed));
        let first = cluster.journal(1).clone();
        let changing = tokio::spawn({
            let (first, three) = (first.clone(), three.clone());
            async move { first.change_voters(three, FormerVoters::Leave).await }
        });
        eventually("the first entry is there", || (first.members().voters == three).then_some(())).await;
        changing.abort();
        assert!(changing.await.unwrap_err().is_cancelled());
        cluster.syncs.values().for_each(|sync| sync.store(0, Ordering::Relaxed));
        cluster.converged().await;
        first.transfer_leadership(3, PATIENCE).await.unwrap();
        let third = cluster.journal(3);
        assert_eq!((third.members().voters, third.members().unsettled), (three.clone(), BTreeSet::from([2, 3])));
        third.change_voters(three.clone(), FormerVoters::Leave).await.unwrap();
        assert_eq!((third.members().voters, third.members().unsettled), (three, BTreeSet::new()));
        cluster.kill(1);
        cluster.propose(open(0)).await;
    });
}

#[test]
fn a_learner_far_behind_gets_a_snapshot_that_hides_nothing_and_a_restart_goes_on_from_it() {
    on_threads(async {
        let mut cluster = Cluster::of(&[1], 12).await;
        cluster.leader().await;
        cluster.propose(open(0)).await;
        for number in 0..30 {
            cluster.propose(append(0, &number.to_string())).await;
        }
        tier(cluster.journal(1), 0, 30).await;
        for number in 30..34 {
            cluster.journal(1).checkpoint().await.unwrap().unwrap();
            cluster.propose(append(0, &number.to_string())).await;
        }
        eventually("the log is purged", || (cluster.replicas[&1].wal.first_index(ID) > 20).then_some(())).await;
        let expected: Vec<String> = (30..34).map(|number| number.to_string()).collect();

        // While its disk is full, it refuses the snapshot and lives.
        let full = Arc::new(AtomicBool::new(true));
        cluster.full.insert(2, full.clone());
        cluster.start(2, Beginning::Join).await.unwrap();
        cluster.journal(1).add_learner(2).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_secs(1), cluster.journal(1).caught_up(2, 0)).await;
        assert!(waiting.is_err(), "it took a snapshot without room for it");
        assert_eq!(cluster.journal(2).failed().borrow().clone(), None);
        full.store(false, Ordering::Relaxed);
        cluster.journal(1).caught_up(2, 0).await.unwrap();
        assert_eq!(cluster.values(0).await, expected);
        assert!(cluster.replicas[&2].wal.first_index(ID) > 20, "it did not get the entries one by one");
        let below = cluster.journal(2).read_tail(at(0), Offset(3), 1).await.unwrap_err();
        assert!(matches!(below, ReadError::BelowTail { tail_start: Offset(30), .. }), "{below}");

        cluster.kill(2);
        cluster.propose(append(0, "while it was away")).await;
        cluster.start(2, Beginning::Restart).await.unwrap();
        assert_eq!(cluster.values(0).await.len(), 5);
        cluster.journal(1).change_voters(BTreeSet::from([1, 2]), FormerVoters::Leave).await.unwrap();
        cluster.journal(1).transfer_leadership(2, PATIENCE).await.unwrap();
        let leader = cluster.leader().await;
        assert_eq!(leader, 2);
        cluster.propose(append(0, "from the new one")).await;
        assert_eq!(cluster.values(0).await.len(), 6);
    });
}

#[test]
fn a_new_replica_is_sent_the_state_and_the_tail_instead_of_all_that_the_log_still_holds() {
    on_threads(async {
        let mut cluster = Cluster::of(&[1], 17).await;
        cluster.leader().await;
        cluster.propose(open(0)).await;
        for number in 0..200 {
            cluster.propose(append(0, &number.to_string())).await;
        }
        tier(cluster.journal(1), 0, 200).await;
        assert_eq!(cluster.replicas[&1].wal.first_index(ID), 1, "nobody asked for room, so the log holds everything");

        cluster.start(2, Beginning::Join).await.unwrap();
        cluster.journal(1).add_learner(2).await.unwrap();
        cluster.journal(1).caught_up(2, 0).await.unwrap();
        let first = cluster.replicas[&2].wal.first_index(ID);
        assert!(first > 200, "it was sent what is tiered, from entry {first} on");
        cluster.journal(1).change_voters(BTreeSet::from([1, 2]), FormerVoters::Leave).await.unwrap();
        cluster.propose(append(0, "200")).await;
        assert_eq!(cluster.values(0).await, ["200"]);
        let end = cluster.journal(2).read_state(|state| state.partition(at(0)).unwrap().high_watermark());
        assert_eq!(end, Offset(201));
    });
}

#[test]
fn leadership_moves_under_writes_without_losing_or_doubling_any() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 13).await;
        let mut leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        let (mut sequence, mut gaps) = (0, Vec::new());
        for round in 0..6 {
            let next = THREE[(THREE.iter().position(|id| *id == leader).unwrap() + 1) % 3];
            cluster.converged().await;
            let begun = std::time::Instant::now();
            cluster.journal(leader).transfer_leadership(next, PATIENCE).await.unwrap();
            assert!(!cluster.journal(leader).holds_lease(), "it handed over");
            for _ in 0..20 {
                cluster.propose(numbered(0, 9, sequence, &sequence.to_string())).await;
                sequence += 1;
                if sequence % 20 == 1 {
                    gaps.push(begun.elapsed());
                }
            }
            leader = cluster.leader().await;
            assert_eq!(leader, next, "round {round}");
        }
        println!("from the wish to the first acknowledgement: {gaps:?}");
        let expected: Vec<String> = (0..sequence).map(|number| number.to_string()).collect();
        assert_eq!(cluster.values(0).await, expected);
    });
}

#[test]
fn only_a_leader_with_a_majority_says_that_a_read_is_fresh() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 14).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        for freshness in [Freshness::ReadIndex, Freshness::Lease] {
            cluster.journal(leader).ensure_linearizable(freshness).await.unwrap();
            let other = *THREE.iter().find(|id| **id != leader).unwrap();
            let refused = cluster.journal(other).ensure_linearizable(freshness).await.unwrap_err();
            assert!(matches!(refused, MemberError::NotLeader { .. }), "{refused}");
        }
        eventually("a majority has answered the leader", || cluster.journal(leader).holds_lease().then_some(())).await;
        assert!(THREE.iter().all(|id| *id == leader || !cluster.journal(*id).holds_lease()), "who follows has no lease");
        cluster.net.isolate(leader, &THREE);
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
        cluster.leader_of(&rest).await;
        assert!(!cluster.journal(leader).holds_lease(), "a lease ends before anybody else leads");
        for freshness in [Freshness::ReadIndex, Freshness::Lease] {
            let asked =
                tokio::time::timeout(Duration::from_secs(5), cluster.journal(leader).ensure_linearizable(freshness)).await;
            assert!(!matches!(asked, Ok(Ok(()))), "a deposed leader vouched for a read by {freshness:?}");
        }
    });
}

#[test]
fn a_leader_that_votes_no_more_relies_on_no_lease() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 17).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        let journal = cluster.journal(leader);
        eventually("the leader holds a lease", || journal.holds_lease().then_some(())).await;
        let others = THREE.into_iter().filter(|id| *id != leader).collect();
        journal.change_voters(others, FormerVoters::Learn).await.unwrap();
        // Raft has another one take over at any moment from here on.
        assert!(!journal.holds_lease());
    });
}

#[test]
fn a_leader_that_was_voted_out_does_not_name_itself() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 18).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        let others: BTreeSet<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
        cluster.journal(leader).change_voters(others.clone(), FormerVoters::Leave).await.unwrap();
        cluster.leader_of(&Vec::from_iter(others)).await;
        // Nobody tells it anything any more.
        let known = cluster.journal(leader).leadership();
        eventually("it names itself no more", || (known.borrow().leader != Some(leader)).then_some(())).await;
    });
}
