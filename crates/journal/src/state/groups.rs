//! Committed positions of consumer groups.

use std::collections::BTreeMap;

use tidegate_model::{LeaderEpoch, Offset, TimestampMs, TopicPartition};

/// A committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to consume.
    pub offset: Offset,
    /// Leader epoch of the last record consumed; -1 where unknown.
    pub leader_epoch: LeaderEpoch,
    /// The consumer's note.
    pub metadata: String,
    /// When it was committed, in entry time.
    pub time: TimestampMs,
}

/// The positions of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub(crate) offsets: BTreeMap<TopicPartition, Committed>,
}

impl Group {
    /// One position.
    pub fn offset(&self, at: TopicPartition) -> Option<&Committed> {
        self.offsets.get(&at)
    }
    /// All positions, in order.
    pub fn offsets(&self) -> impl Iterator<Item = (TopicPartition, &Committed)> {
        self.offsets.iter().map(|(at, committed)| (*at, committed))
    }
}
