//! `ProduceStream`: pipelined appends. One task for each stream reads frames and hands them to the hub in order; acknowledgements go out
//! in order for each partition (see [`super::lanes`]), as many in one message as are ready. Frames that ask for none are told of only if they are refused.
//!
//! Memory: payload bytes that are read and not acknowledged are held to `limits.max_stream_in_flight_bytes` for the stream and
//! `limits.max_in_flight_bytes` for the broker; a stream that has no room is not read, and HTTP/2 holds its client back.
//!
//! When the broker stops, the stream says so, refuses what still comes, and ends by itself once everything is answered and nothing has
//! come for [`QUIET`]: a client that never half-closes does not hold up the stop.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tidegate_proto::v1::{self, produce_stream_request::Payload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{Instrument, Span};

use super::bulk::BodyMessages;
use super::lanes::{Lane, Lanes, Pending};
use super::{Edge, convert, errors, permits, records};
use crate::hub::{Append, AppendTicket, Appended, Error, PartitionRef, STALL};

/// Frames between reader and acknowledger, which takes them at once. All of a stream's frames together are bounded by their bytes: each counts
/// for at least 1 KiB of `limits.max_stream_in_flight_bytes`, and costs about 300 bytes.
const FRAMES: usize = 1024;
/// After a goodbye: so long without a frame, and the stream ends.
const QUIET: Duration = Duration::from_millis(250);
/// Messages that wait for the transport.
const MESSAGES: usize = 16;
/// A frame that was handed over.
type Submitted = Pending<AppendTicket, Room>;

/// What the reader tells the acknowledger.
#[expect(clippy::large_enum_variant, reason = "all but one are frames, and a box for each would cost more")]
enum Told {
    /// A frame was handed over, or refused.
    Frame(Lane, Submitted),
    /// The broker is going away.
    Closing,
}

/// Room of the stream and of the broker, held until the acknowledgement.
struct Room {
    _stream: OwnedSemaphorePermit,
    _broker: OwnedSemaphorePermit,
}

/// Where frames come from.
pub(crate) enum Frames {
    /// Decoded by tonic.
    Decoded(Streaming<v1::ProduceStreamRequest>),
    /// Read from the body by hand: payloads are slices of what arrived.
    Body(BodyMessages<v1::ProduceStreamRequest>),
}

impl Frames {
    async fn next(&mut self) -> Result<Option<v1::ProduceStreamRequest>, Status> {
        match self {
            Frames::Decoded(frames) => frames.message().await,
            Frames::Body(messages) => messages.next().await,
        }
    }
}

type Answer = Result<v1::ProduceStreamResponse, Status>;

/// Opens a stream: its answers.
pub(crate) fn open(edge: Arc<Edge>, frames: Frames, span: Span) -> Pin<Box<dyn Stream<Item = Answer> + Send>> {
    let (answers, receiver) = mpsc::channel(MESSAGES);
    let opened = v1::ProduceStreamResponse {
        opened: Some(v1::ProduceStreamOpened {
            max_in_flight_bytes: edge.limits.max_stream_in_flight_bytes.into(),
            max_frame_bytes: edge.limits.max_request_bytes.into(),
            max_batch_bytes: edge.limits.max_message_bytes.into(),
        }),
        ..v1::ProduceStreamResponse::default()
    };
    let tasks = edge.tasks.clone();
    tasks.spawn(run(edge, frames, answers).instrument(span));
    let first = futures::stream::once(async move { Ok(opened) });
    Box::pin(first.chain(ReceiverStream::new(receiver)))
}

