//! What can go wrong at the hub's handle, by what a caller does about it. Edges map these to their own codes, once each.

use std::time::Duration;

use tidegate_model::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, TopicUid};

/// Why the hub did not do what was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No living topic has this name or uid.
    #[error("the hub has no topic `{topic}`: create it first, or check the spelling")]
    UnknownTopic {
        /// Name or uid.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has no partition {partition}: it has {partitions}, numbered from 0")]
    UnknownPartition {
        /// Name.
        topic: String,
        /// What was asked for.
        partition: i32,
        /// How many there are.
        partitions: u32,
    },
    /// The topic was deleted and made again.
    #[error("topic `{topic}` has uid {actual}, not {expected}: it was deleted and made again; fetch metadata again")]
    TopicUidMismatch {
        /// Name.
        topic: String,
        /// What the caller expected.
        expected: TopicUid,
        /// What it is.
        actual: TopicUid,
    },
    /// The name is taken.
    #[error("topic `{topic}` exists already with uid {uid}")]
    TopicExists {
        /// Name.
        topic: String,
        /// Its uid.
        uid: TopicUid,
    },
    /// A Kubernetes object decides over the topic.
    #[error("topic `{topic}` is managed by the Kubernetes object {object}: edit that object instead")]
    TopicManaged {
        /// Name.
        topic: String,
        /// `namespace/name`.
        object: String,
    },
    /// A deleted topic cannot come back.
    #[error("topic `{topic}` cannot be restored: {why}")]
    TopicNotRestorable {
        /// Name or uid.
        topic: String,
        /// Why not.
        why: String,
    },
    /// A field has a value that is not allowed.
    #[error("`{field}`: {problem}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// Bytes that should be batches are not.
    #[error("`{field}`: {problem}")]
    InvalidBatch {
        /// Path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// Something is larger than a limit.
    #[error("`{field}` takes {bytes} bytes; {setting} allows {limit}: send less at a time or raise the setting")]
    TooLarge {
        /// Path of the field.
        field: String,
        /// How large it is.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
        /// The setting that says so.
        setting: &'static str,
    },
    /// A number of things reached its limit.
    #[error("`{field}`: {setting} allows {limit}: remove some or raise the setting")]
    LimitExceeded {
        /// Path of the field.
        field: String,
        /// The limit.
        limit: u64,
        /// The setting that says so.
        setting: &'static str,
    },
    /// The offset is not in the log.
    #[error("offset {offset} is not in the log, which goes from {log_start} to {high_watermark}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The oldest offset kept.
        log_start: Offset,
        /// One past the newest.
        high_watermark: Offset,
    },
    /// The caller knows an older leader epoch.
    #[error("leader epoch {given} is older than the partition's, {current}: fetch metadata again")]
    FencedLeaderEpoch {
        /// The caller's.
        given: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The caller knows a newer leader epoch.
    #[error("leader epoch {given} is newer than this broker's, {current}: try again")]
    UnknownLeaderEpoch {
        /// The caller's.
        given: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// An idempotent producer left a gap.
    #[error(
        "the batch's base sequence is {got} where {expected} follows: an earlier batch was refused or lost; raise the epoch with InitProducer"
    )]
    OutOfSequence {
        /// What follows.
        expected: i32,
        /// What came.
        got: i32,
    },
    /// A newer incarnation of the producer exists.
    #[error("the producer's epoch is {current} now: a newer incarnation took over, and this one must stop")]
    ProducerFenced {
        /// The valid epoch.
        current: ProducerEpoch,
    },
    /// The partition does not know the producer.
    #[error("{problem}: call InitProducer again")]
    UnknownProducer {
        /// What is not known.
        problem: String,
    },
    /// The write-ahead log is full.
    #[error("{problem}")]
    StorageFull {
        /// Which mark, and why.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// Bytes in flight are used up.
    #[error("{problem}")]
    Throttled {
        /// Which limit.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The hub is stopping.
    #[error("the broker is shutting down: connect again")]
    ShuttingDown,
    /// The journal cannot commit at present.
    #[error("{problem}: try again")]
    Unavailable {
        /// Why.
        problem: String,
    },
    /// Another broker leads.
    #[error("this broker does not lead the partition: {problem}")]
    NotLeader {
        /// Who does, if known.
        problem: String,
        /// The broker that does, as far as was known when this was refused.
        leader: Option<BrokerId>,
        /// Where the leader takes clients, if known.
        endpoint: Option<String>,
        /// When to try again where it is not.
        retry_after: Duration,
    },
    /// What another broker answered.
    #[error("{0}")]
    Told(Box<tidegate_proto::errors::Failure>),
    /// The object store cannot be reached.
    #[error("the data asked for lies in the object store, which cannot be reached at present: {problem}")]
    TierUnavailable {
        /// What it said.
        problem: String,
    },
    /// Time was up first.
    #[error("{what} did not finish in time; an append may still be committed")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// Stored bytes are damaged.
    #[error("stored data is damaged and was not served: {problem}")]
    Corrupt {
        /// Where and how.
        problem: String,
    },
    /// No such group.
    #[error("the hub has no group `{group}`")]
    UnknownGroup {
        /// Its name.
        group: String,
    },
    /// Somebody else changed it.
    #[error("the revision is {revision}, not the expected one: somebody else changed it; read it again")]
    RevisionMismatch {
        /// The present revision.
        revision: u64,
    },
    /// Another object is bound.
    #[error("{problem}")]
    BindingMismatch {
        /// What is bound.
        problem: String,
    },
    /// Another operator took over.
    #[error("operator epoch {given} is below the catalog's, {current}: another operator took over")]
    OperatorFenced {
        /// The caller's.
        given: u64,
        /// The catalog's.
        current: u64,
    },
    /// Something that this hub does not do.
    #[error("`{field}`: {problem}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// What is not done, and what is instead.
        problem: String,
    },
    /// A defect of ours.
    #[error("a defect of the hub: {problem}")]
    Internal {
        /// What should not have happened.
        problem: String,
    },
}

impl Error {
    /// A field with a value that is not allowed.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn internal(problem: impl std::fmt::Display) -> Error {
        Error::Internal { problem: problem.to_string() }
    }

    pub(crate) fn unavailable(problem: impl std::fmt::Display) -> Error {
        Error::Unavailable { problem: problem.to_string() }
    }

    /// Whether it is of the moment: the same may succeed later without anybody's doing.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Error::NotLeader { .. } | Error::Unavailable { .. } | Error::Throttled { .. } | Error::StorageFull { .. } => true,
            Error::Told(failure) => failure.is_retryable(),
            _ => false,
        }
    }

    /// A short name for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::UnknownTopic { .. } => "unknown_topic",
            Error::UnknownPartition { .. } => "unknown_partition",
            Error::TopicUidMismatch { .. } => "topic_uid_mismatch",
            Error::TopicExists { .. } => "topic_exists",
            Error::TopicManaged { .. } => "topic_managed",
            Error::TopicNotRestorable { .. } => "topic_not_restorable",
            Error::Invalid { .. } => "invalid_argument",
            Error::InvalidBatch { .. } => "invalid_batch",
            Error::TooLarge { .. } => "message_too_large",
            Error::LimitExceeded { .. } => "limit_exceeded",
            Error::OffsetOutOfRange { .. } => "offset_out_of_range",
            Error::FencedLeaderEpoch { .. } => "fenced_leader_epoch",
            Error::UnknownLeaderEpoch { .. } => "unknown_leader_epoch",
            Error::OutOfSequence { .. } => "out_of_sequence",
            Error::ProducerFenced { .. } => "producer_fenced",
            Error::UnknownProducer { .. } => "unknown_producer",
            Error::StorageFull { .. } => "storage_full",
            Error::Throttled { .. } => "throttled",
            Error::ShuttingDown => "shutting_down",
            Error::Unavailable { .. } => "unavailable",
            Error::NotLeader { .. } => "not_leader",
            Error::Told(failure) => told_reason(failure.reason),
            Error::TierUnavailable { .. } => "tier_unavailable",
            Error::TimedOut { .. } => "timed_out",
            Error::Corrupt { .. } => "corrupt_data",
            Error::UnknownGroup { .. } => "unknown_group",
            Error::RevisionMismatch { .. } => "revision_mismatch",
            Error::BindingMismatch { .. } => "binding_mismatch",
            Error::OperatorFenced { .. } => "operator_fenced",
            Error::Unsupported { .. } => "unsupported",
            Error::Internal { .. } => "internal",
        }
    }
}

/// The metrics' name of what another broker answered.
fn told_reason(reason: tidegate_proto::errors::Reason) -> &'static str {
    use tidegate_proto::errors::Reason;
    match reason {
        Reason::NotLeader => "not_leader",
        Reason::Throttled => "throttled",
        Reason::StorageFull => "storage_full",
        Reason::Unavailable | Reason::ShuttingDown => "unavailable",
        Reason::OutOfSequence => "out_of_sequence",
        Reason::ProducerFenced => "producer_fenced",
        _ => "refused_elsewhere",
    }
}
