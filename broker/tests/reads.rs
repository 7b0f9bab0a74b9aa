//! Reads of a hub of many brokers: what one broker told holds of every later answer of any of them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::collections::BTreeMap;

use common::network::*;
use common::*;
use tidegate_broker::hub::{Error, Fetch, FetchPart, Hub, PartitionRef, Position};
use tidegate_model::Offset;

/// The broker that leads the first partition, and one that does not.
fn leader_and_follower(hubs: &BTreeMap<u32, Hub>) -> (u32, u32) {
    let uid = hubs[&1].topic("events").unwrap().uid;
    let leader = hubs[&1].homes_of(uid)[0].leader.expect("it is led").0;
    (leader, hubs.keys().copied().find(|broker| *broker != leader).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_tells_what_its_leader_tells() {
    let (cluster, hubs) = Cluster::three().await;
    let at = PartitionRef::new("events", 0);
    let (leader, follower) = leader_and_follower(&hubs);
    cluster.wires.starved.lock().unwrap().insert(follower);
    for value in ["one", "two", "three"] {
        insist(&hubs[&leader], "events", 0, value).await;
    }
    let behind = &hubs[&follower];
    assert_eq!(behind.marks_of(&at).unwrap().high_watermark, Offset(0), "its replica lags");
    let marks = behind.marks_at(&at).await.unwrap();
    assert_eq!((marks.high_watermark, marks.leaderless), (Offset(3), None));
    assert_eq!(values(&read_all(behind, "events", 0, 0).await), ["one", "two", "three"]);
    assert_eq!(behind.locate(&at, Position::Latest).await.unwrap().offset, Offset(3));
    assert_eq!(behind.locate(&at, Position::Offset(Offset(3))).await.unwrap().offset, Offset(3));
    let end = FetchPart { at: at.clone(), offset: Offset(3), max_bytes: 1 << 20 };
    let fetch = Fetch { parts: vec![end], max_wait: std::time::Duration::ZERO, min_bytes: 1, max_bytes: 1 << 20 };
    let fetched = behind.fetch(&fetch).await.remove(0).unwrap();
    assert_eq!((fetched.bytes, fetched.marks.high_watermark), (0, Offset(3)));
    let beyond = behind.read(&at, Offset(4), 1 << 20).await.unwrap_err();
    assert_eq!(beyond.reason(), "offset_out_of_range", "who leads is sure of it: {beyond}");
    cluster.wires.starved.lock().unwrap().clear();
    cluster.whole(3, &[1, 2, 3]).await;
    cluster.stop_all(hubs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_serves_what_is_committed_and_tells_no_end_of_it() {
    let (cluster, hubs) = Cluster::three().await;
    let at = PartitionRef::new("events", 0);
    let (leader, other) = leader_and_follower(&hubs);
    insist(&hubs[&leader], "events", 0, "before").await;
    cluster.wires.cut.lock().unwrap().insert(leader);
    let written = insist(&hubs[&other], "events", 0, "after").await;
    let (deposed, end) = (&hubs[&leader], Offset(written.0 + 1));
    // Acknowledged elsewhere: nothing that it says may deny it.
    for offset in [written, end] {
        let refused = deposed.read(&at, offset, 1 << 20).await;
        let refused = match refused {
            // It has the first record only, whose end is where the second one begins.
            Ok(fetched) => {
                assert!(
                    offset == Offset(1) && fetched.bytes == 0 && fetched.marks.leaderless == Some(deposed.broker()),
                    "{fetched:?}"
                );
                continue;
            }
            Err(error) => error,
        };
        assert!(matches!(refused, Error::Unavailable { .. } | Error::NotLeader { .. }), "{refused}");
    }
    for position in [Position::Latest, Position::Offset(end)] {
        let refused = deposed.locate(&at, position).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. } | Error::NotLeader { .. }), "{position:?}: {refused}");
    }
    assert_eq!(deposed.locate(&at, Position::Earliest).await.unwrap().offset, Offset(0));
    let read = deposed.read(&at, Offset(0), 1 << 20).await.unwrap();
    assert!(read.marks.leaderless == Some(deposed.broker()) && read.next == Offset(1), "{read:?}");
    assert!(deposed.marks_at(&at).await.unwrap().leaderless.is_some());
    cluster.wires.cut.lock().unwrap().clear();
    until("it follows, and tells the end", async || {
        let marks = deposed.marks_at(&at).await.unwrap();
        assert!(marks.leaderless.is_some() || marks.high_watermark == end, "{marks:?}");
        marks.leaderless.is_none()
    })
    .await;
    cluster.stop_all(hubs).await;
}
