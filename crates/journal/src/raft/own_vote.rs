//! The vote that a replica gives itself. It asks the others for theirs while its own is being synced, and leads only once that is durable.
//!
//! Until then it has told nobody anything that it could break after a crash: a request for votes promises nothing. What would be a leader's word waits:
//! [`LogStore::save_vote`](super::store::LogStore) before the elected vote counts as saved, and [`Network`](super::network::Network) before it sends
//! entries or heartbeats.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_env::watch;

/// Clones share it.
#[derive(Clone, Default)]
pub(super) struct OwnVote {
    saves: watch::Sender<Saves>,
    /// Some save is not durable: what is looked at before each message.
    is_pending: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Default)]
struct Saves {
    begun: u64,
    durable: u64,
    failed: bool,
}

impl OwnVote {
    /// A save begins. Its number.
    pub(super) fn begin(&self) -> u64 {
        let mut number = 0;
        self.saves.send_modify(|saves| {
            saves.begun += 1;
            number = saves.begun;
            self.is_pending.store(true, Ordering::Release);
        });
        number
    }

    /// A save has ended. The write-ahead log ends them in the order in which they began.
    pub(super) fn end(&self, number: u64, is_durable: bool) {
        self.saves.send_modify(|saves| {
            saves.durable = if is_durable { number } else { saves.durable };
            saves.failed |= !is_durable;
            if saves.durable == saves.begun {
                self.is_pending.store(false, Ordering::Release);
            }
        });
    }

    /// Waits until all that was begun before is durable.
    pub(super) async fn settled(&self) -> io::Result<()> {
        if !self.is_pending.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut saves = self.saves.subscribe();
        let begun = saves.borrow().begun;
        let settled = saves.wait_for(|saves| saves.failed || saves.durable >= begun).await;
        match settled.map(|saves| saves.failed) {
            Ok(false) => Ok(()),
            _ => Err(io::Error::other("this replica's own vote could not be saved: the write-ahead log has failed")),
        }
    }
}
