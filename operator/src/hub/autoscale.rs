//! How many brokers the load asks for. Pure: what was measured and when goes in, a number comes out.
//!
//! Each target asks for a number, and the greatest counts. Up to the fewest that were asked for in the whole time that `scaleUpAfter` names, at most to
//! twice as many as serve; down to the most that were asked for in the whole time that `scaleDownAfter` names, so that a lull does not cost the
//! next hour its brokers. A target that is missed by little changes nothing, and while something is not measured nobody goes.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_crd::hub::{Autoscaling, ScalingTargets};
use tidegate_crd::quantity::{Span, parse_bytes, parse_cores, parse_duration_ms};
use tidegate_proto::operator::v1::{ClusterBrokerState, DescribeClusterResponse};

use super::fleet::SILENT_MS;

/// A load within so much of the target is on target.
const TOLERANCE: f64 = 0.1;
/// Brokers come when more were needed for so long, unless the Hub says otherwise.
const SCALE_UP_AFTER: Duration = Duration::from_secs(30);
/// Brokers go when fewer were enough for so long, unless the Hub says otherwise.
const SCALE_DOWN_AFTER: Duration = Duration::from_secs(600);

/// Numbers of one kind for each thing that can be a target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Numbers {
    /// Bytes per second appended.
    pub bytes_in: Option<f64>,
    /// Bytes per second read.
    pub bytes_out: Option<f64>,
    /// Processor cores used.
    pub cpu: Option<f64>,
    /// Percent of the log in use.
    pub disk: Option<f64>,
}

impl Numbers {
    fn named(&self) -> [(&'static str, Option<f64>); 4] {
        [("bytes in", self.bytes_in), ("bytes out", self.bytes_out), ("CPU", self.cpu), ("disk", self.disk)]
    }
}

/// What the object asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Never fewer brokers.
    pub least: u32,
    /// Never more.
    pub most: u32,
    /// What one broker shall take.
    pub targets: Numbers,
    /// More brokers only if more were needed for so long.
    pub up_after: Duration,
    /// Fewer brokers only if fewer were enough for so long.
    pub down_after: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Sums over all brokers.
    pub total: Numbers,
    /// Brokers that said how they are.
    pub serving: u32,
    /// Whether all that take part did.
    pub is_complete: bool,
}

/// What was asked for lately. Kept in memory only: after a restart of the operator the waits begin anew.
#[derive(Clone, Debug, Default)]
pub struct History {
    begun: Option<Duration>,
    asked: VecDeque<(Duration, u32)>,
    /// What people were told last.
    told: Option<u32>,
}

impl History {
    /// The least and the most that was asked for in the last `span`; `None` if that is longer than anybody looked.
    fn within(&self, span: Duration, now: Duration) -> Option<(u32, u32)> {
        self.begun.filter(|begun| now.saturating_sub(*begun) >= span)?;
        let lately = self.asked.iter().filter(|(at, _)| now.saturating_sub(*at) <= span).map(|(_, asked)| *asked);
        Some((lately.clone().min()?, lately.max()?))
    }

    /// Whether a number other than the present one is news for people.
    pub fn is_news(&mut self, wanted: u32, present: u32) -> bool {
        self.told.replace(wanted) != Some(wanted) && wanted != present
    }
}

impl Bounds {
    /// What a Hub asks for.
    pub fn of(scaling: &Autoscaling) -> Bounds {
        let number = |n: i32| u32::try_from(n).unwrap_or(1).max(1);
        let span = |span: &Option<Span>, default| {
            let said = span.as_ref().and_then(|span| parse_duration_ms(span.as_ref()).ok().flatten());
            said.map_or(default, Duration::from_millis)
        };
        Bounds {
            least: number(scaling.min_replicas),
            most: number(scaling.max_replicas),
            targets: targets(&scaling.targets),
            up_after: span(&scaling.scale_up_after, SCALE_UP_AFTER),
            down_after: span(&scaling.scale_down_after, SCALE_DOWN_AFTER),
        }
    }
}

