//! Appends: routed by the catalog, checked against the topic, handed to the journal in the order of the calls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_journal::entry::{Operation, Outcome, Unit, UnitOutcome};
use tidegate_model::{JournalId, LeaderEpoch, RecordBatch, TimestampMs, TimestampType};

use super::routes::Route;
use super::{Append, Appended, Error, Hub, PartitionRef, Pending, producers, refused};

/// Resolves when an append is durable or refused. Dropping it leaves the append to its fate: it may still be stored.
pub struct AppendTicket {
    ticket: Pending,
    journal: JournalId,
    record_count: u32,
    bytes: u64,
    watch: Watch,
    /// The time that the batches were stamped with, where the topic asks for that.
    stamp: Option<TimestampMs>,
    hub: Hub,
    /// From the submission to the commit; ends with the ticket.
    span: tracing::Span,
}

/// An append that takes longer is a stall, and its reason is noted.
pub(crate) const STALL: Duration = Duration::from_secs(1);

/// What an append spends its time on.
#[derive(Clone, Copy, Debug)]
struct Watch {
    begun: Duration,
    /// When it had room in the journal and in the log.
    in_queue: Duration,
    /// The log's time on the disk by then.
    disk: Duration,
}

impl Watch {
    fn start(hub: &Hub) -> Watch {
        let begun = hub.inner.env.clock.monotonic();
        Watch { begun, in_queue: begun, disk: Duration::ZERO }
    }

    fn found_room(&mut self, hub: &Hub) {
        self.in_queue = hub.inner.env.clock.monotonic();
        self.disk = hub.inner.wal.disk_time();
    }

    fn end(&self, hub: &Hub) {
        let now = hub.inner.env.clock.monotonic();
        let took = now.saturating_sub(self.begun);
        if took > STALL {
            let disk = hub.inner.wal.disk_time().saturating_sub(self.disk);
            hub.inner.metrics.stalled(reason(self.in_queue.saturating_sub(self.begun), disk, took), took, now);
        }
    }
}

/// What took half of the time.
fn reason(room: Duration, disk: Duration, took: Duration) -> &'static str {
    match took / 2 {
        half if room >= half => "journal or log room",
        half if disk >= half => "disk",
        _ => "processor",
    }
}

