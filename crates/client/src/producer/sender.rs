//! The one task of a producer: owns the lanes and the stream, sends what may go, takes acknowledgements, opens the stream
//! again after it broke.
//!
//! It ends when the producer is closed and everything is decided. If it ends otherwise (fenced, or a panic), everything undecided fails.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_model::{ProducerEpoch, ProducerId};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::accumulator::LaneId;
use super::batch::{Batch, Identity};
use super::delivery::Appended;
use super::lane::{Answered, Lane};
use crate::{Client, Error, Result, Transport};

/// Frames between the sender and the connection. Their bytes are bounded by what the hub grants; this only says how often the sender is woken.
const FRAME_QUEUE: usize = 64;
/// How often deadlines are looked at while something is undecided.
const TICK: Duration = Duration::from_millis(100);

type Renewal = Pin<Box<dyn Future<Output = Result<(Identity, usize)>> + Send>>;

struct Sender {
    shared: Arc<Shared>,
    /// A connection of its own.
    service: ProducerServiceClient<Transport>,
    lanes: Vec<Lane>,
    /// Lanes that may have something to send.
    runnable: HashSet<LaneId>,
    /// Lanes that wait for a time or for an identity.
    troubled: HashSet<LaneId>,
    /// The lane and the bytes of each frame in flight.
    frames: HashMap<u64, (LaneId, u64)>,
    next_request: u64,
    in_flight_bytes: u64,
    identity: Option<Identity>,
    window: usize,
    /// A new identity on its way.
    renewal: Option<Renewal>,
    failed_attempts: u32,
    tick_at: Instant,
    look_up_at: Instant,
}

/// What the open stream allows.
struct Stream {
    frames: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: tonic::Streaming<v1::ProduceStreamResponse>,
    /// 0 until the hub has said.
    max_in_flight_bytes: u64,
    closing: bool,
}

/// Why a session ended.
enum End {
    /// Closed and done.
    Done,
    /// The stream broke: open another.
    Broken(Error),
    /// A newer incarnation of this producer exists.
    Fenced(Failure),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Broken(error)
    }
}

