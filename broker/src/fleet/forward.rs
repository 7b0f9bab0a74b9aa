//! Units for journals that another broker leads: gathered for each journal, sent to its leader in order, a lot at a time.
//!
//! Order: units of one journal are submitted at the leader in the order of [`Forwarder::submit`]; the next lot leaves when the last was
//! answered. Memory is bounded by bytes: a submitter waits for room. A lot is sent again only if its leader surely took none of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::bugs::{self, Bug};
use tidegate_journal::entry::{Unit, UnitOutcome};
use tidegate_journal::raft::{Ticket, broker_of};
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, TopicPartition};
use tidegate_proto::errors::Reason;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{AskError, PEER, wire};
use crate::hub::{Error, Inner, submit_error};

/// Bytes of units on their way to other brokers, in KiB: 64 MiB.
const ROOM_KIB: u32 = 64 << 10;
/// Units that wait for one journal's leader; their bytes are bounded by the room.
const WAITING: usize = 1024;
/// A lot is closed when it has so many bytes.
const LOT_BYTES: usize = 1 << 20;
/// A leader is looked for this long before the units are refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a lot may take once it is sent.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks for a leader: at first, and at most.
const PAUSE_MS: (u64, u64) = (10, 200);

/// A unit on its way: resolves when it is durable or refused.
pub(crate) enum Pending {
    /// In a journal that this broker leads.
    Here(Ticket),
    /// At another broker.
    There(oneshot::Receiver<Result<UnitOutcome, Error>>),
}

impl Pending {
    /// Whether it went to another broker.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self, Pending::There(_))
    }
}

impl Future for Pending {
    type Output = Result<UnitOutcome, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Pending::Here(ticket) => Pin::new(ticket).poll(context).map(|answer| answer.map_err(submit_error)),
            Pending::There(answer) => Pin::new(answer).poll(context).map(|answer| answer.unwrap_or(Err(Error::ShuttingDown))),
        }
    }
}

/// A leader epoch that a client named: the unit is refused where the partition has another.
pub(crate) type Known = (TopicPartition, LeaderEpoch);

struct Waiting {
    unit: Bytes,
    epoch: Option<Known>,
    answer: oneshot::Sender<Result<UnitOutcome, Error>>,
    _room: OwnedSemaphorePermit,
}

/// The queues of one broker.
pub(crate) struct Forwarder {
    queues: Mutex<BTreeMap<JournalId, mpsc::Sender<Waiting>>>,
    room: Arc<Semaphore>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Forwarder { queues: Mutex::default(), room: Arc::new(Semaphore::new(ROOM_KIB as usize)) }
    }
}

impl Forwarder {
    /// Queues a unit for a journal's leader. Waits for room.
    pub(crate) async fn submit(
        &self,
        inner: &Arc<Inner>,
        journal: JournalId,
        unit: Unit,
        epoch: Option<Known>,
    ) -> Result<Pending, Error> {
        let unit = wire::unit_out(unit)?;
        let kib = u32::try_from(unit.len().div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, ROOM_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| Error::ShuttingDown)?;
        let (answer, answered) = oneshot::channel();
        let queue = self.queue(inner, journal);
        queue.send(Waiting { unit, epoch, answer, _room: room }).await.map_err(|_| Error::ShuttingDown)?;
        Ok(Pending::There(answered))
    }

    fn queue(&self, inner: &Arc<Inner>, journal: JournalId) -> mpsc::Sender<Waiting> {
        let mut queues = self.queues.lock();
        let known = queues.entry(journal).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let task = inner.env.threads.task("forward", Box::pin(carry(Arc::clone(inner), journal, receiver)));
            inner.tasks.lock().push(task);
            sender
        });
        known.clone()
    }
}

