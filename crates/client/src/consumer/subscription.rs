//! The consumer's stream: opened from the positions, read message by message, opened again after it broke.

use std::sync::Arc;

use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::subscribe_response::Event;
use tokio::time::Instant;
use tonic::codec::Streaming;

use super::builder::OffsetReset;
use super::{Batches, Consumer, Start, decode};
use crate::{Error, Result};

/// An open stream.
#[derive(Debug)]
pub(super) struct Subscription {
    stream: Streaming<v1::SubscribeResponse>,
}

impl Consumer {
    /// The next message with batches. Opens the stream if need be. The position stays as it is until the records are given.
    pub(super) async fn read(&mut self) -> Result<Option<Batches>> {
        loop {
            if self.assigned.values().all(|assigned| assigned.finished) {
                return Ok(None);
            }
            let message = match self.message().await {
                Ok(message) => message,
                Err(error) => {
                    self.broken(error)?;
                    continue;
                }
            };
            let Some(event) = message.and_then(|message| message.event) else {
                self.stream_ended();
                continue;
            };
            self.failed_attempts = 0;
            match event {
                Event::Opened(opened) => {
                    for progress in opened.partitions {
                        self.progressed(progress, true);
                    }
                }
                Event::Progress(progress) => self.progressed(progress, false),
                Event::Closing(_) => self.subscription = None,
                Event::Data(data) => {
                    if let Some(batches) = self.data(data)? {
                        return Ok(Some(batches));
                    }
                }
            }
        }
    }

    /// One message; `None` when the hub ended the stream.
    async fn message(&mut self) -> Result<Option<v1::SubscribeResponse>> {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
            self.retry_at = None;
        }
        if self.subscription.is_none() {
            if self.out_of_range {
                self.reset().await?;
            }
            let request = self.request();
            let mut client = ConsumerServiceClient::new(self.client.new_transport())
                .max_decoding_message_size(self.client.settings().max_message_bytes);
            let stream = client.subscribe(request).await?.into_inner();
            self.subscription = Some(Subscription { stream });
        }
        match &mut self.subscription {
            Some(subscription) => Ok(subscription.stream.message().await?),
            None => Ok(None),
        }
    }

    fn request(&self) -> v1::SubscribeRequest {
        let subscriptions = self.assigned.values().filter(|assigned| !assigned.finished).map(|assigned| {
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

    /// Decides what an error of the stream means: `Ok` to open it again, later.
    fn broken(&mut self, error: Error) -> Result<()> {
        self.subscription = None;
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

    fn stream_ended(&mut self) {
        self.subscription = None;
        if self.settings.until_end {
            // The hub ends the stream with OK only when each partition has reached its end.
            for assigned in self.assigned.values_mut() {
                assigned.finished = true;
            }
        }
    }

    fn progressed(&mut self, progress: v1::SubscribeProgress, opened: bool) {
        if let Some(assigned) = self.assigned.get_mut(&(Arc::from(progress.topic), progress.partition)) {
            let to = &mut assigned.progress;
            to.high_watermark = progress.high_watermark;
            to.log_start_offset = progress.log_start_offset;
            if opened || to.position.is_none_or(|position| position < progress.next_offset) {
                to.position = Some(progress.next_offset);
            }
        }
    }

    fn data(&mut self, data: v1::FetchedData) -> Result<Option<Batches>> {
        let key = (Arc::from(data.topic.as_str()), data.partition);
        let Some(assigned) = self.assigned.get_mut(&key) else {
            return Ok(None);
        };
        if let Some(error) = data.error {
            let mut failure = Failure::from(error);
            failure.metadata.entry("topic".to_owned()).or_insert(data.topic);
            failure.metadata.entry("partition".to_owned()).or_insert(data.partition.to_string());
            self.broken(failure.into())?;
            return Ok(None);
        }
        assigned.progress.high_watermark = data.high_watermark;
        assigned.progress.log_start_offset = data.log_start_offset;
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
            high_watermark: data.high_watermark,
        };
        decode::verify(&batches)?;
        Ok(Some(batches))
    }
}
