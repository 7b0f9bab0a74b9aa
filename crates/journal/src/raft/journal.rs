//! The handle of a journal: starting it, submitting units, watching it, checkpoints, shutting it down.
//!
//! Knows Raft only by what the other modules of this folder offer; callers know neither Raft nor the WAL's frames.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tidegate_env::watch;
use tidegate_env::{Env, Joined};
use tidegate_model::{JournalId, Offset, TopicPartition};
use tidegate_wal::{Class, JournalLog, Wal};
use tokio::sync::Semaphore;

use super::append_signal::AppendSignal;
use super::cache::TailCache;
use super::checkpoint::{CheckpointInfo, Checkpoints, Core};
use super::error::{JournalError, StartError};
use super::leadership::{Handing, Leadership, died, end, follow};
use super::machine::{Machine, View};
use super::network::Network;
use super::peers::Links;
use super::proposer::Proposer;
use super::queue::{Memory, Queue, Room, Ticket, class, cost};
use super::receive::IncomingSnapshot;
use super::settings::JournalSettings;
use super::start::{Beginning, begin, check_reach, config, recover_installed};
use super::store::LogStore;
use super::types::{RaftPayload, Runtime, TypeConfig};
use crate::entry::{Operation, Unit, UnitOutcome};
use crate::state::{Position, State};

/// How long a journal that is shut down waits for units on their way.
const LAST_UNITS: Duration = Duration::from_secs(3);

/// What a journal is built on; shared by all journals of a broker.
#[derive(Clone)]
pub struct JournalParts {
    /// The log of this broker's disk.
    pub wal: Wal,
    /// The newest entries of all journals, in memory.
    pub cache: TailCache,
    /// Folder of the local checkpoints; made if missing.
    pub checkpoint_dir: PathBuf,
    /// Time, randomness, threads, disk.
    pub env: Env,
    /// The way to the other replicas; [`Links::none`] for a broker that is alone.
    pub links: Links,
}

/// A journal on this broker. Cheap to clone. Dropping all handles does not stop it: use [`Journal::shutdown`].
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    id: JournalId,
    settings: JournalSettings,
    parts: JournalParts,
    raft: Raft<TypeConfig, Machine>,
    view: Arc<View>,
    queue: Arc<Queue>,
    data_permits: Arc<Semaphore>,
    control_permits: Arc<Semaphore>,
    checkpoints: Arc<Checkpoints>,
    /// Held while a checkpoint is taken; true once the journal has ended, after which there are no more.
    checkpointing: tokio::sync::Mutex<bool>,
    leadership: watch::Receiver<Leadership>,
    /// Another replica leads: units need not queue to hear so.
    follows: Arc<AtomicBool>,
    handing: Handing,
    /// How often Raft refused an entry that was proposed again.
    again: Arc<AtomicU64>,
    incoming: IncomingSnapshot,
    failed: watch::Sender<Option<Arc<str>>>,
    /// Raft is ended with units on their way, on purpose: that is no failure.
    gives_up: Arc<AtomicBool>,
    tasks: Mutex<Tasks>,
}

/// A handle that keeps nothing alive.
pub(super) struct WeakJournal(Weak<Inner>);

impl WeakJournal {
    pub(super) fn upgrade(&self) -> Option<Journal> {
        self.0.upgrade().map(|inner| Journal { inner })
    }
}

#[derive(Default)]
struct Tasks {
    proposer: Option<Box<dyn Joined>>,
    others: Vec<Box<dyn Joined>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.inner.id)
    }
}

impl Journal {
    /// Starts a journal from what the WAL recovered of it, or makes a new one with this replica as its only voter if there is nothing.
    /// On return the newest valid checkpoint is loaded and an election is under way; wait for [`Journal::ensure_ready`] before reading.
    ///
    /// # Errors
    /// [`StartError`]; each names what is wrong and the way out.
    pub async fn start(
        id: JournalId,
        settings: JournalSettings,
        recovered: Option<JournalLog>,
        parts: JournalParts,
    ) -> Result<Journal, StartError> {
        let alone = Beginning::Bootstrap { voters: [settings.replica].into() };
        Journal::start_as(id, settings, alone, recovered, parts).await
    }

