//! The state machine that Raft drives: applies committed entries to the state and tells those who wait.
//!
//! The state is locked for one entry at a time; watchers are woken after the lock is released, and only those whose value changed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use parking_lot::{Mutex, RwLock};
use tidegate_env::bugs::{self, Bug};
use tidegate_env::watch;
use tidegate_model::{JournalId, Offset, TopicPartition};
use tokio::sync::Notify;

use super::cache::TailCache;
use super::checkpoint::{Checkpoints, Core, Encoded, Kept, decode};
use super::types::{LogId, RaftEntry, RaftPayload, Reply, StoredMembership, TypeConfig, position};
use crate::state::{Applied, Position};

type Meta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// What readers see of a journal: its state and who waits for changes of it.
pub(super) struct View {
    pub(super) journal: JournalId,
    core: RwLock<Core>,
    watermarks: Mutex<BTreeMap<TopicPartition, watch::Sender<Offset>>>,
    applied: watch::Sender<Position>,
    catalog: watch::Sender<u64>,
    /// Bytes of entries applied since the last checkpoint.
    since_checkpoint: AtomicU64,
    pub(super) checkpoint_due: Notify,
    checkpoint_bytes: u64,
}

impl View {
    pub(super) fn new(journal: JournalId, core: Core, checkpoint_bytes: u64) -> View {
        let applied = core.applied.map(|id| place(&id)).unwrap_or_default();
        View {
            journal,
            core: RwLock::new(core),
            watermarks: Mutex::default(),
            applied: watch::Sender::new(applied),
            catalog: watch::Sender::new(applied.index),
            since_checkpoint: AtomicU64::new(0),
            checkpoint_due: Notify::new(),
            checkpoint_bytes,
        }
    }

    pub(super) fn read<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.core.read())
    }

    pub(super) fn applied(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    pub(super) fn catalog(&self) -> watch::Receiver<u64> {
        self.catalog.subscribe()
    }

    /// Follows a partition's high watermark. The state's lock is held meanwhile, so no change falls between the first value and the
    /// subscription.
    pub(super) fn high_watermark(&self, at: TopicPartition) -> Option<watch::Receiver<Offset>> {
        let core = self.core.read();
        let present = core.state.partition(at)?.high_watermark();
        let mut watermarks = self.watermarks.lock();
        Some(watermarks.entry(at).or_insert_with(|| watch::Sender::new(present)).subscribe())
    }

    /// Encodes the state for a checkpoint; applying waits meanwhile, reading does not.
    pub(super) fn encode(&self) -> Option<Encoded> {
        self.since_checkpoint.store(0, Ordering::Relaxed);
        super::checkpoint::encode(self.journal, &self.core.read())
    }

    fn apply(&self, entry: &RaftEntry) -> Reply {
        let at = place(&entry.log_id);
        let mut core = self.core.write();
        let applied = match &entry.payload {
            RaftPayload::Normal(data) => {
                if bugs::on(Bug::SkipEntry) && self.since_checkpoint.load(Ordering::Relaxed) == 0 {
                    core.state.advance(at);
                    core.applied = Some(entry.log_id);
                    self.count(1);
                    return Reply::default();
                }
                if bugs::on(Bug::ApplyTwice) && self.since_checkpoint.load(Ordering::Relaxed) == 0 {
                    core.state.apply(at, &data.0);
                }
                core.state.apply(at, &data.0)
            }
            RaftPayload::Blank => {
                core.state.advance(at);
                Applied::default()
            }
            RaftPayload::Membership(membership) => {
                core.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                core.state.advance(at);
                Applied::default()
            }
        };
        core.applied = Some(entry.log_id);
        drop(core);
        self.publish(at, &applied);
        if let RaftPayload::Normal(data) = &entry.payload {
            self.count(data.0.bytes() as u64);
        }
        Reply(applied.outcomes)
    }

    fn publish(&self, at: Position, applied: &Applied) {
        let mut watermarks = self.watermarks.lock();
        if !watermarks.is_empty() {
            for (partition, end) in applied.high_watermarks.iter().copied() {
                let abandoned = watermarks.get(&partition).is_some_and(|sender| {
                    sender.send_if_modified(|value| std::mem::replace(value, end) != end);
                    sender.receiver_count() == 0
                });
                if abandoned {
                    watermarks.remove(&partition);
                }
            }
        }
        drop(watermarks);
        self.drop_closed(&applied.changed);
        if applied.catalog_changed {
            self.catalog.send_replace(at.index);
        }
        self.applied.send_replace(at);
    }

    /// Tells those who follow a partition that is not open any more, by ending what they follow.
    fn drop_closed(&self, changed: &[TopicPartition]) {
        if changed.is_empty() {
            return;
        }
        // The same order of locks as in `high_watermark`.
        let core = self.core.read();
        let mut watermarks = self.watermarks.lock();
        for partition in changed.iter().filter(|partition| core.state.partition(**partition).is_none()) {
            watermarks.remove(partition);
        }
    }

    fn count(&self, bytes: u64) {
        let before = self.since_checkpoint.fetch_add(bytes, Ordering::Relaxed);
        if before < self.checkpoint_bytes && before + bytes >= self.checkpoint_bytes {
            self.checkpoint_due.notify_one();
        }
    }

    fn install(&self, core: Core) {
        let at = core.applied.map(|id| place(&id)).unwrap_or_default();
        let ends: Vec<_> = core.state.partitions().map(|(partition, state)| (partition, state.high_watermark())).collect();
        *self.core.write() = core;
        self.publish(at, &Applied { high_watermarks: ends, catalog_changed: true, ..Applied::default() });
    }
}

