//! Files that this version wrote stay readable by all later ones: see `golden/README.md`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

use bytes::Bytes;
use tidegate_model::{
    BatchBuilder, BatchLimits, BatchSource, Compression, Header, Offset, ProducerEpoch, ProducerId, Record, RecordBatch,
    Sequence, TimestampMs,
};

const START_MS: i64 = 1_763_700_000_000;

fn batches(codec: Compression) -> Vec<RecordBatch> {
    let mut plain = BatchBuilder::new(codec);
    plain.push(TimestampMs(START_MS), None, Some(b"a value without a key"), &[]);
    plain.push(TimestampMs(START_MS - 5), Some(b"k"), None, &[]);
    plain.push(TimestampMs(START_MS + 70), Some(b""), Some(b""), &[]);
    let mut idempotent =
        BatchBuilder::new(codec).base_offset(Offset(3)).producer(ProducerId(4711), ProducerEpoch(2), Sequence(i32::MAX));
    for i in 0..200 {
        let headers = [
            Header { key: Bytes::from_static(b"trace"), value: Some(Bytes::from(vec![i as u8; 16])) },
            Header { key: Bytes::from_static(b"null"), value: None },
        ];
        let value = format!("reading {i} of a sensor that repeats itself, repeats itself");
        idempotent.push(TimestampMs(START_MS + i), Some(b"sensor"), Some(value.as_bytes()), &headers);
    }
    let mut stamped = BatchBuilder::new(codec).base_offset(Offset(203));
    stamped.push(TimestampMs(START_MS), Some(b"k"), Some(b"v"), &[]);
    let stamped = stamped.build().unwrap().with_log_append_time(TimestampMs(START_MS + 1000));
    vec![plain.build().unwrap(), idempotent.build().unwrap(), stamped]
}

fn records(batches: &[RecordBatch]) -> Vec<Record> {
    batches.iter().flat_map(|batch| batch.records().unwrap()).map(Result::unwrap).collect()
}

#[test]
fn what_version_0_1_wrote_is_read() {
    let limits = BatchLimits { source: BatchSource::Log, ..Default::default() };
    for codec in Compression::ALL {
        let path = format!("{}/tests/golden/{codec}.log", env!("CARGO_MANIFEST_DIR"));
        let written = batches(codec);
        let bytes: Vec<u8> = written.iter().flat_map(|b| b.bytes().to_vec()).collect();
        if std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() && !std::path::Path::new(&path).exists() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        if codec == Compression::None {
            assert!(golden == bytes, "the uncompressed format changed: {path}");
        }
        let read = RecordBatch::parse_all(Bytes::from(golden), &limits).unwrap();
        assert_eq!(records(&read), records(&written), "{codec}");
        for (read, written) in read.iter().zip(&written) {
            let (read, written) = (read.header(), written.header());
            assert_eq!((read.producer_id, read.base_sequence), (written.producer_id, written.base_sequence));
            assert_eq!((read.attributes, read.max_timestamp), (written.attributes, written.max_timestamp));
        }
    }
}
