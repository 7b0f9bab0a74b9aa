//! Reading a partition whole, and what batches say.

use bytes::Bytes;
use tidegate_checker::{Seen, Source, Value, content_hash, value_of};
use tidegate_client::Start;
use tidegate_client::consumer::Batches;
use tidegate_model::batch::{self, BatchLimits, RecordBatch};

use crate::{Shared, WorkloadError};

/// The number of whatever is no record of the workload; no process has it.
const FOREIGN: Value = Value::MAX;

/// The records in batches at or behind the reader's position. The client has checked the batches' CRC.
pub(crate) fn seen(batches: &Batches) -> Result<Vec<Seen>, batch::Error> {
    let mut records = Vec::new();
    for found in batch::batches(&batches.bytes) {
        let (_, range) = found?;
        let batch = RecordBatch::trusted(batches.bytes.slice(range))?;
        let epoch = batch.header().leader_epoch.0;
        for record in batch.records_within(&BatchLimits::default())? {
            let record = record?;
            if record.offset.0 < batches.from {
                continue;
            }
            let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
            let hash = content_hash(record.key.as_deref(), record.value.as_deref(), headers, record.timestamp.0);
            let value = record.value.as_ref().and_then(|value: &Bytes| value_of(value)).unwrap_or(FOREIGN);
            records.push(Seen { offset: record.offset.0, value, hash, epoch });
        }
    }
    Ok(records)
}

/// Reads a partition whole and writes it into the history; returns how many records there are.
pub(crate) async fn partition(shared: &Shared, partition: i32, source: Source) -> Result<u64, WorkloadError> {
    let topic = &shared.settings.topic;
    let at = shared.at(partition);
    let mut consumer = loop {
        let builder = shared.client.consumer().assign_partitions(topic, &[partition], Start::Earliest).until_end();
        match builder.build().await {
            Err(error) if error.is_retryable() => {}
            other => break other?,
        }
    };
    let log_start = loop {
        match shared.client.admin().list_offsets(&[(topic.as_str(), partition, Start::Earliest)]).await {
            Err(error) if error.is_retryable() => {}
            other => break other?.first().map_or(0, |found| found.offset),
        }
    };
    let read = shared.recorder.read_begins(at, source, log_start);
    let mut total = 0;
    while let Some(batches) = consumer.next_batches().await? {
        let records = seen(&batches).map_err(|source| WorkloadError::Batch { partition, offset: batches.from, source })?;
        total += records.len() as u64;
        shared.recorder.read_part(read, records);
    }
    let high_watermark = consumer.progress().next().map_or(0, |(_, _, progress)| progress.high_watermark.max(0));
    shared.recorder.read_ends(read, high_watermark);
    Ok(total)
}
