//! The walk over a batch's records that checks their structure, without an allocation for any of them.

use super::compression::Decompressor;
use super::{BatchHeader, Error};

/// Where a walk takes its bytes from.
pub(super) trait Source {
    fn byte(&mut self, field: &'static str) -> Result<u8, Error>;
    fn skip(&mut self, field: &'static str, bytes: u64) -> Result<(), Error>;
    /// Bytes consumed so far.
    fn position(&self) -> u64;
    fn is_at_end(&mut self) -> Result<bool, Error>;

    /// A zigzag varint of at most ten bytes.
    #[inline]
    fn varlong(&mut self, field: &'static str) -> Result<i64, Error> {
        let first = self.byte(field)?;
        if first < 0x80 {
            return Ok(unzigzag(u64::from(first)));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(unzigzag(value));
            }
        }
        Err(Error::invalid(field, -1, "its varint is longer than ten bytes; the record is malformed"))
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Records that lie uncompressed in memory.
pub(super) struct SliceSource<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) position: usize,
}

impl Source for SliceSource<'_> {
    #[inline]
    fn byte(&mut self, field: &'static str) -> Result<u8, Error> {
        let byte = *self.bytes.get(self.position).ok_or_else(|| Error::truncated(field, 1, 0))?;
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, field: &'static str, bytes: u64) -> Result<(), Error> {
        let left = self.bytes.len() - self.position;
        if bytes > left as u64 {
            return Err(Error::Truncated { field, needed: bytes, available: left as u64 });
        }
        self.position += bytes as usize;
        Ok(())
    }

    #[inline]
    fn position(&self) -> u64 {
        self.position as u64
    }

    fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.position == self.bytes.len())
    }
}

/// Records that come out of a decompressor, chunk by chunk.
pub(super) struct StreamSource<'a> {
    pub(super) stream: Decompressor<'a>,
    pub(super) position: u64,
}

impl Source for StreamSource<'_> {
    #[inline]
    fn byte(&mut self, field: &'static str) -> Result<u8, Error> {
        let byte = *self.stream.fill()?.first().ok_or_else(|| Error::truncated(field, 1, 0))?;
        self.stream.consume(1);
        self.position += 1;
        Ok(byte)
    }

    fn skip(&mut self, field: &'static str, bytes: u64) -> Result<(), Error> {
        let mut left = bytes;
        while left > 0 {
            let there = self.stream.fill()?.len();
            if there == 0 {
                return Err(Error::Truncated { field, needed: bytes, available: bytes - left });
            }
            let step = left.min(there as u64);
            self.stream.consume(step as usize);
            left -= step;
        }
        self.position += bytes;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.stream.fill()?.is_empty())
    }
}

/// How offset deltas may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deltas {
    /// 0, 1, 2 …: what producers send.
    Dense,
    /// Rising, up to `last_offset_delta`: what compaction leaves.
    Rising,
}

/// Checks all records of a batch; returns the greatest timestamp that they carry (the base timestamp when there is none).
pub(super) fn walk<S: Source>(
    source: &mut S,
    header: &BatchHeader,
    deltas: Deltas,
    max_headers_bytes: u64,
) -> Result<i64, Error> {
    let mut greatest_delta: Option<i64> = None;
    let mut least_next = 0i64;
    for _ in 0..header.record_count {
        let (timestamp_delta, offset_delta) = record(source, max_headers_bytes)?;
        if deltas == Deltas::Dense && header.base_timestamp.0.checked_add(timestamp_delta).is_none() {
            let rule = "added to base_timestamp it goes beyond 64 bits; give times in milliseconds since the Unix epoch";
            return Err(Error::invalid("record.timestamp_delta", timestamp_delta, rule));
        }
        greatest_delta = Some(greatest_delta.map_or(timestamp_delta, |g| g.max(timestamp_delta)));
        let in_order = match deltas {
            Deltas::Dense => offset_delta == least_next,
            Deltas::Rising => offset_delta >= least_next && offset_delta <= i64::from(header.last_offset_delta),
        };
        if !in_order {
            return Err(Error::invalid(
                "record.offset_delta",
                offset_delta,
                "offset deltas run from 0 to last_offset_delta, in order; a producer leaves none out",
            ));
        }
        least_next = offset_delta + 1;
    }
    if !source.is_at_end()? {
        return Err(Error::invalid(
            "record_count",
            header.record_count,
            "bytes follow the last record; count the records and set the length right",
        ));
    }
    Ok(header.base_timestamp.0.wrapping_add(greatest_delta.unwrap_or(0)))
}

/// One record: its timestamp delta and offset delta.
#[inline]
fn record<S: Source>(source: &mut S, max_headers_bytes: u64) -> Result<(i64, i64), Error> {
    let length = source.varlong("record.length")?;
    let start = source.position();
    source.byte("record.attributes")?;
    let timestamp_delta = source.varlong("record.timestamp_delta")?;
    let offset_delta = source.varlong("record.offset_delta")?;
    optional(source, "record.key")?;
    optional(source, "record.value")?;
    let count = source.varlong("record.headers")?;
    if count != 0 {
        headers(source, count, max_headers_bytes)?;
    }
    let taken = source.position() - start;
    if length < 0 || taken != length as u64 {
        return Err(Error::invalid("record.length", length, "it does not agree with the sizes of the record's fields"));
    }
    Ok((timestamp_delta, offset_delta))
}

fn headers<S: Source>(source: &mut S, count: i64, max_bytes: u64) -> Result<(), Error> {
    if count < 0 {
        return Err(Error::invalid("record.headers", count, "a count is 0 or more"));
    }
    let start = source.position();
    for _ in 0..count {
        if optional(source, "record.header.key")? < 0 {
            return Err(Error::invalid("record.header.key", -1, "a header's key must not be null; give it a name"));
        }
        optional(source, "record.header.value")?;
        let taken = source.position() - start;
        if taken > max_bytes {
            return Err(Error::TooLarge {
                field: "size of a record's headers in bytes",
                value: taken,
                limit: max_bytes,
                hint: "move data into the value, or raise max_headers_bytes",
            });
        }
    }
    Ok(())
}

/// A length (−1: null) and that many bytes; returns the length.
#[inline]
fn optional<S: Source>(source: &mut S, field: &'static str) -> Result<i64, Error> {
    let length = source.varlong(field)?;
    match length {
        -1 => Ok(length),
        0.. if length <= i64::from(i32::MAX) => source.skip(field, length as u64).map(|()| length),
        _ => Err(Error::invalid(field, length, "a length is -1 (null) or from 0 to 2147483647")),
    }
}
