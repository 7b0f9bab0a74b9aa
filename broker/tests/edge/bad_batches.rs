//! Batches that are not what they say: each is refused with its field, by both ways in, and leaves nothing behind.

use bytes::{BufMut, Bytes, BytesMut};
use tidegate_model::{BatchBuilder, Compression, TimestampMs};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tonic::transport::Channel;

use crate::common::batch;
use crate::support::{Expected, create_topic, settings, start};

/// One bad batch: what it is, its bytes, and what is answered.
struct Row(&'static str, Bytes, Expected);

fn invalid(field: &'static str, words: &'static [&'static str]) -> Expected {
    Expected { reason: Reason::InvalidBatch, facts: vec![("field", field)], words }
}

fn too_large(field: &'static str, setting: &'static str, words: &'static [&'static str]) -> Expected {
    Expected { reason: Reason::MessageTooLarge, facts: vec![("field", field), ("setting", setting)], words }
}

/// Sets the checksum right, so that what follows it is looked at.
fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// A good batch with some of its header's bytes replaced.
fn with(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch(&["a", "b"], &[1, 2]).into_bytes().to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    sealed(batch)
}

fn varint(value: i64, out: &mut BytesMut) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.put_u8((left as u8) | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

/// A record without a key, with value `x` and given deltas and headers' bytes; `longer` is added to its stated length.
fn record(timestamp_delta: i64, offset_delta: i64, headers: &[u8], longer: i64) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u8(0);
    varint(timestamp_delta, &mut body);
    varint(offset_delta, &mut body);
    varint(-1, &mut body);
    varint(1, &mut body);
    body.put_u8(b'x');
    body.extend_from_slice(headers);
    let mut out = BytesMut::new();
    varint(body.len() as i64 + longer, &mut out);
    out.extend_from_slice(&body);
    out
}

/// A batch of records made by hand, with codec bits.
fn of_records(records: &[BytesMut], codec: i16) -> Bytes {
    let mut bytes = batch(&["a"], &[1]).into_bytes()[..61].to_vec();
    records.iter().for_each(|record| bytes.extend_from_slice(record));
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&codec.to_be_bytes());
    bytes[23..27].copy_from_slice(&(records.len() as i32 - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&(records.len() as i32).to_be_bytes());
    sealed(bytes)
}

/// 80 MB of zeros, made small.
fn bomb(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    let value = vec![0u8; 80_000_000];
    builder.push(TimestampMs(1), None, Some(&value), &[]);
    builder.build().unwrap().into_bytes()
}

const NONE: &[u8] = &[0];

fn broken() -> Vec<Row> {
    let good = batch(&["a", "b"], &[1, 2]).into_bytes();
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    vec![
        Row("a flipped bit", Bytes::from(flipped), invalid("batches.crc", &["damaged on its way", "send it again"])),
        Row("half a header", good.slice(..30), invalid("batches.batch_header", &["61 bytes are needed", "whole record batches"])),
        Row("a cut batch", good.slice(..good.len() - 1), invalid("batches.batch_length", &["send whole record batches"])),
        Row(
            "a length beyond the bytes",
            with(8, &1000i32.to_be_bytes()),
            invalid("batches.batch_length", &["1012 bytes are needed"]),
        ),
        Row("a negative length", with(8, &(-1i32).to_be_bytes()), invalid("batches.batch_length", &["is -1"])),
        Row("a length that cuts the records", with(8, &60i32.to_be_bytes()), invalid("batches.crc", &["crc is"])),
        Row("bytes after the batch", [&good[..], b"tail"].concat().into(), invalid("batches.batch_header", &["4 are there"])),
        Row(
            "no bytes at all",
            Bytes::new(),
            Expected { reason: Reason::InvalidArgument, facts: vec![("field", "batches")], words: &["is empty"] },
        ),
        Row("magic 1", with(16, &[1]), invalid("batches.magic", &["magic is 1", "Kafka 0.11 or newer"])),
        Row("magic 3", with(16, &[3]), invalid("batches.magic", &["magic is 3"])),
        Row("a count below the records", with(57, &1i32.to_be_bytes()), invalid("batches.record_count", &["is 1"])),
        Row("a count of none", with(57, &0i32.to_be_bytes()), invalid("batches.record_count", &["at least one record"])),
        Row("a negative count", with(57, &(-1i32).to_be_bytes()), invalid("batches.record_count", &["is -1"])),
        Row("a count beyond the bytes", with(57, &i32::MAX.to_be_bytes()), invalid("batches.record_count", &["2147483647"])),
        Row("a negative last delta", with(23, &(-1i32).to_be_bytes()), invalid("batches.last_offset_delta", &["0 or more"])),
        Row("codec 5", with(21, &5i16.to_be_bytes()), invalid("batches.attributes.compression", &["is 5", "4 zstd are known"])),
        Row("codec 7", with(21, &7i16.to_be_bytes()), invalid("batches.attributes.compression", &["is 7"])),
        Row("gzip that is none", with(21, &1i16.to_be_bytes()), invalid("batches.records", &["gzip failed", "uncompressed"])),
        Row("zstd that is none", with(21, &4i16.to_be_bytes()), invalid("batches.records", &["zstd failed"])),
        Row(
            "a control batch",
            with(21, &0x20i16.to_be_bytes()),
            invalid("batches.attributes", &["by brokers only", "clear bit 5"]),
        ),
        Row("append time from a client", with(21, &8i16.to_be_bytes()), invalid("batches.attributes", &["clear bit 3"])),
        Row("a delete horizon", with(21, &0x40i16.to_be_bytes()), invalid("batches.attributes", &["clear bit 6"])),
        Row("undefined bits", with(21, &0x80i16.to_be_bytes()), invalid("batches.attributes", &["bits 7 to 15"])),
        Row("producer id -2", with(43, &(-2i64).to_be_bytes()), invalid("batches.producer_id", &["is -2"])),
        Row("a producer without a sequence", with(43, &7i64.to_be_bytes()), invalid("batches.base_sequence", &["of 0 or more"])),
        Row(
            "a transaction's batch",
            with(21, &0x10i16.to_be_bytes()),
            Expected {
                reason: Reason::Unsupported,
                facts: vec![("field", "batches")],
                words: &["transactions", "send it without"],
            },
        ),
    ]
}

fn bad_records() -> Vec<Row> {
    let two = |first, second| of_records(&[record(0, first, NONE, 0), record(0, second, NONE, 0)], 0);
    let delta =
        |bytes| Row("offset deltas that do not run 0, 1, 2", bytes, invalid("batches.record.offset_delta", &["in order"]));
    let one = |headers: &[u8], longer| of_records(&[record(0, 0, headers, longer)], 0);
    let time = |base: i64, delta: i64| {
        let mut bytes = of_records(&[record(delta, 0, NONE, 0)], 0).to_vec();
        bytes[27..35].copy_from_slice(&base.to_be_bytes());
        sealed(bytes)
    };
    let mut heavy = BytesMut::new();
    varint(1, &mut heavy);
    varint(1, &mut heavy);
    heavy.put_u8(b'h');
    varint(70_000, &mut heavy);
    heavy.put_bytes(b'x', 70_000);
    vec![
        delta(two(1, 0)),
        delta(two(0, -1)),
        delta(two(0, 0)),
        delta(two(0, 2)),
        delta(two(i64::MIN, i64::MAX)),
        Row("a time beyond 64 bits", time(i64::MAX, 1), invalid("batches.record.timestamp_delta", &["since the Unix epoch"])),
        Row("a time below 64 bits", time(i64::MIN, -1), invalid("batches.record.timestamp_delta", &["beyond 64 bits"])),
        Row("a record longer than it says", one(NONE, -1), invalid("batches.record.length", &["does not agree"])),
        Row("a record shorter than it says", one(NONE, 5), invalid("batches.record.length", &["does not agree"])),
        Row("a negative number of headers", one(&[1], 0), invalid("batches.record.headers", &["is -1"])),
        Row("a header without a name", one(&[2, 1, 1], 0), invalid("batches.record.header.key", &["give it a name"])),
        Row("a number without an end", one(&[0xff; 12], 0), invalid("batches.record.headers", &["longer than ten bytes"])),
        Row("headers of 70 kB", one(&heavy, 0), too_large("batches.record.headers", "limits.max_headers_bytes", &["65536"])),
    ]
}

fn bombs() -> Vec<Row> {
    let limit = "limits.max_decompressed_bytes (or, above 1 MiB, limits.max_compression_ratio)";
    let bomb = |codec| Row("80 MB of zeros, compressed", bomb(codec), too_large("batches.records", limit, &["allows"]));
    let large = |bytes: usize| batch(&[&"x".repeat(bytes)], &[1]).into_bytes();
    vec![
        bomb(Compression::Gzip),
        bomb(Compression::Zstd),
        bomb(Compression::Lz4),
        Row("a batch over 1 MiB", large(1 << 20), too_large("batches", "limits.max_message_bytes", &["1048576", "send less"])),
        Row("a batch over the topic's limit", large(600_000), too_large("batches", "the topic's max_message_bytes", &["500000"])),
    ]
}

async fn by_call(channel: &Channel, batches: Bytes) -> Result<(), Failure> {
    let request = v1::ProduceRequest {
        topic: "events".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Batches(batches)),
        ..v1::ProduceRequest::default()
    };
    ProducerServiceClient::new(channel.clone()).produce(request).await.map(drop).map_err(|status| Failure::from_status(&status))
}

