//! Producers over the network: to any broker, each burst again, there or elsewhere, until it is acknowledged or its producer gives itself up.

use std::sync::Arc;

use futures::FutureExt;
use tidegate_broker::hub::{Append, Appended, Error, InitProducer, ProducerIdentity};
use tidegate_checker::Outcome;
use tidegate_env::Random;
use tidegate_env::sim::{EPOCH_MS, SimRandom};
use tidegate_model::TopicPartition;
use tidegate_proto::errors::Reason;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use crate::net::Lost;
use crate::producing::new_batch;
use crate::world::Pending;

/// The first producer's number on the network.
pub(super) const PRODUCERS: u32 = 1_000;
/// The number of brokers that clients try, from 1 on.
const KNOWN_BROKERS: u64 = 6;

/// What became of one batch.
enum Answer {
    Stored(Appended),
    Refused(Error),
    /// It never left.
    Unsent,
    Unknown,
}

/// What an error proves, whoever answered it.
fn has_no_effect(error: &Error) -> bool {
    match error {
        Error::StorageFull { .. } | Error::Throttled { .. } | Error::OutOfSequence { .. } | Error::ProducerFenced { .. } => true,
        Error::UnknownTopic { .. } | Error::UnknownPartition { .. } | Error::TopicUidMismatch { .. } => true,
        Error::NotLeader { .. } => true,
        Error::Told(failure) => matches!(
            failure.reason,
            Reason::StorageFull | Reason::Throttled | Reason::OutOfSequence | Reason::ProducerFenced | Reason::NotLeader
        ),
        _ => false,
    }
}

fn is_out_of_sequence(error: &Error) -> bool {
    match error {
        Error::OutOfSequence { .. } => true,
        Error::Told(failure) => failure.reason == Reason::OutOfSequence,
        _ => false,
    }
}

/// What no fault explains.
fn is_defect(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } | Error::Internal { .. } | Error::ProducerFenced { .. } | Error::InvalidBatch { .. } => true,
        Error::Told(failure) => {
            matches!(failure.reason, Reason::CorruptData | Reason::Internal | Reason::ProducerFenced | Reason::InvalidBatch)
        }
        _ => false,
    }
}

/// A broker that a client tries.
pub(super) fn any_broker(random: &SimRandom) -> u32 {
    1 + random.below(KNOWN_BROKERS) as u32
}

/// One producing client.
pub(super) struct Producing {
    pub(super) cluster: Arc<Cluster>,
    pub(super) number: usize,
    /// Ends the work.
    pub(super) stop: CancellationToken,
}

