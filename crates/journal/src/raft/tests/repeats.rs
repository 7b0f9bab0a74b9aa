//! The same seed gives the same run: one thread, virtual time, threads as tasks. The files are real, which changes no order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tidegate_env::real::RealDisk;
use tidegate_env::{Clock, Joined, Random, Threads};

use super::*;

struct Virtual(tokio::time::Instant);

impl Clock for Virtual {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + self.monotonic().as_millis() as i64
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Seeded(AtomicU64);

impl Random for Seeded {
    fn next_u64(&self) -> u64 {
        let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        (next ^ (next >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
    }
}

struct Tasks;
struct Task(tokio::task::JoinHandle<()>);

impl Joined for Task {
    fn join(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { drop(self.0.await) })
    }
    fn abort(&self) {
        self.0.abort();
    }
}

impl Threads for Tasks {
    fn spawn(&self, _name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        Box::new(Task(tokio::spawn(body)))
    }
    fn task(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        self.spawn(name, body)
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }
}

/// Appends by several writers that pause at random; gives what the run came to.
fn run(seed: u64) -> (u64, u64, u64, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let env = Env {
            clock: Arc::new(Virtual(tokio::time::Instant::now())),
            random: Arc::new(Seeded(AtomicU64::new(seed))),
            threads: Arc::new(Tasks),
            disk: Arc::new(RealDisk),
        };
        let settings = JournalSettings { checkpoint_bytes: 8 << 10, ..settings() };
        let broker = start_with(folder.path(), &env, settings, TailCache::new(1 << 20)).await;
        broker.journal.propose(open(0)).await.unwrap();
        let writers = (0..4).map(|writer| {
            let (journal, env) = (broker.journal.clone(), env.clone());
            tokio::spawn(async move {
                for number in 0..40 {
                    env.clock.sleep(Duration::from_millis(env.random.below(30))).await;
                    journal.propose(append(0, &format!("{writer}-{number}"))).await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        env.clock.sleep(Duration::from_secs(10)).await;
        broker.journal.propose(append(0, "after ten idle seconds")).await.unwrap();
        let values = broker.values(0).await;
        let (digest, hash) = broker.journal.read_state(|state| (state.digest(), state.hash()));
        let index = broker.journal.applied().borrow().index;
        broker.stop().await;
        (digest, hash, index, values)
    })
}

#[test]
fn the_same_seed_gives_the_same_entries_and_another_seed_others() {
    for seed in [1, 7] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(first.3.len(), 161);
    }
    assert_ne!(run(1).0, run(2).0);
}
