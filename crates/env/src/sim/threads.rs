//! Threads of a simulation: tasks of the one runtime, whose order a seed disturbs.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::sim::SimRandom;
use crate::{Joined, Random, Threads};

/// One poll in so many is put off to the end of the run queue, so that different seeds take tasks in different orders.
const PUT_OFF_ONE_IN: u64 = 8;

/// Names and messages of tasks that panicked.
pub(crate) type Panics = Arc<Mutex<Vec<String>>>;

/// Everything is a task of the current runtime.
#[derive(Debug)]
pub struct SimThreads {
    random: Arc<SimRandom>,
    panics: Panics,
}

impl SimThreads {
    pub(crate) fn new(random: Arc<SimRandom>, panics: Panics) -> SimThreads {
        SimThreads { random, panics }
    }

    fn start(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        let (name, panics) = (name.to_owned(), Arc::clone(&self.panics));
        let body = Disturbed { body, random: Arc::clone(&self.random), put_off: false };
        Box::new(SimTask(tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(body).catch_unwind().await {
                panics.lock().push(format!("{name}: {}", text_of(panic.as_ref())));
            }
        })))
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

/// Runs a body, now and then one turn later than it could.
struct Disturbed {
    body: BoxFuture<'static, ()>,
    random: Arc<SimRandom>,
    put_off: bool,
}

impl Future for Disturbed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.put_off && self.random.chance(PUT_OFF_ONE_IN) {
            self.put_off = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.put_off = false;
        self.body.poll_unpin(context)
    }
}

struct SimTask(JoinHandle<()>);

impl Joined for SimTask {
    fn join(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // Panics were noted where they happened; an aborted task has ended as well.
            let _ = self.0.await;
        })
    }

    fn abort(&self) {
        self.0.abort();
    }
}

impl Threads for SimThreads {
    fn spawn(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        self.start(name, body)
    }

    fn task(&self, name: &str, body: BoxFuture<'static, ()>) -> Box<dyn Joined> {
        self.start(name, body)
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let turns = self.random.below(3);
        let work = Pending { work: Some(work), turns };
        Box::pin(work)
    }
}

/// Work that is done inline after a few turns of the other tasks. As on a blocking pool, dropping the future doesn't stop it.
struct Pending {
    work: Option<Box<dyn FnOnce() + Send>>,
    turns: u64,
}

impl Future for Pending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.turns > 0 {
            self.turns -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(work) = self.work.take() {
            work();
        }
        Poll::Ready(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            work();
        }
    }
}
