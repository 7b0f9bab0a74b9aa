//! The proposer: one task for each journal that turns waiting units into entries.
//!
//! An entry takes what arrived while the last ones were on their way; nothing lingers when idle. Two entries may be on their way whatever
//! their size, more only when enough bytes wait to be worth an entry, and the more there are the more bytes that takes. Answers are given in the order of submission.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::{OneshotSender, WatchReceiver};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::TypeConfigExt;
use openraft::{Raft, ReadPolicy, ServerState};
use tidegate_env::Env;
use tidegate_model::{JournalId, TimestampMs};

use super::append_signal::AppendSignal;
use super::error::JournalError;
use super::machine::{Machine, View};
use super::members::leased_term;
use super::peers::Links;
use super::queue::{Claim, Queue};
use super::settings::JournalSettings;
use super::types::{Data, TypeConfig};
use crate::entry::{Entry, EntryPayload, UnitOutcome};

/// So many bytes have to wait before one more entry goes out: by how many are on their way.
fn worth(flying: usize) -> usize {
    match flying {
        0 | 1 => 1,
        2 | 3 => 64 << 10,
        _ => 256 << 10,
    }
}

/// A leader whose lease ran out, or that was just elected, refuses writes for a moment.
const RETRIES: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

const RAFT_STOPPED: &str = "Raft has stopped";

type Answer = openraft::type_config::alias::OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

pub(super) struct Proposer {
    pub(super) journal: JournalId,
    pub(super) raft: Raft<TypeConfig, Machine>,
    pub(super) queue: Arc<Queue>,
    pub(super) settings: JournalSettings,
    pub(super) env: Env,
    pub(super) links: Links,
    pub(super) view: Arc<View>,
    /// Of the log store that Raft writes to.
    pub(super) append_signal: AppendSignal,
    /// The time of the last entry; entry time never falls, whatever the clock does.
    pub(super) time: TimestampMs,
    pub(super) in_flight: VecDeque<InFlight>,
    /// How often an entry was refused and proposed again.
    pub(super) again: Arc<AtomicU64>,
}

/// An entry on its way.
pub(super) struct InFlight {
    proposal: Proposal,
    answer: Answer,
}

/// An entry and those who wait for it.
struct Proposal {
    payload: Arc<EntryPayload>,
    /// Which unit each outcome belongs to.
    order: Vec<u32>,
    claims: Vec<Claim>,
}

impl Proposer {
    /// Runs until the queue is closed and empty, or the journal failed; gives the reason in that case.
    pub(super) async fn run(mut self) -> Result<(), Arc<str>> {
        let mut result = self.propose_all().await;
        // Answers just end when Raft dies; why it died stands in its metrics.
        if let (Err(reason), Err(fatal)) = (&mut result, &self.raft.metrics().borrow_watched().running_state) {
            *reason = fatal.to_string().into();
        }
        if let Err(reason) = &result {
            let error = JournalError::Failed { journal: self.journal, reason: reason.clone() };
            for entry in self.in_flight.drain(..) {
                entry.proposal.fail(&error);
            }
            self.queue.fail(error);
        }
        result
    }

