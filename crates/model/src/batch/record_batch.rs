//! A validated batch, and the validation that makes one: the only place where clients' bytes are judged.

use bytes::{Bytes, BytesMut};

use super::compression::Decompressor;
use super::header::{Attributes, CRC_START, crc32c, verify_crc_of};
use super::record::Records;
use super::walk::{Deltas, SliceSource, StreamSource, walk};
use super::{BatchHeader, Compression, Error, HEADER_BYTES};
use crate::ids::{ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Up to this many decompressed bytes the compression ratio is not looked at: small batches of equal records compress
/// beyond any ratio and harm nobody.
pub const RATIO_FREE_BYTES: u64 = 1024 * 1024;

/// Whether each record is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordValidation {
    /// All records are walked (decompressed if need be): structure, counts, offset deltas, sizes, greatest timestamp.
    Walk,
    /// Header and CRC only: for bytes that were walked before.
    HeaderOnly,
}

/// Who made the batch, and so what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSource {
    /// A producer: no control records, no append time, no gaps between offsets, at least one record.
    Client,
    /// A broker's log: all that the format allows.
    Log,
}

/// What [`RecordBatch::parse`] accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Greatest size of a batch as it is stored, header included, in bytes.
    pub max_batch_bytes: usize,
    /// Greatest size of a batch's records once decompressed, in bytes.
    pub max_decompressed_bytes: u64,
    /// Greatest ratio of decompressed to compressed bytes; counts only beyond [`RATIO_FREE_BYTES`].
    pub max_compression_ratio: u64,
    /// Greatest size of one record's headers, in bytes.
    pub max_headers_bytes: u64,
    /// How deeply to look.
    pub validate_records: RecordValidation,
    /// Whose batch it is.
    pub source: BatchSource,
}

impl Default for BatchLimits {
    /// A client's batch of at most 1 MiB, 64 MiB and 100:1 decompressed, headers of 64 KiB, all records walked.
    fn default() -> Self {
        BatchLimits {
            max_batch_bytes: 1024 * 1024,
            max_decompressed_bytes: 64 * 1024 * 1024,
            max_compression_ratio: 100,
            max_headers_bytes: 64 * 1024,
            validate_records: RecordValidation::Walk,
            source: BatchSource::Client,
        }
    }
}

impl BatchLimits {
    fn decompressed(&self, compressed_bytes: usize) -> u64 {
        let by_ratio = self.max_compression_ratio.saturating_mul(compressed_bytes as u64).max(RATIO_FREE_BYTES);
        by_ratio.min(self.max_decompressed_bytes)
    }
}

/// One validated batch. Cheap to clone; its bytes never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Checks that `bytes` are exactly one acceptable batch: size, magic, CRC, flags, counts, producer fields and (if
    /// asked) each record.
    ///
    /// Where a client's `max_timestamp` is not its records' greatest, it is put right, with the CRC, as Kafka does; this
    /// alone copies the bytes.
    pub fn parse(bytes: Bytes, limits: &BatchLimits) -> Result<RecordBatch, Error> {
        let header = whole(&bytes, limits)?;
        if header.total_bytes() < bytes.len() {
            return Err(Error::invalid(
                "batch_length",
                header.batch_length,
                "bytes follow the batch, and exactly one batch is taken here; send one at a time",
            ));
        }
        Self::check(header, bytes, limits)
    }

    /// Checks batches that lie back to back; none is returned if one is bad. Each is a slice of `bytes`.
    pub fn parse_all(bytes: Bytes, limits: &BatchLimits) -> Result<Vec<RecordBatch>, Error> {
        let mut out = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let header = whole(&rest, limits)?;
            out.push(Self::check(header, rest.split_to(header.total_bytes()), limits)?);
        }
        Ok(out)
    }

    /// Takes bytes that were validated before (our own memory, WAL or tier); reads the header, checks neither CRC nor
    /// records. Bytes after the batch are cut off.
    pub fn trusted(bytes: Bytes) -> Result<RecordBatch, Error> {
        let header = BatchHeader::read(&bytes)?;
        if header.total_bytes() > bytes.len() {
            return Err(Error::truncated("batch_length", header.total_bytes(), bytes.len()));
        }
        Ok(RecordBatch { header, bytes: bytes.slice(..header.total_bytes()) })
    }

    fn check(header: BatchHeader, bytes: Bytes, limits: &BatchLimits) -> Result<RecordBatch, Error> {
        verify_crc_of(&header, &bytes)?;
        let compression = check_header(&header, limits)?;
        let batch = RecordBatch { header, bytes };
        if limits.validate_records == RecordValidation::HeaderOnly {
            return Ok(batch);
        }
        let greatest = batch.walk(compression, limits)?;
        let keeps_own_maximum = header.attributes.is_log_append_time() || limits.source == BatchSource::Log;
        if keeps_own_maximum || greatest == header.max_timestamp.0 {
            return Ok(batch);
        }
        let header = BatchHeader { max_timestamp: TimestampMs(greatest), ..header };
        Ok(batch.patched(header))
    }

    fn walk(&self, compression: Compression, limits: &BatchLimits) -> Result<i64, Error> {
        let records = &self.bytes[HEADER_BYTES..];
        let deltas = match limits.source {
            BatchSource::Client => Deltas::Dense,
            BatchSource::Log => Deltas::Rising,
        };
        if compression == Compression::None {
            let mut source = SliceSource { bytes: records, position: 0 };
            return walk(&mut source, &self.header, deltas, limits.max_headers_bytes);
        }
        let stream = Decompressor::new(compression, records, limits.decompressed(records.len()))?;
        walk(&mut StreamSource { stream, position: 0 }, &self.header, deltas, limits.max_headers_bytes)
    }

    /// The decoded header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives up the batch for its bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The records one by one, decompressed if need be, within the default [`BatchLimits`].
    pub fn records(&self) -> Result<Records, Error> {
        self.records_within(&BatchLimits::default())
    }

    /// As [`records`](Self::records), with the caller's bounds on what decompression may yield.
    pub fn records_within(&self, limits: &BatchLimits) -> Result<Records, Error> {
        let records = self.bytes.slice(HEADER_BYTES..);
        let records = match self.header.attributes.compression()? {
            Compression::None => records,
            codec => {
                let limit = limits.decompressed(records.len());
                Bytes::from(Decompressor::new(codec, &records, limit)?.read_to_end()?)
            }
        };
        Ok(Records::new(self.header, records))
    }

    /// The batch with append time `time` for all its records, and its CRC computed anew: only before it is proposed.
    /// Copies the bytes unless this is their only owner.
    pub fn with_log_append_time(self, time: TimestampMs) -> RecordBatch {
        let attributes = Attributes(self.header.attributes.0 | Attributes::LOG_APPEND_TIME);
        let header = BatchHeader { attributes, max_timestamp: time, ..self.header };
        self.patched(header)
    }

    /// The batch with another place in its producer's sequence, and its CRC computed anew: for a producer that begins a new
    /// sequence. Copies the bytes unless this is their only owner.
    pub fn with_producer(self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) -> RecordBatch {
        let header = BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence, ..self.header };
        self.patched(header)
    }

    fn patched(self, mut header: BatchHeader) -> RecordBatch {
        let mut bytes = self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        header.crc = crc32c(&bytes[CRC_START..]);
        bytes[17..21].copy_from_slice(&header.crc.to_be_bytes());
        RecordBatch { header, bytes: bytes.freeze() }
    }
}

