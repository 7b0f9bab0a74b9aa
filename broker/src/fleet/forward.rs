//! Units for journals that another broker leads: gathered for each journal, sent to its leader in order, a lot at a time.
//!
//! Order: units of one journal are submitted at the leader in the order of [`Forwarder::submit`]; the next lot leaves when the last was
//! answered. Memory is bounded by bytes: a submitter waits for room. A lot is sent again only if its leader surely took none of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::bugs::{self, Bug};
use tidegate_env::watch;
use tidegate_journal::Journal;
use tidegate_journal::entry::{Unit, UnitOutcome};
use tidegate_journal::raft::{Leadership, Ticket, broker_of};
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, TopicPartition};
use tidegate_proto::errors::Reason;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::answer::{check_epoch, submit_wired};
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
/// Between two looks for a leader without any news: at first, and at most.
const PAUSE_MS: (u64, u64) = (10, 200);
/// So often in a row one broker's word is taken for who leads.
const MOST_HOPS: u32 = 2;
/// Metadata key of NOT_LEADER: where the leader is.
const LEADER_ENDPOINT: &str = "leader_endpoint";

/// A unit on its way: resolves when it is durable or refused.
pub(crate) enum Pending {
    /// In a journal that this broker leads.
    Here(Ticket),
    /// On the way to whoever leads.
    There(oneshot::Receiver<Landed>),
}

/// Where a unit came that had to wait for its leader.
pub(crate) enum Landed {
    /// This broker leads now.
    Here(Ticket),
    /// What another one answered.
    Told(Result<UnitOutcome, Error>),
}

impl Pending {
    /// Whether it went to another broker, as far as is known.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self, Pending::There(_))
    }
}

impl Future for Pending {
    type Output = Result<UnitOutcome, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let landed = match &mut *self {
                Pending::Here(ticket) => return Pin::new(ticket).poll(context).map(|answer| answer.map_err(submit_error)),
                Pending::There(landed) => ready!(Pin::new(landed).poll(context)),
            };
            match landed {
                Ok(Landed::Here(ticket)) => *self = Pending::Here(ticket),
                Ok(Landed::Told(answer)) => return Poll::Ready(answer),
                Err(_) => return Poll::Ready(Err(Error::ShuttingDown)),
            }
        }
    }
}

/// A leader epoch that a client named: the unit is refused where the partition has another.
pub(crate) type Known = (TopicPartition, LeaderEpoch);

struct Waiting {
    unit: Bytes,
    epoch: Option<Known>,
    answer: oneshot::Sender<Landed>,
    _room: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Waiting {
    fn tell(self, answer: Result<UnitOutcome, Error>) {
        let _ = self.answer.send(Landed::Told(answer));
    }
}

/// Counts a unit until it is answered, or in the journal here.
struct Counted([Arc<AtomicUsize>; 2]);

impl Counted {
    fn new(counters: [Arc<AtomicUsize>; 2]) -> Counted {
        counters.iter().for_each(|counter| _ = counter.fetch_add(1, Ordering::AcqRel));
        Counted(counters)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.iter().for_each(|counter| _ = counter.fetch_sub(1, Ordering::AcqRel));
    }
}

/// The queue of one journal.
struct Queue {
    sender: mpsc::Sender<Waiting>,
    waiting: Arc<AtomicUsize>,
}

/// The queues of one broker.
pub(crate) struct Forwarder {
    queues: Mutex<BTreeMap<JournalId, Queue>>,
    room: Arc<Semaphore>,
    /// Units in all queues.
    waiting: Arc<AtomicUsize>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Forwarder { queues: Mutex::default(), room: Arc::new(Semaphore::new(ROOM_KIB as usize)), waiting: Arc::default() }
    }
}

impl Forwarder {
    /// Whether units of a journal are on their way: what comes later has to go behind them, even if this broker leads by now.
    pub(crate) fn is_busy(&self, journal: JournalId) -> bool {
        let waits = |queue: &Queue| queue.waiting.load(Ordering::Acquire) > 0;
        self.waiting.load(Ordering::Acquire) > 0 && self.queues.lock().get(&journal).is_some_and(waits)
    }

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
        let (queue, waiting) = self.queue(inner, journal);
        let _counted = Counted::new([Arc::clone(&self.waiting), waiting]);
        queue.send(Waiting { unit, epoch, answer, _room: room, _counted }).await.map_err(|_| Error::ShuttingDown)?;
        Ok(Pending::There(answered))
    }

    fn queue(&self, inner: &Arc<Inner>, journal: JournalId) -> (mpsc::Sender<Waiting>, Arc<AtomicUsize>) {
        let mut queues = self.queues.lock();
        let known = queues.entry(journal).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let task = inner.env.threads.task("forward", Box::pin(carry(Arc::clone(inner), journal, receiver)));
            inner.tasks.lock().push(task);
            Queue { sender, waiting: Arc::default() }
        });
        (known.sender.clone(), Arc::clone(&known.waiting))
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
        let until = inner.env.clock.monotonic() + PATIENCE;
        tokio::select! {
            biased;
            // Whoever waits is told by the end of its channel.
            () = inner.stopping.cancelled() => return,
            () = inner.deliver(journal, lot, until) => {}
        }
    }
}

