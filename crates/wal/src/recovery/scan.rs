//! Walking a file's bytes: the frames from its start, and whatever valid frame lies behind the first that is not.

use crate::format::{self, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FrameHeader, Kind};

/// A valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: FrameHeader,
    pub(crate) offset: usize,
}

impl Found {
    /// Where its payload lies in the file.
    pub(crate) fn payload(&self) -> std::ops::Range<usize> {
        let start = self.offset + FRAME_HEADER_BYTES;
        start..start + self.header.length as usize
    }

    pub(crate) fn end(&self) -> usize {
        self.offset + format::frame_bytes(self.header.length as usize)
    }
}

/// What is in a file.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// From the first frame on, without a gap in the sequence; the seal not among them.
    pub(crate) frames: Vec<Found>,
    /// Where the next frame would begin.
    pub(crate) end: usize,
    /// The seal, if it follows the last frame in sequence.
    pub(crate) seal: Option<Found>,
    /// Valid frames beyond a gap: what an unsynced group left.
    pub(crate) beyond: Vec<Found>,
}

impl Scan {
    /// The last sequence of the unbroken run.
    pub(crate) fn last_sequence(&self) -> Option<u64> {
        self.seal.or(self.frames.last().copied()).map(|found| found.header.sequence)
    }

    /// The greatest durable sequence that any valid frame states.
    pub(crate) fn durable(&self) -> u64 {
        let all = self.frames.iter().chain(&self.seal).chain(&self.beyond);
        all.map(|found| found.header.durable).max().unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.beyond.is_empty() && self.seal.is_none()
    }
}

/// Walks all of a file, whose bytes begin with its header.
pub(crate) fn scan(bytes: &[u8], file: &FileHeader) -> Scan {
    let mut scan = Scan { end: FILE_HEADER_BYTES as usize, ..Scan::default() };
    while let Some(found) = frame_at(bytes, scan.end, file) {
        let first = scan.frames.is_empty();
        let follows = scan.frames.last().is_none_or(|last| found.header.sequence == last.header.sequence + 1);
        if !follows || first != (found.header.kind == Kind::Opening) || found.header.kind == Kind::Seal {
            break;
        }
        scan.end = found.end();
        scan.frames.push(found);
    }
    let mut at = scan.end;
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        match frame_at(bytes, at, file) {
            Some(found) => {
                at = found.end();
                let last = scan.frames.last().map(|last| last.header.sequence);
                if found.header.kind == Kind::Seal && last.is_some_and(|last| found.header.sequence == last + 1) {
                    scan.seal = Some(found);
                } else {
                    scan.beyond.push(found);
                }
            }
            None => at += 8,
        }
    }
    scan
}

fn frame_at(bytes: &[u8], offset: usize, file: &FileHeader) -> Option<Found> {
    let (header, _) = FrameHeader::read(bytes.get(offset..)?, file)?;
    Some(Found { header, offset })
}
