//! One batch on its way: its bytes, its stamp (producer id, epoch, sequence), its deadline.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::batch::{BatchBuilder, RecordBatch};
use tidegate_model::{ProducerEpoch, ProducerId, Sequence};
use tidegate_proto::errors::Failure;
use tokio::time::Instant;

use super::delivery::Outcome;

/// Who the hub knows the producer as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// A batch's place in its partition's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) identity: Identity,
    pub(super) base_sequence: Sequence,
}

pub(super) enum Body {
    Building(Box<BatchBuilder>),
    Built(RecordBatch),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Body::Building(_) => "Building",
            Body::Built(_) => "Built",
        })
    }
}

/// A batch that takes no more records.
#[derive(Debug)]
pub(super) struct Batch {
    /// The producer's number for it.
    pub(super) id: u64,
    pub(super) records: u32,
    /// Bytes of the producer's memory that it holds.
    pub(super) charge: usize,
    pub(super) deadline: Instant,
    pub(super) outcome: Arc<Outcome>,
    pub(super) body: Option<Body>,
    /// Set when it is first sent; taken off when its partition starts a new sequence.
    pub(super) stamp: Option<Stamp>,
    /// The number of the frame that carries it now.
    pub(super) request_id: u64,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// Some try's answer was lost: the hub may have stored it, or store it yet, whatever a later try was told.
    pub(super) may_be_stored: bool,
    pub(super) last_failure: Option<Failure>,
}

impl Batch {
    /// A batch that waits to be sent for the first time.
    pub(super) fn waiting(id: u64, outcome: Arc<Outcome>, body: Body, records: u32, charge: usize, deadline: Instant) -> Batch {
        Batch {
            id,
            records,
            charge,
            deadline,
            outcome,
            body: Some(body),
            stamp: None,
            request_id: 0,
            attempts: 0,
            may_be_stored: false,
            last_failure: None,
        }
    }

    /// Its bytes as sent, under this stamp. Built with the first call; a new stamp changes the header and its CRC only.
    pub(super) fn encode(&mut self, stamp: Option<Stamp>) -> Result<Bytes, tidegate_model::batch::Error> {
        let same = self.stamp == stamp;
        self.stamp = stamp;
        let (id, epoch, sequence) = match stamp {
            Some(stamp) => (stamp.identity.id, stamp.identity.epoch, stamp.base_sequence),
            None => (ProducerId(-1), ProducerEpoch(-1), Sequence(-1)),
        };
        let built = match self.body.take() {
            Some(Body::Building(builder)) => builder.producer(id, epoch, sequence).build()?,
            Some(Body::Built(batch)) if same && self.attempts > 0 => batch,
            Some(Body::Built(batch)) => batch.with_producer(id, epoch, sequence),
            None => unreachable!("the body is put back below, and an error drops the batch"),
        };
        let bytes = built.bytes().clone();
        self.body = Some(Body::Built(built));
        Ok(bytes)
    }
}
