//! Bytes of the log: see docs/formats/wal.md.
pub(crate) const FILE_HEADER_BYTES: u64 = 4096;
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
