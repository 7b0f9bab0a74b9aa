//! What a journal needs of the network: [`Peers`], which the broker implements over gRPC and tests in memory.
//!
//! Owns the addressing (a replica id names its broker), the two lanes and the contract of order, deadlines and bytes. Does not know what
//! a message says: that is `wire.rs`.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tidegate_env::Env;
use tidegate_model::{BrokerId, HubId, JournalId};

use super::detector::Detector;
use super::pacer::Pacer;

/// The id of a replica: a broker's number in the low half, and how many replicas of this journal that broker had before in the high half.
///
/// Bound to (journal, broker, incarnation): a broker whose volume was lost or replaced gets a new generation, so that what votes under the
/// old id never comes back (DESIGN I7). The first generation is 0, so the first replica of a broker has the broker's own number.
pub fn replica_id(broker: BrokerId, generation: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(broker.0)
}

/// The broker on which a replica lives.
pub fn broker_of(replica: u64) -> BrokerId {
    BrokerId(replica as u32)
}

/// How many replicas the broker had of this journal before this one.
pub fn generation_of(replica: u64) -> u32 {
    (replica >> 32) as u32
}

/// Which of the connections between two brokers a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Entries and snapshots: much, and never urgent enough to overtake.
    Data,
    /// Beats, heartbeats, votes, transfers: small, and never behind data.
    Control,
}

/// A request from one replica to another, or the answer to one. Opaque to the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The journal it is about.
    pub journal: JournalId,
    /// Its bytes, in order. They share memory with the log where they can; nothing has to be kept apart.
    pub chunks: Vec<Bytes>,
}

impl Message {
    /// Bytes of all chunks together.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// Why a message got no answer. Whether the peer acted on it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection, or none could be made: try again later.
    #[error("broker {broker} cannot be reached: {reason}")]
    Unreachable {
        /// The broker.
        broker: BrokerId,
        /// What the network said.
        reason: String,
    },
    /// The connection ended with the message on its way.
    #[error("the connection to broker {broker} ended: {reason}")]
    Broken {
        /// The broker.
        broker: BrokerId,
        /// What the network said.
        reason: String,
    },
}

/// An answer on its way. Dropping it gives the answer up, not the request.
pub type Answer = BoxFuture<'static, Result<Message, PeerError>>;

/// The way to other brokers.
///
/// **Order.** Messages of one journal to one broker on one lane arrive in the order in which their `send` was first polled, or not at all; after
/// one that was lost because a connection ended, later ones may arrive. Between lanes there is no order.
///
/// **Bytes.** `send` waits while this peer's budget is used up: a message counts from its `send` until its answer came, was dropped, or the
/// connection ended. A message larger than the budget goes alone.
///
/// **Time.** Callers put their own deadlines around `send` and the answer. An implementation ends both when it knows that the connection is
/// gone.
pub trait Peers: Send + Sync {
    /// Sends a request. Ends once it is on its way, with the answer to come.
    fn send(&self, to: BrokerId, lane: Lane, request: Message) -> BoxFuture<'static, Result<Answer, PeerError>>;
}

/// How a journal reaches its other replicas.
#[derive(Clone)]
pub struct Links {
    /// The hub; messages of another hub's brokers are refused.
    pub hub: HubId,
    /// The network.
    pub peers: Arc<dyn Peers>,
    /// Who lives, for all journals of the broker.
    pub(super) detector: Detector,
    /// How fast replicas are copied.
    pub(super) pacer: Pacer,
}

impl Links {
    /// For a broker of a hub, once: all of its journals share what clones of this know of others.
    pub fn new(hub: HubId, peers: Arc<dyn Peers>) -> Links {
        Links { hub, peers, detector: Detector::default(), pacer: Pacer::default() }
    }

    /// Copies to replicas that do not vote yet go no faster than this lets them.
    pub fn paced(self, pacer: Pacer) -> Links {
        Links { pacer, ..self }
    }

    pub(super) fn silent_voters(&self, journal: JournalId, env: &Env) -> Vec<BrokerId> {
        self.detector.silent(journal, env.clock.monotonic())
    }

    /// For a broker that is alone: nobody can be reached.
    pub fn none() -> Links {
        Links::new(HubId::default(), Arc::new(Nobody))
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({})", self.hub)
    }
}

struct Nobody;

impl Peers for Nobody {
    fn send(&self, to: BrokerId, _lane: Lane, _request: Message) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let reason = String::from("this broker was started without peers");
        Box::pin(async move { Err(PeerError::Unreachable { broker: to, reason }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_id_names_broker_and_generation_and_the_first_is_the_brokers_number() {
        assert_eq!(replica_id(BrokerId(7), 0), 7);
        let third = replica_id(BrokerId(u32::MAX), 2);
        assert_eq!((broker_of(third), generation_of(third)), (BrokerId(u32::MAX), 2));
    }
}
