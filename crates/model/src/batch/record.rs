//! Records one by one, for those who look inside of batches: consumers, tools, the per-record gRPC calls.

use bytes::Bytes;

use super::walk::{SliceSource, Source};
use super::{BatchHeader, Error};
use crate::ids::{Offset, TimestampMs};

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name: UTF-8 by convention, not checked.
    pub key: Bytes,
    /// Its value, or null.
    pub value: Option<Bytes>,
}

/// One record. Key, value and headers share the batch's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The batch's base offset plus the record's delta.
    pub offset: Offset,
    /// The record's own time, or the batch's append time.
    pub timestamp: TimestampMs,
    /// The key, or null.
    pub key: Option<Bytes>,
    /// The value, or null (a tombstone).
    pub value: Option<Bytes>,
    /// In the order in which they were written; names may repeat.
    pub headers: Vec<Header>,
}

/// Iterator over a batch's records; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    bytes: Bytes,
    position: usize,
    left: i32,
}

impl Records {
    /// `bytes` are the records, uncompressed.
    pub(super) fn new(header: BatchHeader, bytes: Bytes) -> Self {
        Records { header, bytes, position: 0, left: header.record_count.max(0) }
    }

    fn record(&mut self) -> Result<Record, Error> {
        let mut source = SliceSource { bytes: &self.bytes, position: self.position };
        let length = source.varlong("record.length")?;
        let start = source.position;
        source.byte("record.attributes")?;
        let timestamp_delta = source.varlong("record.timestamp_delta")?;
        let offset_delta = source.varlong("record.offset_delta")?;
        let key = self.field(&mut source, "record.key")?;
        let value = self.field(&mut source, "record.value")?;
        let count = source.varlong("record.headers")?;
        // A header takes two bytes at least, so the count that is believed is bounded by the bytes that are there.
        let room = (self.bytes.len() - source.position) / 2;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= room)
            .ok_or_else(|| Error::invalid("record.headers", count, "more headers than the batch has bytes for"))?;
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let key = self
                .field(&mut source, "record.header.key")?
                .ok_or_else(|| Error::invalid("record.header.key", -1, "a header's key must not be null"))?;
            headers.push(Header { key, value: self.field(&mut source, "record.header.value")? });
        }
        if length < 0 || (source.position - start) as u64 != length as u64 {
            return Err(Error::invalid("record.length", length, "it does not agree with the sizes of the record's fields"));
        }
        self.position = source.position;
        let timestamp = if self.header.attributes.is_log_append_time() {
            self.header.max_timestamp
        } else {
            TimestampMs(self.header.base_timestamp.0.wrapping_add(timestamp_delta))
        };
        let offset = Offset(self.header.base_offset.0.wrapping_add(offset_delta));
        Ok(Record { offset, timestamp, key, value, headers })
    }

    fn field(&self, source: &mut SliceSource<'_>, field: &'static str) -> Result<Option<Bytes>, Error> {
        let length = source.varlong(field)?;
        if length == -1 {
            return Ok(None);
        }
        let length =
            u64::try_from(length).map_err(|_| Error::invalid(field, length, "a length is -1 (null) or from 0 to 2147483647"))?;
        let start = source.position;
        source.skip(field, length)?;
        Ok(Some(self.bytes.slice(start..source.position)))
    }
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let record = self.record();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}
