//! The brokers of a simulation: each has a disk of its own and any number of lives; and what is checked of their journal's replicas meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use tidegate_env::sim::{Latency, SimDisk, SimRandom};
use tidegate_env::{Env, Random};
use tidegate_journal::entry::{Operation, Unit, UnitOutcome};
use tidegate_journal::raft::{Beginning, Leadership, Links, broker_of};
use tidegate_journal::{Journal, JournalParts, JournalSettings, TailCache};
use tidegate_model::{BatchBuilder, Compression, HubId, JournalId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence};
use tidegate_model::{RecordBatch, TimestampMs, TopicPartition, TopicUid};
use tidegate_wal::{Settings, Wal};
use tokio_util::sync::CancellationToken;

use crate::net::{Life, Net};

pub(super) const JOURNAL: JournalId = JournalId(1);

pub(super) fn at() -> TopicPartition {
    TopicPartition { topic: TopicUid(HubId::default().0), partition: PartitionId(0) }
}

pub(super) fn append(sequence: i32, bytes: usize) -> Unit {
    let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(9), ProducerEpoch(0), Sequence(sequence));
    let value = format!("{sequence} {}", "v".repeat(bytes));
    builder.push(TimestampMs(1_000), None, Some(value.as_bytes()), &[]);
    let batch = builder.build().expect("a small batch can be built").into_bytes();
    Unit::of(Operation::Append { at: at(), batch, window: 0 })
}

/// A replica that runs.
pub(super) struct Replica {
    pub(super) journal: Journal,
    disk: SimDisk,
}

pub(super) struct Cluster {
    pub(super) env: Env,
    pub(super) random: SimRandom,
    pub(super) net: Net,
    pub(super) replicas: BTreeMap<u64, Replica>,
    disks: BTreeMap<u32, SimDisk>,
    lives: u64,
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Hash of the state after each index that was looked at.
    hashes: BTreeMap<u64, u64>,
    /// Each replica's index at the last look.
    looked: BTreeMap<u64, u64>,
    /// Hashes of the disks of ended lives, and of what was seen.
    pub(super) trace: Vec<u64>,
    latency: Latency,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.net.end();
    }
}

impl Cluster {
    pub(super) fn new(env: Env, seed: u64) -> Cluster {
        let random = SimRandom::new(seed);
        let net = Net::new(&env, random.next_u64());
        let sync = Duration::from_micros(random.below(20_000));
        let latency = Latency { sync, transfer: Duration::from_micros(random.below(500)), stall_one_in: random.below(2) * 500 };
        Cluster {
            env,
            random,
            net,
            replicas: BTreeMap::new(),
            disks: BTreeMap::new(),
            lives: 0,
            leaders: BTreeMap::new(),
            hashes: BTreeMap::new(),
            looked: BTreeMap::new(),
            trace: Vec::new(),
            latency,
        }
    }

    /// Starts a replica on its broker's disk.
    pub(super) async fn start(&mut self, id: u64, beginning: Beginning) -> Result<(), String> {
        let broker = broker_of(id).0;
        self.lives += 1;
        let life = Life { broker, number: self.lives };
        let seed = self.random.next_u64();
        let disk = self.disks.entry(broker).or_insert_with(|| SimDisk::new(seed)).clone();
        disk.set_latency(self.latency);
        let mut env = self.env.clone();
        env.disk = std::sync::Arc::new(disk.clone());
        env.random = std::sync::Arc::new(SimRandom::new(self.random.next_u64()));
        let directory = PathBuf::from("/broker");
        let settings = Settings { file_bytes: 1 << 20, budget_bytes: 64 << 20, ..Settings::new(directory.join("wal")) };
        let settings = Settings { control_reserve_bytes: 1 << 20, ..settings };
        let (wal, mut recovered) = Wal::open(settings, &env).await.map_err(|error| format!("replica {id}: {error}"))?;
        let journal_settings = JournalSettings {
            checkpoint_bytes: 24 << 10,
            entry_target_bytes: 4 << 10,
            ..JournalSettings::fitting(id, wal.max_payload_bytes())
        };
        let parts = JournalParts {
            wal,
            cache: TailCache::new(32 << 10),
            checkpoint_dir: directory.join("checkpoints"),
            env,
            links: Links::new(HubId::default(), self.net.peers(life)),
        };
        let log = recovered.journals.remove(&JOURNAL);
        self.net.begin(life, CancellationToken::new());
        let journal = Journal::start_as(JOURNAL, journal_settings, beginning, log, parts).await;
        let journal = journal.map_err(|error| format!("replica {id} does not start again: {error}"))?;
        self.net.register(life, &journal);
        self.replicas.insert(id, Replica { journal, disk });
        Ok(())
    }

