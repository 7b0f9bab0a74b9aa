//! Following who leads, and what the detector asks of Raft and has done by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, ServerState};
use tidegate_env::watch;
use tidegate_env::{Env, Joined};

use super::detector::Standing;
use super::journal::Journal;
use super::machine::Machine;
use super::types::{TypeConfig, Vote};

/// The longest that another replica may take to take over.
const TAKE_OVER: Duration = Duration::from_secs(2);

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
pub(super) fn follow(
    raft: &Raft<TypeConfig, Machine>,
    replica: u64,
    follows: Arc<AtomicBool>,
    env: &Env,
) -> (watch::Receiver<Leadership>, Box<dyn Joined>) {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
    let body = async move {
        loop {
            let now = {
                let seen = metrics.borrow_watched();
                let is_self = seen.state == ServerState::Leader && seen.current_leader == Some(replica);
                Leadership { leader: seen.current_leader, term: seen.vote.leader_id.term, is_self }
            };
            follows.store(!now.is_self && now.leader.is_some_and(|leader| leader != replica), Ordering::Relaxed);
            sender.send_if_modified(|old| std::mem::replace(old, now) != now);
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    (receiver, env.threads.task("leadership", Box::pin(body)))
}

impl Journal {
    /// What Raft says now; `None` once it has ended.
    pub(super) fn standing(&self) -> Option<Standing> {
        let metrics = self.raft().metrics();
        let seen = metrics.borrow_watched();
        seen.running_state.as_ref().ok()?;
        let membership = seen.membership_config.membership();
        let term = seen.vote.leader_id.term;
        Some(Standing {
            term,
            leads: seen.state == ServerState::Leader && seen.current_leader == Some(self.replica()),
            knows_leader: seen.current_leader.is_some(),
            hands_over: term != 0 && self.hands_over().load(Ordering::Relaxed) == term,
            reached: (seen.last_log_index.map_or(0, |index| index + 1), seen.last_applied.map_or(0, |id| id.index + 1)),
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, _)| *id).collect(),
        })
    }

    /// The present vote.
    pub(super) fn vote(&self) -> Vote {
        self.raft().server_metrics().borrow_watched().vote
    }

    /// Has an election begun, by a pre-vote.
    pub(super) async fn ask_for_votes(&self) {
        // One that has ended has told so already.
        let _ended = self.raft().trigger().elect(true).await;
    }

    /// Hands over to a voter whose disk and network are better.
    pub(super) async fn yield_to(&self, heir: u64) {
        tracing::warn!(journal = self.id().0, heir, "this broker's disk or network is slow: another replica is to lead");
        if let Err(error) = self.transfer_leadership(heir, TAKE_OVER).await {
            tracing::warn!(journal = self.id().0, %error, "the leadership stays here for now");
        }
    }

    /// Has Raft's own heartbeat sent: it renews the leases and tells followers what is committed.
    pub(super) async fn renew(&self) {
        let _ended = self.raft().trigger().heartbeat().await;
    }
}
