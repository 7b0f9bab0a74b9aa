//! The producer against a hub that refuses, forgets and cuts streams: what was sent is stored once and in order.

#![allow(clippy::unwrap_used)]

mod hub;

use std::sync::Arc;
use std::time::Duration;

use hub::{Faults, Hub};
use tidegate_client::{Client, ClientSettings, Compression, Error, Reason, Record, TracePropagator};
use tidegate_model::TimestampMs;
use tidegate_model::batch::{BatchBuilder, RecordBatch};

/// Sends `count` numbered records to each partition, and checks that each is stored once and in order, as its delivery says.
async fn everything_once_in_order(seed: u64, faults: Faults, partitions: i32, count: usize) -> Hub {
    let hub = Hub::start(seed, &[("t", partitions)], faults).await;
    let client = hub.client().await;
    let producer = client.producer().batch_bytes(1024).linger(Duration::from_millis(1)).buffer_bytes(64 << 10).build().unwrap();
    let mut deliveries = Vec::new();
    for number in 0..count {
        for partition in 0..partitions {
            let record = Record::new("t").partition(partition).value(format!("{number}"));
            deliveries.push((partition, number, producer.send(record).await.unwrap()));
        }
    }
    producer.flush().await.unwrap();
    for (partition, number, delivery) in deliveries {
        let stored = delivery.await.unwrap();
        assert!(stored.offset == number as i64 || stored.duplicate && stored.offset == -1, "{partition} {number} {stored:?}");
    }
    for partition in 0..partitions {
        let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(hub.values("t", partition), expected, "partition {partition}");
    }
    producer.close().await.unwrap();
    assert_eq!(producer.buffered_bytes(), 0, "all memory is given back");
    hub
}

#[tokio::test]
async fn without_faults_one_stream_carries_all() {
    let hub = everything_once_in_order(1, Faults::default(), 3, 500).await;
    assert_eq!(hub.state.lock().streams, 1);
    assert_eq!(hub.state.lock().refusals, 0);
}

#[tokio::test]
async fn refused_batches_are_sent_again_in_order() {
    let hub = everything_once_in_order(2, Faults { refuse: 100, ..Faults::default() }, 2, 1000).await;
    assert!(hub.state.lock().refusals > 0, "the fault was there");
    assert_eq!(hub.state.lock().streams, 1, "a refusal does not end the stream");
}

#[tokio::test]
async fn cut_streams_lose_and_repeat_nothing() {
    for seed in 10..16 {
        let faults = Faults { refuse: 30, cut_before: 20, cut_after: 40, ..Faults::default() };
        let hub = everything_once_in_order(seed, faults, 2, 600).await;
        assert!(hub.state.lock().streams > 1, "the fault was there");
    }
}

#[tokio::test]
async fn a_hub_that_forgets_the_producer_gets_a_new_epoch() {
    // Forgetting and lost answers together may repeat records in any system of sequences: only forgetting here.
    for seed in 20..26 {
        let hub = everything_once_in_order(seed, Faults { forget: 30, refuse: 30, ..Faults::default() }, 2, 600).await;
        assert!(hub.state.lock().epochs.values().any(|epoch| *epoch > 0), "the fault was there");
    }
}