impl Producing {
    fn client(&self) -> u32 {
        PRODUCERS + self.number as u32
    }

    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.cluster.env.clock.monotonic().as_millis()).unwrap_or(i64::MAX)
    }

    /// Works until it is told to stop.
    pub(super) async fn run(self) {
        let mut broker = 1;
        while !self.stop.is_cancelled() {
            if self.cluster.random.below(8) == 0 {
                broker = any_broker(&self.cluster.random);
            }
            if !self.round(broker).await {
                broker = any_broker(&self.cluster.random);
                self.cluster.pause(150).await;
            }
            self.cluster.pause(400).await;
        }
    }

    /// Something to one partition. False: not by this broker.
    async fn round(&self, broker: u32) -> bool {
        let Ok(identity) = self.introduce(broker).await else { return false };
        let (key, choice) = {
            let world = self.cluster.world.lock();
            (world.any_key(), world.random.below(24))
        };
        let Some((_, at)) = key else { return true };
        let lanes_are_settled = |lanes: &crate::world::Producer| lanes.lanes.get(&at).is_none_or(|lane| lane.pending.is_empty());
        let is_settled = lanes_are_settled(&self.cluster.world.lock().producers[self.number]);
        match (identity, choice) {
            (Some(_), 0 | 1) if is_settled => self.repeat(broker, at).await,
            (Some(identity), 2) if is_settled => self.leave_gap(broker, at, identity).await,
            _ => self.burst(broker, at, identity).await,
        }
    }

    /// Gets the identity of an idempotent producer. One in twelve gives up what it is not sure of and begins anew.
    async fn introduce(&self, broker: u32) -> Result<Option<ProducerIdentity>, Lost> {
        let known = {
            let mut world = self.cluster.world.lock();
            let idempotent = world.producers[self.number].idempotent;
            if !idempotent {
                return Ok(None);
            }
            if world.random.below(12) == 0 {
                self.begin_anew(&mut world);
            }
            world.producers[self.number].identity
        };
        if known.is_some() {
            return Ok(known);
        }
        let window = self.cluster.random.below(3) as u32 * 4;
        let ask = move |hub: tidegate_broker::Hub| {
            async move { hub.init_producer(InitProducer { window, ..InitProducer::default() }).await }.boxed()
        };
        match self.cluster.call(self.client(), broker, ask).await? {
            Ok(identity) => {
                self.cluster.world.lock().producers[self.number].identity = Some(identity);
                Ok(Some(identity))
            }
            Err(error) => {
                if is_defect(&error) {
                    self.cluster.world.lock().recorder.alarm(format!("InitProducer was answered by: {error}"));
                }
                Err(Lost::Unreached)
            }
        }
    }

    fn begin_anew(&self, world: &mut crate::world::World) {
        let fresh = world.producer(world.producers[self.number].idempotent);
        world.producers[self.number] = fresh;
    }

    /// Sends batches of one partition in order, each before the answer to the last.
    async fn send(&self, broker: u32, at: TopicPartition, batches: &[Pending]) -> Vec<Answer> {
        let place = self.cluster.world.lock().topic_of(at).map(|topic| topic.place(at.partition));
        let Some(place) = place else { return batches.iter().map(|_| Answer::Unsent).collect() };
        let appends: Vec<Append> =
            batches.iter().map(|pending| Append { at: place.clone(), batches: vec![pending.batch.clone()] }).collect();
        let count = appends.len();
        let ask = move |hub: tidegate_broker::Hub| {
            async move {
                let mut tickets = Vec::with_capacity(count);
                for append in appends {
                    let ticket = hub.submit(append).await;
                    let is_refused = ticket.is_err();
                    tickets.push(ticket);
                    if is_refused {
                        break;
                    }
                }
                let mut answers = Vec::with_capacity(count);
                for ticket in tickets {
                    answers.push(match ticket {
                        Ok(ticket) => ticket.await.map_or_else(Answer::Refused, Answer::Stored),
                        Err(error) => Answer::Refused(error),
                    });
                }
                answers
            }
            .boxed()
        };
        let mut answers = match self.cluster.call(self.client(), broker, ask).await {
            Ok(answers) => answers,
            Err(Lost::Unreached) => Vec::new(),
            Err(Lost::Broken) => (0..count).map(|_| Answer::Unknown).collect(),
        };
        // What comes behind a batch that was refused at once was not handed over.
        answers.resize_with(count, || Answer::Unsent);
        answers
    }

    /// Sends what is pending again, and new batches behind it.
    async fn burst(&self, broker: u32, at: TopicPartition, identity: Option<ProducerIdentity>) -> bool {
        let batches = self.cluster.world.lock().prepare(self.number, at, identity, self.now_ms());
        let (process, recorder) = {
            let world = self.cluster.world.lock();
            (world.producers[self.number].process, world.recorder.clone())
        };
        let ids: Vec<u64> = batches.iter().map(|pending| recorder.send(process, at, pending.records.clone())).collect();
        let answers = self.send(broker, at, &batches).await;
        let mut all_stored = true;
        for ((id, pending), answer) in ids.into_iter().zip(&batches).zip(answers) {
            all_stored &= matches!(answer, Answer::Stored(_));
            self.settle(at, id, pending, answer);
        }
        all_stored
    }

    /// Takes note of an answer.
    fn settle(&self, at: TopicPartition, id: u64, pending: &Pending, answer: Answer) {
        let now_ms = self.now_ms();
        let mut world = self.cluster.world.lock();
        let recorder = world.recorder.clone();
        let (no_effect, error) = match answer {
            Answer::Stored(appended) => {
                let base = Some(appended.base_offset.0).filter(|base| *base >= 0);
                recorder.sent(id, Outcome::Ok(base));
                world.stored(at, base, pending.records.len(), now_ms);
                world.acknowledgements += 1;
                if let Some(base) = base {
                    world.told_end(at, base + pending.records.len() as i64);
                }
                if let Some(lane) = world.producers[self.number].lanes.get_mut(&at) {
                    lane.pending.retain(|other| other.sequence != pending.sequence);
                    lane.last = Some((pending.clone(), base));
                }
                return;
            }
            Answer::Refused(error) => (has_no_effect(&error), Some(error)),
            Answer::Unsent => (true, None),
            Answer::Unknown => (false, None),
        };
        recorder.sent(id, if no_effect { Outcome::Fail } else { Outcome::Info });
        if let Some(error) = error.as_ref().filter(|error| is_defect(error)) {
            recorder.alarm(format!("an append was answered by: {error}"));
        }
        if !world.producers[self.number].idempotent {
            if !no_effect {
                let process = world.process();
                world.producers[self.number].process = process;
            }
            return;
        }
        let Some(lane) = world.producers[self.number].lanes.get_mut(&at) else { return };
        let is_first = lane.pending.first().is_some_and(|first| first.sequence == pending.sequence);
        if is_first && error.as_ref().is_some_and(is_out_of_sequence) {
            recorder.alarm(format!("{at}: the batch that follows was refused: {error:?}"));
        }
        if let Some(same) = lane.pending.iter_mut().find(|other| other.sequence == pending.sequence) {
            same.maybe_stored |= !no_effect;
        }
    }

    /// Sends a batch that was acknowledged once more, mostly by another broker: it must not be stored again.
    async fn repeat(&self, broker: u32, at: TopicPartition) -> bool {
        let (process, last, recorder) = {
            let world = self.cluster.world.lock();
            let producer = &world.producers[self.number];
            (producer.process, producer.lanes.get(&at).and_then(|lane| lane.last.clone()), world.recorder.clone())
        };
        let Some((pending, base)) = last else { return true };
        let id = recorder.send(process, at, pending.records.clone());
        match self.send(broker, at, std::slice::from_ref(&pending)).await.pop() {
            Some(Answer::Stored(appended)) => {
                let again = Some(appended.base_offset.0).filter(|base| *base >= 0);
                recorder.sent(id, Outcome::Ok(again));
                if !appended.duplicate || (again.is_some() && base.is_some() && again != base) {
                    recorder.alarm(format!("{at}: a batch stored at {base:?} was sent again and stored at {again:?}"));
                }
                true
            }
            _ => {
                recorder.sent(id, Outcome::Info);
                false
            }
        }
    }

    /// Leaves out three sequence numbers: that must be refused.
    async fn leave_gap(&self, broker: u32, at: TopicPartition, identity: ProducerIdentity) -> bool {
        let now_ms = self.now_ms();
        let (process, pending, recorder) = {
            let mut world = self.cluster.world.lock();
            let next = world.producers[self.number].lanes.entry(at).or_default().next_sequence;
            let pending = new_batch(&mut world, 2, now_ms, Some(identity), next + 3);
            (world.producers[self.number].process, pending, world.recorder.clone())
        };
        let id = recorder.send(process, at, pending.records.clone());
        match self.send(broker, at, std::slice::from_ref(&pending)).await.pop() {
            Some(Answer::Stored(appended)) => {
                recorder.sent(id, Outcome::Ok(Some(appended.base_offset.0)));
                recorder.alarm(format!("{at}: a batch that leaves a gap in its producer's sequence was stored"));
            }
            Some(Answer::Refused(error)) if has_no_effect(&error) => recorder.sent(id, Outcome::Fail),
            Some(Answer::Unsent) => recorder.sent(id, Outcome::Fail),
            _ => {
                recorder.sent(id, Outcome::Info);
                // It may come late, when it leaves no gap any more.
                self.begin_anew(&mut self.cluster.world.lock());
            }
        }
        true
    }
}
