//! One partition of a journal: its offsets, epochs, producers, tail and tiered part.

use std::collections::{BTreeMap, VecDeque};

use tidegate_model::{LeaderEpoch, Offset, ProducerId, TimestampMs, TopicPartition};

use super::batch::Batch;
use super::producers::{ProducerState, Verdict, judge_first};
use super::tail::{TailIndex, TailItem};
use crate::entry::{Appended, ManifestRef, ObjectKey, ProducerLimits, Refusal, StoredRange};

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

impl TierPiece {
    /// First offset.
    pub fn base(&self) -> Offset {
        match self {
            TierPiece::Range(range) => range.base,
            TierPiece::Manifest(manifest) => manifest.base,
        }
    }

    /// One past the last offset.
    pub fn end(&self) -> Offset {
        match self {
            TierPiece::Range(range) => range.end,
            TierPiece::Manifest(manifest) => manifest.end,
        }
    }

    /// Bytes of records.
    pub fn data_bytes(&self) -> u64 {
        match self {
            TierPiece::Range(range) => range.bytes,
            TierPiece::Manifest(manifest) => manifest.data_bytes,
        }
    }

    /// Greatest record timestamp; -1 where unknown.
    pub fn max_timestamp(&self) -> TimestampMs {
        match self {
            TierPiece::Range(range) => range.max_timestamp,
            TierPiece::Manifest(manifest) => manifest.max_timestamp,
        }
    }

    /// Key of its tier object, or of the manifest object.
    pub fn key(&self) -> &ObjectKey {
        match self {
            TierPiece::Range(range) => &range.object.key,
            TierPiece::Manifest(manifest) => &manifest.object.key,
        }
    }
}

/// Where a batch lies in the log, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) position: u32,
    pub(crate) bytes: u32,
    pub(crate) time: TimestampMs,
    /// See [`super::MOST_RISE_MS`].
    pub(crate) producer_time: TimestampMs,
}

/// The state of one open partition. Offsets: `log_start <= high_watermark`, `tiered_end <= high_watermark`.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionState {
    pub(crate) generation: u32,
    pub(crate) sealed: bool,
    pub(crate) limits: ProducerLimits,
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) tiered_end: Offset,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) epoch_starts: VecDeque<EpochStart>,
    pub(crate) producers: BTreeMap<ProducerId, ProducerState>,
    pub(crate) forgotten: ProducerId,
    pub(crate) pieces: VecDeque<TierPiece>,
    pub(crate) inline_ranges: u32,
    pub(crate) tiered_bytes: u64,
    pub(crate) tail: TailIndex,
}

impl PartitionState {
    pub(crate) fn new(generation: u32, first_offset: Offset, epoch: LeaderEpoch, limits: ProducerLimits) -> Self {
        // Where records came before, in another home, their producers are not known here.
        let forgotten = if first_offset.0 > 0 { ProducerId(i64::MAX) } else { ProducerId(-1) };
        PartitionState {
            generation,
            sealed: false,
            limits,
            log_start: first_offset,
            high_watermark: first_offset,
            tiered_end: first_offset,
            epoch,
            epoch_starts: VecDeque::new(),
            producers: BTreeMap::new(),
            forgotten,
            pieces: VecDeque::new(),
            inline_ranges: 0,
            tiered_bytes: 0,
            tail: TailIndex::default(),
        }
    }

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

    /// One past the last offset that a `Tier` covered; the log start may lie above it.
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

