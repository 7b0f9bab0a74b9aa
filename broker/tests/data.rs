//! Appends and reads over a real disk: order, restarts, idempotence, look-ups by time, the tier.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::time::Duration;

use common::*;
use tidegate_broker::hub::{Append, Error, Fetch, FetchPart, InitProducer, PartitionRef, Position};
use tidegate_model::{Offset, TimestampMs, TimestampType, TopicSettings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_is_read_in_order_and_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 3).await;
    for round in 0..20i64 {
        for partition in 0..3 {
            assert_eq!(say(&hub, "events", partition, &format!("{partition}-{round}")).await, Offset(round));
        }
    }
    let expected = |partition| (0..20).map(|round| format!("{partition}-{round}")).collect::<Vec<_>>();
    for partition in 0..3 {
        assert_eq!(values(&read_all(&hub, "events", partition, 0).await), expected(partition));
    }
    let id = hub.id();
    close(hub).await;

    let hub = open(untiered(directory.path()), directory.path()).await;
    assert_eq!(hub.id(), id);
    for partition in 0..3 {
        assert_eq!(values(&read_all(&hub, "events", partition, 0).await), expected(partition));
        assert_eq!(say(&hub, "events", partition, "after").await, Offset(20));
    }
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_batches_are_appended_as_one_step_and_pipelined_appends_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    let at = PartitionRef::new("events", 0);
    let mut tickets = Vec::new();
    for round in 0..200 {
        let batches = vec![batch(&[&format!("{round}a")], &[1]), batch(&[&format!("{round}b"), &format!("{round}c")], &[1, 1])];
        tickets.push(hub.submit(Append { at: at.clone(), batches }).await.unwrap());
    }
    for (round, ticket) in (0i64..).zip(tickets) {
        let appended = ticket.await.unwrap();
        assert_eq!((appended.base_offset, appended.record_count), (Offset(round * 3), 3));
    }
    let all = values(&read_all(&hub, "events", 0, 0).await);
    let expected: Vec<_> = (0..200).flat_map(|round| ["a", "b", "c"].map(|letter| format!("{round}{letter}"))).collect();
    assert_eq!(all, expected);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_is_woken_by_an_append_and_ends_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 2).await;
    let part = |partition| FetchPart { at: PartitionRef::new("events", partition), offset: Offset(0), max_bytes: 1 << 20 };
    let fetch = |wait| Fetch { parts: vec![part(0), part(1)], max_wait: wait, min_bytes: 1, max_bytes: 1 << 20 };
    let empty = hub.fetch(&fetch(Duration::from_millis(50))).await;
    assert!(empty.iter().all(|answer| answer.as_ref().unwrap().bytes == 0));

    let waiting = tokio::spawn({
        let (hub, fetch) = (hub.clone(), fetch(Duration::from_secs(60)));
        async move { hub.fetch(&fetch).await }
    });
    say(&hub, "events", 1, "here").await;
    let answers = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("woken long before its deadline").unwrap();
    assert_eq!(values(&records(answers[1].as_ref().unwrap(), Offset(0))), ["here"]);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producers_batch_is_stored_once_even_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    let producer = hub.init_producer(InitProducer { window: 3, ..InitProducer::default() }).await.unwrap();
    assert_eq!(producer.window, 3);
    for sequence in 0..4 {
        let appended = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, sequence)).await.unwrap();
        assert_eq!((appended.base_offset, appended.duplicate), (Offset(sequence.into()), false));
    }
    let again = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, 3)).await.unwrap();
    assert_eq!((again.base_offset, again.duplicate), (Offset(3), true));
    let gap = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, 9)).await.unwrap_err();
    assert_eq!(gap, Error::OutOfSequence { expected: 4, got: 9 });
    close(hub).await;

    let hub = open(untiered(directory.path()), directory.path()).await;
    let again = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, 2)).await.unwrap();
    assert_eq!((again.base_offset, again.duplicate), (Offset(2), true));
    let old = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, 0)).await.unwrap();
    assert_eq!((old.base_offset, old.duplicate), (Offset(-1), true), "older than the window");
    let next = append(&hub, "events", 0, sequenced("x", producer.id, producer.epoch, 4)).await.unwrap();
    assert_eq!(next.base_offset, Offset(4));
    assert_eq!(read_all(&hub, "events", 0, 0).await.len(), 5);

    let other = hub.init_producer(InitProducer::default()).await.unwrap();
    assert_ne!(other.id, producer.id, "ids are never given out twice");
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_producer_keeps_its_id_and_fences_its_former_self() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    let asked = |window| InitProducer { name: "payments".to_owned(), window, ..InitProducer::default() };
    let first = hub.init_producer(asked(5)).await.unwrap();
    append(&hub, "events", 0, sequenced("a", first.id, first.epoch, 0)).await.unwrap();
    let second = hub.init_producer(asked(9)).await.unwrap();
    assert_eq!(second.id, first.id);
    assert!(second.epoch > first.epoch);
    append(&hub, "events", 0, sequenced("b", second.id, second.epoch, 0)).await.unwrap();
    let fenced = append(&hub, "events", 0, sequenced("c", first.id, first.epoch, 1)).await.unwrap_err();
    assert_eq!(fenced, Error::ProducerFenced { current: second.epoch });
    close(hub).await;
}

