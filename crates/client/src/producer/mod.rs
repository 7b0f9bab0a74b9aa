//! Writing: a producer that gathers records into batches, sends them pipelined over one stream, and sends them again in
//! order after failures.
//!
//! Parts: `accumulator` gathers (under one lock, no work for each record beyond copying it into its batch); `lane` is the pure
//! state machine of one partition's batches (pending → in flight → decided, and back after a failure); `sender` is the one task that
//! owns the lanes and the stream.
//!
//! Memory: the bytes of all records that are not decided stay `<= buffer_bytes`.

mod accumulator;
mod batch;
mod delivery;
mod identity;
mod lane;
mod links;
mod record;
mod sender;
mod settings;
mod unacknowledged;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_model::batch::RecordBatch;
use tidegate_proto::errors::Failure;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use self::accumulator::{Accumulator, Pushed};
use self::batch::Batch;
pub use self::delivery::Delivery;
use self::delivery::{Appended, Outcome};
pub use self::record::{Record, Stored};
pub use self::settings::{ProducerBuilder, Settings};
use crate::{Client, Error, Result};

/// What the handles and the sender share.
#[derive(Debug)]
struct Shared {
    client: Client,
    settings: Settings,
    accumulator: Mutex<Accumulator>,
    /// Wakes the sender: a batch was begun or is full, or the producer is closing.
    wake: Notify,
    /// Bytes left of `buffer_bytes`.
    memory: Semaphore,
    /// See [`Producer::refused_batches`].
    refused_batches: AtomicU64,
    /// One lookup of an unknown topic at a time.
    lookup: tokio::sync::Mutex<()>,
}

impl Shared {
    /// Tells a batch's fate and gives its memory back.
    fn decide(&self, batch: Batch, result: Result<Appended>) {
        self.accumulator.lock().forget(batch.id);
        batch.outcome.resolve(result);
        self.memory.add_permits(batch.charge);
    }

    /// Looks up partitions of topics and lets the accumulator know them.
    async fn look_up(&self, topics: Vec<String>) -> Result<()> {
        let metadata = self.client.metadata(topics).await?;
        let mut first_error = None;
        for topic in metadata.topics {
            match topic.error {
                Some(error) => first_error = first_error.or(Some(Failure::from(error))),
                None => self.accumulator.lock().learn(&topic),
            }
        }
        first_error.map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn knows(&self, topic: &str) -> bool {
        self.accumulator.lock().knows(topic)
    }
}

/// Closes the producer when the last handle is gone.
#[derive(Debug)]
struct LastHandle(Arc<Shared>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.accumulator.lock().close();
        self.0.wake.notify_one();
    }
}

/// A handle of a producer; cheap to clone. When the last one is dropped, what was sent is still delivered in the background;
/// [`Producer::close`] waits for it.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    task: Arc<Mutex<Option<JoinHandle<Result<()>>>>>,
    _last: Arc<LastHandle>,
}

impl Producer {
    fn start(client: Client, settings: Settings) -> Producer {
        let shared = Arc::new(Shared {
            accumulator: Mutex::new(Accumulator::new(&settings)),
            memory: Semaphore::new(settings.buffer_bytes),
            wake: Notify::new(),
            refused_batches: AtomicU64::new(0),
            lookup: tokio::sync::Mutex::new(()),
            client,
            settings,
        });
        let task = tokio::spawn(sender::run(shared.clone()));
        let last = Arc::new(LastHandle(shared.clone()));
        Producer { shared, task: Arc::new(Mutex::new(Some(task))), _last: last }
    }

