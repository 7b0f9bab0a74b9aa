//! The tail cache: the newest entries of all journals of a broker, in memory, bounded in bytes.
//!
//! Owns the budget and what is evicted: the oldest entry of all journals first, but never one that is not yet both durable and applied,
//! because until then the WAL cannot serve it. So the bound is the budget plus what is on its way (which the byte permits bound).
//! Does not know what entries mean. `floor(journal) = min(durable, applied)`; entries above it stay.

use std::collections::{BTreeMap, VecDeque};
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
    /// Oldest first. A key whose stamp is not the one in its journal was truncated or purged since.
    order: VecDeque<(JournalId, u64, u64)>,
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

    /// Puts an entry at the journal's end. `bytes` is the length of its payload.
    pub(super) fn insert(&self, journal: JournalId, index: u64, entry: RaftEntry, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.stamp += 1;
        let (stamp, bytes) = (inner.stamp, bytes + ENTRY_OVERHEAD);
        let old = inner.journals.entry(journal).or_default().entries.insert(index, Slot { stamp, bytes, entry });
        inner.used += bytes;
        inner.used -= old.map_or(0, |slot| slot.bytes);
        inner.order.push_back((journal, index, stamp));
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
    fn evict(&mut self, budget: u64) {
        while self.used > budget {
            let Some((journal, index, stamp)) = self.order.front().copied() else { return };
            let held = self.journals.get_mut(&journal);
            let current = held.filter(|held| held.entries.get(&index).is_some_and(|slot| slot.stamp == stamp));
            if let Some(held) = current {
                if index > held.durable.min(held.applied) {
                    return;
                }
                self.used -= held.entries.remove(&index).map_or(0, |slot| slot.bytes);
            }
            self.order.pop_front();
        }
        // Keys of entries that are gone cost little, but must not pile up while the budget is never reached.
        if self.order.len() > 64 && self.order.len() > 2 * self.journals.values().map(|held| held.entries.len()).sum::<usize>() {
            let journals = &self.journals;
            self.order.retain(|(journal, index, stamp)| {
                journals.get(journal).and_then(|held| held.entries.get(index)).is_some_and(|slot| slot.stamp == *stamp)
            });
        }
    }
}
