//! Answering other brokers' questions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_journal::Journal;
use tidegate_journal::entry::{Operation, Outcome, Refusal, Unit, UnitOutcome};
use tidegate_journal::raft::{Ticket, broker_of};
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, PartitionId, TopicPartition, TopicUid};
use tidegate_proto::errors::Reason;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;

use super::{Known, Pending, wire};
use crate::grpc::cluster_out;
use crate::hub::{Error, Hub, Inner, applied, submit_error};

/// A member that lacks at most so many entries can take over at once.
const NEAR_ENTRIES: u64 = 1024;
/// Units for a journal that is being handed over to this broker wait so long.
const SOON: Duration = Duration::from_millis(200);
/// How long one journal's new leader may take to come up.
const HAND_OVER: Duration = Duration::from_secs(2);

impl Hub {
    /// Hands all journals that this broker leads to others. The first step of a stop: see [`Hub::shutdown`].
    pub async fn hand_over(&self) {
        self.inner.hand_over().await;
    }

    /// Answers another broker. Never asks a third one, but for the registration of a newcomer.
    pub async fn answer(&self, request: wired::Request) -> wired::Answer {
        let told = match self.fits(&request) {
            Ok(()) => match request.ask {
                Some(ask) => self.inner.answer_ask(ask).await,
                None => Err(Error::invalid("ask", "has nothing set that this build knows: run one version on all brokers")),
            },
            Err(error) => Err(error),
        };
        wired::Answer { told: Some(told.unwrap_or_else(|error| Told::Error(wire::error_out(error)))) }
    }

    /// A broker of another hub gets no answer but to a Hello.
    fn fits(&self, request: &wired::Request) -> Result<(), Error> {
        let ours = self.inner.hub_id.0;
        let is_hello = matches!(request.ask, Some(Ask::Hello(_))) && request.hub_id.is_empty();
        if is_hello || request.hub_id.as_ref() == ours.as_bytes() {
            return Ok(());
        }
        Err(Error::invalid("hub_id", format!("is not {ours}: this broker belongs to another hub; set the right peers")))
    }
}

fn known_in(check: &wired::EpochCheck) -> Result<Known, Error> {
    let topic = TopicUid(wire::uuid_in("epochs.topic_uid", &check.topic_uid)?);
    Ok((TopicPartition { topic, partition: PartitionId(check.partition) }, LeaderEpoch(check.epoch)))
}

/// Refuses what a client sent under another leader epoch than its partition's.
pub(super) fn check_epoch(journal: &Journal, (at, given): Known) -> Result<(), Error> {
    match journal.read_state(|state| state.partition(at).map(|partition| partition.epoch())) {
        Some(current) if given < current => Err(Error::FencedLeaderEpoch { given, current }),
        Some(current) if given > current => Err(Error::UnknownLeaderEpoch { given, current }),
        // One that is not here is refused by its journal.
        _ => Ok(()),
    }
}

/// Submits a unit that came over the wire, or was to go over it.
pub(super) async fn submit_wired(journal: &Journal, unit: Bytes) -> Result<Ticket, Error> {
    journal.submit(wire::unit_in(unit)?).await.map_err(submit_error)
}

impl Inner {
    pub(crate) async fn answer_ask(self: &Arc<Self>, ask: Ask) -> Result<Told, Error> {
        match ask {
            Ask::Hello(_) => Ok(Told::Welcome(wired::Welcome { hub_id: wire::uuid_out(self.hub_id.0) })),
            Ask::Join(join) => self.let_in(join).await.map(Told::Joined),
            Ask::Submit(submit) => self.take(submit).await.map(Told::Submitted),
            Ask::Report(report) => self.hear(report).map(Told::Heard),
            Ask::Change(change) => self.change_members(change).await.map(Told::Changed),
            Ask::Describe(_) if self.catalog.leadership().borrow().is_self => {
                Ok(Told::Cluster(cluster_out(&self.cluster_status())))
            }
            Ask::Describe(_) => Err(self.not_leader(JournalId::CATALOG)),
            Ask::Positions(ask) => Hub { inner: Arc::clone(self) }.serve_positions(&ask.group).await.map(Told::Positions),
            Ask::Groups(ask) => Hub::of(self).serve_groups(&ask).map(Told::Groups),
            Ask::Numbers(ask) => Hub::of(self).serve_numbers(&ask).map(Told::Numbers),
            Ask::Standing(ask) => Ok(Told::Standing(self.standing(&ask))),
            Ask::Read(read) => Hub { inner: Arc::clone(self) }.serve_read(read).await.map(Told::Read),
        }
    }

    /// Submits units to a journal that is led here.
    async fn take(self: &Arc<Self>, submit: wired::Submit) -> Result<wired::Submitted, Error> {
        let id = JournalId(submit.journal);
        let journal = self.any_journal(id).map_err(|_| self.not_leader(id))?;
        if !journal.takes_units_soon(SOON).await {
            return Err(self.not_leader(id));
        }
        if self.intake.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        self.reports.count(id, submit.units.iter().map(|unit| unit.len() as u64).sum());
        let mut pending = Vec::with_capacity(submit.units.len());
        let mut epochs = submit.epochs.iter().peekable();
        for (number, unit) in (0..).zip(submit.units) {
            let mut checked = Ok(());
            while let Some(check) = epochs.next_if(|check| check.unit <= number) {
                checked = checked.and_then(|()| check_epoch(&journal, known_in(check)?));
            }
            pending.push(match checked {
                Ok(()) => submit_wired(&journal, unit).await,
                Err(error) => Err(error),
            });
        }
        let mut results = Vec::with_capacity(pending.len());
        for pending in pending {
            let result = match pending {
                Ok(ticket) => ticket.await.map_err(submit_error),
                Err(error) => Err(error),
            };
            let result = result.map_err(|error| self.moved(id, error));
            results.push(wire::result_out(result));
        }
        Ok(wired::Submitted { results })
    }

