//! Tests of a whole journal over a WAL: one voter, kills, restarts, purges, damaged checkpoints.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and panic on what must not be")]

mod chaos;
mod cluster;
mod detector;
mod golden;
mod handing;
mod kills;
mod life;
mod limits;
mod moving;
mod repeats;
mod replicas;
mod wire;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidegate_env::Env;
use tidegate_model::{
    BatchBuilder, Compression, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs,
    TopicPartition, TopicUid,
};
use tidegate_wal::{JournalLog, OpenError, Settings, Wal};

use super::*;
use crate::entry::{Appended, Operation, Outcome, ProducerLimits, Unit, UnitOutcome};
use crate::state::State;

pub(super) const ID: JournalId = JournalId(3);

pub(super) fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicUid(uuid::Uuid::from_u128(7)), partition: PartitionId(partition) }
}

pub(super) fn unit(operation: Operation) -> Unit {
    Unit { preconditions: Vec::new(), operations: vec![operation] }
}

pub(super) fn open(partition: i32) -> Unit {
    unit(Operation::OpenPartition {
        at: at(partition),
        generation: 1,
        first_offset: Offset(0),
        first_epoch: LeaderEpoch(0),
        limits: ProducerLimits::default(),
    })
}

/// A batch of one record whose value is `value`.
pub(super) fn batch(value: &str) -> Bytes {
    batch_of(value.as_bytes())
}

pub(super) fn batch_of(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(1_000), Some(b"key"), Some(value), &[]);
    builder.build().unwrap().into_bytes()
}

pub(super) fn append(partition: i32, value: &str) -> Unit {
    unit(Operation::Append { at: at(partition), batch: batch(value), window: 0 })
}

/// The append of an idempotent producer.
pub(super) fn numbered(partition: i32, producer: i64, sequence: i32, value: &str) -> Unit {
    let builder = BatchBuilder::new(Compression::None).producer(ProducerId(producer), ProducerEpoch(0), Sequence(sequence));
    let mut builder = builder;
    builder.push(TimestampMs(1_000), None, Some(value.as_bytes()), &[]);
    unit(Operation::Append { at: at(partition), batch: builder.build().unwrap().into_bytes(), window: 0 })
}

pub(super) fn appended(outcome: UnitOutcome) -> Appended {
    match outcome {
        UnitOutcome::Applied(outcomes) => match outcomes[0] {
            Outcome::Appended(appended) => appended,
            ref other => panic!("not an append: {other:?}"),
        },
        refused => panic!("refused: {refused:?}"),
    }
}

/// A broker's disk, with one journal on it.
pub(super) struct Broker {
    pub(super) wal: Wal,
    pub(super) journal: Journal,
    pub(super) cache: TailCache,
}

pub(super) fn settings() -> JournalSettings {
    JournalSettings::fitting(11, wal_settings(Path::new("")).max_payload_bytes())
}

pub(super) fn wal_settings(folder: &Path) -> Settings {
    Settings { file_bytes: 4 << 20, ..Settings::new(folder.join("wal")) }
}

pub(super) fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("checkpoints")
}

/// Opens the log; waits for the thread of a run that was just killed to let go of it.
pub(super) async fn open_log(folder: &Path, env: &Env) -> (Wal, Option<JournalLog>) {
    open_log_with(wal_settings(folder), env).await
}

pub(super) async fn open_log_with(settings: Settings, env: &Env) -> (Wal, Option<JournalLog>) {
    // What was killed lets go of its folder soon, or never: then the test fails instead of hanging.
    let begun = std::time::Instant::now();
    loop {
        match Wal::open(settings.clone(), env).await {
            Ok((wal, mut recovered)) => return (wal, recovered.journals.remove(&ID)),
            Err(OpenError::Locked { .. }) if begun.elapsed() < std::time::Duration::from_secs(60) => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn start_with(folder: &Path, env: &Env, settings: JournalSettings, cache: TailCache) -> Broker {
    let (wal, log) = open_log(folder, env).await;
    let parts = JournalParts {
        wal: wal.clone(),
        cache: cache.clone(),
        checkpoint_dir: checkpoints(folder),
        env: env.clone(),
        links: Links::none(),
    };
    let journal = Journal::start(ID, settings, log, parts).await.unwrap();
    journal.ensure_ready().await.unwrap();
    Broker { wal, journal, cache }
}

pub(super) async fn start(folder: &Path, env: &Env) -> Broker {
    start_with(folder, env, settings(), TailCache::new(64 << 20)).await
}

impl Broker {
    pub(super) async fn stop(self) {
        self.journal.shutdown().await;
        drop(self.journal);
        self.wal.close().await;
    }

    pub(super) async fn values(&self, partition: i32) -> Vec<String> {
        values(&self.journal, partition).await
    }
}

/// Reads a partition's tail from its start, by reads of at most `max` bytes, and checks that offsets are dense.
pub(super) async fn values_by(journal: &Journal, partition: i32, max: usize) -> Vec<String> {
    let (mut next, end) = journal.read_state(|state| {
        let partition = state.partition(at(partition)).unwrap();
        (partition.tail().start().unwrap_or(partition.high_watermark()), partition.high_watermark())
    });
    let mut values = Vec::new();
    while next < end {
        let read = journal.read_tail(at(partition), next, max).await.unwrap();
        assert!(!read.batches.is_empty());
        for served in &read.batches {
            assert_eq!(served.header.base_offset, next, "offsets are dense");
            let whole = Bytes::from(served.chunks().concat());
            let parsed = tidegate_model::RecordBatch::trusted(whole).unwrap();
            assert_eq!(parsed.header().base_offset, next, "the patched prefix carries the base offset");
            for record in parsed.records().unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
            next = Offset(served.last_offset().0 + 1);
        }
        assert_eq!(read.next, next);
    }
    values
}

pub(super) async fn values(journal: &Journal, partition: i32) -> Vec<String> {
    values_by(journal, partition, 1 << 20).await
}

/// Runs a body on a runtime of its own, as production has it.
pub(super) fn on_threads<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(body);
    runtime.shutdown_background();
    result
}
