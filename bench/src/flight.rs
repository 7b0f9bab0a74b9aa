//! What one connection sends: when the next batch is due, how many may be on their way, how long each took.
//!
//! Both drivers take their batches from here, so pace, window and clock are the same for every broker. Latency counts from the moment at which a
//! batch was meant to be sent, not from when there was room for it, if the cell is paced (else a slow broker would be asked less often and
//! look better).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::BytesMut;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::batches::{Stamp, Templates};

/// Microseconds up to ten minutes, to three digits. Its bounds are fixed: what records into one that grows on demand by saturation is cut off.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

/// The terms of a cell, for one connection.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// The cell's beginning: stamps count from it.
    pub(crate) start: Instant,
    /// No batch is begun after so long.
    pub(crate) duration: Duration,
    /// Nor after so many.
    pub(crate) batches: u64,
    /// The number of the first one: those of a partition rise over all flights.
    pub(crate) first: u64,
    /// Time from one batch to the next; `None`: as fast as the window allows.
    pub(crate) interval: Option<Duration>,
    /// Batches that may be unacknowledged.
    pub(crate) window: usize,
    /// The partitions that it sends to, in turn.
    pub(crate) partitions: Vec<i32>,
}

/// A batch that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) partition: i32,
    pub(crate) stamp: Stamp,
}

/// What one connection has sent and what came of it.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) templates: Arc<Templates>,
    terms: Terms,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    next: u64,
    pending: HashMap<u64, Instant>,
    latency_us: Histogram<u64>,
    acknowledged: u64,
    last: Instant,
}

/// The end of a flight.
#[derive(Debug)]
pub(crate) struct Landed {
    /// Batches that were acknowledged.
    pub(crate) batches: u64,
    /// Microseconds from a batch's due time to its acknowledgement.
    pub(crate) latency_us: Histogram<u64>,
    /// When the last acknowledgement came.
    pub(crate) last: Instant,
}

enum Turn {
    Send(Outgoing),
    Wait(Duration),
    Full,
    Over,
}

impl Flight {
    pub(crate) fn new(templates: Arc<Templates>, terms: Terms) -> Result<Flight> {
        let latency_us = histogram()?;
        let last = terms.start;
        let state = State { next: terms.first, pending: HashMap::new(), latency_us, acknowledged: 0, last };
        Ok(Flight { templates, terms, state: Mutex::new(state), room: Notify::new() })
    }

    fn turn(&self) -> Turn {
        let now = Instant::now();
        let mut state = self.state.lock();
        let number = state.next;
        let elapsed = now.saturating_duration_since(self.terms.start);
        let due = self.terms.interval.map(|interval| interval * u32::try_from(number - self.terms.first).unwrap_or(u32::MAX));
        if number - self.terms.first >= self.terms.batches || due.unwrap_or(elapsed) >= self.terms.duration {
            return Turn::Over;
        }
        if let Some(due) = due.filter(|due| *due > elapsed) {
            return Turn::Wait(due - elapsed);
        }
        if state.pending.len() >= self.terms.window {
            return Turn::Full;
        }
        let intended = due.unwrap_or(elapsed);
        state.next += 1;
        state.pending.insert(number, self.terms.start + intended);
        let partition = self.terms.partitions[number as usize % self.terms.partitions.len()];
        Turn::Send(Outgoing { partition, stamp: Stamp { number, intended } })
    }

    /// The next batch, once it is due and there is room; `None` when the cell is over.
    pub(crate) async fn next(&self) -> Option<Outgoing> {
        loop {
            let room = self.room.notified();
            match self.turn() {
                Turn::Send(outgoing) => return Some(outgoing),
                Turn::Wait(wait) => tokio::time::sleep(wait).await,
                Turn::Full => room.await,
                Turn::Over => return None,
            }
        }
    }

    /// The next batch if it can be sent now.
    pub(crate) fn ready(&self) -> Option<Outgoing> {
        match self.turn() {
            Turn::Send(outgoing) => Some(outgoing),
            _ => None,
        }
    }

    /// Appends a batch's bytes.
    pub(crate) fn put(&self, out: &mut BytesMut, outgoing: Outgoing) {
        self.templates.put(out, outgoing.partition, outgoing.stamp);
    }

    /// Notes an acknowledgement.
    pub(crate) fn acknowledge(&self, number: u64) -> Result<()> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let intended = state.pending.remove(&number);
        ensure!(intended.is_some(), "batch {number} was acknowledged and is not on its way");
        let took = intended.map_or(Duration::ZERO, |intended| now.saturating_duration_since(intended));
        state.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        state.acknowledged += 1;
        state.last = now;
        drop(state);
        self.room.notify_one();
        Ok(())
    }

    /// Whether all batches of a cell that is over are acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.state.lock().pending.is_empty() && matches!(self.turn(), Turn::Over)
    }

    /// The first of its partitions.
    pub(crate) fn partition(&self) -> i32 {
        self.terms.partitions.first().copied().unwrap_or(0)
    }

    /// The result.
    pub(crate) fn land(&self) -> Result<Landed> {
        let state = self.state.lock();
        ensure!(state.pending.is_empty(), "{} batches were not acknowledged", state.pending.len());
        Ok(Landed { batches: state.acknowledged, latency_us: state.latency_us.clone(), last: state.last })
    }
}

