//! The words of Tidegate as types: identifiers, record batches, topics and their settings. No I/O, no clock, no async.

pub mod batch;
pub mod ids;
pub mod partitioner;
pub mod topic;

pub use batch::{
    BatchBuilder, BatchHeader, BatchLimits, BatchSource, Compression, HEADER_BYTES, Header, Record, RecordBatch,
    RecordValidation, Records,
};
pub use ids::{
    BrokerId, HubId, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs,
    TopicPartition, TopicUid,
};
pub use partitioner::{murmur2, partition_for_key};
pub use topic::{CleanupPolicy, SettingError, TimestampType, TopicName, TopicSettings};
