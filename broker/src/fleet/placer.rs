//! Carries placement out: on the catalog's leader, measure, plan, do. Steps that concern a journal's members go to that journal's leader. What
//! fails is found again by the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_journal::entry::{BrokerState, Operation, Unit};
use tidegate_journal::raft::{FormerVoters, MemberError};
use tidegate_journal::state::Replica;
use tidegate_model::{BrokerId, JournalId};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::change::What;
use tidegate_proto::internal::v1::request::Ask;
use uuid::Uuid;

use super::reports::newest;
use crate::hub::{Error, Inner};
use crate::placement::{Bounds, BrokerView, FleetView, Health, JournalView, Led, Patience, Step, plan};

/// Nothing new is given to a broker that was silent for so long.
const SILENT: Duration = Duration::from_secs(3);
/// A leader that was moved stays so long before it is moved for balance.
const SETTLE: Duration = Duration::from_secs(30);
/// The longest that a change of members may take.
const CHANGE: Duration = Duration::from_secs(15);
/// The longest that a new leader may take to come up.
const TRANSFER: Duration = Duration::from_secs(5);

/// Plans and does, while this broker leads the catalog.
pub(crate) struct Placer {
    inner: Arc<Inner>,
    /// Since when this broker leads the catalog.
    since: Option<Duration>,
    moved: BTreeMap<JournalId, Duration>,
    patience: Patience,
    /// When each volume was first seen in the catalog.
    seen: BTreeMap<Uuid, Duration>,
}

impl Placer {
    pub(crate) fn new(inner: Arc<Inner>) -> Placer {
        Placer { inner, since: None, moved: BTreeMap::new(), patience: Patience::default(), seen: BTreeMap::new() }
    }

    /// One round. Does nothing elsewhere than on the catalog's leader.
    pub(crate) async fn round(&mut self) {
        let now = self.inner.env.clock.monotonic();
        if !self.inner.catalog.leadership().borrow().is_self {
            self.since = None;
            self.seen.clear();
            return;
        }
        let since = *self.since.get_or_insert(now);
        // Until all brokers had time to report, nothing is known that could be acted on.
        if now.saturating_sub(since) < SILENT {
            return;
        }
        self.inner.catalog.read_state(|state| {
            for (_, broker) in state.catalog().fleet().brokers() {
                self.seen.entry(broker.incarnation).or_insert(now);
            }
        });
        let view = self.view(now, since);
        self.inner.metrics.fleet(&view, self.inner.moves().len());
        let steps = plan(&view, &Bounds::default());
        let may_balance = self.patience.allows_balance(&view, &steps, now);
        for step in steps {
            match &step {
                Step::BalanceLeader { .. } if !may_balance => continue,
                Step::TransferLeader { journal, .. } | Step::BalanceLeader { journal, .. } => {
                    self.moved.insert(*journal, now);
                }
                _ => {}
            }
            match self.run(&step).await {
                Ok(()) => {
                    tracing::info!(?step, "placement");
                    self.inner.metrics.placement_steps.inc();
                }
                Err(error) => tracing::warn!(?step, %error, "a step of placement failed and is planned anew"),
            }
        }
        self.inner.move_partitions().await;
    }

