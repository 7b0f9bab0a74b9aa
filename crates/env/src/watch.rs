//! A watch channel whose receivers wake in the order in which they began to wait.
//!
//! Tokio's wakes them in an order that it draws at random, from a seed that nobody can set, so that a run with two who wait for the same thing
//! would not repeat. Otherwise as `tokio::sync::watch`: only the newest value is kept.

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    /// Rises with each change.
    version: AtomicU64,
    changed: Notify,
    /// Told when the last receiver has gone.
    left: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    closed: AtomicBool,
}

/// The one that changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// One that follows the value.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value, locked for reading: hold it shortly, and over no await.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

/// The sender has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("whoever changes the value has gone")]
pub struct Gone;

/// A channel with its first value, which the receiver counts as seen.
pub fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(first);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

impl<T> Sender<T> {
    /// A sender without receivers.
    pub fn new(first: T) -> Sender<T> {
        let shared = Shared {
            value: RwLock::new(first),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            left: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        Sender(Arc::new(shared))
    }

    /// Changes the value, whether or not anybody follows it, and gives the one before.
    pub fn send_replace(&self, value: T) -> T {
        let before = {
            let mut present = self.0.value.write();
            self.0.version.fetch_add(1, Ordering::SeqCst);
            std::mem::replace(&mut *present, value)
        };
        self.0.changed.notify_waiters();
        before
    }

    /// Changes the value in place and wakes receivers if `modify` says that it did.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let is_modified = {
            let mut present = self.0.value.write();
            let is_modified = modify(&mut present);
            if is_modified {
                self.0.version.fetch_add(1, Ordering::SeqCst);
            }
            is_modified
        };
        if is_modified {
            self.0.changed.notify_waiters();
        }
        is_modified
    }

    /// Changes the value in place and wakes receivers.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: Arc::clone(&self.0), seen: self.0.version() }
    }

    /// How many receivers there are.
    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::SeqCst)
    }

    /// Whether there is no receiver.
    pub fn is_closed(&self) -> bool {
        self.receiver_count() == 0
    }

    /// Ends when there is no receiver.
    pub async fn closed(&self) {
        loop {
            let mut left = pin!(self.0.left.notified());
            left.as_mut().enable();
            if self.is_closed() {
                return;
            }
            left.await;
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Sender::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Sender(Arc::clone(&self.0))
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

impl<T> Shared<T> {
    // A reader may hold a `Ref` while it takes another: a writer that waits must not come between.
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read_recursive())
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
}

impl<T> Receiver<T> {
    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The present value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        value
    }

    /// Whether there is a value that was not seen.
    pub fn has_changed(&self) -> bool {
        self.shared.version() != self.seen
    }

    /// The present value counts as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.version();
    }

    /// The present value counts as new.
    pub fn mark_changed(&mut self) {
        self.seen = self.shared.version().wrapping_sub(1);
    }

    /// Waits for a value that was not seen.
    ///
    /// # Errors
    /// The sender has gone, and its last value was seen.
    pub async fn changed(&mut self) -> Result<(), Gone> {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            // In line before the look, so that no change falls between.
            changed.as_mut().enable();
            let version = self.shared.version();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.closed.load(Ordering::SeqCst) {
                return Err(Gone);
            }
            changed.await;
        }
    }

    /// Waits until the value fits, which it may already.
    ///
    /// # Errors
    /// The sender has gone, and its last value does not fit.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Gone> {
        loop {
            let is_closed = self.shared.closed.load(Ordering::SeqCst);
            if fits(&self.borrow_and_update()) {
                return Ok(self.shared.read());
            }
            if is_closed {
                return Err(Gone);
            }
            // The end wakes as well: then the last value is looked at once more.
            let _ = self.changed().await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on what must not be")]

    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn receivers_see_changes_once_and_hear_of_the_end() {
        let (sender, mut first) = channel(0);
        let mut second = sender.subscribe();
        assert_eq!(sender.send_replace(1), 0);
        first.changed().await.unwrap();
        assert_eq!(*first.borrow(), 1);
        assert!(!sender.send_if_modified(|_| false));
        assert!(tokio::time::timeout(Duration::from_secs(1), first.changed()).await.is_err(), "nothing changed since");
        first.mark_changed();
        first.changed().await.unwrap();
        assert_eq!(*second.wait_for(|value| *value == 1).await.unwrap(), 1);
        assert_eq!(sender.receiver_count(), 2);
        drop(first);
        let waiting = tokio::spawn(async move { second.wait_for(|value| *value == 3).await.map(|value| *value) });
        tokio::task::yield_now().await;
        sender.send_replace(2);
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waiting.await.unwrap(), Err(Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_hears_that_all_receivers_have_gone() {
        let (sender, receiver) = channel(0);
        let leaving = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(receiver);
        });
        sender.closed().await;
        assert!(sender.is_closed());
        leaving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn receivers_wake_in_the_order_in_which_they_began_to_wait() {
        let sender = Sender::new(0);
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..40)
            .map(|number| {
                let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..40).collect::<Vec<_>>());
    }
}
