//! The consumer's streams: one to each broker that leads some of its partitions, opened from the positions, read message by message, opened again
//! after they broke, or when their partitions are led elsewhere.
//!
//! A partition is in at most one stream at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream as _;
use futures::future::BoxFuture;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::subscribe_response::Event;
use tokio::time::Instant;
use tonic::Status;
use tonic::codec::Streaming;

use super::builder::OffsetReset;
use super::{Batches, Consumer, Start, decode};
use crate::{Client, Error, Result};

/// How often it is looked up whether partitions are led elsewhere. Their old leaders, and any broker, serve them nevertheless.
pub(super) const LOOK: Duration = Duration::from_secs(20);

/// A topic's partition.
pub(super) type Key = (Arc<str>, i32);

/// In a lock that nobody else takes, so that a consumer may be shared between threads.
type Opening = parking_lot::Mutex<BoxFuture<'static, Result<Streaming<v1::SubscribeResponse>>>>;

enum State {
    Opening(Opening),
    Open(Box<Streaming<v1::SubscribeResponse>>),
}

/// A stream of some partitions from one broker, or from any.
pub(super) struct Feed {
    broker: Option<u32>,
    partitions: BTreeSet<Key>,
    state: State,
    /// See [`Client::turn`].
    turn: u64,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("broker", &self.broker).field("partitions", &self.partitions.len()).finish()
    }
}

impl Feed {
    /// The next message; `None` when the hub ended the stream.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<v1::SubscribeResponse>>> {
        if let State::Opening(opening) = &mut self.state {
            match std::task::ready!(opening.get_mut().as_mut().poll(context)) {
                Ok(stream) => self.state = State::Open(Box::new(stream)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let State::Open(stream) = &mut self.state else { return Poll::Pending };
        Pin::new(stream).poll_next(context).map(|message: Option<Result<_, Status>>| Ok(message.transpose()?))
    }
}

impl Consumer {
    /// The next message with batches. Opens streams if need be. Positions stay as they are until the records are given.
    pub(super) async fn read(&mut self) -> Result<Option<Batches>> {
        loop {
            if self.assigned.values().all(|assigned| assigned.finished) {
                return Ok(None);
            }
            // Before streams are opened again: from the same positions they would only be refused again.
            if self.out_of_range && self.retry_at.is_none_or(|at| at <= Instant::now()) {
                match self.reset().await {
                    Ok(()) => {}
                    Err(error) => self.broken(error)?,
                }
            }
            self.feed(Instant::now());
            let Some((place, message)) = self.message().await else { continue };
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    self.feed_broke(place, error)?;
                    continue;
                }
            };
            let Some(event) = message.and_then(|message| message.event) else {
                self.stream_ended(place);
                continue;
            };
            self.failed_attempts = 0;
            match event {
                Event::Opened(opened) => {
                    if let Some(broker) = self.feeds[place].broker {
                        self.client.leaders().reached(broker);
                    }
                    for progress in opened.partitions {
                        self.progressed(progress, true);
                    }
                }
                Event::Progress(progress) => self.progressed(progress, false),
                Event::Closing(_) => {
                    let feed = self.feeds.swap_remove(place);
                    self.leave(&feed);
                }
                Event::Data(data) => {
                    if let Some(batches) = self.data(place, data)? {
                        return Ok(Some(batches));
                    }
                }
            }
        }
    }

