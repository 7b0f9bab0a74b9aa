//! Limits on what requests may take together: memory stays bounded whoever reads slowly, asks for much, or sends much at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_broker::RunningBroker;
use tidegate_model::{BatchBuilder, Compression, TimestampMs};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_proto::v1::subscribe_response::Event;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;

use crate::common::{append, batch, say, until};
use crate::support::{connect, create_topic, settings, start};

/// Bytes that readers were given so far.
fn fetched(broker: &RunningBroker) -> u64 {
    let text = broker.hub().metrics_text();
    let lines = text.lines().filter(|line| line.starts_with("tidegate_fetched_bytes_total"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

fn from_the_start() -> v1::SubscribeRequest {
    let earliest = v1::position::Position::Named(v1::NamedPosition::Earliest.into());
    v1::SubscribeRequest {
        subscriptions: vec![v1::Subscription {
            topic: "events".to_owned(),
            start: Some(v1::Position { position: Some(earliest) }),
            ..v1::Subscription::default()
        }],
        mode: v1::SubscribeMode::UntilEnd.into(),
        ..v1::SubscribeRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_never_read_hold_a_bounded_part_and_others_get_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let value = "x".repeat(500_000);
    for _ in 0..80 {
        say(broker.hub(), "events", 0, &value).await;
    }
    // Ten who open a subscription of 40 MB and then look away; their windows and our queue are all that they hold.
    let mut lazy = Vec::new();
    for _ in 0..10 {
        let mut client = ConsumerServiceClient::new(connect(broker.client_addr).await);
        lazy.push((client.subscribe(from_the_start()).await.unwrap(), client));
    }
    let (mut before, mut since) = (u64::MAX, Instant::now());
    until("nothing more is read for them", async || {
        let now = fetched(&broker);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    assert!(before < 10 * 16_000_000, "{before} bytes were read for those who do not read");
    let mut reader = ConsumerServiceClient::new(channel).subscribe(from_the_start()).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(answer) = reader.message().await.unwrap() {
        if let Some(Event::Data(data)) = answer.event {
            bytes += data.batches.len();
        }
    }
    assert!(bytes > 80 * 500_000, "{bytes}");
    let begun = Instant::now();
    broker.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "the stop took {:?}", begun.elapsed());
    drop(lazy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_in_flight_than_the_broker_takes_is_throttled_with_a_time_to_try_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    (settings.limits.max_request_bytes, settings.limits.max_fetch_bytes, settings.limits.max_in_flight_bytes) =
        (1 << 20, 1 << 20, 1 << 20);
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    let batches = batch(&[&"x".repeat(900_000)], &[1]).into_bytes();
    let request = v1::ProduceRequest {
        topic: "events".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Batches(batches)),
        ..v1::ProduceRequest::default()
    };
    let (mut stored, mut throttled) = (0, 0);
    until("one was throttled", async || {
        let calls = (0..16).map(|_| {
            let (mut client, request) = (ProducerServiceClient::new(channel.clone()), request.clone());
            async move { client.produce(request).await }
        });
        for outcome in futures::future::join_all(calls).await {
            match outcome {
                Ok(_) => stored += 1,
                Err(status) => {
                    let failure = Failure::from_status(&status);
                    assert_eq!(failure.reason, Reason::Throttled, "{status:?}");
                    assert!(
                        failure.retry_after.is_some() && failure.message.contains("limits.max_in_flight_bytes"),
                        "{failure:?}"
                    );
                    throttled += 1;
                }
            }
        }
        throttled > 0
    })
    .await;
    let high = broker.hub().marks_of(&tidegate_broker::hub::PartitionRef::new("events", 0)).unwrap().high_watermark.0;
    assert_eq!(high, stored, "what was throttled was not stored");
    assert!(broker.hub().metrics_text().contains("tidegate_limited_total{limit=\"limits.max_in_flight_bytes\"}"));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_bounded_and_comes_on_however_far_batches_grow() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.limits.max_fetch_bytes = 2 << 20;
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    // 30 batches of 1 MB each, a thousand times smaller on the wire.
    for _ in 0..30 {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.push(TimestampMs(1), None, Some(&[7; 1_000_000]), &[]);
        append(broker.hub(), "events", 0, builder.build().unwrap()).await.unwrap();
    }
    let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (mut next, mut answers) = (0, 0);
    while next < 30 {
        let part = v1::FetchPartition { topic: "events".to_owned(), offset: next, ..v1::FetchPartition::default() };
        let format = v1::RecordFormat::Records.into();
        let request = v1::FetchRequest { partitions: vec![part], format, ..v1::FetchRequest::default() };
        let data = client.fetch(request).await.unwrap().into_inner().partitions.remove(0);
        let bytes: usize = data.records.iter().map(|record| record.value.as_ref().map_or(0, Bytes::len)).sum();
        assert!(bytes <= (2 << 20) + 1_000_000, "{bytes} bytes in one answer");
        assert_eq!(data.records.first().unwrap().offset, next);
        assert_eq!(data.records.last().unwrap().offset + 1, data.next_offset, "nothing is skipped");
        (next, answers) = (data.next_offset, answers + 1);
    }
    assert!((10..=15).contains(&answers), "{answers} answers of about 2 MB");
    // Batches as they are fit into one.
    let part = v1::FetchPartition { topic: "events".to_owned(), ..v1::FetchPartition::default() };
    let request = v1::FetchRequest { partitions: vec![part], ..v1::FetchRequest::default() };
    let data = client.fetch(request).await.unwrap().into_inner().partitions.remove(0);
    assert_eq!(data.next_offset, 30);
    broker.shutdown().await;
}

/// A producer that sends and never reads its acknowledgements: at most `limits.max_stream_in_flight_bytes` of it are in the broker's hands at a
/// time, the rest waits in HTTP/2's windows. Once it reads, everything goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_acknowledgements_nobody_reads_is_not_read_beyond_its_limit_and_goes_on_later() {
    const FRAMES: u64 = 1000;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    (settings.limits.max_message_bytes, settings.limits.max_stream_in_flight_bytes) = (64 << 10, 64 << 10);
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    // One byte of answers is all that this client takes at first.
    let address = format!("http://{}", broker.client_addr);
    let narrow = tonic::transport::Channel::from_shared(address).unwrap().initial_stream_window_size(1);
    let mut client = ProducerServiceClient::new(narrow.connect().await.unwrap());
    let payload = batch(&[&"x".repeat(30_000)], &[1]).into_bytes();
    let frames = futures::stream::iter((0..FRAMES).map(move |request_id| v1::ProduceStreamRequest {
        request_id,
        topic: "events".to_owned(),
        payload: Some(v1::produce_stream_request::Payload::Batches(payload.clone())),
        ..v1::ProduceStreamRequest::default()
    }));
    let mut answers = client.produce_stream(frames).await.unwrap().into_inner();
    let stored = || broker.hub().marks_of(&tidegate_broker::hub::PartitionRef::new("events", 0)).unwrap().high_watermark.0;
    let (mut before, mut since) = (-1, Instant::now());
    until("nothing more of it is taken", async || {
        let now = stored();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    // Two frames at a time, and as many again for each message that waits for the transport.
    assert!((1..200).contains(&before), "{before} of {FRAMES} frames were taken from a client that does not read");
    append(broker.hub(), "events", 0, batch(&["another's"], &[1])).await.unwrap();
    let mut acknowledged = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(answer.acks.iter().all(|ack| ack.error.is_none()), "{answer:?}");
        acknowledged += answer.acks.len() as u64;
    }
    assert_eq!(acknowledged, FRAMES);
    assert_eq!(stored() as u64, FRAMES + 1);
    broker.shutdown().await;
}

/// A hub whose messages are smaller than a topic's default takes topics that say nothing of it, and makes their limit its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_says_nothing_of_its_messages_size_fits_the_hubs() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.limits.max_message_bytes = 64 << 10;
    let (broker, channel) = start(settings).await;
    let made = create_topic(&channel, "events", 1).await;
    assert_eq!(made.settings.unwrap().max_message_bytes, Some(64 << 10));
    let asked = v1::TopicSettings { partitions: Some(1), max_message_bytes: Some(1 << 20), ..v1::TopicSettings::default() };
    let request = v1::CreateTopicRequest { name: "large".to_owned(), settings: Some(asked), validate_only: false };
    let refused = TopicServiceClient::new(channel).create_topic(request).await.unwrap_err();
    let failure = Failure::from_status(&refused);
    assert!(failure.message.contains("limits.max_message_bytes"), "{failure}");
    broker.shutdown().await;
}