    /// Starts a replica of a journal from what the WAL recovered of it; `beginning` says what to do if there is nothing. With several
    /// members the replica takes part in elections by itself from now on, as the detector of its broker sees fit; give it what arrives for it by [`Journal::accept`].
    ///
    /// # Errors
    /// [`StartError`]; each names what is wrong and the way out.
    pub async fn start_as(
        id: JournalId,
        settings: JournalSettings,
        beginning: Beginning,
        recovered: Option<JournalLog>,
        parts: JournalParts,
    ) -> Result<Journal, StartError> {
        settings.validate(parts.wal.max_payload_bytes())?;
        let (checkpoints, newest) = Checkpoints::open(id, parts.checkpoint_dir.clone(), &parts.env)
            .await
            .map_err(|source| StartError::CheckpointFolder { path: parts.checkpoint_dir.clone(), source })?;
        let failed = |reason: String| StartError::Raft { journal: id, reason };
        let damaged = |reason: String| StartError::Damaged { journal: id, reason };
        let recovered = recover_installed(id, recovered, newest.as_ref(), &checkpoints, &parts.wal).await?;
        checkpoints.purged_to(recovered.as_ref().and_then(|log| log.purged).map_or(0, |purged| purged.index));
        let store = LogStore::new(id, settings.replica, parts.wal.clone(), parts.cache.clone(), recovered.as_ref())
            .map_err(|error| failed(error.to_string()))?;
        let (core, looked_at) = (newest.unwrap_or_else(Core::empty), store.clone());
        check_reach(id, &core, &store, &parts)?;
        let stored = store.last_index() != 0 || core.applied.is_some();
        parts.cache.applied(id, core.index());
        let time = core.state.time();
        let view = Arc::new(View::new(id, core, settings.checkpoint_bytes));
        let checkpoints = Arc::new(checkpoints);
        let machine = Machine { view: view.clone(), cache: parts.cache.clone(), checkpoints: checkpoints.clone() };
        let (replica, own_vote, append_signal) = (settings.replica, store.own_vote(), store.append_signal());
        let network = Network { journal: id, replica, own_vote, links: parts.links.clone(), env: parts.env.clone() };
        let seed = parts.env.random.next_u64();
        let raft = Runtime::scope(seed, Raft::new(settings.replica, config(&settings), network, store, machine))
            .await
            .map_err(|error| looked_at.damage().map_or_else(|| failed(error.to_string()), damaged))?;
        begin(id, &raft, settings.replica, &beginning, stored).await?;
        let follows = Arc::new(AtomicBool::new(false));
        let (leadership, task) = follow(&raft, settings.replica, follows.clone(), &parts.env);
        let beat = Duration::from_millis(settings.heartbeat_ms);
        let inner = Arc::new(Inner {
            id,
            raft,
            view,
            queue: Arc::new(Queue::new()),
            data_permits: Arc::new(Semaphore::new(settings.data_bytes as usize)),
            control_permits: Arc::new(Semaphore::new(settings.control_bytes as usize)),
            checkpoints,
            checkpointing: tokio::sync::Mutex::default(),
            leadership,
            follows,
            handing: Handing::default(),
            again: Arc::default(),
            incoming: IncomingSnapshot::default(),
            failed: watch::Sender::new(None),
            gives_up: Arc::default(),
            tasks: Mutex::new(Tasks { proposer: None, others: vec![task] }),
            settings,
            parts,
        });
        inner.clone().spawn_proposer(time, append_signal);
        inner.spawn_watch_of_failures();
        inner.clone().spawn_checkpointer();
        let journal = Journal { inner };
        let Links { hub, peers, detector, .. } = &journal.inner.parts.links;
        detector.attend(&journal, beat, &journal.inner.parts.env, *hub, peers);
        Ok(journal)
    }

