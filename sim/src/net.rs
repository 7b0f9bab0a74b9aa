//! The network between simulated brokers: seeded delays, one-way cuts, lost messages, connections that break, requests that come twice.
//!
//! Within a lane order is kept, as `Peers` promises; lanes overtake each other freely. A process that died is not heard any more. Clients and the
//! object store are parties too: whoever has a number can be cut off from another.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_env::sim::SimRandom;
use tidegate_env::{Env, Random};
use tidegate_journal::Journal;
use tidegate_journal::raft::{Answer, Lane, Message, PeerError, Peers};
use tidegate_model::{BrokerId, JournalId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Parcels of one way that wait; a sender waits beyond it, as for a peer's budget.
const WAITING: usize = 256;

type Reply = oneshot::Sender<Result<Message, PeerError>>;
type Parcel = (Message, Reply);

/// One life of one broker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    pub(crate) broker: u32,
    pub(crate) number: u64,
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The longest time that a message takes.
    pub(crate) delay: Duration,
    /// One message in so many gets lost without a word; 0 for none.
    pub(crate) lose_one_in: u64,
    /// One message in so many ends with its connection.
    pub(crate) break_one_in: u64,
    /// One request in so many comes twice.
    pub(crate) double_one_in: u64,
}

/// Why a call got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It reached nobody.
    Unreached,
    /// It may have been acted on.
    Broken,
}

/// Begins to answer a call; `None` if nobody takes calls there.
pub(crate) type Serve<T> = Box<dyn FnOnce() -> Option<BoxFuture<'static, T>> + Send>;

