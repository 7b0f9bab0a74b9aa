//! The gRPC edge as a client sees it: bulk and plain, streams, errors with ErrorInfo, limits, the operator's port, HTTP, shutdown.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::*;
use tidegate_broker::settings::{BrokerSettings, ListenerSettings, ObjectStoreSettings};
use tidegate_broker::{RunningBroker, serve};
use tidegate_env::Env;
use tidegate_model::batch::batches;
use tidegate_model::{ProducerEpoch, ProducerId, Sequence};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::operator::v1 as operator;
use tidegate_proto::operator::v1::operator_service_client::OperatorServiceClient;
use tidegate_proto::operator::v1::watch_topics_response::Event as WatchEvent;
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::group_service_client::GroupServiceClient;
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_proto::v1::subscribe_response::Event;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

fn broker_settings(directory: &Path) -> BrokerSettings {
    let any = "127.0.0.1:0".parse().unwrap();
    BrokerSettings {
        hub: untiered(directory),
        object_store: ObjectStoreSettings::Directory { path: directory.join("store") },
        listeners: ListenerSettings { client: any, operator: any, http: any, ..ListenerSettings::default() },
        shutdown_deadline_ms: 10_000,
        ..BrokerSettings::default()
    }
}

async fn start(settings: BrokerSettings) -> (RunningBroker, Channel) {
    let broker = serve(settings, Env::real()).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", broker.client_addr)).unwrap().connect().await.unwrap();
    (broker, channel)
}

async fn create_topic(channel: &Channel, name: &str, partitions: u32) -> v1::Topic {
    let settings = v1::TopicSettings { partitions: Some(partitions), ..v1::TopicSettings::default() };
    let request = v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: false };
    TopicServiceClient::new(channel.clone()).create_topic(request).await.unwrap().into_inner().topic.unwrap()
}

fn record(key: Option<&str>, value: &str) -> v1::Record {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    v1::Record { key: key.map(bytes), value: Some(bytes(value)), ..v1::Record::default() }
}

fn frame(request_id: u64, partition: i32, payload: Bytes) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest {
        request_id,
        topic: "events".to_owned(),
        partition,
        payload: Some(v1::produce_stream_request::Payload::Batches(payload)),
        ..v1::ProduceStreamRequest::default()
    }
}

