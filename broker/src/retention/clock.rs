//! Whether the wall clock may decide what is old enough to go.
//!
//! A clock that is set wrong by a year would make every record a year old, and what retention drops never comes back. So the wall clock is
//! compared with the monotonic one: when they part by more than [`LEAP_MS`], and after each start, nothing is dropped by age until the wall clock
//! has kept its pace for `hub.retention_grace_ms`. A leap that is taken back within that time costs nothing.

use std::time::Duration;

use tidegate_model::TimestampMs;

use crate::hub::Hub;

/// Clocks that are kept in step part by milliseconds; a leap second is one second.
const LEAP_MS: i64 = 60_000;

/// Two clocks side by side.
pub(super) struct ClockWatch {
    wall: TimestampMs,
    monotonic: Duration,
    trusted_from: Duration,
    grace: Duration,
}

impl ClockWatch {
    /// Begins with a start, before which nobody knows what the clock did.
    pub(super) fn since_start(hub: &Hub) -> ClockWatch {
        let inner = &hub.inner;
        let (wall, monotonic) = (inner.now(), inner.env.clock.monotonic());
        let grace = Duration::from_millis(inner.settings.retention_grace_ms);
        ClockWatch { wall, monotonic, trusted_from: monotonic + grace, grace }
    }

    /// Whether `wall` may be believed. To be asked again and again, at least every few minutes.
    pub(super) fn trusts(&mut self, wall: TimestampMs, monotonic: Duration) -> bool {
        let passed = i64::try_from(monotonic.saturating_sub(self.monotonic).as_millis()).unwrap_or(i64::MAX);
        let parted = wall.0.saturating_sub(self.wall.0).saturating_sub(passed);
        (self.wall, self.monotonic) = (wall, monotonic);
        if parted.saturating_abs() > LEAP_MS {
            self.trusted_from = monotonic + self.grace;
            tracing::warn!(
                leap_ms = parted,
                "the wall clock leapt: nothing is dropped by age until it has kept its pace for a while"
            );
        }
        monotonic >= self.trusted_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> ClockWatch {
        let (wall, monotonic) = (TimestampMs(1_000_000), Duration::from_secs(10));
        ClockWatch { wall, monotonic, trusted_from: monotonic, grace: Duration::from_secs(60) }
    }

    fn look(watch: &mut ClockWatch, wall_s: i64, monotonic_s: u64) -> bool {
        watch.trusts(TimestampMs(wall_s * 1000), Duration::from_secs(monotonic_s))
    }

    #[test]
    fn a_clock_that_keeps_its_pace_is_trusted() {
        let mut watch = watch();
        assert!(look(&mut watch, 1_030, 40));
        assert!(look(&mut watch, 1_089, 70), "half a minute of drift is none");
    }

    #[test]
    fn a_leap_is_believed_only_once_it_has_lasted() {
        let mut watch = watch();
        assert!(!look(&mut watch, 1_000_000, 40));
        assert!(!look(&mut watch, 1_000_030, 70));
        assert!(look(&mut watch, 1_000_060, 100));
    }

    #[test]
    fn a_leap_that_is_taken_back_is_never_believed() {
        let mut watch = watch();
        assert!(!look(&mut watch, 1_000_000, 40));
        assert!(!look(&mut watch, 1_060, 70), "back is a leap as well");
        assert!(!look(&mut watch, 1_119, 129));
        assert!(look(&mut watch, 1_120, 130));
    }
}
