//! Whether a journal can take units: a majority of its voters is there, and has room in its logs: a leader takes data at the pace of the fullest of them, for a while; a follower never takes more than
//! its budget.
//!
//! While data is refused, control entries (tier, release, trim) go on, by which every log is emptied. A follower whose log stays full is left behind:
//! it refuses what does not fit, the others go on, and it comes back by entries or by a snapshot, which empties its log of this journal.

use std::time::Duration;

use tidegate_model::JournalId;
use tidegate_wal::{Admission, Class, Shortage};

use super::error::JournalError;
use super::journal::Journal;
use super::queue::class;
use super::types::{RaftEntry, RaftPayload};
use crate::entry::{EntryPayload, Operation, Piece, Unit};

/// How long an append waits for a voter's room before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks: beats come no faster.
const LOOK: Duration = Duration::from_millis(50);
/// Fewer tiered entries than these are sent to a new replica: two checkpoints would cost more.
const WORTH_SHEDDING: u64 = 16;
/// When a refused append may be tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl Journal {
    /// Refuses what could only wait behind entries that wait for a majority.
    pub(super) fn has_majority(&self) -> Result<(), JournalError> {
        match self.links().detector.lost_majority(self.id(), self.env().clock.monotonic()) {
            Some(silent) => Err(JournalError::NoMajority { journal: self.id(), silent }),
            None => Ok(()),
        }
    }

    /// Waits until the logs of all voters that are to be waited for have room.
    pub(super) async fn voters_have_room(&self) -> Result<(), JournalError> {
        let clock = &self.env().clock;
        let begun = clock.monotonic();
        loop {
            let now = clock.monotonic();
            let Some(broker) = self.links().detector.short_of_room(self.id(), now, self.room_patience()) else { return Ok(()) };
            if now.saturating_sub(begun) >= PATIENCE {
                let status = self.log().status();
                return Err(JournalError::Full {
                    journal: self.id(),
                    why: format!("the write-ahead log of broker {broker}, which votes, is full"),
                    retry_after: RETRY_AFTER,
                    used: status.used_bytes,
                    budget: status.budget_bytes,
                });
            }
            clock.sleep(LOOK).await;
        }
    }

    /// Whether this replica leads and a voter's log has no room. What would free that log may stand behind data which it does not take: it needs a
    /// snapshot, which it gets once this log is purged, see [`Journal::checkpoint`].
    pub fn voter_lacks_room(&self) -> bool {
        let now = self.env().clock.monotonic();
        self.leadership().borrow().is_self && self.links().detector.short_of_room(self.id(), now, Duration::MAX).is_some()
    }

    /// Whether the log holds something that [`Journal::checkpoint`] may purge.
    pub fn may_purge(&self) -> bool {
        let first = self.first_in_log();
        let leads = self.leadership().borrow().is_self;
        self.read_state(|state| {
            let released = state.first_retained().map_or(state.applied().index, |retained| retained.saturating_sub(1));
            // Only a leader releases; others purge what was released.
            first < if leads { state.releasable() } else { released }
        })
    }

    /// Takes a checkpoint; says up to which entry the log may go then, if this replica leads and has not released so much yet.
    ///
    /// The log is purged up to the older of two checkpoints. Where nothing is written, a second one would cover the same as the first: the entry
    /// that lets go of the tail ([`Operation::Release`], which the caller proposes) makes the difference.
    ///
    /// # Errors
    /// As of [`Journal::checkpoint`].
    pub async fn checkpoint_to_release(&self) -> std::io::Result<Option<u64>> {
        let Some(taken) = self.checkpoint().await? else { return Ok(None) };
        if !self.leadership().borrow().is_self {
            return Ok(None);
        }
        Ok(self.read_state(|state| {
            let upto = taken.index.min(state.releasable());
            state.first_retained().is_some_and(|first| first <= upto).then_some(upto)
        }))
    }

    /// Purges what the object store has as well before a new replica is made, which is sent all that the log holds: the state and what only the log
    /// has are enough. What cannot be purged is sent.
    pub(super) async fn shed(&self) {
        for _ in 0..2 {
            let tiered = self.read_state(|state| state.releasable().saturating_sub(self.first_in_log()));
            if tiered < WORTH_SHEDDING || !self.may_purge() {
                return;
            }
            let released = match self.checkpoint_to_release().await {
                Ok(Some(upto)) => {
                    self.propose(Unit::of(Operation::Release { upto })).await.map(drop).map_err(|error| error.to_string())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = released {
                tracing::info!(journal = self.id().0, %error, "the log could not be purged: a new replica is sent more of it");
                return;
            }
        }
    }

    /// Room in this broker's log for entries of a leader, to be held until they are written; or why there is none, of which leaders hear. What is on its
    /// way to the disk counts, and what frees logs finds room where data does not. The catalog's entries are taken always: they are small, and all
    /// brokers need them.
    pub(super) fn room_for(&self, entries: &[RaftEntry]) -> Result<Option<Admission>, String> {
        let units = entries.iter().filter_map(|entry| match &entry.payload {
            RaftPayload::Normal(data) => Some((data.0.bytes() as u64, class_of(&data.0))),
            _ => None,
        });
        let Some((bytes, class)) = units.reduce(|(bytes, class), (more, other)| (bytes + more, class.min(other))) else {
            return Ok(None);
        };
        if self.id() == JournalId::CATALOG {
            return Ok(None);
        }
        match self.log().admit(bytes, class) {
            Ok(room) => Ok(Some(room)),
            // The log waits for the disk by itself, and finds out only by what it is given that there is room again.
            Err(full) if full.why == Shortage::Disk => Ok(None),
            Err(full) => {
                self.links().detector.refuse(self.env().clock.monotonic());
                Err(format!("this broker's log takes no {bytes} bytes more: {full}"))
            }
        }
    }
}

/// What needs most: data before control entries before those that free space.
fn class_of(payload: &EntryPayload) -> Class {
    let classes = payload.pieces().iter().map(|piece| match piece {
        Piece::Run(_) => Class::Data,
        Piece::Unit { unit, .. } => class(unit),
    });
    classes.min().unwrap_or(Class::Control)
}
