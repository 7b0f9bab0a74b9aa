//! Checkpoints of a journal's state in the store, for `tidegate recover` from a bucket alone.
//!
//! A checkpoint object is intended like any other, and stays so while it is one of the newest two; older ones are abandoned, and deleted
//! as condemned objects are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_journal::Journal;
use tidegate_journal::entry::{ObjectKey, Operation, Unit};
use tidegate_journal::state::{Position, State};
use tidegate_model::{JournalId, TimestampMs};
use tidegate_tier::{PutMode, checkpoint};

use super::{TierError, Tierer};
use crate::hub::{Inner, redeemed, submit_error};

/// Newest checkpoints that are kept.
const KEPT: usize = 2;

/// What this process knows of a journal's checkpoints in the store.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When the last one was uploaded, by the monotonic clock.
    last: Option<Duration>,
    /// The Raft index that was looked at last, whether or not it had news.
    seen: u64,
    /// What the state said in the last one; see `State::content_hash`.
    content: Option<u64>,
    /// Keys that were condemned in its state already, so that it does not need their objects; since when that is so, by the monotonic clock.
    pub(super) condemned: BTreeMap<ObjectKey, Duration>,
}

impl Progress {
    /// A checkpoint was uploaded.
    fn stored(&mut self, uploaded: Uploaded, now: Duration) {
        let since = |key: &ObjectKey| self.condemned.get(key).copied().unwrap_or(now);
        let condemned = uploaded.condemned.into_iter().map(|key| (Arc::clone(&key), since(&key))).collect();
        *self = Progress { last: Some(now), seen: uploaded.index, content: Some(uploaded.content), condemned };
    }
}

impl Tierer {
    /// Uploads a checkpoint when it is time and the journal says something new. Its own housekeeping is nothing new: the entries that
    /// intend a checkpoint and abandon an older one would otherwise ask for the next checkpoint, for ever.
    pub(super) async fn checkpoint_to_store(&self) -> Result<(), TierError> {
        let now = self.hub.env.clock.monotonic();
        let interval = Duration::from_millis(self.hub.settings.tier.checkpoint_interval_ms);
        let (last, seen, content) = {
            let progress = self.checkpoints.lock();
            (progress.last, progress.seen, progress.content)
        };
        let applied = self.journal()?.read_state(|state| state.applied().index);
        if last.is_some_and(|last| now.saturating_sub(last) < interval) || applied == seen {
            return Ok(());
        }
        if content.is_some() {
            let found = self.journal()?.read_state(|state| content_of(&self.hub, state));
            if Some(found) == content {
                let mut progress = self.checkpoints.lock();
                (progress.last, progress.seen) = (Some(now), applied);
                return Ok(());
            }
        }
        let uploaded = upload(&self.hub, &self.journal()?, self.id).await?;
        self.checkpoints.lock().stored(uploaded, now);
        self.abandon_old_checkpoints().await
    }

    async fn abandon_old_checkpoints(&self) -> Result<(), TierError> {
        let old: Vec<ObjectKey> = self.journal()?.read_state(|state| {
            let mut checkpoints: Vec<_> = state
                .objects()
                .intended()
                .filter(|(key, _)| self.hub.keys.parse_checkpoint(key).is_some())
                .map(|(key, time)| (time, Arc::clone(key)))
                .collect();
            checkpoints.sort();
            checkpoints.truncate(checkpoints.len().saturating_sub(KEPT));
            checkpoints.into_iter().map(|(_, key)| key).collect()
        });
        for key in old {
            self.propose(Operation::Abandon { key }).await?;
        }
        Ok(())
    }
}

/// Uploads checkpoints of all journals now, so that a recovery finds the hub as it is at this moment (apart from what is not tiered).
pub(crate) async fn upload_all(hub: &Inner) -> Result<(), TierError> {
    for (id, journal) in hub.hosted.all().iter().chain([(&JournalId::CATALOG, &hub.catalog)]) {
        upload(hub, journal, *id).await?;
    }
    Ok(())
}

/// A state as it is stored, and what it says of itself.
struct Encoded {
    at: Position,
    time: TimestampMs,
    bytes: Vec<u8>,
    content: u64,
    condemned: BTreeSet<ObjectKey>,
}

/// What was uploaded.
struct Uploaded {
    /// The Raft index it goes up to.
    index: u64,
    content: u64,
    condemned: BTreeSet<ObjectKey>,
}

fn content_of(hub: &Inner, state: &State) -> u64 {
    state.content_hash(|key| hub.keys.parse_checkpoint(key).is_some())
}

/// Uploads a journal's state as it is.
async fn upload(hub: &Inner, journal: &Journal, id: JournalId) -> Result<Uploaded, TierError> {
    let state = journal.read_state(|state| Encoded {
        at: state.applied(),
        time: state.time(),
        bytes: state.encode(),
        content: content_of(hub, state),
        condemned: state.objects().condemned().map(|(key, _)| Arc::clone(key)).collect(),
    });
    let (index, term) = (state.at.index, state.at.term);
    let envelope =
        checkpoint::Envelope { hub: hub.hub_id, journal: id, index, term, time: state.time, state: Bytes::from(state.bytes) };
    let bytes = Bytes::from(envelope.encode().map_err(|error| TierError::Wrong(error.to_string()))?);
    let key: ObjectKey = Arc::from(hub.keys.checkpoint(id, index, hub.env.random.uuid()).as_str());
    let intent = journal.submit(Unit::of(Operation::Intend { key: Arc::clone(&key) })).await.map_err(submit_error)?;
    redeemed(intent).await?;
    let put = hub.store.put(&key, vec![bytes], PutMode::CreateOnly).await?;
    hub.store.verify(&key, put).await?;
    Ok(Uploaded { index, content: state.content, condemned: state.condemned })
}
