//! Which objects of the store belong to this journal: intended, live, drained, condemned.
//!
//! A key is in at most one of these: *intended* (announced, perhaps uploaded), *live* (a range in the state refers to it),
//! *drained* (a manifest object that no partition refers to, whose list was not gone through yet), *condemned* (may be deleted
//! from the store after a grace). The live ones count their references; an object whose only reference moved into a manifest
//! object leaves the count, so that the state stays small: a key that is nowhere has exactly one reference, in a manifest.

use std::collections::BTreeMap;

use tidegate_model::{TimestampMs, TopicPartition};

use super::partition::TierPiece;
use crate::entry::{ObjectKey, Refusal};

/// Most bytes of an object key: S3's.
pub const KEY_BYTES: usize = 1024;

/// The objects of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub(crate) intended: BTreeMap<ObjectKey, TimestampMs>,
    pub(crate) live: BTreeMap<ObjectKey, u32>,
    pub(crate) drained: BTreeMap<ObjectKey, TopicPartition>,
    pub(crate) condemned: BTreeMap<ObjectKey, TimestampMs>,
}

impl Objects {
    /// Keys announced and the entry time of that: those that stay too long came to nothing and are to be abandoned.
    pub fn intended(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, TimestampMs)> {
        self.intended.iter().map(|(key, time)| (key, *time))
    }

    /// Manifest objects to be read and unravelled, and the partition that they belonged to.
    pub fn drained(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, TopicPartition)> {
        self.drained.iter().map(|(key, at)| (key, *at))
    }

    /// Keys that may be deleted from the store and then forgotten, and since when (entry time).
    pub fn condemned(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, TimestampMs)> {
        self.condemned.iter().map(|(key, time)| (key, *time))
    }

    /// Whether a key may be deleted from the store.
    pub fn is_condemned(&self, key: &str) -> bool {
        self.condemned.contains_key(key)
    }

    /// How many ranges refer to an object; `None` if it is not live or counted in a manifest.
    pub fn references(&self, key: &str) -> Option<u32> {
        self.live.get(key).copied()
    }

    pub(crate) fn check_fresh(&self, key: &ObjectKey) -> Result<(), Refusal> {
        if key.is_empty() || key.len() > KEY_BYTES {
            let problem = format!("has {} bytes; give 1 to {KEY_BYTES}", key.len());
            return Err(Refusal::Invalid { field: "key", problem });
        }
        let is_used = self.intended.contains_key(key)
            || self.live.contains_key(key)
            || self.drained.contains_key(key)
            || self.condemned.contains_key(key);
        if is_used { Err(Refusal::KeyUsed { key: key.clone() }) } else { Ok(()) }
    }

    pub(crate) fn check_intended(&self, key: &ObjectKey) -> Result<(), Refusal> {
        if self.condemned.contains_key(key) {
            return Err(Refusal::Abandoned { key: key.clone() });
        }
        if self.intended.contains_key(key) { Ok(()) } else { Err(Refusal::NotIntended { key: key.clone() }) }
    }

    pub(crate) fn condemn(&mut self, key: &ObjectKey, time: TimestampMs) {
        self.intended.remove(key);
        self.condemned.insert(key.clone(), time);
    }

    /// One more range refers to a key that is intended or live.
    pub(crate) fn refer(&mut self, key: &ObjectKey) {
        self.intended.remove(key);
        // Another partition of the same unit may just have dropped the last range of an object that is taken up again.
        self.condemned.remove(key);
        *self.live.entry(key.clone()).or_insert(0) += 1;
    }

    /// One range fewer refers to a key; the last one condemns it.
    pub(crate) fn release(&mut self, key: &ObjectKey, time: TimestampMs) {
        match self.live.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.live.remove(key);
                self.condemn(key, time);
            }
        }
    }

    /// A range moved from the state into a manifest object.
    pub(crate) fn fold(&mut self, key: &ObjectKey) {
        if self.live.get(key) == Some(&1) {
            self.live.remove(key);
        }
    }

    /// A range came back from a manifest object.
    pub(crate) fn unfold(&mut self, key: &ObjectKey) {
        self.live.entry(key.clone()).or_insert(1);
    }

    /// A partition lets go of a piece.
    pub(crate) fn drop_piece(&mut self, at: TopicPartition, piece: &TierPiece, time: TimestampMs) {
        match piece {
            TierPiece::Range(range) => self.release(&range.object.key, time),
            TierPiece::Manifest(manifest) => {
                self.drained.insert(manifest.object.key.clone(), at);
            }
        }
    }
}
