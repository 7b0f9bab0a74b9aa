//! What a cell asks of a broker, whichever it is.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::flight::{Flight, Reading};

/// A driver of one kind of broker. Every call of `produce` and `consume` has a connection of its own.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    /// Makes a topic.
    async fn create_topic(&self, name: &str, partitions: u32) -> Result<()>;

    /// Deletes a topic; its files may go a little later.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// Sends what the flight gives until it is over, and takes all acknowledgements.
    async fn produce(&self, topic: &str, flight: Arc<Flight>) -> Result<()>;

    /// Reads partitions from their beginning until so many records are read in all. Sends into `ready` when it has begun.
    async fn consume(&self, topic: &str, partitions: &[i32], records: Until, reading: Reading, ready: Ready) -> Result<Reading>;
}

/// How many records there will be; `u64::MAX` while that is not known.
pub(crate) type Until = watch::Receiver<u64>;
/// Says that a consumer has begun.
pub(crate) type Ready = tokio::sync::oneshot::Sender<()>;
