//! The object store as a contract. Knows keys and bytes, not what they mean.
//!
//! ```text
//! put(key) = Ok          the whole object is durable and seen by every later get, head and list
//! put(key) = Err         nothing is seen under the key, ever, unless the error is ambiguous
//! an object's bytes      never change: there is no overwrite, only create and delete
//! get_range(key, a..b)   exactly b - a bytes, 0 <= a < b <= length
//! delete(key)            idempotent: a key without object is a success
//! list(prefix)           keys in byte order, each object once; what was put before the call is there
//! ```
//!
//! [`crate::conformance`] checks each line on every implementation.

pub mod directory;
mod error;
pub mod s3;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::codec::Crc;
pub use error::StoreError;

/// Longest key in bytes, the hub's prefix included: S3's limit is 1,024.
pub const MAX_KEY_BYTES: usize = 900;
/// Longest part of a key between two slashes: a file name's limit is 255, and a temporary name needs room.
pub const MAX_KEY_PART_BYTES: usize = 200;
/// How much of an object [`ObjectStore::verify`] holds at once.
const VERIFY_BYTES: u64 = 8 * 1024 * 1024;

/// What a put does about an object that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutMode {
    /// It fails with [`StoreError::AlreadyExists`] and leaves the object as it is.
    CreateOnly,
}

/// What a put wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Length in bytes.
    pub bytes: u64,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
}

/// An object's name and length.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A store of immutable objects. Calls may run at once; dropping a call's future may leave a write undone, done or half done unseen.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Writes an object. On return it is durable.
    async fn put(&self, key: &str, body: Vec<Bytes>, mode: PutMode) -> Result<Put, StoreError>;

    /// Reads a whole object. For objects whose length the caller bounds: it is held in memory.
    async fn get(&self, key: &str) -> Result<Bytes, StoreError>;

    /// Reads exactly the bytes `range.start..range.end`.
    ///
    /// # Errors
    /// [`StoreError::InvalidRange`] if the range is empty or the object is shorter.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// An object's length, without its bytes.
    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError>;

    /// Removes an object. On return no later call sees it.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Up to `limit` objects whose keys start with `prefix` (any string, not only whole parts) and are greater than `start_after`, in the
    /// order of their keys. Fewer than `limit` means that there are no more.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError>;

    /// Reads an object back and compares its length and checksum: what a tierer does before local bytes may go.
    ///
    /// The bytes themselves are read, not the store's own checksum attribute: that shows that they can be read, and every store has it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if they differ, else as of `head` and `get_range`.
    async fn verify(&self, key: &str, expected: Put) -> Result<(), StoreError> {
        let found = self.head(key).await?.bytes;
        if found != expected.bytes {
            let message = format!("it has {found} bytes, {} were written", expected.bytes);
            return Err(StoreError::Corrupt { key: key.to_owned(), message });
        }
        let mut crc = Crc::new();
        let mut position = 0;
        while position < found {
            let end = (position + VERIFY_BYTES).min(found);
            crc.update(&self.get_range(key, position..end).await?);
            position = end;
        }
        if crc.value() != expected.crc32c {
            let message = format!("its CRC-32C is {:08x}, that of what was written is {:08x}", crc.value(), expected.crc32c);
            return Err(StoreError::Corrupt { key: key.to_owned(), message });
        }
        Ok(())
    }
}

/// Checks that a key is one that every store can hold and that cannot leave a folder: parts of `[A-Za-z0-9._-]`, divided by single slashes,
/// none of them starting with a dot.
///
/// # Errors
/// [`StoreError::InvalidKey`] with the rule.
pub fn validate_key(key: &str) -> Result<(), StoreError> {
    let refuse = |why| Err(StoreError::InvalidKey { key: key.chars().take(MAX_KEY_BYTES).collect(), why });
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return refuse("it must have 1 to 900 bytes");
    }
    for part in key.split('/') {
        if part.is_empty() || part.len() > MAX_KEY_PART_BYTES {
            return refuse("each part between slashes must have 1 to 200 bytes");
        }
        if part.starts_with('.') {
            return refuse("no part may start with a dot");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            return refuse("only letters, digits, '.', '_', '-' and '/' are allowed");
        }
    }
    Ok(())
}

/// Checks a prefix of a listing: empty, or the beginning of a valid key.
pub(crate) fn validate_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() {
        return Ok(());
    }
    validate_key(prefix.strip_suffix('/').unwrap_or(prefix))
}

/// Checks a range before a store is asked.
pub(crate) fn validate_range(key: &str, range: &Range<u64>) -> Result<(), StoreError> {
    if range.start < range.end {
        return Ok(());
    }
    Err(StoreError::InvalidRange {
        key: key.to_owned(),
        start: range.start,
        end: range.end,
        why: "the end must be greater than the start".to_owned(),
    })
}