    /// Its number.
    pub fn id(&self) -> JournalId {
        self.inner.id
    }

    /// Waits until this replica leads, and everything that was acknowledged before its election is in the state: from then on no read
    /// shows less than what an earlier run acknowledged.
    ///
    /// # Errors
    /// The journal failed or was shut down.
    pub async fn ensure_ready(&self) -> Result<(), JournalError> {
        let mut leadership = self.inner.leadership.clone();
        let mut applied = self.inner.view.applied();
        let mut failed = self.inner.failed.subscribe();
        loop {
            let (leads, reached) = (*leadership.borrow_and_update(), *applied.borrow_and_update());
            // The first entry of a term is its leader's blank one, which follows all that earlier terms committed.
            if leads.is_self && reached.term == leads.term {
                return Ok(());
            }
            if let Some(reason) = failed.borrow_and_update().clone() {
                return Err(JournalError::Failed { journal: self.inner.id, reason });
            }
            let changed = tokio::select! {
                biased;
                changed = failed.changed() => changed,
                changed = leadership.changed() => changed,
                changed = applied.changed() => changed,
            };
            changed.map_err(|_| JournalError::Closed { journal: self.inner.id })?;
        }
    }

    /// Whether the state shows everything that was acknowledged before the present leader's election. Not so after a start until a leader was heard of,
    /// nor while there is none: what the state lacks then may be there all the same.
    pub fn is_caught_up(&self) -> bool {
        let (leads, reached) = (*self.inner.leadership.borrow(), *self.inner.view.applied().borrow());
        leads.leader.is_some() && reached.term == leads.term
    }

    /// Queues a unit. Waits for its bytes to be free; units of one caller that awaits each call keep their order. Once this returns, the
    /// unit is on its way whether or not the ticket is awaited; a call that is dropped before submits nothing.
    ///
    /// # Errors
    /// Nothing was submitted: the unit is too large, another replica leads, the WAL is full, or the journal ended.
    pub async fn submit(&self, unit: Unit) -> Result<Ticket, JournalError> {
        let inner = &*self.inner;
        if inner.follows.load(Ordering::Relaxed) {
            return Err(JournalError::NotLeader { journal: inner.id, leader: inner.leadership.borrow().leader });
        }
        let (bytes, class) = (cost(&unit), class(&unit));
        let (permits, limit) = match class {
            Class::Data => (&inner.data_permits, inner.settings.data_bytes as usize),
            Class::Control | Class::Space => (&inner.control_permits, inner.settings.control_bytes as usize),
        };
        let limit = limit.min(inner.settings.unit_bytes);
        if bytes > limit {
            return Err(JournalError::TooLarge { journal: inner.id, bytes, limit });
        }
        self.has_majority()?;
        if class == Class::Data {
            self.voters_have_room().await?;
        }
        let closed = || JournalError::Closed { journal: inner.id };
        let memory = permits.clone().acquire_many_owned(bytes as u32).await.map_err(|_| closed())?;
        let log = inner.parts.wal.admit_soon(bytes as u64, class).await.map_err(|full| JournalError::Full {
            journal: inner.id,
            why: full.why.to_string(),
            retry_after: full.retry_after,
            used: full.used,
            budget: full.budget,
        })?;
        inner.queue.push(inner.id, unit, bytes, Room { _memory: memory, _log: Some(log) })
    }

    /// Submits a unit and waits for its outcome. Dropping the call does not take back a unit that was submitted.
    ///
    /// # Errors
    /// See [`JournalError`], which says of each whether the unit may have taken effect.
    pub async fn propose(&self, unit: Unit) -> Result<UnitOutcome, JournalError> {
        self.submit(unit).await?.await
    }

