//! How many brokers the load asks for. Pure: what was measured and when goes in, a number comes out.
//!
//! Up at once, at most to twice as many; down only to the most that was asked for in the whole time that `scaleDownAfter` names, so that a lull does
//! not cost the next hour its brokers. A target that is missed by little changes nothing.

use std::collections::VecDeque;
use std::time::Duration;

/// A load within so much of the target is on target.
const TOLERANCE: f64 = 0.1;

/// What the object asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Never fewer brokers.
    pub least: u32,
    /// Never more.
    pub most: u32,
    /// Bytes per second appended that one broker shall take.
    pub bytes_in: f64,
    /// Fewer brokers only if fewer were enough for so long.
    pub down_after: Duration,
}

/// What was asked for lately. Kept in memory only: after a restart of the operator the time for going down begins anew.
#[derive(Clone, Debug, Default)]
pub struct History {
    begun: Option<Duration>,
    asked: VecDeque<(Duration, u32)>,
}

/// The number of brokers that there shall be. `now` is a monotonic time; without a measurement nothing changes.
pub fn wanted(bounds: &Bounds, history: &mut History, now: Duration, present: u32, bytes_in: Option<f64>) -> u32 {
    let within = |number: u32| number.clamp(bounds.least, bounds.most.max(bounds.least));
    let Some(bytes_in) = bytes_in else { return within(present) };
    let asked = within(by_load(bounds, present, bytes_in));
    let begun = *history.begun.get_or_insert(now);
    history.asked.push_back((now, asked));
    while history.asked.front().is_some_and(|(at, _)| now.saturating_sub(*at) > bounds.down_after) {
        history.asked.pop_front();
    }
    if asked > present {
        return within(asked.min(present.saturating_mul(2)));
    }
    if now.saturating_sub(begun) < bounds.down_after {
        return within(present);
    }
    let most = history.asked.iter().map(|(_, asked)| *asked).max().unwrap_or(asked);
    within(most.min(present))
}

fn by_load(bounds: &Bounds, present: u32, bytes_in: f64) -> u32 {
    let target = bounds.bytes_in.max(1.0);
    let share = bytes_in / (target * f64::from(present.max(1)));
    if (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&share) {
        return present;
    }
    // More than there can be brokers is cut off by the bounds.
    (bytes_in / target).ceil().clamp(0.0, 1e6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { least: 3, most: 10, bytes_in: 100.0, down_after: Duration::from_secs(600) };

    fn at(minute: u64) -> Duration {
        Duration::from_secs(60 * minute)
    }

    #[test]
    fn the_load_decides_within_the_bounds() {
        for (present, bytes_in, expected) in [
            (3, 0.0, 3),
            (3, 300.0, 3),
            (3, 329.0, 3), // a tenth above the target is on target
            (3, 340.0, 4),
            (4, 750.0, 8),
            (4, 900.0, 8), // twice as many at most, then it is measured anew
            (8, 900.0, 9),
            (8, 1e12, 10),
            (2, 0.0, 3), // fewer than the least: somebody changed the bounds
        ] {
            assert_eq!(
                wanted(&BOUNDS, &mut History::default(), at(0), present, Some(bytes_in)),
                expected,
                "{present} {bytes_in}"
            );
        }
    }

    #[test]
    fn brokers_go_only_when_fewer_were_enough_all_the_time() {
        let mut history = History::default();
        let mut ask = |minute, load| wanted(&BOUNDS, &mut history, at(minute), 8, Some(load));
        assert_eq!(ask(0, 800.0), 8);
        assert_eq!((1..10).map(|minute| ask(minute, 300.0)).collect::<Vec<_>>(), [8; 9], "ten minutes are not over");
        assert_eq!(ask(11, 450.0), 5, "the most of the last ten minutes");
        assert_eq!(ask(12, 300.0), 5);
        assert_eq!(ask(22, 300.0), 3);
    }

    #[test]
    fn a_peak_begins_the_wait_anew_and_an_operator_that_just_began_takes_nothing_away() {
        let mut history = History::default();
        for minute in 0..20 {
            wanted(&BOUNDS, &mut history, at(minute), 8, Some(if minute == 15 { 800.0 } else { 300.0 }));
        }
        assert_eq!(wanted(&BOUNDS, &mut history, at(20), 8, Some(300.0)), 8);
        assert_eq!(wanted(&BOUNDS, &mut History::default(), at(500), 8, Some(0.0)), 8);
    }

    #[test]
    fn without_a_measurement_nothing_changes() {
        assert_eq!(wanted(&BOUNDS, &mut History::default(), at(0), 5, None), 5);
        assert_eq!(wanted(&BOUNDS, &mut History::default(), at(0), 50, None), 10, "but the bounds hold");
    }
}
