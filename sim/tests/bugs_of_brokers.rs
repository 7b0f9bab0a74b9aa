//! Bugs on purpose in hubs of several brokers: simulation and checker find each of them within a stated number of seeds, by what it breaks.
#![cfg(feature = "seeded-bugs")]
#![allow(missing_docs)]

use tidegate_env::bugs::Bug;
use tidegate_sim::{bugs_of_brokers, run_brokers_with};

/// Runs seeds until one finds the bug by one of its signs.
fn is_found(bug: Bug, start: u64, within: u64, signs: &[&str]) {
    for seed in start..start + within {
        let Err(failure) = run_brokers_with(bug, seed) else { continue };
        if let Some(line) = failure.lines().find(|line| signs.iter().any(|sign| line.contains(sign))) {
            println!("{bug:?}: found by seed {seed}: {line}");
            return;
        }
        println!("{bug:?}: seed {seed} fails, but not by {signs:?}: {failure}");
    }
    panic!("{bug:?} was not found by {within} seeds from {start} on: the simulation does not look where it should");
}

macro_rules! bugs {
    ($($name:ident: $bug:ident from $start:literal within $within:literal by $signs:expr;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Bug::$bug, $start, $within, &$signs);
            }
        )*

        #[test]
        fn every_bug_of_brokers_has_a_test() {
            let tested = [$(Bug::$bug),*];
            let untested: Vec<Bug> = bugs_of_brokers().into_iter().filter(|bug| !tested.contains(bug)).collect();
            assert!(untested.is_empty() && tested.len() == bugs_of_brokers().len(), "{untested:?}");
        }
    };
}

bugs! {
    a_follower_that_is_counted_unheard: CountUnheard from 0 within 10 by ["follower log reversion", "I3:", "lost"];
    a_tail_that_diverged_and_is_kept: KeepDivergedTail from 0 within 12 by ["does not follow the last one", "a read from", "I3:"];
    an_entry_that_is_left_out: SkipEntry from 0 within 2 by ["does not start", "I3:"];
    a_snapshot_above_what_is_tiered: SnapshotAboveTier from 0 within 16 by ["I2:"];
    an_emptied_replica_that_votes: ReuseReplicaId from 11 within 16 by ["I7:", "lost", "follower log reversion", "committed position"];
    appends_that_overtake_each_other: ReorderForwarded from 0 within 8 by ["the batch that follows was refused", "nonmonotonic send"];
    a_broker_that_is_retired_too_soon: RetireTooSoon from 7 within 8 by ["which is retired or unknown", "three voters in sync"];
    a_sync_that_is_skipped: SkipFsync from 0 within 2 by ["does not start", "lost"];
    a_vote_that_is_forgotten: ForgetVote from 4 within 20 by ["I6:", "two leaders"];
    a_log_that_frees_what_is_not_tiered: FreeBeforeTier from 0 within 8 by ["I2:", "I4:", "what is releasable is covered"];
    producers_that_are_forgotten: ForgetProducers from 0 within 8 by ["the batch that follows was refused", "I3:"];
    an_entry_that_is_applied_twice: ApplyTwice from 0 within 2 by ["was applied before"];
    an_acknowledgement_before_the_write: AcknowledgeEarly from 25 within 12 by ["lost write", "stale read", "I3:"];
    raft_that_is_ahead_of_the_disk: RaftAheadOfDisk from 9 within 6 by ["lost write", "stale read", "I3:"];
    reads_of_a_deposed_leader: StaleReads from 3 within 20 by ["stale read"];
    appends_that_are_repeated_though_their_answer_got_lost: RepeatAmbiguous from 5 within 20 by ["duplicate"];
}
