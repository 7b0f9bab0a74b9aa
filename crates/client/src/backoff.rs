//! How long to wait before another try: exponential, with full jitter above half, and never longer than a cap.

use std::time::Duration;

use rand::RngExt;

/// Waits between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait. Default 50 ms.
    pub initial: Duration,
    /// The longest wait. Default 2 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// The wait after the `attempt`-th failure in a row (from 1): between half of it and all of `initial · 2^(attempt-1)`,
    /// at most `max`.
    pub fn delay(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let ceiling = self.initial.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.5 + 0.5 * rand::rng().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff { initial: Duration::from_millis(10), max: Duration::from_millis(75) };
        for (attempt, ceiling_ms) in [(1, 10), (2, 20), (3, 40), (4, 75), (5, 75), (u32::MAX, 75)] {
            for _ in 0..20 {
                let delay = backoff.delay(attempt);
                assert!(delay <= Duration::from_millis(ceiling_ms), "{attempt}: {delay:?}");
                assert!(delay * 2 >= Duration::from_millis(ceiling_ms), "{attempt}: {delay:?}");
            }
        }
    }
}