    /// Puts a record into a batch. Waits only for memory (`buffer_bytes`) and, the first time, for the topic's metadata. Records of one task for one
    /// partition are stored in the order of these calls. Cancellation-safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`Error::Record`] for what can never be sent; `UNKNOWN_TOPIC`; [`Error::Closed`].
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        let charge = record.charge();
        let permit = self.reserve(charge, "value").await?;
        let now = tokio::time::Instant::now();
        let mut record = record;
        loop {
            match self.shared.accumulator.lock().push(record, charge, now)? {
                Pushed::Into { delivery, wake } => {
                    // Given back when the batch is decided.
                    permit.forget();
                    if wake {
                        self.shared.wake.notify_one();
                    }
                    return Ok(delivery);
                }
                Pushed::UnknownTopic(back) => record = back,
            }
            self.ensure_topic(&record.topic.clone()).await?;
        }
    }

    /// Sends a record and waits until it is durable.
    ///
    /// # Errors
    /// As [`Producer::send`] and [`Delivery::wait`].
    pub async fn send_and_wait(&self, record: Record) -> Result<Stored> {
        self.send(record).await?.wait().await
    }

    /// Sends a batch that was built elsewhere, as it is but for the producer's fields. The delivery is that of its first record.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_batch(&self, topic: &str, partition: i32, batch: RecordBatch) -> Result<Delivery> {
        let charge = batch.bytes().len();
        let permit = self.reserve(charge, "batch").await?;
        if !self.shared.knows(topic) {
            self.ensure_topic(topic).await?;
        }
        let now = tokio::time::Instant::now();
        let delivery = self.shared.accumulator.lock().push_batch(topic, partition, batch, now)?;
        permit.forget();
        self.shared.wake.notify_one();
        Ok(delivery)
    }

    async fn reserve(&self, charge: usize, field: &'static str) -> Result<tokio::sync::SemaphorePermit<'_>> {
        if charge > self.shared.settings.buffer_bytes {
            let limit = self.shared.settings.buffer_bytes;
            let message = format!("{charge} bytes do not fit into `buffer_bytes` ({limit}); raise it");
            return Err(Error::Record { field, message });
        }
        // The cast holds: `buffer_bytes` is at most u32::MAX.
        self.shared.memory.acquire_many(charge as u32).await.map_err(|_| {
            let accumulator = self.shared.accumulator.lock();
            Error::Closed { reason: accumulator.closed_because().unwrap_or("it has ended").to_owned() }
        })
    }

    async fn ensure_topic(&self, topic: &str) -> Result<()> {
        let _one = self.shared.lookup.lock().await;
        if self.shared.knows(topic) {
            return Ok(());
        }
        self.shared.look_up(vec![topic.to_owned()]).await
    }

    /// Sends what waits for more records, and waits until all that was sent before this call is decided; without acknowledgements
    /// ([`Settings::acknowledged`]), until the connections have it.
    ///
    /// # Errors
    /// The first error of a batch; each record's delivery tells its own.
    pub async fn flush(&self) -> Result<()> {
        let undecided = self.shared.accumulator.lock().flush();
        self.shared.wake.notify_one();
        let mut first_error = Ok(());
        for outcome in undecided {
            if let Err(error) = outcome.wait().await {
                first_error = first_error.and(Err(error));
            }
        }
        first_error
    }

    /// Takes no more records, delivers what was sent, and ends. All handles are closed. Takes at most the delivery timeout.
    ///
    /// # Errors
    /// As [`Producer::flush`]; without acknowledgements also if any of the producer's connections broke: then it is not known whether the hub
    /// has dealt with all that was sent.
    pub async fn close(&self) -> Result<()> {
        self.shared.accumulator.lock().close();
        let result = self.flush().await;
        let task = self.task.lock().take();
        match task {
            // The task's panic has failed its deliveries already.
            Some(task) => result.and(task.await.unwrap_or(Ok(()))),
            None => result,
        }
    }

    /// Batches sent without acknowledgement ([`Settings::acknowledged`]) that the hub has said it refused: their records are lost. Others may be lost without
    /// a word.
    pub fn refused_batches(&self) -> u64 {
        self.shared.refused_batches.load(Ordering::Relaxed)
    }

    /// Bytes of records that are not decided yet.
    pub fn buffered_bytes(&self) -> usize {
        self.shared.settings.buffer_bytes.saturating_sub(self.shared.memory.available_permits())
    }
}

/// Batches that are not decided, by number.
type Undecided = HashMap<u64, Arc<Outcome>>;