/// What tells that somebody else may lead a journal.
struct Sight {
    here: Option<watch::Receiver<Leadership>>,
    told: watch::Receiver<u64>,
}

impl Sight {
    /// Ends when there is something new since this sight was taken.
    async fn changed(&mut self) {
        let here = async {
            // One that was closed tells nothing more.
            if let Some(here) = &mut self.here
                && here.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = here => {}
            // The one that tells lives as long as the hub.
            _ = self.told.changed() => {}
        }
    }
}

impl Inner {
    /// Brings a lot where its journal is led; again what a leader refused that was about to hand over.
    async fn deliver(self: &Arc<Self>, journal: JournalId, mut lot: Vec<Waiting>, until: Duration) {
        while !lot.is_empty() {
            match self.any_journal(journal) {
                Ok(here) if here.takes_units() => return self.land(&here, lot).await,
                _ => lot = self.send_lot(journal, lot, until).await,
            }
        }
    }

    /// Submits a lot here: this broker leads by now.
    async fn land(&self, journal: &Journal, lot: Vec<Waiting>) {
        for waiting in lot {
            let checked = waiting.epoch.map_or(Ok(()), |known| check_epoch(journal, known));
            let landed = match checked {
                Ok(()) => submit_wired(journal, waiting.unit.clone()).await,
                Err(error) => Err(error),
            };
            let _ = waiting.answer.send(landed.map_or_else(|error| Landed::Told(Err(error)), Landed::Here));
        }
    }

    /// Sends a lot to the leader; gives back the end of it that certainly nobody took because the leadership was handed over.
    async fn send_lot(self: &Arc<Self>, journal: JournalId, mut lot: Vec<Waiting>, until: Duration) -> Vec<Waiting> {
        let units = lot.iter().map(|waiting| waiting.unit.clone()).collect();
        let known = (0..).zip(&lot).filter_map(|(unit, waiting)| Some((unit, waiting.epoch?)));
        let epochs = known.map(|(unit, (at, epoch))| wired::EpochCheck {
            unit,
            topic_uid: wire::uuid_out(at.topic.0),
            partition: at.partition.0,
            epoch: epoch.0,
        });
        let submit = Ask::Submit(wired::Submit { journal: journal.0, units, epochs: epochs.collect() });
        match self.ask_leader_until(journal, submit, until).await {
            Ok(Told::Submitted(done)) if done.results.len() == lot.len() => {
                let mut results: Vec<_> = done.results.into_iter().map(wire::result_in).collect();
                if self.env.clock.monotonic() < until {
                    let moved = |result: &Result<UnitOutcome, Error>| result.as_ref().is_err_and(Error::names_the_leader);
                    // What was taken behind a refusal would be overtaken by it.
                    results.truncate(results.iter().rposition(|result| !moved(result)).map_or(0, |last| last + 1));
                }
                let rest = lot.split_off(results.len());
                lot.into_iter().zip(results).for_each(|(waiting, result)| waiting.tell(result));
                rest
            }
            other => {
                let error = other.err().unwrap_or_else(|| Error::internal("a leader answered something else than was asked"));
                lot.into_iter().for_each(|waiting| waiting.tell(Err(error.clone())));
                Vec::new()
            }
        }
    }

    /// What tells of a journal's leaders from now on.
    fn sight(&self, journal: JournalId) -> Sight {
        let here = self.any_journal(journal).ok().map(|journal| {
            let mut here = journal.leadership();
            here.mark_unchanged();
            here
        });
        Sight { here, told: self.reports.news() }
    }
}

