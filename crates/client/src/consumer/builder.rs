//! How a consumer is made: what is assigned, where it begins, how much it takes at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_proto::errors::Failure;
use tidegate_proto::v1;

use super::subscription::LOOK;
use super::{Assigned, Consumer, Progress, Start};
use crate::settings::range;
use crate::{Client, Error, Result};

/// What to do when a position lies outside of the log (its records were deleted by retention, say).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// Fail with `OFFSET_OUT_OF_RANGE`. The default: nothing is left out unnoticed.
    #[default]
    Fail,
    /// Go on from the oldest record kept.
    Earliest,
    /// Go on from the next record to come.
    Latest,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) group: Option<String>,
    pub(super) until_end: bool,
    pub(super) max_message_bytes: u32,
    pub(super) offset_reset: OffsetReset,
    pub(super) isolation_level: v1::IsolationLevel,
}

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    settings: Settings,
    assignments: Vec<(Arc<str>, Option<Vec<i32>>, Start)>,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let settings = Settings {
            group: None,
            until_end: false,
            max_message_bytes: 1 << 20,
            offset_reset: OffsetReset::default(),
            isolation_level: v1::IsolationLevel::ReadUncommitted,
        };
        ConsumerBuilder { client, settings, assignments: Vec::new() }
    }

    /// Reads all partitions that the topic has now, from `start` (or the group's committed offset where there is one).
    #[must_use]
    pub fn assign(mut self, topic: &str, start: Start) -> Self {
        self.assignments.push((Arc::from(topic), None, start));
        self
    }

    /// Reads these partitions.
    #[must_use]
    pub fn assign_partitions(mut self, topic: &str, partitions: &[i32], start: Start) -> Self {
        self.assignments.push((Arc::from(topic), Some(partitions.to_vec()), start));
        self
    }

    /// Begins at the offsets that this group has committed, where it has, and commits for it. Default: no group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.settings.group = Some(group.into());
        self
    }

    /// Ends when each partition was read up to the high watermark that it had when the stream was opened. Default: follows.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.settings.until_end = true;
        self
    }

    /// Bytes of batches in one message of the hub, 4096 to 50 MiB; a larger batch comes whole. Default 1 MiB.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// What to do when a position lies outside of the log. Default: fail.
    #[must_use]
    pub fn offset_reset(mut self, policy: OffsetReset) -> Self {
        self.settings.offset_reset = policy;
        self
    }

    /// Which records of transactions are given. Default: all.
    #[must_use]
    pub fn isolation_level(mut self, level: v1::IsolationLevel) -> Self {
        self.settings.isolation_level = level;
        self
    }

    /// Looks up partitions and committed offsets, and makes the consumer; its stream is opened by the first read.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing or something twice is assigned; `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`.
    pub async fn build(self) -> Result<Consumer> {
        range("max_message_bytes", self.settings.max_message_bytes.into(), 4096, 50 << 20)?;
        let mut assigned = BTreeMap::new();
        for (topic, partitions, start) in &self.assignments {
            for partition in self.partitions(topic, partitions.as_deref()).await? {
                let entry = Assigned {
                    topic: topic.clone(),
                    partition,
                    start: *start,
                    progress: Progress { position: None, high_watermark: -1, log_start_offset: -1 },
                    finished: false,
                };
                if assigned.insert((topic.clone(), partition), entry).is_some() {
                    let message = format!("{topic}/{partition} is assigned twice");
                    return Err(Error::Setting { field: "assign", message });
                }
            }
        }
        if assigned.is_empty() {
            let message = "no partition is assigned; call assign(topic, start)".to_owned();
            return Err(Error::Setting { field: "assign", message });
        }
        self.start_from_committed(&mut assigned).await?;
        let looked_up = self.assignments.iter().all(|(_, wanted, _)| wanted.is_none());
        Ok(Consumer {
            client: self.client,
            settings: self.settings,
            assigned,
            feeds: Vec::new(),
            next_feed: 0,
            leaders_version: 0,
            // Leaders are looked up at once where nothing was looked up so far.
            look_at: tokio::time::Instant::now() + if looked_up { LOOK } else { std::time::Duration::ZERO },
            ready: VecDeque::new(),
            failed_attempts: 0,
            retry_at: None,
            out_of_range: false,
        })
    }

    async fn partitions(&self, topic: &Arc<str>, wanted: Option<&[i32]>) -> Result<Vec<i32>> {
        if let Some(wanted) = wanted {
            self.client.leaders().want(topic);
            return Ok(wanted.to_vec());
        }
        let metadata = self.client.metadata(vec![topic.to_string()]).await?;
        let mut partitions = Vec::new();
        for topic in metadata.topics {
            if let Some(error) = topic.error {
                return Err(Failure::from(error).into());
            }
            partitions.extend(topic.partitions.iter().map(|partition| partition.partition));
        }
        Ok(partitions)
    }

    async fn start_from_committed(&self, assigned: &mut BTreeMap<(Arc<str>, i32), Assigned>) -> Result<()> {
        let Some(group) = &self.settings.group else {
            return Ok(());
        };
        let partitions =
            assigned.keys().map(|(topic, partition)| v1::TopicPartition { topic: topic.to_string(), partition: *partition });
        for committed in self.client.admin().fetch_offsets(group, partitions.collect()).await? {
            if let Some(entry) = assigned.get_mut(&(Arc::from(committed.topic), committed.partition)) {
                entry.progress.position = Some(committed.offset);
            }
        }
        Ok(())
    }
}