#[derive(Clone)]
pub(crate) struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    random: SimRandom,
    weather: Mutex<Weather>,
    cut: Mutex<BTreeSet<(u32, u32)>>,
    /// Processes that run, and what ends with each.
    up: Mutex<BTreeMap<u32, (Life, CancellationToken)>>,
    journals: Mutex<BTreeMap<(u32, JournalId), Journal>>,
    ways: Mutex<BTreeMap<(Life, u32, Lane), mpsc::Sender<Parcel>>>,
    /// Answers that never come; kept, because dropping one would be an answer.
    lost: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Net {
    pub(crate) fn new(env: &Env, seed: u64) -> Net {
        let inner = Inner {
            env: env.clone(),
            random: SimRandom::new(seed),
            weather: Mutex::default(),
            cut: Mutex::default(),
            up: Mutex::default(),
            journals: Mutex::default(),
            ways: Mutex::default(),
            lost: Mutex::default(),
        };
        Net { inner: Arc::new(inner) }
    }

    /// A process begins; `gone` is cancelled when it leaves.
    pub(crate) fn begin(&self, life: Life, gone: CancellationToken) {
        self.inner.up.lock().insert(life.broker, (life, gone));
    }

    /// Messages for a journal go to this replica from now on, if its process runs.
    pub(crate) fn register(&self, life: Life, journal: &Journal) {
        if self.lives(life) {
            self.inner.journals.lock().insert((life.broker, journal.id()), journal.clone());
        }
    }

    /// No more messages for a journal.
    pub(crate) fn unregister(&self, life: Life, journal: JournalId) {
        if self.lives(life) {
            self.inner.journals.lock().remove(&(life.broker, journal));
        }
    }

    /// A process has ended. Gives the journals that it had.
    pub(crate) fn leave(&self, broker: u32) -> Vec<Journal> {
        if let Some((_, gone)) = self.inner.up.lock().remove(&broker) {
            gone.cancel();
        }
        self.inner.ways.lock().retain(|(life, ..), _| life.broker != broker);
        let mut journals = self.inner.journals.lock();
        let (left, kept) = std::mem::take(&mut *journals).into_iter().partition(|((of, _), _)| *of == broker);
        *journals = kept;
        let left: BTreeMap<(u32, JournalId), Journal> = left;
        left.into_values().collect()
    }

    /// The journals that have a replica, by broker.
    pub(crate) fn journals(&self) -> BTreeMap<(u32, JournalId), Journal> {
        self.inner.journals.lock().clone()
    }

    /// Forgets everybody. The network holds the journals and they hold it: without this, neither is ever freed.
    pub(crate) fn end(&self) {
        self.inner.up.lock().clear();
        self.inner.journals.lock().clear();
        self.inner.ways.lock().clear();
        self.inner.lost.lock().clear();
    }

    pub(crate) fn cut(&self, from: u32, to: u32) {
        self.inner.cut.lock().insert((from, to));
    }

    pub(crate) fn set(&self, weather: Weather) {
        *self.inner.weather.lock() = weather;
    }

    pub(crate) fn heal(&self) {
        self.inner.cut.lock().clear();
        self.set(Weather::default());
        self.inner.lost.lock().clear();
    }

    pub(crate) fn peers(&self, life: Life) -> Arc<dyn Peers> {
        Arc::new(Outward { net: self.clone(), life })
    }

    pub(crate) fn is_cut(&self, from: u32, to: u32) -> bool {
        self.inner.cut.lock().contains(&(from, to))
    }

    /// Asks a process that runs somewhere. What it does about it goes on though the caller gives up, and ends with the process. A call that gets
    /// lost is never answered: callers set deadlines.
    pub(crate) async fn call<T: Send + 'static>(&self, from: u32, to: u32, serve: Serve<T>) -> Result<T, Lost> {
        let (reply, answer) = oneshot::channel();
        let bringing = self.clone().bring(from, to, serve, reply);
        drop(self.inner.env.threads.task("call", bringing.boxed()));
        answer.await.unwrap_or(Err(Lost::Broken))
    }

    async fn bring<T: Send + 'static>(self, from: u32, to: u32, serve: Serve<T>, reply: oneshot::Sender<Result<T, Lost>>) {
        self.travel().await;
        if !self.passes(from, to) {
            return self.inner.lost.lock().push(Box::new(reply));
        }
        if self.strikes(self.inner.weather.lock().break_one_in) {
            return drop(reply.send(Err(Lost::Broken)));
        }
        let Some((_, gone)) = self.process(to) else { return drop(reply.send(Err(Lost::Unreached))) };
        let Some(serving) = serve() else { return drop(reply.send(Err(Lost::Unreached))) };
        let answer = tokio::select! {
            biased;
            // A machine that loses its power says nothing; one whose process ends breaks its connections.
            () = gone.cancelled() => if self.strikes(2) { return self.inner.lost.lock().push(Box::new(reply)) } else { Err(Lost::Broken) },
            answer = serving => Ok(answer),
        };
        self.travel().await;
        let is_broken = self.strikes(self.inner.weather.lock().break_one_in);
        if !self.passes(to, from) {
            return self.inner.lost.lock().push(Box::new(reply));
        }
        let _ = reply.send(if is_broken { Err(Lost::Broken) } else { answer });
    }

    /// Whether a request is to come twice.
    pub(crate) fn doubles(&self) -> bool {
        self.strikes(self.inner.weather.lock().double_one_in)
    }

    fn strikes(&self, one_in: u64) -> bool {
        one_in > 0 && self.inner.random.below(one_in) == 0
    }

    fn passes(&self, from: u32, to: u32) -> bool {
        !self.is_cut(from, to) && !self.strikes(self.inner.weather.lock().lose_one_in)
    }

    fn lives(&self, life: Life) -> bool {
        self.process(life.broker).is_some_and(|(now, _)| now == life)
    }

    fn process(&self, broker: u32) -> Option<(Life, CancellationToken)> {
        self.inner.up.lock().get(&broker).cloned()
    }

    async fn travel(&self) {
        let most = self.inner.weather.lock().delay.as_micros() as u64;
        if most > 0 {
            self.inner.env.clock.sleep(Duration::from_micros(self.inner.random.below(most))).await;
        }
    }

    /// One buffer cut in two anywhere, as connections deliver.
    fn flattened(&self, message: &Message) -> Message {
        let mut whole = BytesMut::new();
        message.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        let mut whole: Bytes = whole.freeze();
        let first = whole.split_to(self.inner.random.below(whole.len() as u64 + 1) as usize);
        Message { journal: message.journal, chunks: vec![first, whole] }
    }

    async fn carry(self, from: Life, to: u32, mut parcels: mpsc::Receiver<Parcel>) {
        while let Some((message, reply)) = parcels.recv().await {
            self.travel().await;
            if !self.lives(from) || !self.passes(from.broker, to) {
                self.inner.lost.lock().push(Box::new(reply));
                continue;
            }
            let broken = |reason: &str| PeerError::Broken { broker: BrokerId(to), reason: reason.to_owned() };
            if self.strikes(self.inner.weather.lock().break_one_in) {
                let _ = reply.send(Err(broken("the simulated connection broke")));
                continue;
            }
            let Some((_, gone)) = self.process(to) else {
                let reason = String::from("the simulated broker is off");
                let _ = reply.send(Err(PeerError::Unreachable { broker: BrokerId(to), reason }));
                continue;
            };
            let journal = self.inner.journals.lock().get(&(to, message.journal)).cloned();
            let Some(journal) = journal else {
                let _ = reply.send(Ok(Message::refusal(message.journal, "this broker has no replica of it now")));
                continue;
            };
            tokio::select! {
                biased;
                // The reply goes with it: the connection broke.
                () = gone.cancelled() => {}
                () = self.hand_in(journal, from, to, message, reply, gone.clone()) => {}
            }
        }
    }

    /// Gives a request to its replica, in order, and has the answer brought back.
    async fn hand_in(&self, journal: Journal, from: Life, to: u32, message: Message, reply: Reply, gone: CancellationToken) {
        let accepted = journal.accept(self.flattened(&message)).await;
        if self.strikes(self.inner.weather.lock().double_one_in) {
            let again = journal.accept(self.flattened(&message)).await;
            self.inner.env.threads.task("echo", async move { drop(again.answer().await) }.boxed());
        }
        let net = self.clone();
        let answering = async move {
            let answer = accepted.answer().await;
            let leaves = !gone.is_cancelled();
            net.travel().await;
            if leaves && net.passes(to, from.broker) {
                let _ = reply.send(Ok(net.flattened(&answer)));
            } else {
                net.inner.lost.lock().push(Box::new(reply));
            }
        };
        self.inner.env.threads.task("answer", answering.boxed());
    }
}

struct Outward {
    net: Net,
    life: Life,
}

impl Peers for Outward {
    fn send(&self, to: BrokerId, lane: Lane, request: Message) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let (net, life) = (self.net.clone(), self.life);
        async move {
            let broken = move || PeerError::Broken { broker: to, reason: String::from("the simulated way is closed") };
            if !net.lives(life) {
                return Err(broken());
            }
            let way = {
                let mut ways = net.inner.ways.lock();
                let make = || {
                    let (sender, parcels) = mpsc::channel(WAITING);
                    net.inner.env.threads.task("way", net.clone().carry(life, to.0, parcels).boxed());
                    sender
                };
                ways.entry((life, to.0, lane)).or_insert_with(make).clone()
            };
            let (reply, answer) = oneshot::channel();
            way.send((request, reply)).await.map_err(|_| broken())?;
            Ok(async move { answer.await.unwrap_or_else(|_| Err(broken())) }.boxed() as Answer)
        }
        .boxed()
    }
}