    /// The epoch under which an offset was appended, and which is served in its batch's header.
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        let after = self.epoch_starts.partition_point(|start| start.start <= offset);
        after.checked_sub(1).and_then(|at| self.epoch_starts.get(at)).map_or(self.epoch, |start| start.epoch)
    }

    /// The greatest epoch at or below `epoch` that wrote here and the end of what it wrote (KIP-101, KIP-320). The current
    /// epoch ends at the high watermark even if it wrote nothing yet. `None` for an epoch above the current one or below all
    /// that are known.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        if epoch >= self.epoch {
            return (epoch == self.epoch).then_some((epoch, self.high_watermark));
        }
        let after = self.epoch_starts.partition_point(|start| start.epoch <= epoch);
        let found = self.epoch_starts.get(after.checked_sub(1)?)?;
        Some((found.epoch, self.epoch_starts.get(after).map_or(self.high_watermark, |next| next.start)))
    }

    /// Batches that the log still holds.
    pub fn tail(&self) -> &TailIndex {
        &self.tail
    }

    /// The tiered part, oldest first, without gaps up to `tiered_end`.
    pub fn tier(&self) -> impl DoubleEndedIterator<Item = &TierPiece> + ExactSizeIterator {
        self.pieces.iter()
    }

    /// The elements of the tiered part from the one that holds `offset` on; none if it lies outside.
    pub fn tier_from(&self, offset: Offset) -> impl Iterator<Item = &TierPiece> {
        let first = match self.pieces.front() {
            Some(front) if front.base() <= offset => self.pieces.partition_point(|piece| piece.end() <= offset),
            _ => self.pieces.len(),
        };
        self.pieces.range(first..)
    }

    /// How many ranges stand in the state itself, not in manifest objects.
    pub fn inline_ranges(&self) -> u32 {
        self.inline_ranges
    }

    /// Bytes in the tier.
    pub fn tiered_bytes(&self) -> u64 {
        self.tiered_bytes
    }

    /// Bytes that are only in the log.
    pub fn untiered_bytes(&self) -> u64 {
        self.tail.untiered_bytes()
    }

    /// What is remembered of one producer.
    pub fn producer(&self, id: ProducerId) -> Option<&ProducerState> {
        self.producers.get(&id)
    }

    /// All producers that are remembered.
    pub fn producers(&self) -> impl ExactSizeIterator<Item = (ProducerId, &ProducerState)> {
        self.producers.iter().map(|(id, producer)| (*id, producer))
    }

    /// Everything below this offset is tiered or trimmed.
    pub(crate) fn covered_end(&self) -> Offset {
        self.tiered_end.max(self.log_start)
    }

    /// What to do with a batch, without doing it.
    pub(crate) fn judge(&self, at: TopicPartition, batch: &Batch) -> Result<Verdict, Refusal> {
        if self.high_watermark.0.checked_add(i64::from(batch.records)).is_none() {
            return Err(Refusal::BadBatch { at, problem: "the partition has no offsets left for it" });
        }
        if self.sealed {
            return Err(Refusal::PartitionSealed { at });
        }
        let Some(sender) = &batch.sender else {
            return Ok(Verdict::Append);
        };
        match self.producers.get(&sender.producer) {
            Some(known) => known.judge(at, sender),
            None => judge_first(at, sender, self.forgotten),
        }
    }

    /// Appends a batch, or answers a duplicate. The second result says that its producer was not known before.
    pub(crate) fn append(
        &mut self,
        at: TopicPartition,
        batch: &Batch,
        place: Place,
        window: u8,
    ) -> Result<(Appended, bool), Refusal> {
        let verdict = self.judge(at, batch)?;
        let duplicate = verdict != Verdict::Append;
        let base = match verdict {
            Verdict::Append => self.high_watermark,
            Verdict::Duplicate(base) => base,
        };
        let is_new = batch.sender.is_some_and(|sender| !self.producers.contains_key(&sender.producer));
        if let Some(sender) = &batch.sender {
            let deadline = TimestampMs(place.producer_time.0.saturating_add(self.limits.expire_ms));
            let fresh = || ProducerState::new(sender.epoch, window, deadline);
            let producer = self.producers.entry(sender.producer).or_insert_with(fresh);
            producer.last_time = place.producer_time;
            if !duplicate {
                producer.record(sender, base, window);
            }
        }
        if !duplicate {
            self.extend(batch, place);
        }
        Ok((Appended { base, epoch: self.epoch, log_start: self.log_start, duplicate, time: place.time }, is_new))
    }

    fn extend(&mut self, batch: &Batch, place: Place) {
        let base = self.high_watermark;
        self.high_watermark.0 += i64::from(batch.records);
        if self.epoch_starts.back().is_none_or(|last| last.epoch < self.epoch) {
            self.epoch_starts.push_back(EpochStart { epoch: self.epoch, start: base });
        }
        self.tail.push(TailItem {
            base,
            end: self.high_watermark,
            index: place.index,
            position: place.position,
            bytes: place.bytes,
            max_timestamp: batch.max_timestamp,
            appended: place.time,
        });
    }

    /// Raises the log start and gives back the tiered pieces that lie below it as a whole.
    pub(crate) fn trim(&mut self, log_start: Offset) -> Vec<TierPiece> {
        self.log_start = self.log_start.max(log_start);
        let mut dropped = Vec::new();
        while self.pieces.front().is_some_and(|piece| piece.end() <= self.log_start) {
            dropped.extend(self.pieces.pop_front());
        }
        dropped.iter().for_each(|piece| self.uncount(piece));
        self.tail.cover(self.covered_end());
        self.tail.drop_below(self.log_start);
        while self.epoch_starts.get(1).is_some_and(|second| second.start <= self.log_start) {
            self.epoch_starts.pop_front();
        }
        dropped
    }

    pub(crate) fn count(&mut self, piece: &TierPiece) {
        self.tiered_bytes = self.tiered_bytes.wrapping_add(piece.data_bytes());
        self.inline_ranges += u32::from(matches!(piece, TierPiece::Range(_)));
    }

    pub(crate) fn uncount(&mut self, piece: &TierPiece) {
        self.tiered_bytes = self.tiered_bytes.wrapping_sub(piece.data_bytes());
        self.inline_ranges -= u32::from(matches!(piece, TierPiece::Range(_)));
    }

    /// Forgets a producer.
    pub(crate) fn forget(&mut self, id: ProducerId) -> Option<ProducerState> {
        let state = self.producers.remove(&id)?;
        self.forgotten = self.forgotten.max(id);
        Some(state)
    }

    /// The producer unheard of for longest.
    pub(crate) fn stalest(&self) -> Option<ProducerId> {
        self.producers.iter().min_by_key(|(id, producer)| (producer.last_time, **id)).map(|(id, _)| *id)
    }
}
