//! The tier: sealed data as immutable objects in an object store, and the way back from there.
//!
//! Owns the object-store interface with its two implementations, the formats of what is stored (tier objects, manifest objects, checkpoint
//! envelopes), the names of objects, and reading through bounded caches. Knows nothing of journals, topics' settings or who decides what is
//! sealed and deleted: every destructive call is the caller's decision.
//!
//! Nothing read from a store is handed on before its checksum was checked.

pub mod checkpoint;
mod codec;
pub mod conformance;
mod envelope;
#[cfg(test)]
mod golden;
pub mod keys;
pub mod manifest;
pub mod object;
mod reader;
pub mod store;

pub use codec::{Truncated, crc32c};
pub use envelope::DecodeError;
pub use reader::{CacheSettings, CacheStatistics, ObjectRef, RangeRef, TierRead, TierReadError, TierReader};
pub use store::directory::DirectoryStore;
pub use store::s3::{S3Settings, S3Store};
pub use store::{ObjectInfo, ObjectStore, Put, PutMode, StoreError};
