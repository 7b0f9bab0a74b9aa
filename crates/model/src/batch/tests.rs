//! Behaviour of batches: round trips with each codec, and refusals.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

fn sample(compression: Compression, count: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new(compression);
    for i in 0..count {
        let headers = [Header { key: Bytes::from_static(b"h"), value: (i % 2 == 0).then(|| Bytes::from_static(b"v")) }];
        let key = format!("key-{i}");
        let value = format!("value of {i}, some text that repeats itself itself itself");
        let key = (i % 3 != 0).then_some(key.as_bytes());
        let value = (i % 5 != 4).then_some(value.as_bytes());
        builder.push(TimestampMs(1_700_000_000_000 + (i as i64 * 37 % 11)), key, value, &headers[..i % 2]);
    }
    builder.build().unwrap()
}

#[test]
fn a_batch_of_each_codec_comes_back_as_it_was() {
    for codec in Compression::ALL {
        let built = sample(codec, 2000);
        let parsed = RecordBatch::parse(built.bytes().clone(), &BatchLimits::default()).unwrap();
        assert_eq!(parsed, built, "{codec}");
        let plain: Vec<Record> = sample(Compression::None, 2000).records().unwrap().map(Result::unwrap).collect();
        let records: Vec<Record> = parsed.records().unwrap().map(Result::unwrap).collect();
        assert_eq!(records, plain, "{codec}");
        assert_eq!(records.len(), 2000);
    }
}

#[test]
fn base_offset_and_epoch_are_patched_without_touching_the_crc() {
    let batch = sample(Compression::None, 3);
    let mut served = served_prefix(batch.header(), Offset(77), LeaderEpoch(5)).to_vec();
    served.extend_from_slice(&batch.bytes()[PREFIX_BYTES..]);
    verify_crc(&served).unwrap();
    let header = BatchHeader::read(&served).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch, header.last_offset()), (Offset(77), LeaderEpoch(5), Offset(79)));
}

#[test]
fn any_flipped_bit_behind_the_prefix_is_refused() {
    let batch = sample(Compression::None, 3);
    for at in PREFIX_BYTES..batch.bytes().len() {
        let mut bytes = batch.bytes().to_vec();
        bytes[at] ^= 1;
        assert!(RecordBatch::parse(bytes.into(), &BatchLimits::default()).is_err(), "byte {at}");
    }
}

#[test]
fn append_time_stands_for_all_records() {
    let time = TimestampMs(1_800_000_000_000);
    let batch = sample(Compression::Lz4, 10).with_log_append_time(time);
    verify_crc(batch.bytes()).unwrap();
    assert!(batch.records().unwrap().all(|r| r.unwrap().timestamp == time));
    let error = RecordBatch::parse(batch.into_bytes(), &BatchLimits::default()).unwrap_err();
    assert!(error.to_string().contains("append time is set by the broker"), "{error}");
}

#[test]
fn sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(1), ProducerEpoch(0), Sequence(i32::MAX - 1));
    for _ in 0..3 {
        builder.push(TimestampMs(0), None, None, &[]);
    }
    let batch = builder.build().unwrap();
    assert_eq!(batch.header().last_sequence(), Sequence(0));
}

