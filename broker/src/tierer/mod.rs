//! Moves sealed data of the journals that this broker leads to the object store, frees what was moved, and deletes what nobody refers to.
//!
//! One task for each journal. The order that keeps data safe: commit `Intend`, upload, verify, commit `Tier`; only then may the log let the
//! bytes go. An upload that came to nothing is abandoned by a commit before its object is deleted, so that a tierer that slept through all of
//! this can neither bring a deleted object back nor lose one. It decides nothing about retention.

mod checkpoints;
mod collect;
mod manifest;
mod seal;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_journal::Journal;
use tidegate_journal::entry::{ObjectKey, Operation, Outcome, Unit};
use tidegate_model::{JournalId, TimestampMs};
use tidegate_tier::StoreError;

use crate::hub::{Error, Inner, redeemed, submit_error};
use crate::identity;

pub(crate) use checkpoints::upload_all;

/// A failed pass is tried again after `tier.retry_ms`, doubled with each failure up to so many times as long.
const MOST_BACKOFF: u32 = 64;

/// Whether the object store answered last time.
#[derive(Debug, Default)]
pub(crate) struct TierHealth {
    /// Journals whose last try failed, and what the store said. One that has nothing to upload says nothing about the store.
    failing: Mutex<BTreeMap<JournalId, String>>,
    marked: AtomicBool,
}

impl TierHealth {
    /// What the store said last, while it cannot be reached or refuses.
    pub(crate) fn problem(&self) -> Option<String> {
        self.failing.lock().values().next().cloned()
    }

    /// How a journal's last try went.
    fn report(&self, journal: JournalId, problem: Option<String>) {
        let mut failing = self.failing.lock();
        let was_away = !failing.is_empty();
        match problem {
            Some(problem) => drop(failing.insert(journal, problem)),
            None => drop(failing.remove(&journal)),
        }
        match (was_away, !failing.is_empty()) {
            (false, true) => tracing::warn!("the object store cannot be reached: data stays in the write-ahead log"),
            (true, false) => tracing::info!("the object store can be reached again"),
            _ => {}
        }
    }
}

/// Why a pass ended early; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TierError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal or the hub.
    #[error(transparent)]
    Hub(#[from] Error),
    /// The prefix is another hub's.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// What was built or read is not what it should be.
    #[error("{0}")]
    Wrong(String),
}

/// What is told of a failure, for people: without the object's key, which is another one at each try.
fn words(error: &TierError) -> String {
    match error {
        TierError::Store(
            StoreError::Refused { operation, message, .. }
            | StoreError::Unavailable { operation, message, .. }
            | StoreError::Ambiguous { operation, message, .. },
        ) => format!("{operation}: {message}"),
        TierError::Store(StoreError::Full { message, .. }) => format!("no room: {message}"),
        other => other.to_string(),
    }
}

/// The tierer of one journal.
pub(crate) struct Tierer {
    hub: Arc<Inner>,
    id: JournalId,
    /// The replica that it works for: another one of the same journal has a tierer of its own.
    replica: Option<u64>,
    /// Keys that this process intended and is working on. Others of the state came to nothing and are abandoned.
    working: Mutex<BTreeSet<ObjectKey>>,
    checkpoints: Mutex<checkpoints::Progress>,
    waiting: Mutex<seal::Waiting>,
    purged: Mutex<collect::Purged>,
}

impl Tierer {
    pub(crate) fn new(hub: Arc<Inner>, id: JournalId) -> Tierer {
        let replica = hub.any_journal(id).ok().map(|journal| journal.replica());
        Tierer {
            hub,
            id,
            replica,
            working: Mutex::default(),
            checkpoints: Mutex::default(),
            waiting: Mutex::default(),
            purged: Mutex::default(),
        }
    }

    /// Runs until the hub stops, or the replica goes elsewhere.
    pub(crate) async fn run(self) {
        let tier = &self.hub.settings.tier;
        let mut failures = 0u32;
        while self.replica == self.hub.any_journal(self.id).ok().map(|journal| journal.replica()) {
            // A pass that is dropped half-way is what a crash leaves: the next start abandons what it intended.
            let outcome = tokio::select! {
                biased;
                outcome = self.pass() => outcome,
                () = self.hub.stopping.cancelled() => return,
            };
            let wait = match outcome {
                Ok(()) => {
                    failures = 0;
                    self.hub.tier_health.report(self.id, None);
                    tier.interval_ms
                }
                Err(error) => {
                    let is_store = matches!(error, TierError::Store(_) | TierError::Identity(_));
                    self.hub.tier_health.report(self.id, is_store.then(|| words(&error)));
                    tracing::warn!(journal = %self.id, %error, failures, "tiering failed and is tried again");
                    failures += 1;
                    self.backoff(failures)
                }
            };
            tokio::select! {
                biased;
                () = self.hub.env.clock.sleep(Duration::from_millis(wait)) => {}
                () = self.hub.stopping.cancelled() => return,
            }
        }
    }

    /// Exponential, with jitter so that journals do not come back all at once.
    fn backoff(&self, failures: u32) -> u64 {
        let times = 1u64 << failures.min(16);
        let most = self.hub.settings.tier.retry_ms * times.min(u64::from(MOST_BACKOFF));
        most / 2 + self.hub.env.random.below(most / 2 + 1)
    }

    /// One round of everything.
    pub(crate) async fn pass(&self) -> Result<(), TierError> {
        if !self.journal()?.leadership().borrow().is_self {
            return self.release_local().await;
        }
        self.check_marker().await?;
        self.knock().await?;
        self.abandon_stale().await?;
        // Sealing first: it is what frees the log. A failure there must not keep the rest from happening.
        let sealed = self.seal_and_upload().await;
        self.release_local().await?;
        self.fold_manifests().await?;
        self.unravel_drained().await?;
        self.checkpoint_to_store().await?;
        self.delete_condemned().await?;
        sealed
    }

    /// A store that did not answer last time is asked for something before anything is committed for its sake: the log would slowly fill with intents
    /// while the store is away, which is just when it has no room.
    async fn knock(&self) -> Result<(), TierError> {
        if self.hub.tier_health.problem().is_none() {
            return Ok(());
        }
        match self.hub.store.head(&self.hub.keys.marker()).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn journal(&self) -> Result<Journal, Error> {
        self.hub.any_journal(self.id)
    }

    /// Before the first upload: the prefix must be marked as this hub's. (At the start the store may have been away.)
    async fn check_marker(&self) -> Result<(), TierError> {
        if !self.hub.tier_health.marked.load(Ordering::Relaxed) {
            identity::claim(&self.hub.store, &self.hub.keys, &self.hub.identity).await?;
            self.hub.tier_health.marked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn propose(&self, operation: Operation) -> Result<Outcome, Error> {
        let ticket = self.journal()?.submit(Unit::of(operation)).await.map_err(submit_error)?;
        redeemed(ticket).await
    }

    fn now(&self) -> TimestampMs {
        self.hub.now()
    }
}
