//! A journal with several replicas in one deterministic process: brokers that crash, a network with faults, members that change, under writes.
//!
//! Promised and checked: one leader for each term (I6); equal states after equal entries (I3); whatever was acknowledged is there in the end, once
//! and in order (I2, I5), whichever minority was down; a read that a leader vouches for shows all that was acknowledged before; a crashed
//! replica always starts again; and once all faults end, all replicas come to the same.

mod cluster;

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_env::{Env, Random};
use tidegate_journal::entry::{Operation, ProducerLimits, Unit, UnitOutcome};
use tidegate_journal::raft::{Beginning, FormerVoters, Freshness, replica_id};
use tidegate_model::{BrokerId, LeaderEpoch, Offset};

use crate::net::Weather;
use crate::panics;
use cluster::{Cluster, append, at, numbers};

/// Disturbances in one run.
const ROUNDS: u64 = 40;
/// How long all may take to be one again after the last fault.
const CONVERGES_WITHIN: Duration = Duration::from_secs(120);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Hash of what all disks were asked to do and of what was seen.
    pub trace: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Processes that were killed or lost their power.
    pub crashes: u64,
    /// Cuts of a direction or a broker.
    pub cuts: u64,
    /// Changes of members that were made.
    pub moves: u64,
    /// Reads that a leader vouched for.
    pub fresh_reads: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Simulated time that it took, in milliseconds.
    pub simulated_ms: u64,
}

/// Runs one seed.
///
/// # Errors
/// Which promise was broken.
pub fn run_replicas(seed: u64) -> Result<ReplicaReport, String> {
    let (result, panics) = panics::watch(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let (env, _handle) = Env::simulated(seed);
            let mut run =
                Run { cluster: Cluster::new(env, seed), sequence: 0, voters: BTreeSet::new(), report: ReplicaReport::default() };
            run.all().await?;
            run.report.trace = run.cluster.traces();
            run.report.simulated_ms = run.cluster.env.clock.monotonic().as_millis() as u64;
            Ok::<_, String>(run.report)
        })
    });
    let result = result.unwrap_or_else(|| Err(String::from("it panicked")));
    match (result, panics.as_slice()) {
        (Ok(report), []) => Ok(report),
        (Ok(_), panics) => Err(format!("something panicked: {panics:?}")),
        (Err(what), panics) => Err(format!("{what}; panics: {panics:?}")),
    }
}

struct Run {
    cluster: Cluster,
    /// The next record's number; all before it were acknowledged.
    sequence: i32,
    voters: BTreeSet<u64>,
    report: ReplicaReport,
}

impl Run {
    async fn all(&mut self) -> Result<(), String> {
        let count = 3 + 2 * self.cluster.random.below(2) as u32;
        self.voters = (1..=count).map(|broker| replica_id(BrokerId(broker), 0)).collect();
        for id in self.voters.clone() {
            self.cluster.start(id, Beginning::Bootstrap { voters: self.voters.clone() }).await?;
        }
        let open = Operation::OpenPartition {
            at: at(),
            generation: 1,
            first_offset: Offset(0),
            first_epoch: LeaderEpoch(0),
            limits: ProducerLimits::default(),
        };
        self.get_in(Unit::of(open)).await?;
        for _ in 0..ROUNDS {
            self.disturb().await?;
            self.write().await?;
            self.read_fresh().await?;
            self.cluster.look()?;
            if self.cluster.random.below(3) == 0 {
                self.cluster.net.heal();
            }
        }
        self.converge().await
    }

