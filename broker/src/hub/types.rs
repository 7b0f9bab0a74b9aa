//! Requests and answers of the hub's handle, in the words of the model. Every edge speaks these.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_journal::entry::{BoundObject, Management};
use tidegate_model::{
    BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, RecordBatch, TimestampMs, TopicSettings,
    TopicUid,
};

/// A partition as a client names it, with what it believes to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRef {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The uid that the topic must have; `None`: any.
    pub topic_uid: Option<TopicUid>,
    /// The partition.
    pub partition: PartitionId,
    /// The leader epoch that the client knows; `None`: not checked.
    pub leader_epoch: Option<LeaderEpoch>,
}

impl PartitionRef {
    /// The partition of this name, nothing else checked.
    pub fn new(topic: &str, partition: i32) -> PartitionRef {
        PartitionRef { topic: Arc::from(topic), topic_uid: None, partition: PartitionId(partition), leader_epoch: None }
    }
}

/// Batches to be appended to one partition, in order, all or none.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where to.
    pub at: PartitionRef,
    /// Validated batches; at least one.
    pub batches: Vec<RecordBatch>,
}

/// What an append came to: it is durable when this is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; -1 for a duplicate too old to be remembered.
    pub base_offset: Offset,
    /// Records of all batches.
    pub record_count: u32,
    /// The time of the append where the topic stamps records so.
    pub log_append_time: Option<TimestampMs>,
    /// The partition's log start.
    pub log_start: Offset,
    /// The leader epoch under which it was appended.
    pub epoch: LeaderEpoch,
    /// True if an earlier try stored it and nothing was stored now.
    pub duplicate: bool,
    /// The broker that leads the partition, if it was forwarded there.
    pub leader: Option<BrokerId>,
}

/// A read of several partitions.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What to read, served in this order.
    pub parts: Vec<FetchPart>,
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth an answer before the wait is over.
    pub min_bytes: usize,
    /// Bytes answered at most; a first batch is answered whole all the same.
    pub max_bytes: usize,
}

/// A read of one partition.
#[derive(Clone, Debug)]
pub struct FetchPart {
    /// Where.
    pub at: PartitionRef,
    /// From where.
    pub offset: Offset,
    /// Bytes answered at most.
    pub max_bytes: usize,
}

/// What was read from one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Pieces that, back to back, are whole batches with final base offsets and leader epochs.
    pub chunks: Vec<Bytes>,
    /// Their length together.
    pub bytes: usize,
    /// The offset to go on from.
    pub next: Offset,
    /// The partition's marks.
    pub marks: Marks,
}

impl Fetched {
    /// Raises the high watermark to what was read: the marks were looked up before, and more may have been committed meanwhile.
    pub(crate) fn with_covering_marks(mut self) -> Fetched {
        self.marks.high_watermark = self.marks.high_watermark.max(self.next);
        self
    }
}

/// The marks of one partition: `log_start <= tiered_end <= high_watermark` (the first only where something is tiered).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// One past the last record that may be read.
    pub high_watermark: Offset,
    /// The oldest offset kept.
    pub log_start: Offset,
    /// One past the last record in the object store.
    pub tiered_end: Offset,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The broker whose replica tells the marks while nobody leads the partition's journal: what is below them is committed, and others may have been
    /// told of more. Clients are told no marks then.
    pub leaderless: Option<BrokerId>,
}

impl Marks {
    /// Log start and high watermark as clients are told: -1 for unknown.
    pub(crate) fn told(&self) -> (i64, i64) {
        if self.leaderless.is_some() { (-1, -1) } else { (self.log_start.0, self.high_watermark.0) }
    }

    /// The marks of an answer that goes up to `next`. They were looked up before the data was, which may have grown meanwhile; what was read was
    /// committed, so the high watermark is at least there.
    pub(crate) fn reaching(self, next: Offset) -> Marks {
        Marks { high_watermark: self.high_watermark.max(next), ..self }
    }
}

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record whose timestamp is at or after this; the high watermark when there is none.
    Timestamp(TimestampMs),
}

/// An offset found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp, for a search by time that found one.
    pub timestamp: Option<TimestampMs>,
    /// The partition's leader epoch.
    pub epoch: LeaderEpoch,
}

/// A topic as the catalog has it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: TopicUid,
    /// Revision of its last change.
    pub revision: u64,
    /// Its settings.
    pub settings: TopicSettings,
    /// Who decides over its settings.
    pub management: Management,
    /// The object it is bound to.
    pub bound: Option<BoundObject>,
    /// Whether an object managed it and has gone.
    pub detached: bool,
    /// When it was made.
    pub created: TimestampMs,
    /// When it was deleted and until when it can be restored; `None` for a living topic.
    pub deleted: Option<Deleted>,
}

/// The end of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// When.
    pub at: TimestampMs,
    /// Until when it can be restored.
    pub restorable_until: TimestampMs,
}

/// Numbers of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionNumbers {
    /// The partition.
    pub partition: PartitionId,
    /// The journal that holds it.
    pub journal: JournalId,
    /// Its marks.
    pub marks: Marks,
    /// Bytes of batches not in the object store.
    pub local_bytes: u64,
    /// Bytes of batches in the object store.
    pub tiered_bytes: u64,
    /// When the oldest record that is not tiered was appended; `None` if all are.
    pub oldest_local: Option<TimestampMs>,
}

/// A position of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read.
    pub leader_epoch: Option<LeaderEpoch>,
    /// What the consumer keeps with it.
    pub metadata: String,
    /// When it was committed.
    pub time: TimestampMs,
}

/// A producer's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Batches for each partition that are remembered.
    pub window: u8,
}