/// A batch whose records are `bytes`, compressed or not, with a right CRC and any header the caller wants.
fn forged(compressed: &[u8], change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = *sample(Compression::None, 1).header();
    header.batch_length = (HEADER_BYTES - LENGTH_OVERHEAD + compressed.len()) as i32;
    change(&mut header);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(compressed);
    let crc = super::header::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn refusal(bytes: Bytes, limits: &BatchLimits) -> String {
    RecordBatch::parse(bytes, limits).unwrap_err().to_string()
}

#[test]
fn a_bomb_of_each_codec_is_stopped_at_the_ratio_and_at_the_size() {
    for codec in &Compression::ALL[1..] {
        let zeros = vec![0u8; 8 * 1024 * 1024];
        let bomb = super::compression::compress(*codec, &zeros, Vec::new()).unwrap();
        let bomb = forged(&bomb, |h| h.attributes = Attributes(codec.id()));
        // One long record of zeros is malformed at once, so the stream itself is asked.
        let limits = BatchLimits { max_decompressed_bytes: 2 * 1024 * 1024, ..Default::default() };
        let batch = RecordBatch::trusted(bomb).unwrap();
        let error = batch.records_within(&limits).unwrap_err();
        let Error::TooLarge { value, limit, .. } = error else { panic!("{codec}: {error}") };
        assert!(limit <= 2 << 20, "{codec}: {limit}");
        // A raw block of snappy says its size beforehand; all others are stopped within one chunk of the limit.
        assert!(value <= limit + (16 << 10), "{codec}: stopped only at {value}");
    }
}

#[test]
fn a_raw_snappy_block_that_claims_gigabytes_is_refused_before_it_is_believed() {
    let claims_4_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    let error = refusal(forged(&claims_4_gib, |h| h.attributes = Attributes(2)), &BatchLimits::default());
    assert!(error.contains("decompressed size") && error.contains("max_decompressed_bytes"), "{error}");
}

#[test]
fn each_refusal_names_its_field() {
    let records = sample(Compression::None, 1).bytes().slice(HEADER_BYTES..);
    type Change = fn(&mut BatchHeader);
    let cases: [(&str, Change); 11] = [
        ("attributes.compression is 5", |h| h.attributes = Attributes(5)),
        ("attributes is 128", |h| h.attributes = Attributes(128)),
        ("control batches", |h| h.attributes = Attributes(32)),
        ("delete horizon", |h| h.attributes = Attributes(64)),
        ("last_offset_delta is -1", |h| h.last_offset_delta = -1),
        ("record_count is 2147483647", |h| (h.record_count, h.last_offset_delta) = (i32::MAX, i32::MAX)),
        ("record_count is 0", |h| h.record_count = 0),
        ("record_count is 1", |h| h.last_offset_delta = 7),
        ("record.length", |h| (h.record_count, h.last_offset_delta) = (2, 1)),
        ("base_sequence is -1", |h| h.producer_id = ProducerId(7)),
        ("producer_id is -2", |h| h.producer_id = ProducerId(-2)),
    ];
    for (expected, change) in cases {
        let error = refusal(forged(&records, change), &BatchLimits::default());
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let batch = sample(Compression::None, 1);
    let error = refusal(batch.bytes().clone(), &BatchLimits { max_batch_bytes: 70, ..Default::default() });
    assert!(error.contains("more than the limit of 70") && error.contains("max_message_bytes"), "{error}");
    let mut old = batch.bytes().to_vec();
    old[16] = 1;
    assert!(refusal(old.into(), &BatchLimits::default()).contains("magic is 1"));
    let two = [&batch.bytes()[..], &batch.bytes()[..]].concat();
    assert!(refusal(two.clone().into(), &BatchLimits::default()).contains("exactly one batch"));
    assert_eq!(RecordBatch::parse_all(two.into(), &BatchLimits::default()).unwrap().len(), 2);
}

#[test]
fn headers_over_their_limit_are_refused() {
    let mut builder = BatchBuilder::new(Compression::None);
    let headers = [Header { key: Bytes::from_static(b"h"), value: Some(Bytes::from(vec![0; 65 * 1024])) }];
    builder.push(TimestampMs(0), None, None, &headers);
    let error = refusal(builder.build().unwrap().into_bytes(), &BatchLimits::default());
    assert!(error.contains("headers") && error.contains("65536"), "{error}");
}

#[test]
fn a_wrong_greatest_timestamp_is_put_right_with_its_crc() {
    let batch = sample(Compression::Zstd, 20);
    let records = batch.bytes().slice(HEADER_BYTES..);
    let lying = forged(&records, |h| {
        *h = *batch.header();
        h.max_timestamp = TimestampMs(i64::MAX);
    });
    let parsed = RecordBatch::parse(lying, &BatchLimits::default()).unwrap();
    assert_eq!(parsed, batch);
    verify_crc(parsed.bytes()).unwrap();
}

#[test]
fn a_walk_over_batches_ends_at_the_first_cut() {
    let one = sample(Compression::None, 2);
    let mut bytes = [&one.bytes()[..], &one.bytes()[..]].concat();
    let found: Vec<_> = batches(&bytes).map(|b| b.unwrap().1).collect();
    assert_eq!(found, [0..one.bytes().len(), one.bytes().len()..bytes.len()]);
    bytes.pop();
    let found: Vec<_> = batches(&bytes).map(|b| b.is_ok()).collect();
    assert_eq!(found, [true, false]);
}

#[test]
fn another_place_in_a_sequence_changes_the_producers_fields_and_the_crc_alone() {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.push(TimestampMs(7), Some(b"k"), Some(b"v"), &[]);
    let first = builder.clone().producer(ProducerId(1), ProducerEpoch(2), Sequence(3)).build().unwrap();
    let second = builder.producer(ProducerId(9), ProducerEpoch(8), Sequence(0)).build().unwrap();
    let kept = first.clone();
    assert_eq!(first.clone().with_producer(ProducerId(9), ProducerEpoch(8), Sequence(0)), second);
    assert_eq!(first, kept, "a batch that others hold does not change");
}
