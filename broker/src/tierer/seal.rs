//! What goes to the store next: which partitions, how much of each, in which object. Pure choice over numbers, apart from reading them.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_journal::state::{PartitionState, State};
use tidegate_model::{Offset, TimestampMs, TopicPartition, TopicSettings, TopicUid};
use tidegate_wal::Pressure;

use super::{TierError, Tierer};
use crate::hub::View;
use crate::settings::TierSettings;

/// A stretch of a partition that is to be moved: from its tiered end to a batch boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Take {
    pub(super) at: TopicPartition,
    pub(super) from: Offset,
    pub(super) to: Offset,
    pub(super) bytes: u64,
    pub(super) kept: Kept,
}

/// How long records are kept, roughly: the power of two below the retention in milliseconds, and whether bytes end it earlier. An object is deleted
/// when the last of its records may go, so records that go at different times do not share one: a topic of little data that keeps it for ever
/// would keep all that lies beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    ms_log2: Option<u32>,
    by_bytes: bool,
}

/// What becomes one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) takes: Vec<Take>,
}

/// Since when partitions wait with what is at their tiered end, by the monotonic clock: the wall clock may have leapt back since those
/// records were appended, and their age by it be none for hours.
pub(super) type Waiting = BTreeMap<TopicPartition, (Offset, Duration)>;

/// While the log is short of room, what is not due by itself waits so long for enough company to be worth an upload: many small objects free the log
/// more slowly than few large ones.
const COMPANY_MS: u64 = 1000;

/// When plans are made, and whether the log is short of room.
#[derive(Clone, Copy, Debug)]
struct Moment {
    now: TimestampMs,
    monotonic: Duration,
    pressed: bool,
}

/// Bytes and age from which on a topic's partitions are sealed, and how long they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Threshold {
    bytes: u64,
    age_ms: u64,
    kept: Kept,
}

impl Tierer {
    /// Seals what is due and uploads it, as many objects at a time as the settings allow.
    pub(super) async fn seal_and_upload(&self) -> Result<(), TierError> {
        let uploads = self.hub.settings.tier.uploads as usize;
        loop {
            let plans = self.plans()?;
            if plans.is_empty() || self.hub.stopping.is_cancelled() {
                return Ok(());
            }
            for plans in plans.chunks(uploads) {
                let outcomes = futures::future::join_all(plans.iter().map(|plan| self.move_out(plan))).await;
                outcomes.into_iter().collect::<Result<(), _>>()?;
            }
        }
    }

    fn plans(&self) -> Result<Vec<Plan>, TierError> {
        let view = self.hub.routes.view();
        let pressed = self.hub.wal.status().pressure != Pressure::Normal || self.journal()?.voter_lacks_room();
        let moment = Moment { now: self.now(), monotonic: self.hub.env.clock.monotonic(), pressed };
        let tier = &self.hub.settings.tier;
        let waiting = &mut *self.waiting.lock();
        Ok(self.journal()?.read_state(|state| pack(due(state, &view, tier, moment, waiting), tier.object_bytes)))
    }
}

/// Stretches that are due: by bytes or by age; when a log is short of room all of them, once together they are worth an upload.
fn due(state: &State, view: &View, tier: &TierSettings, moment: Moment, waiting: &mut Waiting) -> Vec<Take> {
    let Moment { now, monotonic, pressed } = moment;
    let mut thresholds = BTreeMap::<TopicUid, Threshold>::new();
    let before = std::mem::take(waiting);
    let (mut takes, mut early) = (Vec::new(), Vec::new());
    for (_, at) in state.untiered() {
        let Some(partition) = state.partition(at) else { continue };
        let threshold = *thresholds.entry(at.topic).or_insert_with(|| threshold(view, at.topic, tier));
        let first = partition.tiered_end();
        let since = before.get(&at).filter(|(offset, _)| *offset == first).map_or(monotonic, |(_, since)| *since);
        waiting.insert(at, (first, since));
        let waited = u64::try_from(monotonic.saturating_sub(since).as_millis()).unwrap_or(u64::MAX);
        let oldest = partition.tail().untiered().next().map_or(now, |item| item.appended);
        let age = u64::try_from(now.0.saturating_sub(oldest.0)).unwrap_or(0).max(waited);
        let is_due = partition.untiered_bytes() >= threshold.bytes || age >= threshold.age_ms;
        let take = || stretch(at, partition, tier.object_bytes, threshold.kept);
        if is_due {
            takes.extend(take());
        } else if pressed {
            early.extend(take().map(|take| (take, waited)));
        }
    }
    takes.extend(worthwhile(early, tier.seal_bytes.min(tier.object_bytes)));
    takes
}

/// All stretches, if together they are worth an upload or one has waited for that long enough, in milliseconds; else none.
fn worthwhile(early: Vec<(Take, u64)>, least: u64) -> impl Iterator<Item = Take> {
    let bytes: u64 = early.iter().map(|(take, _)| take.bytes).sum();
    let goes = bytes >= least || early.iter().any(|(_, waited)| *waited >= COMPANY_MS);
    early.into_iter().filter(move |_| goes).map(|(take, _)| take)
}

