//! The network between brokers: [`PeerNetwork`] carries the messages of journals' replicas over gRPC, on a port of its own.
//!
//! To each peer go two streams, one for data and one for heartbeats and votes, so that the small never waits behind the big. It knows
//! where brokers are and which journals have a replica here, and looks into no message.

mod client;
mod codec;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tidegate_env::Env;
use tidegate_journal::Journal;
use tidegate_journal::raft::{Answer, Lane, Links, Message, PeerError, Peers};
use tidegate_model::{BrokerId, HubId, JournalId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use client::Way;

/// Bytes on their way to one peer on the data lane. It must hold what a round trip and an fsync leave unanswered at full speed.
const DATA_BYTES: u32 = 64 << 20;
/// The same for heartbeats and votes: a thousand journals' worth.
const CONTROL_BYTES: u32 = 1 << 20;

/// The way to the hub's other brokers, and theirs to this one. Cheap to clone.
#[derive(Clone)]
pub struct PeerNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    hub: HubId,
    broker: BrokerId,
    env: Env,
    addresses: RwLock<BTreeMap<BrokerId, String>>,
    journals: RwLock<BTreeMap<JournalId, Journal>>,
    ways: Mutex<BTreeMap<(BrokerId, Lane), Way>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl std::fmt::Debug for PeerNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerNetwork(broker {} of hub {})", self.inner.broker, self.inner.hub)
    }
}

impl PeerNetwork {
    /// A network that knows nobody yet.
    pub fn new(hub: HubId, broker: BrokerId, env: Env) -> PeerNetwork {
        let inner = Inner {
            hub,
            broker,
            env,
            addresses: RwLock::default(),
            journals: RwLock::default(),
            ways: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        PeerNetwork { inner: Arc::new(inner) }
    }

    /// Says where a broker is, as `host:port`. A connection to where it was before ends by itself when that is gone.
    pub fn locate(&self, broker: BrokerId, address: String) {
        self.inner.addresses.write().insert(broker, address);
    }

    /// Takes messages for a journal's replica from now on.
    pub fn register(&self, journal: &Journal) {
        self.inner.journals.write().insert(journal.id(), journal.clone());
    }

    /// Takes no more messages for a journal.
    pub fn unregister(&self, journal: JournalId) {
        self.inner.journals.write().remove(&journal);
    }

    /// What a journal needs to reach its other replicas. It does not keep the network alive: whoever made the network does.
    pub fn links(&self) -> Links {
        Links::new(self.inner.hub, Arc::new(Outward(Arc::downgrade(&self.inner))))
    }

    /// Takes connections of other brokers until [`PeerNetwork::stop`].
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve(&self, listener: TcpListener) -> std::io::Result<SocketAddr> {
        self.serve_with(listener, tonic::service::Routes::default())
    }

    /// As [`PeerNetwork::serve`], with other services on the same port.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve_with(&self, listener: TcpListener, beside: tonic::service::Routes) -> std::io::Result<SocketAddr> {
        server::serve(Arc::clone(&self.inner), listener, beside)
    }

    /// Ends all connections and the listener.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.journals.write().clear();
        self.inner.ways.lock().clear();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// The network as journals hold it, which the network holds in turn.
struct Outward(Weak<Inner>);

impl Peers for Outward {
    fn send(&self, to: BrokerId, lane: Lane, request: Message) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let way = self.0.upgrade().filter(|inner| !inner.stopping.is_cancelled()).map(|inner| {
            let bytes = if lane == Lane::Data { DATA_BYTES } else { CONTROL_BYTES };
            inner.ways.lock().entry((to, lane)).or_insert_with(|| client::open(&inner, to, lane, bytes)).clone()
        });
        match way {
            Some(way) => way.send(request).boxed(),
            None => {
                let reason = String::from("this broker is stopping");
                async move { Err(PeerError::Unreachable { broker: to, reason }) }.boxed()
            }
        }
    }
}
