//! Hubs of several brokers: a seed holds, and repeats.

use super::*;

/// A seed in which brokers crash, come in, are stopped in order, and a disk fails.
const SEED: u64 = 4;

#[test]
fn a_seed_of_brokers_holds_repeats_and_meets_what_it_should() {
    let run = || run_brokers(SEED).unwrap_or_else(|failure| panic!("{failure}\nrepeat it: {}", crate::replay_brokers(SEED)));
    let first = run();
    println!("{first}");
    assert!(
        first.acknowledged > 200 && first.read > 2_000 && first.crashes > 0 && first.cuts > 0 && first.terms > 5,
        "too little to prove anything: {first}"
    );
    assert_eq!(run(), first, "seed {SEED} does not repeat");
}

/// Seeds that found something: a deposed leader that said that the log ends, and a wait elsewhere that asked without end; a broker that was to leave and
/// did not hear the catalog any more while it had replicas; one that gave up its vote in the catalog, was stopped before it was a learner, and did not
/// start again; one whose disk failed while it waited for its first sight of the catalog, and waited on; two that were drained while they were down; a
/// retired one that told that it led; stale reads of a leader that was voted out; one that named itself leader for ever; a snapshot that was acknowledged
/// before it was on the disk; a broker that did not start on a full disk; marks of two lives of a replica that were taken for those of one; calls that
/// panicked after an end of Raft; damage that nobody read before everything was over; a snapshot that contradicted the end of a log,
/// for which Raft would drop what is committed; a change of voters that nobody went on with after its leader; damage that the last reading met.
const FOUND: [u64; 17] = [104, 130, 133, 143, 271, 566, 1588, 1846, 2107, 3078, 3879, 4048, 4110, 4979, 5394, 7611, 9880];

#[test]
fn seeds_that_found_something_hold() {
    for seed in FOUND {
        run_brokers(seed).unwrap_or_else(|failure| panic!("{failure}\nrepeat it: {}", crate::replay_brokers(seed)));
    }
}
