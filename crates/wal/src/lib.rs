//! The write-ahead log that all journals of a broker share: one queue, one thread, one fdatasync for whatever is pending.
//!
//! Owns: the bytes of `docs/formats/wal.md`, the order of writes, what counts as durable, where each journal's entries lie, and the byte
//! budget of the disk. Deliberately does not know: Raft, what an entry means, what may be purged.
//!
//! Invariants, for each journal: entries are dense, `purged.index < first_index`, `first_index = purged.index + 1`,
//! `committed.index <= last.index` after a recovery. For the whole log: `durable sequence <= written sequence`; an acknowledged write is
//! at or below the durable sequence; files are freed oldest first, each one only once nothing in it is needed and the next file's opening
//! repeats every journal's vote, purge point and committed index.

mod allocator;
#[doc(hidden)]
pub mod benchmark;
mod error;
mod format;
mod group;
pub mod inspect;
mod log_state;
pub mod mark;
mod recovery;
mod settings;
mod shared;
mod wal;
mod writer;

pub use error::{Failed, Full, OpenError, ReadError, Shortage};
pub use log_state::JournalLog;
pub use recovery::Recovered;
pub use settings::{SettingError, Settings};
pub use wal::{Admission, Class, EntryRef, Pressure, Status, Wal};

#[cfg(test)]
mod tests;

use bytes::Bytes;
use tidegate_model::JournalId;

/// Called on the WAL thread once the writes are durable (or never will be), in the order of submission. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), std::sync::Arc<Failed>>) + Send>;

/// A place in a journal's log, with the term and the leader under which its entry was proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The Raft term.
    pub term: u64,
    /// The node that led the term.
    pub leader: u64,
    /// The place in the log, from 1; 0 stands for "before the first".
    pub index: u64,
}

/// The bytes of an entry, in chunks that are never copied together.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Payload {
    /// The chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Bytes of all chunks together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(chunks: Vec<Bytes>) -> Payload {
        let bytes = chunks.iter().map(Bytes::len).sum();
        Payload { chunks, bytes }
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Payload {
        Payload { bytes: chunk.len(), chunks: vec![chunk] }
    }
}

/// One thing to be made durable, in the order of submission.
#[derive(Clone, Debug)]
pub enum Write {
    /// Appends an entry. Its index must follow the journal's last one (or its purge point).
    Entry {
        /// The journal.
        journal: JournalId,
        /// Where; `index` is dense.
        at: Position,
        /// At most [`Settings::max_payload_bytes`].
        payload: Payload,
    },
    /// Replaces the journal's vote.
    Vote {
        /// The journal.
        journal: JournalId,
        /// Opaque, at most 4,096 bytes.
        bytes: Bytes,
    },
    /// Removes all entries above `index`.
    TruncateAfter {
        /// The journal.
        journal: JournalId,
        /// The last index that stays; 0 removes all. Not below the purge point.
        index: u64,
    },
    /// Removes all entries up to and with `at`, which may lie beyond the last one (a snapshot was installed).
    Purge {
        /// The journal.
        journal: JournalId,
        /// The new purge point; an older one than the present is ignored.
        at: Position,
    },
    /// Forgets a journal: its entries, vote and points go, as if it had never been here. It may be begun anew, from index 1, once this is durable and
    /// not before.
    Forget {
        /// The journal.
        journal: JournalId,
    },
    /// Notes how far the journal is committed. Alone it causes no write: it goes out with the next one, or is forgotten by a crash.
    Committed {
        /// The journal.
        journal: JournalId,
        /// The last committed entry.
        at: Position,
    },
}