    async fn disturb(&mut self) -> Result<(), String> {
        let cluster = &mut self.cluster;
        let all: Vec<u64> = self.voters.iter().copied().collect();
        let victim = all[cluster.random.below(all.len() as u64) as usize];
        let other = all[cluster.random.below(all.len() as u64) as usize];
        match cluster.random.below(12) {
            0 | 1 => {
                // Also more than a minority, which then waits for those who come back.
                let with_power = cluster.random.below(2) == 0;
                if cluster.replicas.contains_key(&victim) {
                    self.report.crashes += 1;
                }
                cluster.crash(victim, with_power);
            }
            2..=4 => self.revive().await?,
            5 => {
                self.report.cuts += 1;
                for other in all.iter().filter(|other| **other != victim) {
                    cluster.net.cut(victim as u32, *other as u32);
                    cluster.net.cut(*other as u32, victim as u32);
                }
            }
            6 if victim != other => {
                self.report.cuts += 1;
                cluster.net.cut(victim as u32, other as u32);
            }
            7 | 8 => cluster.net.set(Weather {
                delay: Duration::from_micros(cluster.random.below(40_000)),
                lose_one_in: cluster.random.below(2) * 30,
                break_one_in: cluster.random.below(2) * 40,
                double_one_in: cluster.random.below(2) * 10,
            }),
            9 => {
                if let Some((_, journal)) = cluster.leader() {
                    let _ = journal.transfer_leadership(victim, Duration::from_millis(300)).await;
                }
            }
            10 => self.trim().await,
            _ => self.change_members().await?,
        }
        Ok(())
    }

    async fn revive(&mut self) -> Result<(), String> {
        for id in self.voters.clone() {
            if !self.cluster.replicas.contains_key(&id) {
                self.cluster.start(id, Beginning::Restart).await?;
            }
        }
        Ok(())
    }

