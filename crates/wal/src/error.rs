//! What can go wrong, by what a caller does about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_model::JournalId;

use crate::settings::SettingError;

/// A write or sync failed, which is final: nothing more is acknowledged, and the process must end.
#[derive(Debug, thiserror::Error)]
#[error("the WAL has failed for good at {what} of {}: {source}; end the process, check the disk, start again", path.display())]
pub struct Failed {
    /// What was tried.
    pub what: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the disk said.
    pub source: io::Error,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The log's byte budget is used up: what is in it was not yet tiered or trimmed.
    #[error("the WAL is full of records that are not yet in the tier (is the object store reachable?)")]
    Budget,
    /// The disk has no room for the next file.
    #[error("the disk has no room for another WAL file (free some space or grow the volume)")]
    Disk,
}

/// No room for more appends now. Nothing was written; to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {used} of {budget} bytes of the WAL's budget are used; try again in {} ms", retry_after.as_millis())]
pub struct Full {
    /// When to try again.
    pub retry_after: Duration,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be used.
    pub budget: u64,
    /// What is short.
    pub why: Shortage,
}

/// An entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was purged, truncated, or never written.
    #[error("journal {journal} has no entry {index} in the WAL")]
    Missing {
        /// The journal.
        journal: JournalId,
        /// The index asked for.
        index: u64,
    },
    /// It was submitted, and is not written yet: the submitter still has it.
    #[error("entry {index} of journal {journal} is still being written; take it from the journal's cache")]
    NotWritten {
        /// The journal.
        journal: JournalId,
        /// The index asked for.
        index: u64,
    },
    /// The range does not lie within the payload.
    #[error("entry {index} of journal {journal} has {len} bytes; the range {start}..{end} does not lie within")]
    Range {
        /// The journal.
        journal: JournalId,
        /// The index asked for.
        index: u64,
        /// Bytes of the payload.
        len: u32,
        /// First byte asked for.
        start: u32,
        /// After the last byte asked for.
        end: u32,
    },
    /// Its bytes are not those that were written.
    #[error("entry {index} of journal {journal} is damaged: {} at offset {offset} fails its checksum; restore it from another replica or the tier", path.display())]
    Corrupt {
        /// The journal.
        journal: JournalId,
        /// The index asked for.
        index: u64,
        /// The file.
        path: PathBuf,
        /// Where its frame begins.
        offset: u64,
    },
    /// The disk refused.
    #[error("entry {index} of journal {journal} cannot be read from {}", path.display())]
    Io {
        /// The journal.
        journal: JournalId,
        /// The index asked for.
        index: u64,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A log could not be opened. Nothing was changed unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Another process has it open.
    #[error("{} is in use by another process; two brokers must not share a WAL", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk has no room for the first file.
    #[error("no room for a WAL file of {bytes} bytes at {}; free some space or lower file_bytes", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
    },
    /// The disk refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer version wrote it.
    #[error("{} has format version {found}, this program reads up to {supported}; start the version that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The greatest that is understood.
        supported: u16,
    },
    /// The file belongs to another log, or lies under another file's name.
    #[error("{} does not belong here: {reason}; put back the file that was there, or move this broker's folder away and let it be rebuilt from its peers or the tier", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A file that must be there is not.
    #[error("a file is missing: {} ({reason}); put it back, or move this broker's folder away and let it be rebuilt from its peers or the tier", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why it must be there.
        reason: String,
    },
    /// Bytes that were durable are damaged.
    #[error("{} is damaged at offset {offset}: {reason}; this is no torn tail: nothing was changed. Restore the file, or move this broker's folder away and let it be rebuilt from its peers or the tier", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}
