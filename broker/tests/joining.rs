//! Brokers that come in late or under a bad star: told to go before they came, with a disk that fails on the way, closed without a majority.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::network::*;
use common::*;
use tidegate_broker::fleet::PEER;
use tidegate_broker::hub::{Append, Hub, OpenError, PartitionRef};
use tidegate_env::Env;
use tidegate_env::sim::{Fault, OperationKind, SimDisk};
use tidegate_journal::entry::BrokerState;
use tidegate_model::BrokerId;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;
use uuid::Uuid;

/// What a hub answers a broker that asks to be let in.
async fn ask_in(hub: &Hub, broker: u32, incarnation: Uuid) -> Result<u64, Failure> {
    let bytes = |uuid: Uuid| bytes::Bytes::copy_from_slice(uuid.as_bytes());
    let join = wired::Join {
        broker,
        incarnation: bytes(incarnation),
        addresses: [(PEER.to_owned(), format!("peer-{broker}:1"))].into(),
        zone: String::new(),
        node: String::new(),
    };
    let request = wired::Request { hub_id: bytes(hub.id().0), from: broker, ask: Some(Ask::Join(join)) };
    match hub.answer(request).await.told.unwrap() {
        Told::Joined(joined) => Ok(joined.catalog_replica),
        Told::Error(error) => Err(error.into()),
        other => panic!("a registration was answered by {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_drains_and_asks_to_be_let_in_again_waits_until_it_is_retired() {
    let cluster = Cluster::new();
    let first = cluster.start(1).await;
    let incarnation = Uuid::from_u128(9);
    let replica = ask_in(&first, 9, incarnation).await.unwrap();
    assert_eq!(ask_in(&first, 9, incarnation).await.unwrap(), replica, "asked twice, let in once");
    first.set_broker_state(BrokerId(9), BrokerState::Draining).await.unwrap();
    let (mut waited, begun) = (0, Instant::now());
    let retired = loop {
        match ask_in(&first, 9, incarnation).await {
            // It still has its replica.
            Ok(again) => assert_eq!(again, replica),
            Err(failure) if failure.is_retryable() => {
                assert!(failure.message.contains("is being drained"), "{failure:?}");
                waited += 1;
            }
            Err(failure) => break failure,
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the drain does not come to an end");
    };
    assert!(retired.message.contains("broker 9 was retired"), "{retired:?}");
    assert!(waited > 0, "between the last replica and the retirement it was told to wait");
    let other = ask_in(&first, 9, Uuid::from_u128(10)).await.unwrap_err();
    assert_eq!(other.reason, Reason::InvalidArgument, "an emptied volume is no way back: {other:?}");
    cluster.stop(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_disk_fails_while_it_comes_in_says_so() {
    let cluster = Cluster::new();
    let first = cluster.start(1).await;
    create(&first, "events", 2).await;
    let mut failed_late = false;
    for after in (0..24).step_by(2) {
        let broker = 2 + after;
        let disk = SimDisk::new(u64::from(broker));
        disk.inject(Fault {
            on: OperationKind::Write,
            path_contains: ".wal".to_owned(),
            after: after.into(),
            error: ErrorKind::Other,
        });
        let env = Env { disk: Arc::new(disk), ..Env::real() };
        // Cluster::try_start gives up after a while: a broker that waits for ever fails here.
        match cluster.try_start(cluster.settings(broker), env).await {
            Ok(hub) => cluster.stop(hub).await,
            Err(OpenError::Start(error)) => {
                println!("after {after} writes: {error}");
                failed_late = true;
            }
            Err(error) => println!("after {after} writes, at once: {error}"),
        }
    }
    assert!(failed_late, "no disk failed while the catalog was awaited");
    cluster.stop(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_journals_without_a_majority_are_closed_together() {
    const JOURNALS: u32 = 12;
    let cluster = Cluster::new();
    let settings = |broker| {
        let mut settings = cluster.settings(broker);
        settings.journals = JOURNALS;
        settings
    };
    let mut hubs = vec![cluster.start_with(settings(1)).await];
    hubs[0].set_replication_factor(3).await.unwrap();
    for broker in [2, 3] {
        hubs.push(cluster.start_with(settings(broker)).await);
    }
    create(&hubs[0], "events", JOURNALS).await;
    cluster.whole(3, &[1, 2, 3]).await;
    cluster.wires.cut.lock().unwrap().extend([1, 2, 3]);
    // Something is on its way in each journal that the first leads, and nobody takes it.
    let status = hubs[0].cluster_status();
    let led = status.journals.iter().filter(|journal| journal.leader == Some(BrokerId(1))).count();
    assert!(led > 3, "it leads {led} journals");
    let mut waiting = Vec::new();
    for partition in 0..JOURNALS as i32 {
        let append = Append { at: PartitionRef::new("events", partition), batches: vec![batch(&["nobody takes it"], &[1])] };
        waiting.push(hubs[0].submit(append).await.unwrap());
    }
    let begun = Instant::now();
    hubs[0].stop_intake();
    hubs[0].shutdown(Duration::from_secs(20)).await;
    // Three seconds for what is on its way, however many journals wait for it.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(2), "nothing was on its way");
    for ticket in waiting {
        assert!(ticket.await.is_err(), "one of three acknowledged");
    }
    cluster.wires.hubs.lock().unwrap().clear();
    for hub in hubs.into_iter().skip(1) {
        hub.shutdown(Duration::from_secs(20)).await;
    }
}
