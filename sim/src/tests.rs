//! The simulation itself: it repeats, it meets what it should, and a slice of seeds holds.

use super::*;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for seed in [3, 4] {
        let first = run(seed).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert_eq!(run(seed).map_err(|failure| failure.what), Ok(first.clone()), "seed {seed} does not repeat");
        assert_ne!(run(seed + 100).map(|report| report.trace).unwrap_or_default(), first.trace);
    }
}

#[test]
fn the_log_alone_holds_through_power_cuts_between_its_files() {
    let cuts: u64 = (0..100).map(|seed| crate::log::run(seed).unwrap()).sum();
    assert!(cuts > 500, "{cuts} cuts");
}

#[test]
fn a_slice_of_seeds_holds_and_meets_what_it_should() {
    let (mut acknowledged, mut power_cuts, mut rotten, mut pauses) = (0, 0, 0, 0);
    for seed in 0..40 {
        let report = run(seed).unwrap_or_else(|failure| panic!("seed {seed}: {failure}\nrepeat it: {}", replay_command(seed)));
        acknowledged += report.acknowledged;
        power_cuts += report.power_cuts;
        rotten += report.rotten.0 + report.rotten.1;
        pauses += report.pauses;
    }
    assert!(
        acknowledged > 1_000 && power_cuts > 5 && rotten > 5 && pauses > 5,
        "{acknowledged} acknowledged, {power_cuts} power cuts, {rotten} damaged, {pauses} pauses: too little to prove anything"
    );
}
