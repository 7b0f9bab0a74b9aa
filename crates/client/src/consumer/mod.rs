//! Reading: a consumer of assigned partitions that follows them over one subscription and keeps its positions.
//!
//! The stream is pulled: nothing is read ahead but what the HTTP/2 window of the stream holds, so a consumer that pauses
//! holds at most `stream_window_bytes` and one message. When the stream breaks, the consumer subscribes again from its
//! positions; no record is left out or given twice.
//!
//! Invariant for each partition: the next record given has an offset `>= position`, and `position` is one past the last
//! record given (or where a seek or a compacted range put it).

mod builder;
mod decode;
mod position;
mod subscription;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;

pub use self::builder::{ConsumerBuilder, OffsetReset};
pub use self::position::Start;
use self::subscription::Feed;
use crate::{Client, Error, Result};

/// A record read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The position in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, by the producer's or the hub's clock as the topic says.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Whole batches of one partition as the hub stores them, for those who decode on their own.
#[derive(Clone, Debug)]
pub struct Batches {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Kafka record batches back to back, checked against their CRC. The first may begin before the position.
    pub bytes: Bytes,
    /// Records before this offset were given already.
    pub from: i64,
    /// One past the last offset of the batches.
    pub next: i64,
    /// One past the last record that could be read when the hub answered; where no broker led the partition then, the greatest that is known.
    pub high_watermark: i64,
}

/// How far a consumer has come in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The next offset to be given; `None` until the hub has said where the start is.
    pub position: Option<i64>,
    /// The high watermark when the hub last mentioned it, or the end of what came while it knew none; -1 before.
    pub high_watermark: i64,
    /// Where the partition begins, when the hub last mentioned it; -1 before.
    pub log_start_offset: i64,
}

impl Progress {
    /// Takes in what the hub says, -1 for what it does not know because nobody leads the partition: what came is there then, and so is what was told before,
    /// perhaps by a broker that has more.
    pub(crate) fn told(&mut self, log_start: i64, high_watermark: i64, next: i64) {
        if log_start >= 0 {
            self.log_start_offset = log_start;
        }
        self.high_watermark = if high_watermark >= 0 { high_watermark } else { self.high_watermark.max(next) };
    }
}

/// One assigned partition.
#[derive(Debug)]
struct Assigned {
    topic: Arc<str>,
    partition: i32,
    /// Where to begin while there is no position.
    start: Start,
    progress: Progress,
    /// A subscription until the end has reached it, or it failed.
    finished: bool,
}

/// A reader of assigned partitions. Not shared: one task owns it. Calls that wait are cancellation-safe: a record is either
/// given or still to come.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    settings: builder::Settings,
    assigned: BTreeMap<(Arc<str>, i32), Assigned>,
    feeds: Vec<Feed>,
    /// Where the next look at the feeds begins.
    next_feed: usize,
    /// What the feeds' brokers were chosen by.
    leaders_version: u64,
    /// When leaders are looked up again.
    look_at: tokio::time::Instant,
    ready: VecDeque<Consumed>,
    failed_attempts: u32,
    retry_at: Option<tokio::time::Instant>,
    /// Some position lies outside of its log, and is to be reset before the stream is opened again.
    out_of_range: bool,
}

