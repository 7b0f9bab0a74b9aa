//! The streams of a producer: one to each broker that leads something it writes, and one to any broker for what has no known leader. Each is opened when
//! something is to be sent there, and again, after a wait, when it broke.
//!
//! It knows brokers and frames, not lanes.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream as _;
use futures::future::BoxFuture;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Client, Error, Result};

/// Frames between the sender and a connection. Their bytes are bounded by what the hub grants; this only says how often the sender is woken.
const FRAME_QUEUE: usize = 64;

/// Number of a stream within its producer.
pub(super) type LinkId = usize;

/// An open stream.
#[derive(Debug)]
struct Stream {
    /// `None`: half-closed.
    frames: Option<mpsc::Sender<v1::ProduceStreamRequest>>,
    answers: tonic::Streaming<v1::ProduceStreamResponse>,
    /// Bytes that the hub lets be unanswered; 0 until it has said.
    max_in_flight_bytes: u64,
    /// The broker says goodbye: nothing more is sent.
    closing: bool,
}

enum State {
    Closed,
    Opening(BoxFuture<'static, Result<Stream>>),
    Open(Box<Stream>),
}

/// A stream to one broker, or to any.
pub(super) struct Link {
    /// `None`: any broker.
    pub(super) broker: Option<u32>,
    /// Where that broker was when the link was made.
    endpoint: Option<String>,
    state: State,
    pub(super) in_flight_bytes: u64,
    failed_attempts: u32,
    /// It is not opened before.
    retry_at: Option<Instant>,
    /// See [`Client::turn`].
    turn: u64,
}

/// Whether a frame may go.
pub(super) enum Room<'a> {
    /// It may.
    For {
        /// Takes the frame.
        permit: mpsc::Permit<'a, v1::ProduceStreamRequest>,
        /// Its bytes count here until it is answered.
        in_flight_bytes: &'a mut u64,
    },
    /// The connection takes no more at present.
    Later(mpsc::Sender<v1::ProduceStreamRequest>),
    /// Not before an event.
    None,
}

/// What happened on some link.
pub(super) enum Event {
    /// The broker said something; `None`: it ended the stream.
    Answer(Option<v1::ProduceStreamResponse>),
    /// A stream could not be opened, or it broke.
    Failed(Error),
}

/// All streams of a producer.
pub(super) struct Links {
    client: Client,
    links: Vec<Link>,
    /// Where the next look begins, so that no broker's answers wait behind another's.
    next: usize,
}

impl Links {
    pub(super) fn new(client: Client) -> Links {
        Links { client, links: Vec::new(), next: 0 }
    }

    /// The link to a broker where it is now; made if there is none.
    pub(super) fn to(&mut self, broker: Option<u32>) -> LinkId {
        let endpoint = broker.and_then(|broker| self.client.leaders().endpoint(broker));
        let known = self.links.iter().position(|link| link.broker == broker && link.endpoint == endpoint);
        known.unwrap_or_else(|| {
            self.links.push(Link {
                broker,
                endpoint,
                state: State::Closed,
                in_flight_bytes: 0,
                failed_attempts: 0,
                retry_at: None,
                turn: 0,
            });
            self.links.len() - 1
        })
    }

