//! Randomness from a seed: SplitMix64, whose whole state is one counter, so that it needs no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Random;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Seeded randomness: the same calls in the same order give the same numbers.
#[derive(Debug)]
pub struct SimRandom {
    state: AtomicU64,
}

impl SimRandom {
    /// Starts from a seed; every seed gives another sequence.
    pub fn new(seed: u64) -> SimRandom {
        SimRandom { state: AtomicU64::new(mix(seed ^ GAMMA)) }
    }

    /// True once in `one_in` calls, on average; never for 0.
    pub fn chance(&self, one_in: u64) -> bool {
        one_in != 0 && self.below(one_in) == 0
    }

    /// A number from `range.start` to `range.end - 1`; the start for an empty range.
    pub fn within(&self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }
}

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        mix(self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): a bijection whose every output bit depends on every input bit.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
