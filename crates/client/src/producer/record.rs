//! What is sent, and what is known of it afterwards.

use std::sync::Arc;

use bytes::Bytes;

/// What one record costs in memory beside its bytes: its place in the batch and in the hub's answer.
const OVERHEAD_BYTES: usize = 64;

/// A record to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition. Default: by the key (murmur2, as Kafka's Java client); without a key, one that changes from batch to batch.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in order; at most 64 KiB together by default.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch. Default: now.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record with nothing but its topic.
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Record { topic: topic.into(), partition: None, key: None, value: None, headers: Vec::new(), timestamp_ms: None }
    }

    /// To this partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// With this time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp_ms(mut self, time: i64) -> Self {
        self.timestamp_ms = Some(time);
        self
    }

    /// Bytes that it holds of the producer's memory until it is acknowledged.
    pub(super) fn charge(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len) + 8).sum();
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        OVERHEAD_BYTES + len(&self.key) + len(&self.value) + headers
    }
}

/// Where a record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its offset; -1 if it was stored by a try so long ago that the hub has forgotten the offset.
    pub offset: i64,
    /// The hub's time of the append in milliseconds since the Unix epoch, if the topic stamps records so.
    pub log_append_time_ms: Option<i64>,
    /// True if an earlier try had stored it (its answer was lost).
    pub duplicate: bool,
}
