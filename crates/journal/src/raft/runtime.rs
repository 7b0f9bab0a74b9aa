//! The runtime that openraft runs on: tokio's, but for its watch channel.
//!
//! Tokio's wakes its receivers in an order that it draws at random, from a seed that nobody can set, so that a run with several followers would
//! not repeat. The one here wakes them in the order in which they began to wait.

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::TokioRuntime;
use openraft::async_runtime::watch::{RecvError, SendError};
use openraft::async_runtime::{AsyncRuntime, Watch, WatchReceiver, WatchSender};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// Tokio with a watch channel that repeats.
#[derive(Debug)]
pub(crate) struct OrderedRuntime(TokioRuntime);

impl AsyncRuntime for OrderedRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        OrderedRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// A watch channel whose receivers wake in the order in which they began to wait.
pub(crate) struct OrderedWatch;

struct Shared<T> {
    value: RwLock<T>,
    /// Rises with each change.
    version: AtomicU64,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    closed: AtomicBool,
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);

pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value, locked for reading.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Shared<T> {
    // A reader may hold a `Ref` while it takes another: a writer that waits must not come between.
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read_recursive())
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
}

impl Watch for OrderedWatch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = Ref<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
            closed: AtomicBool::new(false),
        });
        (Sender(shared.clone()), Receiver { shared, seen: 0 })
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.closed.store(true, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }
}

impl<T: Send + Sync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|present| {
            *present = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = {
            let mut value = self.0.value.write();
            let modified = modify(&mut value);
            if modified {
                self.0.version.fetch_add(1, Ordering::SeqCst);
            }
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: self.0.clone(), seen: self.0.version() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T: Send + Sync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut notified = pin!(self.shared.changed.notified());
            // In line before the look, so that no change falls between.
            notified.as_mut().enable();
            let version = self.shared.version();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.closed.load(Ordering::SeqCst) {
                return Err(RecvError(()));
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        value
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on what must not be")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn receivers_see_changes_once_and_hear_of_the_end() {
        let (sender, mut first) = OrderedWatch::channel(0);
        let mut second = sender.subscribe();
        sender.send(1).unwrap();
        first.changed().await.unwrap();
        assert_eq!(*first.borrow_watched(), 1);
        assert!(!sender.send_if_modified(|_| false));
        let silent = tokio::time::timeout(Duration::from_secs(1), first.changed()).await;
        assert!(silent.is_err(), "nothing changed since");
        assert_eq!(*second.borrow_and_update(), 1);
        let waiting = tokio::spawn(async move { (second.changed().await, *second.borrow_watched()) });
        tokio::task::yield_now().await;
        let other = sender.clone();
        drop(sender);
        other.send(2).unwrap();
        assert_eq!(waiting.await.unwrap(), (Ok(()), 2));
        drop(other);
        first.changed().await.unwrap();
        assert!(first.changed().await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_sent_to_nobody() {
        let (sender, receiver) = OrderedWatch::channel(0);
        drop(receiver);
        assert!(sender.send(1).is_err());
        assert_eq!(*sender.subscribe().borrow_watched(), 0);
    }

    #[tokio::test]
    async fn receivers_wake_in_the_order_in_which_they_waited() {
        let (sender, receiver) = OrderedWatch::channel(0);
        let woken = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let (mut receiver, woken) = (receiver.clone(), woken.clone());
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    woken.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send(1).unwrap();
        futures::future::join_all(tasks).await;
        assert_eq!(*woken.lock(), (0..20).collect::<Vec<_>>());
    }
}