/// All rows in one stream, with a good batch after each: a bad frame costs its neighbours nothing.
async fn by_stream(channel: &Channel, rows: &[Row]) -> Vec<Option<Failure>> {
    let good = batch(&["good"], &[1]).into_bytes();
    let frames = rows.iter().flat_map(|row| [row.1.clone(), good.clone()]).zip(0..);
    let frames: Vec<_> = frames
        .map(|(batches, request_id)| v1::ProduceStreamRequest {
            request_id,
            topic: "events".to_owned(),
            payload: Some(v1::produce_stream_request::Payload::Batches(batches)),
            ..v1::ProduceStreamRequest::default()
        })
        .collect();
    let mut client = ProducerServiceClient::new(channel.clone());
    let mut answers = client.produce_stream(tokio_stream::iter(frames)).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        for ack in answer.acks {
            assert_eq!(ack.request_id, outcomes.len() as u64, "one partition's acknowledgements are in order");
            outcomes.push(ack.error.map(Failure::from));
        }
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_not_what_it_says_is_refused_by_its_field_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let alter = v1::AlterTopicRequest {
        name: "events".to_owned(),
        settings: Some(v1::TopicSettings { max_message_bytes: Some(500_000), ..v1::TopicSettings::default() }),
        ..v1::AlterTopicRequest::default()
    };
    v1::topic_service_client::TopicServiceClient::new(channel.clone()).alter_topic(alter).await.unwrap();
    let rows: Vec<Row> = broken().into_iter().chain(bad_records()).chain(bombs()).collect();
    for Row(name, bytes, expected) in &rows {
        let failure = by_call(&channel, bytes.clone()).await.expect_err(name);
        expected.check(name, &failure);
    }
    let outcomes = by_stream(&channel, &rows).await;
    assert_eq!(outcomes.len(), 2 * rows.len());
    for (row, outcome) in rows.iter().zip(outcomes.chunks(2)) {
        row.2.check(row.0, outcome[0].as_ref().expect(row.0));
        assert_eq!(outcome[1], None, "the good batch after {}", row.0);
    }
    let found = crate::common::values(&crate::common::read_all(broker.hub(), "events", 0, 0).await);
    assert_eq!(found, vec!["good"; rows.len()], "nothing of what was refused is there");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_at_the_ends_of_what_is_allowed_are_kept_and_found() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    for time in [i64::MAX, 0, -1, i64::MIN] {
        let bytes = batch(&["x"], &[time]).into_bytes();
        by_call(&channel, bytes).await.unwrap();
    }
    let found: Vec<_> =
        crate::common::read_all(broker.hub(), "events", 0, 0).await.iter().map(|record| record.timestamp.0).collect();
    assert_eq!(found, [i64::MAX, 0, -1, i64::MIN]);
    let mut consumer = v1::consumer_service_client::ConsumerServiceClient::new(channel.clone());
    for (time, offset) in [(0, 0), (1, 0), (i64::MAX, 0)] {
        let position = v1::Position { position: Some(v1::position::Position::TimestampMs(time)) };
        let part = v1::ListOffsetsPartition { topic: "events".to_owned(), position: Some(position), ..Default::default() };
        let request = v1::ListOffsetsRequest { partitions: vec![part], ..Default::default() };
        assert_eq!(consumer.list_offsets(request).await.unwrap().into_inner().offsets[0].offset, offset, "{time}");
    }
    broker.shutdown().await;
}