    async fn propose_all(&mut self) -> Result<(), Arc<str>> {
        loop {
            while self.may_send() {
                self.send().await?;
            }
            if self.in_flight.is_empty() && self.queue.is_closed() && self.queue.bytes() == 0 {
                return Ok(());
            }
            let worth = worth(self.in_flight.len());
            let room = self.in_flight.len() < self.settings.entries_in_flight;
            let first = self.in_flight.front_mut();
            let answered = async {
                match first {
                    Some(entry) => (&mut entry.answer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = answered => {
                    let entry = self.in_flight.pop_front().expect("only the first entry's answer was awaited");
                    self.settle(entry.proposal, answer.ok())?;
                    if self.journal == JournalId::CATALOG && self.in_flight.is_empty() && self.queue.bytes() == 0 {
                        self.tell().await;
                    }
                }
                () = self.queue.reaches(worth), if room && !(self.queue.is_closed() && self.queue.bytes() == 0) => {}
            }
        }
    }

    fn may_send(&self) -> bool {
        let flying = self.in_flight.len();
        flying < self.settings.entries_in_flight && self.queue.bytes() >= worth(flying)
    }

    /// Proposes one entry of what waits.
    async fn send(&mut self) -> Result<(), Arc<str>> {
        let waiting = self.queue.take(self.settings.entry_target_bytes, self.settings.entry_limit_bytes);
        let (mut units, mut claims) = (Vec::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
        for next in waiting {
            units.push(next.unit);
            claims.push(next.claim);
        }
        let applied = self.view.read(|core| core.state.time());
        self.time = self.time.max(applied).max(TimestampMs(self.env.clock.now_ms()));
        let (payload, order) = EntryPayload::encode(Entry { time: self.time, units }).map_err(|error| error.to_string())?;
        let payload = Arc::new(payload);
        if self.lacks_lease() {
            self.renew(LONGEST_PAUSE).await;
        }
        let proposal = Proposal { payload, order, claims };
        match self.enter(&proposal.payload).await? {
            Entered::Yes(answer) => self.in_flight.push_back(InFlight { proposal, answer }),
            Entered::No { leader } => return self.refused(proposal, leader).await,
        }
        Ok(())
    }

    /// Gives Raft an entry, and waits until it is in the log or refused. The next one is given only then: it must not get in before this one.
    async fn enter(&self, payload: &Arc<EntryPayload>) -> Result<Entered, Arc<str>> {
        let appended = self.append_signal.watch_for(payload);
        let mut answer = self.hand_over(payload).await?;
        tokio::select! {
            biased;
            Ok(()) = appended => Ok(Entered::Yes(answer)),
            early = &mut answer => match early {
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Ok(Entered::No { leader: forward.leader_id }),
                // It was appended and answered since the line above looked.
                Ok(done) => {
                    let (sender, known) = TypeConfig::oneshot();
                    let _receiver_is_here = sender.send(done);
                    Ok(Entered::Yes(known))
                }
                Err(_) => Err(RAFT_STOPPED.into()),
            },
        }
    }

    async fn hand_over(&self, payload: &Arc<EntryPayload>) -> Result<Answer, Arc<str>> {
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft.client_write_ff(Data(payload.clone()), Some(responder)).await.map_err(|fatal| fatal.to_string())?;
        Ok(answer)
    }

    /// Lets followers know at once what is committed, which they would hear with the next entry or beat: every broker goes by the catalog.
    async fn tell(&self) {
        // One that has ended says so to the next proposal.
        let _ended = self.raft.trigger().heartbeat().await;
    }

    /// Whether this replica leads and heard of no majority for so long, because it was idle or all are busy, that Raft would refuse an entry.
    fn lacks_lease(&self) -> bool {
        let leads = self.raft.server_metrics().borrow_watched().state == ServerState::Leader;
        leads && leased_term(&self.raft, self.settings.replica, self.settings.heartbeat_ms).is_none()
    }

    /// Has a majority renew the lease, and waits for that: one round trip. True if it did. What was committed before need not be applied here: a new
    /// leader's first entries follow its blank one at once.
    async fn renew(&self, most: Duration) -> bool {
        tokio::select! {
            biased;
            asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex) => asked.is_ok(),
            () = self.env.clock.sleep(most) => false,
        }
    }

    /// Answers for an entry that was in the log.
    fn settle(&self, proposal: Proposal, answer: Option<ClientWriteResult<TypeConfig>>) -> Result<(), Arc<str>> {
        match verdict(answer)? {
            Verdict::Applied(outcomes) => proposal.resolve(outcomes),
            Verdict::Refused { leader } | Verdict::Discarded { leader } => {
                proposal.fail(&JournalError::Deposed { journal: self.journal, leader });
            }
        }
        Ok(())
    }

    /// The entry was refused before it reached the log. It is proposed again, unless another replica leads: then its units are given back.
    async fn refused(&mut self, proposal: Proposal, mut leader: Option<u64>) -> Result<(), Arc<str>> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..RETRIES {
            if leader.is_some_and(|leader| leader != self.settings.replica) {
                break;
            }
            // A leader without a lease gets it from its followers; one that was just elected, or has none at hand, is asked again a little later.
            self.again.fetch_add(1, Ordering::Relaxed);
            self.renew(LONGEST_PAUSE).await;
            self.env.clock.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.enter(&proposal.payload).await? {
                Entered::Yes(answer) => {
                    self.in_flight.push_back(InFlight { proposal, answer });
                    return Ok(());
                }
                Entered::No { leader: other } => leader = other,
            }
        }
        let leads = self.raft.server_metrics().borrow_watched().state == ServerState::Leader;
        let error = if leads && leader.is_none() {
            let silent = self.links.silent_voters(self.journal, &self.env);
            JournalError::NoMajority { journal: self.journal, silent }
        } else {
            JournalError::NotLeader { journal: self.journal, leader }
        };
        proposal.fail(&error);
        Ok(())
    }
}

/// Whether Raft has put an entry into the log.
enum Entered {
    Yes(Answer),
    No { leader: Option<u64> },
}

/// What became of a proposal.
enum Verdict {
    Applied(Vec<UnitOutcome>),
    /// It never reached the log.
    Refused {
        leader: Option<u64>,
    },
    /// It was in the log of a leader that was deposed: whether another leader committed it is not known here.
    Discarded {
        leader: Option<u64>,
    },
}

fn verdict(answer: Option<ClientWriteResult<TypeConfig>>) -> Result<Verdict, Arc<str>> {
    match answer {
        Some(Ok(response)) => Ok(Verdict::Applied(response.data.0)),
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => Ok(Verdict::Refused { leader: forward.leader_id }),
        Some(Err(ClientWriteError::LogEntryDiscarded(forward))) => Ok(Verdict::Discarded { leader: forward.leader_id }),
        Some(Err(other)) => Err(other.to_string().into()),
        None => Err(RAFT_STOPPED.into()),
    }
}

impl Proposal {
    /// Answers all units of an applied entry, in the order of submission.
    fn resolve(self, outcomes: Vec<UnitOutcome>) {
        let mut by_unit: Vec<Option<UnitOutcome>> = (0..self.claims.len()).map(|_| None).collect();
        for (unit, outcome) in self.order.into_iter().zip(outcomes) {
            by_unit[unit as usize] = Some(outcome);
        }
        for (claim, outcome) in self.claims.into_iter().zip(by_unit) {
            claim.answer(Ok(outcome.expect("apply gives one outcome for each unit of an entry")));
        }
    }

    fn fail(self, error: &JournalError) {
        self.claims.into_iter().for_each(|claim| claim.answer(Err(error.clone())));
    }
}
