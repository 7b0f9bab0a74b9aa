//! Where the batches of a partition that the journal's log still holds can be found.
//!
//! Items follow each other without gaps; each stays until it is trimmed or its entry is released, so that recent data is read
//! from memory and log even when it is tiered already. Every change costs amortised constant time.

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
    /// How many items at the front hold nothing that is not tiered or trimmed.
    covered: usize,
    bytes: u64,
    untiered_bytes: u64,
}

impl TailIndex {
    /// All items.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = &TailItem> + ExactSizeIterator {
        self.items.iter()
    }

    /// The items that hold anything that is neither tiered nor trimmed.
    pub fn untiered(&self) -> impl DoubleEndedIterator<Item = &TailItem> + ExactSizeIterator {
        self.items.range(self.covered..)
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

    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the items that are not tiered or trimmed as a whole.
    pub fn untiered_bytes(&self) -> u64 {
        self.untiered_bytes
    }

    /// Raft indexes of the first item and of the first that is not covered.
    pub(crate) fn firsts(&self) -> Firsts {
        let index = |item: &TailItem| item.index;
        Firsts { retained: self.items.front().map(index), untiered: self.items.get(self.covered).map(index) }
    }

    /// Adds what was just appended; grows the last item where the bytes follow it in the same entry.
    pub(crate) fn push(&mut self, item: TailItem) {
        self.bytes += u64::from(item.bytes);
        self.untiered_bytes += u64::from(item.bytes);
        if let Some(last) = self.items.back_mut()
            && last.index == item.index
            && u64::from(last.position) + u64::from(last.bytes) == u64::from(item.position)
        {
            last.end = item.end;
            last.bytes = last.bytes.saturating_add(item.bytes);
            last.max_timestamp = last.max_timestamp.max(item.max_timestamp);
            return;
        }
        self.items.push_back(item);
    }

    /// Everything below `offset` is tiered or trimmed.
    pub(crate) fn cover(&mut self, offset: Offset) {
        while let Some(item) = self.items.get(self.covered).filter(|item| item.end <= offset) {
            self.untiered_bytes -= u64::from(item.bytes);
            self.covered += 1;
        }
    }

    /// Drops the items that lie below the log start; they were covered before.
    pub(crate) fn drop_below(&mut self, log_start: Offset) {
        while self.covered > 0 && self.items.front().is_some_and(|item| item.end <= log_start) {
            self.drop_first();
        }
    }

    /// Drops the covered items of entries up to `index`.
    pub(crate) fn release(&mut self, index: u64) {
        while self.covered > 0 && self.items.front().is_some_and(|item| item.index <= index) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.bytes -= u64::from(item.bytes);
            self.covered -= 1;
        }
    }
}

/// The places in the Raft log that a partition holds back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Firsts {
    pub(crate) retained: Option<u64>,
    pub(crate) untiered: Option<u64>,
}
