//! The tail cache: the newest entries of all journals of a broker, in memory, bounded in bytes.
//!
//! Owns the budget and what is evicted: the oldest entry of all journals first, but never one that is not yet both durable and applied,
//! because until then the WAL cannot serve it. So the bound is the budget plus what is on its way (which the byte permits bound).
//! Does not know what entries mean. `floor(journal) = min(durable, applied)`; entries above it stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::JournalId;

use super::types::RaftEntry;

/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD: u64 = 256;

/// The cache. Clones share it.
#[derive(Clone)]
pub struct TailCache {
    inner: Arc<Mutex<Inner>>,
    budget: u64,
}

impl std::fmt::Debug for TailCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TailCache({} of {} bytes)", self.used_bytes(), self.budget)
    }
}

#[derive(Default)]
struct Inner {
    used: u64,
    stamp: u64,
    journals: BTreeMap<JournalId, Journal>,
}

#[derive(Default)]
struct Journal {
    durable: u64,
    applied: u64,
    entries: BTreeMap<u64, Slot>,
}

struct Slot {
    stamp: u64,
    bytes: u64,
    entry: RaftEntry,
}

impl TailCache {
    /// A cache of `budget` bytes for all journals of a broker.
    pub fn new(budget: u64) -> TailCache {
        TailCache { inner: Arc::default(), budget }
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> u64 {
        self.inner.lock().used
    }

    /// Bytes that are held beyond the budget though nothing needs them: 0, or the bound is broken.
    pub(super) fn excess_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        let needed = inner.journals.values().map(|held| {
            let above = held.durable.min(held.applied).saturating_add(1);
            held.entries.range(above..).map(|(_, slot)| slot.bytes).sum::<u64>()
        });
        inner.used.saturating_sub(needed.sum::<u64>().max(self.budget))
    }

    /// Puts an entry at the journal's end. `bytes` is the length of its payload.
    pub(super) fn insert(&self, journal: JournalId, index: u64, entry: RaftEntry, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.stamp += 1;
        let (stamp, bytes) = (inner.stamp, bytes + ENTRY_OVERHEAD);
        let old = inner.journals.entry(journal).or_default().entries.insert(index, Slot { stamp, bytes, entry });
        inner.used += bytes;
        inner.used -= old.map_or(0, |slot| slot.bytes);
        inner.evict(self.budget);
    }

    pub(super) fn get(&self, journal: JournalId, index: u64) -> Option<RaftEntry> {
        self.inner.lock().journals.get(&journal)?.entries.get(&index).map(|slot| slot.entry.clone())
    }

    /// Says that the WAL has synced all entries up to `index`.
    pub(super) fn durable(&self, journal: JournalId, index: u64) {
        let mut inner = self.inner.lock();
        let held = inner.journals.entry(journal).or_default();
        held.durable = held.durable.max(index);
        inner.evict(self.budget);
    }

    /// Says that all entries up to `index` are in the state.
    pub(super) fn applied(&self, journal: JournalId, index: u64) {
        let mut inner = self.inner.lock();
        let held = inner.journals.entry(journal).or_default();
        held.applied = held.applied.max(index);
        inner.evict(self.budget);
    }

    /// Drops entries above `index`, which a new leader overwrites.
    pub(super) fn truncate_after(&self, journal: JournalId, index: u64) {
        let mut inner = self.inner.lock();
        let held = inner.journals.entry(journal).or_default();
        held.durable = held.durable.min(index);
        let dropped: u64 = held.entries.split_off(&(index + 1)).values().map(|slot| slot.bytes).sum();
        inner.used -= dropped;
    }

    /// Drops entries up to `index`.
    pub(super) fn purge(&self, journal: JournalId, index: u64) {
        let mut inner = self.inner.lock();
        let held = inner.journals.entry(journal).or_default();
        let kept = held.entries.split_off(&(index + 1));
        let dropped: u64 = std::mem::replace(&mut held.entries, kept).values().map(|slot| slot.bytes).sum();
        inner.used -= dropped;
    }

    /// Drops all entries of a journal that was stopped.
    pub(super) fn forget(&self, journal: JournalId) {
        let mut inner = self.inner.lock();
        let dropped: u64 = inner.journals.remove(&journal).map_or(0, |held| held.entries.values().map(|slot| slot.bytes).sum());
        inner.used -= dropped;
    }
}

impl Inner {
    /// Drops oldest entries while there is too much. A journal whose oldest entry must stay, because it has no majority or a slow disk, keeps no
    /// other journal's. Looks at every journal for each entry dropped: a broker has few.
    fn evict(&mut self, budget: u64) {
        while self.used > budget {
            let oldest = |held: &Journal| {
                let (index, slot) = held.entries.first_key_value()?;
                (*index <= held.durable.min(held.applied)).then_some(slot.stamp)
            };
            let droppable = self.journals.values_mut().filter_map(|held| Some((oldest(held)?, held)));
            let Some((_, held)) = droppable.min_by_key(|(stamp, _)| *stamp) else { return };
            self.used -= held.entries.pop_first().map_or(0, |(_, slot)| slot.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use tidegate_wal::Position;

    use super::*;
    use crate::raft::types::log_id;

    const STUCK: JournalId = JournalId(1);
    const BUSY: JournalId = JournalId(2);

    fn entry(index: u64) -> RaftEntry {
        let at = Position { term: 1, index, ..Position::default() };
        RaftEntry { log_id: log_id(at).expect("an index above 0"), payload: EntryPayload::Blank }
    }

    #[test]
    fn a_journal_that_stands_still_keeps_no_other_journals_entries() {
        let cache = TailCache::new(10_000);
        cache.insert(STUCK, 1, entry(1), 1_000);
        for index in 1..100 {
            cache.insert(BUSY, index, entry(index), 1_000);
            cache.durable(BUSY, index);
            cache.applied(BUSY, index);
            assert_eq!(cache.excess_bytes(), 0, "after {index} entries: {cache:?}");
        }
        assert!(cache.used_bytes() <= 10_000, "{cache:?}");
        assert!(cache.get(STUCK, 1).is_some() && cache.get(BUSY, 99).is_some() && cache.get(BUSY, 1).is_none());
    }

    #[test]
    fn the_oldest_entry_of_all_journals_goes_first() {
        let cache = TailCache::new(4 * (1_000 + ENTRY_OVERHEAD));
        for (journal, index) in [(STUCK, 1), (BUSY, 1), (STUCK, 2), (BUSY, 2), (BUSY, 3)] {
            cache.insert(journal, index, entry(index), 1_000);
            cache.durable(journal, index);
            cache.applied(journal, index);
        }
        assert!(cache.get(STUCK, 1).is_none() && cache.get(BUSY, 1).is_some() && cache.get(STUCK, 2).is_some());
    }
}
