//! A journal of which every replica's log is damaged: named, refused, and everything else goes on; it comes back with the bytes of two replicas.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::network::*;
use common::*;
use tidegate_broker::hub::{Append, PartitionRef};
use tidegate_model::Offset;

/// Flips one bit of the record with this value in a stopped broker's log; called again, it puts it right.
fn flip(volume: &Path, value: &str) -> usize {
    let log = volume.join("data/wal");
    let files: Vec<PathBuf> = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut found = 0;
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "wal")) {
        let mut bytes = std::fs::read(path).unwrap();
        // The last character is what is flipped, so that the place is found again.
        let start = &value.as_bytes()[..value.len() - 1];
        let places: Vec<usize> =
            bytes.windows(start.len()).enumerate().filter(|(_, part)| *part == start).map(|(place, _)| place).collect();
        for place in &places {
            bytes[place + start.len()] ^= 1;
        }
        found += places.len();
        std::fs::write(path, bytes).unwrap();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_whose_every_log_is_damaged_is_named_the_others_go_on_and_two_good_logs_bring_it_back() {
    let (cluster, mut hubs) = Cluster::three().await;
    let precious = "the record whose bytes are damaged everywhere";
    assert_eq!(insist(&hubs[&1], "events", 0, precious).await, Offset(0));
    insist(&hubs[&1], "events", 1, "of another journal").await;
    let at = PartitionRef::new("events", 0);
    let topic = hubs[&1].topic("events").unwrap().uid;
    let damaged = hubs[&1].all_partition_numbers(topic).await.unwrap()[0].journal;
    for hub in hubs.values() {
        until("each replica has it", async || hub.marks_of(&at).is_ok_and(|marks| marks.high_watermark == Offset(1))).await;
    }
    // So much that the log goes on in another file: what was written before lies in one that does not change any more.
    for _ in 0..6 {
        insist(&hubs[&1], "events", 1, &"x".repeat(900_000)).await;
    }
    for hub in hubs.values() {
        let at = PartitionRef::new("events", 1);
        until("each replica has all", async || hub.marks_of(&at).is_ok_and(|marks| marks.high_watermark == Offset(7))).await;
    }
    cluster.stop_all(std::mem::take(&mut hubs)).await;
    for broker in [1, 2, 3] {
        // As after kill -9: no checkpoint was taken at the stop, and the log is read from its beginning.
        std::fs::remove_dir_all(cluster.path(broker).join("data/checkpoints").join(damaged.to_string())).unwrap();
        assert!(flip(&cluster.path(broker), precious) > 0, "broker {broker}'s log has the record");
    }
    for broker in [1, 2, 3] {
        hubs.insert(broker, cluster.start(broker).await);
    }

    // The other journal goes on, the catalog too, and the damaged one is named by each broker.
    for (broker, hub) in &hubs {
        insist(hub, "events", 1, &format!("through {broker}")).await;
        until("the refusal names journal, replica and damage", async || {
            let append = Append { at: at.clone(), batches: vec![batch(&["refused"], &[1])] };
            let refused = tokio::time::timeout(Duration::from_secs(10), hub.append(append)).await;
            let Ok(Err(error)) = refused else { panic!("a quarantined journal took a record: {refused:?}") };
            let told = error.to_string();
            println!("broker {broker}: {told}");
            told.contains("has no leader") && told.contains("takes no part") && told.contains("damaged")
        })
        .await;
        let read = hub.read(&at, Offset(0), 1 << 20).await;
        assert!(read.is_err(), "nothing of it is served: {read:?}");
    }
    hubs[&2].set_replication_factor(3).await.expect("the catalog takes changes");
    let leaderless = async || {
        let status = cluster.status()?;
        Some(status.journals.iter().filter(|journal| journal.leader.is_none()).count())
    };
    until("the cluster's status shows it", async || leaderless().await == Some(1)).await;

    // Two volumes get their bytes back; the third replica is rebuilt.
    cluster.stop_all(std::mem::take(&mut hubs)).await;
    for broker in [2, 3] {
        assert!(flip(&cluster.path(broker), precious) > 0, "nothing was taken away from broker {broker}");
    }
    for broker in [1, 2, 3] {
        hubs.insert(broker, cluster.start(broker).await);
    }
    assert!(insist(&hubs[&1], "events", 0, "after").await >= Offset(1));
    cluster.whole(3, &[1, 2, 3]).await;
    for hub in hubs.values() {
        let read = values(&read_all(hub, "events", 0, 0).await);
        assert!(read[0] == precious && read.last().unwrap() == "after", "{read:?}");
        assert_eq!(values(&read_all(hub, "events", 1, 0).await).len(), 10);
    }
    cluster.stop_all(hubs).await;
}
