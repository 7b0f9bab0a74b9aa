//! What a journal's log comes to.

use bytes::Bytes;

use crate::Position;

/// What recovery found of one journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalLog {
    /// The last vote, as it was submitted.
    pub vote: Option<Bytes>,
    /// The purge point.
    pub purged: Option<Position>,
    /// The last commit point that was noted; never beyond `last`.
    pub committed: Option<Position>,
    /// The first index that is (or would be) in the log.
    pub first_index: u64,
    /// The last entry; the purge point if there is none after it.
    pub last: Option<Position>,
}