/// The header of the batch at the start of `bytes`, which is whole and within the size limit.
fn whole(bytes: &[u8], limits: &BatchLimits) -> Result<BatchHeader, Error> {
    let header = BatchHeader::read(bytes)?;
    let total = header.total_bytes();
    if total > limits.max_batch_bytes {
        return Err(Error::TooLarge {
            field: "size of the batch in bytes",
            value: total as u64,
            limit: limits.max_batch_bytes as u64,
            hint: "send smaller batches, or raise the topic's max_message_bytes",
        });
    }
    if total > bytes.len() {
        return Err(Error::truncated("batch_length", total, bytes.len()));
    }
    Ok(header)
}

fn check_header(header: &BatchHeader, limits: &BatchLimits) -> Result<Compression, Error> {
    let attributes = header.attributes;
    let compression = attributes.compression()?;
    if attributes.0 & !Attributes::KNOWN != 0 {
        return Err(Error::invalid("attributes", attributes.0, "bits 7 to 15 are not defined; leave them 0"));
    }
    if header.last_offset_delta < 0 {
        return Err(Error::invalid("last_offset_delta", header.last_offset_delta, "it is 0 or more"));
    }
    if header.record_count < 0 || i64::from(header.record_count) > i64::from(header.last_offset_delta) + 1 {
        return Err(Error::invalid("record_count", header.record_count, "it is from 0 to last_offset_delta + 1"));
    }
    let records_bytes = header.total_bytes() - HEADER_BYTES;
    // The smallest record takes 7 bytes, so a count that the bytes can't hold is known before anything is walked.
    if compression == Compression::None && header.record_count as usize > records_bytes / 7 {
        return Err(Error::invalid("record_count", header.record_count, "more records than the batch has bytes for"));
    }
    if header.is_idempotent() && !attributes.is_control() && (header.producer_epoch.0 < 0 || header.base_sequence.0 < 0) {
        return Err(Error::invalid(
            "base_sequence",
            header.base_sequence.0,
            "a batch with a producer id needs a producer epoch and a base sequence of 0 or more",
        ));
    }
    if header.producer_id.0 < -1 {
        return Err(Error::invalid("producer_id", header.producer_id.0, "it is -1 (none) or 0 or more"));
    }
    if limits.source == BatchSource::Client {
        check_client(header)?;
    }
    Ok(compression)
}

fn check_client(header: &BatchHeader) -> Result<(), Error> {
    let attributes = header.attributes;
    if attributes.is_control() {
        return Err(Error::invalid("attributes", attributes.0, "control batches are written by brokers only; clear bit 5"));
    }
    if attributes.is_log_append_time() {
        return Err(Error::invalid(
            "attributes",
            attributes.0,
            "append time is set by the broker; clear bit 3, and set the topic's timestamp type",
        ));
    }
    if attributes.has_delete_horizon() {
        return Err(Error::invalid("attributes", attributes.0, "a delete horizon is set by compaction only; clear bit 6"));
    }
    if header.record_count != header.last_offset_delta.saturating_add(1) {
        return Err(Error::invalid(
            "record_count",
            header.record_count,
            "a producer's batch has at least one record, and last_offset_delta + 1 of them",
        ));
    }
    Ok(())
}
