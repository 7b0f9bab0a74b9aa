//! The way to one peer on one lane: a task that keeps a stream open, numbers requests and hands answers back.
//!
//! While there is no connection requests are refused at once, so that Raft knows. When a connection ends, all that waits for answers on it is
//! told; nothing is sent twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use tidegate_journal::raft::{Answer, Lane, Message, PeerError};
use tidegate_model::{BrokerId, JournalId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::Inner;
use super::codec::{Frame, Frames};

/// Requests that wait to be written; their bytes are bounded by the peer's budget.
const QUEUED: usize = 1024;
/// Frames handed to HTTP/2 ahead of its flow control.
const WRITING: usize = 16;
/// For a connection of the network alone: the peer's kernel answers that, however busy the peer is.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// For a connection on which the peer answers: at first, and at most. It doubles whenever it was not enough, for a peer, or a broker itself, that gets
/// little of its processors would else begin anew for ever.
const ANSWER_DEADLINE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What the server is told to be called; see peer.proto.
pub(super) const EXCHANGE: &str = "/tidegate.peer.v1.PeerService/Exchange";
pub(super) const HUB: &str = "tidegate-hub";
pub(super) const FROM: &str = "tidegate-from";
pub(super) const TO: &str = "tidegate-to";
pub(super) const LANE: &str = "tidegate-lane";

/// A handle to the task.
#[derive(Clone)]
pub(super) struct Way {
    to: BrokerId,
    budget: Arc<Semaphore>,
    budget_bytes: u32,
    queue: mpsc::Sender<Outgoing>,
}

struct Outgoing {
    request: Message,
    waiting: Waiting,
}

struct Waiting {
    answer: oneshot::Sender<Result<Message, PeerError>>,
    _permit: OwnedSemaphorePermit,
}

/// Begins to keep a stream to a peer.
pub(super) fn open(inner: &Arc<Inner>, to: BrokerId, lane: Lane, budget_bytes: u32) -> Way {
    let (queue, requests) = mpsc::channel(QUEUED);
    let task = Keeper { inner: Arc::downgrade(inner), to, lane, requests };
    let stopping = inner.stopping.clone();
    inner.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = task.run() => {}
        }
    });
    Way { to, budget: Arc::new(Semaphore::new(budget_bytes as usize)), budget_bytes, queue }
}

impl Way {
    pub(super) async fn send(self, request: Message) -> Result<Answer, PeerError> {
        let broken = {
            let to = self.to;
            move || PeerError::Broken { broker: to, reason: String::from("the connection was given up") }
        };
        let bytes = u32::try_from(request.bytes()).unwrap_or(u32::MAX).clamp(1, self.budget_bytes);
        let permit = self.budget.acquire_many_owned(bytes).await.map_err(|_| broken())?;
        let (sender, answer) = oneshot::channel();
        let outgoing = Outgoing { request, waiting: Waiting { answer: sender, _permit: permit } };
        self.queue.send(outgoing).await.map_err(|_| broken())?;
        Ok(async move { answer.await.unwrap_or_else(|_| Err(broken())) }.boxed())
    }
}

/// What the task owns.
struct Keeper {
    inner: Weak<Inner>,
    to: BrokerId,
    lane: Lane,
    requests: mpsc::Receiver<Outgoing>,
}

/// Why a stream ended.
enum Ended {
    Connection(String),
    Nobody,
}