impl Consumer {
    /// The next record; `None` when a consumer with [`ConsumerBuilder::until_end`] has read everything. Waits for records to come
    /// otherwise. Order holds within each partition.
    ///
    /// # Errors
    /// What no retry cures: `UNKNOWN_TOPIC`, `OFFSET_OUT_OF_RANGE` without a reset policy, damaged bytes. Errors of
    /// reaching the hub are retried without end.
    pub async fn next(&mut self) -> Result<Option<Consumed>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.given(&record);
                return Ok(Some(record));
            }
            let Some(batches) = self.read().await? else {
                return Ok(None);
            };
            self.ready = decode::records(&batches)?;
            if self.ready.is_empty() {
                // Nothing but control records, or compacted ones: go past them.
                self.set_position(&batches.topic, batches.partition, batches.next);
            }
        }
    }

    /// Up to `max` records: those at hand, or at least one if one comes within `wait`; empty if none came, or (until the end) all was read.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Consumed>> {
        let mut records = Vec::new();
        if max == 0 {
            return Ok(records);
        }
        match tokio::time::timeout(wait, self.next()).await {
            Ok(first) => records.extend(first?),
            Err(_elapsed) => return Ok(records),
        }
        while records.len() < max {
            let Some(record) = self.ready.pop_front() else { break };
            self.given(&record);
            records.push(record);
        }
        Ok(records)
    }

    /// The next batches of some partition, undecoded: the fast way. Positions move past them. `None` as for [`Consumer::next`].
    /// Records that [`Consumer::next`] has decoded and not yet given are read again.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn next_batches(&mut self) -> Result<Option<Batches>> {
        if !self.ready.is_empty() {
            self.ready.clear();
            self.feeds.clear();
        }
        let batches = self.read().await?;
        if let Some(batches) = &batches {
            self.set_position(&batches.topic, batches.partition, batches.next);
        }
        Ok(batches)
    }

    /// Goes on from another place of an assigned partition. Takes effect with the next record given.
    ///
    /// # Errors
    /// [`Error::Setting`] if the partition is not assigned; those of looking up a time or an end.
    pub async fn seek(&mut self, topic: &str, partition: i32, to: Start) -> Result<()> {
        let offset = match to {
            Start::Offset(offset) => offset,
            Start::Earliest | Start::Latest | Start::Timestamp(_) => self.look_up(topic, partition, to).await?,
        };
        let assigned = self.assigned.get_mut(&(Arc::from(topic), partition)).ok_or_else(|| Error::Setting {
            field: "assign",
            message: format!("{topic}/{partition} is not assigned to this consumer; assign it when building"),
        })?;
        assigned.progress.position = Some(offset);
        assigned.finished = false;
        self.ready.clear();
        self.feeds.clear();
        Ok(())
    }

    async fn look_up(&self, topic: &str, partition: i32, place: Start) -> Result<i64> {
        let mut found = self.client.admin().list_offsets(&[(topic, partition, place)]).await?;
        let found = found.pop().ok_or_else(|| Failure::new(Reason::Internal, "the hub answered no offset to ListOffsets"))?;
        match found.error {
            Some(error) => Err(Failure::from(error).into()),
            None => Ok(found.offset),
        }
    }

    /// How far it has come in each assigned partition, sorted by topic and partition.
    pub fn progress(&self) -> impl Iterator<Item = (&str, i32, Progress)> {
        self.assigned.values().map(|assigned| (&*assigned.topic, assigned.partition, assigned.progress))
    }

    /// The next offset of an assigned partition; `None` if it is not assigned or the hub has not said yet where the start is.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.assigned.get(&(Arc::from(topic), partition)).and_then(|assigned| assigned.progress.position)
    }

    /// Stores the positions of all assigned partitions for the group; durable when this returns.
    ///
    /// # Errors
    /// [`Error::Setting`] if the consumer has no group; those of `Admin::commit_offsets`.
    pub async fn commit(&self) -> Result<()> {
        let group = self.settings.group.as_deref().ok_or_else(|| Error::Setting {
            field: "group",
            message: "a consumer without a group cannot commit; name one when building".to_owned(),
        })?;
        let offsets: Vec<_> = self
            .assigned
            .values()
            .filter_map(|assigned| {
                Some(v1::CommittedOffset {
                    topic: assigned.topic.to_string(),
                    partition: assigned.partition,
                    offset: assigned.progress.position?,
                    ..Default::default()
                })
            })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        self.client.admin().commit_offsets(group, offsets).await
    }

    fn given(&mut self, record: &Consumed) {
        self.set_position(&record.topic, record.partition, record.offset + 1);
    }

    fn set_position(&mut self, topic: &Arc<str>, partition: i32, position: i64) {
        if let Some(assigned) = self.assigned.get_mut(&(topic.clone(), partition)) {
            assigned.progress.position = Some(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_seen_while_nobody_led_does_not_fall_while_nobody_leads() {
        let mut progress = Progress { position: None, high_watermark: -1, log_start_offset: -1 };
        progress.told(0, 5, 5);
        progress.told(-1, -1, 9);
        assert_eq!((progress.log_start_offset, progress.high_watermark), (0, 9));
        // Another replica that has less, after a seek.
        progress.told(-1, -1, 7);
        assert_eq!(progress.high_watermark, 9);
        progress.told(2, 12, 7);
        assert_eq!((progress.log_start_offset, progress.high_watermark), (2, 12));
    }
}
