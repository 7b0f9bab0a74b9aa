//! A broker whose disk or link is slow hands over what it leads, is called slow, and is given nothing back while it is.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::network::*;
use common::*;
use tidegate_broker::hub::Hub;
use tidegate_env::Env;
use tidegate_env::intercepted::{InterceptedDisk, SlowSyncs};
use tidegate_model::BrokerId;

/// What the cluster says of the first broker: journals that it leads, and whether it is slow.
fn first(cluster: &Cluster) -> Option<(u32, bool)> {
    let status = cluster.status()?;
    let first = status.brokers.iter().find(|broker| broker.broker == BrokerId(1))?;
    Some((first.leads, first.busy?.slow))
}

/// Three brokers under load, of which the first becomes slow.
async fn leaders_move_away(becomes_slow: impl FnOnce(&Cluster, &AtomicU64)) {
    let cluster = Cluster::new();
    let sync_ms = Arc::new(AtomicU64::new(0));
    let disk = InterceptedDisk { disk: Env::real().disk, by: SlowSyncs(Arc::clone(&sync_ms)) };
    let env = Env { disk: Arc::new(disk), ..Env::real() };
    let mut hubs: BTreeMap<u32, Hub> = BTreeMap::from([(1, cluster.try_start(cluster.settings(1), env).await.unwrap())]);
    hubs[&1].set_replication_factor(3).await.unwrap();
    for broker in [2, 3] {
        hubs.insert(broker, cluster.start(broker).await);
    }
    create(&hubs[&1], "events", 4).await;
    cluster.whole(3, &[1, 2, 3]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (hub, stop) = (hubs[&2].clone(), Arc::clone(&stop));
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                insist(&hub, "events", number % 4, "under load").await;
                number += 1;
            }
        }
    });
    assert!(first(&cluster).unwrap().0 > 0, "it leads something");
    becomes_slow(&cluster, &sync_ms);
    until("it is called slow and leads nothing", async || first(&cluster) == Some((0, true))).await;
    // Balance would like to give it its share back, and does so within a moment where it may.
    let begun = Instant::now();
    until("half a dozen rounds of placement go by", async || {
        if let Some((leads, slow)) = first(&cluster) {
            assert_eq!((leads, slow), (0, true), "it was given something");
        }
        begun.elapsed() > Duration::from_secs(6)
    })
    .await;
    let text = hubs[&1].metrics_text();
    assert!(text.contains("\ntidegate_slow 1\n"), "{text}");
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    sync_ms.store(0, Ordering::Relaxed);
    cluster.wires.slow.lock().unwrap().clear();
    cluster.stop_all(hubs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_leave_a_broker_whose_syncs_are_slow_and_do_not_come_back_while_they_are() {
    leaders_move_away(|_, sync_ms| sync_ms.store(400, Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_leave_a_broker_whose_link_is_slow_and_do_not_come_back_while_it_is() {
    leaders_move_away(|cluster, _| _ = cluster.wires.slow.lock().unwrap().insert(1, Duration::from_millis(70))).await;
}
