//! A whole process in one thread: virtual time, seeded randomness and scheduling, a disk that loses what was not synced.
//!
//! A [`Simulation`] outlives the processes that it runs. [`Simulation::live`] gives a fresh runtime to one life of the process; it ends when
//! its future does or when the power is cut, and with the runtime goes every task, as with a killed process. [`Simulation::crash`]
//! then decides, from the seed, what of the unsynced data the disk keeps.
//!
//! Not simulated: several threads at once (a blocking body runs without interruption up to its next await) and the network.

mod clock;
pub mod disk;
mod random;
mod threads;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use clock::{EPOCH_MS, SimClock};
pub use disk::{Fault, Latency, OperationKind, SimDisk};
pub use random::SimRandom;
pub use threads::SimThreads;

use crate::sim::random::mix;
use crate::{Clock, Env, Random};
use threads::Panics;

/// How a life of the simulated process ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// By itself.
    Output(T),
    /// The power was cut at some disk operation.
    PowerCut,
    /// Nothing was left that could ever wake it, or it took more virtual time than it was given.
    Stuck,
}

/// What steers the simulated parts of one [`Env`].
#[derive(Clone)]
pub struct SimHandle {
    /// The clock of this life.
    pub clock: Arc<SimClock>,
    /// The disk, which outlives the life.
    pub disk: SimDisk,
    panics: Panics,
}

impl SimHandle {
    /// Names and messages of tasks that panicked so far.
    pub fn panics(&self) -> Vec<String> {
        self.panics.lock().clone()
    }
}

impl Env {
    /// An environment that repeats exactly from its seed, and what steers it. Must be called within a current-thread tokio runtime whose
    /// clock is paused. For processes that crash, use a [`Simulation`].
    pub fn simulated(seed: u64) -> (Env, SimHandle) {
        let panics = Panics::default();
        environment(seed, SimDisk::new(mix(seed ^ 1)), Duration::ZERO, 0, panics)
    }
}

fn environment(seed: u64, disk: SimDisk, before: Duration, wall_offset_ms: i64, panics: Panics) -> (Env, SimHandle) {
    let clock = Arc::new(SimClock::new(before));
    clock.jump_wall_clock(wall_offset_ms);
    let scheduling = Arc::new(SimRandom::new(mix(seed ^ 2)));
    let env = Env {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        random: Arc::new(SimRandom::new(mix(seed ^ 3))) as Arc<dyn Random>,
        threads: Arc::new(SimThreads::new(scheduling, Arc::clone(&panics))),
        disk: Arc::new(disk.clone()),
    };
    (env, SimHandle { clock, disk, panics })
}

/// One machine through many lives of its process.
pub struct Simulation {
    random: SimRandom,
    disk: SimDisk,
    elapsed: Duration,
    wall_offset_ms: i64,
    panics: Panics,
    /// The longest a life may take, in virtual time, until it counts as stuck. An hour unless set.
    pub patience: Duration,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("elapsed", &self.elapsed).finish_non_exhaustive()
    }
}

impl Simulation {
    /// A machine with an empty disk.
    pub fn new(seed: u64) -> Simulation {
        Simulation {
            random: SimRandom::new(seed),
            disk: SimDisk::new(mix(seed ^ 1)),
            elapsed: Duration::ZERO,
            wall_offset_ms: 0,
            panics: Arc::new(Mutex::new(Vec::new())),
            patience: Duration::from_secs(3600),
        }
    }

    /// Another machine with this disk, at this machine's time.
    #[must_use]
    pub fn on(&self, disk: SimDisk) -> Simulation {
        Simulation {
            random: SimRandom::new(mix(self.elapsed.as_nanos() as u64)),
            disk,
            elapsed: self.elapsed,
            wall_offset_ms: self.wall_offset_ms,
            panics: Arc::default(),
            patience: self.patience,
        }
    }

    /// The machine's disk.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Names and messages of tasks that panicked, in all lives.
    pub fn panics(&self) -> Vec<String> {
        self.panics.lock().clone()
    }

    /// Runs one life of the process in a runtime of its own, until its future ends, the power is cut, or patience does. All tasks are gone
    /// when it returns; files stay as the process left them, unsynced data included, as after `kill -9`.
    ///
    /// # Panics
    /// If the process's main future panics, or within another runtime.
    pub fn live<F, T>(&mut self, body: impl FnOnce(Env, SimHandle) -> F) -> Ended<T>
    where
        F: Future<Output = T>,
    {
        let runtime = runtime();
        let seed = self.random.next_u64();
        let (disk, before, offset, panics) = (self.disk.clone(), self.elapsed, self.wall_offset_ms, Arc::clone(&self.panics));
        disk.begin_life();
        let patience = self.patience;
        let (ended, handle, ended_at) = runtime.block_on(async move {
            let cut = disk.power_cut();
            let (env, handle) = environment(seed, disk, before, offset, panics);
            let life = body(env, handle.clone());
            let ended = tokio::select! {
                biased;
                () = cut => Ended::PowerCut,
                output = life => Ended::Output(output),
                () = tokio::time::sleep(patience) => Ended::Stuck,
            };
            (ended, handle, tokio::time::Instant::now())
        });
        self.elapsed = handle.clock.monotonic_at(ended_at);
        self.wall_offset_ms = handle.clock.wall_offset_ms();
        // With the runtime go all tasks, those of libraries included.
        drop(runtime);
        self.disk.end_life();
        ended
    }

    /// The power goes: the disk keeps what was synced, and of the rest what the seed says. Time goes on by up to ten seconds.
    pub fn crash(&mut self) {
        self.disk.crash(self.random.next_u64());
        self.elapsed += Duration::from_millis(self.random.below(10_000));
    }
}

/// A single-threaded runtime with paused time. Its one source of chance is `tokio::select!` without `biased`, which stable tokio lets
/// nobody seed: below the edges every `select!` is biased.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build().expect("a single-threaded runtime needs nothing that could be missing")
}

#[cfg(test)]
mod tests;
