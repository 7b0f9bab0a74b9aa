//! One life of one broker's process: its tasks end with it, it reaches others over the simulated network, and the object store as far as the
//! network lets it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_broker::fleet::{AskError, Told, Transport};
use tidegate_broker::hub::Hub;
use tidegate_env::{Clock, Joined, Threads};
use tidegate_journal::Journal;
use tidegate_journal::raft::Peers;
use tidegate_model::{BrokerId, HubId, JournalId};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::request::Ask;
use tidegate_tier::store::ObjectInfo;
use tidegate_tier::{ObjectStore, Put, PutMode, StoreError};
use tokio_util::sync::CancellationToken;

use crate::life::Shared;
use crate::net::{Life, Lost, Net};
use crate::store::SimStore;

/// The object store's number on the network.
pub(super) const STORE: u32 = 900;
/// How long a call to a store that cannot be reached takes to fail.
const STORE_AWAY: Duration = Duration::from_millis(200);

/// Hubs that are open, by broker: the network's way to them.
pub(super) type Doors = Arc<Mutex<BTreeMap<u32, Hub>>>;

/// Threads whose tasks end when the process is killed: none of them runs another step.
pub(super) struct MortalThreads {
    pub(super) threads: Arc<dyn Threads>,
    pub(super) gone: CancellationToken,
}

impl MortalThreads {
    fn until_killed(&self, body: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let gone = self.gone.clone();
        async move {
            tokio::select! {
                biased;
                () = gone.cancelled_owned() => {}
                () = body => {}
            }
        }
        .boxed()
    }
}

impl Threads for MortalThreads {
    fn spawn(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        self.threads.spawn(name, self.until_killed(body))
    }

    fn task(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        self.threads.task(name, self.until_killed(body))
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.threads.blocking(work)
    }
}

/// The address by which peers reach a broker.
pub(super) fn peer_address(broker: u32) -> String {
    format!("peer-{broker}:1")
}

fn broker_at(address: &str) -> Option<u32> {
    address.strip_prefix("peer-")?.strip_suffix(":1")?.parse().ok()
}

/// A broker's end of the network.
pub(super) struct Wire {
    pub(super) net: Net,
    pub(super) life: Life,
    pub(super) doors: Doors,
}

impl Wire {
    fn question(&self, to: u32, request: wired::Request) -> impl Future<Output = Result<wired::Answer, Lost>> + Send + 'static {
        let (net, from, doors) = (self.net.clone(), self.life.broker, Arc::clone(&self.doors));
        async move {
            let serve = move || {
                let hub = doors.lock().get(&to).cloned()?;
                Some(async move { hub.answer(request).await }.boxed())
            };
            net.call(from, to, Box::new(serve)).await
        }
    }
}

/// Questions that do no harm when they come twice. Appends come twice only if whoever sends them repeats them.
fn may_come_twice(request: &wired::Request) -> bool {
    !matches!(request.ask, Some(Ask::Submit(_)))
}

impl Transport for Wire {
    fn begin(&self, _hub: HubId, _broker: BrokerId) -> Arc<dyn Peers> {
        self.net.peers(self.life)
    }

    fn locate(&self, _broker: BrokerId, _address: &str) {}

    fn register(&self, journal: &Journal) {
        self.net.register(self.life, journal);
    }

    fn unregister(&self, journal: JournalId) {
        self.net.unregister(self.life, journal);
    }

    fn ask(&self, address: &str, request: wired::Request) -> Told {
        let address = address.to_owned();
        let Some(to) = broker_at(&address) else {
            return async move { Err(AskError::Unreachable { address, reason: "no such host".to_owned() }) }.boxed();
        };
        let echo = (may_come_twice(&request) && self.net.doubles()).then(|| self.question(to, request.clone()));
        let question = self.question(to, request);
        async move {
            if let Some(echo) = echo {
                // A call that was begun goes on by itself.
                drop(futures::poll!(std::pin::pin!(echo)));
            }
            question.await.map_err(|lost| match lost {
                Lost::Unreached => AskError::Unreachable { address, reason: "connection refused (simulated)".to_owned() },
                Lost::Broken => AskError::Broken { address, reason: "connection reset (simulated)".to_owned() },
            })
        }
        .boxed()
    }
}

/// The object store as one broker reaches it.
pub(super) struct Gate {
    pub(super) store: SimStore,
    pub(super) net: Net,
    pub(super) broker: u32,
    pub(super) world: Shared,
    pub(super) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate of broker {}", self.broker)
    }
}

impl Gate {
    /// An object is deleted only after a journal has committed that it is condemned, by its key (I9). Whoever deletes it has applied that.
    fn decided(&self, key: &str) {
        let journals = self.net.journals();
        let here = journals.iter().filter(|((broker, _), _)| *broker == self.broker);
        let is_condemned =
            |journal: &Journal| journal.read_state(|state| state.objects().condemned().any(|(known, _)| **known == *key));
        if !here.map(|(_, journal)| journal).any(is_condemned) {
            let what = format!("I9: broker {} deletes object {key}, which no journal that it has calls condemned", self.broker);
            self.world.lock().recorder.alarm(what);
        }
    }

    async fn pass(&self, key: &str, operation: &'static str) -> Result<(), StoreError> {
        if !self.net.is_cut(self.broker, STORE) {
            return Ok(());
        }
        self.clock.sleep(STORE_AWAY).await;
        Err(StoreError::Unavailable { key: key.to_owned(), operation, message: "no route to host (simulated)".to_owned() })
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put(&self, key: &str, body: Vec<Bytes>, mode: PutMode) -> Result<Put, StoreError> {
        self.pass(key, "put").await?;
        self.store.put(key, body, mode).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.pass(key, "get").await?;
        self.store.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.pass(key, "get").await?;
        self.store.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        self.pass(key, "head").await?;
        self.store.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.pass(key, "delete").await?;
        self.decided(key);
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        self.pass(prefix, "list").await?;
        self.store.list(prefix, start_after, limit).await
    }
}
