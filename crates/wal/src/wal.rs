//! The handle: submit, admit, read, status.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tidegate_env::Env;
use tidegate_model::JournalId;

use crate::{Done, Failed, Full, OpenError, Position, ReadError, Recovered, Settings, Write};

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Records of clients.
    Data,
    /// Entries that free space or keep the hub alive: they may use the reserve.
    Control,
}

/// A stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    /// Where it stands.
    pub at: Position,
    /// Bytes of its payload.
    pub len: u32,
}

/// How much room is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough.
    Normal,
    /// Above the soft mark.
    Soft,
    /// Appends of clients are refused.
    Hard,
}

/// What the log says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Bytes in use, those of pending writes included.
    pub used_bytes: u64,
    /// Bytes that may be used.
    pub budget_bytes: u64,
    /// Files that hold something needed.
    pub files: usize,
    /// How much room is left.
    pub pressure: Pressure,
    /// True while the disk has no room for another file.
    pub disk_full: bool,
    /// How long the last fdatasync took.
    pub last_sync: Duration,
    /// Syncs since the log was opened.
    pub syncs: u64,
    /// Bytes written since the log was opened, headers included.
    pub written_bytes: u64,
}

/// A handle to the log. Cheap to clone; the log ends when all are dropped or by [`Wal::close`].
#[derive(Clone)]
pub struct Wal {}
impl Wal {
    pub async fn open(_settings: Settings, _env: &Env) -> Result<(Wal, Recovered), OpenError> {
        todo!()
    }
    pub fn submit(&self, _writes: Vec<Write>, _done: Option<Done>) {
        todo!()
    }
    pub fn admit(&self, _bytes: u64, _class: Class) -> Result<(), Full> {
        todo!()
    }
    pub fn entry(&self, _journal: JournalId, _index: u64) -> Option<EntryRef> {
        todo!()
    }
    pub fn first_index(&self, _journal: JournalId) -> u64 {
        todo!()
    }
    pub fn last(&self, _journal: JournalId) -> Option<Position> {
        todo!()
    }
    pub async fn read(&self, _journal: JournalId, _index: u64) -> Result<Bytes, ReadError> {
        todo!()
    }
    pub async fn read_range(&self, _journal: JournalId, _index: u64, _range: Range<u32>) -> Result<Bytes, ReadError> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    pub fn failed(&self) -> BoxFuture<'static, Arc<Failed>> {
        todo!()
    }
    pub async fn close(self) {
        todo!()
    }
}
