//! Committed positions of consumer groups, in the journal of the group's hash.

use std::collections::BTreeMap;

use tidegate_model::{LeaderEpoch, Offset, TimestampMs, TopicPartition};

use crate::entry::{OffsetCommit, Refusal};

/// Most bytes of a group's or a producer's name.
pub const NAME_BYTES: usize = 255;
/// Most bytes of a consumer's note beside an offset: Kafka's `offset.metadata.max.bytes`.
pub const METADATA_BYTES: usize = 4096;

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
    pub fn offsets(&self) -> impl ExactSizeIterator<Item = (TopicPartition, &Committed)> {
        self.offsets.iter().map(|(at, committed)| (*at, committed))
    }

    pub(crate) fn commit(&mut self, commits: &[OffsetCommit], time: TimestampMs) {
        for commit in commits {
            let committed =
                Committed { offset: commit.offset, leader_epoch: commit.leader_epoch, metadata: commit.metadata.clone(), time };
            self.offsets.insert(commit.at, committed);
        }
    }

    pub(crate) fn forget(&mut self, partitions: &[TopicPartition], committed_before: Option<TimestampMs>) {
        for at in partitions {
            let is_old = |committed: &Committed| committed_before.is_none_or(|before| committed.time < before);
            if self.offsets.get(at).is_some_and(is_old) {
                self.offsets.remove(at);
            }
        }
    }
}

/// Whether a name may stand in the state.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > NAME_BYTES {
        let problem = format!("has {} bytes; give 1 to {NAME_BYTES}", name.len());
        return Err(Refusal::Invalid { field, problem });
    }
    Ok(())
}

/// Whether positions may be committed.
pub(crate) fn check_commit(group: &str, commits: &[OffsetCommit]) -> Result<(), Refusal> {
    check_name("group", group)?;
    for commit in commits {
        if commit.offset.0 < 0 {
            let problem = format!("is {} for {}; give an offset of 0 or more", commit.offset, commit.at);
            return Err(Refusal::Invalid { field: "offset", problem });
        }
        if commit.metadata.len() > METADATA_BYTES {
            let problem = format!("has {} bytes for {}; give at most {METADATA_BYTES}", commit.metadata.len(), commit.at);
            return Err(Refusal::Invalid { field: "metadata", problem });
        }
    }
    Ok(())
}