/// Ends when the client has half-closed and everything is acknowledged, or when the client is gone.
async fn run(edge: Arc<Edge>, mut frames: Frames, answers: mpsc::Sender<Answer>) {
    let (told, receiver) = mpsc::channel(FRAMES);
    let work = async {
        // What was accepted is acknowledged before an error ends the stream.
        let (ended, ()) = futures::future::join(read(&edge, &mut frames, told), acknowledge(&edge, receiver, &answers)).await;
        if let Err(status) = ended {
            let _ = answers.send(Err(status)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = answers.closed() => {}
    }
}

/// Reads frames and hands them over in order, until the client has half-closed or a goodbye is over.
async fn read(edge: &Edge, frames: &mut Frames, told: mpsc::Sender<Told>) -> Result<(), Status> {
    let total = permits(edge.limits.max_stream_in_flight_bytes.into());
    let room = Arc::new(Semaphore::new(total));
    let mut last: Option<PartitionRef> = None;
    let mut said_goodbye = false;
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame?,
            () = edge.draining.cancelled(), if !said_goodbye => {
                said_goodbye = true;
                if told.send(Told::Closing).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            () = edge.env.clock.sleep(QUIET), if said_goodbye => return Err(errors::failure(Error::ShuttingDown).into_status()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let bytes = prost::Message::encoded_len(&frame) as u64;
        // One frame is always allowed, so it never asks for more than there is.
        let stream = acquire(&room, permits(bytes + super::PERMIT_BYTES).min(total)).await;
        let arrived = edge.env.clock.monotonic();
        let broker =
            acquire(&edge.in_flight, permits(bytes + super::PERMIT_BYTES).min(permits(edge.limits.max_in_flight_bytes))).await;
        let (Some(stream), Some(broker)) = (stream, broker) else { return Ok(()) };
        let now = edge.env.clock.monotonic();
        if now.saturating_sub(arrived) > STALL {
            edge.metrics.stalled("limits.max_in_flight_bytes", now.saturating_sub(arrived), now);
        }
        let (request_id, is_silent) = (frame.request_id, frame.no_acknowledgement);
        let ticket = match append_of(edge, frame, &mut last) {
            Ok(append) => edge.hub.submit(append).await,
            Err(error) => Err(error),
        };
        let lane = match &ticket {
            Ok(ticket) => Lane::Journal(ticket.journal()),
            // A refusal follows the acknowledgements of its partition.
            Err(_) => last.as_ref().and_then(|at| edge.hub.journal_of(at)).map_or(Lane::None, Lane::Journal),
        };
        let room = Room { _stream: stream, _broker: broker };
        if told.send(Told::Frame(lane, Pending { request_id, ticket, is_silent, _room: room })).await.is_err() {
            return Ok(());
        }
    }
}

async fn acquire(room: &Arc<Semaphore>, permits: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(room).acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX)).await.ok()
}

/// What a frame appends. An empty topic means that of the frame before.
fn append_of(edge: &Edge, frame: v1::ProduceStreamRequest, last: &mut Option<PartitionRef>) -> Result<Append, Error> {
    let at = match last {
        Some(last) if frame.topic.is_empty() => {
            let same = PartitionRef { leader_epoch: frame.leader_epoch.map(tidegate_model::LeaderEpoch), ..last.clone() };
            if frame.partition != same.partition.0 && frame.partition != 0 {
                return Err(Error::invalid(
                    "topic",
                    "is empty and the partition is not that of the frame before: name the topic",
                ));
            }
            same
        }
        Some(last) if *last.topic == *frame.topic && frame.topic_uid.is_empty() && last.topic_uid.is_none() => PartitionRef {
            partition: tidegate_model::PartitionId(frame.partition),
            leader_epoch: frame.leader_epoch.map(tidegate_model::LeaderEpoch),
            ..last.clone()
        },
        _ => convert::partition(&frame.topic, frame.partition, "topic_uid", &frame.topic_uid, frame.leader_epoch)?,
    };
    *last = Some(at.clone());
    let is_silent = frame.no_acknowledgement;
    let batches = match frame.payload {
        None => return Err(Error::invalid("payload", "has nothing set: give `records` or `batches`")),
        Some(Payload::Batches(_)) if frame.compression != 0 || frame.sequence.is_some() => {
            return Err(Error::invalid("compression", "and `sequence` are for `records`; batches say both in their headers"));
        }
        Some(Payload::Batches(bytes)) => records::parse_batches(edge, bytes)?,
        Some(Payload::Records(list)) => {
            let plain = records::Plain { compression: frame.compression, sequence: frame.sequence };
            vec![records::build(edge, &at, list.records, &plain)?]
        }
    };
    if is_silent && batches.iter().any(|batch| batch.header().producer_id.0 >= 0) {
        let why = "is for records without a producer id and sequence: one that is lost would have all that follow refused";
        return Err(Error::invalid("no_acknowledgement", why));
    }
    Ok(Append { at, batches })
}

/// Sends acknowledgements, many in one message when many are ready.
async fn acknowledge(edge: &Edge, mut told: mpsc::Receiver<Told>, answers: &mpsc::Sender<Answer>) {
    let mut lanes: Lanes<AppendTicket, Room> = Lanes::default();
    let mut ended = false;
    loop {
        let mut answer = v1::ProduceStreamResponse::default();
        std::future::poll_fn(|context| {
            while !ended && let Poll::Ready(next) = told.poll_recv(context) {
                match next {
                    Some(Told::Frame(lane, pending)) => lanes.push(lane, pending),
                    Some(Told::Closing) => answer.closing = Some(goodbye(edge)),
                    None => ended = true,
                }
            }
            lanes.poll(context, |request_id, outcome| answer.acks.push(ack(edge, request_id, outcome)));
            let over = ended && lanes.is_empty();
            if over || answer.closing.is_some() || !answer.acks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let empty = answer.closing.is_none() && answer.acks.is_empty();
        if empty || answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}

fn goodbye(edge: &Edge) -> v1::ProduceStreamClosing {
    v1::ProduceStreamClosing {
        message: "the broker is shutting down: open another stream elsewhere".to_owned(),
        grace_ms: u32::try_from(edge.grace.as_millis()).unwrap_or(u32::MAX),
    }
}

fn ack(edge: &Edge, request_id: u64, outcome: Result<Appended, Error>) -> v1::ProduceAck {
    match outcome {
        Ok(appended) => v1::ProduceAck {
            request_id,
            base_offset: appended.base_offset.0,
            record_count: appended.record_count,
            leader_epoch: appended.epoch.0,
            log_append_time_ms: appended.log_append_time.map(|time| time.0),
            log_start_offset: appended.log_start.0,
            duplicate: appended.duplicate,
            error: None,
            leader: appended.leader.map(|broker| broker.0),
        },
        Err(error) => {
            edge.note(&error);
            edge.metrics.called("ProduceStream.frame", error.reason(), 0.0);
            v1::ProduceAck {
                request_id,
                base_offset: -1,
                leader_epoch: -1,
                log_start_offset: -1,
                error: Some(errors::failure(error).into_message()),
                ..v1::ProduceAck::default()
            }
        }
    }
}
