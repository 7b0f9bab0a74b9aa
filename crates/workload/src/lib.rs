//! The record-and-check workload: idempotent producers whose values are unique, consumers that poll, go back and commit, and at the end full reads;
//! every operation written into a history that `tidegate-checker` judges.
//!
//! It knows a hub only as a client does, and goes on while the hub is away: what was under way then has an unknown outcome. It judges nothing itself.

mod consumer;
mod producer;
mod read;
mod settings;
mod value;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

pub use settings::Settings;
use tidegate_checker::{Recorder, Source};
use tidegate_client::proto::v1;
use tidegate_client::{Client, Error, Failure, Reason};
use tidegate_model::{PartitionId, TopicPartition, TopicUid};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a workload cannot go on: nothing that waiting would cure.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The hub refused, or answered damaged bytes.
    #[error(transparent)]
    Client(#[from] Error),
    /// A batch has the right CRC and cannot be decoded.
    #[error("partition {partition} at offset {offset}: the batch cannot be decoded")]
    Batch {
        /// The partition.
        partition: i32,
        /// Where the reader was.
        offset: i64,
        /// What is wrong.
        #[source]
        source: tidegate_model::batch::Error,
    },
    /// A setting is out of its range.
    #[error("`{field}`: {message}")]
    Setting {
        /// Its name.
        field: &'static str,
        /// What is allowed.
        message: String,
    },
    /// A task of the workload panicked.
    #[error("a task of the workload ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A recorder with this machine's monotonic clock; it records nothing until it is told where to.
pub fn recorder() -> Recorder {
    let start = Instant::now();
    Recorder::new(Arc::new(move || u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)))
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Records that certainly were not stored.
    pub refused: u64,
    /// Records of which nobody knows.
    pub unknown: u64,
    /// Records that consumers saw, again and again counted.
    pub polled: u64,
}

#[derive(Debug, Default)]
struct Counters {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    polled: AtomicU64,
}

impl Counters {
    fn acknowledged(&self, records: u64) {
        self.acknowledged.fetch_add(records, Ordering::Relaxed);
    }

    fn refused(&self, records: u64) {
        self.refused.fetch_add(records, Ordering::Relaxed);
    }

    fn unknown(&self, records: u64) {
        self.unknown.fetch_add(records, Ordering::Relaxed);
    }

    fn polled(&self, records: u64) {
        self.polled.fetch_add(records, Ordering::Relaxed);
    }
}

/// What the tasks share.
#[derive(Clone, Debug)]
struct Shared {
    client: Client,
    settings: Arc<Settings>,
    topic: TopicUid,
    recorder: Recorder,
    counts: Arc<Counters>,
    processes: Arc<AtomicU32>,
    stop: CancellationToken,
}

impl Shared {
    fn at(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.topic, partition: PartitionId(partition) }
    }

    /// Who acts in the history; never used twice.
    fn next_process(&self) -> u32 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }
}

/// A workload that runs. Dropping it stops its tasks where they are.
#[derive(Debug)]
pub struct Workload {
    shared: Shared,
    tasks: JoinSet<Result<(), WorkloadError>>,
}

impl Workload {
    /// Makes the topic and starts all clients. The topic must not exist: values of an earlier run would be unknown to the history.
    ///
    /// # Errors
    /// [`WorkloadError::Setting`]; [`WorkloadError::Client`] with `TOPIC_EXISTS` or what else the hub says.
    pub async fn start(client: Client, settings: Settings, recorder: Recorder) -> Result<Workload, WorkloadError> {
        validate(&settings)?;
        let partitions = Some(settings.partitions as u32);
        let topic = v1::TopicSettings { partitions, ..Default::default() };
        let request = v1::CreateTopicRequest { name: settings.topic.clone(), settings: Some(topic), validate_only: false };
        let made = match client.admin().create_topic(request).await {
            Err(error) if error.reason() == Some(Reason::TopicExists) => {
                let message = format!("a topic `{}` exists: name one that does not", settings.topic);
                return Err(WorkloadError::Setting { field: "topic", message });
            }
            other => other?,
        };
        let shared = Shared {
            client,
            settings: Arc::new(settings),
            topic: uid(&made)?,
            recorder,
            counts: Arc::default(),
            processes: Arc::new(AtomicU32::new(1)),
            stop: CancellationToken::new(),
        };
        let mut tasks = JoinSet::new();
        for number in 0..shared.settings.producers {
            tasks.spawn(producer::run(shared.clone(), number));
        }
        for number in 0..shared.settings.consumers {
            tasks.spawn(consumer::run(shared.clone(), number));
        }
        Ok(Workload { shared, tasks })
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        let counts = &self.shared.counts;
        Counts {
            acknowledged: counts.acknowledged.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            unknown: counts.unknown.load(Ordering::Relaxed),
            polled: counts.polled.load(Ordering::Relaxed),
        }
    }

    /// Waits until a task ends, which they only do when something is wrong. Cancellation-safe.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn failed(&mut self) -> Result<(), WorkloadError> {
        match self.tasks.join_next().await {
            Some(ended) => ended?,
            None => std::future::pending().await,
        }
    }

    /// Reads each partition from its beginning to its end by a consumer of its own, and writes it into the history. Waits for a hub that is away. Returns
    /// how many records came.
    ///
    /// # Errors
    /// What waiting does not cure, damaged batches among it.
    pub async fn read_everything(&self, source: Source) -> Result<u64, WorkloadError> {
        let mut records = 0;
        for partition in 0..self.shared.settings.partitions {
            records += read::partition(&self.shared, partition, source).await?;
        }
        Ok(records)
    }

    /// Stops the clients, waiting for what is under way for at most the delivery timeout.
    ///
    /// # Errors
    /// The first error of a task.
    pub async fn stop(&mut self) -> Result<Counts, WorkloadError> {
        self.shared.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.counts())
    }
}

/// The uid of a topic that the hub described.
fn uid(topic: &v1::Topic) -> Result<TopicUid, WorkloadError> {
    let uid = tidegate_client::proto::convert::uid_from_wire("topic_uid", &topic.topic_uid).map_err(Error::from)?;
    let missing = || Failure::new(Reason::Internal, "the hub described a topic without a uid");
    Ok(uid.ok_or_else(|| Error::from(missing()))?)
}

fn validate(settings: &Settings) -> Result<(), WorkloadError> {
    let range = |field, value: i64, least: i64, most: i64| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(WorkloadError::Setting { field, message: format!("{value} is not within {least} to {most}") })
    };
    range("partitions", settings.partitions.into(), 1, 1000)?;
    range("producers", settings.producers.into(), 1, 1000)?;
    range("consumers", settings.consumers.into(), 0, 1000)?;
    if settings.records_per_second.is_nan() || settings.records_per_second <= 0.0 {
        let message = format!("{} is not above 0", settings.records_per_second);
        return Err(WorkloadError::Setting { field: "rate", message });
    }
    Ok(())
}
