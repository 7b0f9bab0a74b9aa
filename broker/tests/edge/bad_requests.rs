//! Requests that ask for what cannot be: each answer names the field, what is allowed and the way out.

use bytes::Bytes;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::group_service_client::GroupServiceClient;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::common::{batch, say, sequenced};
use crate::support::{Expected, create_topic, settings, start};

type Facts = &'static [(&'static str, &'static str)];
type Words = &'static [&'static str];

/// Checks the refusal of a call.
fn refused<T>(input: &str, outcome: Result<Response<T>, Status>, reason: Reason, facts: Facts, words: Words) {
    let Err(status) = outcome else { panic!("{input}: was not refused") };
    assert!(!status.details().is_empty(), "{input}: no ErrorInfo in {status:?}");
    let failure = Failure::from_status(&status);
    assert_eq!(status.code(), failure.code(), "{input}");
    Expected { reason, facts: facts.to_vec(), words }.check(input, &failure);
}

/// Checks the refusal of a part.
fn part_refused(input: &str, error: Option<v1::Error>, reason: Reason, facts: Facts, words: Words) {
    let failure = Failure::from(error.unwrap_or_else(|| panic!("{input}: was not refused")));
    Expected { reason, facts: facts.to_vec(), words }.check(input, &failure);
}

fn produce(partition: Option<i32>, batches: Bytes) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: "events".to_owned(),
        partition,
        payload: Some(v1::produce_request::Payload::Batches(batches)),
        ..v1::ProduceRequest::default()
    }
}

fn good() -> v1::ProduceRequest {
    produce(Some(0), batch(&["x"], &[1]).into_bytes())
}

