//! Producers: idempotent ones that send again what they are not sure of until they are, and a plain one; with duplicates and gaps on purpose.

use tidegate_broker::hub::{Append, AppendTicket, Appended, Error, InitProducer, ProducerIdentity};
use tidegate_checker::Outcome;
use tidegate_env::Random;
use tidegate_model::TopicPartition;

use crate::life::Session;
use crate::records::{Numbered, build};
use crate::world::{Kind, Pending, World};

/// Why a producer stops for this life.
pub(crate) struct Over;

/// What an error proves.
fn has_no_effect(error: &Error, submitted: bool) -> bool {
    match error {
        Error::StorageFull { .. } | Error::Throttled { .. } | Error::OutOfSequence { .. } | Error::ProducerFenced { .. } => true,
        Error::UnknownTopic { .. } | Error::UnknownPartition { .. } | Error::TopicUidMismatch { .. } => true,
        // Before the journal took it, nothing can have come of it.
        _ => !submitted,
    }
}

impl Session {
    /// One producer's life: so many rounds, each a burst to one partition.
    pub(crate) async fn produce(&self, number: usize, rounds: u64) -> Result<(), Over> {
        let identity = self.introduce(number).await?;
        for _ in 0..rounds {
            let (key, choice) = {
                let world = self.world.lock();
                (world.any_key(), world.random.below(24))
            };
            let Some((_, at)) = key else { return Err(Over) };
            let is_settled = self.world.lock().producers[number].lanes.get(&at).is_none_or(|lane| lane.pending.is_empty());
            match (identity, choice) {
                (Some(_), 0 | 1) if is_settled => self.repeat(number, at).await?,
                (Some(identity), 2) if is_settled => self.leave_gap(number, at, identity).await?,
                _ => self.burst(number, at, identity).await?,
            }
            if self.env.random.below(3) == 0 {
                self.pause(120).await;
            }
        }
        Ok(())
    }

    /// Gets the identity of an idempotent producer. One in six gives up what it is not sure of and begins anew.
    async fn introduce(&self, number: usize) -> Result<Option<ProducerIdentity>, Over> {
        let known = {
            let mut world = self.world.lock();
            let idempotent = world.producers[number].idempotent;
            if !idempotent || world.random.below(6) == 0 {
                let fresh = world.producer(idempotent);
                world.producers[number] = fresh;
            }
            if !idempotent {
                return Ok(None);
            }
            world.producers[number].identity
        };
        if known.is_some() {
            return Ok(known);
        }
        let window = self.env.random.below(3) as u32 * 4;
        let identity = self.hub.init_producer(InitProducer { window, ..InitProducer::default() }).await;
        let identity = identity.map_err(|error| self.stopped_by("InitProducer", &error))?;
        self.world.lock().producers[number].identity = Some(identity);
        Ok(Some(identity))
    }

    fn stopped_by(&self, what: &str, error: &Error) -> Over {
        self.world.lock().recorder.note(format!("{what}: {error}"));
        Over
    }

    /// Sends what is pending again, and new batches behind it, all before the first answer is awaited.
    async fn burst(&self, number: usize, at: TopicPartition, identity: Option<ProducerIdentity>) -> Result<(), Over> {
        let batches = self.world.lock().prepare(number, at, identity, self.true_time());
        let process = self.world.lock().producers[number].process;
        let mut under_way = Vec::new();
        let mut refused = false;
        for pending in batches {
            let id = self.world.lock().recorder.send(process, at, pending.records.clone());
            match self.hand_over(at, &pending).await {
                Ok(ticket) => under_way.push((id, pending, ticket)),
                Err(error) => {
                    self.settle(number, at, id, &pending, Err((error, false)));
                    refused = true;
                    break;
                }
            }
        }
        for (id, pending, ticket) in under_way {
            let answer = ticket.await;
            self.settle(number, at, id, &pending, answer.map_err(|error| (error, true)));
        }
        if refused {
            self.pause(100).await;
        }
        Ok(())
    }

    async fn hand_over(&self, at: TopicPartition, pending: &Pending) -> Result<AppendTicket, Error> {
        let place = self.world.lock().topic_of(at).map(|topic| topic.place(at.partition));
        let place = place.ok_or_else(|| Error::UnknownTopic { topic: at.topic.to_string() })?;
        self.hub.submit(Append { at: place, batches: vec![pending.batch.clone()] }).await
    }

    /// Takes note of an answer. The flag of an error says whether the journal had taken the batch.
    fn settle(&self, number: usize, at: TopicPartition, id: u64, pending: &Pending, answer: Result<Appended, (Error, bool)>) {
        let now_ms = self.true_time();
        let mut world = self.world.lock();
        let recorder = world.recorder.clone();
        let (error, submitted) = match answer {
            Ok(appended) => {
                let base = Some(appended.base_offset.0).filter(|base| *base >= 0);
                recorder.sent(id, Outcome::Ok(base));
                world.stored(at, base, pending.records.len(), now_ms);
                if let Some(lane) = world.producers[number].lanes.get_mut(&at) {
                    lane.pending.retain(|other| other.sequence != pending.sequence);
                    lane.last = Some((pending.clone(), base));
                }
                return;
            }
            Err(error) => error,
        };
        let no_effect = has_no_effect(&error, submitted);
        recorder.sent(id, if no_effect { Outcome::Fail } else { Outcome::Info });
        if matches!(error, Error::Corrupt { .. } | Error::Internal { .. } | Error::ProducerFenced { .. }) {
            recorder.alarm(format!("an append was answered by: {error}"));
        }
        let producer = &mut world.producers[number];
        if !producer.idempotent {
            if !no_effect {
                let process = world.process();
                world.producers[number].process = process;
            }
            return;
        }
        let Some(lane) = producer.lanes.get_mut(&at) else { return };
        let is_first = lane.pending.first().is_some_and(|first| first.sequence == pending.sequence);
        if is_first && matches!(error, Error::OutOfSequence { .. }) {
            recorder.alarm(format!("{at}: the batch that follows was refused: {error}"));
        }
        if let Some(same) = lane.pending.iter_mut().find(|other| other.sequence == pending.sequence) {
            same.maybe_stored |= !no_effect;
        }
    }

