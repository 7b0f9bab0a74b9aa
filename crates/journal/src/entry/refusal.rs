//! Why a unit was refused. A refusal is an answer, not a fault: each replica comes to the same one.

use tidegate_model::{
    BrokerId, JournalId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition, TopicUid,
};
use uuid::Uuid;

use super::{BoundObject, BrokerState, ObjectKey};

/// The reason that an operation or precondition was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The partition is not open in this journal.
    #[error("partition {at} is not in this journal: look its home up in the catalog again")]
    UnknownPartition {
        /// The partition.
        at: TopicPartition,
    },
    /// A home of the partition with a higher generation is open.
    #[error("partition {at} is open here with generation {current}, above {given}: look its home up in the catalog again")]
    StaleGeneration {
        /// The partition.
        at: TopicPartition,
        /// The generation that was given.
        given: u32,
        /// The one that is open.
        current: u32,
    },
    /// The partition moves, or has moved, to another journal.
    #[error("partition {at} goes on in another journal: look its home up in the catalog again")]
    PartitionSealed {
        /// The partition.
        at: TopicPartition,
    },
    /// The bytes of an append are no record batch.
    #[error("the batch for {at} is not a record batch of format 2: {problem}")]
    BadBatch {
        /// The partition.
        at: TopicPartition,
        /// What is wrong.
        problem: &'static str,
    },
    /// A producer left a gap, or mixed old and new records in one batch.
    #[error(
        "producer {producer} sent sequence {got} to {at} where {expected} follows: an earlier batch of it was refused or lost; start a new producer epoch"
    )]
    OutOfSequence {
        /// The partition.
        at: TopicPartition,
        /// Who.
        producer: ProducerId,
        /// The sequence that follows.
        expected: Sequence,
        /// The batch's base sequence.
        got: Sequence,
    },
    /// A newer incarnation of the producer has written.
    #[error("producer {producer} has epoch {current} at {at}: a newer instance of it took over, this one must stop")]
    ProducerFenced {
        /// The partition.
        at: TopicPartition,
        /// Who.
        producer: ProducerId,
        /// The epoch that is valid.
        current: ProducerEpoch,
    },
    /// An offset lies outside of the partition.
    #[error("offset {given} of {at} lies above its high watermark {high_watermark}")]
    AboveHighWatermark {
        /// The partition.
        at: TopicPartition,
        /// The offset.
        given: Offset,
        /// The high watermark.
        high_watermark: Offset,
    },
    /// A precondition on the high watermark does not hold.
    #[error("the high watermark of {at} is {current}, not {expected}: somebody else wrote to it")]
    HighWatermarkMismatch {
        /// The partition.
        at: TopicPartition,
        /// What was expected.
        expected: Offset,
        /// What is.
        current: Offset,
    },
    /// The key was not intended, or is taken already.
    #[error("object `{key}` was not intended, or is in use already: intend a fresh key and upload again")]
    NotIntended {
        /// The key.
        key: ObjectKey,
    },
    /// The key was given up.
    #[error("object `{key}` was abandoned: intend a fresh key and upload again")]
    Abandoned {
        /// The key.
        key: ObjectKey,
    },
    /// The key stands in the state already.
    #[error("object key `{key}` was used before: keys are never used twice")]
    KeyUsed {
        /// The key.
        key: ObjectKey,
    },
    /// The manifest is not one that a trim or close drained.
    #[error("manifest `{key}` is not drained: it is in use or was unravelled before")]
    NotDrained {
        /// The key.
        key: ObjectKey,
    },
    /// Ranges do not fit the partition.
    #[error("the ranges given for {at} do not fit at offset {expected}: {problem}")]
    RangeMismatch {
        /// The partition.
        at: TopicPartition,
        /// The offset where they were to fit.
        expected: Offset,
        /// What is wrong.
        problem: &'static str,
    },
    /// Bytes up to there are not all tiered or trimmed.
    #[error("the log can be released up to index {releasable}, not {given}: what lies above is not tiered yet")]
    NotReleasable {
        /// The index given.
        given: u64,
        /// The greatest that can be.
        releasable: u64,
    },
    /// A field of an operation is out of bounds.
    #[error("{field} {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The operation is newer than what this hub has agreed on.
    #[error("the operation needs feature level {needed} and the hub has committed {committed}: finish the upgrade first")]
    FeatureLevel {
        /// The level it needs.
        needed: u32,
        /// The level committed.
        committed: u32,
    },
    /// A level below the committed one, or above what this build knows.
    #[error("feature level {given} cannot be set: {committed} is committed and this build knows up to {known}")]
    FeatureLevelUnfit {
        /// The level given.
        given: u32,
        /// The level committed.
        committed: u32,
        /// The greatest this build knows.
        known: u32,
    },
    /// Two operations of a unit concern the same thing.
    #[error("two operations of one unit concern the same {subject}: propose them one after the other")]
    Conflicting {
        /// What kind of thing.
        subject: &'static str,
    },
    /// No such topic, or it is deleted.
    #[error("there is no topic {uid}")]
    UnknownTopic {
        /// The topic.
        uid: TopicUid,
    },
    /// The name is taken.
    #[error("there is a topic `{name}` already ({uid})")]
    TopicExists {
        /// Its name.
        name: String,
        /// Its identity.
        uid: TopicUid,
    },
    /// The name differs from another only in `.` against `_`.
    #[error("the topic name collides with `{existing}`: `.` and `_` are not told apart in metric names; choose another")]
    NameCollides {
        /// The other name.
        existing: String,
    },
    /// The uid was used for something else.
    #[error("topic uid {uid} was used before")]
    UidUsed {
        /// The uid.
        uid: TopicUid,
    },
    /// Somebody changed the topic meanwhile.
    #[error("topic {uid} has revision {current}, not {expected}: read it again and decide anew")]
    RevisionMismatch {
        /// The topic.
        uid: TopicUid,
        /// What was expected.
        expected: u64,
        /// What is.
        current: u64,
    },
    /// Partitions cannot be taken away.
    #[error("topic {uid} has {current} partitions and cannot shrink to {asked}")]
    PartitionsShrink {
        /// The topic.
        uid: TopicUid,
        /// How many there are.
        current: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// A topic's placement group is for ever.
    #[error("the placement group of topic {uid} cannot change")]
    PlacementGroupChanged {
        /// The topic.
        uid: TopicUid,
    },
    /// The placement group has the partition in another journal.
    #[error("the placement group keeps partition {partition} in journal {journal}")]
    PlacementMismatch {
        /// Which partition.
        partition: PartitionId,
        /// The group's journal for it.
        journal: JournalId,
    },
    /// No such data journal.
    #[error("there is no data journal {journal}")]
    UnknownJournal {
        /// The journal.
        journal: JournalId,
    },
    /// The hub has no data journal yet.
    #[error("the hub has no data journals yet: add some first")]
    NoJournals,
    /// A tombstone's time to undo is over, or it is not over yet.
    #[error("topic {uid} was deleted and can be undeleted until {undo_until} (ms since 1970), now it is {now}")]
    UndoTime {
        /// The topic.
        uid: TopicUid,
        /// Until when.
        undo_until: TimestampMs,
        /// The entry's time.
        now: TimestampMs,
    },
    /// The topic is not deleted.
    #[error("topic {uid} is not deleted")]
    NotDeleted {
        /// The topic.
        uid: TopicUid,
    },
    /// The compare of a compare-and-set failed.
    #[error("topic {uid} is bound to {}, not as expected", describe(.current.as_deref()))]
    BindMismatch {
        /// The topic.
        uid: TopicUid,
        /// What is bound.
        current: Option<Box<BoundObject>>,
    },
    /// The object manages another topic.
    #[error("the object is bound to topic {topic} already")]
    ObjectBound {
        /// That topic.
        topic: TopicUid,
    },
    /// A broker of that number exists on another volume.
    #[error("broker {broker} is registered with incarnation {current}: its number belongs to another volume")]
    BrokerIncarnation {
        /// The broker.
        broker: BrokerId,
        /// The incarnation registered.
        current: Uuid,
    },
    /// No broker of that number ever registered.
    #[error("there is no broker {broker}: it has to register first")]
    UnknownBroker {
        /// The broker.
        broker: BrokerId,
    },
    /// The broker gets no replicas.
    #[error("broker {broker} is {state:?}: only active brokers are given replicas")]
    BrokerNotActive {
        /// The broker.
        broker: BrokerId,
        /// What it is.
        state: BrokerState,
    },
    /// The broker was retired.
    #[error(
        "broker {broker} was retired, and its number is never used again: give the broker a fresh number and an empty volume"
    )]
    BrokerRetired {
        /// The broker.
        broker: BrokerId,
    },
    /// The broker still holds replicas.
    #[error("broker {broker} still holds replicas of {journals} journals: drain it first, and wait until it holds none")]
    BrokerBusy {
        /// The broker.
        broker: BrokerId,
        /// How many journals have a replica on it.
        journals: u32,
    },
    /// A journal must keep a replica.
    #[error("journal {journal} has no other replica: add one and let it catch up first")]
    LastReplica {
        /// The journal.
        journal: JournalId,
    },
    /// All names are taken by live producers.
    #[error("{limit} producer names are in use, the most that are kept: use fewer names, or producers without a name")]
    NamedProducersFull {
        /// The limit.
        limit: u32,
    },
    /// A newer operator has taken over.
    #[error("operator epoch {given} is below {current}: a newer operator took over")]
    StaleOperator {
        /// The epoch given.
        given: u64,
        /// The epoch committed.
        current: u64,
    },
}

fn describe(object: Option<&BoundObject>) -> String {
    match object {
        Some(object) => format!("{}/{} ({})", object.namespace, object.name, object.uid),
        None => "no object".to_owned(),
    }
}