fn fetch(partition: i32, offset: i64, format: v1::RecordFormat) -> v1::FetchRequest {
    v1::FetchRequest {
        partitions: vec![v1::FetchPartition { topic: "events".to_owned(), partition, offset, ..v1::FetchPartition::default() }],
        format: format.into(),
        ..v1::FetchRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_records_are_spread_by_key_and_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    create_topic(&channel, "events", 4).await;
    let records: Vec<_> = (0..50).map(|n| record(Some(&format!("key-{}", n % 10)), &format!("value-{n}"))).collect();
    let request = v1::ProduceRequest {
        topic: "events".to_owned(),
        payload: Some(v1::produce_request::Payload::Records(v1::RecordList { records: records.clone() })),
        compression: v1::Compression::Zstd.into(),
        ..v1::ProduceRequest::default()
    };
    let answer = ProducerServiceClient::new(channel.clone()).produce(request).await.unwrap().into_inner();
    let mut seen = 0;
    for result in &answer.results {
        assert!(result.error.is_none());
        let mut consumer = ConsumerServiceClient::new(channel.clone());
        let data = consumer.fetch(fetch(result.partition, 0, v1::RecordFormat::Records)).await.unwrap().into_inner();
        let found = &data.partitions[0];
        assert_eq!(found.records.len(), result.record_indexes.len());
        for (offset, (found, index)) in found.records.iter().zip(&result.record_indexes).enumerate() {
            let sent = &records[*index as usize];
            assert_eq!((&found.key, &found.value, found.offset), (&sent.key, &sent.value, offset as i64));
            let partition = tidegate_model::partition_for_key(sent.key.as_ref().unwrap(), 4);
            assert_eq!(partition.0, result.partition);
            seen += 1;
        }
    }
    assert_eq!(seen, 50);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_stream_acknowledges_in_order_and_a_bad_frame_does_not_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    create_topic(&channel, "events", 2).await;
    let mut frames: Vec<_> = (0..300u64).map(|n| frame(n, (n % 2) as i32, batch(&[&n.to_string()], &[1]).into_bytes())).collect();
    let mut damaged = batch(&["x"], &[1]).into_bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    frames.insert(100, frame(1000, 0, Bytes::from(damaged)));
    frames.insert(101, frame(1001, 7, batch(&["x"], &[1]).into_bytes()));
    let sent = frames.len();
    let mut answers =
        ProducerServiceClient::new(channel.clone()).produce_stream(tokio_stream::iter(frames)).await.unwrap().into_inner();
    let opened = answers.message().await.unwrap().unwrap().opened.unwrap();
    assert_eq!(opened.max_frame_bytes, 16 << 20);
    let mut acks = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        acks.extend(answer.acks);
    }
    assert_eq!(acks.len(), sent);
    for partition in 0..2 {
        let of_partition: Vec<_> = acks.iter().filter(|ack| ack.request_id < 1000 && ack.request_id % 2 == partition).collect();
        assert!(of_partition.iter().enumerate().all(|(offset, ack)| ack.error.is_none() && ack.base_offset == offset as i64));
    }
    let reason = |id| acks.iter().find(|ack| ack.request_id == id).unwrap().error.as_ref().unwrap().reason();
    assert_eq!(reason(1000), v1::ErrorReason::InvalidBatch);
    assert_eq!(reason(1001), v1::ErrorReason::UnknownPartition);

    let answer = ConsumerServiceClient::new(channel).fetch(fetch(1, 3, v1::RecordFormat::Batches)).await.unwrap().into_inner();
    let data = &answer.partitions[0];
    let headers: Vec<_> = batches(&data.batches).map(|item| item.unwrap()).collect();
    assert_eq!((headers[0].0.base_offset.0, data.high_watermark, data.next_offset), (3, 150, 150));
    for (header, range) in &headers {
        tidegate_model::batch::verify_crc(&data.batches[range.clone()]).unwrap();
        assert!(header.leader_epoch.0 >= 0);
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_asks_for_no_acknowledgement_is_stored_and_gets_none_unless_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    create_topic(&channel, "events", 2).await;
    let mut frames: Vec<_> = (0..300u64).map(|n| frame(n, (n % 2) as i32, batch(&[&n.to_string()], &[1]).into_bytes())).collect();
    let idempotent = batch(&["x"], &[1]).with_producer(ProducerId(5), ProducerEpoch(0), Sequence(0));
    frames.push(frame(1000, 0, idempotent.into_bytes()));
    frames.push(frame(1001, 7, batch(&["x"], &[1]).into_bytes()));
    frames.iter_mut().for_each(|frame| frame.no_acknowledgement = true);
    frames[100].no_acknowledgement = false;
    let answers = ProducerServiceClient::new(channel.clone()).produce_stream(tokio_stream::iter(frames)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut acks = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        acks.extend(answer.acks);
    }
    acks.sort_by_key(|ack| ack.request_id);
    let told: Vec<_> =
        acks.iter().map(|ack| (ack.request_id, ack.base_offset, ack.error.as_ref().map(v1::Error::reason))).collect();
    let refused = [Some(v1::ErrorReason::InvalidArgument), Some(v1::ErrorReason::UnknownPartition)];
    assert_eq!(told, [(100, 50, None), (1000, -1, refused[0]), (1001, -1, refused[1])]);
    let why = acks[1].error.as_ref().unwrap();
    assert!(why.message.contains("no_acknowledgement"), "{why:?}");
    // The stream ends after all that came on it is durable.
    for partition in 0..2 {
        let fetched = ConsumerServiceClient::new(channel.clone()).fetch(fetch(partition, 0, v1::RecordFormat::Records)).await;
        let values: Vec<_> =
            fetched.unwrap().into_inner().partitions.remove(0).records.into_iter().map(|r| r.value.unwrap()).collect();
        let expected: Vec<_> = (0..300u64).filter(|n| n % 2 == partition as u64).map(|n| n.to_string()).collect();
        assert_eq!(values, expected);
    }
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_follows_the_tail_and_another_ends_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    create_topic(&channel, "events", 2).await;
    let hub = broker.hub().clone();
    say(&hub, "events", 0, "a").await;
    let start = |named: v1::NamedPosition| v1::Position { position: Some(v1::position::Position::Named(named.into())) };
    let request = |mode: v1::SubscribeMode| v1::SubscribeRequest {
        subscriptions: vec![v1::Subscription {
            topic: "events".to_owned(),
            start: Some(start(v1::NamedPosition::Earliest)),
            ..v1::Subscription::default()
        }],
        format: v1::RecordFormat::Records.into(),
        mode: mode.into(),
        ..v1::SubscribeRequest::default()
    };
    let mut consumer = ConsumerServiceClient::new(channel.clone());
    let mut following = consumer.subscribe(request(v1::SubscribeMode::Follow)).await.unwrap().into_inner();
    let opened = following.message().await.unwrap().unwrap();
    assert!(matches!(opened.event, Some(Event::Opened(opened)) if opened.partitions.len() == 2));
    let mut found = Vec::new();
    let mut expected = vec!["a".to_owned()];
    for round in 0..20 {
        let value = format!("value-{round}");
        say(&hub, "events", round % 2, &value).await;
        expected.push(value);
        while found.len() < expected.len() {
            if let Some(Event::Data(data)) = following.message().await.unwrap().unwrap().event {
                assert!(data.error.is_none());
                found.extend(data.records.into_iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
        }
    }
    assert_eq!(found, expected);

    let mut whole = consumer.subscribe(request(v1::SubscribeMode::UntilEnd)).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(answer) = whole.message().await.unwrap() {
        if let Some(Event::Data(data)) = answer.event {
            count += data.records.len();
        }
    }
    assert_eq!(count, expected.len());

    // A stop says goodbye on the stream that is still open.
    let stopping = tokio::spawn(broker.shutdown());
    let mut said_goodbye = false;
    while let Ok(Some(answer)) = following.message().await {
        said_goodbye |= matches!(answer.event, Some(Event::Closing(_)));
    }
    assert!(said_goodbye);
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_carry_a_reason_and_the_field() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = broker_settings(directory.path());
    settings.limits.max_message_bytes = 2048;
    settings.limits.max_headers_bytes = 1024;
    let (broker, channel) = start(settings).await;
    let mut topics = TopicServiceClient::new(channel.clone());
    for (name, partitions, field) in [("a/b", 1, "name"), ("__x", 1, "name"), ("events", 0, "settings.partitions")] {
        let settings =
            v1::TopicSettings { partitions: Some(partitions), max_message_bytes: Some(2048), ..v1::TopicSettings::default() };
        let request = v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: true };
        let failure = Failure::from_status(&topics.create_topic(request).await.unwrap_err());
        assert_eq!((failure.reason, failure.metadata["field"].as_str()), (Reason::InvalidArgument, field), "{failure:?}");
    }
    let small = v1::TopicSettings { max_message_bytes: Some(2048), ..v1::TopicSettings::default() };
    let request = v1::CreateTopicRequest { name: "events".to_owned(), settings: Some(small), validate_only: false };
    topics.create_topic(request.clone()).await.unwrap();
    let failure = Failure::from_status(&topics.create_topic(request).await.unwrap_err());
    assert_eq!(failure.reason, Reason::TopicExists);

    let mut producer = ProducerServiceClient::new(channel.clone());
    let of_records = |records| v1::ProduceRequest {
        topic: "events".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Records(v1::RecordList { records })),
        ..v1::ProduceRequest::default()
    };
    let failure = Failure::from_status(&producer.produce(of_records(Vec::new())).await.unwrap_err());
    assert_eq!((failure.reason, failure.metadata["field"].as_str()), (Reason::InvalidArgument, "records"));
    let failure = Failure::from_status(&producer.produce(of_records(vec![record(None, &"x".repeat(4000))])).await.unwrap_err());
    assert_eq!((failure.reason, failure.metadata["setting"].as_str()), (Reason::MessageTooLarge, "limits.max_message_bytes"));
    let header = v1::Header { key: "h".repeat(1025), value: None };
    let heavy = v1::Record { headers: vec![header], ..record(None, "x") };
    let failure = Failure::from_status(&producer.produce(of_records(vec![heavy])).await.unwrap_err());
    assert_eq!((failure.reason, failure.metadata["setting"].as_str()), (Reason::MessageTooLarge, "limits.max_headers_bytes"));
    let failure = Failure::from_status(&producer.produce(v1::ProduceRequest::default()).await.unwrap_err());
    assert_eq!((failure.reason, failure.metadata["field"].as_str()), (Reason::InvalidArgument, "payload"));

    let mut consumer = ConsumerServiceClient::new(channel.clone());
    let answer = consumer.fetch(fetch(0, 99, v1::RecordFormat::Batches)).await.unwrap().into_inner();
    let error = answer.partitions[0].error.clone().unwrap();
    assert_eq!((error.reason(), error.metadata["high_watermark"].as_str()), (v1::ErrorReason::OffsetOutOfRange, "0"));
    let text = broker.hub().metrics_text();
    assert!(text.contains("tidegate_limited_total{limit=\"limits.max_message_bytes\"} 1"), "{text}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = broker_settings(directory.path());
    settings.limits.max_connections = 1;
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    let mut second = tokio::net::TcpStream::connect(broker.client_addr).await.unwrap();
    let mut byte = [0];
    assert!(matches!(second.read(&mut byte).await, Ok(0) | Err(_)), "closed at once");
    until("it is counted", async || {
        broker.hub().metrics_text().contains("tidegate_limited_total{limit=\"limits.max_connections\"} 1")
    })
    .await;
    drop(channel);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_watches_by_revision_and_tombstones_on_a_port_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    let other = Channel::from_shared(format!("http://{}", broker.operator_addr)).unwrap().connect().await.unwrap();
    let elsewhere = OperatorServiceClient::new(channel.clone()).claim_epoch(operator::ClaimEpochRequest::default()).await;
    assert_eq!(elsewhere.unwrap_err().code(), tonic::Code::Unimplemented, "not beside the clients' services");
    let mut client = OperatorServiceClient::new(other);
    let epoch = client.claim_epoch(operator::ClaimEpochRequest::default()).await.unwrap().into_inner().operator_epoch;
    let context = Some(operator::OperatorContext { operator_epoch: epoch, hub_id: Bytes::new() });
    let topic = create_topic(&channel, "events", 1).await;
    let request = operator::WatchTopicsRequest { context: context.clone(), after_revision: 0 };
    let mut watch = client.watch_topics(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert!(matches!(&first.event, Some(WatchEvent::Topic(found)) if found.topic_uid == topic.topic_uid));
    let bookmark = watch.message().await.unwrap().unwrap();
    assert!(matches!(bookmark.event, Some(WatchEvent::Bookmark(bookmark)) if bookmark.initial_topics_sent));
    let object = v1::BoundObject { namespace: "ns".to_owned(), name: "t".to_owned(), uid: "u".to_owned() };
    let bind = operator::BindTopicRequest {
        context: context.clone(),
        topic_uid: topic.topic_uid.clone(),
        bound_object: Some(object.clone()),
        management: v1::TopicManagement::Object.into(),
        ..operator::BindTopicRequest::default()
    };
    client.bind_topic(bind).await.unwrap();
    let delete = v1::DeleteTopicRequest { name: "events".to_owned(), ..v1::DeleteTopicRequest::default() };
    let failure = Failure::from_status(&TopicServiceClient::new(channel.clone()).delete_topic(delete).await.unwrap_err());
    assert_eq!((failure.reason, failure.metadata["object"].as_str()), (Reason::TopicManaged, "ns/t"));
    let delete = operator::DeleteTopicRequest {
        context: context.clone(),
        topic_uid: topic.topic_uid.clone(),
        expected_bound_object: Some(object),
        ..operator::DeleteTopicRequest::default()
    };
    client.delete_topic(delete.clone()).await.unwrap();
    client.delete_topic(delete).await.expect("repeating it is no error");
    loop {
        if let Some(WatchEvent::Tombstone(tombstone)) = watch.message().await.unwrap().unwrap().event {
            assert_eq!(tombstone.topic_uid, topic.topic_uid);
            break;
        }
    }
    let stale = operator::GetStatisticsRequest { context, ..operator::GetStatisticsRequest::default() };
    client.claim_epoch(operator::ClaimEpochRequest::default()).await.unwrap();
    let failure = Failure::from_status(&client.get_statistics(stale).await.unwrap_err());
    assert_eq!(failure.reason, Reason::OperatorFenced);
    drop(watch);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_metadata_health_and_http_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(broker_settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    say(broker.hub(), "events", 0, "x").await;
    let offset = v1::CommittedOffset { topic: "events".to_owned(), partition: 0, offset: 0, ..v1::CommittedOffset::default() };
    let mut groups = GroupServiceClient::new(channel.clone());
    let commit = v1::CommitOffsetsRequest { group: "g".to_owned(), offsets: vec![offset], ..v1::CommitOffsetsRequest::default() };
    groups.commit_offsets(commit).await.unwrap();
    let described = groups.describe_group(v1::DescribeGroupRequest { group: "g".to_owned() }).await.unwrap().into_inner();
    assert_eq!(described.partitions[0].lag, 1);

    let metadata =
        MetadataServiceClient::new(channel.clone()).get_metadata(v1::GetMetadataRequest::default()).await.unwrap().into_inner();
    assert_eq!(metadata.brokers[0].endpoint, broker.client_addr.to_string());
    assert_eq!(metadata.topics[0].partitions[0].leader, Some(1));

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    for (path, expected) in [("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "tidegate_appended_bytes_total")] {
        let mut stream = tokio::net::TcpStream::connect(broker.http_addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(expected), "{path}: {answer}");
    }
    broker.shutdown().await;
}
