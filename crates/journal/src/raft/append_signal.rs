//! Where the proposer learns that Raft has put its entry into the log.
//!
//! Raft refuses an entry of a leader whose lease has run out, and takes the next one if an answer came in between. An entry that was refused can keep
//! its place before those behind it only if none of them has been given to Raft yet, so the proposer gives it one at a time; it does not wait for disks.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::entry::EntryPayload;

/// Clones share it: the log store signals, the proposer waits.
#[derive(Clone, Default)]
pub(super) struct AppendSignal {
    awaited: Arc<Mutex<Option<Awaited>>>,
}

struct Awaited {
    /// Weak: an entry that is refused for good holds no memory here.
    payload: Weak<EntryPayload>,
    appended: oneshot::Sender<()>,
}

impl AppendSignal {
    /// Resolves once this payload, not another of the same bytes, is appended. Whatever was watched for before is so no more.
    pub(super) fn watch_for(&self, payload: &Arc<EntryPayload>) -> oneshot::Receiver<()> {
        let (appended, receiver) = oneshot::channel();
        *self.awaited.lock() = Some(Awaited { payload: Arc::downgrade(payload), appended });
        receiver
    }

    pub(super) fn signal(&self, payload: &Arc<EntryPayload>) {
        let mut awaited = self.awaited.lock();
        if awaited.as_ref().is_some_and(|awaited| Weak::as_ptr(&awaited.payload) == Arc::as_ptr(payload))
            && let Some(awaited) = awaited.take()
        {
            // The proposer may have ended meanwhile.
            let _ = awaited.appended.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::TimestampMs;

    use super::*;
    use crate::entry::{EncodeError, Entry};

    fn payload() -> Result<Arc<EntryPayload>, EncodeError> {
        Ok(Arc::new(EntryPayload::encode(Entry { time: TimestampMs(1), units: Vec::new() })?.0))
    }

    #[test]
    fn only_the_payload_that_is_watched_for_is_told_and_only_once() -> Result<(), EncodeError> {
        let (signal, first, same_bytes) = (AppendSignal::default(), payload()?, payload()?);
        let mut told = signal.watch_for(&first);
        signal.signal(&same_bytes);
        assert!(told.try_recv().is_err(), "a replica that follows writes others' entries through the same log");
        signal.signal(&first);
        assert!(told.try_recv().is_ok());
        let mut told = signal.watch_for(&same_bytes);
        signal.signal(&first);
        assert!(told.try_recv().is_err());
        Ok(())
    }
}
