//! Following who leads, and switching Raft's clock on and off with the number of members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, ServerState};
use tidegate_env::watch;
use tidegate_env::{Env, Joined};

use super::machine::Machine;
use super::types::TypeConfig;

/// Who leads a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's replica id, if known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Whether it is this replica.
    pub is_self: bool,
}

/// Keeps a [`Leadership`] at what Raft says, and `follows` at whether another replica leads.
///
/// A replica that is alone needs no clock: it has its lease by itself. With other members, heartbeats and elections are on.
pub(super) fn follow(
    raft: &Raft<TypeConfig, Machine>,
    replica: u64,
    follows: Arc<AtomicBool>,
    env: &Env,
) -> (watch::Receiver<Leadership>, Box<dyn Joined>) {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
    let raft = raft.clone();
    let body = async move {
        let mut ticking = false;
        loop {
            let (now, members) = {
                let seen = metrics.borrow_watched();
                let is_self = seen.state == ServerState::Leader && seen.current_leader == Some(replica);
                let leadership = Leadership { leader: seen.current_leader, term: seen.vote.leader_id.term, is_self };
                (leadership, seen.membership_config.membership().nodes().filter(|(id, _)| **id != replica).count())
            };
            follows.store(!now.is_self && now.leader.is_some_and(|leader| leader != replica), Ordering::Relaxed);
            sender.send_if_modified(|old| std::mem::replace(old, now) != now);
            if ticking != (members > 0) {
                ticking = members > 0;
                let switches = raft.runtime_config();
                switches.heartbeat(ticking);
                switches.elect(ticking);
                switches.tick(ticking);
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    (receiver, env.threads.task("leadership", Box::pin(body)))
}