    pub(super) fn get(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id]
    }

    /// Opens a link if need be and if it is time. True if it is open.
    pub(super) fn open(&mut self, id: LinkId, now: Instant) -> bool {
        let link = &mut self.links[id];
        if matches!(link.state, State::Closed) && link.retry_at.is_none_or(|at| at <= now) {
            link.turn = self.client.turn();
            link.state = State::Opening(Box::pin(open(self.client.clone(), link.broker)));
        }
        matches!(link.state, State::Open(_))
    }

    pub(super) fn is_open(&self, id: LinkId) -> bool {
        matches!(self.links[id].state, State::Open(_))
    }

    /// Room for a frame on a link.
    pub(super) fn room(&mut self, id: LinkId, now: Instant) -> Room<'_> {
        if !self.open(id, now) {
            return Room::None;
        }
        let link = &mut self.links[id];
        let State::Open(stream) = &mut link.state else { return Room::None };
        if stream.closing || link.in_flight_bytes >= stream.max_in_flight_bytes {
            return Room::None;
        }
        let Some(frames) = &stream.frames else { return Room::None };
        match frames.try_reserve() {
            Ok(permit) => Room::For { permit, in_flight_bytes: &mut link.in_flight_bytes },
            Err(_) => Room::Later(frames.clone()),
        }
    }

    /// When a closed link may be opened again.
    pub(super) fn ready_at(&self, id: LinkId) -> Option<Instant> {
        let link = &self.links[id];
        if matches!(link.state, State::Closed) { link.retry_at } else { None }
    }

    /// The next event of any link. Waits for ever while there is no link.
    pub(super) async fn event(&mut self) -> (LinkId, Event) {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(LinkId, Event)> {
        let count = self.links.len();
        for step in 0..count {
            let id = (self.next + step) % count;
            if let Poll::Ready(event) = self.links[id].poll(context) {
                self.next = id + 1;
                return Poll::Ready((id, event));
            }
        }
        Poll::Pending
    }

    /// Lets the hub end all streams once it has dealt with what was sent. A link that is being opened has carried nothing, and is closed.
    pub(super) fn half_close(&mut self) {
        for link in &mut self.links {
            match &mut link.state {
                State::Open(stream) => stream.frames = None,
                state => *state = State::Closed,
            }
        }
    }

    /// True while some link is open.
    pub(super) fn any_open(&self) -> bool {
        (0..self.links.len()).any(|id| self.is_open(id))
    }

    /// The hub has ended a link that was half-closed.
    pub(super) fn ended(&mut self, id: LinkId) {
        self.links[id].state = State::Closed;
    }

    /// After a failure of a link: closed, to be opened again after a wait. A broker that failed is left alone for a moment by all of the client: until when.
    pub(super) fn close(&mut self, id: LinkId, error: &Error, now: Instant) -> Option<Instant> {
        let link = &mut self.links[id];
        link.state = State::Closed;
        link.in_flight_bytes = 0;
        link.failed_attempts = link.failed_attempts.saturating_add(1);
        let wait = match error {
            Error::Hub(failure) => failure.retry_after.unwrap_or_default(),
            _ => std::time::Duration::ZERO,
        };
        let wait = wait.max(self.client.settings().backoff.delay(link.failed_attempts));
        tracing::debug!(?wait, broker = link.broker, "produce stream broke: {error}");
        link.retry_at = Some(now + wait);
        if link.broker.is_none() && error.is_unreachable() {
            self.client.turn_from(link.turn);
        }
        link.broker.map(|broker| self.client.leaders().failed(broker))
    }
}

impl Link {
    /// Takes in the terms of the stream, and goodbyes.
    pub(super) fn told(&mut self, message: &v1::ProduceStreamResponse) {
        if let State::Open(stream) = &mut self.state {
            if let Some(opened) = &message.opened {
                stream.max_in_flight_bytes = opened.max_in_flight_bytes.max(1);
            }
            stream.closing |= message.closing.is_some();
        }
    }

    /// It was answered: it works.
    pub(super) fn works(&mut self) {
        self.failed_attempts = 0;
        self.retry_at = None;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let State::Opening(opening) = &mut self.state {
            match std::task::ready!(opening.as_mut().poll(context)) {
                Ok(stream) => self.state = State::Open(Box::new(stream)),
                Err(error) => {
                    self.state = State::Closed;
                    return Poll::Ready(Event::Failed(error));
                }
            }
        }
        let State::Open(stream) = &mut self.state else { return Poll::Pending };
        Pin::new(&mut stream.answers).poll_next(context).map(|answer| match answer.transpose() {
            Ok(answer) => Event::Answer(answer),
            Err(status) => Event::Failed(status.into()),
        })
    }
}

async fn open(client: Client, broker: Option<u32>) -> Result<Stream> {
    let mut service = ProducerServiceClient::new(client.transport_to(broker))
        .max_decoding_message_size(client.settings().max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    let (frames, receiver) = mpsc::channel(FRAME_QUEUE);
    let call = service.produce_stream(ReceiverStream::new(receiver));
    let limit = client.settings().connect_timeout * 2;
    let response = tokio::time::timeout(limit, call).await.map_err(|_| {
        let message = format!("the hub did not open a stream within {limit:?}");
        Error::from(Failure::new(Reason::Unavailable, message))
    })?;
    Ok(Stream { frames: Some(frames), answers: response?.into_inner(), max_in_flight_bytes: 0, closing: false })
}
