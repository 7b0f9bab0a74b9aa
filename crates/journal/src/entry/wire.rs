//! The protobuf shape of an entry's units (docs/formats/entry.md). Numbers are for ever; a batch's bytes are not in here.
//!
//! Uids are two 64-bit halves, so that decoding an append allocates nothing for them.

use prost::{Message, Oneof};

pub(crate) use super::moves_wire::*;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Uid {
    #[prost(fixed64, tag = "1")]
    pub(crate) high: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) low: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct At {
    #[prost(fixed64, tag = "1")]
    pub(crate) high: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) low: u64,
    #[prost(sint32, tag = "3")]
    pub(crate) partition: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Object {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
    #[prost(fixed32, tag = "3")]
    pub(crate) crc32c: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredRange {
    #[prost(message, required, tag = "1")]
    pub(crate) object: Object,
    #[prost(sint64, tag = "2")]
    pub(crate) base: i64,
    #[prost(sint64, tag = "3")]
    pub(crate) end: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) position: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) bytes: u64,
    #[prost(sint64, tag = "6")]
    pub(crate) min_timestamp: i64,
    #[prost(sint64, tag = "7")]
    pub(crate) max_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    #[prost(message, required, tag = "1")]
    pub(crate) object: Object,
    #[prost(sint64, tag = "2")]
    pub(crate) base: i64,
    #[prost(sint64, tag = "3")]
    pub(crate) end: i64,
    #[prost(uint32, tag = "4")]
    pub(crate) ranges: u32,
    #[prost(uint64, tag = "5")]
    pub(crate) data_bytes: u64,
    #[prost(sint64, tag = "6")]
    pub(crate) min_timestamp: i64,
    #[prost(sint64, tag = "7")]
    pub(crate) max_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bound {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Config {
    #[prost(uint32, tag = "1")]
    pub(crate) partitions: u32,
    #[prost(string, optional, tag = "2")]
    pub(crate) placement_group: Option<String>,
    #[prost(string, tag = "3")]
    pub(crate) settings: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Address {
    #[prost(string, tag = "1")]
    pub(crate) listener: String,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OffsetCommit {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(sint64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(sint32, tag = "3")]
    pub(crate) leader_epoch: i32,
    #[prost(string, tag = "4")]
    pub(crate) metadata: String,
}

/// Everything in an entry but its time and its batches.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Meta {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pieces: Vec<Piece>,
}

/// One of `run` and `unit`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(oneof = "PieceKind", tags = "1, 2")]
    pub(crate) kind: Option<PieceKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum PieceKind {
    #[prost(message, tag = "1")]
    Run(Run),
    #[prost(message, tag = "2")]
    Unit(Unit),
}

/// Units of one append each, all to one partition; their batches lie back to back.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Run {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) lengths: Vec<u32>,
    #[prost(uint32, tag = "3")]
    pub(crate) window: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unit {
    #[prost(message, repeated, tag = "1")]
    pub(crate) preconditions: Vec<Precondition>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) operations: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Precondition {
    #[prost(oneof = "PreconditionKind", tags = "1, 2, 3, 4")]
    pub(crate) kind: Option<PreconditionKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum PreconditionKind {
    #[prost(message, tag = "1")]
    TopicRevision(TopicRevision),
    #[prost(message, tag = "2")]
    PartitionExists(PartitionExists),
    #[prost(message, tag = "3")]
    HighWatermark(HighWatermark),
    #[prost(message, tag = "4")]
    OperatorEpoch(OperatorEpoch),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TopicRevision {
    #[prost(message, required, tag = "1")]
    pub(crate) topic: Uid,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PartitionExists {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HighWatermark {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(sint64, tag = "2")]
    pub(crate) equals: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorEpoch {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Operation {
    #[prost(
        oneof = "OperationKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49"
    )]
    pub(crate) kind: Option<OperationKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum OperationKind {
    #[prost(message, tag = "1")]
    OpenPartition(OpenPartition),
    #[prost(message, tag = "2")]
    ClosePartition(ClosePartition),
    #[prost(message, tag = "3")]
    Append(Append),
    #[prost(message, tag = "4")]
    CommitOffsets(CommitOffsets),
    #[prost(message, tag = "5")]
    DeleteOffsets(DeleteOffsets),
    #[prost(message, tag = "6")]
    DeleteGroup(DeleteGroup),
    #[prost(message, tag = "7")]
    Intend(Intend),
    #[prost(message, tag = "8")]
    Tier(Tier),
    #[prost(message, tag = "9")]
    Abandon(Abandon),
    #[prost(message, tag = "10")]
    Forget(Forget),
    #[prost(message, tag = "11")]
    Trim(Trim),
    #[prost(message, tag = "12")]
    Replace(Replace),
    #[prost(message, tag = "13")]
    Unravel(Unravel),
    #[prost(message, tag = "14")]
    Release(Release),
    #[prost(message, tag = "15")]
    SetFeatureLevel(SetFeatureLevel),
    #[prost(message, tag = "16")]
    SealPartition(ClosePartition),
    #[prost(message, tag = "17")]
    AdoptPartition(AdoptPartition),
    #[prost(message, tag = "32")]
    CreateTopic(CreateTopic),
    #[prost(message, tag = "33")]
    AlterTopic(AlterTopic),
    #[prost(message, tag = "34")]
    DeleteTopic(DeleteTopic),
    #[prost(message, tag = "35")]
    UndeleteTopic(UndeleteTopic),
    #[prost(message, tag = "36")]
    ForgetTopic(ForgetTopic),
    #[prost(message, tag = "37")]
    BindTopic(BindTopic),
    #[prost(message, tag = "38")]
    RegisterBroker(RegisterBroker),
    #[prost(message, tag = "39")]
    AddJournals(AddJournals),
    #[prost(message, tag = "40")]
    AllocateProducerIds(AllocateProducerIds),
    #[prost(message, tag = "41")]
    InitNamedProducer(InitNamedProducer),
    #[prost(message, tag = "42")]
    SetOperatorEpoch(SetOperatorEpoch),
    #[prost(message, tag = "43")]
    SetBrokerState(SetBrokerState),
    #[prost(message, tag = "44")]
    AddReplica(AddReplica),
    #[prost(message, tag = "45")]
    RemoveReplica(RemoveReplica),
    #[prost(message, tag = "46")]
    SetReplicationFactor(SetReplicationFactor),
    #[prost(message, tag = "47")]
    BeginMove(BeginMove),
    #[prost(message, tag = "48")]
    FinishMove(FinishMove),
    #[prost(message, tag = "49")]
    DropHome(ClosePartition),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpenPartition {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
    #[prost(sint64, tag = "3")]
    pub(crate) first_offset: i64,
    #[prost(sint32, tag = "4")]
    pub(crate) first_epoch: i32,
    #[prost(uint32, tag = "5")]
    pub(crate) producers: u32,
    #[prost(sint64, tag = "6")]
    pub(crate) expire_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClosePartition {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Append {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) length: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) window: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommitOffsets {
    #[prost(string, tag = "1")]
    pub(crate) group: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) offsets: Vec<OffsetCommit>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteOffsets {
    #[prost(string, tag = "1")]
    pub(crate) group: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) partitions: Vec<At>,
    #[prost(sint64, optional, tag = "3")]
    pub(crate) committed_before: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteGroup {
    #[prost(string, tag = "1")]
    pub(crate) group: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Intend {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tier {
    #[prost(message, required, tag = "1")]
    pub(crate) object: Object,
    #[prost(message, repeated, tag = "2")]
    pub(crate) ranges: Vec<TierRange>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Abandon {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Forget {
    #[prost(string, repeated, tag = "1")]
    pub(crate) keys: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Trim {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(sint64, tag = "2")]
    pub(crate) log_start: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Replace {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(message, repeated, tag = "2")]
    pub(crate) old: Vec<RangeKey>,
    #[prost(message, optional, tag = "3")]
    pub(crate) folded: Option<Manifest>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) unfolded: Vec<StoredRange>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) rewritten: Vec<StoredRange>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unravel {
    #[prost(string, tag = "1")]
    pub(crate) manifest: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) objects: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Release {
    #[prost(uint64, tag = "1")]
    pub(crate) upto: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetFeatureLevel {
    #[prost(uint32, tag = "1")]
    pub(crate) level: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, required, tag = "3")]
    pub(crate) config: Config,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) journals: Vec<u32>,
    #[prost(message, optional, tag = "5")]
    pub(crate) bound: Option<Bound>,
    #[prost(uint32, tag = "6")]
    pub(crate) managed_by_object: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AlterTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) expected_revision: Option<u64>,
    #[prost(message, required, tag = "3")]
    pub(crate) config: Config,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) journals: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
    #[prost(sint64, tag = "2")]
    pub(crate) undo_until: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UndeleteTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForgetTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BindTopic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
    #[prost(message, optional, tag = "2")]
    pub(crate) expected: Option<Bound>,
    #[prost(message, optional, tag = "3")]
    pub(crate) object: Option<Bound>,
    #[prost(uint32, tag = "4")]
    pub(crate) managed_by_object: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegisterBroker {
    #[prost(uint32, tag = "1")]
    pub(crate) broker: u32,
    #[prost(message, required, tag = "2")]
    pub(crate) incarnation: Uid,
    #[prost(message, optional, tag = "3")]
    pub(crate) replaces: Option<Uid>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) addresses: Vec<Address>,
    #[prost(string, tag = "5")]
    pub(crate) zone: String,
    #[prost(string, tag = "6")]
    pub(crate) node: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetBrokerState {
    #[prost(uint32, tag = "1")]
    pub(crate) broker: u32,
    #[prost(message, required, tag = "2")]
    pub(crate) incarnation: Uid,
    #[prost(uint32, tag = "3")]
    pub(crate) state: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AddReplica {
    #[prost(uint32, tag = "1")]
    pub(crate) journal: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) broker: u32,
    #[prost(message, required, tag = "3")]
    pub(crate) incarnation: Uid,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RemoveReplica {
    #[prost(uint32, tag = "1")]
    pub(crate) journal: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) replica: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetReplicationFactor {
    #[prost(uint32, tag = "1")]
    pub(crate) factor: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AddJournals {
    #[prost(uint32, tag = "1")]
    pub(crate) count: u32,
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) replicas: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AllocateProducerIds {
    #[prost(uint32, tag = "1")]
    pub(crate) count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InitNamedProducer {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) window: u32,
    #[prost(sint64, tag = "3")]
    pub(crate) expire_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetOperatorEpoch {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TierRange {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(sint64, tag = "2")]
    pub(crate) base: i64,
    #[prost(sint64, tag = "3")]
    pub(crate) end: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) position: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) bytes: u64,
    #[prost(sint64, tag = "6")]
    pub(crate) min_timestamp: i64,
    #[prost(sint64, tag = "7")]
    pub(crate) max_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeKey {
    #[prost(sint64, tag = "1")]
    pub(crate) base: i64,
    #[prost(string, tag = "2")]
    pub(crate) key: String,
}
