//! Several replicas of one journal, each on a runtime and a disk folder of its own, over a network in memory that can be cut, slowed and
//! made to swallow what it carries, in each direction and lane by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_env::Random;
use tidegate_env::intercepted::{InterceptedDisk, SaysFull, SlowSyncs};
use tidegate_env::sim::SimRandom;
use tidegate_model::{BrokerId, HubId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// How long any condition is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

type Parcel = (Message, oneshot::Sender<Result<Message, PeerError>>, Instant);
type Way = (u64, u64, Lane);

/// The network.
#[derive(Clone)]
pub(super) struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    journals: Mutex<BTreeMap<u32, Journal>>,
    ways: Mutex<BTreeMap<Way, mpsc::UnboundedSender<Parcel>>>,
    /// From, to: nothing gets through, and nobody is told.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// The longest time that a message takes on a lane, in microseconds.
    delay: Mutex<BTreeMap<Lane, u64>>,
    /// What each message to or from a broker takes longer, in milliseconds.
    far: Mutex<BTreeMap<u64, u64>>,
    lost: Mutex<Vec<Parcel>>,
    random: SimRandom,
    runtime: tokio::runtime::Handle,
}

impl Net {
    fn new(seed: u64) -> Net {
        let inner = Inner {
            journals: Mutex::default(),
            ways: Mutex::default(),
            cut: Mutex::default(),
            delay: Mutex::default(),
            far: Mutex::default(),
            lost: Mutex::default(),
            random: SimRandom::new(seed),
            runtime: tokio::runtime::Handle::current(),
        };
        Net { inner: Arc::new(inner) }
    }

    /// Cuts one direction; what is on its way gets lost without a word.
    pub(super) fn cut(&self, from: u64, to: u64) {
        self.inner.cut.lock().insert((from, to));
    }

    /// Cuts a broker off, both ways.
    pub(super) fn isolate(&self, broker: u64, all: &[u64]) {
        for other in all.iter().filter(|other| **other != broker) {
            self.cut(broker, *other);
            self.cut(*other, broker);
        }
    }

    pub(super) fn heal(&self) {
        self.inner.cut.lock().clear();
        self.inner.lost.lock().clear();
    }

    pub(super) fn slow(&self, lane: Lane, most: Duration) {
        self.inner.delay.lock().insert(lane, most.as_micros() as u64);
    }

    /// Puts a broker behind slow links, both ways.
    pub(super) fn far(&self, broker: u64, delay: Duration) {
        self.inner.far.lock().insert(broker, delay.as_millis() as u64);
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.inner.cut.lock().contains(&(from, to))
    }

    fn way(&self, way: Way) -> mpsc::UnboundedSender<Parcel> {
        let mut ways = self.inner.ways.lock();
        let make = || {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.inner.runtime.spawn(carry(self.clone(), way, receiver));
            sender
        };
        ways.entry(way).or_insert_with(make).clone()
    }

    /// One contiguous buffer, cut in two anywhere, as a real connection may deliver it.
    fn over_the_wire(&self, message: &Message) -> Message {
        let mut whole = BytesMut::new();
        message.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        let mut whole = whole.freeze();
        let first = whole.split_to(self.inner.random.below(whole.len() as u64 + 1) as usize);
        Message { journal: message.journal, chunks: vec![first, whole] }
    }
}

async fn carry(net: Net, (from, to, lane): Way, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
    while let Some((message, answer, sent)) = parcels.recv().await {
        let delay = net.inner.delay.lock().get(&lane).copied().unwrap_or(0);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(net.inner.random.below(delay))).await;
        }
        let far = [from, to].iter().filter_map(|broker| net.inner.far.lock().get(broker).copied()).max();
        if let Some(far) = far {
            tokio::time::sleep_until((sent + Duration::from_millis(far)).into()).await;
        }
        if net.is_cut(from, to) {
            net.inner.lost.lock().push((message, answer, sent));
            continue;
        }
        let journal = net.inner.journals.lock().get(&(to as u32)).cloned();
        let Some(journal) = journal else {
            let broker = BrokerId(to as u32);
            let _ = answer.send(Err(PeerError::Unreachable { broker, reason: String::from("it is not there") }));
            continue;
        };
        let accepted = journal.accept(net.over_the_wire(&message)).await;
        let net = net.clone();
        tokio::spawn(async move {
            let reply = accepted.answer().await;
            if net.is_cut(to, from) {
                net.inner.lost.lock().push((message, answer, sent));
                return;
            }
            let _ = answer.send(Ok(net.over_the_wire(&reply)));
        });
    }
}

