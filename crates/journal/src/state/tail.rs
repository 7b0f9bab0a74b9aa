//! Where the batches of a partition that the journal's log still holds can be found.

use std::collections::VecDeque;

use tidegate_model::{Offset, TimestampMs};

/// Batches of one partition that lie back to back in one entry; each but the first has the base offset that follows the one
/// before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailItem {
    /// Offset of the first record.
    pub base: Offset,
    /// One past the offset of the last record.
    pub end: Offset,
    /// Raft index of the entry.
    pub index: u64,
    /// Position of the first batch in the entry's payload.
    pub position: u32,
    /// Length of all its batches.
    pub bytes: u32,
    /// Greatest record timestamp.
    pub max_timestamp: TimestampMs,
    /// The entry's time.
    pub appended: TimestampMs,
}

/// A partition's batches in the log, oldest first, without gaps. Its first items may be tiered already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TailIndex {
    items: VecDeque<TailItem>,
    untiered: usize,
}

impl TailIndex {
    /// All items.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = &TailItem> + ExactSizeIterator {
        self.items.iter()
    }

    /// The items that hold anything that is neither tiered nor trimmed.
    pub fn untiered(&self) -> impl DoubleEndedIterator<Item = &TailItem> + ExactSizeIterator {
        self.items.range(self.untiered..)
    }

    /// The items from the one that holds `offset` on; none if it lies below or above the tail.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &TailItem> {
        let first = match self.items.front() {
            Some(front) if front.base <= offset => self.items.partition_point(|item| item.end <= offset),
            _ => self.items.len(),
        };
        self.items.range(first..)
    }

    /// First offset in the tail; `None` if it is empty.
    pub fn start(&self) -> Option<Offset> {
        self.items.front().map(|item| item.base)
    }
}
