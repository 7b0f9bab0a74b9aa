//! A slice of the campaign on several real brokers (docs/reliability/many-brokers.md has the full run). Without MinIO the reason is printed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use tidegate_campaigns::brokers::{self, BrokersOptions, Fault};

/// No round begins after so many seconds.
const BUDGET: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_lose_nothing_when_a_leader_is_cut_off_and_a_majority_killed() {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
    let options = BrokersOptions::slice(binary, &[Fault::CutOff, Fault::KillMajority], BUDGET);
    if let Some(summary) = brokers::run(&options).await.unwrap() {
        assert!(summary.holds, "{}", summary.line);
        assert!(summary.rounds > 0 && summary.acknowledged > 100, "too little to prove anything: {}", summary.line);
    }
}
