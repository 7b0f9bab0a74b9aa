//! What a file of the log holds, for people and their tools. Reads a file alone, never changes it, and needs no other file.

use std::path::{Path, PathBuf};

use tidegate_env::{Disk, OpenMode};

use crate::format::{self, BadHeader, FileHeader};
pub use crate::format::{FrameHeader, Kind};
use crate::log_state;
use crate::recovery::scan::{self, Found};

/// A file could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The disk refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no WAL file, or of a newer version.
    #[error("{} is no WAL file that this program can read: {reason}", path.display())]
    NotWal {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// What it says of itself.
    pub header: FrameHeader,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The identity of the log that it belongs to, in hexadecimal.
    pub log: String,
    /// Its place among the log's files.
    pub generation: u32,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// The unbroken run of frames from its start.
    pub frames: Vec<Frame>,
    /// Where the run ends.
    pub end: u64,
    /// The frame that ends the file, if it was filled.
    pub seal: Option<Frame>,
    /// Journals that the opening repeats; `None` if there is no opening that can be read.
    pub journals: Option<usize>,
    /// Frames that the seal lists; `None` if there is no seal that can be read.
    pub listed: Option<usize>,
    /// Whole frames behind a gap: a torn tail if `durable` lies below them, else behind damage.
    pub beyond: Vec<Frame>,
    /// The greatest sequence that a frame here states to be durable.
    pub durable: u64,
    /// True if a frame at or below `durable` is not whole: not a torn tail but damage.
    pub damaged: bool,
}

/// Walks a file. Blocks; takes memory for the whole file.
///
/// # Errors
/// If it can't be read or is no WAL file.
pub fn inspect(disk: &dyn Disk, path: &Path) -> Result<Inspected, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let mut bytes = vec![0; usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    inspect_bytes(path, &bytes)
}

/// Walks a file whose bytes are in memory; `path` is only for the message of an error.
///
/// # Errors
/// If it is no WAL file.
pub fn inspect_bytes(path: &Path, bytes: &[u8]) -> Result<Inspected, InspectError> {
    let header = FileHeader::decode(bytes).map_err(|bad| {
        let reason = match bad {
            BadHeader::Magic => "it does not begin as one".to_owned(),
            BadHeader::Version(version) => format!("its format version is {version}"),
            BadHeader::Checksum => "its header fails its checksum".to_owned(),
        };
        InspectError::NotWal { path: path.to_owned(), reason }
    })?;
    let scan = scan::scan(bytes, &header);
    let durable = scan.durable();
    let frame = |found: &Found| Frame { offset: found.offset as u64, header: found.header };
    let opening = scan.frames.first().and_then(|found| log_state::decode(&bytes[found.payload()]));
    let listed = scan.seal.as_ref().and_then(|found| format::decode_seal(&bytes[found.payload()]));
    Ok(Inspected {
        log: header.log.to_string(),
        generation: header.generation,
        file_bytes: header.file_bytes,
        frames: scan.frames.iter().map(frame).collect(),
        end: scan.end as u64,
        seal: scan.seal.as_ref().map(frame),
        journals: opening.map(|journals| journals.len()),
        listed: listed.map(|(_, frames)| frames.len()),
        beyond: scan.beyond.iter().map(frame).collect(),
        durable,
        damaged: scan.last_sequence().map_or(!scan.beyond.is_empty(), |last| last < durable),
    })
}
