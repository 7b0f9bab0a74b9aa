//! What can go wrong between a caller and a journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::{BrokerId, JournalId, Offset, TopicPartition};

use super::settings::ENTRY_OVERHEAD_BYTES;

/// Why a unit was not applied, or why it is not known whether it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// One unit is larger than the journal takes. Nothing happened.
    #[error(
        "a unit of {bytes} bytes is larger than the {limit} bytes that journal {journal} takes at once: split it, or raise unit_bytes (and data_bytes)"
    )]
    TooLarge {
        /// The journal.
        journal: JournalId,
        /// Bytes of the unit.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The WAL has no room. Nothing happened; the same unit may be submitted again after a while.
    #[error("journal {journal} takes no more data: {why}; {used} of {budget} bytes of the WAL's budget are used; try again in {} ms", retry_after.as_millis())]
    Full {
        /// The journal.
        journal: JournalId,
        /// What the room is waiting for.
        why: String,
        /// When to try again.
        retry_after: Duration,
        /// Bytes of the WAL in use.
        used: u64,
        /// Bytes that it may use.
        budget: u64,
    },
    /// This replica does not lead the journal. The unit was not applied by it.
    #[error("this broker does not lead journal {journal}{}", leader.map_or_else(|| String::from(" and knows of no leader: try again"), |id| format!("; replica {id} does")))]
    NotLeader {
        /// The journal.
        journal: JournalId,
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// This replica leads, and not enough of the other voters answer. The unit was not applied.
    #[error(
        "journal {journal} cannot reach a majority of its voters{}: it takes writes again by itself when they are back",
        silent_words(silent)
    )]
    NoMajority {
        /// The journal.
        journal: JournalId,
        /// Brokers with voters that are not heard.
        silent: Vec<BrokerId>,
    },
    /// Leadership went to another replica while the unit was on its way. Whether it took effect is unknown: an idempotent producer sends it
    /// again, others look first.
    #[error("journal {journal} changed its leader while the unit was on its way: it may or may not have taken effect{}", leader.map_or_else(String::new, |id| format!("; replica {id} leads now")))]
    Deposed {
        /// The journal.
        journal: JournalId,
        /// Who leads now, if known.
        leader: Option<u64>,
    },
    /// The journal is shutting down. Whether a unit that was already submitted took effect is unknown.
    #[error("journal {journal} is shutting down")]
    Closed {
        /// The journal.
        journal: JournalId,
    },
    /// The journal met an error that it cannot go on from; the process must end. Whether the unit took effect is unknown.
    #[error("journal {journal} has failed: {reason}")]
    Failed {
        /// The journal.
        journal: JournalId,
        /// What happened.
        reason: Arc<str>,
    },
}

/// Names brokers that are not heard.
fn silent_words(silent: &[BrokerId]) -> String {
    let names: Vec<String> = silent.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!(" (broker {one} does not answer)"),
        all => format!(" (brokers {} do not answer)", all.join(", ")),
    }
}

/// What [`super::Journal::submit`] answers with.
pub type SubmitError = JournalError;