fn plain(records: Vec<v1::Record>) -> v1::ProduceRequest {
    v1::ProduceRequest { payload: Some(v1::produce_request::Payload::Records(v1::RecordList { records })), ..good() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_cannot_be_is_refused_by_its_field() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let mut client = ProducerServiceClient::new(channel.clone());
    use Reason::{InvalidArgument as Invalid, UnknownPartition, UnknownTopic};
    let field: fn(&'static str) -> Facts = |field| Box::leak(Box::new([("field", field)]));
    let record = || v1::Record { value: Some(Bytes::from_static(b"x")), ..v1::Record::default() };
    let header = v1::Header { key: String::new(), value: None };
    let sequence = |id, epoch, base| Some(v1::ProducerSequence { producer_id: id, producer_epoch: epoch, base_sequence: base });
    let rows: Vec<(&str, v1::ProduceRequest, Reason, Facts, Words)> = vec![
        ("no topic", v1::ProduceRequest { topic: String::new(), ..good() }, Invalid, field("topic"), &["name a topic"]),
        (
            "an unknown topic",
            v1::ProduceRequest { topic: "nowhere".to_owned(), ..good() },
            UnknownTopic,
            &[("topic", "nowhere")],
            &["create it first"],
        ),
        (
            "partition 1 of 1",
            v1::ProduceRequest { partition: Some(1), ..good() },
            UnknownPartition,
            &[("partition", "1"), ("limit", "1")],
            &["numbered from 0"],
        ),
        (
            "partition -1",
            v1::ProduceRequest { partition: Some(-1), ..good() },
            UnknownPartition,
            &[("partition", "-1")],
            &["numbered from 0"],
        ),
        (
            "batches without a partition",
            produce(None, Bytes::from_static(b"x")),
            Invalid,
            field("partition"),
            &["`batches` need one"],
        ),
        (
            "no payload",
            v1::ProduceRequest { payload: None, ..good() },
            Invalid,
            field("payload"),
            &["give `records` or `batches`"],
        ),
        ("no records", plain(Vec::new()), Invalid, field("records"), &["at least one"]),
        (
            "a codec with batches",
            v1::ProduceRequest { compression: 4, ..good() },
            Invalid,
            field("compression"),
            &["batches say both"],
        ),
        (
            "an unknown codec",
            v1::ProduceRequest { compression: 99, ..plain(vec![record()]) },
            Invalid,
            field("compression"),
            &["99"],
        ),
        (
            "a negative time",
            plain(vec![v1::Record { timestamp_ms: Some(-5), ..record() }]),
            Invalid,
            field("records[0].timestamp_ms"),
            &["-5 is below 0"],
        ),
        (
            "a header without a name",
            plain(vec![v1::Record { headers: vec![header], ..record() }]),
            Invalid,
            field("records[0].headers"),
            &["without a name"],
        ),
        (
            "a producer epoch of 40000",
            v1::ProduceRequest { sequence: sequence(1, 40_000, 0), ..plain(vec![record()]) },
            Invalid,
            field("sequence.producer_epoch"),
            &["0 to 32767"],
        ),
        (
            "a negative sequence",
            v1::ProduceRequest { sequence: sequence(1, 0, -1), ..plain(vec![record()]) },
            Invalid,
            field("sequence"),
            &["negative"],
        ),
        (
            "a timeout of an hour",
            v1::ProduceRequest { timeout_ms: 3_600_000, ..good() },
            Invalid,
            field("timeout_ms"),
            &["above 300000"],
        ),
        (
            "a uid of 3 bytes",
            v1::ProduceRequest { topic_uid: Bytes::from_static(b"abc"), ..good() },
            Invalid,
            field("topic_uid"),
            &["16"],
        ),
        (
            "another uid",
            v1::ProduceRequest { topic_uid: Bytes::from_static(&[9; 16]), ..good() },
            Reason::TopicUidMismatch,
            &[("topic", "events")],
            &["fetch metadata again"],
        ),
        (
            "a leader epoch to come",
            v1::ProduceRequest { leader_epoch: Some(99), ..good() },
            Reason::UnknownLeaderEpoch,
            &[],
            &["try again"],
        ),
        (
            "a leader epoch of the past",
            v1::ProduceRequest { leader_epoch: Some(-1), ..good() },
            Reason::FencedLeaderEpoch,
            &[],
            &["fetch metadata again"],
        ),
    ];
    for (input, request, reason, facts, words) in rows {
        refused(input, client.produce(request).await, reason, facts, words);
    }
    let init = |name: &str, window, id, epoch| v1::InitProducerRequest {
        name: name.to_owned(),
        max_in_flight_batches: window,
        producer_id: id,
        producer_epoch: epoch,
    };
    let rows: Vec<(&str, v1::InitProducerRequest, Facts, Words)> = vec![
        ("a window of 65", init("", 65, None, None), field("max_in_flight_batches"), &["1 to 64"]),
        ("an id without its epoch", init("", 0, Some(1), None), field("producer_epoch"), &["give both or none"]),
        ("an epoch of 40000", init("", 0, Some(1), Some(40_000)), field("producer_epoch"), &["0 to 32767"]),
        ("a negative id", init("", 0, Some(-1), Some(0)), field("producer_epoch"), &["never given out"]),
        ("a name of 250 bytes", init(&"n".repeat(250), 0, None, None), field("name"), &["at most 249"]),
    ];
    for (input, request, facts, words) in rows {
        refused(input, client.init_producer(request).await, Invalid, facts, words);
    }
    assert_eq!(broker.hub().marks_of(&tidegate_broker::hub::PartitionRef::new("events", 0)).unwrap().high_watermark.0, 0);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_a_sequence_and_a_fenced_producer_are_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let mut client = ProducerServiceClient::new(channel);
    let named = v1::InitProducerRequest { name: "loader".to_owned(), ..v1::InitProducerRequest::default() };
    let first = client.init_producer(named.clone()).await.unwrap().into_inner();
    let numbered = |identity: &v1::InitProducerResponse, sequence| {
        let (id, epoch) =
            (tidegate_model::ProducerId(identity.producer_id), tidegate_model::ProducerEpoch(identity.producer_epoch as i16));
        produce(Some(0), sequenced("x", id, epoch, sequence).into_bytes())
    };
    client.produce(numbered(&first, 0)).await.unwrap();
    let gap = client.produce(numbered(&first, 5)).await;
    refused("a gap", gap, Reason::OutOfSequence, &[("expected", "1"), ("got", "5")], &["5 where 1 follows", "InitProducer"]);
    let again = client.produce(numbered(&first, 0)).await.unwrap().into_inner();
    assert!(again.results[0].duplicate && again.results[0].base_offset == 0, "a repeat is no gap");
    let second = client.init_producer(named).await.unwrap().into_inner();
    client.produce(numbered(&second, 0)).await.unwrap();
    let fenced = client.produce(numbered(&first, 1)).await;
    refused("a fenced epoch", fenced, Reason::ProducerFenced, &[("producer_epoch", "1")], &["newer incarnation", "must stop"]);
    broker.shutdown().await;
}

fn fetch(topic: &str, partition: i32, offset: i64) -> v1::FetchRequest {
    let part = v1::FetchPartition { topic: topic.to_owned(), partition, offset, ..v1::FetchPartition::default() };
    v1::FetchRequest { partitions: vec![part], ..v1::FetchRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_from_where_nothing_is_names_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    say(broker.hub(), "events", 0, "x").await;
    let mut client = ConsumerServiceClient::new(channel);
    let beyond: Facts = &[("log_start_offset", "0"), ("high_watermark", "1")];
    let rows: Vec<(&str, v1::FetchRequest, Reason, Facts, Words)> = vec![
        ("an offset beyond the end", fetch("events", 0, 2), Reason::OffsetOutOfRange, beyond, &["goes from 0 to 1"]),
        (
            "the greatest offset",
            fetch("events", 0, i64::MAX),
            Reason::OffsetOutOfRange,
            beyond,
            &["9223372036854775807 is not in the log"],
        ),
        ("an unknown topic", fetch("nowhere", 0, 0), Reason::UnknownTopic, &[("topic", "nowhere")], &["check the spelling"]),
        (
            "partition 7",
            fetch("events", 7, 0),
            Reason::UnknownPartition,
            &[("partition", "7"), ("limit", "1")],
            &["numbered from 0"],
        ),
        ("partition -1", fetch("events", -1, 0), Reason::UnknownPartition, &[("partition", "-1")], &["numbered from 0"]),
    ];
    for (input, request, reason, facts, words) in rows {
        let error = client.fetch(request).await.unwrap().into_inner().partitions.remove(0).error;
        part_refused(input, error, reason, facts, words);
    }
    let field: fn(&'static str) -> Facts = |field| Box::leak(Box::new([("field", field)]));
    let mut twice = fetch("events", 0, 0);
    twice.partitions.push(twice.partitions[0].clone());
    let rows: Vec<(&str, v1::FetchRequest, Facts, Words)> = vec![
        ("a negative offset", fetch("events", 0, -1), field("partitions[0].offset"), &["-1 is below 0"]),
        ("no partitions", v1::FetchRequest::default(), field("partitions"), &["at least one"]),
        ("a partition twice", twice, field("partitions[1]"), &["a second time"]),
        (
            "a wait of two minutes",
            v1::FetchRequest { max_wait_ms: 120_000, ..fetch("events", 0, 0) },
            field("max_wait_ms"),
            &["limits.max_wait_ms, 60000"],
        ),
        ("an unknown format", v1::FetchRequest { format: 42, ..fetch("events", 0, 0) }, field("format"), &["42 is unknown"]),
    ];
    for (input, request, facts, words) in rows {
        refused(input, client.fetch(request).await, Reason::InvalidArgument, facts, words);
    }
    let of = |position| v1::ListOffsetsPartition { topic: "events".to_owned(), position, ..v1::ListOffsetsPartition::default() };
    use v1::position::Position as Place;
    let rows: Vec<(&str, Option<Place>, Facts, Words)> = vec![
        ("no position", None, field("partitions[0].position"), &["give a named position"]),
        ("an unknown name", Some(Place::Named(9)), field("partitions[0].position.named"), &["EARLIEST (1)"]),
        ("a negative offset", Some(Place::Offset(-1)), field("partitions[0].position.offset"), &["-1 is below 0"]),
        ("a negative time", Some(Place::TimestampMs(-1)), field("partitions[0].position.timestamp_ms"), &["-1 is below 0"]),
    ];
    for (input, place, facts, words) in rows {
        let position = Some(v1::Position { position: place });
        let request = v1::ListOffsetsRequest { partitions: vec![of(position)], ..v1::ListOffsetsRequest::default() };
        refused(input, client.list_offsets(request).await, Reason::InvalidArgument, facts, words);
    }
    let subscription = v1::Subscription { topic: "events".to_owned(), ..v1::Subscription::default() };
    let subscribe = v1::SubscribeRequest { subscriptions: vec![subscription], ..v1::SubscribeRequest::default() };
    let rows: Vec<(&str, v1::SubscribeRequest, Facts, Words)> = vec![
        ("no subscriptions", v1::SubscribeRequest::default(), field("subscriptions"), &["at least one topic"]),
        ("an unknown mode", v1::SubscribeRequest { mode: 9, ..subscribe.clone() }, field("mode"), &["9 is unknown"]),
        (
            "messages of a byte",
            v1::SubscribeRequest { max_message_bytes: 1, ..subscribe },
            field("max_message_bytes"),
            &["4096 to"],
        ),
    ];
    for (input, request, facts, words) in rows {
        refused(input, client.subscribe(request).await, Reason::InvalidArgument, facts, words);
    }
    broker.shutdown().await;
}

fn new_topic(name: &str, settings: v1::TopicSettings) -> v1::CreateTopicRequest {
    v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_settings_that_kafka_or_sense_forbid_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "my_events", 1).await;
    let mut client = TopicServiceClient::new(channel.clone());
    let long = "n".repeat(250);
    let names: [(&str, &str); 12] = [
        ("", "1 to 249 characters"),
        (".", "are not names"),
        ("..", "are not names"),
        ("../x", "only a-z"),
        ("a/b", "only a-z"),
        ("a b", "only a-z"),
        ("a\0b", "only a-z"),
        ("\u{43e}rders", "only a-z"),
        ("events\u{200b}", "only a-z"),
        (&long, "1 to 249 characters"),
        ("__offsets", "belong to the hub"),
        ("my.events", "collides with `my_events`"),
    ];
    for (name, words) in names {
        let outcome = client.create_topic(new_topic(name, v1::TopicSettings::default())).await;
        let failure = Failure::from_status(&outcome.expect_err(name));
        assert_eq!(
            (failure.reason, failure.metadata["field"].as_str()),
            (Reason::InvalidArgument, "name"),
            "{name:?}: {failure}"
        );
        assert!(failure.message.contains(words), "{name:?}: {failure}");
    }
    let none = v1::TopicSettings::default;
    let rows: Vec<(&str, v1::TopicSettings, &str)> = vec![
        ("partitions", v1::TopicSettings { partitions: Some(0), ..none() }, "1 to"),
        ("partitions", v1::TopicSettings { partitions: Some(u32::MAX), ..none() }, "1 to"),
        ("retention_ms", v1::TopicSettings { retention_ms: Some(-1), ..none() }, "at least 1"),
        ("retention_ms", v1::TopicSettings { retention_ms: Some(0), ..none() }, "leave it out"),
        ("retention_bytes_per_partition", v1::TopicSettings { retention_bytes_per_partition: Some(0), ..none() }, "leave it out"),
        ("max_message_bytes", v1::TopicSettings { max_message_bytes: Some(0), ..none() }, "it is from"),
        ("max_message_bytes", v1::TopicSettings { max_message_bytes: Some(u32::MAX), ..none() }, "it is from"),
        (
            "max_message_bytes",
            v1::TopicSettings { max_message_bytes: Some(2 << 20), ..none() },
            "limits.max_message_bytes, 1048576",
        ),
        ("seal_bytes", v1::TopicSettings { seal_bytes: Some(0), ..none() }, "at least 1"),
        ("seal_age_ms", v1::TopicSettings { seal_age_ms: Some(0), ..none() }, "at least 1"),
        ("cleanup_policy", v1::TopicSettings { cleanup_policy: 2, ..none() }, "retention"),
        ("cleanup_policy", v1::TopicSettings { cleanup_policy: 77, ..none() }, "77"),
        ("timestamp_type", v1::TopicSettings { timestamp_type: 77, ..none() }, "77"),
        ("compression", v1::TopicSettings { compression: 77, ..none() }, "77"),
        ("placement_group", v1::TopicSettings { placement_group: Some("../x".to_owned()), ..none() }, "only a-z"),
        ("labels", v1::TopicSettings { labels: [(String::new(), "x".to_owned())].into(), ..none() }, "shorten them"),
    ];
    for (field, settings, words) in rows {
        let failure = Failure::from_status(&client.create_topic(new_topic("fine", settings)).await.expect_err(field));
        assert!(matches!(failure.reason, Reason::InvalidArgument | Reason::Unsupported), "{field}: {failure:?}");
        assert!(failure.metadata["field"].ends_with(field), "{field}: {failure:?}");
        assert!(failure.message.contains(words), "{field}: {failure}");
    }
    let many = v1::TopicSettings { partitions: Some(10_000), ..none() };
    let total: Facts = &[("field", "settings.partitions"), ("limit", "10000"), ("setting", "hub.max_partitions")];
    let outcome = client.create_topic(new_topic("many", many)).await;
    refused("more partitions than the hub takes", outcome, Reason::LimitExceeded, total, &["raise the setting"]);
    let listed = client.list_topics(v1::ListTopicsRequest::default()).await.unwrap().into_inner().topics;
    assert_eq!(listed.len(), 1, "nothing of what was refused was made: {listed:?}");
    let refusal = client.list_topics(v1::ListTopicsRequest { page_size: 1_000_000, ..Default::default() }).await;
    refused("a page of a million", refusal, Reason::InvalidArgument, &[("field", "page_size")], &["is above"]);
    let unknown = client.delete_topic(v1::DeleteTopicRequest { name: "nowhere".to_owned(), ..Default::default() }).await;
    refused("a topic to delete", unknown, Reason::UnknownTopic, &[("topic", "nowhere")], &["check the spelling"]);
    let nameless = client.delete_topic(v1::DeleteTopicRequest::default()).await;
    refused("no name to delete", nameless, Reason::InvalidArgument, &[("field", "name")], &["name a topic"]);
    broker.shutdown().await;
}

async fn commit(
    channel: &Channel,
    group: &str,
    offset: v1::CommittedOffset,
) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
    let request = v1::CommitOffsetsRequest { group: group.to_owned(), offsets: vec![offset], ..Default::default() };
    GroupServiceClient::new(channel.clone()).commit_offsets(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_make_no_sense_are_refused_and_backward_ones_are_the_readers_choice() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let at = |partition, offset| v1::CommittedOffset { topic: "events".to_owned(), partition, offset, ..Default::default() };
    let invalid = Reason::InvalidArgument;
    refused("no group", commit(&channel, "", at(0, 1)).await, invalid, &[("field", "group")], &["1 to 249"]);
    let long = "g".repeat(250);
    refused("a group of 250", commit(&channel, &long, at(0, 1)).await, invalid, &[("field", "group")], &["250 characters"]);
    let error = async |offset| commit(&channel, "readers", offset).await.unwrap().into_inner().results.remove(0).error;
    part_refused("a negative offset", error(at(0, -1)).await, invalid, &[("field", "offsets[0].offset")], &["-1 is below 0"]);
    part_refused("partition 9", error(at(9, 1)).await, Reason::UnknownPartition, &[("partition", "9")], &["numbered from 0"]);
    let nowhere = v1::CommittedOffset { topic: "nowhere".to_owned(), ..at(0, 1) };
    part_refused("an unknown topic", error(nowhere).await, Reason::UnknownTopic, &[("topic", "nowhere")], &["create it first"]);
    let heavy = v1::CommittedOffset { metadata: "m".repeat(4097), ..at(0, 1) };
    part_refused("a note of 4097 bytes", error(heavy).await, invalid, &[("field", "offsets[0].metadata")], &["at most 4096"]);
    // As with Kafka, a group may go back, and ahead of what there is: the read from there says what is wrong with it.
    assert_eq!((error(at(0, 7)).await, error(at(0, 3)).await), (None, None));
    let fetched = GroupServiceClient::new(channel.clone())
        .fetch_offsets(v1::FetchOffsetsRequest { group: "readers".to_owned(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(fetched.offsets.iter().map(|found| found.offset).collect::<Vec<_>>(), [3]);
    let unknown =
        GroupServiceClient::new(channel.clone()).delete_group(v1::DeleteGroupRequest { group: "nobody".to_owned() }).await;
    refused("an unknown group", unknown, Reason::UnknownGroup, &[("group", "nobody")], &["no group"]);
    broker.shutdown().await;
}
