//! The operations of all journals, as plain data. What each one requires and does is said here; [`crate::state`] does it.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, Offset, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use super::Sealed;

/// Key of an object in the object store. Never used twice.
pub type ObjectKey = Arc<str>;

/// One replicated entry before it is encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The proposer's wall clock. The state machine never lets its own time fall, whatever stands here.
    pub time: TimestampMs,
    /// Units, applied in order, each whole or not at all.
    pub units: Vec<Unit>,
}

/// Operations that take effect together or not at all.
///
/// All are checked against the state as it was before the unit, but an append sees the earlier appends of its unit. Two other
/// operations of one unit must not concern the same thing (topic, key, group …): such a unit is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// What must hold before the unit.
    pub preconditions: Vec<Precondition>,
    /// What is done then, in this order.
    pub operations: Vec<Operation>,
}

impl Unit {
    /// A unit of one operation without preconditions.
    pub fn of(operation: Operation) -> Unit {
        Unit { preconditions: Vec::new(), operations: vec![operation] }
    }

    /// Appends one batch with the default idempotence window.
    pub fn append(at: TopicPartition, batch: Bytes) -> Unit {
        Unit::of(Operation::Append { at, batch, window: 0 })
    }
}

/// A condition on the state before a unit. Where it does not hold the unit is refused and nothing of it is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Precondition {
    /// The topic exists, is not deleted, and its last change has this revision.
    TopicRevision {
        /// The topic.
        topic: TopicUid,
        /// Its revision.
        revision: u64,
    },
    /// The partition is open in this journal.
    PartitionExists {
        /// The partition.
        at: TopicPartition,
    },
    /// The partition's next offset is exactly this one.
    HighWatermark {
        /// The partition.
        at: TopicPartition,
        /// Its high watermark.
        equals: Offset,
    },
    /// No operator with a greater epoch has taken over.
    OperatorEpoch {
        /// The caller's epoch.
        epoch: u64,
    },
}

/// How a partition bounds what it remembers of idempotent producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerLimits {
    /// Most producers remembered; the one unheard of for longest gives way. At least 1.
    pub producers: u32,
    /// A producer unheard of for longer than this many milliseconds of entry time is forgotten.
    pub expire_ms: i64,
}

impl Default for ProducerLimits {
    fn default() -> Self {
        ProducerLimits { producers: 4096, expire_ms: 24 * 60 * 60 * 1000 }
    }
}

/// One committed position of a consumer group.
#[derive(Clone, Debug, PartialEq)]
pub struct OffsetCommit {
    /// Which partition.
    pub at: TopicPartition,
    /// The next offset to consume, at least 0.
    pub offset: Offset,
    /// Leader epoch of the last record consumed; -1 where unknown.
    pub leader_epoch: LeaderEpoch,
    /// Anything the consumer wants to find again, at most 4,096 bytes.
    pub metadata: String,
}

/// An uploaded object that was read back and found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its length.
    pub bytes: u64,
    /// CRC32C of the whole object.
    pub crc32c: u32,
}

/// Where one partition's stretch lies in the tier object that a `Tier` operation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierRange {
    /// Whose records.
    pub at: TopicPartition,
    /// First offset; a batch boundary.
    pub base: Offset,
    /// One past the last offset; a batch boundary.
    pub end: Offset,
    /// First byte within the object.
    pub position: u64,
    /// Length in the object.
    pub bytes: u64,
    /// Least record timestamp; -1 where unknown.
    pub min_timestamp: TimestampMs,
    /// Greatest record timestamp; -1 where unknown.
    pub max_timestamp: TimestampMs,
}

/// A stretch of one partition in a tier object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRange {
    /// The object that holds it.
    pub object: ObjectInfo,
    /// First offset.
    pub base: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// First byte within the object.
    pub position: u64,
    /// Length in the object.
    pub bytes: u64,
    /// Least record timestamp; -1 where unknown.
    pub min_timestamp: TimestampMs,
    /// Greatest record timestamp; -1 where unknown.
    pub max_timestamp: TimestampMs,
}

/// An immutable object that lists many old ranges of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRef {
    /// The manifest object itself.
    pub object: ObjectInfo,
    /// First offset of its first range.
    pub base: Offset,
    /// One past the last offset of its last range.
    pub end: Offset,
    /// How many ranges it lists.
    pub ranges: u32,
    /// Sum of its ranges' lengths.
    pub data_bytes: u64,
    /// Least record timestamp; -1 where unknown.
    pub min_timestamp: TimestampMs,
    /// Greatest record timestamp; -1 where unknown.
    pub max_timestamp: TimestampMs,
}

/// Names one element of a partition's list of ranges and manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeKey {
    /// Its first offset.
    pub base: Offset,
    /// Key of its object (of the manifest object for a manifest).
    pub key: ObjectKey,
}

/// What takes the place of the elements that a `Replace` names. It must cover exactly the same offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// Ranges and manifests move into one manifest object, which was intended before. Tier objects stay.
    Folded(ManifestRef),
    /// One manifest gives its ranges back to the state, unchanged; the manifest object is condemned.
    Unfolded(Vec<StoredRange>),
    /// Ranges (no manifests) are rewritten into one new tier object, which was intended before: merged or compacted.
    /// Objects that nothing refers to any more are condemned.
    Rewritten(Vec<StoredRange>),
}

