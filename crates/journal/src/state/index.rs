//! What is derived from the state so that nothing has to be searched for. Kept up to date where the state changes, built anew
//! when a checkpoint is read, and so not part of it.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_model::{ProducerId, TimestampMs, TopicPartition};

use super::partition::PartitionState;
use super::tail::Firsts;

/// A partition with more ranges than this in the state wants a manifest object.
pub const FOLD_ABOVE: u32 = 512;

/// Orders over all partitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    /// First Raft index of each partition that has bytes neither tiered nor trimmed.
    pub(crate) untiered: BTreeSet<(u64, TopicPartition)>,
    /// First Raft index that each partition's tail refers to.
    pub(crate) retained: BTreeSet<(u64, TopicPartition)>,
    /// When each remembered producer may be forgotten, or is looked at again.
    pub(crate) deadlines: BTreeSet<(TimestampMs, TopicPartition, ProducerId)>,
    /// Partitions with too many ranges in the state.
    pub(crate) crowded: BTreeSet<TopicPartition>,
}

impl Index {
    pub(crate) fn build(partitions: &BTreeMap<TopicPartition, PartitionState>) -> Index {
        let mut index = Index::default();
        for (at, partition) in partitions {
            index.update(*at, Firsts::default(), partition);
            index.deadlines.extend(partition.producers.iter().map(|(id, producer)| (producer.deadline, *at, *id)));
        }
        index
    }

    /// Takes over what changed in a partition's tail and ranges since `before`.
    pub(crate) fn update(&mut self, at: TopicPartition, before: Firsts, partition: &PartitionState) {
        self.move_tail(at, before, partition.tail.firsts());
        if partition.inline_ranges > FOLD_ABOVE {
            self.crowded.insert(at);
        } else {
            self.crowded.remove(&at);
        }
    }

    /// Takes over where a partition's tail begins now.
    pub(crate) fn move_tail(&mut self, at: TopicPartition, before: Firsts, after: Firsts) {
        shift(&mut self.untiered, at, before.untiered, after.untiered);
        shift(&mut self.retained, at, before.retained, after.retained);
    }

    /// Forgets a partition.
    pub(crate) fn remove(&mut self, at: TopicPartition, partition: &PartitionState) {
        self.move_tail(at, partition.tail.firsts(), Firsts::default());
        self.crowded.remove(&at);
        for (id, producer) in &partition.producers {
            self.deadlines.remove(&(producer.deadline, at, *id));
        }
    }

    pub(crate) fn releasable(&self, applied: u64) -> u64 {
        self.untiered.first().map_or(applied, |(index, _)| index.saturating_sub(1))
    }
}

fn shift(set: &mut BTreeSet<(u64, TopicPartition)>, at: TopicPartition, before: Option<u64>, after: Option<u64>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        set.remove(&(before, at));
    }
    if let Some(after) = after {
        set.insert((after, at));
    }
}