/// Why members were not changed, leadership was not moved, or a read could not be made sure of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only the leader can do this. Nothing happened, unless leadership was lost on the way: then look again.
    #[error("this broker does not lead journal {journal}{}", leader.map_or_else(|| String::from(" and knows of no leader: try again"), |id| format!("; replica {id} does")))]
    NotLeader {
        /// The journal.
        journal: JournalId,
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// That replica is no member, or no voter.
    #[error("replica {replica} is no such member of journal {journal}: add it as a learner first")]
    Unknown {
        /// The journal.
        journal: JournalId,
        /// The replica.
        replica: u64,
    },
    /// A majority could not be reached.
    #[error("journal {journal} cannot reach a majority of its voters: {reason}")]
    NoQuorum {
        /// The journal.
        journal: JournalId,
        /// What Raft said.
        reason: String,
    },
    /// The change cannot be made now: another one is under way, or its voters are not all members.
    #[error("journal {journal} refused the change: {reason}")]
    Refused {
        /// The journal.
        journal: JournalId,
        /// What Raft said.
        reason: String,
    },
    /// The other replica did not take over in time.
    #[error("replica {replica} did not take over journal {journal} within {deadline:?}")]
    Late {
        /// The journal.
        journal: JournalId,
        /// The replica.
        replica: u64,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The journal has ended.
    #[error("journal {journal} has ended: {reason}")]
    Ended {
        /// The journal.
        journal: JournalId,
        /// Why.
        reason: String,
    },
}

/// Why a journal cannot be started. Nothing was written unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of its range.
    #[error("journal setting {field} is {given}: {problem}")]
    Setting {
        /// Its name.
        field: &'static str,
        /// What it is.
        given: u64,
        /// What it must be.
        problem: &'static str,
    },
    /// The folder of checkpoints cannot be used.
    #[error("cannot use the checkpoint folder {}: {source}", path.display())]
    CheckpointFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The log before the state's beginning is gone and no checkpoint is whole.
    #[error("journal {journal} has no valid checkpoint in {} that reaches its log, which starts after index {purged}: restore the newest checkpoint file, or rebuild this replica", path.display())]
    NoCheckpoint {
        /// The journal.
        journal: JournalId,
        /// The folder.
        path: PathBuf,
        /// Last index that is no longer in the log.
        purged: u64,
    },
    /// There are checkpoints, but the log lost what they build on. Voting with it could lose acknowledged data.
    #[error(
        "journal {journal} has a checkpoint at index {checkpoint} but its log ends at {last}: the WAL was removed or replaced; put it back, or rebuild this replica under a new id"
    )]
    LogLost {
        /// The journal.
        journal: JournalId,
        /// Index of the checkpoint.
        checkpoint: u64,
        /// Last index of the log, 0 if it is empty.
        last: u64,
    },
    /// An entry could be too large for the WAL.
    #[error(
        "journal setting {field} is {bytes}: with {ENTRY_OVERHEAD_BYTES} bytes around it, it must fit into the {payload_bytes} bytes that the WAL takes at once (half a file): lower {field} or raise the WAL's file_bytes"
    )]
    BeyondFile {
        /// The setting's name.
        field: &'static str,
        /// What it is.
        bytes: usize,
        /// The longest payload of the WAL.
        payload_bytes: usize,
    },
    /// The stored members do not contain this replica.
    #[error("replica {replica} is no member of journal {journal}: this is another replica's data, or this one was removed")]
    NotAMember {
        /// The journal.
        journal: JournalId,
        /// This replica.
        replica: u64,
    },
    /// The replica was to go on from what it has, and has nothing.
    #[error(
        "replica {replica} of journal {journal} has nothing stored: its volume was emptied or replaced; rebuild it under a new id, under this one it must not vote"
    )]
    NothingStored {
        /// The journal.
        journal: JournalId,
        /// This replica.
        replica: u64,
    },
    /// An entry of the log, or the vote, is not what was written.
    #[error(
        "journal {journal} cannot start: its log on this volume is damaged: {reason}; it takes no part until this replica is rebuilt under a new id"
    )]
    Damaged {
        /// The journal.
        journal: JournalId,
        /// What was found.
        reason: String,
    },
    /// Raft could not start from what is stored.
    #[error("journal {journal} cannot start: {reason}")]
    Raft {
        /// The journal.
        journal: JournalId,
        /// Why.
        reason: String,
    },
}

impl StartError {
    /// Whether what the replica had stored is gone, damaged, or no longer part of the journal, so that it must never take part under its id again:
    /// another one has to take its place.
    pub fn is_loss(&self) -> bool {
        match self {
            StartError::NoCheckpoint { .. }
            | StartError::LogLost { .. }
            | StartError::NothingStored { .. }
            | StartError::NotAMember { .. }
            | StartError::Damaged { .. } => true,
            StartError::Setting { .. }
            | StartError::CheckpointFolder { .. }
            | StartError::BeyondFile { .. }
            | StartError::Raft { .. } => false,
        }
    }
}

/// Why a partition's tail cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The partition is not open in this journal.
    #[error("partition {at} is not in this journal")]
    UnknownPartition {
        /// The partition.
        at: TopicPartition,
    },
    /// The offset was never written, or is below the log start.
    #[error("offset {offset} of {at} is out of range: it has {log_start} to {high_watermark}")]
    OutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// First offset that can be read.
        log_start: Offset,
        /// One past the last.
        high_watermark: Offset,
    },
    /// The offset is not in the log any more: read it from the tier.
    #[error("offset {offset} of {at} is below the tail, which starts at {tail_start}")]
    BelowTail {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// First offset that the log still holds, the high watermark if it holds none.
        tail_start: Offset,
    },
    /// The disk did not give the bytes. Nothing says that they are damaged: the same read may succeed later.
    #[error("the log of {at} at index {index} cannot be read at present: {reason}")]
    Unavailable {
        /// The partition.
        at: TopicPartition,
        /// Index of the entry.
        index: u64,
        /// What the disk said.
        reason: String,
    },
    /// Bytes from the disk are not what was written; they are not served.
    #[error("the log of {at} at index {index} cannot be read: {reason}")]
    Damaged {
        /// The partition.
        at: TopicPartition,
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        reason: String,
    },
}
