//! The replicated state of a journal: a pure function of the entries applied. No clock, no randomness, no I/O.
//!
//! One type serves all journals; the catalog part is empty in data journals. Invariants (DESIGN section 6), checked by
//! [`State::check`]: `log_start <= high_watermark`, `tiered_end <= high_watermark` (I1), no offset between log start and high
//! watermark missing from tier and tail (I1), same entries give the same bytes (I3), offsets dense and never given twice (I5).
//! No operation costs more as data grows older: all that is ordered by age is a queue or a tree.

mod append;
mod batch;
mod catalog;
mod checkpoint;
mod groups;
mod index;
mod invariants;
mod moving;
mod partition;
mod producers;
mod replace;
mod salvage;
mod tail;
mod tiering;
mod unit;
mod wire;

#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod moving_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use tidegate_env::bugs::{self, Bug};
use tidegate_model::{LeaderEpoch, Offset, TimestampMs, TopicPartition};

use crate::entry::{EntryPayload, Piece, UnitOutcome};
use index::Index;

pub use append::MOST_PRODUCERS;
pub use catalog::{
    Broker, Catalog, Changes, Fleet, GREATEST_REPLICATION_FACTOR, Home, JournalInfo, MOST_HOMES, MOST_NAMED_PRODUCERS,
    MOST_PARTITIONS, MOST_PRODUCER_IDS, NamedProducer, Replica, Tombstone, Topic,
};
pub use checkpoint::{CHECKPOINT_VERSION, StateDecodeError};
pub use groups::{Committed, Group, METADATA_BYTES, NAME_BYTES};
pub use index::FOLD_ABOVE;
pub use moving::CARRIED_BYTES;
pub use partition::{EpochStart, PartitionState, TierPiece};
pub use producers::{DEFAULT_WINDOW, GREATEST_WINDOW, ProducerState};
pub use salvage::Lost;
pub use tail::{TailIndex, TailItem};
pub use tiering::{KEY_BYTES, Objects};

/// The greatest feature level that this build knows.
pub const FEATURE_LEVEL: u32 = 1;

/// Place of an entry in the Raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Its index; the first entry has 1.
    pub index: u64,
}

/// What applying an entry came to, for those who wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One for each unit, in the order of application (see `EntryPayload::encode`).
    pub outcomes: Vec<UnitOutcome>,
    /// Partitions that grew and their new high watermarks; one may stand here more than once, the last counts.
    pub high_watermarks: Vec<(TopicPartition, Offset)>,
    /// Partitions that were opened, closed, trimmed, tiered or rewritten.
    pub changed: Vec<TopicPartition>,
    /// Whether the catalog changed.
    pub catalog_changed: bool,
}

/// Most that the time of producers rises from one entry to the next, an hour. A wall clock that leaps ahead, however far, so takes away an hour of the
/// day for which a producer is remembered, and not the memory itself; nor does an idle week.
pub const MOST_RISE_MS: i64 = 60 * 60 * 1000;

/// The state of one journal.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    applied: Position,
    time: TimestampMs,
    /// How far the time by which producers are forgotten lies behind `time`; see [`MOST_RISE_MS`].
    producer_lag_ms: i64,
    feature_level: u32,
    digest: u64,
    partitions: BTreeMap<TopicPartition, PartitionState>,
    groups: BTreeMap<String, Group>,
    objects: Objects,
    catalog: Catalog,
    /// Derived from the above.
    index: Index,
}

impl Default for State {
    fn default() -> Self {
        State {
            applied: Position::default(),
            time: TimestampMs(0),
            producer_lag_ms: 0,
            feature_level: 1,
            digest: 0,
            partitions: BTreeMap::new(),
            groups: BTreeMap::new(),
            objects: Objects::default(),
            catalog: Catalog::default(),
            index: Index::default(),
        }
    }
}

impl State {
    /// The state before the first entry.
    pub fn new() -> State {
        State::default()
    }

