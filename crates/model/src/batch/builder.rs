//! Batches made from records: for our client, the per-record gRPC calls and tools.

use bytes::{BufMut, Bytes, BytesMut};

use super::compression::compress;
use super::header::{Attributes, CRC_START, crc32c};
use super::{BatchHeader, Compression, Error, HEADER_BYTES, Header, LENGTH_OVERHEAD, RecordBatch};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Encodes records into one batch. The first record's timestamp becomes the batch's base timestamp.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    /// Room for the header, then the records, uncompressed.
    encoded: BytesMut,
    header: BatchHeader,
}

impl BatchBuilder {
    /// An empty batch without a producer, base offset 0, leader epoch −1 (as producers send them).
    pub fn new(compression: Compression) -> Self {
        let mut encoded = BytesMut::new();
        encoded.put_bytes(0, HEADER_BYTES);
        let header = BatchHeader {
            base_offset: Offset(0),
            batch_length: 0,
            leader_epoch: LeaderEpoch(-1),
            magic: 2,
            crc: 0,
            attributes: Attributes(compression.id()),
            last_offset_delta: -1,
            base_timestamp: TimestampMs(-1),
            max_timestamp: TimestampMs(-1),
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: Sequence(-1),
            record_count: 0,
        };
        BatchBuilder { compression, encoded, header }
    }

    /// Makes the batch idempotent: `base_sequence` is the first record's.
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Sets the offset of the first record: for tools and tests, brokers patch it anyway.
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Appends a record. The batch's limits are the receiver's: see [`estimated_bytes`](Self::estimated_bytes).
    pub fn push(&mut self, timestamp: TimestampMs, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        if self.header.record_count == 0 {
            self.header.base_timestamp = timestamp;
            self.header.max_timestamp = timestamp;
        }
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.0.wrapping_sub(self.header.base_timestamp.0);
        let offset_delta = i64::from(self.header.record_count);
        let headers_bytes: usize =
            headers.iter().map(|h| optional_bytes(Some(&h.key)) + optional_bytes(h.value.as_deref())).sum();
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(offset_delta)
            + optional_bytes(key)
            + optional_bytes(value)
            + varlong_bytes(headers.len() as i64)
            + headers_bytes;
        let out = &mut self.encoded;
        out.reserve(length + 10);
        put_varlong(out, length as i64);
        out.put_u8(0);
        put_varlong(out, timestamp_delta);
        put_varlong(out, offset_delta);
        put_optional(out, key);
        put_optional(out, value);
        put_varlong(out, headers.len() as i64);
        for header in headers {
            put_optional(out, Some(&header.key));
            put_optional(out, header.value.as_deref());
        }
        self.header.record_count += 1;
        self.header.last_offset_delta += 1;
    }

    /// Records so far.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Whether no record was pushed yet; such a batch cannot be built.
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// Bytes of the batch before compression, header included: an upper bound, but for a few bytes of the codec's frame.
    pub fn estimated_bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Compresses, fills in the header and its CRC. Fails if there is no record, the codec fails, or the batch is over
    /// 2 GiB.
    pub fn build(self) -> Result<RecordBatch, Error> {
        let mut header = self.header;
        if header.record_count == 0 {
            return Err(Error::invalid("record_count", 0, "a batch holds at least one record; push one before building"));
        }
        let mut bytes = if self.compression == Compression::None {
            self.encoded
        } else {
            let out = vec![0; HEADER_BYTES];
            let compressed = compress(self.compression, &self.encoded[HEADER_BYTES..], out)?;
            BytesMut::from(Bytes::from(compressed))
        };
        header.batch_length = i32::try_from(bytes.len() - LENGTH_OVERHEAD).map_err(|_| Error::TooLarge {
            field: "size of the batch in bytes",
            value: bytes.len() as u64,
            limit: i32::MAX as u64,
            hint: "build smaller batches",
        })?;
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let crc = crc32c(&bytes[CRC_START..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        RecordBatch::trusted(bytes.freeze())
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - zigzag(value).leading_zeros() as usize;
    bits.div_ceil(7).max(1)
}

fn optional_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varlong_bytes(value.len() as i64) + value.len())
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_optional(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => put_varlong(out, -1),
        Some(value) => {
            put_varlong(out, value.len() as i64);
            out.put_slice(value);
        }
    }
}