    /// Opens streams for the partitions that have none, if it is time; leaves those whose partitions are led elsewhere.
    fn feed(&mut self, now: Instant) {
        let version = self.client.leaders().version();
        if version != self.leaders_version || now >= self.look_at {
            self.leaders_version = version;
            let client = &self.client;
            let led =
                |feed: &Feed| feed.partitions.iter().all(|(topic, partition)| client.leader(topic, *partition) == feed.broker);
            self.feeds.retain(led);
        }
        if now >= self.look_at {
            self.look_at = now + LOOK.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            self.look();
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        let fed: BTreeSet<&Key> = self.feeds.iter().flat_map(|feed| &feed.partitions).collect();
        let mut missing: BTreeMap<Option<u32>, BTreeSet<Key>> = BTreeMap::new();
        for (key, _) in self.assigned.iter().filter(|(key, assigned)| !assigned.finished && !fed.contains(key)) {
            missing.entry(self.client.leader(&key.0, key.1)).or_default().insert(key.clone());
        }
        for (broker, partitions) in missing {
            let opening = open(self.client.clone(), broker, self.request(&partitions));
            let turn = self.client.turn();
            self.feeds.push(Feed { broker, partitions, state: State::Opening(Opening::new(Box::pin(opening))), turn });
        }
    }

    /// Looks up who leads what, in the background.
    fn look(&self) {
        if self.client.settings().any_broker {
            return;
        }
        let client = self.client.clone();
        tokio::spawn(async move { client.refresh().await });
    }

    /// The next message of any stream; `None` when it is time to open some.
    async fn message(&mut self) -> Option<(usize, Result<Option<v1::SubscribeResponse>>)> {
        let wake_at = self.retry_at.map_or(self.look_at, |at| at.min(self.look_at));
        let (feeds, next) = (&mut self.feeds, &mut self.next_feed);
        let message = std::future::poll_fn(|context| {
            let count = feeds.len();
            for step in 0..count {
                let place = (*next + step) % count;
                if let Poll::Ready(message) = feeds[place].poll(context) {
                    // The others are looked at first the next time.
                    *next = place + 1;
                    return Poll::Ready((place, message));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            message = message => Some(message),
            () = tokio::time::sleep_until(wake_at) => None,
        }
    }

    fn request(&self, partitions: &BTreeSet<Key>) -> v1::SubscribeRequest {
        let subscriptions = partitions.iter().filter_map(|key| self.assigned.get(key)).map(|assigned| {
            let start = assigned.progress.position.map_or(assigned.start, Start::Offset);
            v1::Subscription {
                topic: assigned.topic.to_string(),
                partitions: vec![assigned.partition],
                start: Some(start.into()),
                ..Default::default()
            }
        });
        let mode = if self.settings.until_end { v1::SubscribeMode::UntilEnd } else { v1::SubscribeMode::Follow };
        v1::SubscribeRequest {
            subscriptions: subscriptions.collect(),
            format: v1::RecordFormat::Batches.into(),
            isolation_level: self.settings.isolation_level.into(),
            max_message_bytes: self.settings.max_message_bytes,
            mode: mode.into(),
            progress_interval_ms: 0,
        }
    }

    /// A stream broke: its broker is left alone for a moment, and its partitions come from elsewhere.
    fn feed_broke(&mut self, place: usize, error: Error) -> Result<()> {
        let feed = self.feeds.swap_remove(place);
        if error.is_unreachable() || feed.broker.is_some() && error.reason() == Some(Reason::Unsupported) {
            self.leave(&feed);
        }
        self.broken(error)
    }

    fn leave(&self, feed: &Feed) {
        match feed.broker {
            Some(broker) => {
                self.client.leaders().failed(broker);
                self.look();
            }
            None => self.client.turn_from(feed.turn),
        }
    }

    /// Decides what an error means: `Ok` to open streams again, later.
    fn broken(&mut self, error: Error) -> Result<()> {
        if let Error::Hub(failure) = &error {
            let out_of_range = failure.reason == Reason::OffsetOutOfRange;
            let resets = out_of_range && self.settings.offset_reset != OffsetReset::Fail;
            self.out_of_range |= resets;
            if failure.is_retryable() || resets {
                self.failed_attempts = self.failed_attempts.saturating_add(1);
                let delay = self.client.settings().backoff.delay(self.failed_attempts);
                let delay = delay.max(failure.retry_after.unwrap_or_default());
                tracing::debug!(?delay, "subscription broke: {failure}");
                self.retry_at = Some(Instant::now() + delay);
                return Ok(());
            }
        }
        Err(error)
    }

    /// Puts positions that lie outside of the log to where the policy says, and leaves the others.
    async fn reset(&mut self) -> Result<()> {
        let start = match self.settings.offset_reset {
            OffsetReset::Latest => Start::Latest,
            OffsetReset::Earliest | OffsetReset::Fail => Start::Earliest,
        };
        let keys: Vec<_> = self.assigned.keys().cloned().collect();
        for (topic, partition) in keys {
            let least = self.look_up(&topic, partition, Start::Earliest).await?;
            let greatest = self.look_up(&topic, partition, Start::Latest).await?;
            let Some(assigned) = self.assigned.get_mut(&(topic, partition)) else { continue };
            let position = match (assigned.progress.position, assigned.start) {
                (Some(position), _) | (None, Start::Offset(position)) => position,
                (None, _) => continue,
            };
            if !(least..=greatest).contains(&position) {
                let to = if start == Start::Latest { greatest } else { least };
                let place = (&assigned.topic, assigned.partition);
                tracing::warn!(?place, position, to, "the position is not in the log any more");
                assigned.progress.position = Some(to);
            }
        }
        self.out_of_range = false;
        Ok(())
    }

    fn stream_ended(&mut self, place: usize) {
        let feed = self.feeds.swap_remove(place);
        if self.settings.until_end {
            // The hub ends the stream with OK only when each partition has reached its end.
            for key in &feed.partitions {
                if let Some(assigned) = self.assigned.get_mut(key) {
                    assigned.finished = true;
                }
            }
        }
    }

    fn progressed(&mut self, progress: v1::SubscribeProgress, opened: bool) {
        if let Some(assigned) = self.assigned.get_mut(&(Arc::from(progress.topic), progress.partition)) {
            let to = &mut assigned.progress;
            to.told(progress.log_start_offset, progress.high_watermark, progress.next_offset);
            if opened || to.position.is_none_or(|position| position < progress.next_offset) {
                to.position = Some(progress.next_offset);
            }
        }
    }

    fn data(&mut self, place: usize, data: v1::FetchedData) -> Result<Option<Batches>> {
        let key = (Arc::from(data.topic.as_str()), data.partition);
        let Some(assigned) = self.assigned.get_mut(&key) else {
            return Ok(None);
        };
        if let Some(error) = data.error {
            let mut failure = Failure::from(error);
            failure.metadata.entry("topic".to_owned()).or_insert(data.topic);
            failure.metadata.entry("partition".to_owned()).or_insert(data.partition.to_string());
            self.feeds.swap_remove(place);
            self.broken(failure.into())?;
            return Ok(None);
        }
        assigned.progress.told(data.log_start_offset, data.high_watermark, data.next_offset);
        let from = assigned.progress.position.unwrap_or_default();
        if data.batches.is_empty() {
            assigned.progress.position = Some(from.max(data.next_offset));
            return Ok(None);
        }
        let batches = Batches {
            topic: assigned.topic.clone(),
            partition: assigned.partition,
            bytes: data.batches,
            from,
            next: data.next_offset,
            high_watermark: assigned.progress.high_watermark,
        };
        decode::verify(&batches)?;
        Ok(Some(batches))
    }
}

async fn open(client: Client, broker: Option<u32>, request: v1::SubscribeRequest) -> Result<Streaming<v1::SubscribeResponse>> {
    let mut service =
        ConsumerServiceClient::new(client.transport_to(broker)).max_decoding_message_size(client.settings().max_message_bytes);
    Ok(service.subscribe(request).await?.into_inner())
}