    /// Lets records go, so that the log is purged and whoever is behind needs a snapshot.
    async fn trim(&mut self) {
        let start = i64::from(self.sequence) * 3 / 4;
        let unit = Unit::of(Operation::Trim { at: at(), log_start: Offset(start) });
        let _ = self.cluster.offer(unit, Duration::from_millis(500)).await;
        for replica in self.cluster.replicas.values() {
            let clock = self.cluster.env.clock.clone();
            tokio::select! {
                biased;
                _ = replica.journal.checkpoint() => {}
                () = clock.sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// Puts a broker's next generation in the place of one voter, or a new broker.
    async fn change_members(&mut self) -> Result<(), String> {
        let cluster = &mut self.cluster;
        if cluster.replicas.len() < self.voters.len() {
            return Ok(());
        }
        cluster.net.heal();
        let newcomer = replica_id(BrokerId(10 + self.report.moves as u32), 0);
        let Some(leaver) = self.voters.first().copied() else { return Ok(()) };
        cluster.start(newcomer, Beginning::Join).await?;
        let next: BTreeSet<u64> = self.voters.iter().copied().filter(|id| *id != leaver).chain([newcomer]).collect();
        let begun = cluster.env.clock.monotonic();
        // Each step may be repeated, by whoever leads by then.
        loop {
            if cluster.env.clock.monotonic() - begun > CONVERGES_WITHIN {
                return Err(format!("replica {newcomer} did not get in for {leaver} within {CONVERGES_WITHIN:?}"));
            }
            cluster.look()?;
            let Some((_, journal)) = cluster.leader() else {
                cluster.pause(20).await;
                continue;
            };
            let clock = cluster.env.clock.clone();
            let moved = async {
                journal.add_learner(newcomer).await.ok()?;
                journal.caught_up(newcomer, 4).await.ok()?;
                journal.change_voters(next.clone(), FormerVoters::Leave).await.ok()
            };
            let moved = tokio::select! {
                biased;
                moved = moved => moved,
                () = clock.sleep(Duration::from_secs(5)) => None,
            };
            if moved.is_some() {
                break;
            }
            cluster.pause(20).await;
        }
        cluster.crash(leaver, true);
        self.voters = next;
        self.report.moves += 1;
        Ok(())
    }

    /// Appends a few records, each until it is acknowledged.
    async fn write(&mut self) -> Result<(), String> {
        for _ in 0..self.cluster.random.below(12) {
            let bytes = self.cluster.random.below(2_000) as usize;
            let unit = append(self.sequence, bytes);
            self.get_in(unit).await?;
            self.sequence += 1;
            self.report.acknowledged += 1;
        }
        Ok(())
    }

    /// Offers a unit until it is applied. When nobody takes it for long, faults end, as they do in the world.
    async fn get_in(&mut self, unit: Unit) -> Result<(), String> {
        let begun = self.cluster.env.clock.monotonic();
        let mut helped = false;
        loop {
            match self.cluster.offer(unit.clone(), Duration::from_millis(800)).await {
                Some(UnitOutcome::Applied(_)) => return Ok(()),
                Some(UnitOutcome::Refused { refusal, .. }) => {
                    return Err(format!("record {} is refused: {refusal}", self.sequence));
                }
                None => self.cluster.pause(20).await,
            }
            self.cluster.look()?;
            let waited = self.cluster.env.clock.monotonic() - begun;
            if waited > Duration::from_secs(3) && !helped {
                helped = true;
                self.cluster.net.heal();
                self.revive().await?;
            }
            if waited > CONVERGES_WITHIN {
                return Err(format!("nobody takes record {} though all are up", self.sequence));
            }
        }
    }

    /// Asks a leader for a fresh read: it must show all that was acknowledged.
    async fn read_fresh(&mut self) -> Result<(), String> {
        let Some((id, journal)) = self.cluster.leader() else { return Ok(()) };
        let freshness = if self.cluster.random.below(2) == 0 { Freshness::ReadIndex } else { Freshness::Lease };
        let asked = tokio::select! {
            biased;
            asked = journal.ensure_linearizable(freshness) => asked.is_ok(),
            () = self.cluster.env.clock.sleep(Duration::from_millis(500)) => false,
        };
        if asked {
            self.report.fresh_reads += 1;
            let end = journal.read_state(|state| state.partition(at()).map_or(Offset(0), |partition| partition.high_watermark()));
            if end.0 < i64::from(self.sequence) {
                return Err(format!(
                    "replica {id} vouched for a read ({freshness:?}) that shows {end} of {} records",
                    self.sequence
                ));
            }
        }
        Ok(())
    }

    /// Ends all faults; all replicas must come to the same, with everything that was acknowledged.
    async fn converge(&mut self) -> Result<(), String> {
        self.cluster.net.heal();
        self.revive().await?;
        self.get_in(append(self.sequence, 10)).await?;
        self.sequence += 1;
        let begun = self.cluster.env.clock.monotonic();
        loop {
            self.cluster.look()?;
            let ends: BTreeSet<_> =
                self.cluster.replicas.values().map(|replica| replica.journal.read_state(|state| state.applied())).collect();
            if ends.len() == 1 {
                break;
            }
            if self.cluster.env.clock.monotonic() - begun > CONVERGES_WITHIN {
                return Err(format!("replicas end at {ends:?} after {CONVERGES_WITHIN:?} without faults"));
            }
            self.cluster.pause(50).await;
        }
        for (id, replica) in &self.cluster.replicas {
            let (first, found) = numbers(&replica.journal).await.map_err(|problem| format!("replica {id}: {problem}"))?;
            let expected: Vec<i32> = (first as i32..self.sequence).collect();
            if found != expected {
                return Err(format!("replica {id} has {found:?} from offset {first}, not all up to {}", self.sequence));
            }
        }
        self.report.terms =
            self.cluster.replicas.values().map(|replica| replica.journal.leadership().borrow().term).max().unwrap_or(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_replicas_the_same_history_and_another_seed_another() {
        let first = run_replicas(1).unwrap_or_else(|what| panic!("seed 1: {what}"));
        assert_eq!(run_replicas(1), Ok(first.clone()), "seed 1 does not repeat");
        assert_ne!(run_replicas(101).map(|report| report.trace).unwrap_or_default(), first.trace);
    }

    #[test]
    fn a_slice_of_seeds_of_replicas_holds_and_meets_what_it_should() {
        let mut sum = ReplicaReport::default();
        for seed in 0..6 {
            let report = run_replicas(seed)
                .unwrap_or_else(|what| panic!("seed {seed}: {what}\nrepeat it: {}", crate::replay_replicas(seed)));
            sum.acknowledged += report.acknowledged;
            sum.crashes += report.crashes;
            sum.cuts += report.cuts;
            sum.moves += report.moves;
            sum.fresh_reads += report.fresh_reads;
            sum.terms += report.terms;
        }
        println!("{sum:?}");
        assert!(
            sum.acknowledged > 600 && sum.crashes > 10 && sum.cuts > 15 && sum.moves > 3 && sum.fresh_reads > 80,
            "too little: {sum:?}"
        );
    }
}
