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
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}
