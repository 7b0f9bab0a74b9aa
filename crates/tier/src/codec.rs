//! Little-endian fields of our binary formats, and the one checksum (CRC-32C) of all of them.
//!
//! The reader never allocates by a length it has not compared with what is left.

use bytes::Bytes;

/// CRC-32C (Castagnoli) of bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C over chunks that come one after the other.
pub(crate) struct Crc(crc_fast::Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Crc(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// CRC-32C of chunks as if they were one.
pub(crate) fn crc32c_of(chunks: &[Bytes]) -> u32 {
    let mut crc = Crc::new();
    chunks.iter().for_each(|chunk| crc.update(chunk));
    crc.value()
}

/// Bytes ended, or a count or length is more than what is left can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {position} needs {needed} bytes and {left} are left")]
pub struct Truncated {
    /// The field.
    pub field: &'static str,
    /// Where it starts, from the start of what is decoded.
    pub position: usize,
    /// Bytes that it takes.
    pub needed: u64,
    /// Bytes that are there.
    pub left: u64,
}

/// Reads fields one after the other.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, position: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn take(&mut self, field: &'static str, needed: usize) -> Result<&'a [u8], Truncated> {
        if needed > self.left() {
            return Err(Truncated { field, position: self.position, needed: needed as u64, left: self.left() as u64 });
        }
        let taken = &self.bytes[self.position..self.position + needed];
        self.position += needed;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Truncated> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Truncated> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Truncated> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Truncated> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }
}