    fn view(&self, now: Duration, since: Duration) -> FleetView {
        let heard = self.inner.reports.heard();
        let lost = Duration::from_millis(self.inner.settings.fleet.lost_after_ms);
        let health = |broker: &BrokerId, incarnation: &Uuid| {
            let seen = self.seen.get(incarnation).copied().unwrap_or(since).max(since);
            let silent = now.saturating_sub(heard.get(broker).map_or(seen, |heard| heard.at.max(seen)));
            if silent < SILENT {
                Health::Alive
            } else if silent < lost {
                Health::Silent
            } else {
                Health::Lost
            }
        };
        self.inner.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let brokers = fleet.brokers().filter(|(_, broker)| broker.state != BrokerState::Retired);
            let brokers: BTreeMap<BrokerId, BrokerView> = brokers
                .map(|(id, broker)| {
                    let view = BrokerView {
                        incarnation: broker.incarnation,
                        zone: broker.zone.clone(),
                        node: broker.node.clone(),
                        state: broker.state,
                        health: health(&id, &broker.incarnation),
                        slow: heard.get(&id).and_then(|heard| heard.report.busy).is_some_and(|busy| busy.slow),
                    };
                    (id, view)
                })
                .collect();
            let led = |id: JournalId| {
                let (broker, led) = newest(&heard, id)?;
                let fresh = brokers.get(&broker).is_some_and(|broker| broker.health == Health::Alive);
                fresh.then(|| Led {
                    leader: led.replica,
                    voters: led.voters.iter().copied().collect(),
                    unsettled: led.unsettled.iter().copied().collect(),
                    learners: led.learners.iter().copied().collect(),
                    in_sync: led.in_sync.iter().copied().collect(),
                })
            };
            let lost = |id: JournalId, replica: &Replica| {
                let told = heard.get(&replica.broker).into_iter().flat_map(|heard| &heard.report.lost);
                told.filter(|lost| lost.journal == id.0).any(|lost| lost.replica == replica.id)
            };
            let journal = |id: JournalId, info: &tidegate_journal::state::JournalInfo| JournalView {
                replicas: info
                    .replicas
                    .iter()
                    .map(|replica| if lost(id, replica) { Replica { incarnation: Uuid::max(), ..*replica } } else { *replica })
                    .collect(),
                lost: info.replicas.iter().filter(|replica| lost(id, replica)).map(|replica| replica.id).collect(),
                led: led(id),
                load: newest(&heard, id).map_or(0.0, |(_, led)| led.load),
                settled: self.moved.get(&id).is_none_or(|moved| now.saturating_sub(*moved) >= SETTLE),
            };
            FleetView {
                journals: fleet.journals().map(|(id, info)| (id, journal(id, info))).collect(),
                replication_factor: fleet.replication_factor() as usize,
                brokers,
            }
        })
    }

    async fn run(&self, step: &Step) -> Result<(), Error> {
        let incarnation = |broker: BrokerId| {
            let known =
                self.inner.catalog.read_state(|state| state.catalog().fleet().broker(broker).map(|known| known.incarnation));
            known.ok_or_else(|| Error::internal(format!("broker {broker} is not registered")))
        };
        match step {
            Step::AddReplica { journal, broker } => {
                let incarnation = incarnation(*broker)?;
                self.commit(Operation::AddReplica { journal: *journal, broker: *broker, incarnation }).await
            }
            Step::RemoveReplica { journal, replica } => {
                self.commit(Operation::RemoveReplica { journal: *journal, replica: *replica }).await
            }
            Step::Retire { broker } => {
                let incarnation = incarnation(*broker)?;
                self.commit(Operation::SetBrokerState { broker: *broker, incarnation, state: BrokerState::Retired }).await
            }
            Step::AddLearner { journal, replica } => self.change(*journal, What::AddLearner(*replica)).await,
            Step::RemoveLearner { journal, replica } => self.change(*journal, What::RemoveLearner(*replica)).await,
            Step::ChangeVoters { journal, voters } => {
                self.change(*journal, What::Voters(wired::Voters { replicas: voters.iter().copied().collect() })).await
            }
            Step::TransferLeader { journal, to } | Step::BalanceLeader { journal, to } => {
                self.change(*journal, What::TransferTo(*to)).await
            }
        }
    }

    async fn commit(&self, operation: Operation) -> Result<(), Error> {
        self.inner.propose(JournalId::CATALOG, Unit::of(operation)).await.map(|_| ())
    }

    async fn change(&self, journal: JournalId, what: What) -> Result<(), Error> {
        let change = Ask::Change(wired::Change { journal: journal.0, what: Some(what) });
        match self.inner.ask_leader(journal, change).await? {
            Told::Changed(_) => Ok(()),
            other => Err(Error::internal(format!("a change of members was answered by {other:?}"))),
        }
    }
}

impl Inner {
    /// Changes the members of a journal that is led here.
    pub(crate) async fn change_members(&self, change: wired::Change) -> Result<wired::Changed, Error> {
        let id = JournalId(change.journal);
        let journal = self.any_journal(id).map_err(|_| self.not_leader(id))?;
        if !journal.leadership().borrow().is_self {
            return Err(self.not_leader(id));
        }
        let what = change.what.ok_or_else(|| Error::invalid("what", "has nothing set that this build knows"))?;
        let work = async {
            match what {
                What::AddLearner(replica) => journal.add_learner(replica).await,
                What::RemoveLearner(replica) => journal.remove_learner(replica).await,
                What::Voters(voters) => {
                    // All brokers follow the catalog, whether or not they vote in it.
                    let former = if journal.id() == JournalId::CATALOG { FormerVoters::Learn } else { FormerVoters::Leave };
                    journal.change_voters(voters.replicas.into_iter().collect::<BTreeSet<u64>>(), former).await
                }
                What::TransferTo(replica) => journal.transfer_leadership(replica, TRANSFER).await,
            }
        };
        tokio::select! {
            biased;
            done = work => done.map(|()| wired::Changed {}).map_err(|error| match error {
                MemberError::NotLeader { .. } => self.not_leader(id),
                error => Error::unavailable(error),
            }),
            () = self.env.clock.sleep(CHANGE) => Err(Error::unavailable(format!("journal {id} did not change its members within {CHANGE:?}"))),
        }
    }
}
