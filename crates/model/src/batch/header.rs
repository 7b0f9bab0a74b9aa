//! The 61 bytes in front of a batch's records, and what can be done by looking at them alone.
//!
//! `docs/formats/record-batch.md` has the layout. The CRC covers the bytes from `CRC_START` to the end, so base offset
//! and leader epoch (both in front of it) can be patched when a batch is served.

use std::ops::Range;

use super::{Compression, Error};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Bytes of a batch in front of its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes of a batch that `batch_length` does not count: base offset and the length itself.
pub const LENGTH_OVERHEAD: usize = 12;
/// Bytes in front of the magic byte, which a server patches: see [`served_prefix`].
pub const PREFIX_BYTES: usize = 16;
/// Where the checksum starts to cover.
pub(super) const CRC_START: usize = 21;
const MAGIC: i8 = 2;

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    pub(super) const LOG_APPEND_TIME: i16 = 1 << 3;
    pub(super) const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;
    pub(super) const KNOWN: i16 = 0x7f;

    /// How the records are compressed.
    pub fn compression(self) -> Result<Compression, Error> {
        Compression::from_id(self.0 & 7)
    }

    /// Whether all records carry the time of their append (`max_timestamp`) instead of their own.
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records (transaction markers), which clients never write.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether `base_timestamp` is a compaction's delete horizon.
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// A batch's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; meaningless (mostly 0) until the batch is appended.
    pub base_offset: Offset,
    /// Bytes that follow the length field: at least 49.
    pub batch_length: i32,
    /// Leader epoch of the append; −1 from clients.
    pub leader_epoch: LeaderEpoch,
    /// Format version: 2.
    pub magic: i8,
    /// CRC32C of everything from the attributes to the end.
    pub crc: u32,
    /// Compression, timestamp type and flags.
    pub attributes: Attributes,
    /// Offset of the last record minus `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas count from.
    pub base_timestamp: TimestampMs,
    /// Greatest timestamp of the records.
    pub max_timestamp: TimestampMs,
    /// The idempotent producer, or −1.
    pub producer_id: ProducerId,
    /// Its epoch, or −1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or −1.
    pub base_sequence: Sequence,
    /// Number of records; less than `last_offset_delta + 1` only after compaction.
    pub record_count: i32,
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`; checks magic and the least length, nothing else. The rest of the batch
    /// need not be there.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        // Older formats put their magic at the same place, so they are told apart before the length is judged.
        if let Some(&magic) = bytes.get(16)
            && magic as i8 != MAGIC
        {
            return Err(Error::UnsupportedMagic { magic: magic as i8 });
        }
        let bytes: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or_else(|| Error::truncated("batch header", HEADER_BYTES, bytes.len()))?;
        let header = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(field(bytes, 0))),
            batch_length: i32::from_be_bytes(field(bytes, 8)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(bytes, 12))),
            magic: bytes[16] as i8,
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(field(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: TimestampMs(i64::from_be_bytes(field(bytes, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(field(bytes, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(field(bytes, 53))),
            record_count: i32::from_be_bytes(field(bytes, 57)),
        };
        if header.batch_length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return Err(Error::invalid(
                "batch_length",
                header.batch_length,
                "a batch's header alone takes 49 bytes after its length",
            ));
        }
        Ok(header)
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        out[16] = self.magic as u8;
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.0.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        out
    }

    /// Bytes of the whole batch, header included: at least 61.
    pub fn total_bytes(&self) -> usize {
        LENGTH_OVERHEAD + self.batch_length.max(0) as usize
    }

    /// Offset of the last record, counted from `base_offset`.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// Sequence of the last record (wrapping from `i32::MAX` to 0), or −1 without a producer.
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence.0 < 0 {
            return Sequence(-1);
        }
        let last = i64::from(self.base_sequence.0) + i64::from(self.last_offset_delta.max(0));
        Sequence((last % (i64::from(i32::MAX) + 1)) as i32)
    }

    /// Whether the batch carries a producer id, and so is to be stored only once.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id.0 >= 0
    }
}

/// CRC32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Checks one batch's checksum, for bytes that come from a disk or a store. Bytes after the batch are ignored.
pub fn verify_crc(batch: &[u8]) -> Result<(), Error> {
    let header = BatchHeader::read(batch)?;
    verify_crc_of(&header, batch)
}

pub(super) fn verify_crc_of(header: &BatchHeader, batch: &[u8]) -> Result<(), Error> {
    let covered = batch
        .get(CRC_START..header.total_bytes())
        .ok_or_else(|| Error::truncated("batch_length", header.total_bytes(), batch.len()))?;
    let computed = crc32c(covered);
    if computed != header.crc {
        return Err(Error::Crc { stored: header.crc, computed });
    }
    Ok(())
}

/// The first 16 bytes of a batch as it is served: to be sent in front of `batch[16..]`, which stays untouched.
pub fn served_prefix(header: &BatchHeader, base: Offset, epoch: LeaderEpoch) -> [u8; PREFIX_BYTES] {
    let mut out = [0; PREFIX_BYTES];
    out[0..8].copy_from_slice(&base.0.to_be_bytes());
    out[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    out[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    out
}

/// Walks the headers of batches that lie back to back. No CRC is checked and no record is looked at.
///
/// After an error the walk ends.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, position: 0 }
}

/// Iterator of [`batches`]: each batch's header and where its bytes are.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<(BatchHeader, Range<usize>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.position..];
        if rest.is_empty() {
            return None;
        }
        let found = BatchHeader::read(rest).and_then(|header| {
            if header.total_bytes() > rest.len() {
                return Err(Error::truncated("batch_length", header.total_bytes(), rest.len()));
            }
            Ok(header)
        });
        let range = match &found {
            Ok(header) => self.position..self.position + header.total_bytes(),
            Err(_) => self.bytes.len()..self.bytes.len(),
        };
        self.position = range.end;
        Some(found.map(|header| (header, range)))
    }
}
