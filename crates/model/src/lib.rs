//! The words of Tidegate as types: identifiers, record batches, topics and their settings. No I/O, no clock, no async.

pub mod ids;

pub use ids::{
    BrokerId, HubId, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs,
    TopicPartition, TopicUid,
};
