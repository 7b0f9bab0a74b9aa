//! Short slices of the fault campaigns (docs/reliability.md has the full runs). Where a campaign cannot be run, the reason is printed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use tidegate_campaigns::run::{Options, Summary};
use tidegate_campaigns::{full_disk, kill9, power_cut};

/// No round begins after so many seconds.
const BUDGET: u64 = 20;

fn slice(rounds: u32) -> Options {
    Options::slice(PathBuf::from(env!("CARGO_BIN_EXE_tidegate")), rounds, BUDGET)
}

fn good(summary: &Summary) {
    assert!(summary.holds, "{}", summary.line);
    assert!(summary.rounds > 0 && summary.acknowledged > 100, "too little to prove anything: {}", summary.line);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_kills_under_load() {
    good(&kill9::run(&slice(6)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_power_cuts() {
    power_cut::run(&slice(4)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() {
    full_disk::run(&slice(1)).await.unwrap().iter().for_each(good);
}
