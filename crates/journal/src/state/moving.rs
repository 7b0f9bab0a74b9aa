//! A partition's move to another journal, as far as the two journals are concerned: the old home is sealed where it ends, the new one goes on from
//! there with what is remembered of producers.
//!
//! Both steps may be done again: sealing answers the same end, adopting a generation that is open changes nothing. Nothing is appended to a sealed
//! home, and its epoch stays, so that the new home's epochs are greater than all that were served.

use tidegate_model::{Offset, TimestampMs, TopicPartition};

use super::partition::PartitionState;
use super::producers::{ProducerState, Remembered};
use super::{Applied, MOST_PRODUCERS, State};
use crate::entry::{CarriedBatch, CarriedProducer, Outcome, Refusal, Sealed};

/// Most bytes that producers take along. Those heard of last go first; what stays behind counts as forgotten.
pub const CARRIED_BYTES: usize = 512 << 10;
/// About what a producer and one of its batches take.
const PRODUCER_BYTES: usize = 24;
const BATCH_BYTES: usize = 20;

impl State {
    pub(crate) fn check_seal(&self, at: TopicPartition, given: u32) -> Result<(), Refusal> {
        match self.partitions.get(&at).map(|partition| partition.generation) {
            None => Err(Refusal::UnknownPartition { at }),
            Some(current) if current != given => Err(Refusal::StaleGeneration { at, given, current }),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn seal(&mut self, at: TopicPartition, applied: &mut Applied) -> Outcome {
        let Some(partition) = self.partitions.get_mut(&at) else { return Outcome::Done };
        partition.sealed = true;
        applied.changed.push(at);
        // Those who wait for more look again, and find the next home.
        applied.high_watermarks.push((at, partition.high_watermark));
        Outcome::Sealed(Box::new(partition.carried()))
    }

    pub(crate) fn check_adopt(&self, at: TopicPartition, given: u32, sealed: &Sealed) -> Result<(), Refusal> {
        let invalid = |field, problem: &str| Err(Refusal::Invalid { field, problem: problem.to_owned() });
        self.check_open(at, given, sealed.end, sealed.epoch, &sealed.limits)?;
        if sealed.producers.len() > MOST_PRODUCERS || sealed.producers.iter().any(|producer| producer.id.0 < 0) {
            return invalid("sealed.producers", "are too many, or one has no id");
        }
        if sealed.producers.iter().any(|producer| producer.batches.iter().any(|batch| batch.base >= sealed.end)) {
            return invalid("sealed.producers", "have batches at or above the end");
        }
        if sealed.epoch.0 == i32::MAX { invalid("sealed.epoch", "has no next one") } else { Ok(()) }
    }

    pub(crate) fn adopt(&mut self, at: TopicPartition, generation: u32, sealed: &Sealed, applied: &mut Applied) {
        applied.changed.push(at);
        if self.partitions.contains_key(&at) {
            return;
        }
        let epoch = tidegate_model::LeaderEpoch(sealed.epoch.0.saturating_add(1));
        let mut partition = PartitionState::new(generation, sealed.end, epoch, sealed.limits);
        partition.forgotten = sealed.forgotten;
        let now = self.producer_time();
        let deadline = TimestampMs(now.0.saturating_add(sealed.limits.expire_ms));
        let mut fresh = Vec::with_capacity(sealed.producers.len());
        for carried in &sealed.producers {
            let mut producer = ProducerState::new(carried.epoch, carried.window, deadline);
            producer.last_time = now;
            let remembered = |batch: &CarriedBatch| Remembered { first: batch.first, last: batch.last, base: batch.base };
            producer.batches.extend(carried.batches.iter().map(remembered));
            partition.producers.insert(carried.id, producer);
            fresh.push(carried.id);
        }
        self.partitions.insert(at, partition);
        self.welcome(at, &fresh);
    }
}

impl PartitionState {
    /// Whether it goes on in another journal.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    fn carried(&self) -> Sealed {
        let mut newest: Vec<_> = self.producers.iter().collect();
        newest.sort_by_key(|(id, producer)| (std::cmp::Reverse(producer.last_time), **id));
        let (mut bytes, mut forgotten, mut producers) = (0, self.forgotten, Vec::new());
        for (id, producer) in newest {
            bytes += PRODUCER_BYTES + BATCH_BYTES * producer.batches.len();
            if bytes > CARRIED_BYTES {
                forgotten = forgotten.max(*id);
                continue;
            }
            let batch = |batch: &Remembered| CarriedBatch { first: batch.first, last: batch.last, base: batch.base };
            producers.push(CarriedProducer {
                id: *id,
                epoch: producer.epoch,
                window: producer.window,
                batches: producer.batches.iter().map(batch).collect(),
            });
        }
        producers.sort_by_key(|producer| producer.id);
        let end: Offset = self.high_watermark;
        Sealed { end, epoch: self.epoch, limits: self.limits, forgotten, producers }
    }
}
