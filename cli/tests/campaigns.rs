//! Short slices of the fault campaigns (docs/reliability.md has the full runs). Where a campaign cannot be run, the reason is printed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use tidegate_campaigns::run::{Options, Summary};
use tidegate_campaigns::{fsync_error, full_disk, kill9, overload, pause, power_cut, soak, store};

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
async fn nothing_is_lost_by_twenty_kills_under_load() {
    good(&kill9::run(&Options::slice(PathBuf::from(env!("CARGO_BIN_EXE_tidegate")), 20, 90)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_power_cuts() {
    power_cut::run(&slice(4)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() {
    full_disk::run(&slice(1)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_ends_the_process_and_loses_nothing() {
    fsync_error::run(&slice(1)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_writeback_ends_the_process_and_loses_nothing() {
    fsync_error::run_writeback(&slice(1)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_misbehaves_costs_nothing() {
    store::run(&slice(4)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_hub_goes_on() {
    pause::run(&slice(4)).await.unwrap().iter().for_each(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_stays_within_its_bounds() {
    good(&soak::slice(slice(1), 15).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_of_three_brokers_stays_within_its_bounds() {
    overload::slice(slice(1), 16).await.unwrap().iter().for_each(good);
}
