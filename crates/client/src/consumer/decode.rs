//! From batches to records: checks each batch's CRC, leaves out what lies before the position and what is no data.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_model::batch::{self, BatchLimits, RecordBatch, batches};

use super::{Batches, Consumed};
use crate::{Error, Result};

/// A batch that decompresses to more is refused. A hub takes 64 MiB by default, and may be set to take more.
const MAX_DECOMPRESSED_BYTES: u64 = 256 << 20;

/// Checks that the bytes are whole batches with their CRC right.
pub(super) fn verify(from: &Batches) -> Result<()> {
    for found in batches(&from.bytes) {
        let (_, range) = found.map_err(|error| damaged(from, error))?;
        batch::verify_crc(&from.bytes[range]).map_err(|error| damaged(from, error))?;
    }
    Ok(())
}

/// The records at or after the position.
pub(super) fn records(from: &Batches) -> Result<VecDeque<Consumed>> {
    let limits =
        BatchLimits { max_decompressed_bytes: MAX_DECOMPRESSED_BYTES, max_compression_ratio: u64::MAX, ..BatchLimits::default() };
    let mut records = VecDeque::new();
    for found in batches(&from.bytes) {
        let (_, range) = found.map_err(|error| damaged(from, error))?;
        // Its CRC was checked when it came.
        let batch = RecordBatch::trusted(from.bytes.slice(range)).map_err(|error| damaged(from, error))?;
        if batch.header().attributes.is_control() {
            continue;
        }
        for record in batch.records_within(&limits).map_err(|error| damaged(from, error))? {
            let record = record.map_err(|error| damaged(from, error))?;
            if record.offset.0 < from.from {
                continue;
            }
            records.push_back(Consumed {
                topic: from.topic.clone(),
                partition: from.partition,
                offset: record.offset.0,
                timestamp_ms: record.timestamp.0,
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(|header| (header.key, header.value)).collect(),
            });
        }
    }
    Ok(records)
}

fn damaged(from: &Batches, error: batch::Error) -> Error {
    Error::Corrupt { topic: from.topic.clone(), partition: from.partition, offset: from.from, source: Arc::new(error) }
}