struct From {
    net: Net,
    broker: u64,
}

impl Peers for From {
    fn send(&self, to: BrokerId, lane: Lane, request: Message) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let (sender, answer) = oneshot::channel();
        let sent = self.net.way((self.broker, u64::from(to.0), lane)).send((request, sender, Instant::now()));
        async move {
            let gone = move |reason: &str| PeerError::Broken { broker: to, reason: reason.to_owned() };
            sent.map_err(|_| gone("the way is closed"))?;
            Ok(async move { answer.await.unwrap_or_else(|_| Err(gone("the answer was lost"))) }.boxed())
        }
        .boxed()
    }
}

/// A replica that runs.
pub(super) struct Replica {
    pub(super) journal: Journal,
    pub(super) wal: Wal,
    runtime: Option<Runtime>,
}

/// A journal's replicas.
pub(super) struct Cluster {
    folder: tempfile::TempDir,
    pub(super) net: Net,
    pub(super) replicas: BTreeMap<u64, Replica>,
    pub(super) hub: HubId,
    pub(super) settings: JournalSettings,
    pub(super) cache_bytes: u64,
    /// Logs with another budget than the default.
    pub(super) budgets: BTreeMap<u64, u64>,
    /// Disks that take so many milliseconds for each sync.
    pub(super) syncs: BTreeMap<u64, Arc<AtomicU64>>,
    /// Replicas whose disk says that nothing is free.
    pub(super) full: BTreeMap<u64, Arc<AtomicBool>>,
}

impl Cluster {
    pub(super) fn empty(seed: u64) -> Cluster {
        Cluster {
            folder: tempfile::tempdir().unwrap(),
            net: Net::new(seed),
            replicas: BTreeMap::new(),
            hub: HubId(uuid::Uuid::from_u128(99)),
            settings: settings(),
            cache_bytes: 64 << 20,
            budgets: BTreeMap::new(),
            syncs: BTreeMap::new(),
            full: BTreeMap::new(),
        }
    }

    /// Replicas of these ids that make a journal.
    pub(super) async fn of(ids: &[u64], seed: u64) -> Cluster {
        let mut cluster = Cluster::empty(seed);
        for id in ids {
            cluster.start(*id, Beginning::Bootstrap { voters: ids.iter().copied().collect() }).await.unwrap();
        }
        cluster
    }

