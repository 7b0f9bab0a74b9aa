//! Journals: the pure half ([`entry`], [`state`]) says what a replicated entry means; the Raft half orders and stores entries.

pub mod entry;
pub mod raft;
pub mod state;

pub use raft::{Journal, JournalError, JournalParts, JournalSettings, TailCache};
