//! The one task of a producer: owns the lanes and the stream, sends what may go, takes acknowledgements, opens the stream
//! again after it broke.
//!
//! It ends when the producer is closed and everything is decided. If it ends otherwise (fenced, or a panic), everything undecided fails.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::accumulator::LaneId;
use super::batch::{Batch, Identity};
use super::delivery::Appended;
use super::identity::{Renewal, initialise, renew, renewal};
use super::lane::{Answered, Lane};
use super::links::{Event, LinkId, Links, Room};
use super::unacknowledged::{finish, handed_over, note_refusal};
use crate::{Error, Result};

/// How often deadlines are looked at while something is undecided.
const TICK: Duration = Duration::from_millis(100);
/// Metadata key of NOT_LEADER: where the leader is.
const LEADER_ENDPOINT: &str = "leader_endpoint";

/// A partition's lane and the streams that it uses. What is in flight is on `link`, all of it: a lane goes over to the stream that it wants
/// when everything is answered, so a partition's batches never overtake each other.
struct Place {
    lane: Lane,
    topic: Arc<str>,
    partition: i32,
    link: LinkId,
    wanted: LinkId,
}

struct Sender {
    shared: Arc<Shared>,
    links: Links,
    places: Vec<Place>,
    /// Lanes that may have something to send.
    runnable: HashSet<LaneId>,
    /// Lanes that wait for a time or for an identity.
    troubled: HashSet<LaneId>,
    /// The lane and the bytes of each frame in flight.
    frames: HashMap<u64, (LaneId, u64)>,
    next_request: u64,
    identity: Option<Identity>,
    window: usize,
    /// A new identity on its way.
    renewal: Option<Renewal>,
    /// No identity is asked for before.
    renew_at: Option<Instant>,
    failed_attempts: u32,
    tick_at: Instant,
    look_up_at: Instant,
    /// What the lanes' streams were chosen by.
    leaders_version: u64,
    /// When they are to be chosen again, because a broker need not be left alone any more.
    choose_at: Option<Instant>,
    refresh: Option<JoinHandle<()>>,
    /// Why it is not known whether the hub has dealt with all that was sent without acknowledgement.
    unconfirmed: Option<Error>,
}

/// Why the producer's task ends.
enum End {
    /// Closed and done.
    Done,
    /// A newer incarnation of this producer exists.
    Fenced(Failure),
}

/// Runs the producer until it is closed.
///
/// # Errors
/// What was sent without acknowledgement may not have reached the hub.
pub(super) async fn run(shared: Arc<Shared>) -> Result<()> {
    let _guard = FailOnEnd(shared.clone());
    let mut sender = Sender::new(shared);
    match sender.work().await {
        End::Fenced(failure) => sender.fail(&failure),
        End::Done if sender.shared.settings.acknowledged => {}
        End::Done => {
            let finished = finish(&sender.shared, &mut sender.links).await;
            return sender.unconfirmed.map_or(finished, Err);
        }
    }
    Ok(())
}

/// However the task ends, nobody waits for ever.
struct FailOnEnd(Arc<Shared>);

impl Drop for FailOnEnd {
    fn drop(&mut self) {
        let reason = {
            let accumulator = self.0.accumulator.lock();
            accumulator.closed_because().unwrap_or("its task ended").to_owned()
        };
        let undecided = self.0.accumulator.lock().fail(&reason);
        for outcome in undecided.into_values() {
            outcome.resolve(Err(Error::Closed { reason: reason.clone() }));
        }
        self.0.memory.close();
    }
}

impl Sender {
    fn new(shared: Arc<Shared>) -> Self {
        let look_up_at = Instant::now() + shared.settings.look_up_every();
        Sender {
            window: shared.settings.window(),
            links: Links::new(shared.client.clone()),
            shared,
            places: Vec::new(),
            runnable: HashSet::new(),
            troubled: HashSet::new(),
            frames: HashMap::new(),
            next_request: 0,
            identity: None,
            renewal: None,
            renew_at: None,
            failed_attempts: 0,
            tick_at: Instant::now(),
            look_up_at,
            leaders_version: 0,
            choose_at: None,
            refresh: None,
            unconfirmed: None,
        }
    }

    async fn work(&mut self) -> End {
        loop {
            match self.turn().await {
                Ok(false) => {}
                Ok(true) => return End::Done,
                Err(end) => return end,
            }
        }
    }

