//! A follower whose log is smaller than what it missed: what would empty its log stands behind data that it cannot take, so it needs a snapshot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use common::network::*;
use common::*;
use tidegate_broker::settings::HubSettings;

const BUDGET: u64 = 8 << 20;
const VALUE: usize = 200 << 10;

fn small_log_of_broker_3(settings: &mut HubSettings) {
    // Tiers at once; a checkpoint, and with it a purge of the log, is due for no other reason than that a log is short of room.
    settings.tier.seal_age_ms = 100;
    settings.tier.checkpoint_interval_ms = 3_600_000;
    settings.journal.checkpoint_bytes = 128 << 20;
    if settings.broker_id == 3 {
        settings.wal.file_bytes = 1 << 20;
        settings.wal.budget_bytes = BUDGET;
        settings.wal.control_reserve_bytes = 1 << 20;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_more_than_its_log_holds_comes_back_and_holds_nobody_up() {
    let (cluster, hubs) = Cluster::three_with(small_log_of_broker_3).await;
    hubs[&3].hand_over().await;
    cluster.wires.starved.lock().unwrap().insert(3);
    let value = "v".repeat(VALUE);
    // One journal only: entries of another one would fill the last of the room, which is another case.
    for _ in 0..4 * BUDGET as usize / VALUE {
        insist(&hubs[&1], "events", 0, &value).await;
    }
    tiered(&hubs[&1], "events", 0).await;
    cluster.wires.starved.lock().unwrap().clear();
    until("all voters are in sync", async || {
        let Some(status) = cluster.status() else { return false };
        status.journals.iter().all(|journal| journal.members.iter().all(|member| member.votes && member.in_sync))
    })
    .await;
    for partition in [0, 1] {
        insist(&hubs[&3], "events", partition, &value).await;
    }
    cluster.stop_all(hubs).await;
}
