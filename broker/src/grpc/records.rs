//! Batches and plain records: bytes from clients are validated here once, and plain records become batches and back.

use bytes::Bytes;
use tidegate_model::batch::{Error as BatchError, Header, batches};
use tidegate_model::{BatchBuilder, Compression, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence, TimestampMs};
use tidegate_proto::convert::compression_from_wire;
use tidegate_proto::v1;

use super::{Edge, convert};
use crate::hub::{Error, PartitionRef};

/// What a plain record takes beside key and value, roughly.
const RECORD_BYTES: usize = 100;

/// What goes with plain records.
pub(crate) struct Plain {
    pub(crate) compression: i32,
    pub(crate) sequence: Option<v1::ProducerSequence>,
}

/// A client's batches, checked.
pub(crate) fn parse_batches(edge: &Edge, bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    if bytes.is_empty() {
        return Err(Error::invalid("batches", "is empty: send at least one batch"));
    }
    RecordBatch::parse_all(bytes, &edge.batch_limits).map_err(|error| batch_error("batches", error))
}

/// What a bad batch is to a client.
pub(crate) fn batch_error(field: &str, error: BatchError) -> Error {
    let problem = error.to_string();
    let below = |inner: &str| format!("{field}.{inner}");
    match error {
        BatchError::TooLarge { field: inner, value, limit, .. } => {
            let (inner, setting) = limit_of(inner);
            let field = if inner.is_empty() { field.to_owned() } else { below(inner) };
            Error::TooLarge { field, bytes: value, limit, setting }
        }
        BatchError::Truncated { field: inner, .. } | BatchError::Invalid { field: inner, .. } => {
            Error::InvalidBatch { field: below(&inner.replace(' ', "_")), problem }
        }
        BatchError::UnsupportedMagic { .. } => Error::InvalidBatch { field: below("magic"), problem },
        BatchError::Crc { .. } => Error::InvalidBatch { field: below("crc"), problem },
        BatchError::Codec { .. } => Error::InvalidBatch { field: below("records"), problem },
    }
}

/// The field and the setting behind a limit of the model.
fn limit_of(field: &str) -> (&'static str, &'static str) {
    match field {
        field if field.contains("header") => ("record.headers", "limits.max_headers_bytes"),
        field if field.contains("decompress") => {
            ("records", "limits.max_decompressed_bytes (or, above 1 MiB, limits.max_compression_ratio)")
        }
        _ => ("", "limits.max_message_bytes"),
    }
}

/// Makes one batch of plain records.
pub(crate) fn build(edge: &Edge, at: &PartitionRef, records: Vec<v1::Record>, plain: &Plain) -> Result<RecordBatch, Error> {
    if records.is_empty() {
        return Err(Error::invalid("records", "is empty: send at least one record"));
    }
    let compression = match compression_from_wire(plain.compression).map_err(convert::refused)? {
        Some(asked) => asked,
        None => edge.hub.topic_compression(&at.topic)?.unwrap_or(Compression::None),
    };
    let mut builder = BatchBuilder::new(compression);
    if let Some(sequence) = &plain.sequence {
        let epoch = i16::try_from(sequence.producer_epoch).ok().filter(|epoch| *epoch >= 0);
        let epoch = epoch.ok_or_else(|| Error::invalid("sequence.producer_epoch", "is not within 0 to 32767"))?;
        if sequence.producer_id < 0 || sequence.base_sequence < 0 {
            return Err(Error::invalid("sequence", "has a negative producer_id or base_sequence"));
        }
        builder = builder.producer(ProducerId(sequence.producer_id), ProducerEpoch(epoch), Sequence(sequence.base_sequence));
    }
    let now = edge.env.clock.now_ms();
    let mut headers: Vec<Header> = Vec::new();
    for (index, record) in records.into_iter().enumerate() {
        let time = record.timestamp_ms.unwrap_or(now);
        if time < 0 {
            return Err(Error::invalid(format!("records[{index}].timestamp_ms"), format!("{time} is below 0")));
        }
        headers.clear();
        for header in record.headers {
            if header.key.is_empty() {
                return Err(Error::invalid(format!("records[{index}].headers"), "has a header without a name"));
            }
            headers.push(Header { key: Bytes::from(header.key), value: header.value });
        }
        let size: usize = headers.iter().map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len)).sum();
        let limit = edge.limits.max_headers_bytes;
        if size > limit as usize {
            let field = format!("records[{index}].headers");
            return Err(Error::TooLarge { field, bytes: size as u64, limit: limit.into(), setting: "limits.max_headers_bytes" });
        }
        builder.push(TimestampMs(time), record.key.as_deref(), record.value.as_deref(), &headers);
    }
    let batch = builder.build().map_err(|error| batch_error("records", error))?;
    let limit = edge.limits.max_message_bytes;
    if batch.bytes().len() > limit as usize {
        let bytes = batch.bytes().len() as u64;
        return Err(Error::TooLarge {
            field: "records".to_owned(),
            bytes,
            limit: limit.into(),
            setting: "limits.max_message_bytes",
        });
    }
    Ok(batch)
}

/// Plain records of stored batches, from an offset on, and the offset after them. Ends with the first batch that brings the records to
/// `most_bytes`, for compressed batches may grow a hundredfold; one batch is always answered whole.
pub(crate) fn decode(
    edge: &Edge,
    bytes: &Bytes,
    from: Offset,
    most_bytes: usize,
) -> Result<(Vec<v1::Record>, Option<Offset>), Error> {
    let corrupt = |error: BatchError| Error::Corrupt { problem: error.to_string() };
    let (mut records, mut next, mut taken) = (Vec::new(), None, 0);
    for item in batches(bytes) {
        let (header, range) = item.map_err(corrupt)?;
        if taken >= most_bytes {
            break;
        }
        next = Some(Offset(header.last_offset().0 + 1));
        if header.attributes.is_control() || header.last_offset() < from {
            continue;
        }
        let batch = RecordBatch::trusted(bytes.slice(range)).map_err(corrupt)?;
        for record in batch.records_within(&edge.batch_limits).map_err(corrupt)? {
            let record = record.map_err(corrupt)?;
            if record.offset < from {
                continue;
            }
            taken += record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + RECORD_BYTES;
            records.push(record.into());
        }
    }
    Ok((records, next))
}
