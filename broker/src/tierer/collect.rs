//! Freeing: the log's copies of what is tiered, intended keys that came to nothing, condemned objects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_env::bugs::{self, Bug};
use tidegate_journal::entry::{ObjectKey, Operation};
use tidegate_wal::Pressure;

use super::{TierError, Tierer};

/// Keys in one `Forget` at most.
const FORGET: usize = 256;

/// Checkpoints taken because a log was short of room.
#[derive(Debug, Default)]
pub(super) struct Purged {
    /// The last entry that the newest of them covers, and how many cover just that.
    applied: u64,
    times: u32,
}

impl Purged {
    /// Counts another one, unless it would free nothing: the log is purged up to the older of two checkpoints.
    fn is_worth_another(&mut self, applied: u64) -> bool {
        if self.applied != applied {
            *self = Purged { applied, times: 0 };
        }
        let worth = self.times < 2;
        self.times += u32::from(worth);
        worth
    }
}

impl Tierer {
    /// Gives up keys that were intended and that nobody works on: uploads cut off by a crash, a change of leader, an error.
    pub(super) async fn abandon_stale(&self) -> Result<(), TierError> {
        let stale: Vec<ObjectKey> = self.journal()?.read_state(|state| {
            let working = self.working.lock();
            let intended = state
                .objects()
                .intended()
                .filter(|(key, _)| !working.contains(*key) && self.hub.keys.parse_checkpoint(key).is_none());
            intended.map(|(key, _)| Arc::clone(key)).collect()
        });
        for key in stale {
            tracing::info!(journal = %self.id, %key, "an upload came to nothing and is abandoned");
            self.propose(Operation::Abandon { key }).await?;
        }
        Ok(())
    }

    /// Lets the log drop what is tiered when it, or the log of a voter of a journal that is led here, is short of room. (Without need the journal does
    /// so by itself, by bytes.)
    pub(super) async fn release_local(&self) -> Result<(), TierError> {
        let journal = self.journal()?;
        let pressed = self.hub.wal.status().pressure != Pressure::Normal;
        if !(pressed || journal.voter_lacks_room()) || !journal.may_purge() {
            return Ok(());
        }
        if !self.purged.lock().is_worth_another(journal.applied().borrow().index) {
            return Ok(());
        }
        let upto = journal.checkpoint_to_release().await;
        let upto = upto.map_err(|error| TierError::Wrong(format!("no checkpoint could be taken: {error}")))?;
        match upto {
            Some(upto) => self.propose(Operation::Release { upto }).await.map(drop).map_err(TierError::from),
            None => Ok(()),
        }
    }

    /// Deletes condemned objects once a checkpoint in the store has not referred to them for their grace: `recover` from the newest checkpoint
    /// must find every object that it names. The monotonic clock says how long that is: the wall clock may have leapt, and what was condemned
    /// under tomorrow's date would stay until then.
    pub(super) async fn delete_condemned(&self) -> Result<(), TierError> {
        if bugs::on(Bug::DeleteByListing) {
            self.delete_unknown().await?;
        }
        let grace = Duration::from_millis(self.hub.settings.object_grace_ms);
        let now = self.hub.env.clock.monotonic();
        let due: BTreeSet<ObjectKey> = {
            let progress = self.checkpoints.lock();
            let due = progress.condemned.iter().filter(|(_, since)| now.saturating_sub(**since) >= grace);
            due.map(|(key, _)| Arc::clone(key)).take(FORGET).collect()
        };
        let condemned: Vec<ObjectKey> = self.journal()?.read_state(|state| {
            let condemned = state.objects().condemned().map(|(key, _)| key);
            condemned.filter(|key| due.contains(*key)).map(Arc::clone).collect()
        });
        let mut deleted = Vec::with_capacity(condemned.len());
        for key in condemned {
            // A delete takes its time, and the next leader may have done the rest of this list meanwhile.
            if !self.journal()?.read_state(|state| state.objects().is_condemned(&key)) {
                continue;
            }
            self.hub.store.delete(&key).await?;
            self.hub.metrics.objects_deleted.inc();
            deleted.push(key);
        }
        if !deleted.is_empty() {
            self.propose(Operation::Forget { keys: deleted }).await?;
        }
        self.checkpoints.lock().condemned.retain(|key, _| !due.contains(key));
        Ok(())
    }

    /// The bug [`Bug::DeleteByListing`]: what a listing shows and this journal does not refer to is taken for garbage.
    async fn delete_unknown(&self) -> Result<(), TierError> {
        for object in self.hub.store.list(&format!("{}/journals/", self.hub.hub_id), None, FORGET).await? {
            let known = self.journal()?.read_state(|state| {
                let objects = state.objects();
                objects.references(&object.key).is_some() || objects.intended().any(|(key, _)| **key == *object.key)
            });
            if !known {
                self.hub.store.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}
