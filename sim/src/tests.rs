//! The simulation itself: it repeats, it crashes hubs, and a slice of seeds holds.

use super::*;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for seed in [3, 4] {
        let first = run(seed).unwrap();
        assert_eq!(run(seed).unwrap(), first, "seed {seed} does not repeat");
        assert_ne!(run(seed + 100).unwrap().trace, first.trace);
    }
}

#[test]
fn a_slice_of_seeds_holds_and_meets_what_it_should() {
    let (mut acknowledged, mut power_cuts) = (0, 0);
    for seed in 0..20 {
        let report = run(seed)
            .unwrap_or_else(|problem| panic!("seed {seed}: {problem}; repeat it: tidegate-sim --start {seed} --seeds 1"));
        acknowledged += report.acknowledged;
        power_cuts += report.power_cuts;
    }
    assert!(
        acknowledged > 1_000 && power_cuts > 10,
        "{acknowledged} acknowledged, {power_cuts} power cuts: too little to prove anything"
    );
}
