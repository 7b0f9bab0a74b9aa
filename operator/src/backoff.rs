//! How soon a watch that failed is tried again.
//!
//! kube's own default waits up to 30 s, and more with each failure: with definitions away for minutes, objects would be looked at late once
//! they are back. A watch is one cheap request, so it is asked for at least every [`MOST`].

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer, jitter included.
pub const MOST: Duration = Duration::from_secs(5);
/// A watch that held so long begins anew.
const HELD: Duration = Duration::from_secs(30);

/// Waits that double from half a second to [`MOST`], each up to a fifth shorter, so that watches that failed together do not all come at once.
#[derive(Debug, Default)]
pub struct WatchBackoff {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST.saturating_mul(1 << self.failures.min(8)).min(MOST);
        self.failures += 1;
        self.last = Some(Instant::now());
        Some(wait.mul_f64(1.0 - rand::random::<f64>() / 5.0))
    }
}

impl Backoff for WatchBackoff {
    // Called at each thing that the watch tells: one that lists well and then breaks, over and over, must not be asked twice a second.
    fn reset(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() > HELD) {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_never_beyond_the_bound_however_long_the_watch_fails() {
        let waits: Vec<Duration> = WatchBackoff::default().take(1000).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST.mul_f64(0.8), "{:?}", waits[0]);
        assert!(waits[3] > waits[0] * 4, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= MOST), "{:?}", waits.iter().max());
        assert!(waits[20..].iter().all(|wait| *wait >= MOST.mul_f64(0.8)));
    }

    #[test]
    fn a_watch_that_breaks_soon_after_it_lists_is_not_asked_at_once_again() {
        let mut waits = WatchBackoff::default();
        for _ in 0..10 {
            waits.next();
            waits.reset();
        }
        assert!(waits.next().unwrap() > FIRST * 4);
    }
}
