//! Retention by time and by bytes, over tier and tail; the end of deleted topics and of forgotten group positions.
//!
//! A wall clock that leaps is not believed at once: see [`clock`]. It only proposes: trims raise the log start, and objects that nobody refers to any more are condemned by that and deleted by the
//! tierer. A settings change that shortens retention takes effect after `hub.retention_grace_ms`.

mod clock;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, TryStreamExt};
use tidegate_env::bugs::{self, Bug};
use tidegate_journal::Journal;
use tidegate_journal::entry::{Operation, Unit};
use tidegate_journal::state::TierPiece;
use tidegate_model::{JournalId, Offset, TimestampMs, TopicPartition, TopicSettings, TopicUid};

use self::clock::ClockWatch;
use crate::hub::{Error, Hub, Inner, redeemed, settings_of, submit_error};

/// A stretch that retention can drop as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    end: Offset,
    bytes: u64,
    /// Greatest timestamp of its records; `None` if unknown: such a stretch never expires by time.
    newest: Option<TimestampMs>,
}

/// Runs until the hub stops.
pub(crate) async fn run(hub: Hub) {
    let interval = Duration::from_millis(hub.inner.settings.retention_interval_ms);
    let mut watch = ClockWatch::since_start(&hub);
    loop {
        tokio::select! {
            biased;
            () = hub.inner.env.clock.sleep(interval) => {}
            () = hub.inner.stopping.cancelled() => return,
        }
        let now = hub.inner.now();
        let is_trusted = watch.trusts(now, hub.inner.env.clock.monotonic()) || bugs::on(Bug::BelieveClock);
        let now = Some(now).filter(|_| is_trusted);
        let outcome = tokio::select! {
            biased;
            outcome = pass(&hub, now) => outcome,
            () = hub.inner.stopping.cancelled() => return,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "retention did not finish and is tried again");
        }
    }
}

/// One round of everything, or, while the time is not trusted, of what goes by bytes alone.
async fn pass(hub: &Hub, now: Option<TimestampMs>) -> Result<(), Error> {
    trim_all(hub, now).await?;
    let Some(now) = now else { return Ok(()) };
    end_deleted_topics(&hub.inner, now).await?;
    forget_positions(&hub.inner, now).await
}

async fn trim_all(hub: &Hub, now: Option<TimestampMs>) -> Result<(), Error> {
    let inner = &hub.inner;
    let grace = i64::try_from(inner.settings.retention_grace_ms).unwrap_or(i64::MAX);
    let topics: Vec<(TopicUid, TopicSettings)> = inner.catalog.read_state(|state| {
        let settled = |topic: &&tidegate_journal::state::Topic| {
            topic.changed == topic.created || now.is_some_and(|now| topic.changed.0.saturating_add(grace) <= now.0)
        };
        state.catalog().live_topics().filter(settled).map(|topic| (topic.uid, settings_of(topic))).collect()
    });
    let view = inner.routes.view();
    for (uid, settings) in topics {
        if settings.retention_ms.is_none() && settings.retention_bytes_per_partition.is_none() {
            continue;
        }
        let Some(topic) = view.by_uid.get(&uid) else { continue };
        for (at, present) in topic.partitions() {
            // Older homes first: what is dropped is always the oldest there is.
            let older = topic.older.get(&at.partition).and_then(|homes| homes.first()).map(|home| home.journal);
            let Ok(journal) = inner.any_journal(older.unwrap_or(present)) else { continue };
            if !journal.leadership().borrow().is_self {
                continue;
            }
            let newer = if older.is_some() {
                hub.numbers(at, present).map_or(0, |numbers| numbers.local_bytes + numbers.tiered_bytes)
            } else {
                0
            };
            let own = journal.read_state(|state| state.partition(at).map_or(0, |own| own.untiered_bytes() + own.tiered_bytes()));
            let newer = newer.saturating_sub(own);
            if let Some(log_start) = new_log_start(hub, &journal, at, (&settings, newer), now).await? {
                propose(&journal, Operation::Trim { at, log_start }).await?;
                tracing::debug!(%at, %log_start, "retention raised the log start");
            }
        }
    }
    Ok(())
}

