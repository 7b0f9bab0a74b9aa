//! The replicated state of a journal: a pure function of the entries applied. No clock, no randomness, no I/O.
//!
//! One type serves all journals; the catalog part is empty in data journals. Invariants (DESIGN section 6), checked by
//! [`State::check`]: `log_start <= high_watermark`, `tiered_end <= high_watermark` (I1), no offset between log start and high
//! watermark missing from tier and tail (I1), same entries give the same bytes (I3), offsets dense and never given twice (I5).

mod catalog;
mod checkpoint;
mod groups;
mod partition;
mod producers;
mod tail;

use std::collections::BTreeMap;

use tidegate_model::{Offset, TimestampMs, TopicPartition};

use crate::entry::{EntryPayload, UnitOutcome};

pub use catalog::{Broker, Catalog, Changes, Home, JournalInfo, NamedProducer, Tombstone, Topic};
pub use checkpoint::StateDecodeError;
pub use groups::{Committed, Group};
pub use partition::{EpochStart, PartitionState, TierPiece};
pub use producers::ProducerState;
pub use tail::{TailIndex, TailItem};

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
    /// Partitions that were opened, closed, trimmed, tiered or whose tail was released.
    pub changed: Vec<TopicPartition>,
    /// Whether the catalog changed.
    pub catalog_changed: bool,
}

/// The state of one journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    applied: Position,
    time: TimestampMs,
    partitions: BTreeMap<TopicPartition, PartitionState>,
    groups: BTreeMap<String, Group>,
    catalog: Catalog,
}

impl State {
    /// The state before the first entry.
    pub fn new() -> State {
        State::default()
    }

    /// Applies the entry at `at`, which must follow all applied before.
    pub fn apply(&mut self, at: Position, entry: &EntryPayload) -> Applied {
        let _ = entry;
        self.advance(at);
        Applied::default()
    }

    /// Takes note of a Raft entry that carries nothing (a new leader's blank one, a membership change). Each leader's
    /// first entry raises the epoch of all partitions.
    pub fn advance(&mut self, at: Position) {
        self.applied = at;
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The time of the last entry; never falls.
    pub fn time(&self) -> TimestampMs {
        self.time
    }

    /// Greatest Raft index up to which every byte is tiered or trimmed. The log may be purged to there, not beyond, once a
    /// checkpoint covers it.
    pub fn releasable(&self) -> u64 {
        0
    }

    /// A hash of the whole state. Costs an encoding of it (about 1 ms for each MiB): for tests and rare comparisons. See
    /// [`State::digest`] for a running one.
    pub fn hash(&self) -> u64 {
        0
    }

    /// A running hash over all entries and what they came to. Free.
    pub fn digest(&self) -> u64 {
        0
    }

    /// The checkpoint of this state (docs/formats/checkpoint.md): the same bytes for the same state.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads a checkpoint back.
    pub fn decode(bytes: &[u8]) -> Result<State, StateDecodeError> {
        let _ = bytes;
        Ok(State::default())
    }

    /// One open partition.
    pub fn partition(&self, at: TopicPartition) -> Option<&PartitionState> {
        self.partitions.get(&at)
    }

    /// All open partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        self.partitions.iter().map(|(at, partition)| (*at, partition))
    }

    /// One consumer group.
    pub fn group(&self, group: &str) -> Option<&Group> {
        self.groups.get(group)
    }

    /// All consumer groups, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// The catalog; empty in data journals.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}