/// The catalog's view of a topic's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// How many partitions, at least 1. May grow, never shrink.
    pub partitions: u32,
    /// Topics of one group keep partition i in the same journal. Never changes.
    pub placement_group: Option<String>,
    /// The settings as text (JSON of `model::TopicSettings`), opaque here: brokers of any version hold the same bytes.
    pub settings: String,
}

/// The Kubernetes object that manages a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Who may change a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Management {
    /// Clients may; a bound object follows.
    #[default]
    Catalog,
    /// Only the bound object.
    Object,
}

/// Whether a broker takes part in its hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerState {
    /// It may hold replicas.
    #[default]
    Active,
    /// It gets no more replicas, and loses those that it has to others.
    Draining,
    /// It holds nothing, and its number is never used again.
    Retired,
}

/// One tagged operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Opens a partition in this journal. Done again with the same generation it only sets the limits anew; a lower generation
    /// than the open one is refused.
    OpenPartition {
        /// The partition.
        at: TopicPartition,
        /// Which of the catalog's homes of the partition this is.
        generation: u32,
        /// Offset that the first record here gets; also the log start.
        first_offset: Offset,
        /// Its leader epoch at this moment; greater than in all earlier homes.
        first_epoch: LeaderEpoch,
        /// Bounds of what it remembers of producers.
        limits: ProducerLimits,
    },
    /// Forgets a partition; objects that only it used are condemned. Done again, or with a lower generation than the open
    /// one, it does nothing.
    ClosePartition {
        /// The partition.
        at: TopicPartition,
        /// Which home is closed.
        generation: u32,
    },
    /// Takes no more records for a partition here, because it moves to another journal. What it holds stays and can be read. Done again it answers the
    /// same end.
    SealPartition {
        /// The partition.
        at: TopicPartition,
        /// The generation that is open.
        generation: u32,
    },
    /// Opens a partition that another journal sealed, where that ended. Done again with the same generation it does nothing.
    AdoptPartition {
        /// The partition.
        at: TopicPartition,
        /// Which of the catalog's homes of the partition this is; above that of the sealed one.
        generation: u32,
        /// What the sealing came to.
        sealed: Box<Sealed>,
    },
    /// Appends one validated batch.
    Append {
        /// Where to.
        at: TopicPartition,
        /// The batch; its base offset and leader epoch do not matter.
        batch: Bytes,
        /// How many batches to remember of its producer, at most 64; 0 stands for 5.
        window: u8,
    },
    /// Commits positions of a group; all or none.
    CommitOffsets {
        /// The group, 1 to 255 bytes.
        group: String,
        /// Its positions.
        offsets: Vec<OffsetCommit>,
    },
    /// Forgets positions of a group that were last committed before a moment; unknown ones are passed over.
    DeleteOffsets {
        /// The group.
        group: String,
        /// Which partitions.
        partitions: Vec<TopicPartition>,
        /// Only commits older than this; `None` takes all.
        committed_before: Option<TimestampMs>,
    },
    /// Forgets a group; nothing happens where there is none.
    DeleteGroup {
        /// The group.
        group: String,
    },
    /// Announces an object before it is uploaded.
    Intend {
        /// A key that was never used before.
        key: ObjectKey,
    },
    /// Takes an intended and verified tier object into the manifest. Each partition's ranges are in order, start where its
    /// tiered end (or, if greater, at most where its log start) lies and end at or below its high watermark.
    Tier {
        /// The object.
        object: ObjectInfo,
        /// What it holds.
        ranges: Vec<TierRange>,
    },
    /// Gives up an intended key for good: it is condemned and no later `Tier` can bring it back.
    Abandon {
        /// The key.
        key: ObjectKey,
    },
    /// Says that condemned objects have been deleted from the store; unknown keys are passed over.
    Forget {
        /// Their keys.
        keys: Vec<ObjectKey>,
    },
    /// Raises the log start; below the present one nothing happens, above the high watermark it is refused.
    Trim {
        /// The partition.
        at: TopicPartition,
        /// The new log start.
        log_start: Offset,
    },
    /// Replaces a contiguous stretch of a partition's ranges and manifests.
    Replace {
        /// The partition.
        at: TopicPartition,
        /// What goes, in order.
        old: Vec<RangeKey>,
        /// What comes.
        new: Replacement,
    },
    /// Condemns a manifest that a trim or close drained, and what only it referred to.
    Unravel {
        /// Key of the manifest object.
        manifest: ObjectKey,
        /// The object keys of its ranges, one for each range (so repeated where an object holds several).
        objects: Vec<ObjectKey>,
    },
    /// Drops tail index items up to a Raft index, so that the log may be purged to there. Refused above `releasable`.
    Release {
        /// The greatest Raft index to be released.
        upto: u64,
    },
    /// Allows operations of a higher feature level in this journal; never falls.
    SetFeatureLevel {
        /// The level.
        level: u32,
    },
    /// Catalog: makes a topic. The same uid and name again is answered as the first time.
    CreateTopic {
        /// Its identity, minted by the proposer.
        uid: TopicUid,
        /// Its name, validated by the proposer as Kafka's are.
        name: String,
        /// Its settings.
        config: TopicConfig,
        /// The journal of each partition; empty lets the catalog choose the emptiest.
        journals: Vec<JournalId>,
        /// The object that asked for it.
        bound: Option<BoundObject>,
        /// Who may change it.
        management: Management,
    },
    /// Catalog: changes settings and adds partitions.
    AlterTopic {
        /// The topic.
        uid: TopicUid,
        /// Refused unless its revision is this one.
        expected_revision: Option<u64>,
        /// The new settings.
        config: TopicConfig,
        /// The journal of each added partition; empty lets the catalog choose.
        journals: Vec<JournalId>,
    },
    /// Catalog: a partition shall move to another journal, which must hold nothing of it. Done again it does nothing.
    BeginMove {
        /// The partition.
        at: TopicPartition,
        /// The journal that it moves to.
        to: JournalId,
    },
    /// Catalog: the partition lives in the journal that it was moving to. Done again it does nothing.
    FinishMove {
        /// The partition.
        at: TopicPartition,
        /// The home's generation.
        generation: u32,
        /// Offset of the first record there.
        first_offset: Offset,
    },
    /// Catalog: the oldest of several homes of a partition holds nothing of it any more.
    DropHome {
        /// The partition.
        at: TopicPartition,
        /// The home's generation.
        generation: u32,
    },
    /// Catalog: leaves a tombstone in the topic's place. Its name is free at once.
    DeleteTopic {
        /// The topic.
        uid: TopicUid,
        /// Until when it can be undeleted.
        undo_until: TimestampMs,
    },
    /// Catalog: brings a deleted topic back, while its time is not over and its name is free.
    UndeleteTopic {
        /// The topic.
        uid: TopicUid,
    },
    /// Catalog: drops a tombstone whose time to undo is over; nothing happens where there is none.
    ForgetTopic {
        /// The topic.
        uid: TopicUid,
    },
    /// Catalog: sets the object that manages a topic, by compare-and-set.
    BindTopic {
        /// The topic.
        uid: TopicUid,
        /// What is bound now.
        expected: Option<BoundObject>,
        /// What is bound then; `None` detaches.
        object: Option<BoundObject>,
        /// Who may change it then.
        management: Management,
    },
    /// Catalog: makes a broker known, or its addresses new.
    RegisterBroker {
        /// The broker.
        broker: BrokerId,
        /// Written on its volume once.
        incarnation: Uuid,
        /// The incarnation that it replaces, where its volume was lost.
        replaces: Option<Uuid>,
        /// Listener name and `host:port`.
        addresses: Vec<(String, String)>,
        /// The zone it runs in; empty where unknown.
        zone: String,
        /// The node it runs on; empty where unknown.
        node: String,
    },
    /// Catalog: lets a broker take part, drains it, or retires it for good (refused while any journal has a replica on it).
    SetBrokerState {
        /// The broker.
        broker: BrokerId,
        /// The incarnation that is meant.
        incarnation: Uuid,
        /// What it shall be.
        state: BrokerState,
    },
    /// Catalog: adds data journals, numbered on, with a replica on each of some active brokers; the first of them founds each journal.
    AddJournals {
        /// How many, 1 to 1,024.
        count: u32,
        /// Brokers that hold them.
        replicas: Vec<BrokerId>,
    },
    /// Catalog: gives out the id of a new replica of a journal (0 too) on an active broker. One that is there is answered again.
    AddReplica {
        /// The journal.
        journal: JournalId,
        /// The broker that shall hold it.
        broker: BrokerId,
        /// The incarnation that is meant.
        incarnation: Uuid,
    },
    /// Catalog: takes a replica away for ever, after its journal's voters and learners went on without it. The last one is refused; unknown
    /// ones are passed over.
    RemoveReplica {
        /// The journal.
        journal: JournalId,
        /// The replica's id.
        replica: u64,
    },
    /// Catalog: how many voters each journal shall have: 1, 3 or 5.
    SetReplicationFactor {
        /// The number.
        factor: u32,
    },
    /// Catalog: gives out producer ids that were never given out before.
    AllocateProducerIds {
        /// How many, 1 to 1,000,000.
        count: u32,
    },
    /// Catalog: the id of a named producer under a new epoch, which fences its earlier incarnations.
    InitNamedProducer {
        /// Its name, 1 to 255 bytes.
        name: String,
        /// How many batches to remember, at most 64; 0 stands for 5.
        window: u8,
        /// A name unused for longer is forgotten when room is needed, in milliseconds.
        expire_ms: i64,
    },
    /// Catalog: fences operators with a lower epoch; never falls.
    SetOperatorEpoch {
        /// The epoch.
        epoch: u64,
    },
}

impl Operation {
    /// The feature level that must be committed before this operation is taken.
    pub fn feature_level(&self) -> u32 {
        1
    }
}
