//! What a partition takes along when it moves to another journal: where it ends, and what it remembers of producers.

use bytes::Bytes;
use prost::Message as _;
use tidegate_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

use super::{DecodeError, ProducerLimits, wire};

/// A batch of an idempotent producer that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedBatch {
    /// Sequence of its first record.
    pub first: Sequence,
    /// Sequence of its last record.
    pub last: Sequence,
    /// Offset of its first record.
    pub base: Offset,
}

/// What is remembered of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedProducer {
    /// Who.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// How many of its batches are remembered at most.
    pub window: u8,
    /// Its batches, oldest first.
    pub batches: Vec<CarriedBatch>,
}

/// A partition's end in one journal, from which it goes on in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// One past its last offset.
    pub end: Offset,
    /// The last leader epoch; the next home begins with a greater one.
    pub epoch: LeaderEpoch,
    /// Bounds of what it remembers of producers.
    pub limits: ProducerLimits,
    /// The greatest producer id that was forgotten; -1 for none.
    pub forgotten: ProducerId,
    /// Producers, by id.
    pub producers: Vec<CarriedProducer>,
}

impl Sealed {
    /// As bytes, for another broker.
    pub fn encode(&self) -> Bytes {
        sealed_out(self).encode_to_vec().into()
    }

    /// From bytes of [`Sealed::encode`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Sealed, DecodeError> {
        let malformed = |_| DecodeError::Field { field: "sealed", problem: "is not what a sealed partition is encoded as" };
        sealed_in(wire::Sealed::decode(bytes).map_err(malformed)?)
    }
}

pub(crate) fn sealed_out(sealed: &Sealed) -> wire::Sealed {
    let batch = |batch: &CarriedBatch| wire::CarriedBatch { first: batch.first.0, last: batch.last.0, base: batch.base.0 };
    let producer = |producer: &CarriedProducer| wire::CarriedProducer {
        id: producer.id.0,
        epoch: i32::from(producer.epoch.0),
        window: u32::from(producer.window),
        batches: producer.batches.iter().map(batch).collect(),
    };
    wire::Sealed {
        end: sealed.end.0,
        epoch: sealed.epoch.0,
        most_producers: sealed.limits.producers,
        expire_ms: sealed.limits.expire_ms,
        forgotten: sealed.forgotten.0,
        producers: sealed.producers.iter().map(producer).collect(),
    }
}

pub(crate) fn sealed_in(wire: wire::Sealed) -> Result<Sealed, DecodeError> {
    let batch = |batch: wire::CarriedBatch| CarriedBatch {
        first: Sequence(batch.first),
        last: Sequence(batch.last),
        base: Offset(batch.base),
    };
    let producer = |producer: wire::CarriedProducer| {
        let beyond = |field| DecodeError::Field { field, problem: "is out of range" };
        Ok(CarriedProducer {
            id: ProducerId(producer.id),
            epoch: ProducerEpoch(i16::try_from(producer.epoch).map_err(|_| beyond("producers.epoch"))?),
            window: u8::try_from(producer.window).map_err(|_| beyond("producers.window"))?,
            batches: producer.batches.into_iter().map(batch).collect(),
        })
    };
    Ok(Sealed {
        end: Offset(wire.end),
        epoch: LeaderEpoch(wire.epoch),
        limits: ProducerLimits { producers: wire.most_producers, expire_ms: wire.expire_ms },
        forgotten: ProducerId(wire.forgotten),
        producers: wire.producers.into_iter().map(producer).collect::<Result<_, _>>()?,
    })
}
