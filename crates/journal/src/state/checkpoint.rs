//! The bytes of a state.

/// Why bytes are not a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateDecodeError {
    /// Not a checkpoint at all.
    #[error("these bytes are no journal checkpoint: {0}")]
    Malformed(String),
    /// Written by a newer build.
    #[error("checkpoint format version {given} is newer than {known}: run a newer build")]
    Version {
        /// The version given.
        given: u16,
        /// The greatest known.
        known: u16,
    },
}
