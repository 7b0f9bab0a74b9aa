//! `Subscribe`: partitions as a stream that follows the tail. One task for each subscription reads in turn what has data and waits, woken
//! by apply, when nothing has. The client's reading holds it back: at most [`MESSAGES`] messages wait for the transport.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select_all;
use futures::{FutureExt, Stream, StreamExt};
use tidegate_env::watch;
use tidegate_model::{LeaderEpoch, Offset, PartitionId};
use tidegate_proto::v1::subscribe_response::Event;
use tidegate_proto::v1::{self, RecordFormat, SubscribeMode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{Instrument, Span};

use super::{Edge, consumer, convert};
use crate::hub::{Error, Marks, PartitionRef, Position};

/// Messages that wait for the transport; each is at most `max_message_bytes` long (1 MiB unless asked for otherwise).
const MESSAGES: usize = 4;
const LEAST_MESSAGE_BYTES: u32 = 4096;
const DEFAULT_MESSAGE_BYTES: u32 = 1 << 20;

/// What is sent on a subscription.
pub(crate) enum Sent {
    /// A message as it is.
    Message(v1::SubscribeResponse),
    /// Data with its payload apart.
    Data(v1::FetchedData, Vec<Bytes>),
}

type Answer = Result<Sent, Status>;
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Answer> + Send>>;

/// A subscribed partition.
struct Part {
    at: PartitionRef,
    next: Offset,
    /// Where it ends, with `UNTIL_END`.
    until: Option<Offset>,
    watch: watch::Receiver<Offset>,
    /// Whether the reader was told that it has all there is.
    caught_up: bool,
    ended: bool,
    last_sent: Duration,
}

struct Terms {
    format: RecordFormat,
    max_bytes: usize,
    mode: SubscribeMode,
    progress: Option<Duration>,
}

/// Opens a subscription: checks all of it, then starts its task.
pub(crate) async fn open(edge: Arc<Edge>, request: v1::SubscribeRequest, span: Span) -> Result<Answers, Error> {
    let terms = terms(&edge, &request)?;
    // Before anything is watched: no move is missed.
    let moves = edge.hub.moves();
    let parts = parts(&edge, &request, &terms).await?;
    let mut partitions = Vec::with_capacity(parts.len());
    for part in &parts {
        let marks = edge.hub.marks_at(&part.at).await?;
        partitions.push(progress(part, &marks));
    }
    let opened = v1::SubscribeResponse { event: Some(Event::Opened(v1::SubscribeOpened { partitions })) };
    let (answers, receiver) = mpsc::channel(MESSAGES);
    let tasks = edge.tasks.clone();
    tasks.spawn(run(edge, parts, moves, terms, answers).instrument(span));
    Ok(Box::pin(futures::stream::once(async move { Ok(Sent::Message(opened)) }).chain(ReceiverStream::new(receiver))))
}

fn terms(edge: &Edge, request: &v1::SubscribeRequest) -> Result<Terms, Error> {
    if request.subscriptions.is_empty() {
        return Err(Error::invalid("subscriptions", "is empty: name at least one topic"));
    }
    let most = edge.limits.max_fetch_bytes;
    let max_bytes = match request.max_message_bytes {
        0 => DEFAULT_MESSAGE_BYTES.min(most),
        given if !(LEAST_MESSAGE_BYTES..=most).contains(&given) => {
            let problem = format!("{given} is not within {LEAST_MESSAGE_BYTES} to {most} (limits.max_fetch_bytes)");
            return Err(Error::invalid("max_message_bytes", problem));
        }
        given => given,
    };
    let mode =
        SubscribeMode::try_from(request.mode).map_err(|_| Error::invalid("mode", format!("{} is unknown", request.mode)))?;
    let progress = Some(request.progress_interval_ms).filter(|ms| *ms > 0).map(|ms| Duration::from_millis(u64::from(ms).max(10)));
    Ok(Terms { format: consumer::format(request.format)?, max_bytes: max_bytes as usize, mode, progress })
}

async fn parts(edge: &Edge, request: &v1::SubscribeRequest, terms: &Terms) -> Result<Vec<Part>, Error> {
    let mut seen = BTreeSet::new();
    let mut parts = Vec::new();
    for (index, subscription) in request.subscriptions.iter().enumerate() {
        let field = format!("subscriptions[{index}]");
        let start = match &subscription.start {
            None => Position::Latest,
            given => convert::position(&format!("{field}.start"), given.as_ref())?,
        };
        let first = convert::partition(&subscription.topic, 0, &format!("{field}.topic_uid"), &subscription.topic_uid, None)?;
        let numbers: Vec<i32> = if subscription.partitions.is_empty() {
            (0..edge.hub.topic(&first.topic)?.settings.partitions).map(|number| number as i32).collect()
        } else {
            subscription.partitions.clone()
        };
        if subscription.leader_epoch.is_some() && numbers.len() != 1 {
            return Err(Error::invalid(format!("{field}.leader_epoch"), "goes with one partition only"));
        }
        for number in numbers {
            let epoch = subscription.leader_epoch.map(LeaderEpoch);
            let at = PartitionRef { partition: PartitionId(number), leader_epoch: epoch, ..first.clone() };
            if !seen.insert((at.topic.clone(), number)) {
                return Err(Error::invalid(field, format!("covers partition {number} of `{}` a second time", at.topic)));
            }
            let mut watch = edge.hub.watch(&at)?;
            watch.mark_unchanged();
            let located = edge.hub.locate(&at, start).await?;
            let marks = edge.hub.marks_at(&at).await?;
            let until_end = terms.mode == SubscribeMode::UntilEnd;
            if until_end && marks.leaderless.is_some() {
                let place = format!("partition {number} of `{}`", at.topic);
                return Err(Error::unavailable(format!("{place} has no leader now that knows where it ends: try again")));
            }
            let until = until_end.then_some(marks.high_watermark);
            // The epoch was checked at the beginning; a later change of leader does not end the stream.
            let at = PartitionRef { leader_epoch: None, ..at };
            let last_sent = edge.env.clock.monotonic();
            parts.push(Part { at, next: located.offset, until, watch, caught_up: false, ended: false, last_sent });
        }
    }
    Ok(parts)
}

async fn run(
    edge: Arc<Edge>,
    mut parts: Vec<Part>,
    mut moves: watch::Receiver<u64>,
    terms: Terms,
    answers: mpsc::Sender<Answer>,
) {
    let work = follow(&edge, &mut parts, &mut moves, &terms, &answers);
    tokio::select! {
        _ = work => {}
        () = answers.closed() => {}
        () = edge.draining.cancelled() => {
            let message = "the broker is shutting down: subscribe again elsewhere".to_owned();
            let closing = v1::SubscribeResponse { event: Some(Event::Closing(v1::SubscribeClosing { message })) };
            let _ = answers.send(Ok(Sent::Message(closing))).await;
        }
    }
}

/// Reads in turn until all parts have ended. An error means that the client is gone.
async fn follow(
    edge: &Edge,
    parts: &mut [Part],
    moves: &mut watch::Receiver<u64>,
    terms: &Terms,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), mpsc::error::SendError<Answer>> {
    loop {
        let mut moved = false;
        for part in parts.iter_mut().filter(|part| !part.ended) {
            part.watch.mark_unchanged();
            moved |= step(edge, part, terms, answers).await?;
        }
        if parts.iter().all(|part| part.ended) {
            return Ok(());
        }
        if !moved {
            wait(edge, parts, moves, terms).await;
        }
    }
}

/// Sends what one part has; true if it had anything.
async fn step(
    edge: &Edge,
    part: &mut Part,
    terms: &Terms,
    answers: &mpsc::Sender<Answer>,
) -> Result<bool, mpsc::error::SendError<Answer>> {
    let now = edge.env.clock.monotonic();
    let fetched = edge.hub.read(&part.at, part.next, terms.max_bytes).await;
    let marks = fetched.as_ref().ok().map(|fetched| fetched.marks);
    let failed = fetched.is_err();
    let empty = fetched.as_ref().is_ok_and(|fetched| fetched.bytes == 0);
    let event = if empty {
        let due = terms.progress.is_some_and(|interval| now.saturating_sub(part.last_sent) >= interval);
        let told = part.caught_up && !due;
        marks.filter(|_| !told).map(|marks| {
            let event = Some(Event::Progress(progress(part, &marks)));
            Sent::Message(v1::SubscribeResponse { event })
        })
    } else {
        let (data, payload) = consumer::data(edge, &part.at, part.next, fetched, terms.format);
        Some(Sent::Data(data, payload))
    };
    if let Some(Sent::Data(data, _)) = &event {
        part.next = Offset(data.next_offset);
        part.ended = failed || data.error.is_some();
    }
    part.caught_up = empty;
    part.ended |= part.until.is_some_and(|until| part.next >= until);
    let sent = event.is_some();
    if let Some(event) = event {
        part.last_sent = now;
        answers.send(Ok(event)).await?;
    }
    Ok(sent && !empty)
}

async fn wait(edge: &Edge, parts: &mut [Part], moves: &mut watch::Receiver<u64>, terms: &Terms) {
    let changes = select_all(parts.iter_mut().filter(|part| !part.ended).map(|part| part.watch.changed().boxed()));
    let progress = async {
        match terms.progress {
            Some(interval) => edge.env.clock.sleep(interval).await,
            None => std::future::pending().await,
        }
    };
    let moved = tokio::select! {
        // An error means that the partition was closed: the next read says so.
        (_, _, _) = changes => false,
        moved = moves.changed() => moved.is_ok(),
        () = progress => false,
    };
    if moved {
        // What comes is in another journal from now on.
        for part in parts {
            if let Ok(watch) = edge.hub.watch(&part.at) {
                part.watch = watch;
            }
        }
    }
}

fn progress(part: &Part, marks: &Marks) -> v1::SubscribeProgress {
    let (log_start_offset, high_watermark) = marks.told();
    v1::SubscribeProgress {
        topic: part.at.topic.to_string(),
        partition: part.at.partition.0,
        next_offset: part.next.0,
        high_watermark,
        log_start_offset,
        leader_epoch: marks.epoch.0,
    }
}
