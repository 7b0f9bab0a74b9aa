//! How long a broker makes a write wait: by its disk, and by its way to a majority of others. A leader that is strained while another voter
//! is not hands its journals over.
//!
//! A slow follower is not looked at: a majority goes on without it.

use std::time::Duration;

use tidegate_wal::Status;

/// Less is never worth a change of leaders.
const STRAINED_MS: u32 = 100;
/// Another broker must be better by so much.
const BETTER: u32 = 4;
/// A strain must last so long.
const LASTS: Duration = Duration::from_secs(3);
/// A broker that is strained for so long is called slow: before it hands over, so that nobody hands back.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// It is called slow until the strain was below this, in milliseconds, for [`CALM`].
const CALM_MS: u32 = STRAINED_MS / 2;
const CALM: Duration = Duration::from_secs(30);
/// What is known of a disk that nobody writes to is worth half as much after so long.
const FADES: Duration = Duration::from_secs(30);
/// How much of what was known a new measurement leaves.
const KEPT: f64 = 0.8;

/// How long a broker makes a write wait, as far as it knows itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowness {
    /// By its disk or by its way to a majority, whichever is longer, in milliseconds.
    pub wait_ms: u32,
    /// It is so slow, or was within the last half minute, that it should lead nothing while others are not.
    pub is_slow: bool,
}

/// The strain of this broker.
#[derive(Debug, Default)]
pub(super) struct Strain {
    sync_ms: f64,
    syncs: u64,
    now_ms: u32,
    measured: Option<Duration>,
    /// Strained since then.
    since: Option<Duration>,
    is_slow: bool,
    /// Calm since then.
    calm: Option<Duration>,
}

impl Strain {
    /// Measures. `way`: the round trip to the nearest majority; `None` where nobody else is heard.
    pub(super) fn measure(&mut self, status: &Status, way: Option<Duration>, now: Duration) -> u32 {
        if status.syncs != self.syncs {
            self.syncs = status.syncs;
            self.sync_ms = self.sync_ms * KEPT + status.last_sync.as_secs_f64() * 1000.0 * (1.0 - KEPT);
        } else if status.writing_for.is_zero() {
            let idle = now.saturating_sub(self.measured.unwrap_or(now));
            self.sync_ms *= 0.5f64.powf(idle.as_secs_f64() / FADES.as_secs_f64());
        }
        self.measured = Some(now);
        // A sync that does not return is as long as it has lasted.
        let disk = self.sync_ms.max(status.writing_for.as_secs_f64() * 1000.0);
        let way = way.map_or(0.0, |way| way.as_secs_f64() * 1000.0);
        self.now_ms = disk.max(way) as u32;
        if self.now_ms < STRAINED_MS {
            self.since = None;
        } else {
            let since = *self.since.get_or_insert(now);
            self.is_slow |= now.saturating_sub(since) >= SLOW_AFTER;
        }
        if self.now_ms >= CALM_MS {
            self.calm = None;
        } else {
            let calm = *self.calm.get_or_insert(now);
            self.is_slow &= now.saturating_sub(calm) < CALM;
        }
        self.now_ms
    }

    /// As last measured.
    pub(super) fn slowness(&self) -> Slowness {
        Slowness { wait_ms: self.now_ms, is_slow: self.is_slow }
    }

    /// As last measured, in milliseconds.
    pub(super) fn now_ms(&self) -> u32 {
        self.now_ms
    }

    /// Whether a broker with the strain `other_ms` would be so much better, for so long now, that it should lead.
    pub(super) fn yields_to(&self, other_ms: u32, now: Duration) -> bool {
        let lasts = self.since.is_some_and(|since| now.saturating_sub(since) >= LASTS);
        lasts && other_ms.saturating_mul(BETTER) <= self.now_ms
    }
}

/// A round trip, smoothed.
pub(super) fn smoothed(known: Option<Duration>, new: Duration) -> Duration {
    known.map_or(new, |known| known.mul_f64(KEPT) + new.mul_f64(1.0 - KEPT))
}

#[cfg(test)]
mod tests {
    use tidegate_wal::Pressure;

    use super::*;

    fn status(syncs: u64, last_sync: Duration, writing_for: Duration) -> Status {
        Status {
            used_bytes: 0,
            budget_bytes: 1,
            data_budget_bytes: 1,
            files: 1,
            pressure: Pressure::Normal,
            room_bytes: 1,
            disk_full: false,
            last_sync,
            writing_for,
            syncs,
            written_bytes: 0,
        }
    }

    #[test]
    fn a_broker_is_called_slow_after_a_moment_and_until_it_was_calm_for_a_while() {
        let (mut strain, ms) = (Strain::default(), Duration::from_millis);
        let mut syncs = 0;
        let mut measure = |strain: &mut Strain, seconds: u64, sync: u64| {
            syncs += 1;
            strain.sync_ms = sync as f64;
            strain.measure(&status(syncs, ms(sync), Duration::ZERO), Some(ms(1)), Duration::from_secs(seconds));
            strain.slowness().is_slow
        };
        assert!(!measure(&mut strain, 0, 300) && !measure(&mut strain, 1, 300), "it may pass");
        assert!(measure(&mut strain, 2, 300));
        assert!(!strain.yields_to(1, Duration::from_secs(2)), "it is called slow before it hands over");
        // Better, and not good.
        assert!(measure(&mut strain, 3, 70) && measure(&mut strain, 60, 70));
        assert!(measure(&mut strain, 61, 1) && measure(&mut strain, 90, 1));
        assert!(!measure(&mut strain, 91, 1), "calm for half a minute");
        assert!(!measure(&mut strain, 92, 300) && measure(&mut strain, 94, 300));
        // Nobody writes any more: whether it is still slow is not known, and shows when it leads again.
        let mut is_slow = true;
        for second in 95..300 {
            strain.measure(&status(syncs, ms(300), Duration::ZERO), Some(ms(1)), Duration::from_secs(second));
            is_slow = strain.slowness().is_slow;
        }
        assert!(!is_slow, "{strain:?}");
    }

    #[test]
    fn a_strain_must_last_and_another_be_much_better_before_anything_moves() {
        let (mut strain, ms) = (Strain::default(), Duration::from_millis);
        let at = |seconds: u64| Duration::from_secs(seconds);
        // One long sync is nothing yet.
        strain.measure(&status(1, ms(400), Duration::ZERO), Some(ms(1)), at(0));
        assert!(strain.now_ms() < STRAINED_MS && !strain.yields_to(0, at(9)));
        // One that does not come back is, but not at once.
        strain.measure(&status(1, ms(400), ms(500)), Some(ms(1)), at(10));
        assert!(!strain.yields_to(10, at(12)));
        strain.measure(&status(1, ms(400), ms(3500)), Some(ms(1)), at(13));
        assert!(strain.yields_to(10, at(13)));
        // Everybody is slow: nobody would be better.
        assert!(!strain.yields_to(2000, at(13)));
        strain.measure(&status(2, ms(1), Duration::ZERO), Some(ms(1)), at(14));
        assert!(!strain.yields_to(0, at(20)), "it is over");
        // A slow way counts as a slow disk does.
        strain.measure(&status(2, ms(1), Duration::ZERO), Some(ms(300)), at(20));
        assert!(strain.yields_to(2, at(23)) && !strain.yields_to(80, at(23)));
    }
}
