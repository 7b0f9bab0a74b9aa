//! The network between simulated brokers: seeded delays, one-way cuts, lost messages, connections that break, requests that come twice.
//!
//! Within a lane order is kept, as `Peers` promises; lanes overtake each other freely. A process that died is not heard any more.

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
use tidegate_model::BrokerId;
use tokio::sync::{mpsc, oneshot};

/// Parcels of one way that wait; a sender waits beyond it, as for a peer's budget.
const WAITING: usize = 256;

type Reply = oneshot::Sender<Result<Message, PeerError>>;
type Parcel = (Message, Reply);

/// One life of one broker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub(super) broker: u32,
    pub(super) number: u64,
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// The longest time that a message takes.
    pub(super) delay: Duration,
    /// One message in so many gets lost without a word; 0 for none.
    pub(super) lose_one_in: u64,
    /// One message in so many ends with its connection.
    pub(super) break_one_in: u64,
    /// One request in so many comes twice.
    pub(super) double_one_in: u64,
}

#[derive(Clone)]
pub(super) struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    random: SimRandom,
    weather: Mutex<Weather>,
    cut: Mutex<BTreeSet<(u32, u32)>>,
    journals: Mutex<BTreeMap<u32, (Life, Journal)>>,
    ways: Mutex<BTreeMap<(Life, u32, Lane), mpsc::Sender<Parcel>>>,
    /// Answers that never come; kept, because dropping one would be an answer.
    lost: Mutex<Vec<Reply>>,
}

impl Net {
    pub(super) fn new(env: &Env, seed: u64) -> Net {
        let inner = Inner {
            env: env.clone(),
            random: SimRandom::new(seed),
            weather: Mutex::default(),
            cut: Mutex::default(),
            journals: Mutex::default(),
            ways: Mutex::default(),
            lost: Mutex::default(),
        };
        Net { inner: Arc::new(inner) }
    }

    pub(super) fn join(&self, life: Life, journal: &Journal) {
        self.inner.journals.lock().insert(life.broker, (life, journal.clone()));
    }

    pub(super) fn leave(&self, broker: u32) {
        self.inner.journals.lock().remove(&broker);
        self.inner.ways.lock().retain(|(life, ..), _| life.broker != broker);
    }

    /// Forgets everybody. The network holds the journals and they hold it: without this, neither is ever freed.
    pub(super) fn end(&self) {
        self.inner.journals.lock().clear();
        self.inner.ways.lock().clear();
        self.inner.lost.lock().clear();
    }

    pub(super) fn cut(&self, from: u32, to: u32) {
        self.inner.cut.lock().insert((from, to));
    }

    pub(super) fn set(&self, weather: Weather) {
        *self.inner.weather.lock() = weather;
    }

    pub(super) fn heal(&self) {
        self.inner.cut.lock().clear();
        self.set(Weather::default());
        self.inner.lost.lock().clear();
    }

    pub(super) fn peers(&self, life: Life) -> Arc<dyn Peers> {
        Arc::new(Outward { net: self.clone(), life })
    }

    fn strikes(&self, one_in: u64) -> bool {
        one_in > 0 && self.inner.random.below(one_in) == 0
    }

    fn passes(&self, from: u32, to: u32) -> bool {
        !self.inner.cut.lock().contains(&(from, to)) && !self.strikes(self.inner.weather.lock().lose_one_in)
    }

    fn lives(&self, life: Life) -> bool {
        self.inner.journals.lock().get(&life.broker).is_some_and(|(now, _)| *now == life)
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
                self.inner.lost.lock().push(reply);
                continue;
            }
            let broken = |reason: &str| PeerError::Broken { broker: BrokerId(to), reason: reason.to_owned() };
            if self.strikes(self.inner.weather.lock().break_one_in) {
                let _ = reply.send(Err(broken("the simulated connection broke")));
                continue;
            }
            let Some((_, journal)) = self.inner.journals.lock().get(&to).cloned() else {
                let reason = String::from("the simulated broker is off");
                let _ = reply.send(Err(PeerError::Unreachable { broker: BrokerId(to), reason }));
                continue;
            };
            let accepted = journal.accept(self.flattened(&message)).await;
            if self.strikes(self.inner.weather.lock().double_one_in) {
                let again = journal.accept(self.flattened(&message)).await;
                self.inner.env.threads.task("echo", async move { drop(again.answer().await) }.boxed());
            }
            let net = self.clone();
            let answering = async move {
                let answer = accepted.answer().await;
                net.travel().await;
                if net.passes(to, from.broker) {
                    let _ = reply.send(Ok(net.flattened(&answer)));
                } else {
                    net.inner.lost.lock().push(reply);
                }
            };
            self.inner.env.threads.task("answer", answering.boxed());
        }
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