    /// Ends a process: with the power, whatever was not synced is at the seed's mercy; by a kill, the page cache stays.
    pub(super) fn crash(&mut self, id: u64, with_power: bool) {
        let Some(Replica { journal, disk }) = self.replicas.remove(&id) else { return };
        let broker = broker_of(id).0;
        self.net.leave(broker);
        let left = disk.copied(self.random.next_u64());
        if with_power {
            left.crash(self.random.next_u64());
        }
        self.trace.push(disk.trace_hash());
        self.disks.insert(broker, left);
        // What still runs of it has no disk and no network any more, and finds out at its next write.
        disk.cut_power_after(0);
        let clock = self.env.clock.clone();
        let ending = async move {
            drop(journal.submit(append(0, 0)).await);
            tokio::select! {
                biased;
                () = journal.shutdown() => {}
                () = clock.sleep(Duration::from_secs(1)) => {}
            }
        };
        self.env.threads.task("the end", ending.boxed());
    }

    /// Notes who leads and what states are; complains of two leaders of a term, and of states that differ at the same index.
    pub(super) fn look(&mut self) -> Result<(), String> {
        for (id, replica) in &self.replicas {
            let now: Leadership = *replica.journal.leadership().borrow();
            if now.is_self {
                let known = *self.leaders.entry(now.term).or_insert(*id);
                if known != *id {
                    return Err(format!("term {} is led by replicas {known} and {id}", now.term));
                }
            }
            if let Some(reason) = replica.journal.failed().borrow().as_ref() {
                return Err(format!("replica {id} has failed: {reason}"));
            }
            let index = replica.journal.read_state(|state| state.applied().index);
            if self.looked.insert(*id, index) == Some(index) {
                continue;
            }
            let (index, hash) = replica.journal.read_state(|state| (state.applied().index, state.hash()));
            let known = *self.hashes.entry(index).or_insert(hash);
            if known != hash {
                return Err(format!("the states of replica {id} and another one differ after entry {index}"));
            }
            self.trace.push(index ^ hash ^ now.term);
        }
        Ok(())
    }

    /// A replica that says it leads.
    pub(super) fn leader(&self) -> Option<(u64, Journal)> {
        let leads = |replica: &&Replica| replica.journal.leadership().borrow().is_self;
        let count = self.replicas.values().filter(leads).count() as u64;
        let chosen = if count == 0 { return None } else { self.random.below(count) as usize };
        let mut leading = self.replicas.iter().filter(|(_, replica)| leads(replica));
        leading.nth(chosen).map(|(id, replica)| (*id, replica.journal.clone()))
    }

    /// One try to get a unit in.
    pub(super) async fn offer(&self, unit: Unit, patience: Duration) -> Option<UnitOutcome> {
        let (_, journal) = self.leader()?;
        tokio::select! {
            biased;
            outcome = journal.propose(unit) => outcome.ok(),
            () = self.env.clock.sleep(patience) => None,
        }
    }

    pub(super) async fn pause(&self, most_ms: u64) {
        self.env.clock.sleep(Duration::from_millis(1 + self.random.below(most_ms))).await;
    }

    pub(super) fn traces(&self) -> u64 {
        let mut all = self.trace.clone();
        all.extend(self.replicas.values().map(|replica| replica.disk.trace_hash()));
        all.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| (hash ^ part).wrapping_mul(0x0100_0000_01b3))
    }
}

/// The numbers of a replica's records from where its tail begins, with the offset of the first; an error if offsets have gaps.
pub(super) async fn numbers(journal: &Journal) -> Result<(i64, Vec<i32>), String> {
    let (first, end) = journal.read_state(|state| {
        let Some(partition) = state.partition(at()) else { return (Offset(0), Offset(0)) };
        let start = partition.tail().start().unwrap_or(partition.high_watermark());
        (start.max(partition.log_start()), partition.high_watermark())
    });
    let (mut next, mut numbers) = (first, Vec::new());
    while next < end {
        let read = match journal.read_tail(at(), next, 1 << 20).await {
            // What a snapshot brought may lie below this replica's own log; it is trimmed.
            Err(tidegate_journal::raft::ReadError::BelowTail { tail_start, .. }) if numbers.is_empty() && tail_start > next => {
                next = tail_start;
                continue;
            }
            read => read.map_err(|error| error.to_string())?,
        };
        for served in &read.batches {
            if served.header.base_offset != next {
                return Err(format!("offset {} follows {next}", served.header.base_offset));
            }
            let whole = bytes::Bytes::from(served.chunks().concat());
            let batch = RecordBatch::trusted(whole).map_err(|error| error.to_string())?;
            for record in batch.records().map_err(|error| error.to_string())? {
                let value = record.map_err(|error| error.to_string())?.value.unwrap_or_default();
                let text = String::from_utf8_lossy(&value).into_owned();
                let number = text.split(' ').next().and_then(|number| number.parse().ok());
                numbers.push(number.ok_or_else(|| format!("a record of nobody: {text}"))?);
            }
            next = Offset(served.last_offset().0 + 1);
        }
    }
    Ok((end.0 - numbers.len() as i64, numbers))
}