    /// Looks at the state. Applying waits meanwhile: be short, and never wait inside.
    pub fn read_state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.inner.view.read(|core| look(&core.state))
    }

    /// Follows a partition's high watermark; `None` if it is not open here. Ends when the partition is closed.
    pub fn high_watermark(&self, at: TopicPartition) -> Option<watch::Receiver<Offset>> {
        self.inner.view.high_watermark(at)
    }

    /// Follows the place of the last entry applied.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.inner.view.applied()
    }

    /// Follows the index of the last entry that changed the catalog.
    pub fn catalog_changes(&self) -> watch::Receiver<u64> {
        self.inner.view.catalog()
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Whether this replica leads and is not about to hand over: the time to submit units here.
    pub fn takes_units(&self) -> bool {
        let now = *self.inner.leadership.borrow();
        now.is_self && !self.inner.handing.is_over(now.term)
    }

    /// The replica to which this one, which leads still, is handing over.
    pub fn heir(&self) -> Option<u64> {
        let now = *self.inner.leadership.borrow();
        (now.is_self && self.inner.handing.is_over(now.term)).then(|| self.inner.handing.heir())
    }

    /// Becomes the reason once the journal cannot go on: the process must end, because the WAL is shared.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.failed.subscribe()
    }

    /// Takes a checkpoint now, releases and purges what may go of the log. Also done by itself after each
    /// [`JournalSettings::checkpoint_bytes`] of log. `None` before the first entry.
    ///
    /// The log is purged up to the older of the last two checkpoints, as far as its bytes are tiered or trimmed.
    ///
    /// # Errors
    /// The disk refused; the journal goes on, with a longer replay at its next start.
    pub async fn checkpoint(&self) -> Result<Option<CheckpointInfo>, std::io::Error> {
        self.inner.checkpoint().await
    }

    /// Takes no more units, waits a few seconds for those on their way, takes a checkpoint and ends all tasks. The WAL stays open. Units that a
    /// majority has not taken until then get an error; they may be stored all the same. May be cut off anywhere, and called again.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.parts.links.detector.leave(self);
        inner.queue.close(JournalError::Closed { journal: inner.id });
        self.end_proposals().await;
        if inner.failed.borrow().is_none()
            && let Err(error) = inner.checkpoint().await
        {
            tracing::warn!(journal = inner.id.0, %error, "no checkpoint at shutdown: the next start replays more");
        }
        let others = std::mem::take(&mut inner.tasks.lock().others);
        *inner.checkpointing.lock().await = true;
        others.iter().for_each(|task| task.abort());
        end(inner.id, &inner.raft).await;
        inner.parts.cache.forget(inner.id);
    }

    /// Waits for units on their way. A leader that nobody hears any more, such as one whose replica went elsewhere meanwhile, would wait for ever: no
    /// majority takes them, and nobody tells it that there is another leader. Ending Raft answers them.
    async fn end_proposals(&self) {
        let inner = &self.inner;
        let Some(proposer) = inner.tasks.lock().proposer.take() else { return };
        let mut ended = proposer.join();
        tokio::select! {
            biased;
            () = &mut ended => return,
            () = inner.parts.env.clock.sleep(LAST_UNITS) => {}
        }
        tracing::warn!(journal = inner.id.0, "units on their way were not taken in time: whether they are stored is not known");
        inner.gives_up.store(true, Ordering::Relaxed);
        end(inner.id, &inner.raft).await;
        ended.await;
    }

    /// Brokers with voters of this journal that are not heard at the moment.
    pub fn silent_voters(&self) -> Vec<tidegate_model::BrokerId> {
        self.links().silent_voters(self.id(), self.env())
    }

    /// How slow the broker of this replica is; the same for all its journals.
    pub fn slowness(&self) -> super::strain::Slowness {
        self.links().detector.slowness()
    }

    /// Whether another broker was heard within a lease; this one always is.
    pub fn hears(&self, broker: tidegate_model::BrokerId) -> bool {
        broker == super::peers::broker_of(self.replica()) || self.links().detector.hears(broker, self.env().clock.monotonic())
    }

    /// How often an entry was refused by Raft, because there was no lease or no leader yet, and was proposed again.
    pub fn proposed_again(&self) -> u64 {
        self.inner.again.load(Ordering::Relaxed)
    }

    /// This replica's id.
    pub fn replica(&self) -> u64 {
        self.inner.settings.replica
    }

    pub(super) fn hub(&self) -> tidegate_model::HubId {
        self.inner.parts.links.hub
    }

    pub(super) fn links(&self) -> &Links {
        &self.inner.parts.links
    }

    pub(super) fn log(&self) -> &tidegate_wal::Wal {
        &self.inner.parts.wal
    }

    pub(super) fn first_in_log(&self) -> u64 {
        self.inner.parts.wal.first_index(self.id())
    }

    pub(super) fn heartbeat_ms(&self) -> u64 {
        self.inner.settings.heartbeat_ms
    }

    pub(super) fn room_patience(&self) -> Duration {
        Duration::from_millis(self.inner.settings.room_patience_ms)
    }

    pub(super) fn handing(&self) -> &Handing {
        &self.inner.handing
    }

    pub(super) fn downgrade(&self) -> WeakJournal {
        WeakJournal(Arc::downgrade(&self.inner))
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, Machine> {
        &self.inner.raft
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.parts.env
    }

    pub(super) fn incoming(&self) -> &IncomingSnapshot {
        &self.inner.incoming
    }

    pub(super) fn checkpoints(&self) -> &Checkpoints {
        &self.inner.checkpoints
    }

    pub(super) fn max_payload_bytes(&self) -> usize {
        self.inner.parts.wal.max_payload_bytes()
    }

    /// What this replica's requests hold of memory now, to compare with what they may.
    pub fn memory(&self) -> Memory {
        let (inner, settings) = (&self.inner, &self.inner.settings);
        let budget = settings.data_bytes as usize + settings.control_bytes as usize;
        let free = inner.data_permits.available_permits() + inner.control_permits.available_permits();
        let (waiting, charged) = inner.queue.held();
        Memory { waiting, charged_waiting: charged, charged: budget - free, cache_excess: inner.parts.cache.excess_bytes() }
    }

    /// The first index that this replica's own log still holds. A snapshot's tail items may lie below it.
    pub fn first_held(&self) -> u64 {
        self.inner.parts.wal.first_index(self.inner.id)
    }

    pub(super) fn cached(&self, index: u64) -> Option<RaftPayload> {
        self.inner.parts.cache.get(self.inner.id, index).map(|entry| entry.payload)
    }

    pub(super) async fn read_wal(
        &self,
        index: u64,
        range: std::ops::Range<u32>,
    ) -> Result<bytes::Bytes, tidegate_wal::ReadError> {
        self.inner.parts.wal.read_range(self.inner.id, index, range).await
    }
}

