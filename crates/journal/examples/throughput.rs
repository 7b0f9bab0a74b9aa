#![allow(clippy::disallowed_methods, reason = "a program that measures; it reads /proc and spawns its own load")]

//! How fast journals with one voter take appends: `throughput [seconds] [bytes] [journals] [in flight per journal] [folder]`.
//!
//! Prints MB/s, entries of the WAL and CPU seconds per GB. The folder decides what is measured: a tmpfs measures everything but the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_env::Env;
use tidegate_journal::entry::{Operation, ProducerLimits, Unit};
use tidegate_journal::raft::Links;
use tidegate_journal::{Journal, JournalParts, JournalSettings, TailCache};
use tidegate_model::{
    BatchBuilder, Compression, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid,
};
use tidegate_wal::{Settings, Wal};

fn argument(place: usize, default: usize) -> usize {
    std::env::args().nth(place).and_then(|given| given.parse().ok()).unwrap_or(default)
}

fn unit(operation: Operation) -> Unit {
    Unit { preconditions: Vec::new(), operations: vec![operation] }
}

fn batch(bytes: usize) -> Bytes {
    let value = vec![b'x'; bytes.saturating_sub(80)];
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(0), None, Some(&value), &[]);
    builder.build().expect("one record makes a batch").into_bytes()
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Appends with a number of calls in flight until time is over; gives the appends that were acknowledged.
async fn load(journal: Journal, at: TopicPartition, batch: Bytes, in_flight: usize, end: Duration, env: Env) -> u64 {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let workers = (0..in_flight).map(|_| {
        let (journal, batch, env, acknowledged) = (journal.clone(), batch.clone(), env.clone(), acknowledged.clone());
        tokio::spawn(async move {
            while env.clock.monotonic() < end {
                let append = unit(Operation::Append { at, batch: batch.clone(), window: 0 });
                if let Err(error) = journal.propose(append).await {
                    eprintln!("{error}");
                    return;
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures::future::join_all(workers.collect::<Vec<_>>()).await;
    acknowledged.load(Ordering::Relaxed)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (seconds, bytes, journals, in_flight) = (argument(1, 5), argument(2, 65_536), argument(3, 1), argument(4, 64));
    let folder = std::env::args().nth(5).map_or_else(|| std::env::temp_dir().join("tidegate-throughput"), PathBuf::from);
    let env = Env::real();
    let settings = Settings { budget_bytes: 64 << 30, ..Settings::new(folder.join("wal")) };
    let (wal, _) = Wal::open(settings, &env).await.expect("an empty folder opens");
    let parts = JournalParts {
        wal: wal.clone(),
        cache: TailCache::new(128 << 20),
        checkpoint_dir: folder.join("state"),
        env: env.clone(),
        links: Links::none(),
    };
    let batch = batch(bytes);
    let mut running = Vec::new();
    for number in 0..journals as u32 {
        let journal = Journal::start(JournalId(number), JournalSettings::new(1), None, parts.clone()).await.expect("it starts");
        journal.ensure_ready().await.expect("one voter elects itself");
        let at = TopicPartition { topic: TopicUid(env.random.uuid()), partition: PartitionId(0) };
        let limits = ProducerLimits::default();
        let open = Operation::OpenPartition { at, generation: 1, first_offset: Offset(0), first_epoch: LeaderEpoch(0), limits };
        journal.propose(unit(open)).await.expect("a new journal takes a partition");
        running.push((journal, at));
    }
    let (start, cpu, syncs) = (env.clock.monotonic(), cpu_seconds(), wal.status().syncs);
    let end = start + Duration::from_secs(seconds as u64);
    let loads = running.iter().map(|(journal, at)| load(journal.clone(), *at, batch.clone(), in_flight, end, env.clone()));
    let appends: u64 = futures::future::join_all(loads.collect::<Vec<_>>()).await.into_iter().sum();
    let took = (env.clock.monotonic() - start).as_secs_f64();
    let entries: u64 = running.iter().map(|(journal, _)| journal.applied().borrow().index).sum();
    let gigabytes = appends as f64 * batch.len() as f64 / 1e9;
    println!(
        "{bytes} bytes x {in_flight} in flight x {journals} journals: {:.0} MB/s, {:.0} appends/s, {:.0} entries/s, {:.0} syncs/s, {:.2} CPU-s/GB",
        gigabytes * 1e3 / took,
        appends as f64 / took,
        entries as f64 / took,
        (wal.status().syncs - syncs) as f64 / took,
        (cpu_seconds() - cpu) / gigabytes,
    );
    for (journal, _) in running {
        journal.shutdown().await;
    }
    wal.close().await;
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        eprintln!("{}: {error}", folder.display());
    }
}