/// Checks what a consumer reads of one topic: every record once, in order, as it was sent.
#[derive(Debug)]
pub(crate) struct Reading {
    templates: Arc<Templates>,
    start: Instant,
    /// The offset that comes next, by partition.
    next: HashMap<i32, i64>,
    last_number: HashMap<i32, u64>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) last: Instant,
}

impl Reading {
    pub(crate) fn new(templates: Arc<Templates>, start: Instant) -> Result<Reading> {
        let (next, last_number) = (HashMap::new(), HashMap::new());
        Ok(Reading { templates, start, next, last_number, records: 0, bytes: 0, latency_us: histogram()?, last: start })
    }

    /// Takes in batches of one partition that follow those before; those below the offset that is due are skipped.
    pub(crate) fn take(&mut self, partition: i32, bytes: &[u8]) -> Result<()> {
        let now = Instant::now();
        for found in tidegate_model::batch::batches(bytes) {
            let (header, place) = found?;
            let due = self.next.entry(partition).or_insert(0);
            if header.base_offset.0 < *due {
                continue;
            }
            ensure!(header.base_offset.0 == *due, "partition {partition} goes on at {}, not at {due}", header.base_offset.0);
            *due = header.last_offset().0 + 1;
            let stamp = self.templates.check(&header, &bytes[place.clone()])?;
            let before = self.last_number.insert(partition, stamp.number);
            let number = stamp.number;
            ensure!(
                before.is_none_or(|before| before < number),
                "partition {partition} is out of order: batch {number} after batch {before:?}, at offset {}",
                header.base_offset.0
            );
            let took = now.saturating_duration_since(self.start + stamp.intended);
            self.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            self.records += u64::try_from(header.record_count)?;
            self.bytes += place.len() as u64;
        }
        self.last = now;
        Ok(())
    }
}

/// The end of the last whole batch of `bytes`, and one past its last offset: Kafka cuts its answers anywhere.
pub(crate) fn whole_batches(bytes: &[u8]) -> (usize, Option<i64>) {
    let last = tidegate_model::batch::batches(bytes).map_while(Result::ok).last();
    last.map_or((0, None), |(header, place)| (place.end, Some(header.last_offset().0 + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::Shape;

    fn flight(terms: Terms) -> Flight {
        let shape = Shape { record_bytes: 100, keyed: false, batch_bytes: 4096 };
        Flight::new(Arc::new(Templates::build(shape, 2).unwrap()), terms).unwrap()
    }

    fn terms() -> Terms {
        let duration = Duration::from_secs(60);
        Terms { start: Instant::now(), duration, batches: 3, first: 0, interval: None, window: 2, partitions: vec![0, 1] }
    }

    #[tokio::test]
    async fn a_window_is_kept_and_a_flight_ends_with_its_last_acknowledgement() {
        let flight = flight(terms());
        assert_eq!(flight.next().await.unwrap().partition, 0);
        assert_eq!(flight.ready().unwrap().partition, 1);
        assert!(flight.ready().is_none(), "two are on their way");
        flight.acknowledge(1).unwrap();
        assert!(flight.acknowledge(1).is_err(), "one acknowledgement for each batch");
        assert_eq!(flight.next().await.unwrap().stamp.number, 2);
        assert!(flight.land().is_err());
        flight.acknowledge(0).unwrap();
        flight.acknowledge(2).unwrap();
        assert!(flight.next().await.is_none() && flight.is_done());
        assert_eq!(flight.land().unwrap().batches, 3);
    }

    #[test]
    fn a_flight_that_goes_on_after_another_one_has_later_numbers_and_as_many_batches() {
        let flight = flight(Terms { first: 7, window: 10, ..terms() });
        let numbers: Vec<_> = std::iter::from_fn(|| flight.ready()).map(|outgoing| outgoing.stamp.number).collect();
        assert_eq!(numbers, [7, 8, 9]);
    }

    #[test]
    fn a_late_batch_counts_from_when_it_was_due() {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let flight = flight(Terms { start, interval: Some(Duration::from_millis(400)), ..terms() });
        let numbers: Vec<_> = std::iter::from_fn(|| flight.ready()).map(|outgoing| outgoing.stamp.intended).collect();
        assert_eq!(numbers, [Duration::ZERO, Duration::from_millis(400)]);
        flight.acknowledge(0).unwrap();
        assert!(flight.state.lock().latency_us.max() >= 1_000_000);
    }

    #[test]
    fn a_reader_notices_what_is_missing_doubled_or_damaged() {
        let flight = flight(terms());
        let mut bytes = BytesMut::new();
        flight.put(&mut bytes, flight.ready().unwrap());
        let reading = || Reading::new(flight.templates.clone(), Instant::now()).unwrap();
        let mut good = reading();
        good.take(0, &bytes).unwrap();
        good.take(0, &bytes).unwrap();
        assert_eq!(good.records, flight.templates.records(), "what was read before is skipped");
        let mut damaged = bytes.clone();
        damaged[2000] ^= 1;
        assert!(reading().take(0, &damaged).is_err());
        let mut later = bytes.clone();
        later[7] = 1;
        assert!(reading().take(0, &later).is_err());
        assert_eq!(whole_batches(&bytes).0, bytes.len());
        assert_eq!(whole_batches(&bytes[..bytes.len() - 1]), (0, None));
    }
}
