//! What clients did and saw, one event each. Plain data; judges nothing.

use serde::{Deserialize, Serialize};
use tidegate_model::TopicPartition;

/// What a record is known by: unique within its partition for the whole history.
pub type Value = u64;

/// A record that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sent {
    /// Its value.
    pub value: Value,
    /// Hash of key, value, headers and time: [`crate::content_hash`].
    pub hash: u64,
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub offset: i64,
    /// Its value.
    pub value: Value,
    /// Hash of key, value, headers and time: [`crate::content_hash`].
    pub hash: u64,
    /// Leader epoch of its batch.
    pub epoch: i32,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It took effect.
    Ok(T),
    /// It certainly had no effect. Only for answers that prove it; all else is `Info`.
    Fail,
    /// Nobody knows. An operation without a result counts as such.
    Info,
}

/// Where a full read gets its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Wherever the hub has it.
    Anywhere,
    /// From the object store: the local copies were dropped before.
    Tier,
    /// After another restart.
    Restarted,
    /// From the broker of this number.
    Replica(u32),
}

/// One thing that happened. Identifiers (`id`, `read`) are unique among events of their kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A producer hands over a batch. A batch that is sent again as the same idempotent batch is another `Send` of the same values.
    Send {
        /// Names this send.
        id: u64,
        /// Who. One process sends one batch after the other for a partition, or several whose order the hub must keep; after an outcome of
        /// `Info` that it does not repeat, it goes on under a new number.
        process: u32,
        /// Where to.
        at: TopicPartition,
        /// The records, in order.
        records: Vec<Sent>,
    },
    /// A producer hears of a send.
    SendResult {
        /// Which.
        id: u64,
        /// The offset of the first record, `None` for a duplicate too old to be remembered.
        outcome: Outcome<Option<i64>>,
    },
    /// A consumer got an answer, to a request from where its last poll ended, unless it says that it moved.
    Poll {
        /// Who.
        process: u32,
        /// Where.
        at: TopicPartition,
        /// The offset asked for.
        from: i64,
        /// True if the consumer chose another place than the end of its last poll.
        moved: bool,
        /// What came.
        records: Vec<Seen>,
        /// The log start that was told.
        log_start: i64,
        /// The high watermark that was told; records at or above it are a violation.
        high_watermark: i64,
        /// Names the process that answered: marks of different ones may cross, as followers are behind. 0 where there is one.
        #[serde(default)]
        via: u64,
    },
    /// A fresh consumer begins to read everything from the log start.
    ReadBegin {
        /// Names this read.
        read: u64,
        /// Where.
        at: TopicPartition,
        /// From where the data comes.
        source: Source,
        /// The log start that was told.
        log_start: i64,
    },
    /// A part of a full read came.
    ReadPart {
        /// Which.
        read: u64,
        /// What came, behind what came before.
        records: Vec<Seen>,
    },
    /// A full read is done.
    ReadEnd {
        /// Which.
        read: u64,
        /// The high watermark up to which it was to read.
        high_watermark: i64,
    },
    /// A group's position is to be committed. For each group and partition one commit at a time.
    Commit {
        /// Names this commit.
        id: u64,
        /// The group.
        group: u32,
        /// Where.
        at: TopicPartition,
        /// The position.
        offset: i64,
    },
    /// A consumer hears of a commit.
    CommitResult {
        /// Which.
        id: u64,
        /// What became of it.
        outcome: Outcome<()>,
    },
    /// A group's position was read.
    Position {
        /// The group.
        group: u32,
        /// Where.
        at: TopicPartition,
        /// The position, `None` if there is none.
        offset: Option<i64>,
    },
    /// From now on retention or a request may drop the oldest records of the partition.
    MayTrim {
        /// Where.
        at: TopicPartition,
    },
    /// The partition's topic was deleted, or is about to be: no full read is asked of it any more.
    Gone {
        /// Where.
        at: TopicPartition,
    },
    /// A replica led a journal in a term.
    Leads {
        /// Journal.
        journal: u32,
        /// Term.
        term: u64,
        /// Replica.
        replica: u64,
    },
    /// Something that never may happen did, noticed by other means than records: a panic, a refusal to start, an object that is missing.
    Alarm {
        /// What.
        what: String,
    },
    /// Something worth knowing for whoever reads the history: a fault, a restart. Never judged.
    Note {
        /// What.
        what: String,
    },
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds on one monotonic clock.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
