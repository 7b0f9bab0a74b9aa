//! What can go wrong with an object store, sorted by what a caller does next.

/// Why a call to an object store did not succeed. Each message names the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("object {key} does not exist")]
    NotFound {
        /// The object.
        key: String,
    },
    /// A create-only put found an object under its key. Nothing was changed.
    #[error("object {key} exists already; keys are never used twice, so another writer made it")]
    AlreadyExists {
        /// The object.
        key: String,
    },
    /// The key is not one that every store can hold.
    #[error("object key {key:?} is refused: {why}")]
    InvalidKey {
        /// The key.
        key: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The range is empty, turned around or reaches beyond the object.
    #[error("bytes {start} to {end} of object {key} cannot be read: {why}")]
    InvalidRange {
        /// The object.
        key: String,
        /// First byte that was asked for.
        start: u64,
        /// The byte after the last.
        end: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The store refused, and will again: rights, credentials, a missing bucket, a request it cannot do.
    #[error("{operation} of object {key} was refused by the store: {message}")]
    Refused {
        /// The object or prefix.
        key: String,
        /// What was tried.
        operation: &'static str,
        /// The store's words.
        message: String,
    },
    /// The store could not be reached, was overloaded or failed, until the deadline. Nothing was changed.
    #[error("{operation} of object {key} failed, and may succeed later: {message}")]
    Unavailable {
        /// The object or prefix.
        key: String,
        /// What was tried.
        operation: &'static str,
        /// The last failure.
        message: String,
    },
    /// The store has no room. Nothing was changed.
    #[error("the store has no room for object {key}: {message}; free space or make it larger")]
    Full {
        /// The object.
        key: String,
        /// The store's words.
        message: String,
    },
    /// A write was sent and no answer came: it happened, or not, or still will. Read the object back to find out; never reuse its key for
    /// other bytes.
    #[error("{operation} of object {key} got no answer and may have happened: {message}")]
    Ambiguous {
        /// The object.
        key: String,
        /// What was tried.
        operation: &'static str,
        /// The last failure.
        message: String,
    },
    /// The store gave bytes that are not those that were written.
    #[error("object {key} is damaged: {message}")]
    Corrupt {
        /// The object.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later. Ambiguous writes count: repeating a create-only put is safe.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. } | StoreError::Ambiguous { .. } | StoreError::Full { .. })
    }

    /// Whether a write may have happened although it failed.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, StoreError::Ambiguous { .. })
    }
}
