//! Records that clients make and read: batches out of values, and back.

use bytes::{Bytes, BytesMut};
use tidegate_checker::{Seen, Sent, Value, content_hash, payload, value_of};
use tidegate_model::batch::{batches, verify_crc};
use tidegate_model::{BatchBuilder, Compression, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence, TimestampMs};

/// Who sends a batch as its how-many-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: i32,
}

/// A record as its value makes it: key, value and header follow from the value alone.
pub(crate) fn build(values: &[Value], bytes: usize, now_ms: i64, numbered: Option<Numbered>) -> (RecordBatch, Vec<Sent>) {
    let mut builder = BatchBuilder::new(Compression::None);
    if let Some(Numbered { id, epoch, sequence }) = numbered {
        builder = builder.producer(id, epoch, Sequence(sequence));
    }
    let mut sent = Vec::new();
    for value in values {
        let key = value.to_le_bytes();
        let body = payload(*value, bytes);
        builder.push(TimestampMs(now_ms), Some(&key), Some(&body), &[]);
        sent.push(Sent { value: *value, hash: content_hash(Some(&key), Some(&body), [], now_ms) });
    }
    (builder.build().expect("a few small records make a batch"), sent)
}

/// The records of what was read, from an offset on. Bytes that are no whole, valid batches with our values in them are an error.
pub(crate) fn parse(chunks: &[Bytes], from: Offset) -> Result<Vec<Seen>, String> {
    let mut joined = BytesMut::new();
    chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
    let bytes = joined.freeze();
    let mut found = Vec::new();
    for item in batches(&bytes) {
        let (header, place) = item.map_err(|error| error.to_string())?;
        verify_crc(&bytes[place.clone()]).map_err(|error| error.to_string())?;
        let batch = RecordBatch::trusted(bytes.slice(place)).map_err(|error| error.to_string())?;
        for record in batch.records().map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let (key, body) = (record.key.as_deref(), record.value.as_deref());
            let value = body.and_then(value_of).ok_or_else(|| format!("{} holds nothing that was ever sent", record.offset))?;
            let hash = content_hash(key, body, [], record.timestamp.0);
            if record.offset >= from {
                found.push(Seen { offset: record.offset.0, value, hash, epoch: header.leader_epoch.0 });
            }
        }
    }
    Ok(found)
}