    pub(super) fn path(&self, id: u64) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    /// Starts a replica on a runtime of its own.
    pub(super) async fn start(&mut self, id: u64, beginning: Beginning) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (path, cache) = (self.path(id), TailCache::new(self.cache_bytes));
        let (budget, sync) = (self.budgets.get(&id).copied(), self.syncs.entry(id).or_default().clone());
        let full = self.full.entry(id).or_default().clone();
        let peers = Arc::new(From { net: self.net.clone(), broker: u64::from(broker_of(id).0) });
        let links = Links::new(self.hub, peers);
        let settings = JournalSettings { replica: id, ..self.settings.clone() };
        let started = runtime.spawn(async move {
            let mut env = Env::real();
            env.disk = Arc::new(InterceptedDisk { disk: env.disk, by: SlowSyncs(sync) });
            env.disk = Arc::new(InterceptedDisk { disk: env.disk, by: SaysFull(full) });
            let mut log_settings = wal_settings(&path);
            if let Some(budget) = budget {
                (log_settings.budget_bytes, log_settings.control_reserve_bytes) = (budget, budget / 8);
            }
            let (wal, log) = open_log_with(log_settings, &env).await;
            let parts = JournalParts { wal: wal.clone(), cache, checkpoint_dir: checkpoints(&path), env, links };
            Journal::start_as(ID, settings, beginning, log, parts).await.map(|journal| (journal, wal))
        });
        match started.await.unwrap() {
            Ok((journal, wal)) => {
                self.net.inner.journals.lock().insert(broker_of(id).0, journal.clone());
                self.replicas.insert(id, Replica { journal, wal, runtime: Some(runtime) });
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Ends a replica as kill -9 does.
    pub(super) fn kill(&mut self, id: u64) {
        self.net.inner.journals.lock().remove(&broker_of(id).0);
        if let Some(mut replica) = self.replicas.remove(&id) {
            let runtime = replica.runtime.take().unwrap();
            drop(replica);
            runtime.shutdown_background();
        }
    }

    pub(super) fn journal(&self, id: u64) -> &Journal {
        &self.replicas[&id].journal
    }

    /// Waits for a leader among `ids` that all of them know, and that is ready.
    pub(super) async fn leader_of(&self, ids: &[u64]) -> u64 {
        let known = || {
            let seen: Vec<Leadership> = ids.iter().map(|id| *self.journal(*id).leadership().borrow()).collect();
            let leader = seen[0].leader.filter(|leader| ids.contains(leader))?;
            let agreed = seen.iter().all(|now| now.leader == Some(leader) && now.term == seen[0].term);
            (agreed && self.journal(leader).leadership().borrow().is_self).then_some(leader)
        };
        let leader = eventually("all agree on a leader", known).await;
        self.journal(leader).ensure_ready().await.unwrap();
        leader
    }

    pub(super) async fn leader(&self) -> u64 {
        let ids: Vec<u64> = self.replicas.keys().copied().collect();
        self.leader_of(&ids).await
    }

    /// Proposes by whoever leads, again after a change of leaders. The unit may take effect twice unless it is idempotent.
    pub(super) async fn propose(&self, unit: Unit) -> UnitOutcome {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "nobody takes a unit");
            for replica in self.replicas.values() {
                let leads = replica.journal.leadership().borrow().is_self;
                if leads
                    && let Ok(Ok(outcome)) =
                        tokio::time::timeout(Duration::from_secs(2), replica.journal.propose(unit.clone())).await
                {
                    return outcome;
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until all replicas applied the same entries; their states must be equal then (I3).
    pub(super) async fn converged(&self) {
        let look = |journal: &Journal| journal.read_state(|state| (journal.applied().borrow().index, state.hash()));
        let same = || {
            let leads = self.replicas.values().any(|replica| replica.journal.leadership().borrow().is_self);
            let mut seen = self.replicas.values().map(|replica| look(&replica.journal));
            let (index, hash) = seen.next()?;
            let rest: Vec<_> = seen.collect();
            if !leads || rest.iter().any(|(other, _)| *other != index) {
                return None;
            }
            assert!(rest.iter().all(|(_, other)| *other == hash), "replicas that applied {index} entries differ");
            Some(())
        };
        eventually("all replicas applied the same", same).await;
    }

    /// What each replica serves of a partition, from its own cache and log; all the same.
    pub(super) async fn values(&self, partition: i32) -> Vec<String> {
        self.converged().await;
        let mut all = BTreeMap::new();
        for (id, replica) in &self.replicas {
            all.insert(*id, values(&replica.journal, partition).await);
        }
        let first = all.values().next().unwrap().clone();
        assert!(all.values().all(|values| *values == first), "{all:?}");
        first
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.kill(id);
        }
    }
}

/// Looks again and again until `look` gives something.
pub(super) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_told(what, async || look()).await
}

/// As [`eventually`], where a look takes an answer.
pub(super) async fn eventually_told<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} and never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn chunk(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
