//! How often leaders of journals went, as one broker saw it, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use super::detector::{Errand, Standing};
use super::journal::Journal;

/// Counted since the start of the broker, over all of its journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Elections that this broker asked for, because it heard of no leader for too long.
    pub elections: u64,
    /// Journals that it led and handed over because it was asked to: for balance, a drain or its end.
    pub handed_over: u64,
    /// Journals that it began to hand over because its own disk or network was slow.
    pub slow: u64,
    /// Journals that it led and lost to somebody that was elected.
    pub lost: u64,
}

/// Why a leader went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Election,
    HandedOver,
    Slow,
    Lost,
}

/// Counts a [`Turnover`].
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; 4]);

impl Counts {
    fn add(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What Raft is asked for.
    pub(super) fn asked(&self, errand: Errand) {
        match errand {
            Errand::Elect => self.add(Cause::Election),
            Errand::HandOver(_) => self.add(Cause::Slow),
            Errand::Heartbeat => {}
        }
    }

    /// Whether a journal was led before, in which term, and what has come of it.
    pub(super) fn led(&self, before: (bool, u64), now: &Standing, journal: &Journal) {
        if before.0 && !now.leads {
            self.add(if journal.handing().is_over(before.1) { Cause::HandedOver } else { Cause::Lost });
        }
    }

    pub(super) fn now(&self) -> Turnover {
        let count = |cause: Cause| self.0[cause as usize].load(Ordering::Relaxed);
        Turnover {
            elections: count(Cause::Election),
            handed_over: count(Cause::HandedOver),
            slow: count(Cause::Slow),
            lost: count(Cause::Lost),
        }
    }
}