impl Inner {
    fn spawn_proposer(self: Arc<Self>, time: tidegate_model::TimestampMs, append_signal: AppendSignal) {
        let proposer = Proposer {
            journal: self.id,
            raft: self.raft.clone(),
            queue: self.queue.clone(),
            settings: self.settings.clone(),
            env: self.parts.env.clone(),
            links: self.parts.links.clone(),
            view: self.view.clone(),
            append_signal,
            time,
            in_flight: VecDeque::new(),
            again: Arc::clone(&self.again),
        };
        let (failed, gives_up) = (self.failed.clone(), Arc::clone(&self.gives_up));
        let body = async move {
            if let Err(reason) = proposer.run().await
                && !gives_up.load(Ordering::Relaxed)
            {
                failed.send_replace(Some(reason));
            }
        };
        let task = self.parts.env.threads.task("proposer", Box::pin(body));
        self.tasks.lock().proposer = Some(task);
    }

    /// An idle journal hears of a dead WAL too, and a follower of its own end, such as a disk that did not take a snapshot.
    fn spawn_watch_of_failures(&self) {
        let (broken, died, failed) = (self.parts.wal.failed(), died(&self.raft), self.failed.clone());
        let body = async move {
            let reason: Arc<str> = tokio::select! {
                biased;
                reason = broken => reason.to_string().into(),
                reason = died => reason.into(),
            };
            failed.send_if_modified(|known| {
                let first = known.is_none();
                known.get_or_insert(reason);
                first
            });
        };
        let task = self.parts.env.threads.task("wal-watch", Box::pin(body));
        self.tasks.lock().others.push(task);
    }

