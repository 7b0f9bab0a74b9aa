//! What a real Kafka wrote is read as it was meant: see `kafka-segments/README.md`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read real files")]

use bytes::Bytes;
use tidegate_model::{BatchLimits, BatchSource, Compression, HEADER_BYTES, Record, RecordBatch, TimestampMs};

const RECORDS: usize = 300;

fn segment(name: &str) -> Bytes {
    let path = format!("{}/tests/kafka-segments/{name}.log", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(&path).unwrap())
}

fn log_limits() -> BatchLimits {
    BatchLimits { source: BatchSource::Log, ..Default::default() }
}

fn records(batches: &[RecordBatch]) -> Vec<Record> {
    batches.iter().flat_map(|batch| batch.records().unwrap()).map(Result::unwrap).collect()
}

fn assert_records(records: &[Record], name: &str) {
    assert_eq!(records.len(), RECORDS, "{name}");
    for (i, record) in records.iter().enumerate() {
        let value = format!("value {i}, which says the same thing the same way the same number of times");
        assert_eq!(record.offset.0, i as i64, "{name}");
        assert_eq!(record.key.as_deref(), Some(format!("key-{}", i % 7).as_bytes()), "{name}");
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "{name}");
        assert_eq!(record.headers.len(), 1, "{name}");
        assert_eq!(&record.headers[0].key[..], b"n", "{name}");
        assert_eq!(record.headers[0].value.as_deref(), Some(i.to_string().as_bytes()), "{name}");
        assert!(record.timestamp > TimestampMs(1_700_000_000_000), "{name}");
    }
}

#[test]
fn each_producers_batches_of_each_codec_are_read() {
    for producer in ["java", "librdkafka"] {
        for codec in Compression::ALL {
            let name = format!("{producer}-{codec}");
            // These are clients' batches, so the strict checks of the edge must pass, too.
            let batches = RecordBatch::parse_all(segment(&name), &BatchLimits::default()).unwrap();
            assert!(batches.iter().any(|b| b.header().attributes.compression().unwrap() == codec), "{name}");
            assert!(batches.iter().all(|b| b.header().is_idempotent()), "{name}");
            assert_records(&records(&batches), &name);
        }
    }
}

#[test]
fn both_framings_of_snappy_are_among_them() {
    let starts_as_snappy_java = |name: &str| {
        let batches = RecordBatch::parse_all(segment(name), &log_limits()).unwrap();
        batches.iter().any(|b| b.bytes()[HEADER_BYTES..].starts_with(b"\x82SNAPPY\0"))
    };
    assert!(starts_as_snappy_java("java-snappy"));
    assert!(!starts_as_snappy_java("librdkafka-snappy"));
}

#[test]
fn control_batches_are_recognised_and_refused_from_clients() {
    let batches = RecordBatch::parse_all(segment("transactions"), &log_limits()).unwrap();
    let control: Vec<bool> = batches.iter().map(|b| b.header().attributes.is_control()).collect();
    assert_eq!(control, [false, true, false, true]);
    assert!(batches.iter().all(|b| b.header().attributes.is_transactional()));
    // A marker's key is its version (0) and its type: 1 commits, 0 aborts.
    let markers: Vec<Record> = records(&[batches[1].clone(), batches[3].clone()]);
    let kinds: Vec<&[u8]> = markers.iter().map(|r| r.key.as_deref().unwrap()).collect();
    assert_eq!(kinds, [&[0, 0, 0, 1][..], &[0, 0, 0, 0]]);
    let error = RecordBatch::parse(batches[1].bytes().clone(), &BatchLimits::default()).unwrap_err();
    assert!(error.to_string().contains("control batches are written by brokers only"), "{error}");
}
