//! The Raft half of a journal: orders entries, makes them durable through the shared WAL, applies them to the state and serves the tail.
//!
//! openraft stays inside this folder (DESIGN D2): callers see [`Journal`], so that another Raft library remains possible. Positions and
//! indexes here count from 1, as in the WAL and the state. Offsets: what [`Journal::read_tail`] serves lies below the high watermark.
//!
//! The way of a unit: [`Journal::submit`] (byte permit, room in the WAL) -> queue -> proposer (gathers units into an entry) -> Raft ->
//! log store -> WAL thread (fsync) -> state machine (applies, wakes readers) -> proposer (answers in order).

mod cache;
mod checkpoint;
mod error;
mod journal;
mod machine;
mod network;
mod proposer;
mod queue;
mod read;
mod seed;
mod settings;
mod store;
mod types;

pub use cache::TailCache;
pub use checkpoint::{CheckpointInfo, InspectedCheckpoint, inspect_checkpoint, is_checkpoint};
pub use error::{JournalError, ReadError, StartError, SubmitError};
pub use journal::{Journal, JournalParts, Leadership};
pub use queue::Ticket;
pub use read::{PREFIX_BYTES, ServedBatch, TailRead};
pub use settings::{ENTRY_OVERHEAD_BYTES, JournalSettings};

#[cfg(test)]
mod tests;
