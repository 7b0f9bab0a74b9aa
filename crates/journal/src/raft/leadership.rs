//! Following who leads and whether Raft lives, ending it, and what the detector asks of it and has done by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use openraft::errors::Fatal;
use openraft::{Raft, ServerState};
use tidegate_env::watch;
use tidegate_env::{Env, Joined};
use tidegate_model::JournalId;

use super::detector::Standing;
use super::journal::Journal;
use super::machine::Machine;
use super::runtime::OrderedRuntime;
use super::turnover::Turnover;
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

/// A leadership on its way from one replica to another.
#[derive(Debug, Default)]
pub(super) struct Handing {
    /// The term in which this replica led and hands over; 0 for none.
    over: AtomicU64,
    /// To which one.
    heir: AtomicU64,
    /// The term whose leader hands over to this replica; 0 for none.
    inherits: AtomicU64,
}

impl Handing {
    /// From now on this replica, which leads in `term`, refuses writes and names `heir`.
    pub(super) fn begin(&self, heir: u64, term: u64) {
        self.heir.store(heir, Ordering::Relaxed);
        self.over.store(term, Ordering::Release);
    }

    pub(super) fn is_over(&self, term: u64) -> bool {
        term != 0 && self.over.load(Ordering::Acquire) == term
    }

    pub(super) fn heir(&self) -> u64 {
        self.heir.load(Ordering::Relaxed)
    }

    /// The leader of `term` has told that this replica is to lead.
    pub(super) fn inherit(&self, term: u64) {
        self.inherits.store(term, Ordering::Release);
    }

    /// Whether this replica is to lead, and neither it nor another one does: it asks for votes in the next term.
    pub(super) fn is_coming(&self, now: &Leadership) -> bool {
        let from = self.inherits.load(Ordering::Acquire);
        from != 0 && (now.term == from || (now.term == from + 1 && now.leader.is_none()))
    }
}

/// Who leads, as far as a replica knows. Raft names the one that it voted for last; one that led, was voted out and stepped down names itself for ever.
pub(super) fn known_leader(state: ServerState, named: Option<u64>, replica: u64) -> Option<u64> {
    named.filter(|named| *named != replica || state == ServerState::Leader)
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
                let leader = known_leader(seen.state, seen.current_leader, replica);
                Leadership { leader, term: seen.vote.leader_id.term, is_self: leader == Some(replica) }
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

/// Resolves, with the reason, when Raft ends by a failure; never when it is ended in order.
pub(super) fn died(raft: &Raft<TypeConfig, Machine>) -> impl Future<Output = String> + Send + use<> {
    let mut metrics = raft.metrics();
    async move {
        let mut is_last = false;
        loop {
            let ended = metrics.borrow_watched().running_state.clone();
            match ended {
                Ok(()) if !is_last => {}
                Ok(()) | Err(Fatal::Stopped) => return std::future::pending().await,
                Err(fatal) => return fatal.to_string(),
            }
            // Its last word may come with its end.
            is_last = metrics.changed().await.is_err();
        }
    }
}

/// Ends Raft. Whoever waits may go meanwhile: openraft panics in every later call once nobody waits for an end that was asked for
/// (0.10.0-alpha.37, `RaftCore should have already quit`), so a task does that lives as long as Raft's own.
pub(super) async fn end(journal: JournalId, raft: &Raft<TypeConfig, Machine>) {
    let raft = raft.clone();
    let body = async move {
        if let Err(error) = raft.shutdown().await {
            tracing::warn!(journal = journal.0, %error, "Raft did not end cleanly");
        }
    };
    let _ended = OrderedRuntime::spawn(body).await;
}

impl Journal {
    /// Whether this replica takes units, after a wait of at most `most` if the leader is handing over to it: what comes then need not go back and forth.
    pub async fn takes_units_soon(&self, most: Duration) -> bool {
        let mut leadership = self.leadership();
        let decided = leadership.wait_for(|now| !self.handing().is_coming(now));
        tokio::select! {
            biased;
            _ = decided => {}
            () = self.env().clock.sleep(most) => {}
        }
        self.takes_units()
    }

    /// How often leaders went, as the broker of this replica saw it; the same for all its journals.
    pub fn turnover(&self) -> Turnover {
        self.links().detector.turnover()
    }

    /// What Raft says now; `None` once it has ended.
    pub(super) fn standing(&self) -> Option<Standing> {
        let metrics = self.raft().metrics();
        let seen = metrics.borrow_watched();
        seen.running_state.as_ref().ok()?;
        let membership = seen.membership_config.membership();
        let term = seen.vote.leader_id.term;
        let leader = known_leader(seen.state, seen.current_leader, self.replica());
        Some(Standing {
            term,
            leads: leader == Some(self.replica()),
            knows_leader: leader.is_some(),
            hands_over: self.handing().is_over(term),
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
