//! Bugs on purpose: simulation and checker find each of them within a stated number of seeds.
#![cfg(feature = "seeded-bugs")]
#![allow(missing_docs)]

use tidegate_env::bugs::Bug;

/// Runs seeds from `from` on until one finds the bug.
fn is_found(bug: Bug, within: u64, from: u64) {
    for seed in from..from + within {
        if let Err(failure) = tidegate_sim::run_with(bug, seed) {
            println!("{bug:?}: found by seed {seed}: {}", failure.lines().next().unwrap_or_default());
            return;
        }
    }
    panic!("{bug:?} was not found by {within} seeds from {from} on: the simulation does not look where it should");
}

macro_rules! bugs {
    ($($name:ident: $bug:ident within $within:literal $(from $from:literal)?;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Bug::$bug, $within, 0 $(+ $from)?);
            }
        )*

        #[test]
        fn every_bug_has_a_test() {
            // Those that take several brokers are looked for by `tidegate-sim --brokers --bugs`.
            assert_eq!([$(Bug::$bug),*].len() + Bug::OF_BROKERS.len(), Bug::ALL.len());
        }
    };
}

bugs! {
    a_sync_that_is_skipped: SkipFsync within 10;
    a_folder_that_is_not_synced: SkipFolderSync within 40;
    an_acknowledgement_before_the_write: AcknowledgeEarly within 10;
    a_sync_that_is_tried_again: RetryFsync within 10;
    rot_that_is_taken_for_a_torn_tail: RotIsTornTail within 80;
    a_durable_mark_that_is_not_read: ForgetMark within 60;
    a_durable_mark_before_its_sync: MarkEarly within 40;
    a_tail_in_the_page_cache_that_is_taken_for_durable: SkipTailRewrite within 40;
    a_vote_that_is_forgotten: ForgetVote within 20;
    producers_that_are_forgotten: ForgetProducers within 20;
    positions_that_are_forgotten: ForgetPositions within 20;
    a_log_start_that_falls_back: ResetLogStart within 40;
    an_entry_that_is_applied_twice: ApplyTwice within 10;
    a_log_that_frees_what_is_not_tiered: FreeBeforeTier within 20;
    an_upload_that_is_not_read_back: SkipVerify within 200;
    objects_that_are_deleted_by_a_listing: DeleteByListing within 20;
    an_object_key_that_is_used_twice: ReuseObjectKey within 20;
    a_clock_that_is_believed: BelieveClock within 60;
    a_topic_uid_that_is_used_twice: ReuseTopicUid within 40;
    a_gap_that_is_accepted: AcceptGaps within 20;
}
