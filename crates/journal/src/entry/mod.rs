//! What a journal replicates: entries of atomic units of tagged operations, their outcomes, and the bytes they become.
//!
//! Owns the vocabulary and the codec (docs/formats/entry.md). Does not know what the operations do to the state
//! ([`crate::state`]), nor how entries are ordered and stored.

mod codec;
pub(crate) mod convert;
mod moves_wire;
mod operation;
mod outcome;
mod refusal;
mod sealed;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

pub(crate) use codec::Bodies;
pub use codec::{AppendRun, DecodeError, EncodeError, EntryPayload, Piece, VERSION};
pub use operation::{
    BoundObject, BrokerState, Entry, Management, ManifestRef, ObjectInfo, ObjectKey, OffsetCommit, Operation, Precondition,
    ProducerLimits, RangeKey, Replacement, StoredRange, TierRange, TopicConfig, Unit,
};
pub use outcome::{Appended, Outcome, Outcomes, UnitOutcome};
pub use refusal::Refusal;
pub use sealed::{CarriedBatch, CarriedProducer, Sealed};