async fn new_log_start(
    hub: &Hub,
    journal: &Journal,
    at: TopicPartition,
    (settings, newer_bytes): (&TopicSettings, u64),
    now: Option<TimestampMs>,
) -> Result<Option<Offset>, Error> {
    let cutoff = settings.retention_ms.zip(now).map(|(keep, now)| TimestampMs(now.0.saturating_sub(keep)));
    let (log_start, pieces, tail) = journal.read_state(|state| match state.partition(at) {
        None => (Offset(0), Vec::new(), Vec::new()),
        Some(partition) => {
            let pieces: Vec<TierPiece> = partition.tier().cloned().collect();
            let tail = partition.tail().items().filter(|item| item.base >= partition.tiered_end()).map(|item| Stretch {
                end: item.end,
                bytes: item.bytes.into(),
                newest: Some(if item.max_timestamp.0 < 0 { item.appended } else { item.max_timestamp }),
            });
            (partition.log_start(), pieces, tail.collect())
        }
    });
    let total: u64 = pieces.iter().map(TierPiece::data_bytes).chain(tail.iter().map(|stretch| stretch.bytes)).sum();
    let total = total.saturating_add(newer_bytes);
    let mut excess = settings.retention_bytes_per_partition.map_or(0, |keep| total.saturating_sub(keep));
    let mut start = log_start;
    for piece in &pieces {
        let whole = Stretch { end: piece.end(), bytes: piece.data_bytes(), newest: known(piece.max_timestamp()) };
        if advance(&mut start, &mut excess, cutoff, &whole) {
            continue;
        }
        // A manifest that cannot go as a whole may lose its first ranges.
        if let TierPiece::Manifest(manifest) = piece
            && (excess > 0 || cutoff.is_some_and(|cutoff| manifest.min_timestamp < cutoff))
        {
            for range in hub.manifest(manifest).await?.iter() {
                if range.end <= start {
                    // Gone already, and yet counted in the manifest's bytes: without this, each round would drop as much once more.
                    excess = excess.saturating_sub(range.bytes);
                    continue;
                }
                let part = Stretch { end: range.end, bytes: range.bytes, newest: known(range.max_timestamp) };
                if !advance(&mut start, &mut excess, cutoff, &part) {
                    break;
                }
            }
        }
        return Ok(Some(start).filter(|start| *start > log_start));
    }
    for stretch in &tail {
        if !advance(&mut start, &mut excess, cutoff, stretch) {
            break;
        }
    }
    Ok(Some(start).filter(|start| *start > log_start))
}

fn known(time: TimestampMs) -> Option<TimestampMs> {
    Some(time).filter(|time| time.0 >= 0)
}

/// Passes over a stretch if it may go: all its records are too old, or the partition stays at or above its limit without it.
fn advance(start: &mut Offset, excess: &mut u64, cutoff: Option<TimestampMs>, stretch: &Stretch) -> bool {
    let too_old = matches!((cutoff, stretch.newest), (Some(cutoff), Some(newest)) if newest < cutoff);
    let too_much = stretch.bytes > 0 && stretch.bytes <= *excess;
    if !too_old && !too_much {
        return false;
    }
    *excess = excess.saturating_sub(stretch.bytes);
    *start = stretch.end.max(*start);
    true
}

/// Partitions of a deleted topic that are closed at the same time: they go into few entries of their journals.
const CLOSED_AT_ONCE: usize = 256;