impl Hub {
    /// Appends and waits until it is durable.
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        self.submit(append).await?.await
    }

    /// Hands an append over; appends to one partition are stored in the order in which these calls were made (and each awaited).
    /// Waits for room in the journal, never for durability: that is the ticket's.
    pub async fn submit(&self, append: Append) -> Result<AppendTicket, Error> {
        let mut watch = Watch::start(self);
        if self.inner.intake.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let route = self.inner.routes.route(&append.at)?;
        self.check_epoch(&route, append.at.leader_epoch)?;
        if append.batches.is_empty() {
            return Err(Error::invalid("batches", "is empty: send at least one batch"));
        }
        let stamp = (route.topic.settings.timestamp_type == TimestampType::LogAppendTime).then(|| self.now());
        let mut bytes = 0u64;
        let mut record_count = 0u32;
        let mut operations = Vec::with_capacity(append.batches.len());
        for batch in append.batches {
            check_batch(&route, &batch)?;
            let batch = match stamp {
                Some(time) => batch.with_log_append_time(time),
                None => batch,
            };
            bytes += batch.bytes().len() as u64;
            record_count = record_count.saturating_add(batch.header().record_count as u32);
            let window = producers::window_of(batch.header().producer_id);
            operations.push(Operation::Append { at: route.at, batch: batch.into_bytes(), window });
        }
        let span = tracing::info_span!("append to log", journal = route.journal.0, bytes, offset = tracing::field::Empty);
        let known = append.at.leader_epoch.map(|epoch| (route.at, epoch));
        let unit = Unit { preconditions: Vec::new(), operations };
        let ticket = self.inner.submit(route.journal, unit, known).await?;
        watch.found_room(self);
        if ticket.is_there() {
            self.inner.metrics.forwarded.inc();
        }
        Ok(AppendTicket { ticket, journal: route.journal, record_count, bytes, watch, stamp, hub: self.clone(), span })
    }

    /// The journal that holds a partition, if there is such a partition.
    pub(crate) fn journal_of(&self, at: &PartitionRef) -> Option<JournalId> {
        self.inner.routes.route(at).ok().map(|route| route.journal)
    }

    /// Refuses a caller whose leader epoch is not the partition's.
    pub(crate) fn check_epoch(&self, route: &Route, given: Option<LeaderEpoch>) -> Result<(), Error> {
        // Where this broker has no replica, it knows no epoch, and a replica that lags an old one: whoever leads looks again.
        let (Some(given), Some(journal)) = (given, self.inner.hosted.get(route.journal)) else { return Ok(()) };
        if !self.inner.is_alone() && !journal.leadership().borrow().is_self {
            return Ok(());
        }
        let current = self.marks(route)?.epoch;
        match given.cmp(&current) {
            std::cmp::Ordering::Less => Err(Error::FencedLeaderEpoch { given, current }),
            std::cmp::Ordering::Greater => Err(Error::UnknownLeaderEpoch { given, current }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

fn check_batch(route: &Route, batch: &RecordBatch) -> Result<(), Error> {
    let limit = route.topic.settings.max_message_bytes;
    if batch.bytes().len() as u64 > u64::from(limit) {
        return Err(Error::TooLarge {
            field: "batches".to_owned(),
            bytes: batch.bytes().len() as u64,
            limit: limit.into(),
            setting: "the topic's max_message_bytes",
        });
    }
    if batch.header().attributes.is_control() {
        let problem = "a control batch: only the hub writes those".to_owned();
        return Err(Error::InvalidBatch { field: "batches".to_owned(), problem });
    }
    if batch.header().attributes.is_transactional() {
        let problem = "a transactional batch: transactions are not there yet; send it without".to_owned();
        return Err(Error::Unsupported { field: "batches".to_owned(), problem });
    }
    Ok(())
}

impl Future for AppendTicket {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Pin::new(&mut this.ticket).poll(context).map(|answer| this.finish(answer))
    }
}

impl AppendTicket {
    /// The journal that it was handed to; its tickets resolve in the order of their submission.
    pub fn journal(&self) -> JournalId {
        self.journal
    }

    fn finish(&self, answer: Result<UnitOutcome, Error>) -> Result<Appended, Error> {
        self.watch.end(&self.hub);
        self.outcome(answer)
    }

    fn outcome(&self, answer: Result<UnitOutcome, Error>) -> Result<Appended, Error> {
        let outcomes = match answer.map_err(|error| self.hub.inner.moved_for_client(self.journal, error))? {
            UnitOutcome::Applied(outcomes) => outcomes,
            UnitOutcome::Refused { refusal, .. } => return Err(refused(*refusal)),
        };
        let Some(Outcome::Appended(first)) = outcomes.first() else {
            return Err(Error::internal(format!("an append came to {outcomes:?}")));
        };
        self.span.record("offset", first.base.0);
        let stored = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Appended(appended) if !appended.duplicate));
        let metrics = &self.hub.inner.metrics;
        if stored {
            metrics.appended.inc_by(self.bytes);
            metrics.appended_records.inc_by(self.record_count.into());
            // What is forwarded counts where it is led.
            if !self.ticket.is_there() {
                self.hub.inner.reports.count(self.journal, self.bytes);
            }
        } else {
            metrics.duplicates.inc();
        }
        Ok(Appended {
            base_offset: first.base,
            record_count: self.record_count,
            log_append_time: self.stamp,
            log_start: first.log_start,
            epoch: first.epoch,
            duplicate: !stored,
            leader: if self.ticket.is_there() { self.hub.inner.leader_of(self.journal) } else { None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_put_down_to_what_took_half_of_it() {
        let ms = Duration::from_millis;
        assert_eq!(reason(ms(700), ms(0), ms(1200)), "journal or log room");
        assert_eq!(reason(ms(100), ms(900), ms(1200)), "disk");
        assert_eq!(reason(ms(100), ms(100), ms(1200)), "processor");
    }
}
