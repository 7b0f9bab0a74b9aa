//! The Raft half of a journal: orders entries, makes them durable through the shared WAL, applies them to the state and serves the tail.
//!
//! openraft stays inside this folder (DESIGN D2): callers see [`Journal`], so that another Raft library remains possible. Positions and
//! indexes here count from 1, as in the WAL and the state. Offsets: what [`Journal::read_tail`] serves lies below the high watermark.
//!
//! The way of a unit: [`Journal::submit`] (byte permit, room in the WAL) -> queue -> proposer (gathers units into an entry) -> Raft ->
//! log store -> WAL thread (fsync) -> state machine (applies, wakes readers) -> proposer (answers in order).

mod append_signal;
mod cache;
mod checkpoint;
mod detector;
mod error;
mod forget;
mod journal;
mod leadership;
mod machine;
mod members;
mod network;
mod own_vote;
mod pacer;
mod peers;
mod proposer;
mod queue;
mod read;
mod receive;
mod room;
mod runtime;
mod seed;
mod settings;
mod start;
mod store;
mod strain;
mod turnover;
mod turns;
mod types;
mod wire;

pub use cache::TailCache;
pub use checkpoint::{CheckpointInfo, InspectedCheckpoint, inspect_checkpoint, is_checkpoint};
pub use error::{JournalError, MemberError, ReadError, StartError, SubmitError};
pub use journal::{Journal, JournalParts};
pub use leadership::Leadership;
pub use members::{FormerVoters, Freshness, Members, Progress};
pub use pacer::Pacer;
pub use peers::{Answer, Lane, Links, Message, PeerError, Peers, broker_of, generation_of, replica_id};
pub use queue::{Memory, Ticket};
pub use read::{PREFIX_BYTES, ServedBatch, TailRead};
pub use receive::Accepted;
pub use settings::{ENTRY_OVERHEAD_BYTES, JournalSettings};
pub use start::Beginning;
pub use strain::Slowness;
pub use turnover::Turnover;

#[cfg(test)]
mod tests;
