//! What manifest objects and checkpoints share: magic, version, CRC and zstd around a protobuf.
//!
//! Layout, little endian: magic (8 bytes), version (u32), CRC-32C of what follows (u32), bytes when decompressed (u64), a zstd frame.

use std::io::Read;

use crate::codec::{Cursor, Truncated, crc32c};

/// Why stored bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The magic is another one: not such a file at all.
    #[error("this is not a {expected}: its magic number is another one")]
    Magic {
        /// What was looked for.
        expected: &'static str,
    },
    /// Written by a newer version.
    #[error("{what} has format version {found}, this program reads up to {newest}: use a newer Tidegate")]
    Version {
        /// What was read.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest that can be read.
        newest: u32,
    },
    /// The checksum is not that of the bytes.
    #[error("{what} is damaged: stored CRC {stored:08x}, computed {computed:08x}")]
    Crc {
        /// What was read.
        what: &'static str,
        /// As stored.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The structure is not as the format says.
    #[error("{what} is damaged: {reason}")]
    Structure {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It ends early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl DecodeError {
    pub(crate) fn structure(what: &'static str, reason: impl std::fmt::Display) -> DecodeError {
        DecodeError::Structure { what, reason: reason.to_string() }
    }
}

/// One kind of enveloped object.
pub(crate) struct Envelope {
    pub(crate) what: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

const LEVEL: i32 = 3;
/// The largest window of a frame that is read, 8 MiB; level 3 writes up to 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// Allocated before anything is decompressed, at the most.
const FIRST_BYTES: u64 = 1 << 20;
const HEAD_BYTES: usize = 16;

impl Envelope {
    pub(crate) fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let compressed =
            zstd::bulk::compress(plain, LEVEL).expect("zstd compresses whatever it is given into memory that it allocates");
        let mut body = Vec::with_capacity(compressed.len() + 8);
        body.extend_from_slice(&(plain.len() as u64).to_le_bytes());
        body.extend_from_slice(&compressed);
        let mut sealed = Vec::with_capacity(body.len() + HEAD_BYTES);
        sealed.extend_from_slice(&self.magic);
        sealed.extend_from_slice(&self.version.to_le_bytes());
        sealed.extend_from_slice(&crc32c(&body).to_le_bytes());
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what `seal` made; `most` bounds the decompressed bytes.
    pub(crate) fn open(&self, sealed: &[u8], most: u64) -> Result<Vec<u8>, DecodeError> {
        let what = self.what;
        let mut cursor = Cursor::new(sealed);
        if cursor.take("magic", 8)? != self.magic {
            return Err(DecodeError::Magic { expected: what });
        }
        let version = cursor.u32("version")?;
        // Not covered by the checksum, and no version was ever less than 1.
        if version == 0 || version > self.version {
            return Err(DecodeError::Version { what, found: version, newest: self.version });
        }
        let stored = cursor.u32("crc")?;
        let computed = crc32c(&sealed[HEAD_BYTES..]);
        if stored != computed {
            return Err(DecodeError::Crc { what, stored, computed });
        }
        let plain_bytes = cursor.u64("length")?;
        if plain_bytes > most {
            return Err(DecodeError::structure(what, format!("{plain_bytes} bytes decompressed are over the limit of {most}")));
        }
        let compressed = cursor.take("content", cursor.left())?;
        // Memory grows with what really comes out, not with what the header claims.
        let wrong = |error: std::io::Error| DecodeError::structure(what, error);
        let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(wrong)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(wrong)?;
        let mut plain = Vec::with_capacity(usize::try_from(plain_bytes.min(FIRST_BYTES)).unwrap_or(0));
        let read = decoder.take(plain_bytes.saturating_add(1)).read_to_end(&mut plain).map_err(wrong)?;
        if read as u64 != plain_bytes {
            return Err(DecodeError::structure(what, format!("it does not decompress to the {plain_bytes} bytes that it says")));
        }
        Ok(plain)
    }
}
