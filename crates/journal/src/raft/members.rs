//! Changing a journal's members, moving its leadership, and reading what is surely the newest.
//!
//! A replica moves by three steps, each of which may be repeated after a crash: add it as a learner, wait until it has caught up, change the
//! voters. Only the leader can do any of them; others say who leads.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{EmptyNode, Raft, ReadPolicy, ServerState};

use tidegate_model::JournalId;

use super::error::MemberError;
use super::journal::Journal;
use super::leadership::known_leader;
use super::machine::Machine;
use super::types::TypeConfig;

/// A leader relies on its lease for so many beats: less than the six for which its followers let nobody else lead.
const LEASE_BEATS: u64 = 5;
/// How often a change of voters is begun by a leader whose lease runs out meanwhile.
const CHANGE_TRIES: u32 = 3;

/// The members of a journal, as this replica knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes. During a change the voters before and after it.
    pub voters: BTreeSet<u64>,
    /// Who only follows.
    pub learners: BTreeSet<u64>,
    /// Those of them that vote only before, or only after, a change that is under way or was cut off. While there are any, two majorities are needed.
    pub unsettled: BTreeSet<u64>,
    /// Index of the entry that said so.
    pub index: u64,
}

impl Members {
    fn has(&self, replica: u64) -> bool {
        self.voters.contains(&replica) || self.learners.contains(&replica)
    }
}

/// How far another replica is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Index of the last entry that it surely has on disk; 0 for none.
    pub matched: u64,
    /// Index of the last entry of the leader.
    pub last: u64,
}

/// How a read makes sure that this replica still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// By asking a majority: one round trip, no assumption about clocks.
    ReadIndex,
    /// By the lease of the last heartbeats: no round trip, but clocks must run at about the same speed.
    Lease,
}

/// The term in which a replica leads and has a fresh lease, if it does.
pub(super) fn leased_term(raft: &Raft<TypeConfig, Machine>, replica: u64, heartbeat_ms: u64) -> Option<u64> {
    let metrics = raft.metrics();
    let seen = metrics.borrow_watched();
    let voters = || seen.membership_config.membership().voter_ids();
    // Raft has a leader that votes no more hand over by itself, and whoever takes over waits for no lease.
    if !voters().any(|voter| voter == replica) {
        return None;
    }
    let is_alone = voters().nth(1).is_none();
    let lease = Duration::from_millis(heartbeat_ms * LEASE_BEATS);
    let is_fresh = || seen.last_quorum_acked.is_some_and(|acked| acked.elapsed() < lease);
    (seen.state == ServerState::Leader && (is_alone || is_fresh())).then_some(seen.vote.leader_id.term)
}

/// What becomes of voters that are not to vote any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormerVoters {
    /// They go on as learners: at no moment is one of them no member, so each can start again at any time.
    Learn,
    /// They are members no more.
    Leave,
}

impl Journal {
    /// The members, as far as this replica knows.
    pub fn members(&self) -> Members {
        let metrics = self.raft().server_metrics();
        let seen = metrics.borrow_watched();
        let stored = &seen.membership_config;
        let membership = stored.membership();
        let sets = membership.get_joint_config();
        Members {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            unsettled: membership.voter_ids().filter(|voter| !sets.iter().all(|set| set.contains(voter))).collect(),
            index: stored.log_id().as_ref().map_or(0, |id| id.index + 1),
        }
    }

    /// How far each other member is; empty unless this replica leads.
    pub fn progress(&self) -> Vec<(u64, Progress)> {
        let metrics = self.raft().metrics();
        let seen = metrics.borrow_watched();
        let last = seen.last_log_index.map_or(0, |index| index + 1);
        let others = seen.replication.iter().flatten().filter(|(id, _)| **id != self.replica());
        others.map(|(id, matched)| (*id, Progress { matched: matched.as_ref().map_or(0, |at| at.index + 1), last })).collect()
    }

