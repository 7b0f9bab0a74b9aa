//! What a partition remembers of idempotent producers.

use std::collections::VecDeque;

use tidegate_model::{Offset, ProducerEpoch, Sequence, TimestampMs};

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) base: Offset,
}

/// What a partition remembers of one producer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerState {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) window: u8,
    pub(crate) batches: VecDeque<Remembered>,
    pub(crate) last_time: TimestampMs,
}

impl ProducerState {
    /// Its present epoch.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }
    /// When it was last heard of, in entry time.
    pub fn last_time(&self) -> TimestampMs {
        self.last_time
    }
}
