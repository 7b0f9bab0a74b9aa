//! The hub's handle: everything that edges ask for, over journals, write-ahead log and tier. It knows no protocol.
//!
//! Order of a record's way: [`Hub::submit`] routes and checks, the journal makes it durable and gives it an offset, the tail serves
//! it, the tierer moves it to the object store, retention drops it. `log_start <= tiered_end <= high_watermark` wherever anything is
//! tiered.

mod append;
mod error;
mod fetch;
mod groups;
mod homes;
mod hosted;
mod offsets;
mod open;
mod placing;
mod producers;
mod remote;
mod routes;
mod statistics;
mod sure;
mod topics;
mod types;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tidegate_env::{Env, Joined};
use tidegate_journal::entry::{BrokerState, Operation, Outcome, Refusal, Unit, UnitOutcome};
use tidegate_journal::raft::{Pacer, Ticket, broker_of};
use tidegate_journal::{Journal, JournalError};
use tidegate_model::{BrokerId, HubId, JournalId, TimestampMs};
use tidegate_proto::internal::v1::Describe;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;
use tidegate_tier::keys::Keys;
use tidegate_tier::{ObjectStore, TierReader};
use tidegate_wal::Wal;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fleet::{ClusterStatus, Fleetwork, Forwarder, Neighbours, Network, Pending, Reports};
use crate::identity::{Held, Identity};
use crate::metrics::Metrics;
use crate::settings::HubSettings;
use crate::tierer::TierHealth;

pub use append::AppendTicket;
pub(crate) use append::STALL;
pub use error::Error;
pub use groups::GroupListing;
pub(crate) use hosted::Hosted;
pub use open::OpenError;
pub(crate) use open::{journal_settings, unit_bytes, wal_settings};
pub use producers::InitProducer;
pub(crate) use routes::{Routes, View, settings_of};
pub use statistics::{HubStatistics, PartitionHome, TopicStatistics};
pub use topics::{Caller, Listing, NewTopic, TopicChanges};
pub use types::{
    Append, Appended, Deleted, Fetch, FetchPart, Fetched, GroupOffset, Located, Marks, PartitionNumbers, PartitionRef, Position,
    ProducerIdentity, TopicDescription,
};
pub(crate) use whole::named;

/// Journals that are closed at the same time: each holds the bytes of its checkpoint meanwhile.
const CLOSING: usize = 32;

/// A cheap handle on a hub's broker; clones share it.
#[derive(Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

/// What handles and background tasks share.
pub(crate) struct Inner {
    pub(crate) settings: HubSettings,
    pub(crate) env: Env,
    pub(crate) hub_id: HubId,
    pub(crate) broker: BrokerId,
    pub(crate) incarnation: Uuid,
    pub(crate) identity: Identity,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) keys: Keys,
    pub(crate) wal: Wal,
    pub(crate) catalog: Journal,
    /// The data journals that this broker holds.
    pub(crate) hosted: Hosted,
    /// The way to other brokers.
    pub(crate) network: Network,
    pub(crate) fleetwork: Fleetwork,
    /// How fast this broker copies replicas to others.
    pub(crate) pacer: Pacer,
    /// Where other brokers were, noted on the volume.
    pub(crate) neighbours: Neighbours,
    pub(crate) forwarder: Forwarder,
    pub(crate) reports: Reports,
    /// Why a journal failed, or this broker may not take part, once that is so.
    pub(crate) journal_failed: tidegate_env::watch::Sender<Option<Arc<str>>>,
    pub(crate) routes: Routes,
    pub(crate) reader: TierReader,
    pub(crate) manifests: fetch::ManifestCache,
    pub(crate) producers: producers::IdBlocks,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tier_health: TierHealth,
    /// The hub's largest batch; a topic may allow less.
    pub(crate) max_message_bytes: u32,
    /// Cancelled when appends end.
    pub(crate) intake: CancellationToken,
    /// Cancelled when background tasks shall end.
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: parking_lot::Mutex<Vec<Box<dyn Joined>>>,
    /// Holds the data directory's lock while the hub lives.
    pub(crate) held: parking_lot::Mutex<Option<Held>>,
}