    /// Adds a replica that follows without voting; nothing happens if it is a member already. Durable on return. It is sent the state and what the log
    /// holds above it, from which goes first what the object store has.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn add_learner(&self, replica: u64) -> Result<(), MemberError> {
        if self.id() != JournalId::CATALOG && self.leadership().borrow().is_self && !self.members().has(replica) {
            self.shed().await;
        }
        self.renewed().await;
        let added = self.raft().add_learner(replica, EmptyNode::new(), false).await;
        added.map(drop).map_err(|error| self.member_error(error))
    }

    /// Waits until a member has all entries but the last `within` ones. Bound it with a deadline: a replica that is away is waited for.
    ///
    /// # Errors
    /// This replica does not lead (any more), or the other is no member.
    pub async fn caught_up(&self, replica: u64, within: u64) -> Result<(), MemberError> {
        let mut metrics = self.raft().metrics();
        loop {
            {
                let seen = metrics.borrow_watched();
                let leader = known_leader(seen.state, seen.current_leader, self.replica());
                if leader != Some(self.replica()) || seen.replication.is_none() {
                    return Err(MemberError::NotLeader { journal: self.id(), leader });
                }
            }
            match self.progress().into_iter().find(|(id, _)| *id == replica) {
                Some((_, progress)) if progress.matched + within >= progress.last => return Ok(()),
                Some(_) => {}
                None if self.members().has(replica) => {}
                None => return Err(MemberError::Unknown { journal: self.id(), replica }),
            }
            if metrics.changed().await.is_err() {
                return Err(MemberError::Ended { journal: self.id(), reason: String::from("it was shut down") });
            }
        }
    }

    /// Makes exactly `voters` vote; they must be members already. Those who do not vote any more are learners then, or are removed. Safe to
    /// repeat: a change that was cut off is finished by the next. Durable on return.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn change_voters(&self, voters: BTreeSet<u64>, former: FormerVoters) -> Result<(), MemberError> {
        let mut tries = 0;
        loop {
            tries += 1;
            self.renewed().await;
            let changed = self.raft().change_membership(voters.clone(), former == FormerVoters::Learn).await;
            let Err(error) = changed.map_err(|error| self.member_error(error)) else { return Ok(()) };
            // It takes two entries, and the lease may run out between them: a majority of the new voters may be slower to answer.
            let lacked_lease = matches!(error, MemberError::NotLeader { leader: None, .. }) && self.leadership().borrow().is_self;
            if !lacked_lease || tries == CHANGE_TRIES {
                return Err(error);
            }
        }
    }

    /// Removes a learner.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn remove_learner(&self, replica: u64) -> Result<(), MemberError> {
        if !self.members().learners.contains(&replica) {
            return Ok(());
        }
        self.renewed().await;
        let change = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([replica]));
        let changed = self.raft().change_membership(change, false).await;
        changed.map(drop).map_err(|error| self.member_error(error))
    }

    /// Hands the leadership to another voter and waits until it leads, at most `deadline`. Writes are refused meanwhile, with the new leader's
    /// name.
    ///
    /// # Errors
    /// This replica does not lead, or the other did not take over in time: then this one leads on, or whoever was elected.
    pub async fn transfer_leadership(&self, to: u64, deadline: Duration) -> Result<(), MemberError> {
        let mut leadership = self.leadership();
        let before = *leadership.borrow_and_update();
        if before.leader == Some(to) {
            return Ok(());
        }
        if !before.is_self {
            return Err(MemberError::NotLeader { journal: self.id(), leader: before.leader });
        }
        if !self.members().voters.contains(&to) {
            return Err(MemberError::Unknown { journal: self.id(), replica: to });
        }
        let ended = |reason: String| MemberError::Ended { journal: self.id(), reason };
        // Nothing is claimed any more in this term: should the other not take over, anybody may.
        self.handing().begin(to, before.term);
        self.raft().trigger().transfer_leader(to).await.map_err(|error| ended(error.to_string()))?;
        let taken = leadership.wait_for(|now| now.leader == Some(to));
        tokio::select! {
            biased;
            taken = taken => taken.map(drop).map_err(|_| ended(String::from("it was shut down"))),
            () = self.env().clock.sleep(deadline) => Err(MemberError::Late { journal: self.id(), replica: to, deadline }),
        }
    }

    /// Returns once the state shows everything that was acknowledged by anybody before this call: read it then.
    ///
    /// # Errors
    /// This replica does not lead, or cannot reach a majority.
    pub async fn ensure_linearizable(&self, freshness: Freshness) -> Result<(), MemberError> {
        let policy = match freshness {
            Freshness::ReadIndex => ReadPolicy::ReadIndex,
            Freshness::Lease => ReadPolicy::LeaseRead,
        };
        let mut asked = self.raft().ensure_linearizable(policy).await;
        if freshness == Freshness::Lease
            && let Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) = asked
        {
            // Nothing happened for a while, so that the lease ran out: a majority renews it.
            asked = self.raft().ensure_linearizable(ReadPolicy::ReadIndex).await;
        }
        match asked {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(MemberError::NotLeader { journal: self.id(), leader: forward.leader_id })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(short))) => {
                Err(MemberError::NoQuorum { journal: self.id(), reason: short.to_string() })
            }
            Err(RaftError::Fatal(fatal)) => Err(MemberError::Ended { journal: self.id(), reason: fatal.to_string() }),
        }
    }

    /// Whether this replica surely leads at this moment, by the lease that a majority's last answers gave it, and its state shows all that was acknowledged
    /// before: read it then. Cheap. False says nothing: see [`Journal::ensure_linearizable`].
    pub fn holds_lease(&self) -> bool {
        let leads = *self.leadership().borrow();
        // Whoever hands over lets the next leader come at once.
        if !leads.is_self || self.handing().is_over(leads.term) || !self.is_caught_up() {
            return false;
        }
        leased_term(self.raft(), self.replica(), self.heartbeat_ms()) == Some(leads.term)
    }

    /// Has a majority renew the lease without which Raft takes no change; one that is idle has none. Whether it worked is told by the change itself.
    async fn renewed(&self) {
        let _told_by_the_change = self.raft().ensure_linearizable(ReadPolicy::ReadIndex).await;
    }

    fn member_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
        let journal = self.id();
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                MemberError::NotLeader { journal, leader: forward.leader_id }
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward)) => {
                MemberError::NotLeader { journal, leader: forward.leader_id }
            }
            RaftError::APIError(other) => MemberError::Refused { journal, reason: other.to_string() },
            RaftError::Fatal(fatal) => MemberError::Ended { journal, reason: fatal.to_string() },
        }
    }
}