/// Where the state sees an entry.
fn place(id: &LogId) -> Position {
    let at = position(id);
    Position { term: at.term, index: at.index }
}

/// What Raft calls.
pub(super) struct Machine {
    pub(super) view: Arc<View>,
    pub(super) cache: TailCache,
    pub(super) checkpoints: Arc<Checkpoints>,
}

impl Machine {
    /// The checkpoint that stands for Raft's snapshot: the newest that hides no byte which lives in the log alone.
    fn snapshot(&self) -> Option<Kept> {
        if bugs::on(Bug::SnapshotAboveTier) {
            return self.checkpoints.at_or_below(u64::MAX);
        }
        self.checkpoints.at_or_below(self.view.read(|core| core.state.releasable()))
    }

    /// The same, or the oldest that reaches what the log still has: after a start with a damaged checkpoint `releasable` may lag behind the purge.
    fn any_snapshot(&self) -> Option<Kept> {
        self.snapshot().or_else(|| self.checkpoints.oldest_that_reaches_the_log())
    }
}

/// Raft's snapshot: a checkpoint on disk, read only when it is sent, or what a leader sent.
pub(super) enum SnapshotData {
    Kept(Kept, Arc<Checkpoints>),
    Received(Bytes),
}

impl SnapshotData {
    /// The bytes of the checkpoint file, verified if they come from the disk.
    pub(super) async fn bytes(self) -> io::Result<Bytes> {
        match self {
            SnapshotData::Kept(kept, checkpoints) => checkpoints.read(&kept).await.map(Bytes::from),
            SnapshotData::Received(bytes) => Ok(bytes),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.view.read(|core| (core.applied, core.membership.clone())))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let reply = self.view.apply(&entry);
            if let Some(responder) = responder {
                responder.send(reply);
            }
            self.cache.applied(self.view.journal, entry.log_id.index + 1);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let kept = if force { self.any_snapshot() } else { self.snapshot() };
        Some(Builder { kept: kept?, checkpoints: self.checkpoints.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let kept = self.snapshot().expect("openraft asks for a builder only through try_create_snapshot_builder");
        Builder { kept, checkpoints: self.checkpoints.clone() }
    }

    async fn install_snapshot(&mut self, _meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let snapshot = snapshot.bytes().await?;
        let (core, _) =
            decode(self.view.journal, &snapshot).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
        // On disk first: should the process end here, the start finds the checkpoint and purges the log up to it.
        if let Some(encoded) = super::checkpoint::encode(self.view.journal, &core) {
            self.checkpoints.write(encoded.received(), u64::MAX).await?;
        }
        let index = core.index();
        self.checkpoints.purged_to(index);
        self.view.install(core);
        self.cache.applied(self.view.journal, index);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>>> {
        Ok(self.any_snapshot().map(|kept| snapshot(kept, &self.checkpoints)))
    }
}

fn snapshot(kept: Kept, checkpoints: &Arc<Checkpoints>) -> openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData> {
    let meta = SnapshotMeta { last_log_id: Some(kept.id), last_membership: kept.membership.clone() };
    Snapshot { meta, snapshot: SnapshotData::Kept(kept, checkpoints.clone()) }
}

/// Gives Raft an existing checkpoint as its snapshot.
pub(super) struct Builder {
    kept: Kept,
    checkpoints: Arc<Checkpoints>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>> {
        Ok(snapshot(self.kept.clone(), &self.checkpoints))
    }
}
