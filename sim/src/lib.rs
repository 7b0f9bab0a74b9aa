//! Whole hubs in one deterministic process: virtual time, a disk and an object store that fail as real ones do, power cuts, and clients whose
//! history is checked.
//!
//! Owns the workload and the faults. What runs below is the broker's own code; nothing is a model. The same seed gives the same history and
//! the same trace of the disk. The rules are `tidegate-checker`'s.

pub mod brokers;
mod consuming;
mod fate;
mod life;
pub mod log;
mod net;
mod panics;
mod producing;
mod records;
mod recovery;
pub mod replicas;
mod rot;
pub mod store;
#[cfg(test)]
mod tests;
mod world;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tidegate_checker::{History, Recorder, Verdict, check};
use tidegate_env::Random;
use tidegate_env::sim::{Ended, Latency, SimRandom, Simulation};

use fate::Fate;
use life::{End, Ending, Plan, Shared};
use world::World;

/// Lives of the hub with faults in one run; two more follow in which everything is read.
const LIVES: u64 = 4;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of everything that the disk was asked to do, in order.
    pub trace: u64,
    /// Hash of what clients did and were told.
    pub history: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that were read, by any consumer.
    pub read: u64,
    /// Lives that ended by a power cut.
    pub power_cuts: u64,
    /// Times that the machine lost what was not synced, those cuts and the ones after a process had ended among them.
    pub power_losses: u64,
    /// Lives that ended by a kill.
    pub kills: u64,
    /// Lives that ended because the disk refused something.
    pub disk_errors: u64,
    /// Calls that the object store refused.
    pub store_refusals: u64,
    /// Times that whoever called the object store stood still at a call, up to half a minute.
    pub pauses: u64,
    /// Objects that were deleted.
    pub deletes: u64,
    /// Hubs whose files were damaged: those that refused to start, those that served what was whole.
    pub rotten: (u64, u64),
    /// Hubs that were rebuilt from the bucket alone.
    pub recovered: u64,
}

/// What does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In words: each rule that is broken, with places and values.
    pub what: String,
    /// The history up to then.
    pub history: History,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// The command that repeats a seed.
pub fn replay_command(seed: u64) -> String {
    format!("cargo run --profile campaign -p tidegate-sim -- --seed {seed}")
}

/// The command that repeats a seed of several replicas.
pub fn replay_replicas(seed: u64) -> String {
    format!("cargo run --profile campaign -p tidegate-sim -- --replicas --seed {seed}")
}

/// The command that repeats a seed of a hub of several brokers.
pub fn replay_brokers(seed: u64) -> String {
    format!("cargo run --profile campaign -p tidegate-sim -- --brokers --seed {seed}")
}

/// Runs one seed.
///
/// # Errors
/// What does not hold, a panic of any task included.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    let world: Shared = Arc::new(Mutex::new(World::new(seed)));
    let (outcome, panics) = panics::watch(|| Run::new(seed, Arc::clone(&world)).all());
    let recorder = world.lock().recorder.clone();
    let (stopped, verdict, history) = judged(&recorder, outcome, &panics)?;
    match stopped {
        Ok(report) if verdict.holds() => {
            let (acknowledged, polled) = (verdict.count("acknowledged"), verdict.count("polled"));
            let read = polled + verdict.count("read at the end");
            Ok(Report { history: history.fingerprint(), acknowledged, read, ..report })
        }
        _ => Err(Box::new(Failure { what: verdict.to_string(), history })),
    }
}

/// What stopped a run, and what the checker says of its history with every panic in it.
pub(crate) fn judged<R>(
    recorder: &Recorder,
    outcome: Option<Result<R, String>>,
    panics: &[String],
) -> Result<(Result<R, String>, Verdict, History), Box<Failure>> {
    let stopped = match outcome {
        Some(Ok(report)) => Ok(report),
        Some(Err(problem)) => Err(problem),
        None => Err("the simulation itself panicked".to_owned()),
    };
    if let Err(problem) = &stopped {
        recorder.alarm(problem.clone());
    }
    panics.iter().for_each(|panic| recorder.alarm(format!("a panic: {panic}")));
    let history = match recorder.finish() {
        Ok(recorded) => recorded.history.unwrap_or_default(),
        Err(error) => return Err(Box::new(Failure { what: error.to_string(), history: History::default() })),
    };
    let verdict = check(&history);
    Ok((stopped, verdict, history))
}

/// Bugs that hubs of several brokers are run with: those that take several, and those of one broker's log and state that several must not hide.
#[cfg(feature = "seeded-bugs")]
pub fn bugs_of_brokers() -> Vec<tidegate_env::bugs::Bug> {
    use tidegate_env::bugs::Bug;
    let of_one =
        [Bug::SkipFsync, Bug::AcknowledgeEarly, Bug::ForgetVote, Bug::FreeBeforeTier, Bug::ForgetProducers, Bug::ApplyTwice];
    Bug::OF_BROKERS.into_iter().chain(of_one).collect()
}

/// Runs one seed with a bug in the hub; what lies between two files of the log is the simulation of the log's ([`log`]).
///
/// # Errors
/// What does not hold: that is what is hoped for.
#[cfg(feature = "seeded-bugs")]
pub fn run_with(bug: tidegate_env::bugs::Bug, seed: u64) -> Result<(), String> {
    use tidegate_env::bugs::{Bug, with};
    with(Some(bug), || match bug {
        Bug::SkipFolderSync => log::run(seed).map(|_| ()),
        _ => run(seed).map(|_| ()).map_err(|failure| failure.what),
    })
}

