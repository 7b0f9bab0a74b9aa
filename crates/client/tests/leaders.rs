//! A client of several brokers goes straight to those that lead, follows them when they change, and keeps order and stores once meanwhile.

#![allow(clippy::unwrap_used)]

mod hub;

use std::collections::HashMap;
use std::time::Duration;

use hub::{Faults, Hub};
use tidegate_client::{ClientSettings, Producer, Record, Start};

const PARTITIONS: i32 = 6;

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn send(producer: &Producer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        for partition in 0..PARTITIONS {
            let _ = producer.send(Record::new("t").partition(partition).value(number.to_string())).await.unwrap();
        }
    }
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn records_go_to_the_leaders_of_their_partitions_and_are_read_there() {
    let hub = Hub::start_many(1, &[("t", PARTITIONS)], Faults::default(), 3).await;
    let client = hub.client().await;
    let producer = client.producer().batch_bytes(1024).build().unwrap();
    send(&producer, 0..300).await;
    {
        let state = hub.state.lock();
        assert_eq!((state.misdirected, state.streams), (0, 3), "one broker was named, and it told of the others");
    }
    for partition in 0..PARTITIONS {
        assert_eq!(hub.values("t", partition), expected(300));
    }
    let mut consumer = client.consumer().assign("t", Start::Earliest).until_end().build().await.unwrap();
    let mut next: HashMap<i32, i64> = HashMap::new();
    while let Some(record) = consumer.next().await.unwrap() {
        let expected = next.entry(record.partition).or_insert(0);
        assert_eq!(record.offset, *expected);
        *expected += 1;
    }
    assert!(next.len() == PARTITIONS as usize && next.values().all(|end| *end == 300), "{next:?}");
}

#[tokio::test]
async fn a_client_that_is_told_to_goes_to_any_broker_only() {
    let hub = Hub::start_many(2, &[("t", PARTITIONS)], Faults::default(), 3).await;
    let settings = ClientSettings { any_broker: true, ..ClientSettings::new(hub.address.to_string()) };
    let client = tidegate_client::Client::connect_with(settings, None).await.unwrap();
    send(&client.producer().build().unwrap(), 0..50).await;
    let state = hub.state.lock();
    assert!(state.misdirected > 0 && state.streams == 1, "{} {}", state.misdirected, state.streams);
}

#[tokio::test]
async fn leaders_that_change_are_followed_in_order_and_nothing_comes_twice() {
    for (seed, refuse_others) in [(10, 0), (11, 1000), (12, 500), (13, 500)] {
        let faults = Faults { move_leader: 20, refuse_others, refuse: 10, cut_before: 5, cut_after: 5, ..Faults::default() };
        let hub = Hub::start_many(seed, &[("t", PARTITIONS)], faults, 3).await;
        let client = hub.client().await;
        let producer = client.producer().batch_bytes(1024).linger(Duration::from_millis(1)).build().unwrap();
        send(&producer, 0..1500).await;
        for partition in 0..PARTITIONS {
            assert_eq!(hub.values("t", partition), expected(1500), "partition {partition}");
        }
        let state = hub.state.lock();
        println!("{} of {} frames misdirected, {} questions", state.misdirected, state.frames, state.metadata_calls);
        assert!(state.misdirected > 0, "leaders changed");
        assert!(state.metadata_calls < state.frames / 4 + 10, "{} questions for metadata", state.metadata_calls);
    }
}

#[tokio::test]
async fn a_broker_that_dies_is_left_and_many_clients_parts_ask_once() {
    let hub = Hub::start_many(20, &[("t", PARTITIONS)], Faults::default(), 3).await;
    let client = hub.client().await;
    let producers: Vec<Producer> = (0..8).map(|_| client.producer().build().unwrap()).collect();
    for producer in &producers {
        send(producer, 0..10).await;
    }
    let asked = hub.state.lock().metadata_calls;
    {
        let mut state = hub.state.lock();
        state.leaders.values_mut().for_each(|leader| *leader = 1);
        state.dead = [2, 3].into();
    }
    for producer in &producers {
        send(producer, 10..20).await;
    }
    let state = hub.state.lock();
    let stored: i64 = state.logs.values().map(|log| log.end).sum();
    assert_eq!(stored, 8 * 20 * i64::from(PARTITIONS));
    assert!(state.metadata_calls - asked <= 8, "{} questions for one death", state.metadata_calls - asked);
}
