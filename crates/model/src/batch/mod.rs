//! Kafka's RecordBatch v2, the one byte format of wire, WAL, replication and tier.
//!
//! A batch is checked once, where it enters ([`RecordBatch::parse`]), and its bytes never change afterwards, except for
//! base offset and leader epoch, which its CRC does not cover. This module knows nothing of where batches are kept.

mod builder;
mod compression;
mod error;
mod header;
mod record;
mod record_batch;
#[cfg(test)]
mod tests;
mod walk;

pub use builder::BatchBuilder;
pub use compression::Compression;
pub use error::Error;
pub use header::{
    Attributes, BatchHeader, Batches, HEADER_BYTES, LENGTH_OVERHEAD, PREFIX_BYTES, batches, served_prefix, verify_crc,
};
pub use record::{Header, Record, Records};
pub use record_batch::{BatchLimits, BatchSource, RATIO_FREE_BYTES, RecordBatch, RecordValidation};
