//! What a cell asks of a broker, whichever it is.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::flight::{Flight, Reading};

/// A driver of one kind of broker. Every call of `produce` and `consume` has a connection of its own.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    /// Fails until a broker serves.
    async fn is_up(&self, broker: usize) -> Result<()>;

    /// Fails while something has fewer replicas in sync than it shall have, or no leader. Kafka and NATS say so with the leaders.
    async fn is_in_sync(&self) -> Result<()> {
        Ok(())
    }

    /// Has a broker hand over all that it leads, or lets it lead again.
    async fn set_draining(&self, _broker: usize, _draining: bool) -> Result<()> {
        anyhow::bail!("only Tidegate's brokers are drained here: use --by stop")
    }

    /// Before a broker comes in: what has to be said so that it takes the place of another one.
    async fn make_way(&self, _from: usize) -> Result<()> {
        Ok(())
    }

    /// Has the broker that came in last take the place of another one in a topic, where that was not said before.
    async fn replace(&self, _topic: &str, _partitions: u32, _from: usize) -> Result<()> {
        Ok(())
    }

    /// How many replicas the broker still has, and replicas that are not in sync elsewhere.
    async fn left_on(&self, _topic: &str, _partitions: u32, _from: usize) -> Result<usize> {
        anyhow::bail!("moving is measured for Tidegate and Kafka")
    }

    /// Bytes of log that brokers have copied to replicas which did not vote yet, since they started, if they count that.
    async fn copied_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Makes a topic.
    async fn create_topic(&self, name: &str, partitions: u32) -> Result<()>;

    /// Deletes a topic; its files may go a little later.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// Which broker leads each partition, by its place among the brokers that were started; fails while one has none.
    async fn leaders(&self, topic: &str, partitions: u32) -> Result<Vec<usize>>;

    /// Asks a broker who leads a partition.
    async fn leader(&self, asked: usize, topic: &str, partition: i32) -> Result<usize>;

    /// Sends one batch to a broker, once, and waits for its acknowledgement.
    async fn append(&self, broker: usize, topic: &str, partition: i32, batch: Bytes) -> Result<()>;

    /// Sends what the flight gives until it is over, and takes all acknowledgements. Its partitions have one leader.
    async fn produce(&self, topic: &str, flight: Arc<Flight>) -> Result<()>;

    /// Reads partitions of one leader from their beginning until so many records are read in all. Sends into `ready` when it has begun.
    async fn consume(&self, topic: &str, partitions: &[i32], records: Until, reading: Reading, ready: Ready) -> Result<Reading>;
}

/// Where partitions of a topic are led, as found when the topic was made.
#[derive(Debug, Default)]
pub(crate) struct Leaders(Mutex<HashMap<String, Vec<usize>>>);

impl Leaders {
    pub(crate) fn note(&self, topic: &str, leaders: &[usize]) {
        self.0.lock().insert(topic.to_owned(), leaders.to_vec());
    }

    /// The broker that leads a partition; the first one if that was never asked.
    pub(crate) fn of(&self, topic: &str, partition: i32) -> usize {
        let known = self.0.lock();
        let leader = known
            .get(topic)
            .zip(usize::try_from(partition).ok())
            .and_then(|(leaders, partition)| leaders.get(partition).copied());
        leader.unwrap_or(0)
    }
}

/// How many records there will be; `u64::MAX` while that is not known.
pub(crate) type Until = watch::Receiver<u64>;
/// Says that a consumer has begun.
pub(crate) type Ready = tokio::sync::oneshot::Sender<()>;