impl Hub {
    /// The hub's identity.
    pub fn id(&self) -> HubId {
        self.inner.hub_id
    }

    /// This broker's number.
    pub fn broker(&self) -> BrokerId {
        self.inner.broker
    }

    /// What the recovery that made this broker's volume found and lost, if one did.
    pub fn recovery(&self) -> Option<&crate::identity::Recovery> {
        self.inner.identity.recovered.as_ref()
    }

    /// Identity of this broker's volume.
    pub fn incarnation(&self) -> Uuid {
        self.inner.incarnation
    }

    /// Refuses appends from now on; reads go on. The first step of a stop.
    pub fn stop_intake(&self) {
        self.inner.intake.cancel();
    }

    /// Numbers for Prometheus.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.inner.metrics)
    }

    /// Resolves, with the reason, when the write-ahead log or a journal failed, or the hub has retired this broker before its start: the process
    /// must end, and nothing is acknowledged any more.
    pub async fn failed(&self) -> String {
        let mut watched = self.inner.journal_failed.subscribe();
        let journal = async move {
            let reason =
                watched.wait_for(Option::is_some).await.ok().map(|reason| reason.as_deref().unwrap_or_default().to_owned());
            match reason {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            failed = self.inner.wal.failed() => failed.to_string(),
            reason = journal => reason,
        }
    }

    /// Uploads a checkpoint of every journal to the store now; the hub does so by itself from time to time.
    pub async fn checkpoint_to_store(&self) -> Result<(), Error> {
        crate::tierer::upload_all(&self.inner).await.map_err(Error::unavailable)
    }

    /// Lets the log drop every record that is in the object store: readers of those go to the store from now on. For tools and
    /// tests; the hub does so by itself, by bytes.
    pub async fn drop_local_copies(&self) -> Result<(), Error> {
        for journal in self.inner.hosted.all().values() {
            let releasable = journal.read_state(|state| state.releasable());
            // The log is purged up to the older of two checkpoints, and a purge needs both of them to cover it.
            for _ in 0..2 {
                journal.checkpoint().await.map_err(Error::internal)?;
            }
            if journal.read_state(|state| state.first_retained()).is_some_and(|first| first <= releasable) {
                let release = Unit::of(Operation::Release { upto: releasable });
                self.propose(journal.id(), release).await?;
            }
        }
        Ok(())
    }

    /// How many voters each journal shall have: 1, 3 or 5. Placement brings it about while writes go on.
    pub async fn set_replication_factor(&self, factor: u32) -> Result<(), Error> {
        self.propose(JournalId::CATALOG, Unit::of(Operation::SetReplicationFactor { factor })).await.map(|_| ())
    }

    /// Drains a broker, or lets it take part again. A drained one that holds nothing any more is retired by placement.
    pub async fn set_broker_state(&self, broker: BrokerId, state: BrokerState) -> Result<(), Error> {
        let known =
            self.inner.catalog.read_state(|catalog| catalog.catalog().fleet().broker(broker).map(|known| known.incarnation));
        let unknown = || Error::invalid("broker", format!("the hub has no broker {broker}: list them first"));
        let incarnation = known.ok_or_else(unknown)?;
        let operation = Operation::SetBrokerState { broker, incarnation, state };
        self.propose(JournalId::CATALOG, Unit::of(operation)).await.map(|_| ())
    }

    /// The hub's brokers and journals as the catalog's leader sees them, as an encoded `tidegate.operator.v1.DescribeClusterResponse`.
    pub(crate) async fn cluster(&self) -> Result<bytes::Bytes, Error> {
        match self.inner.ask_leader(JournalId::CATALOG, Ask::Describe(Describe {})).await? {
            Told::Cluster(cluster) => Ok(cluster),
            other => Err(Error::internal(format!("the catalog's leader answered {other:?}"))),
        }
    }

    /// The hub's brokers and journals; whole only on the broker that leads the catalog.
    pub fn cluster_status(&self) -> ClusterStatus {
        self.inner.cluster_status()
    }

    pub(crate) fn now(&self) -> TimestampMs {
        self.inner.now()
    }

    pub(crate) fn journal(&self, id: JournalId) -> Result<Journal, Error> {
        self.inner.journal(id)
    }

    /// Hands a unit to a journal, wherever it is led.
    pub(crate) async fn submit_unit(&self, journal: JournalId, unit: Unit) -> Result<Pending, Error> {
        self.inner.submit(journal, unit, None).await
    }

    /// Proposes a unit of one operation, wherever its journal is led, and waits for its outcome.
    pub(crate) async fn propose(&self, journal: JournalId, unit: Unit) -> Result<Outcome, Error> {
        self.inner.propose(journal, unit).await
    }

    /// Ends intake, finishes what is under way, writes checkpoints and closes the log, all within `deadline`; then lets the data directory
    /// go. What an acknowledgement was given for is durable in any case.
    pub async fn shutdown(&self, deadline: Duration) {
        let inner = &self.inner;
        inner.intake.cancel();
        inner.stopping.cancel();
        let work = async {
            let tasks = std::mem::take(&mut *inner.tasks.lock());
            for task in tasks {
                task.join().await;
            }
            let journals: Vec<Journal> = inner.hosted.all().values().chain([&inner.catalog]).cloned().collect();
            // Each may wait for a majority that is not there any more: one after the other they would outlast any deadline.
            futures::stream::iter(journals).for_each_concurrent(CLOSING, |journal| inner.close(journal)).await;
            inner.wal.clone().close().await;
        };
        tokio::select! {
            biased;
            () = work => {}
            () = inner.env.clock.sleep(deadline) => tracing::warn!(?deadline, "shutdown took too long and was cut off"),
        }
        inner.held.lock().take();
    }
}

