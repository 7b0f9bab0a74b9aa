//! Many brokers as one hub: what they ask of each other, who leads what, and how a broker comes in.
//!
//! It knows no transport: a [`Transport`] carries questions and Raft. A question is answered by the broker that it
//! reaches and never passed on, so nothing goes round in circles.

mod answer;
mod forward;
mod grpc;
mod holdings;
mod join;
mod keeper;
mod mover;
mod neighbours;
mod placer;
mod reports;
mod standing;
mod wire;

use std::sync::Arc;

use futures::future::BoxFuture;
use tidegate_journal::Journal;
use tidegate_journal::raft::{Links, Peers};
use tidegate_model::{BrokerId, HubId, JournalId};
use tidegate_proto::internal::v1 as wired;

pub(crate) use forward::{Forwarder, Known, Pending};
pub(crate) use grpc::GrpcTransport;
pub(crate) use holdings::Holdings;
pub(crate) use join::{Newcomer, hello, join};
pub(crate) use keeper::{Fleetwork, beginning, keep, place};
pub(crate) use mover::move_alone;
pub(crate) use neighbours::Neighbours;
pub(crate) use reports::Reports;
pub use reports::{BrokerStatus, ClusterStatus, JournalStatus, MemberStatus};
pub(crate) use wire::{uuid_in, uuid_out};

/// Names of the listeners in the catalog.
pub const CLIENT: &str = "client";
/// The operator's port.
pub const OPERATOR: &str = "operator";
/// The port for other brokers.
pub const PEER: &str = "peer";

/// Why a question got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It was never sent.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The broker's address.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// It may have been acted on.
    #[error("the connection to {address} ended before it answered: {reason}")]
    Broken {
        /// The broker's address.
        address: String,
        /// What the network said.
        reason: String,
    },
}

/// An answer on its way.
pub type Told = BoxFuture<'static, Result<wired::Answer, AskError>>;

/// What a broker needs of the network: Raft between replicas, questions between brokers. Whoever implements it hands what arrives to
/// [`crate::hub::Hub::answer`] and to the registered journals.
pub trait Transport: Send + Sync {
    /// Says which hub this is, once it is known, and gives the way for Raft.
    fn begin(&self, hub: HubId, broker: BrokerId) -> Arc<dyn Peers>;

    /// Says where a broker takes what comes from peers, as `host:port`; again where it changed.
    fn locate(&self, broker: BrokerId, address: &str);

    /// Takes Raft's messages for a journal from now on; again for another replica of the same journal.
    fn register(&self, journal: &Journal);

    /// Takes none any more.
    fn unregister(&self, journal: JournalId);

    /// Asks a broker by its address for peers. Callers set deadlines; dropping the future gives the answer up, not the question. Questions to one
    /// address may overtake each other.
    fn ask(&self, address: &str, request: wired::Request) -> Told;
}

/// The network, and what a broker says of itself.
#[derive(Clone)]
pub struct Network {
    /// The way to others.
    pub transport: Arc<dyn Transport>,
    /// This broker's listeners and their `host:port`, as others reach them. Empty for a broker that is alone.
    pub advertised: Vec<(String, String)>,
}

impl Network {
    /// For a broker that is alone.
    pub fn none() -> Network {
        Network { transport: Arc::new(Nobody), advertised: Vec::new() }
    }
}

struct Nobody;

impl Transport for Nobody {
    fn begin(&self, _hub: HubId, _broker: BrokerId) -> Arc<dyn Peers> {
        Links::none().peers
    }

    fn locate(&self, _broker: BrokerId, _address: &str) {}

    fn register(&self, _journal: &Journal) {}

    fn unregister(&self, _journal: JournalId) {}

    fn ask(&self, address: &str, _request: wired::Request) -> Told {
        let error =
            AskError::Unreachable { address: address.to_owned(), reason: "this broker was started without peers".to_owned() };
        Box::pin(async move { Err(error) })
    }
}
