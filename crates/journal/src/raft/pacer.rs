//! Bounds how fast a broker copies journals to replicas that do not vote yet: a move of a replica must not take the network and the disks from
//! the writes. One [`Pacer`] for all journals of a broker.
//!
//! What is counted is how far a copy comes nearer to the log's end, so a copy ends however fast the log grows: what is written meanwhile goes along
//! free of charge. A voter is never held back, because the majority may need it; nor is a learner that is as good as at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_env::Env;

/// A learner that lacks at most so many entries is sent them as they are written.
const NEAR_ENTRIES: u64 = 64;
/// What may go at once after a rest, as a part of a second's bytes.
const BURST: Duration = Duration::from_millis(100);

/// The bound and what was counted against it. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// 0: no bound.
    bytes_per_second: u64,
    /// Up to when, of the monotonic clock, what was charged takes.
    taken: Mutex<Duration>,
    copied: AtomicU64,
    waited_us: AtomicU64,
}

impl Pacer {
    /// Bounds copies to so many bytes per second together; 0: not at all.
    pub fn new(bytes_per_second: u64) -> Pacer {
        Pacer { inner: Arc::new(Inner { bytes_per_second, ..Inner::default() }) }
    }

    /// The bound, in bytes per second; 0: none.
    pub fn bytes_per_second(&self) -> u64 {
        self.inner.bytes_per_second
    }

    /// Bytes copied since the start.
    pub fn copied_bytes(&self) -> u64 {
        self.inner.copied.load(Ordering::Relaxed)
    }

    /// How long copies were held back since the start, all of them together.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.inner.waited_us.load(Ordering::Relaxed))
    }

    /// Counts bytes, and waits until they may go.
    pub(super) async fn pass(&self, bytes: u64, env: &Env) {
        if bytes == 0 {
            return;
        }
        let wait = self.charge(bytes, env.clock.monotonic());
        if !wait.is_zero() {
            env.clock.sleep(wait).await;
        }
    }

    /// Counts bytes that are to go now, and says how long to wait with them: until what was charged before and they themselves have had their time.
    fn charge(&self, bytes: u64, now: Duration) -> Duration {
        self.inner.copied.fetch_add(bytes, Ordering::Relaxed);
        if self.inner.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.inner.bytes_per_second as f64);
        let mut taken = self.inner.taken.lock();
        *taken = (*taken).max(now.saturating_sub(BURST)) + cost;
        let wait = taken.saturating_sub(now);
        self.inner.waited_us.fetch_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        wait
    }
}

/// How far one stream of entries is from the log's end.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The fewest entries that ever lacked.
    least: Option<u64>,
}

/// A request of a stream: what it holds, and what is committed while it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Index of its last entry.
    pub(super) last: u64,
    /// Index of the last committed entry.
    pub(super) committed: u64,
}

impl Stretch {
    /// Whether much more follows it: it is not what was just written.
    pub(super) fn is_old(&self) -> bool {
        self.entries > 0 && self.last + NEAR_ENTRIES < self.committed
    }
}

impl Backlog {
    /// The bytes of an old stretch that bring the learner nearer to the end.
    pub(super) fn nearer(&mut self, stretch: Stretch) -> u64 {
        let lacks = stretch.committed.saturating_sub(stretch.last);
        let least = self.least.unwrap_or(lacks + stretch.entries);
        self.least = Some(least.min(lacks));
        let nearer = least.saturating_sub(lacks).min(stretch.entries);
        if stretch.entries == 0 {
            0
        } else {
            (u128::from(stretch.bytes) * u128::from(nearer) / u128::from(stretch.entries)) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_copy_takes_as_long_as_its_bytes_at_the_bound_and_no_longer() {
        let pacer = Pacer::new(8 * MIB);
        let begun = Duration::from_secs(100);
        let mut now = begun;
        for _ in 0..64 {
            now += pacer.charge(MIB, now);
        }
        // 64 MiB at 8 MiB/s, less what a rest gives at once.
        assert_eq!(now - begun, Duration::from_secs(8) - BURST);
        assert_eq!(pacer.copied_bytes(), 64 * MIB);
        assert_eq!(pacer.waited(), now - begun);
        // Two that copy at the same time share the bound.
        let (one, other) = (pacer.charge(8 * MIB, now), pacer.charge(8 * MIB, now));
        assert_eq!((one, other), (Duration::from_secs(1), Duration::from_secs(2)));
        // A rest saves up no more than the burst.
        assert_eq!(pacer.charge(8 * MIB, now + Duration::from_secs(1000)), Duration::from_secs(1) - BURST);
        assert_eq!(Pacer::default().charge(u64::MAX / 2, now), Duration::ZERO);
    }

    #[test]
    fn what_is_written_meanwhile_is_free_so_that_every_copy_ends() {
        let stretch = |last, committed| Stretch { entries: 100, bytes: 1000, last, committed };
        let mut backlog = Backlog::default();
        assert_eq!(backlog.nearer(stretch(100, 10_100)), 1000);
        // Nothing was written since: all of it counts.
        assert_eq!(backlog.nearer(stretch(200, 10_100)), 1000);
        // As much was written as is sent: it comes no nearer, and is not charged.
        assert_eq!(backlog.nearer(stretch(300, 10_200)), 0);
        // Half as much was written.
        assert_eq!(backlog.nearer(stretch(400, 10_250)), 500);
        // Far more was written, and the end comes nearer again only below what it was before.
        assert_eq!(backlog.nearer(stretch(500, 20_000)), 0);
        assert!(stretch(500, 20_000).is_old());
        assert!(!stretch(19_980, 20_000).is_old(), "what was just written is never held back");
        assert!(!Stretch { entries: 0, ..stretch(0, 20_000) }.is_old());
    }
}
