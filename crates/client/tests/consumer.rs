//! The consumer against a hub that cuts streams and drops old records.

#![allow(clippy::unwrap_used)]

mod hub;

use std::collections::HashMap;
use std::time::Duration;

use hub::{Faults, Hub};
use tidegate_client::consumer::OffsetReset;
use tidegate_client::{Client, Consumer, Error, Reason, Record, Start};

async fn filled(seed: u64, faults: Faults, partitions: i32, count: usize) -> (Hub, Client) {
    let hub = Hub::start(seed, &[("t", partitions)], faults).await;
    let client = hub.client().await;
    produce(&client, partitions, 0..count).await;
    (hub, client)
}

async fn produce(client: &Client, partitions: i32, numbers: std::ops::Range<usize>) {
    let producer = client.producer().batch_bytes(1024).build().unwrap();
    for number in numbers {
        for partition in 0..partitions {
            let record = Record::new("t").partition(partition).value(format!("{number}"));
            let _ = producer.send(record).await.unwrap();
        }
    }
    producer.close().await.unwrap();
}

/// Reads `count` records and checks that each partition's come without a gap from `from`.
async fn read_in_order(consumer: &mut Consumer, count: usize, from: i64) {
    let mut next: HashMap<i32, i64> = HashMap::new();
    for _ in 0..count {
        let record = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await.unwrap().unwrap().unwrap();
        let expected = next.entry(record.partition).or_insert(from);
        assert_eq!(record.offset, *expected);
        assert_eq!(record.value.unwrap(), expected.to_string());
        *expected += 1;
    }
}

#[tokio::test]
async fn all_records_come_once_and_in_order_although_streams_are_cut() {
    for seed in 0..4 {
        let faults = Faults { cut_subscription: 150, ..Faults::default() };
        let (_hub, client) = filled(seed, faults, 3, 400).await;
        let mut consumer = client.consumer().assign("t", Start::Earliest).until_end().build().await.unwrap();
        read_in_order(&mut consumer, 1200, 0).await;
        assert_eq!(consumer.next().await.unwrap(), None, "the end");
        assert_eq!(consumer.next().await.unwrap(), None, "and it stays the end");
    }
}

#[tokio::test]
async fn a_consumer_follows_the_tail() {
    let (_hub, client) = filled(1, Faults::default(), 1, 10).await;
    let mut consumer = client.consumer().assign("t", Start::Latest).build().await.unwrap();
    let nothing = consumer.poll(10, Duration::from_millis(50)).await.unwrap();
    assert!(nothing.is_empty());
    produce(&client, 1, 10..20).await;
    read_in_order(&mut consumer, 10, 10).await;
    assert_eq!(consumer.position("t", 0), Some(20));
}

#[tokio::test]
async fn seeking_goes_back_and_forth_even_into_the_middle_of_a_batch() {
    let (_hub, client) = filled(2, Faults::default(), 1, 300).await;
    let mut consumer = client.consumer().assign("t", Start::Earliest).build().await.unwrap();
    read_in_order(&mut consumer, 100, 0).await;
    consumer.seek("t", 0, Start::Offset(250)).await.unwrap();
    read_in_order(&mut consumer, 50, 250).await;
    consumer.seek("t", 0, Start::Earliest).await.unwrap();
    read_in_order(&mut consumer, 5, 0).await;
    let error = consumer.seek("t", 7, Start::Offset(0)).await.unwrap_err();
    assert!(matches!(error, Error::Setting { field: "assign", .. }), "{error}");
}

#[tokio::test]
async fn a_group_goes_on_where_it_committed() {
    let (hub, client) = filled(3, Faults::default(), 2, 50).await;
    let build = || client.consumer().assign("t", Start::Earliest).group("g").until_end().build();
    let mut first = build().await.unwrap();
    let mut read = HashMap::from([(0, 0), (1, 0)]);
    for _ in 0..33 {
        let record = first.next().await.unwrap().unwrap();
        read.insert(record.partition, record.offset + 1);
    }
    first.commit().await.unwrap();
    for (partition, position) in &read {
        let committed = hub.state.lock().commits.get(&("g".to_owned(), "t".to_owned(), *partition)).copied();
        assert_eq!(committed.unwrap_or(0), *position, "what was given, not what was read ahead");
    }
    let mut second = build().await.unwrap();
    let mut rest = 0;
    while let Some(record) = second.next().await.unwrap() {
        let expected = read.get_mut(&record.partition).unwrap();
        assert_eq!(record.offset, *expected);
        *expected += 1;
        rest += 1;
    }
    assert_eq!(rest, 100 - 33);
    let lonely = client.consumer().assign("t", Start::Latest).build().await.unwrap();
    assert!(matches!(lonely.commit().await.unwrap_err(), Error::Setting { field: "group", .. }));
}

#[tokio::test]
async fn a_position_that_retention_has_passed_fails_or_is_reset_as_asked() {
    let (hub, client) = filled(4, Faults::default(), 2, 100).await;
    {
        let mut state = hub.state.lock();
        let log = state.logs.get_mut(&("t".to_owned(), 0)).unwrap();
        log.batches.remove(0);
        log.start = log.batches[0].0;
    }
    let build = |policy| client.consumer().assign("t", Start::Offset(0)).offset_reset(policy).until_end().build();
    let error = build(OffsetReset::Fail).await.unwrap().next().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::OffsetOutOfRange));
    let mut consumer = build(OffsetReset::Earliest).await.unwrap();
    let mut first = HashMap::new();
    while let Some(record) = consumer.next().await.unwrap() {
        first.entry(record.partition).or_insert(record.offset);
    }
    let start = hub.state.lock().logs[&("t".to_owned(), 0)].start;
    assert!(start > 0);
    assert_eq!(first, HashMap::from([(0, start), (1, 0)]), "the other partition keeps its place");
}

#[tokio::test]
async fn damaged_bytes_are_refused_and_the_place_is_named() {
    let (hub, client) = filled(5, Faults::default(), 1, 100).await;
    {
        let mut state = hub.state.lock();
        let (_, bytes) = &mut state.logs.get_mut(&("t".to_owned(), 0)).unwrap().batches[0];
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        *bytes = damaged.into();
    }
    let mut consumer = client.consumer().assign("t", Start::Earliest).build().await.unwrap();
    let error = consumer.next().await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { partition: 0, offset: 0, .. }), "{error}");
}

#[tokio::test]
async fn whole_batches_come_undecoded_and_move_the_position() {
    let (_hub, client) = filled(6, Faults::default(), 1, 200).await;
    let mut consumer = client.consumer().assign("t", Start::Earliest).until_end().build().await.unwrap();
    read_in_order(&mut consumer, 3, 0).await;
    let mut next = 3;
    while let Some(batches) = consumer.next_batches().await.unwrap() {
        assert_eq!(batches.from, next);
        next = batches.next;
        assert_eq!(consumer.position("t", 0), Some(next));
    }
    assert_eq!(next, 200);
}

#[tokio::test]
async fn mistakes_in_an_assignment_are_named() {
    let (_hub, client) = filled(7, Faults::default(), 1, 1).await;
    let nothing = client.consumer().build().await.unwrap_err();
    assert!(matches!(nothing, Error::Setting { field: "assign", .. }), "{nothing}");
    let twice = client.consumer().assign("t", Start::Latest).assign_partitions("t", &[0], Start::Latest);
    assert!(twice.build().await.unwrap_err().to_string().contains("twice"));
    let unknown = client.consumer().assign("nowhere", Start::Latest).build().await.unwrap_err();
    assert_eq!(unknown.reason(), Some(Reason::UnknownTopic));
}