/// Carries lots to the journal's leader until the hub stops.
async fn carry(inner: Arc<Inner>, journal: JournalId, mut waiting: mpsc::Receiver<Waiting>) {
    loop {
        let first = tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            first = waiting.recv() => first,
        };
        let Some(first) = first else { return };
        let mut bytes = first.unit.len();
        let mut lot = vec![first];
        while bytes < LOT_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.unit.len();
            lot.push(next);
        }
        if bugs::on(Bug::ReorderForwarded) {
            lot.reverse();
        }
        let units = lot.iter().map(|waiting| waiting.unit.clone()).collect();
        let known = (0..).zip(&lot).filter_map(|(unit, waiting)| Some((unit, waiting.epoch?)));
        let epochs = known.map(|(unit, (at, epoch))| wired::EpochCheck {
            unit,
            topic_uid: wire::uuid_out(at.topic.0),
            partition: at.partition.0,
            epoch: epoch.0,
        });
        let submit = Ask::Submit(wired::Submit { journal: journal.0, units, epochs: epochs.collect() });
        let told = tokio::select! {
            biased;
            () = inner.stopping.cancelled() => Err(Error::ShuttingDown),
            told = inner.ask_leader(journal, submit) => told,
        };
        match told {
            Ok(Told::Submitted(done)) if done.results.len() == lot.len() => {
                for (waiting, result) in lot.into_iter().zip(done.results) {
                    let _ = waiting.answer.send(wire::result_in(result));
                }
            }
            other => {
                let error = other.err().unwrap_or_else(|| Error::internal("a leader answered something else than was asked"));
                for waiting in lot {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Inner {
    /// The broker that leads a journal, as far as is known here.
    pub(crate) fn leader_of(&self, journal: JournalId) -> Option<BrokerId> {
        let hosted = if journal == JournalId::CATALOG { Some(self.catalog.clone()) } else { self.hosted.get(journal) };
        let known = hosted.and_then(|hosted| hosted.leadership().borrow().leader);
        // A replica here that is no member yet, or has no leader at the moment, knows less than was reported.
        known.map(broker_of).or_else(|| self.reports.leader(journal))
    }

    /// A listener's address of a broker.
    pub(crate) fn address(&self, broker: BrokerId, listener: &str) -> Option<String> {
        self.catalog.read_state(|state| state.catalog().fleet().broker(broker)?.address(listener).map(str::to_owned))
    }

    /// Asks one broker, within a deadline. What it refuses is an error.
    pub(crate) async fn ask(&self, address: &str, ask: Ask, deadline: Duration) -> Result<Result<Told, Error>, AskError> {
        let request = wired::Request { hub_id: wire::uuid_out(self.hub_id.0), from: self.broker.0, ask: Some(ask) };
        let answer = tokio::select! {
            biased;
            answer = self.network.transport.ask(address, request) => answer?,
            () = self.env.clock.sleep(deadline) => {
                return Err(AskError::Broken { address: address.to_owned(), reason: format!("no answer within {deadline:?}") });
            }
        };
        Ok(match answer.told {
            Some(Told::Error(error)) => Err(wire::error_in(error)),
            Some(told) => Ok(told),
            None => Err(Error::internal(format!("{address} answered nothing"))),
        })
    }

    /// Asks the broker that leads a journal; looks for it while it is not known or has changed. The question is put again only where it was
    /// surely not acted on.
    pub(crate) async fn ask_leader(self: &Arc<Self>, journal: JournalId, ask: Ask) -> Result<Told, Error> {
        let until = self.env.clock.monotonic() + PATIENCE;
        let mut pause = PAUSE_MS.0;
        loop {
            let refused = match self.leader_of(journal) {
                Some(broker) if broker == self.broker => {
                    // It came here meanwhile.
                    match Box::pin(self.answer_ask(ask.clone())).await {
                        Err(error) if error.is_not_leader() => error,
                        answer => return answer,
                    }
                }
                Some(broker) => match self.ask_broker(broker, ask.clone()).await {
                    Ok(Err(error)) if error.is_not_leader() => error,
                    Ok(answer) => return answer,
                    Err(error @ AskError::Unreachable { .. }) => {
                        Error::unavailable(self.lost_majority(journal).unwrap_or_else(|| error.to_string()))
                    }
                    Err(error) if bugs::on(Bug::RepeatAmbiguous) => Error::unavailable(error),
                    Err(error) => return Err(Error::unavailable(format!("{error}; what was sent may have been stored"))),
                },
                None => self.not_leader(journal),
            };
            if self.env.clock.monotonic() >= until {
                return Err(refused);
            }
            let jitter = self.env.random.below(pause);
            self.env.clock.sleep(Duration::from_millis(pause / 2 + jitter)).await;
            pause = (pause * 2).min(PAUSE_MS.1);
        }
    }

    async fn ask_broker(&self, broker: BrokerId, ask: Ask) -> Result<Result<Told, Error>, AskError> {
        let unknown =
            || AskError::Unreachable { address: format!("broker {broker}"), reason: "its address is not known".to_owned() };
        let address = self.address(broker, PEER).ok_or_else(unknown)?;
        self.ask(&address, ask, DEADLINE).await
    }

    /// Why a journal has no leader, as far as this broker can tell.
    fn leaderless(&self, journal: JournalId) -> String {
        if let Some(refused) = self.fleetwork.refused().get(&journal) {
            return format!(
                "journal {journal} has no leader that is known here, and its replica here takes no part: {}",
                refused.reason
            );
        }
        self.lost_majority(journal).unwrap_or_else(|| format!("journal {journal} has no leader that is known here"))
    }

    /// Which brokers are missing, if this one has a replica and hears no majority of the journal's voters.
    pub(crate) fn lost_majority(&self, journal: JournalId) -> Option<String> {
        let hosted = if journal == JournalId::CATALOG { Some(self.catalog.clone()) } else { self.hosted.get(journal) }?;
        let (silent, voters) = (hosted.silent_voters(), hosted.members().voters.len());
        if silent.is_empty() || silent.len() * 2 < voters {
            return None;
        }
        let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        Some(format!(
            "journal {journal} cannot reach a majority of its voters (nothing is heard of broker {}): it takes writes again by itself when they are back",
            silent.join(", ")
        ))
    }

    /// What a caller is told where this broker does not lead a journal.
    pub(crate) fn not_leader(&self, journal: JournalId) -> Error {
        let leader = self.leader_of(journal).filter(|broker| *broker != self.broker);
        let endpoint = leader.and_then(|broker| self.address(broker, super::CLIENT));
        let problem = match leader {
            Some(broker) => format!("broker {broker} leads journal {journal}"),
            None => self.leaderless(journal),
        };
        Error::NotLeader { problem, endpoint, retry_after: Duration::from_millis(PAUSE_MS.1) }
    }
}

impl Error {
    /// Another broker leads, and nothing was done here.
    pub(crate) fn is_not_leader(&self) -> bool {
        match self {
            Error::NotLeader { .. } => true,
            Error::Told(failure) => failure.reason == Reason::NotLeader,
            _ => false,
        }
    }
}
