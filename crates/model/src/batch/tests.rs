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
