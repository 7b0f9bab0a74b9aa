//! Many brokers as one hub, in one process over a network in memory: coming in, growing, forwarding, losing a broker, draining one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::network::*;
use common::*;
use tidegate_broker::fleet::JournalStatus;
use tidegate_broker::hub::{Append, Caller, GroupOffset, Hub, PartitionRef};
use tidegate_broker::settings::HubSettings;
use tidegate_env::Env;
use tidegate_journal::entry::BrokerState;
use tidegate_journal::raft::Links;
use tidegate_journal::{Journal, JournalParts, TailCache};
use tidegate_model::{BrokerId, JournalId, Offset, PartitionId, TimestampMs, TopicSettings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broker_grows_to_three_under_load_loses_one_and_shrinks_back() {
    let cluster = Cluster::new();
    let first = cluster.start(1).await;
    create(&first, "events", 4).await;
    say(&first, "events", 0, "before").await;
    let second = cluster.start(2).await;
    let third = cluster.start(3).await;
    assert_eq!((second.id(), third.id()), (first.id(), first.id()));
    // Any broker takes anything: the catalog and all journals are led by the first.
    create(&third, "orders", 2).await;
    assert_eq!(insist(&second, "events", 1, "forwarded").await, Offset(0));
    second.set_replication_factor(3).await.unwrap();
    let writer = tokio::spawn({
        let hub = second.clone();
        async move {
            for number in 0..200 {
                insist(&hub, "orders", number % 2, &number.to_string()).await;
            }
        }
    });
    cluster.whole(3, &[1, 2, 3]).await;
    writer.await.unwrap();
    until("the third broker holds what was written", async || {
        third.marks_of(&PartitionRef::new("orders", 1)).is_ok_and(|marks| marks.high_watermark >= Offset(100))
    })
    .await;
    assert!(read_all(&third, "orders", 1, 0).await.len() >= 100);
    assert_eq!(values(&read_all(&third, "events", 0, 0).await), ["before"]);

    // The first is cut off: the others go on.
    cluster.wires.cut.lock().unwrap().insert(1);
    for partition in 0..4 {
        insist(&second, "events", partition, "without the first").await;
    }
    cluster.wires.cut.lock().unwrap().clear();
    cluster.whole(3, &[1, 2, 3]).await;

    // Back to one.
    first.set_replication_factor(1).await.unwrap();
    for broker in [2, 3] {
        first.set_broker_state(BrokerId(broker), BrokerState::Draining).await.unwrap();
    }
    cluster.whole(1, &[1]).await;
    until("both are retired", async || {
        let status = first.cluster_status();
        status.brokers.iter().filter(|broker| broker.entry.state == BrokerState::Retired).count() == 2
    })
    .await;
    for hub in [second, third] {
        cluster.stop(hub).await;
    }
    insist(&first, "events", 0, "alone again").await;
    assert!(read_all(&first, "orders", 0, 0).await.len() >= 100);
    cluster.stop(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_reads_what_it_holds_no_replica_of_and_a_drained_one_is_replaced() {
    let cluster = Cluster::new();
    let mut hubs = vec![cluster.start(1).await];
    hubs[0].set_replication_factor(3).await.unwrap();
    for broker in 2..=4 {
        hubs.push(cluster.start(broker).await);
    }
    create(&hubs[0], "events", 4).await;
    let settled = async |drained: Option<u32>| {
        until("three voters each, on those that take part", async || {
            let Some(status) = cluster.status() else { return false };
            status.journals.iter().all(|journal| {
                let voting: Vec<_> = journal.members.iter().filter(|member| member.votes && member.in_sync).collect();
                voting.len() == 3 && voting.iter().all(|member| Some(member.broker.0) != drained)
            })
        })
        .await;
    };
    settled(None).await;
    for partition in 0..4 {
        assert_eq!(insist(&hubs[partition as usize], "events", partition, &partition.to_string()).await, Offset(0));
    }
    let status = cluster.status().unwrap();
    let held: usize = status.journals.iter().skip(1).map(|journal| journal.members.len()).sum();
    assert_eq!(held, 6, "two journals with three replicas on four brokers: somebody lacks each of them");
    for hub in &hubs {
        for partition in 0..4 {
            let at = PartitionRef::new("events", partition);
            let mut watch = hub.watch(&at).unwrap();
            until("the record is there", async || hub.marks_at(&at).await.is_ok_and(|marks| marks.high_watermark == Offset(1)))
                .await;
            // Where it ends is asked of the leader; the records come from the replica here, a moment later.
            until("the record is read", async || values(&read_all(hub, "events", partition, 0).await) == [partition.to_string()])
                .await;
            let found = hub.locate(&at, tidegate_broker::hub::Position::Latest).await.unwrap();
            assert_eq!(found.offset, Offset(1));
            tokio::time::timeout(Duration::from_secs(20), watch.wait_for(|end| *end >= Offset(1))).await.expect("woken").unwrap();
        }
    }
    let position = GroupOffset {
        topic: "events".to_owned(),
        partition: PartitionId(0),
        offset: Offset(1),
        leader_epoch: None,
        metadata: String::new(),
        time: TimestampMs(0),
    };
    for (number, hub) in hubs.iter().enumerate() {
        let group = format!("readers-{number}");
        hub.commit_offsets(&group, std::slice::from_ref(&position)).await.unwrap()[0].clone().unwrap();
        for asked in &hubs {
            let (known, positions) = asked.positions(&group).await.unwrap();
            assert!(known && positions.len() == 1 && positions[0].offset == Offset(1), "{positions:?}");
        }
    }
    // Whoever goes is replaced by the one that had least.
    hubs[0].set_broker_state(BrokerId(2), BrokerState::Draining).await.unwrap();
    settled(Some(2)).await;
    until("the drained broker is retired", async || {
        cluster.status().is_some_and(|status| status.brokers[1].entry.state == BrokerState::Retired)
    })
    .await;
    for partition in 0..4 {
        assert_eq!(insist(&hubs[2], "events", partition, "after the drain").await, Offset(1));
    }
    for hub in hubs {
        cluster.stop(hub).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_are_refused_by_name_reads_go_on_and_all_comes_back_by_itself() {
    let (cluster, hubs) = Cluster::three().await;
    for partition in 0..2 {
        insist(&hubs[&1], "events", partition, "before").await;
        let at = PartitionRef::new("events", partition);
        until("the first holds it", async || hubs[&1].marks_of(&at).is_ok_and(|marks| marks.high_watermark == Offset(1))).await;
    }
    cluster.wires.cut.lock().unwrap().extend([2, 3]);
    for partition in 0..2 {
        until("the refusal says what is missing", async || {
            let append = Append { at: PartitionRef::new("events", partition), batches: vec![batch(&["refused"], &[1])] };
            // What the leader took before it knew waits for the others.
            match tokio::time::timeout(Duration::from_secs(7), hubs[&1].append(append)).await {
                Err(_late) => false,
                Ok(Ok(_)) => panic!("one of three acknowledged"),
                Ok(Err(error)) => {
                    println!("{error}");
                    error.to_string().contains("majority of its voters")
                }
            }
        })
        .await;
        assert_eq!(values(&read_all(&hubs[&1], "events", partition, 0).await)[0], "before");
    }
    cluster.wires.cut.lock().unwrap().clear();
    for partition in 0..2 {
        insist(&hubs[&1], "events", partition, "after").await;
        until("the third has caught up", async || {
            values(&read_all(&hubs[&3], "events", partition, 0).await).contains(&"before".to_owned())
        })
        .await;
    }
    cluster.stop_all(hubs).await;
}

/// Takes a data journal away from a volume whose broker is stopped, and nothing else.
async fn empty(volume: &Path, settings: &HubSettings, journal: JournalId) {
    let wal = tidegate_wal::Settings {
        file_bytes: settings.wal.file_bytes,
        budget_bytes: settings.wal.budget_bytes,
        control_reserve_bytes: settings.wal.control_reserve_bytes,
        ..tidegate_wal::Settings::new(volume.join("data/wal"))
    };
    let env = Env::real();
    // A broker that took too long to stop lets go of its volume a little later.
    let mut opened = None;
    until("the volume can be opened", async || {
        opened = tidegate_wal::Wal::open(wal.clone(), &env).await.inspect_err(|error| println!("not yet: {error}")).ok();
        opened.is_some()
    })
    .await;
    let (wal, recovered) = opened.unwrap();
    assert!(recovered.journals.contains_key(&journal), "the broker held it");
    let parts = JournalParts {
        wal: wal.clone(),
        cache: TailCache::new(1 << 20),
        checkpoint_dir: volume.join("data/checkpoints").join(journal.to_string()),
        env,
        links: Links::none(),
    };
    Journal::forget(journal, &parts).await.unwrap();
    wal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_emptied_takes_no_part_and_another_one_takes_its_place() {
    let (cluster, mut hubs) = Cluster::three().await;
    for partition in 0..2 {
        insist(&hubs[&1], "events", partition, "acknowledged").await;
    }
    let hub = hubs.remove(&2).unwrap();
    hub.hand_over().await;
    cluster.stop(hub).await;
    empty(&cluster.path(2), &cluster.settings(2), JournalId(1)).await;
    cluster.wires.heard.lock().unwrap().clear();
    hubs.insert(2, cluster.start(2).await);
    cluster.whole(3, &[1, 2, 3]).await;
    let second = tidegate_journal::raft::replica_id(BrokerId(2), 1);
    let heard = cluster.wires.heard.lock().unwrap().clone();
    assert!(!heard.contains(&(2, JournalId(1), 2)), "the emptied replica was within reach: {heard:?}");
    assert!(heard.contains(&(2, JournalId(1), second)) && heard.contains(&(2, JournalId(2), 2)), "{heard:?}");
    // What was acknowledged is on the new replica, and it goes on over a restart.
    let hub = hubs.remove(&2).unwrap();
    cluster.stop(hub).await;
    hubs.insert(2, cluster.start(2).await);
    cluster.whole(3, &[1, 2, 3]).await;
    for partition in 0..2 {
        let at = PartitionRef::new("events", partition);
        until("it is there", async || hubs[&2].marks_at(&at).await.is_ok_and(|marks| marks.high_watermark >= Offset(1))).await;
        assert_eq!(values(&read_all(&hubs[&2], "events", partition, 0).await)[0], "acknowledged");
    }
    cluster.stop_all(hubs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_left_takes_its_bytes_along_and_comes_back_without_a_restart() {
    let (cluster, hubs) = Cluster::three().await;
    insist(&hubs[&1], "events", 0, "first").await;
    hubs[&1].set_replication_factor(1).await.unwrap();
    // Each of the two data journals leaves two of the brokers, with all that was there of it.
    let left = || (1..=3).flat_map(|broker| [1, 2].map(|journal| (broker, journal)));
    let is_there = |broker: u32, journal: u32| {
        let data = cluster.path(broker).join("data");
        let checkpoints = data.join("checkpoints").join(JournalId(journal).to_string()).exists();
        let note = std::fs::read_to_string(data.join(format!("replicas/{journal:08}.json"))).unwrap();
        let note = !note.contains("\"gone\":true");
        assert!(!checkpoints || note, "that it is gone is noted last");
        note
    };
    until("two of three are gone", async || left().filter(|(broker, journal)| is_there(*broker, *journal)).count() == 2).await;
    hubs[&1].set_replication_factor(3).await.unwrap();
    cluster.whole(3, &[1, 2, 3]).await;
    insist(&hubs[&2], "events", 0, "second").await;
    let again = cluster.wires.heard.lock().unwrap().iter().filter(|(_, _, replica)| *replica >> 32 == 1).count();
    assert_eq!(again, 4, "each came back as another replica");
    for hub in hubs.values() {
        // Its own replica may lag: ends are the leader's, records the replica's.
        until("both are there", async || {
            let read = values(&read_all(hub, "events", 0, 0).await);
            read.contains(&"first".to_owned()) && read.contains(&"second".to_owned())
        })
        .await;
    }
    cluster.stop_all(hubs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_restart_one_after_the_other_and_nothing_is_lost() {
    let (cluster, mut hubs) = Cluster::three().await;
    let mut said = 0;
    for broker in [1, 2, 3] {
        let hub = hubs.remove(&broker).unwrap();
        hub.hand_over().await;
        cluster.stop(hub).await;
        let other = hubs.values().next().unwrap();
        for partition in 0..2 {
            insist(other, "events", partition, &format!("while {broker} was away")).await;
        }
        said += 1;
        hubs.insert(broker, cluster.start(broker).await);
        cluster.whole(3, &[1, 2, 3]).await;
    }
    for hub in hubs.values() {
        for partition in 0..2 {
            let at = PartitionRef::new("events", partition);
            until("all is there", async || hub.marks_at(&at).await.is_ok_and(|marks| marks.high_watermark >= Offset(said))).await;
            let read = values(&read_all(hub, "events", partition, 0).await);
            assert!((1..=3).all(|broker| read.contains(&format!("while {broker} was away"))), "{read:?}");
        }
    }
    cluster.stop_all(hubs).await;
}

/// Brokers 1 and 2 with one replica of each journal; each of them leads something. The last: a data journal that only broker 2 has.
async fn two() -> (Cluster, BTreeMap<u32, Hub>, JournalId) {
    let cluster = Cluster::new();
    let hubs = BTreeMap::from([(1, cluster.start(1).await), (2, cluster.start(2).await)]);
    cluster.whole(1, &[1, 2]).await;
    let status = cluster.status().unwrap();
    let theirs = status.journals.iter().skip(1).find(|journal| journal.leader == Some(BrokerId(2)));
    let theirs = theirs.expect("the second leads a data journal").journal;
    assert_eq!(status.journals[0].leader, Some(BrokerId(1)), "the catalog stays where it began");
    (cluster, hubs, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_made_and_grows_while_a_journal_has_no_leader() {
    let (cluster, mut hubs, away) = two().await;
    let grouped = |name: &str| {
        let settings = TopicSettings { partitions: 4, placement_group: Some("pair".to_owned()), ..TopicSettings::default() };
        new_topic(name, settings)
    };
    hubs[&1].create_topic(grouped("left"), &Caller::Client).await.unwrap();
    cluster.stop(hubs.remove(&2).unwrap()).await;
    let first = hubs[&1].clone();
    let silence = || first.cluster_status().brokers[1].silent.is_some_and(|silent| silent > Duration::from_secs(2));
    until("the second is missed", async || silence()).await;

    let homes = async |uid| -> BTreeSet<JournalId> {
        first.all_partition_numbers(uid).await.unwrap().iter().map(|partition| partition.journal).collect()
    };
    let made = create(&first, "made", 4).await;
    let settings = TopicSettings { partitions: 6, ..made.settings.clone() };
    let grown = first.alter_topic(made.uid, None, settings, &Caller::Client).await.unwrap();
    assert_eq!(grown.settings.partitions, 6);
    assert!(!homes(made.uid).await.contains(&away), "all of it can be used");
    for partition in 0..6 {
        assert_eq!(say(&first, "made", partition, "at once").await, Offset(0));
    }

    // One whose partitions must lie where the journal is away is made too, and can be used when it is back.
    let right = first.create_topic(grouped("right"), &Caller::Client).await.unwrap();
    assert_eq!(right.settings.partitions, 4);
    hubs.insert(2, cluster.start(2).await);
    for partition in 0..4 {
        assert_eq!(insist(&first, "right", partition, "later").await, Offset(0));
    }
    assert!(homes(right.uid).await.contains(&away), "the group's places did not change");
    cluster.stop_all(hubs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_broker_that_is_started_again_says_so_and_ends() {
    let (cluster, mut hubs, _) = two().await;
    hubs[&1].set_broker_state(BrokerId(2), BrokerState::Draining).await.unwrap();
    until("it is retired", async || cluster.status().is_some_and(|status| status.brokers[1].entry.state == BrokerState::Retired))
        .await;
    cluster.stop(hubs.remove(&2).unwrap()).await;
    let again = cluster.start(2).await;
    let reason = tokio::time::timeout(Duration::from_secs(30), again.failed()).await.expect("it does not wait for ever");
    assert!(reason.contains("broker 2 was retired by its hub") && reason.contains("hub.broker_id"), "{reason}");
    cluster.stop(again).await;
    create(&hubs[&1], "events", 1).await;
    insist(&hubs[&1], "events", 0, "goes on").await;
    cluster.stop_all(hubs).await;
}

/// A counter of a broker, by its name in the metrics.
fn counted(hub: &Hub, name: &str) -> f64 {
    let text = hub.metrics_text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_copied_no_faster_than_they_may_be_and_writes_go_on_meanwhile() {
    const LIMIT: u64 = 2 << 20;
    let cluster = Cluster::new();
    let settings = |broker| {
        let mut settings = cluster.settings(broker);
        settings.fleet.copy_bytes_per_second = LIMIT;
        settings
    };
    let mut hubs = BTreeMap::from([(1, cluster.start_with(settings(1)).await)]);
    create(&hubs[&1], "events", 2).await;
    // Far more than what counts as just written.
    for number in 0..160 {
        insist(&hubs[&1], "events", 0, &format!("{number:065535}")).await;
    }
    let begun = std::time::Instant::now();
    hubs[&1].set_replication_factor(3).await.unwrap();
    for broker in [2, 3] {
        hubs.insert(broker, cluster.start_with(settings(broker)).await);
    }
    let mut written = 0;
    until("three voters each", async || {
        insist(&hubs[&1], "events", written % 2, "meanwhile").await;
        written += 1;
        let Some(status) = cluster.status() else { return false };
        let voting = |journal: &JournalStatus| journal.members.iter().filter(|member| member.votes && member.in_sync).count();
        status.journals.iter().all(|journal| voting(journal) == 3)
    })
    .await;
    let took = begun.elapsed().as_secs_f64();
    let (mut copied, mut waited) = (0.0, 0.0);
    for hub in hubs.values() {
        let here = counted(hub, "tidegate_copied_bytes_total");
        // What a rest allows at once is a tenth of a second's worth.
        let least = here / LIMIT as f64 - 0.1;
        assert!(took >= least, "{here} bytes took {took} s, and {least} s are the least");
        (copied, waited) = (copied + here, waited + counted(hub, "tidegate_copies_held_back_seconds_total"));
    }
    println!("copied {copied} bytes in {took} s, held back for {waited} s, {written} writes meanwhile");
    assert!(copied > 3.0 * LIMIT as f64 && waited > 1.0, "copied {copied} bytes, held back for {waited} s");
    assert!(written > 20, "{written} writes were acknowledged meanwhile");
    let status = cluster.status().unwrap();
    assert!(status.brokers.iter().filter_map(|broker| broker.busy).all(|busy| busy.copy_limit == LIMIT));
    cluster.stop_all(hubs).await;
}