fn targets(targets: &ScalingTargets) -> Numbers {
    let bytes = |size: &Option<tidegate_crd::quantity::Size>| {
        size.as_ref().and_then(|size| parse_bytes(size.as_ref()).ok().flatten()).map(|bytes| bytes as f64)
    };
    Numbers {
        bytes_in: bytes(&targets.bytes_in_per_second),
        bytes_out: bytes(&targets.bytes_out_per_second),
        cpu: targets.cpu.as_deref().and_then(parse_cores),
        disk: targets.disk_percent.map(f64::from),
    }
}

impl Load {
    /// What the hub says of itself. While its object store is away, how full logs are says nothing about how many brokers are needed.
    pub fn of(told: &DescribeClusterResponse, store_is_away: bool) -> Load {
        let present = || told.brokers.iter().filter(|broker| broker.state() != ClusterBrokerState::Retired);
        let heard = || present().filter(|broker| broker.silent_ms.is_some_and(|silent| silent < SILENT_MS));
        let sum = |values: Vec<Option<f64>>| values.into_iter().collect::<Option<Vec<f64>>>().map(|values| values.iter().sum());
        Load {
            total: Numbers {
                bytes_in: Some(told.journals.iter().map(|journal| journal.bytes_per_second).sum()),
                bytes_out: sum(heard().map(|broker| broker.bytes_out_per_second).collect()),
                cpu: sum(heard().map(|broker| broker.cpu_cores).collect()),
                disk: sum(heard().map(|broker| broker.log_percent).collect()).filter(|_| !store_is_away),
            },
            serving: u32::try_from(heard().count()).unwrap_or(u32::MAX),
            is_complete: heard().count() == present().count(),
        }
    }
}

/// The number of brokers that there shall be, and which target asks for it. `now` is a monotonic time; without a measurement nothing changes.
pub fn wanted(bounds: &Bounds, history: &mut History, now: Duration, present: u32, load: Option<&Load>) -> (u32, &'static str) {
    let within = |number: u32| number.clamp(bounds.least, bounds.most.max(bounds.least));
    let Some(load) = load else { return (within(present), "bounds") };
    let (asked, why) = by_load(bounds, present, load);
    let asked = within(asked);
    history.begun.get_or_insert(now);
    history.asked.push_back((now, asked));
    let longest = bounds.down_after.max(bounds.up_after);
    while history.asked.front().is_some_and(|(at, _)| now.saturating_sub(*at) > longest) {
        history.asked.pop_front();
    }
    let least = history.within(bounds.up_after, now).map(|(least, _)| least).filter(|least| *least > present);
    if let Some(least) = least {
        return (within(least.min(load.serving.saturating_mul(2)).max(present)), why);
    }
    let most = history.within(bounds.down_after, now).map(|(_, most)| most).filter(|most| *most < present);
    (within(most.unwrap_or(present)), why)
}

/// What the greatest target asks for, and its name.
fn by_load(bounds: &Bounds, present: u32, load: &Load) -> (u32, &'static str) {
    let mut is_complete = load.is_complete;
    let mut greatest = (0, "bounds");
    for ((name, target), (_, total)) in bounds.targets.named().into_iter().zip(load.total.named()) {
        let Some(target) = target else { continue };
        let Some(total) = total else {
            is_complete = false;
            continue;
        };
        let target = target.max(f64::MIN_POSITIVE);
        let share = total / (target * f64::from(present.max(1)));
        let is_near = (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&share);
        // More than there can be brokers is cut off by the bounds.
        let asked = if is_near { present } else { (total / target).ceil().clamp(0.0, 1e6) as u32 };
        if asked > greatest.0 {
            greatest = (asked, name);
        }
    }
    if is_complete { greatest } else { (greatest.0.max(present), greatest.1) }
}

#[cfg(test)]
#[path = "autoscale_tests.rs"]
mod tests;