    /// Registers a broker and gives it a replica of the catalog, wherever the catalog is led.
    async fn let_in(self: &Arc<Self>, join: wired::Join) -> Result<wired::Joined, Error> {
        let (broker, incarnation) = (BrokerId(join.broker), wire::uuid_in("incarnation", &join.incarnation)?);
        let mut addresses: Vec<(String, String)> = join.addresses.into_iter().collect();
        // As whoever registers anew compares them, and the same in every run.
        addresses.sort();
        let register =
            Operation::RegisterBroker { broker, incarnation, replaces: None, addresses, zone: join.zone, node: join.node };
        self.propose(JournalId::CATALOG, Unit::of(register.clone())).await?;
        let add = Operation::AddReplica { journal: JournalId::CATALOG, broker, incarnation };
        let added = self.submit(JournalId::CATALOG, Unit::of(add), None).await?.await;
        let is_inactive = match &added {
            Ok(UnitOutcome::Refused { refusal, .. }) => matches!(**refusal, Refusal::BrokerNotActive { .. }),
            // Refused where the catalog is led.
            Err(Error::Told(told)) => {
                told.reason == Reason::InvalidArgument && told.metadata.get("field").is_some_and(|field| field == "broker")
            }
            _ => false,
        };
        if is_inactive {
            // Draining a moment ago. Retired meanwhile, it is told so by the answer to this.
            self.propose(JournalId::CATALOG, Unit::of(register)).await?;
            // Its replica of the catalog is the last that is taken from a broker that is to go.
            let text = format!("broker {broker} is being drained and holds nothing any more: it waits here until it is retired");
            return Err(Error::unavailable(text));
        }
        match applied(added)? {
            Outcome::Replica { id } => Ok(wired::Joined { catalog_replica: id }),
            other => Err(Error::internal(format!("a new replica came to {other:?}"))),
        }
    }

    /// Hands a unit to its journal: here if it is led here, else to whoever leads it.
    pub(crate) async fn submit(self: &Arc<Self>, id: JournalId, unit: Unit, epoch: Option<Known>) -> Result<Pending, Error> {
        if let Ok(journal) = self.any_journal(id)
            // What waits for a leader and found it here goes first.
            && (self.is_alone() || (journal.takes_units() && !self.forwarder.is_busy(id)))
        {
            return journal.submit(unit).await.map(Pending::Here).map_err(submit_error);
        }
        self.forwarder.submit(self, id, unit, epoch).await
    }

    /// Proposes a unit of one operation, wherever its journal is led, and waits for its outcome.
    pub(crate) async fn propose(self: &Arc<Self>, id: JournalId, unit: Unit) -> Result<Outcome, Error> {
        let pending = self.submit(id, unit.clone(), None).await?;
        let was_here = !pending.is_there();
        let answer = pending.await.map_err(|error| self.moved(id, error));
        // It was refused here because the leadership goes elsewhere, and so it is nowhere: the next leader may take it.
        if let Err(Error::NotLeader { endpoint: Some(_), .. }) = &answer
            && was_here
        {
            return applied(self.forwarder.submit(self, id, unit, None).await?.await);
        }
        applied(answer)
    }

    /// Hands all journals that this broker leads to others, as far as there is somebody in sync to take them. Writes to each pause for a moment.
    pub(crate) async fn hand_over(&self) {
        let hosted = self.hosted.all();
        let led = hosted.values().chain([&self.catalog]).filter(|journal| journal.leadership().borrow().is_self);
        let mut given = BTreeMap::<BrokerId, usize>::new();
        let handed = led.filter_map(|journal| {
            let voters = journal.members().voters;
            let others = journal
                .progress()
                .into_iter()
                .filter(|(id, _)| *id != journal.replica() && voters.contains(id) && journal.hears(broker_of(*id)));
            // One that is far behind would take long, and an election finds somebody better.
            let near = others.filter(|(_, progress)| progress.matched + NEAR_ENTRIES >= progress.last);
            let (heir, _) = near.min_by_key(|(id, progress)| {
                (given.get(&broker_of(*id)).copied().unwrap_or(0), Reverse(progress.matched), *id)
            })?;
            *given.entry(broker_of(heir)).or_default() += 1;
            Some((journal, heir))
        });
        let transfers = handed.map(async |(journal, heir)| {
            if let Err(error) = journal.transfer_leadership(heir, HAND_OVER).await {
                tracing::warn!(journal = journal.id().0, %error, "a journal was not handed over");
            }
        });
        futures::future::join_all(transfers).await;
    }

    /// Nobody else is known who could lead anything.
    pub(crate) fn is_alone(&self) -> bool {
        self.network.advertised.is_empty()
    }
}
