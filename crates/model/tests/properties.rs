//! Properties of batches over generated records and damaged bytes. proptest prints the seed of a failure.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_model::{
    BatchBuilder, BatchLimits, BatchSource, Compression, Header, Record, RecordBatch, RecordValidation, TimestampMs, batch,
};

type Generated = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), (0usize..3000).prop_map(|n| vec![b'x'; n])]
}

fn records() -> impl Strategy<Value = Vec<Generated>> {
    let header = (proptest::collection::vec(any::<u8>(), 0..10), proptest::option::of(blob()));
    let record = (
        0i64..4_000_000_000_000,
        proptest::option::of(blob()),
        proptest::option::of(blob()),
        proptest::collection::vec(header, 0..4),
    );
    proptest::collection::vec(record, 1..40)
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}

fn build(codec: Compression, records: &[Generated]) -> RecordBatch {
    let mut builder = BatchBuilder::new(codec);
    for (timestamp, key, value, headers) in records {
        let headers: Vec<Header> = headers
            .iter()
            .map(|(key, value)| Header { key: key.clone().into(), value: value.clone().map(Bytes::from) })
            .collect();
        builder.push(TimestampMs(*timestamp), key.as_deref(), value.as_deref(), &headers);
    }
    builder.build().unwrap()
}

/// Puts a right checksum on damaged bytes, so that the damage reaches the checks behind it.
fn with_right_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Err(batch::Error::Crc { computed, .. }) = batch::verify_crc(&bytes) {
        bytes[17..21].copy_from_slice(&computed.to_be_bytes());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_built_is_read(codec in codec(), records in records()) {
        let parsed = RecordBatch::parse(build(codec, &records).into_bytes(), &BatchLimits::default()).unwrap();
        let read: Vec<Record> = parsed.records().unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), records.len());
        for (i, (read, (timestamp, key, value, headers))) in read.iter().zip(&records).enumerate() {
            prop_assert_eq!(read.offset.0, i as i64);
            prop_assert_eq!(read.timestamp.0, *timestamp);
            prop_assert_eq!(read.key.as_deref(), key.as_deref());
            prop_assert_eq!(read.value.as_deref(), value.as_deref());
            prop_assert_eq!(read.headers.len(), headers.len());
        }
        prop_assert_eq!(parsed.header().max_timestamp.0, records.iter().map(|r| r.0).max().unwrap());
    }

    #[test]
    fn damage_never_panics_and_what_passes_can_be_iterated(
        codec in codec(),
        records in records(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = build(codec, &records).bytes().to_vec();
        for (at, byte) in damage {
            let at = 21 + at.index(bytes.len() - 21);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
            if bytes.len() > 61 {
                let length = (bytes.len() - 12) as i32;
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
            }
        }
        let bytes = Bytes::from(with_right_crc(bytes));
        for source in [BatchSource::Client, BatchSource::Log] {
            let limits = BatchLimits { source, ..Default::default() };
            if let Ok(batch) = RecordBatch::parse(bytes.clone(), &limits) {
                prop_assert_eq!(batch.records().unwrap().filter(Result::is_ok).count() as i32, batch.header().record_count);
            }
        }
        let lax = BatchLimits { validate_records: RecordValidation::HeaderOnly, source: BatchSource::Log, ..Default::default() };
        if let Ok(batch) = RecordBatch::parse(bytes, &lax) && let Ok(records) = batch.records() {
            records.for_each(drop);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = RecordBatch::parse_all(Bytes::from(bytes.clone()), &BatchLimits::default());
        batch::batches(&bytes).for_each(drop);
        let _ = batch::verify_crc(&bytes);
    }
}