impl Keeper {
    async fn run(mut self) {
        let (mut pause, mut deadline) = (FIRST_PAUSE, ANSWER_DEADLINE.0);
        loop {
            let Some(inner) = self.inner.upgrade() else { return };
            let clock = Arc::clone(&inner.env.clock);
            let connecting = connect(inner, self.to, self.lane, deadline).boxed();
            let reason = match self.refusing_until(connecting, "it is being connected").await {
                None => return,
                Some(Ok((frames, answers))) => {
                    (pause, deadline) = (FIRST_PAUSE, ANSWER_DEADLINE.0);
                    match self.drive(frames, answers).await {
                        Ended::Nobody => return,
                        Ended::Connection(reason) => reason,
                    }
                }
                Some(Err(Unconnected::Refused(reason))) => reason,
                Some(Err(Unconnected::Late(reason))) => {
                    deadline = (deadline * 2).min(ANSWER_DEADLINE.1);
                    reason
                }
            };
            tracing::debug!(broker = self.to.0, lane = ?self.lane, reason, "no connection to a peer");
            if self.refusing_until(clock.sleep(pause), &reason).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits, and answers requests meanwhile that there is no way. `None` if nobody sends any more.
    async fn refusing_until<T>(&mut self, mut wait: impl Future<Output = T> + Unpin, reason: &str) -> Option<T> {
        loop {
            tokio::select! {
                biased;
                done = &mut wait => return Some(done),
                next = self.requests.recv() => {
                    let error = PeerError::Unreachable { broker: self.to, reason: reason.to_owned() };
                    let _ = next?.waiting.answer.send(Err(error));
                }
            }
        }
    }

    async fn drive(&mut self, frames: mpsc::Sender<Frame>, mut answers: Streaming<Frame>) -> Ended {
        let (mut number, mut next) = (0, None::<Outgoing>);
        let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
        let reason = loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(frame)) => {
                        if let Some(waiting) = waiting.remove(&frame.id) {
                            let message = Message { journal: JournalId(frame.journal), chunks: frame.chunks };
                            let _ = waiting.answer.send(Ok(message));
                        }
                    }
                    Ok(None) => break String::from("the peer ended the call"),
                    Err(status) => break told(&status),
                },
                slot = frames.reserve(), if next.is_some() => match (slot, next.take()) {
                    (Ok(slot), Some(outgoing)) => {
                        number += 1;
                        let Outgoing { request, waiting: answer } = outgoing;
                        waiting.insert(number, answer);
                        slot.send(Frame { id: number, journal: request.journal.0, chunks: request.chunks });
                    }
                    _ => break String::from("the connection was closed"),
                },
                request = self.requests.recv(), if next.is_none() => match request {
                    Some(request) => next = Some(request),
                    None => return Ended::Nobody,
                },
            }
        };
        let error = PeerError::Broken { broker: self.to, reason: reason.clone() };
        for waiting in waiting.into_values().chain(next.map(|next| next.waiting)) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
        Ended::Connection(reason)
    }
}

/// Why there is no stream.
enum Unconnected {
    Refused(String),
    /// There may be one if more time is given.
    Late(String),
}

/// Opens a stream to where the peer is said to be.
async fn connect(
    inner: Arc<Inner>,
    to: BrokerId,
    lane: Lane,
    deadline: Duration,
) -> Result<(mpsc::Sender<Frame>, Streaming<Frame>), Unconnected> {
    let unknown = || Unconnected::Refused(format!("nobody said where broker {to} is"));
    let address = inner.addresses.read().get(&to).cloned().ok_or_else(unknown)?;
    let opened = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("`{address}` is no address: {error}"))?
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        exchange(&inner, channel, to, lane).await
    };
    tokio::select! {
        biased;
        opened = opened => opened.map_err(Unconnected::Refused),
        () = inner.env.clock.sleep(deadline) => Err(Unconnected::Late(format!("{address} did not answer within {deadline:?}"))),
    }
}

async fn exchange(
    inner: &Inner,
    channel: Channel,
    to: BrokerId,
    lane: Lane,
) -> Result<(mpsc::Sender<Frame>, Streaming<Frame>), String> {
    let (frames, written) = mpsc::channel(WRITING);
    let mut request = Request::new(ReceiverStream::new(written));
    let lane = if lane == Lane::Data { "data" } else { "control" };
    let names = [(HUB, inner.hub.to_string()), (FROM, inner.broker.to_string()), (TO, to.to_string()), (LANE, lane.to_owned())];
    for (name, value) in names {
        let value = MetadataValue::try_from(value).map_err(|error| error.to_string())?;
        request.metadata_mut().insert(name, value);
    }
    let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| chain(&error))?;
    let path = http::uri::PathAndQuery::from_static(EXCHANGE);
    let answers = grpc.streaming(request, path, Frames).await.map_err(|status| told(&status))?;
    Ok((frames, answers.into_inner()))
}

fn told(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
