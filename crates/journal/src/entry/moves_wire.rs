//! Protobuf messages of partitions that move between journals; see [`super::wire`].

use prost::Message;

use super::wire::At;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AdoptPartition {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
    #[prost(message, required, tag = "3")]
    pub(crate) sealed: Sealed,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sealed {
    #[prost(sint64, tag = "1")]
    pub(crate) end: i64,
    #[prost(sint32, tag = "2")]
    pub(crate) epoch: i32,
    #[prost(uint32, tag = "3")]
    pub(crate) most_producers: u32,
    #[prost(sint64, tag = "4")]
    pub(crate) expire_ms: i64,
    #[prost(sint64, tag = "5")]
    pub(crate) forgotten: i64,
    #[prost(message, repeated, tag = "6")]
    pub(crate) producers: Vec<CarriedProducer>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CarriedProducer {
    #[prost(sint64, tag = "1")]
    pub(crate) id: i64,
    #[prost(sint32, tag = "2")]
    pub(crate) epoch: i32,
    #[prost(uint32, tag = "3")]
    pub(crate) window: u32,
    #[prost(message, repeated, tag = "4")]
    pub(crate) batches: Vec<CarriedBatch>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CarriedBatch {
    #[prost(sint32, tag = "1")]
    pub(crate) first: i32,
    #[prost(sint32, tag = "2")]
    pub(crate) last: i32,
    #[prost(sint64, tag = "3")]
    pub(crate) base: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BeginMove {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) to: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FinishMove {
    #[prost(message, required, tag = "1")]
    pub(crate) at: At,
    #[prost(uint32, tag = "2")]
    pub(crate) generation: u32,
    #[prost(sint64, tag = "3")]
    pub(crate) first_offset: i64,
}