/// Closes the partitions of topics whose time to be restored is over, then forgets the topics. Stopped in between, the next round goes on.
async fn end_deleted_topics(inner: &Arc<Inner>, now: TimestampMs) -> Result<(), Error> {
    if !inner.catalog.leadership().borrow().is_self {
        return Ok(());
    }
    let ended: Vec<_> = inner.catalog.read_state(|state| {
        let over = |topic: &&tidegate_journal::state::Topic| topic.tombstone.is_some_and(|tombstone| tombstone.undo_until < now);
        state.catalog().topics().filter(over).map(|topic| (topic.uid, topic.homes.clone())).collect()
    });
    for (uid, homes) in ended {
        let numbered = (0..).map(tidegate_model::PartitionId).zip(homes);
        let homes = numbered.flat_map(|(partition, homes)| homes.into_iter().map(move |home| (partition, home)));
        let closed = homes.filter_map(|(partition, home)| {
            let at = TopicPartition { topic: uid, partition };
            let hosted = inner.hosted.get(home.journal);
            let open = hosted.is_none_or(|journal| journal.read_state(|state| state.partition(at).is_some()));
            open.then_some((home.journal, Operation::ClosePartition { at, generation: home.generation }))
        });
        let close = async |(journal, close)| inner.propose(journal, Unit::of(close)).await.map(drop);
        stream::iter(closed.map(Ok)).try_for_each_concurrent(CLOSED_AT_ONCE, close).await?;
        inner.propose(JournalId::CATALOG, Unit::of(Operation::ForgetTopic { uid })).await?;
        tracing::info!(topic = %uid, "a deleted topic's time to be restored is over: its data goes");
    }
    Ok(())
}

/// Forgets groups of which no position was renewed for `hub.offsets_retention_ms`.
async fn forget_positions(inner: &Arc<Inner>, now: TimestampMs) -> Result<(), Error> {
    let keep = i64::try_from(inner.settings.offsets_retention_ms).unwrap_or(i64::MAX);
    let before = TimestampMs(now.0.saturating_sub(keep));
    for journal in inner.hosted.all().values().filter(|journal| journal.leadership().borrow().is_self) {
        let idle: Vec<(String, BTreeSet<TopicPartition>)> = journal.read_state(|state| {
            let idle = state.groups().filter(|(_, group)| group.offsets().all(|(_, committed)| committed.time < before));
            idle.map(|(name, group)| (name.to_owned(), group.offsets().map(|(at, _)| at).collect())).collect()
        });
        for (group, partitions) in idle {
            let partitions = partitions.into_iter().collect();
            // Renewed in the meantime, it stays: the condition is checked again when the entry is applied.
            propose(journal, Operation::DeleteOffsets { group, partitions, committed_before: Some(before) }).await?;
        }
    }
    Ok(())
}

async fn propose(journal: &Journal, operation: Operation) -> Result<(), Error> {
    let ticket = journal.submit(Unit::of(operation)).await.map_err(submit_error)?;
    redeemed(ticket).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(end: i64, bytes: u64, newest: i64) -> Stretch {
        Stretch { end: Offset(end), bytes, newest: known(TimestampMs(newest)) }
    }

    #[test]
    fn a_stretch_goes_when_its_newest_record_is_too_old() {
        let (mut start, mut excess) = (Offset(0), 0);
        let cutoff = Some(TimestampMs(100));
        assert!(advance(&mut start, &mut excess, cutoff, &stretch(10, 50, 99)));
        assert_eq!(start, Offset(10));
        assert!(!advance(&mut start, &mut excess, cutoff, &stretch(20, 50, 100)));
        assert!(!advance(&mut start, &mut excess, cutoff, &stretch(20, 50, -1)), "an unknown age never expires");
        assert_eq!(start, Offset(10));
    }

    #[test]
    fn by_bytes_only_whole_stretches_above_the_limit_go() {
        let (mut start, mut excess) = (Offset(0), 120);
        assert!(advance(&mut start, &mut excess, None, &stretch(10, 100, 1)));
        assert_eq!((start, excess), (Offset(10), 20));
        assert!(!advance(&mut start, &mut excess, None, &stretch(20, 100, 1)), "the limit would be undercut");
        assert_eq!(start, Offset(10));
    }
}
