//! Where the proposer learns that Raft has put its entry into the log.
//!
//! Raft refuses an entry of a leader whose lease has run out, and takes the next one if an answer came in between. An entry that was refused can keep
//! its place before those behind it only if none of them has been given to Raft yet, so the proposer gives it one at a time; it does not wait for disks.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::entry::EntryPayload;

/// Clones share it: the log store opens what the proposer waits for.
#[derive(Clone, Default)]
pub(super) struct Door {
    awaited: Arc<Mutex<Option<Awaited>>>,
}

struct Awaited {
    payload: Arc<EntryPayload>,
    passed: oneshot::Sender<()>,
}

impl Door {
    /// Resolves once this payload, not another of the same bytes, has passed. Whoever was awaited before is awaited no more.
    pub(super) fn await_passing(&self, payload: &Arc<EntryPayload>) -> oneshot::Receiver<()> {
        let (passed, receiver) = oneshot::channel();
        *self.awaited.lock() = Some(Awaited { payload: Arc::clone(payload), passed });
        receiver
    }

    /// A payload goes into the log.
    pub(super) fn pass(&self, payload: &Arc<EntryPayload>) {
        let mut awaited = self.awaited.lock();
        if awaited.as_ref().is_some_and(|awaited| Arc::ptr_eq(&awaited.payload, payload))
            && let Some(awaited) = awaited.take()
        {
            // The proposer may have ended meanwhile.
            let _ = awaited.passed.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on what must not be")]

    use tidegate_model::TimestampMs;

    use super::*;
    use crate::entry::Entry;

    fn payload() -> Arc<EntryPayload> {
        Arc::new(EntryPayload::encode(Entry { time: TimestampMs(1), units: Vec::new() }).unwrap().0)
    }

    #[test]
    fn only_the_payload_that_is_awaited_passes_and_only_once() {
        let (door, first, same_bytes) = (Door::default(), payload(), payload());
        let mut passed = door.await_passing(&first);
        door.pass(&same_bytes);
        assert!(passed.try_recv().is_err(), "a replica that follows writes others' entries through the same log");
        door.pass(&first);
        assert!(passed.try_recv().is_ok());
        let mut again = door.await_passing(&same_bytes);
        door.pass(&first);
        assert!(again.try_recv().is_err());
    }
}
