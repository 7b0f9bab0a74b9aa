//! Time of a simulation: tokio's paused clock, and a wall clock beside it that can be made to jump.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::Clock;

/// 2026-01-01T00:00:00Z, where the wall clock of every simulation begins.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// Tokio's clock of the runtime that it was made in, which stands still but for sleeping when that runtime is paused.
#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    before: Duration,
    wall_offset_ms: AtomicI64,
}

impl SimClock {
    /// A clock for a life that begins after `before` of simulated time. Must be called within the runtime whose time it tells.
    pub fn new(before: Duration) -> SimClock {
        SimClock { started: Instant::now(), before, wall_offset_ms: AtomicI64::new(0) }
    }

    /// Lets the wall clock jump, forwards or backwards; monotonic time goes on as if nothing was.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.wall_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// What monotonic time was at an instant of this clock's runtime.
    pub(crate) fn monotonic_at(&self, instant: Instant) -> Duration {
        self.before + instant.duration_since(self.started)
    }

    /// By how much the wall clock jumped in all.
    pub fn wall_offset_ms(&self) -> i64 {
        self.wall_offset_ms.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX);
        EPOCH_MS.saturating_add(elapsed).saturating_add(self.wall_offset_ms())
    }

    fn monotonic(&self) -> Duration {
        self.monotonic_at(Instant::now())
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