    fn spawn_checkpointer(self: Arc<Self>) {
        let (weak, view) = (Arc::downgrade(&self), self.view.clone());
        let body = async move {
            loop {
                view.checkpoint_due.notified().await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.checkpoint().await {
                    tracing::warn!(journal = inner.id.0, %error, "no checkpoint could be taken: the log cannot be purged further");
                }
            }
        };
        let task = self.parts.env.threads.task("checkpointer", Box::pin(body));
        self.tasks.lock().others.push(task);
    }

    async fn checkpoint(&self) -> Result<Option<CheckpointInfo>, std::io::Error> {
        let ended = self.checkpointing.lock().await;
        if *ended {
            return Ok(None);
        }
        let view = self.view.clone();
        let Some(encoded) = self.parts.env.run_blocking(move || view.encode()).await else { return Ok(None) };
        // A replica applies what a majority has on disk, which may be before its own disk has it. A checkpoint beyond the log's durable end
        // would look, after a power cut, as if the log had been lost.
        self.settle_log().await?;
        let releasable = self.view.read(|core| core.state.releasable());
        let info = self.checkpoints.write(encoded, releasable).await?;
        self.purge().await;
        Ok(Some(info))
    }

    /// Waits until all that was appended so far is durable.
    async fn settle_log(&self) -> Result<(), std::io::Error> {
        let (done, settled) = tokio::sync::oneshot::channel();
        self.parts.wal.submit(Vec::new(), Some(Box::new(move |result| drop(done.send(result)))));
        match settled.await {
            Ok(result) => result.map_err(std::io::Error::other),
            Err(_) => Err(std::io::Error::other("the write-ahead log has ended")),
        }
    }

    /// Purges the log as far as a start and readers can do without it. What cannot be purged now is purged another time.
    async fn purge(&self) {
        let releasable = self.view.read(|core| core.state.releasable());
        let mut floor = self.checkpoints.replay_floor().min(releasable);
        if self.follows.load(Ordering::Relaxed) {
            // Only a leader can release; a follower purges what was released.
            let retained = self.view.read(|core| core.state.first_retained());
            floor = floor.min(retained.map_or(u64::MAX, |first| first.saturating_sub(1)));
        }
        let Some(snapshot) = self.checkpoints.at_or_below(floor).filter(|snapshot| snapshot.index() <= floor) else { return };
        let target = snapshot.index();
        if self.view.read(|core| core.state.first_retained()).is_some_and(|first| first <= target) {
            // The tail must forget these entries before the log does; only a leader can say so.
            let release = Unit { preconditions: Vec::new(), operations: vec![Operation::Release { upto: target }] };
            let bytes = cost(&release);
            let Ok(permit) = self.control_permits.clone().acquire_many_owned(bytes as u32).await else { return };
            let Ok(ticket) = self.queue.push(self.id, release, bytes, Room { _memory: permit, _log: None }) else { return };
            if !matches!(ticket.await, Ok(UnitOutcome::Applied(_))) {
                return;
            }
        }
        let purged = async {
            self.raft.trigger().snapshot().await?;
            let known = |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.snapshot.is_some_and(|id| id.index + 1 >= target) || metrics.running_state.is_err()
            };
            let mut metrics = self.raft.metrics();
            while !known(&metrics.borrow_watched()) {
                if metrics.changed().await.is_err() {
                    return Ok(());
                }
            }
            self.raft.trigger().purge_log(target - 1).await
        };
        if let Err(error) = purged.await {
            tracing::warn!(journal = self.id.0, %error, "the log cannot be purged");
        }
    }
}