    /// Sends a batch that was acknowledged once more: it must not be stored again.
    async fn repeat(&self, number: usize, at: TopicPartition) -> Result<(), Over> {
        let (process, last) = {
            let world = self.world.lock();
            let producer = &world.producers[number];
            (producer.process, producer.lanes.get(&at).and_then(|lane| lane.last.clone()))
        };
        let Some((pending, base)) = last else { return Ok(()) };
        let recorder = self.world.lock().recorder.clone();
        let id = recorder.send(process, at, pending.records.clone());
        let answer = match self.hand_over(at, &pending).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(appended) => {
                let again = Some(appended.base_offset.0).filter(|base| *base >= 0);
                recorder.sent(id, Outcome::Ok(again));
                if !appended.duplicate || (again.is_some() && base.is_some() && again != base) {
                    recorder.alarm(format!("{at}: a batch stored at {base:?} was sent again and stored at {again:?}"));
                }
            }
            Err(_) => recorder.sent(id, Outcome::Info),
        }
        Ok(())
    }

    /// Leaves out three sequence numbers: that must be refused.
    async fn leave_gap(&self, number: usize, at: TopicPartition, identity: ProducerIdentity) -> Result<(), Over> {
        let now_ms = self.true_time();
        let (process, pending, recorder) = {
            let mut world = self.world.lock();
            let next = world.producers[number].lanes.entry(at).or_default().next_sequence;
            let pending = new_batch(&mut world, 2, now_ms, Some(identity), next + 3);
            (world.producers[number].process, pending, world.recorder.clone())
        };
        let id = recorder.send(process, at, pending.records.clone());
        let answer = match self.hand_over(at, &pending).await {
            Ok(ticket) => ticket.await.map_err(|error| (error, true)),
            Err(error) => Err((error, false)),
        };
        match answer {
            Ok(appended) => {
                recorder.sent(id, Outcome::Ok(Some(appended.base_offset.0)));
                recorder.alarm(format!("{at}: a batch that leaves a gap in its producer's sequence was stored"));
            }
            Err((error, submitted)) => {
                let outcome = if has_no_effect(&error, submitted) { Outcome::Fail } else { Outcome::Info };
                recorder.sent(id, outcome);
            }
        }
        Ok(())
    }
}

pub(crate) fn new_batch(
    world: &mut World,
    values: u64,
    now_ms: i64,
    identity: Option<ProducerIdentity>,
    sequence: i32,
) -> Pending {
    let values = world.values(values);
    // Mostly small, some of several pages, so that batches lie across sectors and frames.
    let bytes = match world.random.below(8) {
        0 => world.random.below(9_000),
        1 | 2 => world.random.below(1_500),
        _ => world.random.below(200),
    };
    let numbered = identity.map(|identity| Numbered { id: identity.id, epoch: identity.epoch, sequence });
    let (batch, records) = build(&values, bytes as usize, now_ms, numbered);
    Pending { batch, records, sequence, maybe_stored: false }
}

impl World {
    /// What a producer has to send to a partition now: what it is not sure of, and some new batches.
    pub(crate) fn prepare(
        &mut self,
        number: usize,
        at: TopicPartition,
        identity: Option<ProducerIdentity>,
        now_ms: i64,
    ) -> Vec<Pending> {
        let mut lane = self.producers[number].lanes.remove(&at).unwrap_or_default();
        let most = identity.map_or(6, |identity| u64::from(identity.window));
        let fresh = 1 + self.random.below(most.min(6));
        for _ in 0..fresh {
            if lane.pending.len() as u64 >= most {
                break;
            }
            let values = 1 + self.random.below(4);
            let pending = new_batch(self, values, now_ms, identity, lane.next_sequence);
            lane.next_sequence += pending.records.len() as i32;
            lane.pending.push(pending);
        }
        let batches = lane.pending.clone();
        if identity.is_none() {
            lane.pending.clear();
        }
        self.producers[number].lanes.insert(at, lane);
        batches
    }

    /// An append was acknowledged: from now on its age counts.
    pub(crate) fn stored(&mut self, at: TopicPartition, base: Option<i64>, records: usize, now_ms: i64) {
        let keeps_an_hour = self.topic_of(at).is_some_and(|topic| topic.kind == Kind::ByTime);
        if let (Some(base), true) = (base, keeps_an_hour) {
            let sent = self.sent_at.entry(at).or_default();
            (base..base + records as i64).for_each(|offset| _ = sent.entry(offset).or_insert(now_ms));
        }
    }
}
