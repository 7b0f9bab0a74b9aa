//! What can be wrong with a record batch. Each message names the field, what was found, the limit and the way out.

use super::Compression;

/// Why bytes are not an acceptable record batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the batch does.
    #[error("{field}: {needed} bytes are needed and {available} are there; send whole record batches")]
    Truncated {
        /// The field that could not be read.
        field: &'static str,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that were left.
        available: u64,
    },
    /// A size is over its limit.
    #[error("{field} is {value}, more than the limit of {limit}; {hint}")]
    TooLarge {
        /// The field or quantity.
        field: &'static str,
        /// What was found; for a decompressed size, what had been seen when decompression was stopped.
        value: u64,
        /// The greatest value that is accepted.
        limit: u64,
        /// What the caller can do.
        hint: &'static str,
    },
    /// An older (or unknown) message format.
    #[error("magic is {magic}, and only record batches of version 2 are stored; use a client of Kafka 0.11 or newer")]
    UnsupportedMagic {
        /// The version byte that was found.
        magic: i8,
    },
    /// The bytes changed after their checksum was computed.
    #[error(
        "crc is {stored:#010x} in the header and {computed:#010x} over the bytes: the batch was damaged on its way; send it again"
    )]
    Crc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes that are there.
        computed: u32,
    },
    /// A field has a value that the format forbids.
    #[error("{field} is {value}: {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was found.
        value: i64,
        /// What is allowed, and what to do.
        rule: &'static str,
    },
    /// The records could not be decompressed, or (building) compressed.
    #[error("records: {codec} failed: {reason}; check the producer's compression library, or send uncompressed batches")]
    Codec {
        /// The codec that the attributes name.
        codec: Compression,
        /// The library's words.
        reason: String,
    },
}

impl Error {
    pub(super) fn invalid(field: &'static str, value: impl Into<i64>, rule: &'static str) -> Self {
        Error::Invalid { field, value: value.into(), rule }
    }

    pub(super) fn truncated(field: &'static str, needed: usize, available: usize) -> Self {
        Error::Truncated { field, needed: needed as u64, available: available as u64 }
    }
}