    /// Does what can be done and waits for the next event. True when all is done.
    async fn turn(&mut self) -> Result<bool, End> {
        let now = Instant::now();
        if now >= self.wake_at() {
            self.tick(now);
        }
        self.choose_streams(now);
        self.take_in(now);
        self.renew_identity(now);
        let full = self.send(now);
        if self.shared.accumulator.lock().is_done() {
            return Ok(true);
        }
        let wake_at = self.wake_at();
        tokio::select! {
            biased;
            (link, event) = self.links.event() => match event {
                Event::Answer(Some(message)) => self.answer(link, message)?,
                Event::Answer(None) => {
                    let ended = Failure::new(Reason::Unavailable, "the hub ended the stream");
                    self.broken(link, ended.into());
                }
                Event::Failed(error) => self.broken(link, error),
            },
            () = self.shared.wake.notified() => {}
            renewed = renewal(&mut self.renewal) => self.renewed(renewed)?,
            () = room(full) => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
        Ok(false)
    }

    /// Moves full and overdue batches into their lanes.
    fn take_in(&mut self, now: Instant) {
        let taken = self.shared.accumulator.lock().take(now);
        for (id, batch) in taken {
            while self.places.len() <= id {
                let lane = Lane::new(self.shared.settings.idempotent);
                self.places.push(Place { lane, topic: Arc::from(""), partition: 0, link: 0, wanted: 0 });
            }
            let place = &mut self.places[id];
            if place.topic.is_empty() {
                place.topic = batch.outcome.topic.clone();
                place.partition = batch.outcome.partition;
                place.wanted = self.links.to(self.shared.client.leader(&place.topic, place.partition));
                place.link = place.wanted;
            }
            place.lane.push(batch);
            self.runnable.insert(id);
        }
    }

    /// Lets each lane want the stream to its partition's leader, where anything about leaders is new.
    fn choose_streams(&mut self, now: Instant) {
        let version = self.shared.client.leaders().version();
        if version == self.leaders_version && self.choose_at.is_none_or(|at| now < at) {
            return;
        }
        self.leaders_version = version;
        self.choose_at = self.choose_at.filter(|at| now < *at);
        for id in 0..self.places.len() {
            self.choose_stream(id);
        }
    }

    fn choose_stream(&mut self, id: LaneId) {
        let place = &mut self.places[id];
        place.wanted = self.links.to(self.shared.client.leader(&place.topic, place.partition));
    }

    /// Puts a lane on the stream that it wants, if that can be. False while it has to wait for answers first.
    fn go_over(&mut self, id: LaneId, now: Instant) -> bool {
        let place = &mut self.places[id];
        if place.link == place.wanted {
            return true;
        }
        // What works is left only for what works.
        if !self.links.open(place.wanted, now) && self.links.is_open(place.link) {
            return true;
        }
        if place.lane.is_in_flight() {
            return false;
        }
        place.link = place.wanted;
        true
    }

    /// Sends what may go. The connections for which frames are left because they take no more at present.
    fn send(&mut self, now: Instant) -> Vec<mpsc::Sender<v1::ProduceStreamRequest>> {
        let mut full = Vec::new();
        if self.shared.settings.idempotent && self.identity.is_none() {
            return full;
        }
        let lanes: Vec<LaneId> = self.runnable.iter().copied().collect();
        for id in lanes {
            if !self.go_over(id, now) {
                self.runnable.remove(&id);
                continue;
            }
            let place = &mut self.places[id];
            loop {
                let (permit, in_flight_bytes) = match self.links.room(place.link, now) {
                    Room::For { permit, in_flight_bytes } => (permit, in_flight_bytes),
                    Room::Later(frames) => {
                        full.push(frames);
                        break;
                    }
                    Room::None => break,
                };
                let request = self.next_request;
                match place.lane.next_frame(request, self.window, self.identity, now) {
                    None => {
                        self.runnable.remove(&id);
                        break;
                    }
                    Some(Ok((bytes, batch))) => {
                        self.next_request += 1;
                        let acknowledged = self.shared.settings.acknowledged;
                        if acknowledged {
                            *in_flight_bytes += bytes.len() as u64;
                            self.frames.insert(request, (id, bytes.len() as u64));
                        }
                        permit.send(frame(request, batch, bytes, acknowledged));
                        if !acknowledged {
                            handed_over(&self.shared, &mut place.lane, request, now);
                        }
                    }
                    Some(Err(bad)) => self.shared.decide(bad.0, bad.1),
                }
            }
        }
        full
    }

    fn answer(&mut self, link: LinkId, message: v1::ProduceStreamResponse) -> Result<(), End> {
        let to = self.links.get(link);
        to.told(&message);
        if message.opened.is_some()
            && let Some(broker) = to.broker
        {
            self.shared.client.leaders().reached(broker);
        }
        if message.closing.is_some()
            && let Some(broker) = to.broker
        {
            self.choose_at = Some(self.shared.client.leaders().failed(broker));
        }
        if !message.acks.is_empty() {
            to.works();
        }
        let now = Instant::now();
        for ack in message.acks {
            self.acknowledged(link, ack, now)?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, link: LinkId, ack: v1::ProduceAck, now: Instant) -> Result<(), End> {
        let Some((id, bytes)) = self.frames.remove(&ack.request_id) else {
            if !self.shared.settings.acknowledged {
                if note_refusal(&self.shared, ack) == Some(Reason::NotLeader) {
                    self.refresh();
                }
                return Ok(());
            }
            tracing::warn!(request_id = ack.request_id, "the hub acknowledged a frame that is not in flight");
            return Ok(());
        };
        let link = self.links.get(link);
        link.in_flight_bytes = link.in_flight_bytes.saturating_sub(bytes);
        let request_id = ack.request_id;
        self.led_elsewhere(id, ack.leader);
        let answer = match ack.error {
            Some(error) => Err(self.refused(id, error.into())),
            None => Ok(Appended {
                base_offset: ack.base_offset,
                log_append_time_ms: ack.log_append_time_ms,
                duplicate: ack.duplicate,
            }),
        };
        let backoff = &self.shared.client.settings().backoff;
        let lane = &mut self.places[id].lane;
        let Answered { decided, fenced } = lane.answered(request_id, answer, now, backoff);
        self.runnable.insert(id);
        if lane.is_troubled() {
            self.troubled.insert(id);
        }
        for (batch, result) in decided {
            self.shared.decide(batch, result);
        }
        match fenced {
            // A lane may still be under an identity that this producer itself has replaced: then it takes the new one.
            Some(_) if lane.take_newer(self.identity) => Ok(()),
            Some(failure) => Err(End::Fenced(failure)),
            None => Ok(()),
        }
    }

    /// The broker that was asked has forwarded: goes to the leader from now on.
    fn led_elsewhere(&mut self, id: LaneId, leader: Option<u32>) {
        let Some(leader) = leader else { return };
        let place = &self.places[id];
        if self.shared.client.leaders().moved(&place.topic, place.partition, leader) {
            self.choose_stream(id);
        } else {
            self.refresh();
        }
    }

    /// A refusal, with what it says of the leader taken in.
    fn refused(&mut self, id: LaneId, mut failure: Failure) -> Failure {
        if failure.reason == Reason::NotLeader {
            let place = &self.places[id];
            let endpoint = failure.metadata.get(LEADER_ENDPOINT);
            let leaders = self.shared.client.leaders();
            if endpoint.is_some_and(|endpoint| leaders.moved_to(&place.topic, place.partition, endpoint)) {
                // Whoever leads is known: there is nothing to wait for.
                failure.retry_after = Some(Duration::ZERO);
                self.choose_stream(id);
            } else {
                self.refresh();
            }
        }
        failure
    }

    /// Looks up who leads what, in the background, once at a time.
    fn refresh(&mut self) {
        if self.refresh.as_ref().is_none_or(JoinHandle::is_finished) && !self.shared.client.settings().any_broker {
            let shared = self.shared.clone();
            self.refresh = Some(tokio::spawn(async move {
                shared.client.refresh().await;
                shared.wake.notify_one();
            }));
        }
    }

    /// Gives lanes whose sequence is broken the newest identity, or asks for one. The first is asked for when there is something to send.
    fn renew_identity(&mut self, now: Instant) {
        if !self.shared.settings.idempotent || self.renew_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(current) = self.identity else {
            if self.renewal.is_none() && !self.shared.accumulator.lock().is_idle() {
                let shared = self.shared.clone();
                self.renewal = Some(Box::pin(async move { initialise(&shared, None).await }));
            }
            return;
        };
        let mut ask = false;
        self.troubled.retain(|id| self.places[*id].lane.is_troubled());
        for id in &self.troubled {
            let lane = &mut self.places[*id].lane;
            match lane.wants_other_than() {
                Some(Some(old)) if old == current => ask = true,
                Some(_) => {
                    lane.adopt(current);
                    self.runnable.insert(*id);
                }
                None => {}
            }
        }
        if ask && self.renewal.is_none() {
            let shared = self.shared.clone();
            self.renewal = Some(Box::pin(async move { renew(&shared, current).await }));
        }
    }

    fn renewed(&mut self, renewed: Result<(Identity, usize)>) -> Result<(), End> {
        self.renewal = None;
        match renewed {
            Ok((identity, window)) => {
                (self.renew_at, self.failed_attempts) = (None, 0);
                self.identity = Some(identity);
                self.window = window;
            }
            Err(Error::Hub(failure)) if failure.reason == Reason::ProducerFenced && self.identity.is_some() => {
                return Err(End::Fenced(failure));
            }
            Err(error) if error.is_retryable() => {
                self.failed_attempts = self.failed_attempts.saturating_add(1);
                let delay = self.shared.client.settings().backoff.delay(self.failed_attempts);
                self.renew_at = Some(Instant::now() + delay);
            }
            Err(error) => self.refuse_all(&error),
        }
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let accumulator = self.shared.accumulator.lock();
        let tick = if accumulator.is_idle() { self.look_up_at } else { self.tick_at };
        let lingers = accumulator.next_linger().into_iter();
        let retries = self.troubled.iter().filter_map(|id| self.places[*id].lane.ready_at());
        let links = self.runnable.iter().filter_map(|id| self.links.ready_at(self.places[*id].link));
        let others = [self.renew_at.filter(|_| self.renewal.is_none()), self.choose_at];
        let times = lingers.chain(retries).chain(links).chain(others.into_iter().flatten());
        times.fold(tick.min(self.look_up_at), Instant::min)
    }

    /// Looks at deadlines.
    fn tick(&mut self, now: Instant) {
        self.tick_at = now + TICK;
        let stuck: HashSet<LinkId> =
            self.places.iter().filter(|place| place.lane.is_stuck(now)).map(|place| place.link).collect();
        self.expire(now);
        for id in &self.troubled {
            if self.places[*id].lane.ready_at().is_some_and(|at| at <= now) {
                self.runnable.insert(*id);
            }
        }
        if now >= self.look_up_at {
            self.look_up_at = now + self.shared.settings.look_up_every();
            let shared = self.shared.clone();
            tokio::spawn(async move {
                let topics = shared.accumulator.lock().topic_names();
                if let Err(error) = shared.look_up(topics).await {
                    tracing::debug!("metadata could not be looked up again: {error}");
                }
            });
        }
        for link in stuck {
            let message = "the hub acknowledged nothing until a batch's deadline";
            self.broken(link, Failure::new(Reason::TimedOut, message).into());
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.shared.settings.delivery_timeout;
        for (id, place) in self.places.iter_mut().enumerate() {
            for (batch, result) in place.lane.expire(now, timeout) {
                self.shared.decide(batch, result);
            }
            if place.lane.is_troubled() {
                self.troubled.insert(id);
            }
        }
    }

    /// After a stream broke: everything undecided on it goes back in order. Its broker may be gone, so leaders are looked up.
    fn broken(&mut self, link: LinkId, error: Error) {
        if !self.shared.settings.acknowledged && self.links.is_open(link) {
            self.unconfirmed.get_or_insert_with(|| error.clone());
        }
        for (id, place) in self.places.iter_mut().enumerate().filter(|(_, place)| place.link == link) {
            place.lane.stream_broke();
            if !place.lane.is_idle() {
                self.runnable.insert(id);
            }
        }
        let places = &self.places;
        self.frames.retain(|_, (id, _)| places[*id].link != link);
        let now = Instant::now();
        let left_alone = self.links.close(link, &error, now);
        self.take_in(now);
        self.expire(now);
        match left_alone {
            Some(until) => {
                self.choose_at = Some(self.choose_at.map_or(until, |at| at.min(until)));
                self.refresh();
            }
            None if !error.is_retryable() => self.refuse_all(&error),
            None => {}
        }
    }

    fn refuse_all(&mut self, error: &Error) {
        tracing::warn!("the hub refuses the producer: {error}");
        self.take_in(Instant::now());
        self.give_up_all(error);
    }

    /// Nothing that was sent so far can be delivered.
    fn give_up_all(&mut self, error: &Error) {
        // Late answers would be to nothing.
        self.links = Links::new(self.shared.client.clone());
        for place in &mut self.places {
            place.wanted = self.links.to(self.shared.client.leader(&place.topic, place.partition));
            place.link = place.wanted;
            let given_up: Vec<Batch> = place.lane.drain().collect();
            for batch in given_up {
                self.shared.decide(batch, Err(error.clone()));
            }
            place.lane = Lane::new(self.shared.settings.idempotent);
        }
        self.frames.clear();
        // Burned sequences must not be used again.
        self.identity = None;
    }

    fn fail(&mut self, failure: &Failure) {
        let error = Error::Hub(failure.clone());
        self.shared.accumulator.lock().close_because(&failure.message);
        self.take_in(Instant::now());
        self.give_up_all(&error);
    }
}

/// Waits until one of these connections takes a frame; for ever if there is none.
async fn room(full: Vec<mpsc::Sender<v1::ProduceStreamRequest>>) {
    let waits = full.into_iter().map(|frames| {
        Box::pin(async move {
            // An error means that the stream is gone, which its answers will say.
            if frames.reserve().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        std::future::pending::<()>().await;
    }
    futures::future::select_all(waits).await;
}

fn frame(request_id: u64, batch: &Batch, bytes: Bytes, acknowledged: bool) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest {
        request_id,
        no_acknowledgement: !acknowledged,
        topic: batch.outcome.topic.to_string(),
        partition: batch.outcome.partition,
        payload: Some(v1::produce_stream_request::Payload::Batches(bytes)),
        ..Default::default()
    }
}