impl Inner {
    /// Takes a last checkpoint of a journal and ends it.
    async fn close(&self, journal: Journal) {
        if let Err(error) = journal.checkpoint().await {
            tracing::warn!(journal = journal.id().0, %error, "no checkpoint at shutdown; the next start replays more");
        }
        self.network.transport.unregister(journal.id());
        journal.shutdown().await;
    }

    pub(crate) fn now(&self) -> TimestampMs {
        TimestampMs(self.env.clock.now_ms())
    }

    /// A data journal or the catalog.
    pub(crate) fn any_journal(&self, id: JournalId) -> Result<Journal, Error> {
        if id == JournalId::CATALOG { Ok(self.catalog.clone()) } else { self.journal(id) }
    }

    pub(crate) fn journal(&self, id: JournalId) -> Result<Journal, Error> {
        self.hosted.get(id).ok_or_else(|| self.not_leader(id))
    }

    /// Notes when a journal fails, for [`Hub::failed`].
    pub(crate) fn watch_failure(self: &Arc<Self>, journal: &Journal) {
        let (mut failed, inner) = (journal.failed(), Arc::clone(self));
        let watch = async move {
            tokio::select! {
                biased;
                () = inner.stopping.cancelled() => {}
                // An error means that the journal ended in order.
                found = failed.wait_for(Option::is_some) => if let Ok(reason) = found {
                    inner.journal_failed.send_replace(reason.clone());
                },
            }
        };
        self.tasks.lock().push(self.env.threads.task("failure", Box::pin(watch)));
    }
}