/// Runs the producer until it is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let _guard = FailOnEnd(shared.clone());
    let mut sender = Sender::new(shared);
    while !sender.shared.accumulator.lock().is_done() {
        match sender.session().await {
            End::Done => break,
            End::Broken(error) => sender.broken(error).await,
            End::Fenced(failure) => {
                sender.fail(&failure);
                break;
            }
        }
    }
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
        let settings = shared.client.settings();
        let service = ProducerServiceClient::new(shared.client.new_transport())
            .max_decoding_message_size(settings.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        let look_up_at = Instant::now() + shared.settings.metadata_max_age;
        Sender {
            window: shared.settings.window(),
            shared,
            service,
            lanes: Vec::new(),
            runnable: HashSet::new(),
            troubled: HashSet::new(),
            frames: HashMap::new(),
            next_request: 0,
            in_flight_bytes: 0,
            identity: None,
            renewal: None,
            failed_attempts: 0,
            tick_at: Instant::now(),
            look_up_at,
        }
    }

    /// One stream's life.
    async fn session(&mut self) -> End {
        match self.try_session().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn try_session(&mut self) -> Result<End, End> {
        // Nothing is opened for a producer that sends nothing.
        while self.shared.accumulator.lock().is_idle() {
            if self.shared.accumulator.lock().is_done() {
                return Ok(End::Done);
            }
            self.shared.wake.notified().await;
        }
        if self.shared.settings.idempotent && self.identity.is_none() {
            let (identity, window) = initialise(&self.shared, None).await?;
            self.identity = Some(identity);
            self.window = window;
        }
        let mut stream = self.open().await?;
        loop {
            let now = Instant::now();
            if now >= self.wake_at() {
                self.tick(now)?;
            }
            self.take_in(now);
            self.renew_identity();
            let blocked = self.send(&mut stream, now);
            if self.shared.accumulator.lock().is_done() {
                return Ok(End::Done);
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                answer = stream.answers.message() => self.answer(&mut stream, answer)?,
                () = self.shared.wake.notified() => {}
                renewed = renewal(&mut self.renewal) => self.renewed(renewed)?,
                () = room(&stream.frames), if blocked => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    async fn open(&mut self) -> Result<Stream, End> {
        let (frames, receiver) = mpsc::channel(FRAME_QUEUE);
        let call = self.service.produce_stream(ReceiverStream::new(receiver));
        let limit = self.shared.client.settings().connect_timeout * 2;
        let response = tokio::time::timeout(limit, call).await.map_err(|_| {
            let message = format!("the hub did not open a stream within {limit:?}");
            Error::from(Failure::new(Reason::Unavailable, message))
        })?;
        let answers = response.map_err(Error::from)?.into_inner();
        Ok(Stream { frames, answers, max_in_flight_bytes: 0, closing: false })
    }

    /// Moves full and overdue batches into their lanes.
    fn take_in(&mut self, now: Instant) {
        let taken = self.shared.accumulator.lock().take(now);
        for (lane, batch) in taken {
            while self.lanes.len() <= lane {
                self.lanes.push(Lane::new(self.shared.settings.idempotent));
            }
            self.lanes[lane].push(batch);
            self.runnable.insert(lane);
        }
    }

    /// Sends what may go. True if frames are left because the connection takes no more at present.
    fn send(&mut self, stream: &mut Stream, now: Instant) -> bool {
        if stream.closing || stream.max_in_flight_bytes == 0 {
            return false;
        }
        let lanes: Vec<LaneId> = self.runnable.iter().copied().collect();
        for lane in lanes {
            loop {
                if self.in_flight_bytes >= stream.max_in_flight_bytes {
                    return false;
                }
                let Ok(permit) = stream.frames.try_reserve() else {
                    return true;
                };
                let id = self.next_request;
                match self.lanes[lane].next_frame(id, self.window, self.identity, now) {
                    None => {
                        self.runnable.remove(&lane);
                        break;
                    }
                    Some(Ok((bytes, batch))) => {
                        self.next_request += 1;
                        self.in_flight_bytes += bytes.len() as u64;
                        self.frames.insert(id, (lane, bytes.len() as u64));
                        permit.send(frame(id, batch, bytes));
                    }
                    Some(Err(bad)) => self.shared.decide(bad.0, bad.1),
                }
            }
        }
        false
    }

    fn answer(
        &mut self,
        stream: &mut Stream,
        answer: Result<Option<v1::ProduceStreamResponse>, tonic::Status>,
    ) -> Result<(), End> {
        let Some(message) = answer.map_err(Error::from)? else {
            let ended = Failure::new(Reason::Unavailable, "the hub ended the stream");
            return Err(Error::from(ended).into());
        };
        if let Some(opened) = message.opened {
            stream.max_in_flight_bytes = opened.max_in_flight_bytes.max(1);
        }
        stream.closing |= message.closing.is_some();
        let now = Instant::now();
        for ack in message.acks {
            self.failed_attempts = 0;
            self.acknowledged(ack, now)?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: v1::ProduceAck, now: Instant) -> Result<(), End> {
        let Some((lane, bytes)) = self.frames.remove(&ack.request_id) else {
            tracing::warn!(request_id = ack.request_id, "the hub acknowledged a frame that is not in flight");
            return Ok(());
        };
        self.in_flight_bytes -= bytes;
        let request_id = ack.request_id;
        let answer = match ack.error {
            Some(error) => Err(Failure::from(error)),
            None => Ok(Appended {
                base_offset: ack.base_offset,
                log_append_time_ms: ack.log_append_time_ms,
                duplicate: ack.duplicate,
            }),
        };
        let backoff = &self.shared.client.settings().backoff;
        let Answered { decided, fenced } = self.lanes[lane].answered(request_id, answer, now, backoff);
        self.runnable.insert(lane);
        if self.lanes[lane].is_troubled() {
            self.troubled.insert(lane);
        }
        for (batch, result) in decided {
            self.shared.decide(batch, result);
        }
        match fenced {
            // A lane may still be under an identity that this producer itself has replaced: then it takes the new one.
            Some(_) if self.lanes[lane].take_newer(self.identity) => Ok(()),
            Some(failure) => Err(End::Fenced(failure)),
            None => Ok(()),
        }
    }

    /// Gives lanes whose sequence is broken the newest identity, or asks for one.
    fn renew_identity(&mut self) {
        let Some(current) = self.identity else { return };
        let mut ask = false;
        self.troubled.retain(|id| self.lanes[*id].is_troubled());
        for id in &self.troubled {
            let lane = &mut self.lanes[*id];
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
                self.identity = Some(identity);
                self.window = window;
                Ok(())
            }
            Err(Error::Hub(failure)) if failure.reason == Reason::ProducerFenced => Err(End::Fenced(failure)),
            Err(error) => Err(End::Broken(error)),
        }
    }

    fn wake_at(&self) -> Instant {
        let accumulator = self.shared.accumulator.lock();
        let tick = if accumulator.is_idle() { self.look_up_at } else { self.tick_at };
        let lingers = accumulator.next_linger().into_iter();
        let retries = self.troubled.iter().filter_map(|id| self.lanes[*id].ready_at());
        lingers.chain(retries).fold(tick.min(self.look_up_at), Instant::min)
    }

    /// Looks at deadlines.
    fn tick(&mut self, now: Instant) -> Result<(), End> {
        self.tick_at = now + TICK;
        let stuck = self.lanes.iter().any(|lane| lane.is_stuck(now));
        self.expire(now);
        for id in &self.troubled {
            if self.lanes[*id].ready_at().is_some_and(|at| at <= now) {
                self.runnable.insert(*id);
            }
        }
        if now >= self.look_up_at {
            self.look_up_at = now + self.shared.settings.metadata_max_age;
            let shared = self.shared.clone();
            tokio::spawn(async move {
                let topics = shared.accumulator.lock().topic_names();
                if let Err(error) = shared.look_up(topics).await {
                    tracing::debug!("metadata could not be looked up again: {error}");
                }
            });
        }
        if stuck {
            let message = "the hub acknowledged nothing until a batch's deadline";
            return Err(Error::from(Failure::new(Reason::TimedOut, message)).into());
        }
        Ok(())
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.shared.settings.delivery_timeout;
        for (id, lane) in self.lanes.iter_mut().enumerate() {
            for (batch, result) in lane.expire(now, timeout) {
                self.shared.decide(batch, result);
            }
            if lane.is_troubled() {
                self.troubled.insert(id);
            }
        }
    }

    /// After a stream broke: everything undecided goes back in order; then waits, with an eye on deadlines.
    async fn broken(&mut self, error: Error) {
        self.frames.clear();
        self.in_flight_bytes = 0;
        self.renewal = None;
        for (id, lane) in self.lanes.iter_mut().enumerate() {
            lane.stream_broke();
            if !lane.is_idle() {
                self.runnable.insert(id);
            }
        }
        let now = Instant::now();
        self.take_in(now);
        self.expire(now);
        if !error.is_retryable() {
            tracing::warn!("the hub refuses the producer: {error}");
            self.give_up_all(&error);
            return;
        }
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        let settings = self.shared.client.settings();
        let wait = match &error {
            Error::Hub(failure) => failure.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let wait = wait.max(settings.backoff.delay(self.failed_attempts));
        tracing::debug!(?wait, "produce stream broke: {error}");
        tokio::time::sleep(wait).await;
        self.expire(Instant::now());
    }

    /// Nothing that was sent so far can be delivered.
    fn give_up_all(&mut self, error: &Error) {
        for lane in &mut self.lanes {
            let given_up: Vec<Batch> = lane.drain().collect();
            for batch in given_up {
                self.shared.decide(batch, Err(error.clone()));
            }
            *lane = Lane::new(self.shared.settings.idempotent);
        }
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

/// Waits until the connection takes a frame.
async fn room(frames: &mpsc::Sender<v1::ProduceStreamRequest>) {
    // An error means that the stream is gone, which its answers will say.
    if frames.reserve().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a new identity if one is on its way, else for ever.
async fn renewal(pending: &mut Option<Renewal>) -> Result<(Identity, usize)> {
    match pending {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
    }
}

/// Asks for a new epoch.
async fn renew(shared: &Shared, old: Identity) -> Result<(Identity, usize)> {
    match initialise(shared, Some(old)).await {
        // The answer to an earlier try may have been lost. Nobody else can have a nameless id, so another one does as well.
        Err(Error::Hub(failure)) if failure.reason == Reason::ProducerFenced && shared.settings.name.is_none() => {
            initialise(shared, None).await
        }
        other => other,
    }
}

/// Asks for an identity, or a new epoch of one: and how many batches a partition may have in flight.
async fn initialise(shared: &Shared, old: Option<Identity>) -> Result<(Identity, usize)> {
    let client: &Client = &shared.client;
    let request = v1::InitProducerRequest {
        name: shared.settings.name.clone().unwrap_or_default(),
        max_in_flight_batches: shared.settings.max_in_flight_batches,
        producer_id: old.map(|old| old.id.0),
        producer_epoch: old.map(|old| old.epoch.0.into()),
    };
    let service = ProducerServiceClient::new(client.transport());
    let answer = client
        .retry(request, |request| {
            let mut service = service.clone();
            async move { service.init_producer(request).await }
        })
        .await?;
    let epoch = i16::try_from(answer.producer_epoch)
        .map_err(|_| Failure::new(Reason::Internal, format!("the hub gave out producer epoch {}", answer.producer_epoch)))?;
    let granted = answer.max_in_flight_batches.clamp(1, shared.settings.max_in_flight_batches);
    Ok((Identity { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(epoch) }, granted as usize))
}

fn frame(request_id: u64, batch: &Batch, bytes: Bytes) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest {
        request_id,
        topic: batch.outcome.topic.to_string(),
        partition: batch.outcome.partition,
        payload: Some(v1::produce_stream_request::Payload::Batches(bytes)),
        ..Default::default()
    }
}