    /// Applies the entry at `at`, which must follow all applied before.
    pub fn apply(&mut self, at: Position, entry: &EntryPayload) -> Applied {
        self.advance(at);
        self.pass_time(entry.time());
        self.mix(u64::from(crc_fast::crc32_iscsi(entry.head())) << 32 | (at.index & 0xffff_ffff));
        self.expire_producers();
        let mut applied = Applied { outcomes: Vec::with_capacity(entry.units()), ..Applied::default() };
        let mut bodies = entry.bodies();
        for piece in entry.pieces() {
            match piece {
                Piece::Run(run) => self.apply_run(run, &mut bodies, &mut applied),
                Piece::Unit { unit, position } => {
                    bodies.skip_appends(unit);
                    let outcome = self.apply_unit(unit, *position, &mut applied);
                    self.mix(u64::from(matches!(outcome, UnitOutcome::Applied(_))));
                    applied.outcomes.push(outcome);
                }
            }
        }
        applied
    }

    /// Takes note of a Raft entry that carries nothing (a new leader's blank one, a membership change). Each leader's
    /// first entry raises the epoch of all partitions.
    pub fn advance(&mut self, at: Position) {
        assert!(at.index > self.applied.index, "entry {at:?} was applied before: {:?}", self.applied);
        assert!(at.term >= self.applied.term, "terms never fall: {at:?} after {:?}", self.applied);
        if at.term > self.applied.term {
            for partition in self.partitions.values_mut().filter(|partition| !partition.sealed) {
                partition.epoch = LeaderEpoch(partition.epoch.0.saturating_add(1));
            }
        }
        self.applied = at;
    }

    /// Entry time never falls. What it rises by between two entries is passed on to the time of producers only up to [`MOST_RISE_MS`].
    fn pass_time(&mut self, to: TimestampMs) {
        if to <= self.time {
            return;
        }
        // A hub's first entry is where its time begins.
        if self.time > TimestampMs(0) {
            let rise = to.0.saturating_sub(self.time.0);
            self.producer_lag_ms = self.producer_lag_ms.saturating_add((rise - MOST_RISE_MS).max(0));
        }
        self.time = to;
    }

    /// The time by which producers are forgotten: entry time without its leaps.
    pub(crate) fn producer_time(&self) -> TimestampMs {
        TimestampMs(self.time.0.saturating_sub(self.producer_lag_ms))
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The time of the last entry; never falls.
    pub fn time(&self) -> TimestampMs {
        self.time
    }

    /// The committed feature level.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Greatest Raft index up to which every byte is tiered or trimmed. The log may be purged to there, not beyond, once a
    /// `Release` is committed and a checkpoint covers it.
    pub fn releasable(&self) -> u64 {
        if bugs::on(Bug::FreeBeforeTier) {
            return self.applied.index;
        }
        self.index.releasable(self.applied.index)
    }

    /// Smallest Raft index that the tail of any partition refers to; `None` if no partition has a tail. Everything below is
    /// released.
    pub fn first_retained(&self) -> Option<u64> {
        self.index.retained.first().map(|(index, _)| *index)
    }

    /// The partition with the oldest untiered bytes and the Raft index that they stand at.
    pub fn oldest_untiered(&self) -> Option<(u64, TopicPartition)> {
        self.index.untiered.first().copied()
    }

    /// Partitions with bytes that are neither tiered nor trimmed, and the Raft index of the first, oldest first.
    pub fn untiered(&self) -> impl ExactSizeIterator<Item = (u64, TopicPartition)> {
        self.index.untiered.iter().copied()
    }

    /// Partitions with more than [`FOLD_ABOVE`] ranges in the state: their oldest belong into a manifest object.
    pub fn wants_manifest(&self) -> impl ExactSizeIterator<Item = TopicPartition> {
        self.index.crowded.iter().copied()
    }

    /// A hash of the whole state. Costs an encoding of it (about 1 ms for each MiB): for tests and rare comparisons. See
    /// [`State::digest`] for a running one.
    pub fn hash(&self) -> u64 {
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &self.encode())
    }

    /// A running hash over all entries and the offsets that they gave out, at next to no cost: replicas that applied the same
    /// entries have the same one.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// One open partition.
    pub fn partition(&self, at: TopicPartition) -> Option<&PartitionState> {
        self.partitions.get(&at)
    }

    /// All open partitions, in order.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (TopicPartition, &PartitionState)> {
        self.partitions.iter().map(|(at, partition)| (*at, partition))
    }

    /// One consumer group.
    pub fn group(&self, group: &str) -> Option<&Group> {
        self.groups.get(group)
    }

    /// All consumer groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// The objects of this journal in the store: intended, drained, condemned.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The catalog; empty in data journals.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