fn threshold(view: &View, topic: TopicUid, tier: &TierSettings) -> Threshold {
    let settings = view.by_uid.get(&topic).map(|topic| &topic.settings);
    Threshold {
        bytes: settings.and_then(|settings| settings.seal_bytes).unwrap_or(tier.seal_bytes),
        age_ms: settings.and_then(|settings| settings.seal_age_ms).unwrap_or(tier.seal_age_ms),
        kept: settings.map(kept).unwrap_or_default(),
    }
}

fn kept(settings: &TopicSettings) -> Kept {
    let ms = settings.retention_ms.and_then(|ms| u64::try_from(ms).ok());
    Kept { ms_log2: ms.and_then(u64::checked_ilog2), by_bytes: settings.retention_bytes_per_partition.is_some() }
}

/// The first of a partition's data that is not tiered, at most `most` bytes unless one batch is larger. The tiered end must have moved before
/// the next can follow.
fn stretch(at: TopicPartition, partition: &PartitionState, most: u64, kept: Kept) -> Option<Take> {
    let from = partition.tiered_end().max(partition.log_start());
    let mut take = Take { at, from, to: from, bytes: 0, kept };
    for item in partition.tail().untiered() {
        if take.bytes > 0 && take.bytes + u64::from(item.bytes) > most {
            break;
        }
        take.to = item.end;
        take.bytes += u64::from(item.bytes);
    }
    (take.to > take.from).then_some(take)
}

/// Puts stretches together into objects: large ones alone, small ones together with those that are kept as long.
fn pack(takes: Vec<Take>, object_bytes: u64) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut shared = BTreeMap::<Kept, (u64, Vec<Take>)>::new();
    for take in takes {
        if take.bytes >= object_bytes / 2 {
            plans.push(Plan { takes: vec![take] });
            continue;
        }
        let (bytes, together) = shared.entry(take.kept).or_default();
        if *bytes + take.bytes > object_bytes && !together.is_empty() {
            plans.push(Plan { takes: std::mem::take(together) });
            *bytes = 0;
        }
        *bytes += take.bytes;
        together.push(take);
    }
    plans.extend(shared.into_values().filter(|(_, takes)| !takes.is_empty()).map(|(_, takes)| Plan { takes }));
    for plan in &mut plans {
        // A topic's partitions side by side: readers of one topic find its bytes together.
        plan.takes.sort_by_key(|take| take.at);
    }
    plans
}

#[cfg(test)]
mod tests {
    use tidegate_model::PartitionId;
    use uuid::Uuid;

    use super::*;

    const FOR_EVER: Kept = Kept { ms_log2: None, by_bytes: false };

    fn take(partition: i32, bytes: u64, kept: Kept) -> Take {
        let at = TopicPartition { topic: TopicUid(Uuid::nil()), partition: PartitionId(partition) };
        Take { at, from: Offset(0), to: Offset(1), bytes, kept }
    }

    fn partitions(plans: &[Plan]) -> Vec<Vec<i32>> {
        plans.iter().map(|plan| plan.takes.iter().map(|take| take.at.partition.0).collect()).collect()
    }

    #[test]
    fn large_stretches_get_their_own_object_and_small_ones_share() {
        let takes = [(0, 100), (1, 10), (2, 30), (3, 45), (4, 20)];
        let plans = pack(takes.map(|(partition, bytes)| take(partition, bytes, FOR_EVER)).to_vec(), 100);
        assert_eq!(partitions(&plans), [vec![0], vec![1, 2, 3], vec![4]]);
        assert!(plans.iter().all(|plan| plan.takes.len() == 1 || plan.takes.iter().map(|take| take.bytes).sum::<u64>() <= 100));
    }

    #[test]
    fn a_full_log_waits_a_moment_for_objects_that_are_worth_an_upload() {
        let early = |waited| vec![(take(0, 30, FOR_EVER), waited), (take(1, 60, FOR_EVER), 0)];
        assert_eq!(worthwhile(early(COMPANY_MS - 1), 91).count(), 0);
        assert_eq!(worthwhile(early(0), 90).count(), 2, "together they are enough");
        assert_eq!(worthwhile(early(COMPANY_MS), 91).count(), 2, "one has waited long enough");
    }

    #[test]
    fn records_that_are_kept_differently_long_do_not_share_an_object() {
        let kept = |ms: i64, bytes| {
            kept(&TopicSettings { retention_ms: Some(ms), retention_bytes_per_partition: bytes, ..Default::default() })
        };
        let (hour, week, by_bytes) = (kept(3_600_000, None), kept(604_800_000, None), kept(604_800_000, Some(1)));
        let takes =
            vec![take(0, 10, FOR_EVER), take(1, 10, hour), take(2, 10, week), take(3, 10, FOR_EVER), take(4, 10, by_bytes)];
        assert_eq!(partitions(&pack(takes, 100)), [vec![0, 3], vec![1], vec![2], vec![4]]);
        assert_eq!(hour, kept(3_700_000, None), "an hour, or a little more, is much the same");
    }
}