impl Inner {
    /// The broker that leads a journal, or is about to, as far as is known here.
    pub(crate) fn leader_of(&self, journal: JournalId) -> Option<BrokerId> {
        let hosted = if journal == JournalId::CATALOG { Some(self.catalog.clone()) } else { self.hosted.get(journal) };
        let Some(hosted) = hosted else { return self.reports.leader(journal, 0) };
        let seen = *hosted.leadership().borrow();
        // A replica here that is no member yet, or has no leader at the moment, knows less than was reported of its term or a later one.
        hosted.heir().or(seen.leader).map(broker_of).or_else(|| self.reports.leader(journal, seen.term))
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
        self.ask_leader_until(journal, ask, until).await
    }

    /// Looks again as soon as there is any news of who leads, and now and then without.
    async fn ask_leader_until(self: &Arc<Self>, journal: JournalId, ask: Ask, until: Duration) -> Result<Told, Error> {
        let (mut pause, mut hint, mut hops) = (PAUSE_MS.0, None, 0);
        loop {
            let mut sight = self.sight(journal);
            let asked = hint.take().or_else(|| self.leader_of(journal));
            let refused = match asked {
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
            // Whoever was asked may know better than this broker.
            hint = refused.leader_endpoint().and_then(|endpoint| self.broker_at(endpoint)).filter(|told| Some(*told) != asked);
            hops += 1;
            if hint.is_some() && hops <= MOST_HOPS {
                continue;
            }
            hops = 0;
            let jitter = self.env.random.below(pause);
            tokio::select! {
                biased;
                () = sight.changed() => hint = None,
                () = self.env.clock.sleep(Duration::from_millis(pause / 2 + jitter)) => pause = (pause * 2).min(PAUSE_MS.1),
            }
        }
    }

    /// The broker whose clients go to this endpoint.
    fn broker_at(&self, endpoint: &str) -> Option<BrokerId> {
        self.catalog.read_state(|state| {
            let mut brokers = state.catalog().fleet().brokers();
            brokers.find(|(_, broker)| broker.address(super::CLIENT) == Some(endpoint)).map(|(id, _)| id)
        })
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

    /// A refusal of a unit by a journal here, with the name of the broker that is to lead, if another one is.
    pub(crate) fn moved(&self, journal: JournalId, error: Error) -> Error {
        match (&error, self.is_alone()) {
            (Error::NotLeader { endpoint: None, .. }, false) => match self.not_leader(journal) {
                named @ Error::NotLeader { endpoint: Some(_), .. } => named,
                _ => error,
            },
            _ => error,
        }
    }

    /// The same for a client, who asks when it likes: by then this broker may lead again, or nobody may be known to. Where the unit was refused, a leader
    /// was known. (For peers, who try again at once, a name that is out of date would be worse than none.)
    pub(crate) fn moved_for_client(&self, journal: JournalId, error: Error) -> Error {
        match self.moved(journal, error) {
            Error::NotLeader { problem, leader: Some(leader), endpoint: None, retry_after } => {
                Error::NotLeader { problem, leader: Some(leader), endpoint: self.address(leader, super::CLIENT), retry_after }
            }
            // Another broker refused it and knew of nobody: this one may by now.
            Error::Told(failure) if failure.reason == Reason::NotLeader && !failure.metadata.contains_key(LEADER_ENDPOINT) => {
                let leader = self.leader_of(journal);
                let endpoint = leader.and_then(|broker| self.address(broker, super::CLIENT));
                let (problem, retry_after) = (failure.message.clone(), Duration::from_millis(PAUSE_MS.1));
                Error::NotLeader { problem, leader, endpoint, retry_after }
            }
            error => error,
        }
    }

    /// What a caller is told where this broker does not lead a journal.
    pub(crate) fn not_leader(&self, journal: JournalId) -> Error {
        let leader = self.leader_of(journal).filter(|broker| *broker != self.broker);
        let endpoint = leader.and_then(|broker| self.address(broker, super::CLIENT));
        let problem = match leader {
            Some(broker) => format!("broker {broker} leads journal {journal}"),
            None => self.leaderless(journal),
        };
        Error::NotLeader { problem, leader, endpoint, retry_after: Duration::from_millis(PAUSE_MS.1) }
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

    /// Where the leader's clients go, if a refusal names it.
    fn leader_endpoint(&self) -> Option<&str> {
        match self {
            Error::NotLeader { endpoint, .. } => endpoint.as_deref(),
            Error::Told(failure) if failure.reason == Reason::NotLeader => {
                failure.metadata.get(LEADER_ENDPOINT).map(String::as_str)
            }
            _ => None,
        }
    }

    /// Nothing was done because another broker leads, which is named. Without a name it may be that nobody can lead.
    fn names_the_leader(&self) -> bool {
        self.leader_endpoint().is_some()
    }
}