/// Tail and tier must agree on every question; times are out of order on purpose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_by_timestamp_are_right_in_tail_and_tier_although_times_are_out_of_order() {
    let directory = tempfile::tempdir().unwrap();
    let times = [50, 10, 90, 30, 70, 20, 100, 60, 5, 110];
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "log", 1).await;
    for pair in times.chunks(2) {
        append(&hub, "log", 0, batch(&["x", "y"], pair)).await.unwrap();
    }
    close(hub).await;
    let expected = |time: i64| times.iter().position(|found| *found >= time).map(|place| (Offset(place as i64), times[place]));
    let at = PartitionRef::new("log", 0);
    for tier in [false, true] {
        let settings = if tier { settings(directory.path()) } else { untiered(directory.path()) };
        let hub = open(settings, directory.path()).await;
        if tier {
            tiered(&hub, "log", 0).await;
            hub.drop_local_copies().await.unwrap();
        }
        for time in 0..=111 {
            let found = hub.locate(&at, Position::Timestamp(TimestampMs(time))).await.unwrap();
            match expected(time) {
                Some((offset, stamp)) => {
                    assert_eq!((found.offset, found.timestamp), (offset, Some(TimestampMs(stamp))), "time {time}")
                }
                None => assert_eq!((found.offset, found.timestamp), (Offset(10), None), "time {time}"),
            }
        }
        assert_eq!(hub.locate(&at, Position::Earliest).await.unwrap().offset, Offset(0));
        assert_eq!(hub.locate(&at, Position::Latest).await.unwrap().offset, Offset(10));
        assert_eq!(hub.locate(&at, Position::Offset(Offset(7))).await.unwrap().offset, Offset(7));
        assert!(matches!(hub.locate(&at, Position::Offset(Offset(11))).await, Err(Error::OffsetOutOfRange { .. })));
        close(hub).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiered_data_is_read_back_from_the_store_with_the_local_copies_gone() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    create(&hub, "events", 2).await;
    let value = "v".repeat(2000);
    for round in 0..100 {
        for partition in 0..2 {
            say(&hub, "events", partition, &format!("{round} {value}")).await;
        }
    }
    tiered(&hub, "events", 0).await;
    tiered(&hub, "events", 1).await;
    hub.drop_local_copies().await.unwrap();
    say(&hub, "events", 0, "tail").await;
    let mut hub = Some(hub);
    for reopened in [false, true] {
        if reopened && let Some(hub) = hub.take() {
            close(hub).await;
        }
        let hub = match &hub {
            Some(hub) => hub.clone(),
            None => open(settings(directory.path()), directory.path()).await,
        };
        let all = values(&read_all(&hub, "events", 0, 0).await);
        assert_eq!(all.len(), 101);
        assert!(all.iter().take(100).enumerate().all(|(round, text)| *text == format!("{round} {value}")));
        assert_eq!(all[100], "tail");
        let text = hub.metrics_text();
        let from_tier = text.lines().find(|line| line.starts_with("tidegate_fetched_bytes_total{source=\"tier\"}")).unwrap();
        assert!(from_tier.rsplit(' ').next().unwrap().parse::<u64>().unwrap() > 200_000, "{from_tier}");
        if reopened {
            close(hub).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_may_stamp_records_with_the_time_of_their_append() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    let stamped = TopicSettings { timestamp_type: TimestampType::LogAppendTime, ..TopicSettings::default() };
    hub.create_topic(new_topic("stamped", stamped), &tidegate_broker::hub::Caller::Client).await.unwrap();
    let appended = append(&hub, "stamped", 0, batch(&["a", "b"], &[1, 2])).await.unwrap();
    let time = appended.log_append_time.unwrap();
    assert!(time.0 > 1_600_000_000_000);
    let all = read_all(&hub, "stamped", 0, 0).await;
    assert!(all.iter().all(|record| record.timestamp == time), "the answer and the records say the same");
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_errors_that_name_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    let small = TopicSettings { max_message_bytes: 1024, ..TopicSettings::default() };
    let topic = hub.create_topic(new_topic("small", small), &tidegate_broker::hub::Caller::Client).await.unwrap();
    assert_eq!(append(&hub, "none", 0, batch(&["x"], &[1])).await.unwrap_err(), Error::UnknownTopic { topic: "none".to_owned() });
    assert!(matches!(
        append(&hub, "small", 1, batch(&["x"], &[1])).await,
        Err(Error::UnknownPartition { partition: 1, partitions: 1, .. })
    ));
    assert!(matches!(append(&hub, "small", -1, batch(&["x"], &[1])).await, Err(Error::UnknownPartition { partition: -1, .. })));
    let large = batch(&[&"x".repeat(2000)], &[1]);
    assert!(matches!(append(&hub, "small", 0, large).await, Err(Error::TooLarge { limit: 1024, .. })));
    let other = tidegate_model::TopicUid(uuid::Uuid::from_u128(1));
    let at = PartitionRef { topic_uid: Some(other), ..PartitionRef::new("small", 0) };
    let wrong = hub.append(Append { at, batches: vec![batch(&["x"], &[1])] }).await.unwrap_err();
    assert_eq!(wrong, Error::TopicUidMismatch { topic: "small".to_owned(), expected: other, actual: topic.uid });
    let at = PartitionRef { leader_epoch: Some(tidegate_model::LeaderEpoch(1000)), ..PartitionRef::new("small", 0) };
    assert!(matches!(hub.read(&at, Offset(0), 1).await, Err(Error::UnknownLeaderEpoch { .. })));
    let beyond = hub.read(&PartitionRef::new("small", 0), Offset(5), 1).await.unwrap_err();
    assert_eq!(beyond, Error::OffsetOutOfRange { offset: Offset(5), log_start: Offset(0), high_watermark: Offset(0) });
    hub.stop_intake();
    assert_eq!(append(&hub, "small", 0, batch(&["x"], &[1])).await.unwrap_err(), Error::ShuttingDown);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_never_has_records_at_or_above_the_high_watermark_that_it_tells() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    let writer = {
        let hub = hub.clone();
        tokio::spawn(async move {
            for number in 0..1500 {
                say(&hub, "events", 0, &number.to_string()).await;
            }
        })
    };
    // A reader at the end looks at the marks while the writer raises them.
    let at = PartitionRef::new("events", 0);
    let mut next = Offset(0);
    while !writer.is_finished() {
        let fetched = hub.read(&at, next, 1 << 20).await.unwrap();
        assert!(fetched.next <= fetched.marks.high_watermark, "{:?} was served of {:?}", fetched.next, fetched.marks);
        next = fetched.next;
    }
    writer.await.unwrap();
    close(hub).await;
}
