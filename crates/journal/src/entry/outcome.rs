//! What applying a unit came to.

use tidegate_model::{JournalId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicUid};

use super::{Refusal, Sealed};

/// The answer to one unit, known once its entry is applied.
#[derive(Clone, Debug, PartialEq)]
pub enum UnitOutcome {
    /// All operations took effect; one outcome for each, in order.
    Applied(Outcomes),
    /// Nothing took effect.
    Refused {
        /// Which operation was refused, from 0; the number of operations stands for a precondition.
        operation: u32,
        /// Why.
        refusal: Box<Refusal>,
    },
}

/// The outcomes of a unit's operations; a single one is kept without allocation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcomes {
    /// Of the usual unit.
    One(Outcome),
    /// Of a larger one.
    Many(Vec<Outcome>),
}

impl std::ops::Deref for Outcomes {
    type Target = [Outcome];

    fn deref(&self) -> &[Outcome] {
        match self {
            Outcomes::One(outcome) => std::slice::from_ref(outcome),
            Outcomes::Many(outcomes) => outcomes,
        }
    }
}

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record; -1 for a duplicate that is too old to be remembered.
    pub base: Offset,
    /// The partition's leader epoch.
    pub epoch: LeaderEpoch,
    /// The partition's log start.
    pub log_start: Offset,
    /// Whether it had been appended before and was not appended again.
    pub duplicate: bool,
    /// The entry's time.
    pub time: TimestampMs,
}

/// What one operation came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It took effect, or had before.
    Done,
    /// A batch is in the log.
    Appended(Appended),
    /// A topic is in the catalog (made, changed, bound, deleted or undeleted) with this revision.
    Topic {
        /// Its identity.
        uid: TopicUid,
        /// Revision of the change.
        revision: u64,
    },
    /// Producer ids `first .. first + count`.
    ProducerIds {
        /// The first.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// A named producer's identity.
    NamedProducer {
        /// Its id.
        id: ProducerId,
        /// Its new epoch.
        epoch: ProducerEpoch,
        /// How many of its batches are remembered.
        window: u8,
    },
    /// Journals `first .. first + count`.
    JournalsAdded {
        /// The first.
        first: JournalId,
        /// How many.
        count: u32,
    },
    /// A replica of a journal.
    Replica {
        /// Its id in the journal's Raft group.
        id: u64,
    },
    /// A partition takes no more records here: what its next home goes on from.
    Sealed(Box<Sealed>),
    /// The partition's log start after a trim.
    Trimmed {
        /// The log start.
        log_start: Offset,
    },
}
