//! Everything below the edges that is not a pure function: time, randomness, threads and the disk, as components that are passed in.
//!
//! Production takes [`Env::real`]; a simulation passes its own, so that a whole hub runs in one deterministic process with faults. Knows
//! nothing of Tidegate.

pub mod bugs;
pub mod conformance;
pub mod disk;
pub mod intercepted;
pub mod real;
pub mod sim;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

pub use disk::{BLOCK_BYTES, Disk, Entry, File, LockGuard, OpenMode};

/// The components that everything below the edges is built from. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Threads and tasks.
    pub threads: Arc<dyn Threads>,
    /// The local disk.
    pub disk: Arc<dyn Disk>,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

impl Env {
    /// The machine's own clock, randomness, threads and disk. Must be called within a tokio runtime, on which tasks are spawned.
    pub fn real() -> Env {
        Env {
            clock: Arc::new(real::RealClock::new()),
            random: Arc::new(real::RealRandom),
            threads: Arc::new(real::RealThreads),
            disk: Arc::new(real::RealDisk),
        }
    }

    /// Runs blocking work off the reactor (inline in a simulation) and gives its result.
    ///
    /// # Panics
    /// If the work panics.
    pub async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = tokio::sync::oneshot::channel();
        self.threads
            .blocking(Box::new(move || {
                let _ = done.send(work());
            }))
            .await;
        result.await.expect("blocking work ends by giving its result, unless it panicked")
    }
}

/// Time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch by the wall clock. May jump, in both directions.
    fn now_ms(&self) -> i64;
    /// Time since some fixed moment. Never falls.
    fn monotonic(&self) -> Duration;
    /// Ends after `duration` of monotonic time.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Time that the processors have spent on this process; `None` where that means nothing, as in a simulation.
    fn processor_time(&self) -> Option<Duration> {
        None
    }
}

/// Randomness. Not for secrets.
pub trait Random: Send + Sync {
    /// Any number, each as likely.
    fn next_u64(&self) -> u64;

    /// A number from 0 to `bound - 1`; 0 for a bound of 0.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64 }
    }

    /// A version 4 UUID.
    fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(((u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())).to_be_bytes())
            .into_uuid()
    }
}

/// A thread or task that was started.
pub trait Joined: Send + Sync {
    /// Ends when the thread or task has ended, by itself or aborted.
    fn join(self: Box<Self>) -> BoxFuture<'static, ()>;
    /// Ends a task at its next await; does nothing to a thread.
    fn abort(&self);
}

/// Threads and tasks.
pub trait Threads: Send + Sync {
    /// Runs `body` on an OS thread of its own, where it may block; in a simulation as a task. Names are at most 15 bytes on Linux.
    fn spawn(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined>;
    /// Runs `body` as an async task; it must not block.
    fn task(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined>;
    /// Runs blocking work on the blocking pool, inline in a simulation. The work is not cancelled when the future is dropped.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}