/// Runs one seed of a hub of several brokers, all of them with a bug.
///
/// # Errors
/// What does not hold: that is what is hoped for.
#[cfg(feature = "seeded-bugs")]
pub fn run_brokers_with(bug: tidegate_env::bugs::Bug, seed: u64) -> Result<(), String> {
    tidegate_env::bugs::with(Some(bug), || brokers::run_brokers(seed).map(|_| ()).map_err(|failure| failure.what))
}

/// One machine and its clients, life after life.
struct Run {
    seed: u64,
    simulation: Simulation,
    random: SimRandom,
    world: Shared,
    report: Report,
}

impl Run {
    fn new(seed: u64, world: Shared) -> Run {
        let mut simulation = Simulation::new(seed);
        simulation.patience = Duration::from_secs(3_600);
        Run { seed, simulation, random: SimRandom::new(seed ^ 0xfa7e), world, report: Report::default() }
    }

    fn all(mut self) -> Result<Report, String> {
        for number in 0..LIVES {
            self.life(number)?;
        }
        self.last_lives()?;
        let world = self.world.lock();
        self.report.store_refusals = world.store.refusals();
        self.report.deletes = world.store.deletes();
        self.report.pauses = world.store.pauses();
        self.report.trace = self.simulation.disk().trace_hash();
        Ok(self.report)
    }

    /// A life with faults, and what comes after it.
    fn life(&mut self, number: u64) -> Result<(), String> {
        self.simulation.disk().set_latency(Latency {
            sync: Duration::from_micros(self.random.below(4_000)),
            transfer: Duration::from_micros(self.random.below(300)),
            stall_one_in: if self.random.chance(2) { 0 } else { 500 },
        });
        let fate = Fate::draw(&self.random);
        // In the beginning there must be something to be damaged.
        let is_disturbed = number > 0 && !self.random.chance(4);
        let ending = [Ending::Orderly, Ending::Kill, Ending::QuietKill][self.random.below(3) as usize];
        let plan = Plan { rounds: 4 + self.random.below(14), is_disturbed, ending };
        let ended = self.run(plan, Some(fate))?;
        match ended {
            None => self.report.power_cuts += 1,
            Some(End::Failed(_)) if fate.is_fault() || is_disturbed => self.report.disk_errors += 1,
            Some(End::Failed(why)) => return Err(format!("life {number} failed without a fault: {why}")),
            // A read that fails is no damage, though a hub that can't read a checkpoint may call it missing.
            Some(End::Refused(_)) if fate.fails_reads() => self.report.disk_errors += 1,
            Some(End::Refused(why)) => return Err(format!("life {number}: nobody damaged anything, but {why}")),
            Some(End::Killed) => {
                self.report.kills += 1;
                if ending == Ending::QuietKill {
                    self.damage_a_copy(number)?;
                }
            }
            Some(End::Stopped) => self.damage_a_copy(number)?,
        }
        // A killed process leaves the page cache as it is; every other time the machine goes as well.
        if ended.is_none() || self.random.chance(2) {
            self.report.power_losses += 1;
            self.simulation.crash();
        }
        Ok(())
    }

    /// Nothing is in the way any more: everything must be there, on the disk, in the store, after a restart, and from the store alone.
    fn last_lives(&mut self) -> Result<(), String> {
        self.simulation.disk().set_latency(Latency::default());
        let rounds = 4;
        for ending in [Ending::ReadAll, Ending::ReadAgain] {
            match self.run(Plan { rounds, is_disturbed: false, ending }, None)? {
                Some(End::Stopped) => {}
                other => return Err(format!("the end can't be read ({ending:?}): {other:?}")),
            }
            self.report.power_losses += 1;
            self.simulation.crash();
        }
        if self.random.chance(3) {
            self.rebuild()?;
        }
        Ok(())
    }

    /// One life; `None` if the power was cut.
    fn run(&mut self, plan: Plan, fate: Option<Fate>) -> Result<Option<End>, String> {
        let world = Arc::clone(&self.world);
        let ended = self.simulation.live(|env, handle| {
            handle.disk.clear_faults();
            handle.disk.set_capacity(None);
            if let Some(fate) = fate {
                fate.apply(&handle);
            }
            world.lock().begin_life(&handle.clock);
            world.lock().recorder.note(format!("a life begins: {plan:?}, {fate:?}"));
            life::live(env, handle, plan, world)
        });
        self.world.lock().end_life();
        if let Some(panic) = self.simulation.panics().first() {
            return Err(format!("a task panicked: {panic}"));
        }
        // A cut that the process notices first, by a call that fails, ends the life all the same; what it then says of the disk means nothing.
        let is_cut = self.simulation.disk().power_cut().now_or_never().is_some();
        let ended = match ended {
            Ended::Stuck => return Err(format!("nothing goes on ({plan:?}, {fate:?}): {:?}", self.simulation.disk().recent())),
            Ended::PowerCut => None,
            Ended::Output(_) if is_cut => None,
            Ended::Output(end) => Some(end),
        };
        self.world.lock().recorder.note(format!("the life ends: {ended:?}"));
        Ok(ended)
    }
}