/// The single outcome of a unit of one operation, or why it was refused.
pub(crate) fn applied(answer: Result<UnitOutcome, Error>) -> Result<Outcome, Error> {
    match answer? {
        UnitOutcome::Applied(outcomes) => {
            outcomes.first().cloned().ok_or_else(|| Error::internal("a unit without operations was applied"))
        }
        UnitOutcome::Refused { refusal, .. } => Err(refused(*refusal)),
    }
}

/// Waits for a ticket of a journal that is led here.
pub(crate) async fn redeemed(ticket: Ticket) -> Result<Outcome, Error> {
    applied(ticket.await.map_err(submit_error))
}

/// What a journal's refusal to take or finish a unit means to a caller.
pub(crate) fn submit_error(error: JournalError) -> Error {
    let problem = error.to_string();
    match error {
        JournalError::Full { retry_after, .. } => Error::StorageFull { problem, retry_after },
        JournalError::NotLeader { leader, .. } => {
            let leader = leader.map(broker_of);
            Error::NotLeader { problem, leader, endpoint: None, retry_after: Duration::from_millis(100) }
        }
        JournalError::NoMajority { .. } => {
            Error::NotLeader { problem, leader: None, endpoint: None, retry_after: Duration::from_millis(100) }
        }
        JournalError::Closed { .. } => Error::ShuttingDown,
        JournalError::TooLarge { bytes, limit, .. } => Error::TooLarge {
            field: "batches".to_owned(),
            bytes: bytes as u64,
            limit: limit as u64,
            setting: "the least of 16 MiB, half of hub.wal.file_bytes and hub.journal.in_flight_bytes",
        },
        JournalError::Deposed { .. } | JournalError::Failed { .. } => Error::Unavailable { problem },
    }
}

/// What a refusal of the state machine means to a caller.
pub(crate) fn refused(refusal: Refusal) -> Error {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownPartition { .. } | Refusal::StaleGeneration { .. } => Error::unavailable(text),
        // The next home is open within some milliseconds.
        Refusal::PartitionSealed { .. } => {
            Error::NotLeader { problem: text, leader: None, endpoint: None, retry_after: Duration::from_millis(5) }
        }
        Refusal::BadBatch { .. } => Error::InvalidBatch { field: "batches".to_owned(), problem: text },
        Refusal::OutOfSequence { expected, got, .. } => Error::OutOfSequence { expected: expected.0, got: got.0 },
        Refusal::ProducerFenced { current, .. } => Error::ProducerFenced { current },
        Refusal::TopicExists { name, uid } => Error::TopicExists { topic: name, uid },
        Refusal::NameCollides { .. } => Error::invalid("name", text),
        Refusal::UnknownTopic { uid } => Error::UnknownTopic { topic: uid.to_string() },
        Refusal::RevisionMismatch { current, .. } => Error::RevisionMismatch { revision: current },
        Refusal::PartitionsShrink { .. } => Error::invalid("settings.partitions", text),
        Refusal::PlacementGroupChanged { .. } => Error::invalid("settings.placement_group", text),
        Refusal::UndoTime { uid, .. } | Refusal::NotDeleted { uid } => {
            Error::TopicNotRestorable { topic: uid.to_string(), why: text }
        }
        Refusal::BindMismatch { .. } | Refusal::ObjectBound { .. } => Error::BindingMismatch { problem: text },
        Refusal::StaleOperator { given, current } => Error::OperatorFenced { given, current },
        Refusal::Invalid { field, problem } => Error::invalid(field, problem),
        Refusal::UnknownBroker { .. }
        | Refusal::BrokerIncarnation { .. }
        | Refusal::BrokerNotActive { .. }
        | Refusal::BrokerRetired { .. }
        | Refusal::BrokerBusy { .. }
        | Refusal::LastReplica { .. } => Error::invalid("broker", text),
        Refusal::NamedProducersFull { limit } => {
            Error::LimitExceeded { field: "name".to_owned(), limit: limit.into(), setting: "the number of producer names" }
        }
        _ => Error::internal(text),
    }
}
