//! The hot path: appending batches, and keeping the number of remembered producers bounded.

use tidegate_model::{ProducerId, TimestampMs, TopicPartition};

use super::batch::Batch;
use super::partition::{PartitionState, Place};
use super::{Applied, State};
use crate::entry::{AppendRun, Appended, Bodies, Outcome, Outcomes, Refusal, UnitOutcome};

/// Most producers remembered by a journal, over all its partitions; beyond, the ones unheard of for longest give way.
pub const MOST_PRODUCERS: usize = 200_000;

/// How many producers an entry looks at to forget them. More than an entry can add would be too few only for a moment.
const EXPIRED_PER_ENTRY: usize = 256;

impl State {
    /// Applies units of one append each.
    pub(crate) fn apply_run(&mut self, run: &AppendRun, bodies: &mut Bodies<'_>, applied: &mut Applied) {
        let mut digest = 0_u64;
        let mut position = run.position;
        let mut fresh: Vec<ProducerId> = Vec::new();
        let (index, time, producer_time, at) = (self.applied.index, self.time, self.producer_time(), run.at);
        let mut partition = self.partitions.get_mut(&at);
        let before = partition.as_ref().map(|partition| (partition.tail.firsts(), partition.high_watermark));
        for length in &run.lengths {
            let bytes = bodies.next(*length).unwrap_or_default();
            let place = Place { index, position, bytes: *length, time, producer_time };
            position += length;
            let result = match partition.as_deref_mut() {
                Some(partition) => append(partition, at, bytes, place, run.window),
                None => Err(Refusal::UnknownPartition { at }),
            };
            let outcome = match result {
                Ok((appended, crc, newcomer)) => {
                    digest = digest.rotate_left(7) ^ u64::from(crc) ^ appended.base.0 as u64;
                    fresh.extend(newcomer);
                    UnitOutcome::Applied(Outcomes::One(Outcome::Appended(appended)))
                }
                Err(refusal) => UnitOutcome::Refused { operation: 0, refusal: Box::new(refusal) },
            };
            applied.outcomes.push(outcome);
        }
        if let (Some((firsts, high_watermark)), Some(partition)) = (before, partition) {
            self.index.move_tail(at, firsts, partition.tail.firsts());
            if partition.high_watermark != high_watermark {
                applied.high_watermarks.push((at, partition.high_watermark));
            }
        }
        self.mix(digest);
        self.welcome(at, &fresh);
    }

    /// Appends the batch of an operation that was checked.
    pub(crate) fn append_one(
        &mut self,
        at: TopicPartition,
        bytes: &[u8],
        position: u32,
        window: u8,
        applied: &mut Applied,
    ) -> Result<Outcome, Refusal> {
        let (time, producer_time) = (self.time, self.producer_time());
        let place = Place { index: self.applied.index, position, bytes: bytes.len() as u32, time, producer_time };
        let partition = self.partitions.get_mut(&at).ok_or(Refusal::UnknownPartition { at })?;
        let before = partition.tail.firsts();
        let (appended, crc, newcomer) = append(partition, at, bytes, place, window)?;
        self.index.move_tail(at, before, partition.tail.firsts());
        if !appended.duplicate {
            applied.high_watermarks.push((at, partition.high_watermark));
        }
        self.mix(u64::from(crc) ^ appended.base.0 as u64);
        self.welcome(at, newcomer.as_slice());
        Ok(Outcome::Appended(appended))
    }

    /// Puts new producers into the queue of those to be forgotten some day, and makes room for them.
    pub(crate) fn welcome(&mut self, at: TopicPartition, fresh: &[ProducerId]) {
        let Some(partition) = self.partitions.get_mut(&at).filter(|_| !fresh.is_empty()) else {
            return;
        };
        for id in fresh {
            if let Some(producer) = partition.producers.get(id) {
                self.index.deadlines.insert((producer.deadline, at, *id));
            }
        }
        while partition.producers.len() > partition.limits.producers.max(1) as usize {
            let Some(id) = partition.stalest() else { break };
            if let Some(producer) = partition.forget(id) {
                self.index.deadlines.remove(&(producer.deadline, at, id));
            }
        }
        while self.index.deadlines.len() > MOST_PRODUCERS {
            self.forget_first();
        }
    }

    /// Forgets producers that were not heard of for their partition's time.
    pub(crate) fn expire_producers(&mut self) {
        let now = self.producer_time();
        for _ in 0..EXPIRED_PER_ENTRY {
            match self.index.deadlines.first() {
                Some((deadline, ..)) if *deadline <= now => self.revisit_first(),
                _ => return,
            }
        }
    }

    /// Forgets the first producer of the queue, or moves it back if it was heard of since.
    fn revisit_first(&mut self) {
        let now = self.producer_time();
        let Some((_, at, id)) = self.index.deadlines.pop_first() else { return };
        let Some(partition) = self.partitions.get_mut(&at) else { return };
        let expire_ms = partition.limits.expire_ms;
        let Some(producer) = partition.producers.get_mut(&id) else { return };
        producer.deadline = TimestampMs(producer.last_time.0.saturating_add(expire_ms));
        if producer.deadline > now {
            self.index.deadlines.insert((producer.deadline, at, id));
        } else {
            partition.forget(id);
        }
    }

    fn forget_first(&mut self) {
        let Some((_, at, id)) = self.index.deadlines.pop_first() else { return };
        if let Some(partition) = self.partitions.get_mut(&at) {
            partition.forget(id);
        }
    }
}

/// Appends one batch: what came of it, its CRC, and its producer if it was not known.
fn append(
    partition: &mut PartitionState,
    at: TopicPartition,
    bytes: &[u8],
    place: Place,
    window: u8,
) -> Result<(Appended, u32, Option<ProducerId>), Refusal> {
    let batch = Batch::read(bytes).map_err(|problem| Refusal::BadBatch { at, problem })?;
    let (appended, is_new) = partition.append(at, &batch, place, window)?;
    let newcomer = batch.sender.filter(|_| is_new).map(|sender| sender.producer);
    Ok((appended, batch.crc, newcomer))
}
