//! The five codecs of record batches, as bounded streams.
//!
//! A decompressor here never allocates by a length that the bytes claim beyond the caller's limit, and stops as soon as
//! more comes out than the limit allows.

use std::fmt;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::Error;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy: written in the framing of snappy-java (as Kafka's Java client), read in that and raw (as librdkafka).
    Snappy,
    /// The LZ4 frame format with independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// All codecs, in the order of their identifiers.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    pub(super) fn from_id(id: i16) -> Result<Self, Error> {
        usize::try_from(id)
            .ok()
            .and_then(|id| Self::ALL.get(id))
            .copied()
            .ok_or_else(|| Error::invalid("attributes.compression", id, "0 none, 1 gzip, 2 snappy, 3 lz4 and 4 zstd are known"))
    }

    /// The identifier in a batch's attributes: 0 to 4.
    pub fn id(self) -> i16 {
        self as i16
    }

    /// The name that Kafka's settings use.
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    fn failed(self, error: impl fmt::Display) -> Error {
        Error::Codec { codec: self, reason: error.to_string() }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("compression is {name:?}: none, gzip, snappy, lz4 and zstd are known"))
    }
}

/// Bytes that come out of a decompressor at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// snappy-java's stream header: eight bytes of magic, two versions of four bytes.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

/// A decompressor that counts what comes out and stops at its limit.
pub(super) struct Decompressor<'a> {
    codec: Compression,
    reader: Box<dyn Read + 'a>,
    chunk: Vec<u8>,
    start: usize,
    end: usize,
    produced: u64,
    limit: u64,
}

impl<'a> Decompressor<'a> {
    /// Reads `compressed`; no more than `limit` bytes will come out.
    pub(super) fn new(codec: Compression, compressed: &'a [u8], limit: u64) -> Result<Self, Error> {
        let reader: Box<dyn Read + 'a> = match codec {
            Compression::None => Box::new(compressed),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
            Compression::Snappy => snappy_reader(compressed, limit)?,
            Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(compressed)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(|e| codec.failed(e))?;
                // A frame's window is allocated at once, so it is bounded: 8 MiB serves all levels up to 19, whatever
                // comes out; a larger one is believed as far as so much may come out.
                let window = limit.max(1).next_power_of_two().trailing_zeros().clamp(23, 27);
                decoder.window_log_max(window).map_err(|e| codec.failed(e))?;
                Box::new(decoder)
            }
        };
        Ok(Decompressor { codec, reader, chunk: vec![0; CHUNK_BYTES], start: 0, end: 0, produced: 0, limit })
    }

    /// What was decompressed and not yet consumed; empty only at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8], Error> {
        while self.start == self.end {
            let read = match self.reader.read(&mut self.chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.codec.failed(e)),
            };
            (self.start, self.end) = (0, read);
            self.produced += read as u64;
            if self.produced > self.limit {
                return Err(over_limit(self.produced, self.limit));
            }
        }
        Ok(&self.chunk[self.start..self.end])
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// All that is left, in one buffer.
    pub(super) fn read_to_end(mut self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok(out);
            }
            out.extend_from_slice(chunk);
            let consumed = chunk.len();
            self.consume(consumed);
        }
    }
}

fn over_limit(value: u64, limit: u64) -> Error {
    Error::TooLarge {
        field: "decompressed size of the batch in bytes",
        value,
        limit,
        hint: "send smaller batches, or raise max_decompressed_bytes or max_compression_ratio",
    }
}

fn snappy_reader<'a>(compressed: &'a [u8], limit: u64) -> Result<Box<dyn Read + 'a>, Error> {
    if compressed.starts_with(&XERIAL_MAGIC) {
        let rest = compressed
            .get(XERIAL_HEADER_BYTES..)
            .ok_or_else(|| Error::truncated("snappy-java stream header", XERIAL_HEADER_BYTES, compressed.len()))?;
        return Ok(Box::new(Xerial { rest, block: Vec::new(), position: 0, limit }));
    }
    Ok(Box::new(io::Cursor::new(snappy_block(compressed, limit)?)))
}

/// One raw snappy block. Its claimed length is believed only up to the limit.
fn snappy_block(block: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    let claimed = snap::raw::decompress_len(block).map_err(|e| Compression::Snappy.failed(e))? as u64;
    if claimed > limit {
        return Err(over_limit(claimed, limit));
    }
    snap::raw::Decoder::new().decompress_vec(block).map_err(|e| Compression::Snappy.failed(e))
}

/// The blocks of snappy-java's framing: each a big-endian length and a raw snappy block.
struct Xerial<'a> {
    rest: &'a [u8],
    block: Vec<u8>,
    position: usize,
    limit: u64,
}

impl Read for Xerial<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let cut = || io::Error::other("a block of the snappy-java framing is cut short");
            let (length, rest) = self.rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (block, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
            self.block = snappy_block(block, self.limit).map_err(io::Error::other)?;
            self.position = 0;
            self.rest = rest;
        }
        let count = out.len().min(self.block.len() - self.position);
        out[..count].copy_from_slice(&self.block[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

/// Compresses `records` onto the end of `out`.
pub(super) fn compress(codec: Compression, records: &[u8], out: Vec<u8>) -> Result<Vec<u8>, Error> {
    let failed = |e: io::Error| codec.failed(e);
    match codec {
        Compression::None => {
            let mut out = out;
            out.extend_from_slice(records);
            Ok(out)
        }
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            writer.write_all(records).map_err(failed)?;
            writer.finish().map_err(failed)
        }
        Compression::Snappy => compress_xerial(records, out),
        Compression::Lz4 => {
            // Kafka's Java client refuses linked blocks.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut writer = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            writer.write_all(records).map_err(failed)?;
            writer.finish().map_err(|e| codec.failed(e))
        }
        Compression::Zstd => {
            let mut writer = zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed)?;
            writer.set_pledged_src_size(Some(records.len() as u64)).map_err(failed)?;
            writer.write_all(records).map_err(failed)?;
            writer.finish().map_err(failed)
        }
    }
}

fn compress_xerial(records: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>, Error> {
    out.extend_from_slice(&XERIAL_MAGIC);
    // Version 1, readable by version 1.
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(|e| Compression::Snappy.failed(e))?;
        out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(out)
}
