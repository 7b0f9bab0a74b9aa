//! The brokers' side: a mirror of each hub's catalog, and the link that keeps it and carries calls.

pub mod link;
pub mod links;
pub mod mirror;
pub mod network;

pub use link::{Link, LinkState};
pub use links::Links;
pub use mirror::{Entry, Mirror, ObjectId};
pub use network::{BrokerNetwork, CallError, PodNetwork};
