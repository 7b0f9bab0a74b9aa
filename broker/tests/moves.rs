//! Partitions move between journals while they are written and read: nothing is lost, doubled or out of order, wherever it is stopped in between.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::network::*;
use common::*;
use tidegate_broker::hub::{Append, Caller, Fetch, FetchPart, GroupOffset, Hub, PartitionRef, Position};
use tidegate_model::{JournalId, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicSettings};

async fn journal_of(hub: &Hub, topic: &str, partition: i32) -> JournalId {
    let uid = hub.topic(topic).unwrap().uid;
    hub.all_partition_numbers(uid).await.unwrap()[partition as usize].journal
}

/// An idempotent producer that goes on until it is told to stop, sending each batch until it is acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(i32, Duration)>,
}

impl Writer {
    fn start(hub: &Hub, topic: &str, partition: i32, producer: i64) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (hub, topic, stopped) = (hub.clone(), topic.to_owned(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut sequence, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let batch = sequenced(&sequence.to_string(), ProducerId(producer), ProducerEpoch(0), sequence);
                match append(&hub, &topic, partition, batch).await {
                    Ok(appended) => {
                        assert!(appended.base_offset >= Offset(0));
                        longest = longest.max(last.elapsed());
                        (sequence, last) = (sequence + 1, Instant::now());
                    }
                    Err(error) => assert!(last.elapsed() < Duration::from_secs(20), "{error}"),
                }
                tokio::task::yield_now().await;
            }
            (sequence, longest)
        });
        Writer { stop, task }
    }

    /// How many batches were acknowledged, and the longest time between two acknowledgements.
    async fn stop(self) -> (i32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

fn numbers(count: i32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_while_it_is_written_and_is_read_over_both_homes() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    let topic = create(&hub, "events", 2).await;
    let from = journal_of(&hub, "events", 0).await;
    let to = JournalId(3 - from.0);
    let at = PartitionRef::new("events", 0);
    let writer = Writer::start(&hub, "events", 0, 7);
    until("something is there", async || hub.marks_of(&at).unwrap().high_watermark > Offset(20)).await;

    // Somebody waits at the end for what comes after the move.
    hub.move_partition(&at, to).await.unwrap();
    hub.move_partition(&at, to).await.unwrap();
    assert_eq!(journal_of(&hub, "events", 0).await, to);
    let end = hub.marks_of(&at).unwrap().high_watermark;
    until("something came after the move", async || hub.marks_of(&at).unwrap().high_watermark > Offset(end.0 + 20)).await;
    let (count, longest) = writer.stop().await;
    println!("{count} batches, the longest gap {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");

    let check = async |hub: &Hub| {
        assert_eq!(values(&read_all(hub, "events", 0, 0).await), numbers(count));
        let marks = hub.marks_at(&at).await.unwrap();
        assert_eq!((marks.log_start, marks.high_watermark), (Offset(0), Offset(i64::from(count))));
        assert_eq!(hub.locate(&at, Position::Earliest).await.unwrap().offset, Offset(0));
        let by_time = hub.locate(&at, Position::Timestamp(TimestampMs(1))).await.unwrap();
        assert_eq!((by_time.offset, by_time.timestamp), (Offset(0), Some(TimestampMs(1))), "in the older home");
        let last = sequenced(&(count - 1).to_string(), ProducerId(7), ProducerEpoch(0), count - 1);
        let again = append(hub, "events", 0, last).await.unwrap();
        assert!(again.duplicate && again.base_offset == Offset(i64::from(count) - 1), "{again:?}");
    };
    check(&hub).await;
    let back = hub.move_partition(&at, from).await.unwrap_err();
    assert!(back.to_string().contains("older records"), "{back}");
    close(hub).await;
    let hub = open(settings(directory.path()), directory.path()).await;
    check(&hub).await;
    tiered(&hub, "events", 0).await;
    check(&hub).await;

    // When retention has dropped what the older home holds, the home goes, and the partition may come back.
    let mut short = topic.settings.clone();
    short.retention_bytes_per_partition = Some(1);
    hub.alter_topic(topic.uid, None, short, &Caller::Client).await.unwrap();
    until("the older home is dropped", async || hub.move_partition(&at, from).await.is_ok()).await;
    let end = say(&hub, "events", 0, "back").await;
    assert_eq!(end, Offset(i64::from(count)), "offsets go on");
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_records_gets_those_that_come_after_a_move() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    let at = PartitionRef::new("events", 0);
    let to = JournalId(3 - journal_of(&hub, "events", 0).await.0);
    let waiting = tokio::spawn({
        let (hub, at) = (hub.clone(), at.clone());
        async move {
            let part = FetchPart { at, offset: Offset(0), max_bytes: 1 << 20 };
            let wait = Duration::from_secs(60);
            hub.fetch(&Fetch { parts: vec![part], max_wait: wait, min_bytes: 1, max_bytes: 1 << 20 }).await
        }
    });
    hub.move_partition(&at, to).await.unwrap();
    until("the record is taken", async || append(&hub, "events", 0, batch(&["after"], &[1])).await.is_ok()).await;
    let fetched = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("woken by the move").unwrap();
    assert_eq!(values(&records(fetched[0].as_ref().unwrap(), Offset(0))), ["after"]);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_that_are_added_get_partitions_and_groups_keep_their_positions() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 12).await;
    for partition in 0..12 {
        say(&hub, "events", partition, "before").await;
    }
    let position = GroupOffset {
        topic: "events".to_owned(),
        partition: PartitionId(0),
        offset: Offset(1),
        leader_epoch: None,
        metadata: String::new(),
        time: TimestampMs(0),
    };
    let groups: Vec<String> = (0..20).map(|number| format!("group-{number}")).collect();
    for group in &groups {
        hub.commit_offsets(group, std::slice::from_ref(&position)).await.unwrap()[0].clone().unwrap();
    }
    close(hub).await;
    let mut more = untiered(directory.path());
    more.journals = 6;
    let hub = open(more, directory.path()).await;
    let uid = hub.topic("events").unwrap().uid;
    until("all journals have partitions", async || {
        let numbers = hub.all_partition_numbers(uid).await.unwrap();
        (1..=6).all(|journal| numbers.iter().filter(|numbers| numbers.journal == JournalId(journal)).count() >= 1)
    })
    .await;
    for group in &groups {
        assert_eq!(hub.positions(group).await.unwrap().1.len(), 1, "{group}");
    }
    for partition in 0..12 {
        until("it takes records", async || append(&hub, "events", partition, batch(&["after"], &[1])).await.is_ok()).await;
        assert_eq!(values(&read_all(&hub, "events", partition, 0).await), ["before", "after"]);
    }
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_moves_partitions_it_leads_elsewhere_and_answers_for_the_whole_hub() {
    let cluster = Cluster::new();
    let mut hubs = Vec::new();
    for broker in 1..=4 {
        hubs.push(cluster.start(broker).await);
    }
    hubs[0].set_replication_factor(3).await.unwrap();
    hubs[0]
        .create_topic(new_topic("events", TopicSettings { partitions: 4, ..TopicSettings::default() }), &Caller::Client)
        .await
        .unwrap();
    until("three voters each", async || {
        let Some(status) = cluster.status() else { return false };
        status.journals.iter().all(|journal| journal.members.iter().filter(|member| member.votes && member.in_sync).count() == 3)
    })
    .await;
    let writers: Vec<Writer> = (0..4).map(|partition| Writer::start(&hubs[partition], "events", partition as i32, 7)).collect();
    for partition in 0..4 {
        let at = PartitionRef::new("events", partition);
        until("something is there", async || hubs[0].marks_at(&at).await.is_ok_and(|marks| marks.high_watermark > Offset(5)))
            .await;
        let to = JournalId(3 - journal_of(&hubs[3], "events", partition).await.0);
        // Asked of any broker.
        let asked = &hubs[partition as usize];
        until("it has moved", async || asked.move_partition(&at, to).await.is_ok()).await;
        let end = hubs[0].marks_at(&at).await.unwrap().high_watermark;
        until("it goes on", async || hubs[0].marks_at(&at).await.is_ok_and(|marks| marks.high_watermark > Offset(end.0 + 5)))
            .await;
    }
    let mut counts = Vec::new();
    for writer in writers {
        let (count, longest) = writer.stop().await;
        println!("{count} batches, the longest gap {longest:?}");
        counts.push(count);
    }
    // An epoch that a client names is checked by whoever leads, wherever the append arrives.
    for hub in &hubs {
        let epoch = hubs[0].marks_at(&PartitionRef::new("events", 0)).await.unwrap().epoch;
        let old = PartitionRef { leader_epoch: Some(tidegate_model::LeaderEpoch(epoch.0 - 1)), ..PartitionRef::new("events", 0) };
        let refused = hub.append(Append { at: old, batches: vec![batch(&["x"], &[1])] }).await.unwrap_err();
        assert!(refused.to_string().contains("epoch"), "broker {}: {refused}", hub.broker());
    }
    for hub in &hubs {
        for (partition, count) in counts.iter().enumerate() {
            let at = PartitionRef::new("events", partition as i32);
            let all = Offset(i64::from(*count));
            until("all is there", async || hub.marks_at(&at).await.is_ok_and(|marks| marks.high_watermark == all)).await;
            assert_eq!(values(&read_all(hub, "events", partition as i32, 0).await), numbers(*count), "broker {}", hub.broker());
        }
        let uid = hub.topic("events").unwrap().uid;
        let statistics = hub.all_topic_statistics(&[uid]).await;
        assert_eq!((statistics[0].ready, statistics[0].partitions.len()), (4, 4), "broker {} holds not all", hub.broker());
    }
    let position = |partition| GroupOffset {
        topic: "events".to_owned(),
        partition: PartitionId(partition),
        offset: Offset(1),
        leader_epoch: None,
        metadata: String::new(),
        time: TimestampMs(0),
    };
    for number in 0..10 {
        hubs[0].commit_offsets(&format!("group-{number}"), &[position(0), position(1)]).await.unwrap();
    }
    for hub in &hubs {
        until("all groups are seen", async || {
            let (groups, more, missing) = hub.list_all_groups("", 100).await;
            groups.len() == 10 && groups.iter().all(|group| group.partitions == 2) && !more && missing.is_empty()
        })
        .await;
        let (page, more, _) = hub.list_all_groups("group-3", 2).await;
        assert_eq!((page[0].name.as_str(), page[1].name.as_str(), more), ("group-4", "group-5", true));
    }
    for hub in hubs {
        cluster.stop(hub).await;
    }
}
