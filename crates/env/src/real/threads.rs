//! OS threads, tokio tasks and its blocking pool.

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{Joined, Threads};

/// Threads of the operating system, tasks of the current tokio runtime.
#[derive(Debug)]
pub struct RealThreads;

struct Thread {
    ended: oneshot::Receiver<()>,
}

struct Task {
    handle: tokio::task::JoinHandle<()>,
}

impl Joined for Thread {
    fn join(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The sender is dropped when the thread ends, in order or by a panic.
            let _ = self.ended.await;
        })
    }

    fn abort(&self) {}
}

impl Joined for Task {
    fn join(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match self.handle.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_aborted) => {}
            }
        })
    }

    fn abort(&self) {
        self.handle.abort();
    }
}

impl Threads for RealThreads {
    fn spawn(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        let (alive, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Handle::try_current().ok();
        let name = name.to_owned();
        let builder = std::thread::Builder::new().name(name.clone());
        let started = builder.spawn(move || {
            // Bodies may use timers of the runtime that they were started from.
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
            futures::executor::block_on(body);
            drop(alive);
        });
        match started {
            Ok(_detached) => Box::new(Thread { ended }),
            // Without its threads a broker cannot do anything; the caller could only end the process as well.
            Err(error) => panic!("cannot start the thread {name}: {error}"),
        }
    }

    fn task(&self, _name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        Box::new(Task { handle: tokio::spawn(body) })
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            match handle.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends and has not begun the work. Whoever waits for it ends with the runtime.
                Err(_cancelled) => std::future::pending().await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests wait for real")]

    use std::time::Duration;

    #[test]
    fn work_that_an_ending_runtime_does_not_begin_is_waited_for_in_vain_but_without_a_panic() {
        let ending = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let handle = ending.handle().clone();
        ending.shutdown_background();
        let entered = handle.enter();
        let env = crate::Env::real();
        let work = env.run_blocking(|| 1);
        drop(entered);
        let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // The work is handed over with the first poll, in the context of the runtime that has ended.
        let waited = other.block_on(async {
            let mut work = std::pin::pin!(work);
            let first = {
                let _entered = handle.enter();
                futures::poll!(work.as_mut())
            };
            assert!(first.is_pending());
            tokio::time::timeout(Duration::from_millis(100), work).await
        });
        assert!(waited.is_err());
    }
}
