//! The fate of a batch, shared by the deliveries of its records: one allocation a batch, none a record.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::record::Stored;
use crate::Result;

/// What the hub said of a whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) base_offset: i64,
    pub(super) log_append_time_ms: Option<i64>,
    pub(super) duplicate: bool,
}

/// Set once, then never changed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    slot: OnceLock<Result<Appended>>,
    changed: Notify,
}

impl Outcome {
    pub(super) fn new(topic: Arc<str>, partition: i32) -> Self {
        Outcome { topic, partition, slot: OnceLock::new(), changed: Notify::new() }
    }

    /// Tells everybody who waits. The first call wins.
    pub(super) fn resolve(&self, result: Result<Appended>) {
        if self.slot.set(result).is_ok() {
            self.changed.notify_waiters();
        }
    }

    pub(super) async fn wait(&self) -> Result<Appended> {
        loop {
            // Registered before the look, so that no notification falls between.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(result) = self.slot.get() {
                return result.clone();
            }
            changed.await;
        }
    }
}

/// A record on its way. Dropping it does not take the record back.
#[derive(Clone, Debug)]
#[must_use = "the record is stored only when the delivery says so; drop it by `let _ =` if that is all one to you"]
pub struct Delivery {
    pub(super) outcome: Arc<Outcome>,
    pub(super) index: u32,
}

impl Delivery {
    /// Waits until the record is durable, or will not be tried again. Cancellation-safe.
    ///
    /// # Errors
    /// The hub's refusal; [`crate::Error::DeliveryTimeout`]; [`crate::Error::Closed`].
    pub async fn wait(&self) -> Result<Stored> {
        let appended = self.outcome.wait().await?;
        let known = appended.base_offset >= 0;
        Ok(Stored {
            topic: self.outcome.topic.clone(),
            partition: self.outcome.partition,
            offset: if known { appended.base_offset + i64::from(self.index) } else { -1 },
            log_append_time_ms: appended.log_append_time_ms,
            duplicate: appended.duplicate,
        })
    }

    /// True when [`Delivery::wait`] would answer at once.
    pub fn is_decided(&self) -> bool {
        self.outcome.slot.get().is_some()
    }
}

impl IntoFuture for Delivery {
    type Output = Result<Stored>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Stored>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait().await })
    }
}