#[tokio::test]
async fn a_batch_refused_for_good_fails_alone_and_the_rest_stays_in_order() {
    for seed in 30..38 {
        let faults = Faults { reject: 60, cut_after: 20, refuse: 20, ..Faults::default() };
        let hub = Hub::start(seed, &[("t", 1)], faults).await;
        let producer = hub.client().await.producer().batch_bytes(1024).build().unwrap();
        let mut deliveries = Vec::new();
        for number in 0..2000 {
            deliveries.push(producer.send(Record::new("t").value(format!("{number}"))).await.unwrap());
        }
        let _first_error = producer.flush().await;
        let mut stored = Vec::new();
        let mut failed = 0;
        for (number, delivery) in deliveries.into_iter().enumerate() {
            match delivery.await {
                Ok(_) => stored.push(number.to_string()),
                Err(error) => {
                    let unknown = matches!(error, Error::UnknownOutcome { .. });
                    assert!(unknown || error.reason() == Some(Reason::InvalidBatch), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "the fault was there");
        // A batch that was stored, its answer lost, and then refused is stored and reported as unknown.
        let values = hub.values("t", 0);
        let mut numbers: Vec<usize> = values.iter().map(|value| value.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "in order");
        numbers.dedup();
        assert_eq!(numbers.len(), values.len(), "each once");
        assert!(stored.iter().all(|number| values.contains(number)), "what is acknowledged is stored");
    }
}

#[tokio::test]
async fn the_same_key_always_goes_to_the_same_partition() {
    let hub = Hub::start(3, &[("t", 4)], Faults::default()).await;
    let producer = hub.client().await.producer().build().unwrap();
    for number in 0..400 {
        let key = format!("key-{}", number % 20);
        let _ = producer.send(Record::new("t").key(key.clone()).value(key)).await.unwrap();
    }
    producer.flush().await.unwrap();
    let mut used = 0;
    for partition in 0..4 {
        let values = hub.values("t", partition);
        used += usize::from(!values.is_empty());
        for value in &values {
            let partitions = (0..4).filter(|other| hub.values("t", *other).contains(value)).count();
            assert_eq!(partitions, 1, "{value}");
        }
    }
    assert!(used > 1, "keys are spread");
}

#[tokio::test]
async fn send_waits_when_the_memory_is_used_up() {
    let hub = Hub::start(4, &[("t", 1)], Faults::default()).await;
    hub.stall(true);
    let producer = hub.client().await.producer().buffer_bytes(64 << 10).batch_bytes(8 << 10).build().unwrap();
    let record = || Record::new("t").value(vec![7_u8; 30 << 10]);
    let first = producer.send(record()).await.unwrap();
    let second = producer.send(record()).await.unwrap();
    let third = tokio::time::timeout(Duration::from_millis(200), producer.send(record())).await;
    assert!(third.is_err(), "no memory is left for a third");
    assert!(!first.is_decided());
    assert!(producer.buffered_bytes() <= 64 << 10);
    hub.stall(false);
    let third = producer.send(record()).await.unwrap();
    for (offset, delivery) in [first, second, third].into_iter().enumerate() {
        assert_eq!(delivery.await.unwrap().offset, offset as i64);
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_fails_and_says_that_it_may_be_stored() {
    let hub = Hub::start(5, &[("t", 1)], Faults::default()).await;
    hub.stall(true);
    let producer = hub.client().await.producer().delivery_timeout(Duration::from_millis(300)).build().unwrap();
    let error = producer.send_and_wait(Record::new("t").value("x")).await.unwrap_err();
    assert!(matches!(error, Error::DeliveryTimeout { may_be_stored: true, .. }), "{error}");
    hub.stall(false);
    let next = producer.send_and_wait(Record::new("t").value("y")).await.unwrap();
    assert!(!next.duplicate);
    assert_eq!(hub.values("t", 0).last().unwrap(), "y");
}

/// The hub holds the first tries while it refuses the second ones, and stores them after all just when a new epoch is asked for.
#[tokio::test]
async fn a_slow_hub_that_stores_first_tries_late_stores_nothing_twice() {
    let hub = Hub::start(13, &[("t", 1)], Faults::default()).await;
    hub.state.lock().first_stream_waits = true;
    let builder = hub.client().await.producer().batch_bytes(1024).linger(Duration::ZERO);
    let producer = builder.delivery_timeout(Duration::from_secs(2)).build().unwrap();
    let first = producer.send(Record::new("t").value("0")).await.unwrap();
    while hub.state.lock().held.is_empty() {
        tokio::task::yield_now().await;
    }
    // Younger than the first, so that it is still wanted when the first is given up.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = producer.send(Record::new("t").value("1")).await.unwrap();
    let error = first.await.unwrap_err();
    assert!(matches!(error, Error::DeliveryTimeout { may_be_stored: true, .. }), "{error}");
    let _outcome = second.await;
    producer.send_and_wait(Record::new("t").value("2")).await.unwrap();
    assert_eq!(hub.values("t", 0), ["0", "1", "2"]);
}

#[tokio::test]
async fn mistakes_are_told_at_once_and_name_the_field() {
    let hub = Hub::start(6, &[("t", 2)], Faults::default()).await;
    let producer = hub.client().await.producer().build().unwrap();
    let unknown = producer.send(Record::new("nowhere").value("x")).await.unwrap_err();
    assert_eq!(unknown.reason(), Some(Reason::UnknownTopic));
    let partition = producer.send(Record::new("t").partition(2).value("x")).await.unwrap_err();
    assert!(matches!(partition, Error::Record { field: "partition", .. }), "{partition}");
    assert!(partition.to_string().contains("0 to 1"), "{partition}");
    let large = producer.send(Record::new("t").value(vec![0_u8; 70 << 10])).await.unwrap_err();
    assert!(matches!(large, Error::Record { field: "value", .. }), "{large}");
    let batch = batch_of(&[0_u8; 70 << 10]);
    let large = producer.send_batch("t", 0, batch).await.unwrap_err();
    assert!(matches!(large, Error::Record { field: "batch", .. }), "{large}");
    assert_eq!(producer.buffered_bytes(), 0);
    producer.close().await.unwrap();
    let closed = producer.send(Record::new("t").value("x")).await.unwrap_err();
    assert!(matches!(closed, Error::Closed { .. }), "{closed}");
}

fn batch_of(value: &[u8]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(1), None, Some(value), &[]);
    builder.build().unwrap()
}

#[tokio::test]
async fn the_largest_record_makes_a_batch_that_the_topic_takes() {
    // The hub of this test takes 64 KiB.
    for compression in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let hub = Hub::start(11, &[("t", 1)], Faults::default()).await;
        let producer = hub.client().await.producer().compression(compression).build().unwrap();
        let mut noise = 1_u64;
        let value: Vec<u8> = (0..(64 << 10) - 256 - 64)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                b'!' + (noise >> 33) as u8 % 90
            })
            .collect();
        producer.send_and_wait(Record::new("t").value(value.clone())).await.unwrap();
        assert_eq!(hub.values("t", 0)[0].as_bytes(), value);
        let largest = hub.state.lock().logs.values().map(|log| log.batches[0].1.len()).max().unwrap();
        assert!(largest <= 64 << 10, "{compression:?}: {largest}");
        let error = producer.send(Record::new("t").value([value, vec![0]].concat())).await.unwrap_err();
        assert!(matches!(error, Error::Record { field: "value", .. }), "{error}");
    }
}

#[tokio::test]
async fn a_batch_built_elsewhere_keeps_its_place_among_records() {
    let hub = Hub::start(12, &[("t", 1)], Faults { cut_after: 100, ..Faults::default() }).await;
    let producer = hub.client().await.producer().build().unwrap();
    for number in 0..60 {
        let value = number.to_string();
        let _ = if number % 2 == 0 {
            producer.send(Record::new("t").value(value)).await.unwrap()
        } else {
            producer.send_batch("t", 0, batch_of(value.as_bytes())).await.unwrap()
        };
    }
    producer.flush().await.unwrap();
    let expected: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    assert_eq!(hub.values("t", 0), expected);
}

#[tokio::test]
async fn a_dropped_producer_still_delivers() {
    let hub = Hub::start(7, &[("t", 1)], Faults::default()).await;
    let producer = hub.client().await.producer().linger(Duration::from_secs(60)).build().unwrap();
    let delivery = producer.send(Record::new("t").value("x")).await.unwrap();
    drop(producer);
    assert_eq!(delivery.await.unwrap().offset, 0);
}

#[tokio::test]
async fn without_idempotence_one_batch_is_in_flight_and_order_holds() {
    let hub = Hub::start(8, &[("t", 1)], Faults { refuse: 100, ..Faults::default() }).await;
    let producer = hub.client().await.producer().idempotent(false).batch_bytes(1024).build().unwrap();
    for number in 0..500 {
        let _ = producer.send(Record::new("t").value(format!("{number}"))).await.unwrap();
    }
    producer.flush().await.unwrap();
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(hub.values("t", 0), expected);
}

struct Traced;

impl TracePropagator for Traced {
    fn inject(&self, carrier: &mut dyn FnMut(&str, &str)) {
        carrier("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    }
}

#[tokio::test]
async fn the_trace_context_reaches_the_hub() {
    let hub = Hub::start(9, &[("t", 1)], Faults::default()).await;
    let settings = ClientSettings::new(hub.address.to_string());
    let client = Client::connect_with(settings, Some(Arc::new(Traced))).await.unwrap();
    client.producer().build().unwrap().send_and_wait(Record::new("t").value("x")).await.unwrap();
    let seen = hub.state.lock().traceparents.clone();
    assert_eq!(seen, ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
}
