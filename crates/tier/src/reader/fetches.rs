//! Fetches on their way: one for each span however many wait for it, each carried by a task of its own.
//!
//! A fetch that nobody waits for any more ends as long as it is queued; once begun it goes on to its end, so that no request's place is held
//! by a future that nobody polls. The last reader to go ends all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tidegate_env::{Joined, Threads};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};

use super::{SpanId, TierReadError};

/// What a fetch gives.
pub(super) type Fetched = Result<Bytes, TierReadError>;
/// A fetch that several can wait for.
pub(super) type Fetch = Shared<BoxFuture<'static, Fetched>>;
type WeakFetch = WeakShared<BoxFuture<'static, Fetched>>;

/// All fetches of one reader.
#[derive(Default)]
pub(super) struct Fetches {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tickets: u64,
    /// Weak, so that those who wait are the only ones that keep a queued fetch wanted.
    by_span: BTreeMap<SpanId, (u64, WeakFetch)>,
    /// Handles of those that have not ended; none for one that is just being started.
    tasks: BTreeMap<u64, Option<Box<dyn Joined>>>,
}

/// Held by the task of a fetch. However it ends, the next reader of the span begins anew or finds it in memory.
pub(super) struct Flight {
    fetches: Weak<Fetches>,
    ticket: u64,
    pub(super) id: SpanId,
    done: Option<oneshot::Sender<Fetched>>,
    /// There if the span is fetched ahead of time: it goes on though nobody waits for it yet.
    ahead: Option<OwnedSemaphorePermit>,
}

impl Flight {
    /// Waits for a permit; `None` if meanwhile nobody wants the span any more.
    pub(super) async fn turn<'a>(&mut self, of: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
        let permit = of.acquire().map(|permit| Some(permit.expect("the semaphore is never closed")));
        match &mut self.done {
            Some(done) if self.ahead.is_none() => tokio::select! {
                biased;
                () = done.closed() => None,
                permit = permit => permit,
            },
            _ => permit.await,
        }
    }

    /// Gives the result to all who wait.
    pub(super) fn finish(mut self, result: Fetched) {
        let done = self.done.take();
        // Later readers are to find the caches, not this.
        drop(self);
        if let Some(done) = done {
            let _ = done.send(result);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(fetches) = self.fetches.upgrade() else { return };
        let mut state = fetches.state.lock();
        if state.by_span.get(&self.id).is_some_and(|(ticket, _)| *ticket == self.ticket) {
            state.by_span.remove(&self.id);
        }
        let ended = state.tasks.remove(&self.ticket);
        drop(state);
        drop(ended);
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        self.state.get_mut().tasks.values().flatten().for_each(|task| task.abort());
    }
}

impl Fetches {
    /// The fetch of a span that is on its way, or a new one whose task `carry` makes; with a permit of those ahead of time it goes on though
    /// nobody waits. A fetch that ends without a result gives `ended`.
    pub(super) fn join(
        self: &Arc<Self>,
        threads: &dyn Threads,
        id: &SpanId,
        ended: TierReadError,
        ahead: Option<OwnedSemaphorePermit>,
        carry: impl FnOnce(Flight) -> BoxFuture<'static, ()>,
    ) -> Fetch {
        let mut state = self.state.lock();
        if let Some(fetch) = state.by_span.get(id).and_then(|(_, fetch)| fetch.upgrade()) {
            return fetch;
        }
        let (done, result) = oneshot::channel();
        let fetch = result.map(|result| result.unwrap_or(Err(ended))).boxed().shared();
        state.tickets += 1;
        let ticket = state.tickets;
        if let Some(weak) = fetch.downgrade() {
            state.by_span.insert(id.clone(), (ticket, weak));
        }
        state.tasks.insert(ticket, None);
        drop(state);
        let flight = Flight { fetches: Arc::downgrade(self), ticket, id: id.clone(), done: Some(done), ahead };
        // Not under the lock: a runtime that is shutting down drops the task, and with it the flight, right here.
        let task = threads.task("tier-fetch", carry(flight));
        if let Some(place) = self.state.lock().tasks.get_mut(&ticket) {
            *place = Some(task);
        }
        fetch
    }

    /// Tasks that have not ended.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.state.lock().tasks.len()
    }
}
