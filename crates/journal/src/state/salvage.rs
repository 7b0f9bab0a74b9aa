//! What is left of a state when only the object store is left: rebuilding a hub from its bucket.

use tidegate_model::{Offset, ProducerId, TopicPartition};

use super::index::Index;
use super::tail::TailIndex;
use super::{Position, State};

/// Records that were acknowledged and lay in the lost log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub at: TopicPartition,
    /// The first offset that is gone.
    pub from: Offset,
    /// One past the last that the checkpoint knew of; later ones may be gone too.
    pub end: Offset,
}

impl State {
    /// The state without what only the log held, as the first entry of a new log, and what that loses. Partitions end where the tier does;
    /// what was remembered of producers went with the log, so all of them have to begin anew.
    /// The brokers and replicas of before are forgotten: none of them holds anything of the new hub.
    pub fn salvage(mut self, first: Position) -> (State, Vec<Lost>) {
        let mut lost = Vec::new();
        for (at, partition) in &mut self.partitions {
            let end = partition.covered_end();
            if partition.high_watermark > end {
                lost.push(Lost { at: *at, from: end, end: partition.high_watermark });
            }
            partition.high_watermark = end;
            partition.tail = TailIndex::default();
            partition.producers.clear();
            partition.forgotten = ProducerId(i64::MAX);
            while partition.epoch_starts.back().is_some_and(|start| start.start >= end) {
                partition.epoch_starts.pop_back();
            }
        }
        self.catalog.fleet.disband();
        self.applied = first;
        self.index = Index::build(&self.partitions);
        (self, lost)
    }
}
