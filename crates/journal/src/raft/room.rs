//! Whether a journal can take units: a majority of its voters is there, and has room in its logs: a leader takes data at the pace of the fullest of them, for a while; a follower never takes more than
//! its budget.
//!
//! While data is refused, control entries (tier, release, trim) go on, by which every log is emptied. A follower whose log stays full is left behind:
//! it refuses what does not fit, the others go on, and it comes back by entries or by a snapshot, which empties its log of this journal.

use std::time::Duration;

use tidegate_model::JournalId;

use super::error::JournalError;
use super::journal::Journal;
use super::types::{RaftEntry, RaftPayload};

/// How long an append waits for a voter's room before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks: beats come no faster.
const LOOK: Duration = Duration::from_millis(50);
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
                let status = self.log_status();
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

    /// Why this broker's log does not take these entries. The catalog's are taken always: they are small, and all brokers need them.
    pub(super) fn overrun(&self, entries: &[RaftEntry]) -> Option<String> {
        if self.id() == JournalId::CATALOG {
            return None;
        }
        let bytes = |entry: &RaftEntry| match &entry.payload {
            RaftPayload::Normal(data) => data.0.bytes() as u64,
            _ => 0,
        };
        let status = self.log_status();
        let (bytes, used, budget) = (entries.iter().map(bytes).sum::<u64>(), status.used_bytes, status.budget_bytes);
        (bytes > 0 && used + bytes > budget)
            .then(|| format!("this broker's log has used {used} of {budget} bytes and takes no {bytes} more"))
    }
}
