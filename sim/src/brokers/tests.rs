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
