//! The protobuf shape of a checkpoint (docs/formats/checkpoint.md). Numbers are for ever.

use prost::Message;

use crate::entry::wire::{Address, At, Bound, Config, Manifest, StoredRange, Uid};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct State {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
    #[prost(sint64, tag = "3")]
    pub(crate) time: i64,
    #[prost(uint32, tag = "4")]
    pub(crate) feature_level: u32,
    #[prost(fixed64, tag = "5")]
    pub(crate) digest: u64,
    #[prost(message, repeated, tag = "6")]
    pub(crate) partitions: Vec<Partition>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) groups: Vec<Group>,
    #[prost(message, required, tag = "8")]
    pub(crate) objects: Objects,
    #[prost(message, required, tag = "9")]
    pub(crate) catalog: Catalog,
    #[prost(sint64, tag = "10")]
    pub(crate) producer_lag: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Partition {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) most_producers: u32,
    #[prost(sint64, tag = "4")]
    pub(crate) expire_ms: i64,
    #[prost(sint64, tag = "5")]
    pub(crate) log_start: i64,
    #[prost(sint64, tag = "6")]
    pub(crate) high_watermark: i64,
    #[prost(sint64, tag = "7")]
    pub(crate) tiered_end: i64,
    #[prost(sint32, tag = "8")]
    pub(crate) epoch: i32,
    #[prost(message, repeated, tag = "9")]
    pub(crate) epoch_starts: Vec<EpochStart>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) producers: Vec<Producer>,
    #[prost(sint64, tag = "11")]
    pub(crate) forgotten: i64,
    #[prost(message, repeated, tag = "12")]
    pub(crate) pieces: Vec<Piece>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) tail: Vec<TailItem>,
    #[prost(bool, tag = "14")]
    pub(crate) sealed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EpochStart {
    #[prost(sint32, tag = "1")]
    pub(crate) epoch: i32,
    #[prost(sint64, tag = "2")]
    pub(crate) start: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Producer {
    #[prost(sint64, tag = "1")]
    pub(crate) id: i64,
    #[prost(sint32, tag = "2")]
    pub(crate) epoch: i32,
    #[prost(uint32, tag = "3")]
    pub(crate) window: u32,
    #[prost(sint64, tag = "4")]
    pub(crate) last_time: i64,
    #[prost(sint64, tag = "5")]
    pub(crate) deadline: i64,
    #[prost(message, repeated, tag = "6")]
    pub(crate) batches: Vec<Remembered>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Remembered {
    #[prost(sint32, tag = "1")]
    pub(crate) first: i32,
    #[prost(sint32, tag = "2")]
    pub(crate) last: i32,
    #[prost(sint64, tag = "3")]
    pub(crate) base: i64,
}

/// One of `range` and `manifest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<StoredRange>,
    #[prost(message, optional, tag = "2")]
    pub(crate) manifest: Option<Manifest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TailItem {
    #[prost(sint64, tag = "1")]
    pub(crate) base: i64,
    #[prost(sint64, tag = "2")]
    pub(crate) end: i64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) position: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) bytes: u32,
    #[prost(sint64, tag = "6")]
    pub(crate) max_timestamp: i64,
    #[prost(sint64, tag = "7")]
    pub(crate) appended: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Group {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) offsets: Vec<Committed>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Committed {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(sint64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(sint32, tag = "3")]
    pub(crate) leader_epoch: i32,
    #[prost(string, tag = "4")]
    pub(crate) metadata: String,
    #[prost(sint64, tag = "5")]
    pub(crate) time: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Objects {
    #[prost(message, repeated, tag = "1")]
    pub(crate) intended: Vec<TimedKey>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) live: Vec<CountedKey>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) drained: Vec<DrainedKey>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) condemned: Vec<TimedKey>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimedKey {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(sint64, tag = "2")]
    pub(crate) time: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CountedKey {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DrainedKey {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, required, tag = "2")]
    pub(crate) at: At,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Catalog {
    #[prost(message, repeated, tag = "1")]
    pub(crate) topics: Vec<Topic>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) placement: Vec<Placement>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) brokers: Vec<Broker>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) journals: Vec<Journal>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) named: Vec<Named>,
    #[prost(sint64, tag = "6")]
    pub(crate) next_producer_id: i64,
    #[prost(uint64, tag = "7")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) forgotten_revision: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) operator_epoch: u64,
    #[prost(uint32, tag = "10")]
    pub(crate) replication_factor: u32,
    #[prost(uint64, tag = "11")]
    pub(crate) fleet_revision: u64,
    #[prost(uint32, tag = "12")]
    pub(crate) group_journals: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Topic {
    #[prost(message, required, tag = "1")]
    pub(crate) uid: Uid,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, required, tag = "3")]
    pub(crate) config: Config,
    #[prost(uint64, tag = "4")]
    pub(crate) revision: u64,
    #[prost(sint64, tag = "5")]
    pub(crate) created: i64,
    #[prost(sint64, tag = "6")]
    pub(crate) changed: i64,
    #[prost(message, repeated, tag = "7")]
    pub(crate) partitions: Vec<Homes>,
    #[prost(message, optional, tag = "8")]
    pub(crate) bound: Option<Bound>,
    #[prost(bool, tag = "9")]
    pub(crate) was_bound: bool,
    #[prost(uint32, tag = "10")]
    pub(crate) managed_by_object: u32,
    #[prost(message, optional, tag = "11")]
    pub(crate) tombstone: Option<Tombstone>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Homes {
    #[prost(message, repeated, tag = "1")]
    pub(crate) homes: Vec<Home>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Home {
    #[prost(uint32, tag = "1")]
    pub(crate) journal: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
    #[prost(sint64, tag = "3")]
    pub(crate) first_offset: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tombstone {
    #[prost(sint64, tag = "1")]
    pub(crate) deleted: i64,
    #[prost(sint64, tag = "2")]
    pub(crate) undo_until: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Placement {
    #[prost(string, tag = "1")]
    pub(crate) group: String,
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) journals: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Broker {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(message, required, tag = "2")]
    pub(crate) incarnation: Uid,
    #[prost(message, repeated, tag = "3")]
    pub(crate) addresses: Vec<Address>,
    #[prost(sint64, tag = "4")]
    pub(crate) registered: i64,
    #[prost(string, tag = "5")]
    pub(crate) zone: String,
    #[prost(string, tag = "6")]
    pub(crate) node: String,
    #[prost(uint32, tag = "7")]
    pub(crate) state: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Journal {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    /// Of version 1 only.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) brokers: Vec<u32>,
    #[prost(uint32, tag = "3")]
    pub(crate) partitions: u32,
    #[prost(message, repeated, tag = "4")]
    pub(crate) replicas: Vec<Replica>,
    #[prost(uint64, tag = "5")]
    pub(crate) founder: u64,
    #[prost(message, repeated, tag = "6")]
    pub(crate) given: Vec<Given>,
}

/// The broker's number is the low half of the id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Replica {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) incarnation: Uid,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Given {
    #[prost(uint32, tag = "1")]
    pub(crate) broker: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Named {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(sint64, tag = "2")]
    pub(crate) id: i64,
    #[prost(sint32, tag = "3")]
    pub(crate) epoch: i32,
    #[prost(uint32, tag = "4")]
    pub(crate) window: u32,
    #[prost(sint64, tag = "5")]
    pub(crate) expires: i64,
}
