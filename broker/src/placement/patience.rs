//! When leaders may be moved for balance.

use std::time::Duration;

use super::view::{FleetView, Step};

/// Load that is spread unevenly for so long is balanced.
const UNEVEN: Duration = Duration::from_secs(30);
/// Below so many bytes per second, appended to all journals together, nobody minds the gap that a move costs.
const QUIET: f64 = 64.0 * 1024.0;

/// Waits before leaders are moved for balance. A move costs a gap in the writes of a journal, so where there are any, the load must have been uneven
/// for a while: it always is when clients come, and mostly not for long.
#[derive(Debug, Default)]
pub struct Patience {
    uneven_since: Option<Duration>,
}

impl Patience {
    /// Whether this plan's [`Step::BalanceLeader`] may be done now. To be asked for each plan; `now` is monotonic.
    pub fn allows_balance(&mut self, view: &FleetView, steps: &[Step], now: Duration) -> bool {
        let is_uneven = steps.iter().any(|step| matches!(step, Step::BalanceLeader { .. }));
        self.uneven_since = is_uneven.then_some(self.uneven_since.unwrap_or(now));
        let load: f64 = view.journals.values().map(|journal| journal.load).sum();
        load < QUIET || self.uneven_since.is_some_and(|since| now.saturating_sub(since) >= UNEVEN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tidegate_model::JournalId;

    use super::super::view::JournalView;
    use super::*;

    fn view(load: f64) -> FleetView {
        let journal = JournalView { replicas: Vec::new(), lost: BTreeSet::new(), led: None, load, settled: true };
        FleetView { brokers: BTreeMap::new(), journals: BTreeMap::from([(JournalId(1), journal)]), replication_factor: 3 }
    }

    #[test]
    fn a_busy_hub_is_balanced_only_once_it_was_uneven_for_a_while_and_an_idle_one_at_once() {
        let uneven = [Step::BalanceLeader { journal: JournalId(1), to: 2 }];
        let seconds = Duration::from_secs;
        let (busy, idle) = (view(10e6), view(0.0));
        let mut patience = Patience::default();
        assert!(patience.allows_balance(&idle, &uneven, seconds(5)));
        let mut patience = Patience::default();
        assert!(!patience.allows_balance(&busy, &uneven, seconds(10)));
        assert!(!patience.allows_balance(&busy, &uneven, seconds(39)));
        assert!(!patience.allows_balance(&busy, &[], seconds(39)), "even for a moment: it begins again");
        assert!(!patience.allows_balance(&busy, &uneven, seconds(41)));
        assert!(patience.allows_balance(&busy, &uneven, seconds(71)));
        assert!(patience.allows_balance(&busy, &uneven, seconds(72)), "until it is even");
    }
}
