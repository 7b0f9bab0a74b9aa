//! Keeps this broker at what the catalog says: opens the journals that it shall hold, lets those go that it shall not, says where others are,
//! reports to the catalog's leader, and, where it is that leader, carries placement out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_env::Env;
use tidegate_journal::entry::{Operation, Unit};
use tidegate_journal::raft::{Beginning, Links, generation_of};
use tidegate_journal::state::{Fleet, JournalInfo};
use tidegate_journal::{Journal, JournalParts, TailCache};
use tidegate_model::{BrokerId, JournalId};
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;
use tidegate_wal::{JournalLog, Wal};

use super::holdings::Holdings;
use super::placer::Placer;
use super::reports::{Meter, report};
use super::standing::Place;
use super::{PEER, Transport};
use crate::hub::{Hub, Inner, OpenError, journal_settings, submit_error};
use crate::settings::HubSettings;
use crate::tierer::Tierer;

/// Between two reports.
const REPORT_MS: u64 = 500;
/// The longest that a report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// What journals are started from.
pub(crate) struct Fleetwork {
    settings: HubSettings,
    env: Env,
    wal: Wal,
    cache: TailCache,
    links: Links,
    transport: Arc<dyn Transport>,
    /// What the write-ahead log held of journals that are not open yet.
    recovered: Mutex<BTreeMap<JournalId, JournalLog>>,
    holdings: Holdings,
    /// Replicas that could not be started. They take no part; those whose data is lost are told to the catalog's leader.
    refused: Mutex<BTreeMap<JournalId, Refused>>,
}

/// A replica that could not be started.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) replica: u64,
    pub(crate) reason: String,
    /// What it had stored is gone or damaged: another replica has to take its place.
    pub(crate) is_lost: bool,
}

impl Fleetwork {
    pub(crate) fn new(
        settings: &HubSettings,
        env: &Env,
        wal: Wal,
        links: Links,
        recovered: BTreeMap<JournalId, JournalLog>,
        transport: Arc<dyn Transport>,
        holdings: Holdings,
    ) -> Fleetwork {
        let cache = TailCache::new(settings.journal.tail_cache_bytes);
        let recovered = Mutex::new(recovered);
        let refused = Mutex::default();
        Fleetwork { settings: settings.clone(), env: env.clone(), wal, cache, links, transport, recovered, holdings, refused }
    }

    fn parts(&self, id: JournalId) -> JournalParts {
        JournalParts {
            wal: self.wal.clone(),
            cache: self.cache.clone(),
            checkpoint_dir: self.settings.data_dir.join("checkpoints").join(id.to_string()),
            env: self.env.clone(),
            links: self.links.clone(),
        }
    }

    /// Resolves, with the reason, when the write-ahead log failed.
    pub(crate) async fn log_failed(&self) -> String {
        self.wal.failed().await.to_string()
    }

    /// Starts this broker's replica of a journal. What the volume holds of an earlier one goes first. One that was here and is not any more is refused
    /// (I7); so is one that is older than what the volume holds: then this broker's catalog lags.
    pub(crate) async fn start(&self, id: JournalId, replica: u64, beginning: Beginning) -> Result<Journal, OpenError> {
        // The identity file stands for the catalog's note.
        let held = self.holdings.get(id).filter(|_| id != JournalId::CATALOG);
        // Its votes went with it: under its id nothing may vote any more.
        if let Some(gone) = self.holdings.gone(id).filter(|gone| generation_of(*gone) >= generation_of(replica)) {
            return Err(OpenError::Behind { journal: id, replica, held: gone });
        }
        match held {
            Some(held) if generation_of(held) > generation_of(replica) => {
                return Err(OpenError::Behind { journal: id, replica, held });
            }
            Some(held) if held != replica => self.forget(id).await?,
            _ => {}
        }
        let recovered = self.recovered.lock().remove(&id);
        let was_here = held == Some(replica) && recovered.is_none();
        let beginning = if was_here { Beginning::Restart } else { beginning };
        let settings = journal_settings(&self.settings, replica);
        // A catalog that lags may show a journal as it was when it was founded here: whoever has it noted founded it long ago, and may lead it no more.
        let founds = held.is_none() && matches!(beginning, Beginning::Bootstrap { .. });
        let journal = Journal::start_as(id, settings, beginning, recovered, self.parts(id)).await?;
        if id != JournalId::CATALOG
            && let Err(error) = self.note(id, replica, founds.then_some(&journal)).await
        {
            journal.shutdown().await;
            return Err(error);
        }
        self.refused.lock().remove(&id);
        self.transport.register(&journal);
        Ok(journal)
    }

    /// Notes a replica. A founder's first entry is durable before: else a power cut could leave the note alone, and nobody else could replace it.
    async fn note(&self, id: JournalId, replica: u64, founder: Option<&Journal>) -> Result<(), OpenError> {
        if let Some(journal) = founder {
            journal.ensure_ready().await.map_err(|error| OpenError::Start(submit_error(error)))?;
        }
        self.holdings.note(id, replica).await.map_err(|source| OpenError::Holdings { source })
    }

    /// Takes away all that the volume holds of a journal whose replica is not started, or was shut down.
    async fn forget(&self, id: JournalId) -> Result<(), OpenError> {
        let failed = |source| OpenError::Holdings { source };
        Journal::forget(id, &self.parts(id)).await.map_err(failed)?;
        self.recovered.lock().remove(&id);
        self.holdings.strike(id).await.map_err(failed)?;
        tracing::info!(journal = id.0, "what this volume held of a replica that the hub has taken back is gone");
        Ok(())
    }

    /// Takes away what is left of replicas that the catalog has taken back. What cannot go now goes another time.
    async fn sweep(&self, is_gone: impl Fn(JournalId, u64) -> bool) {
        for (id, _) in self.holdings.all().into_iter().filter(|(id, replica)| is_gone(*id, *replica)) {
            if let Err(error) = self.forget(id).await {
                tracing::warn!(journal = id.0, %error, "what is left of a replica could not be taken away");
            }
        }
    }

    /// Remembers that a replica takes no part, and says so.
    pub(crate) fn refuse(&self, id: JournalId, replica: u64, error: &OpenError) {
        let is_lost = matches!(error, OpenError::Journal(error) if error.is_loss());
        tracing::error!(journal = id.0, replica, %error, is_lost, "this broker's replica cannot be opened and takes no part");
        self.refused.lock().insert(id, Refused { replica, reason: error.to_string(), is_lost });
    }

    /// Replicas that take no part.
    pub(crate) fn refused(&self) -> BTreeMap<JournalId, Refused> {
        self.refused.lock().clone()
    }

    /// Starts a replica and, if it is alone, waits until its state shows all that was acknowledged before.
    pub(crate) async fn start_ready(&self, id: JournalId, replica: u64, beginning: Beginning) -> Result<Journal, OpenError> {
        let journal = self.start(id, replica, beginning).await?;
        let members = journal.members();
        if members.learners.is_empty() && members.voters.iter().eq([&replica]) {
            journal.ensure_ready().await.map_err(|error| OpenError::Start(submit_error(error)))?;
        }
        Ok(journal)
    }
}

/// What a replica does that finds nothing of its journal on its volume.
pub(crate) fn beginning(fleet: &Fleet, id: JournalId, replica: u64) -> Beginning {
    let is_first = fleet.journal(id).is_some_and(|info| info.founder == replica && info.replicas.len() == 1);
    if is_first { Beginning::Bootstrap { voters: [replica].into() } } else { Beginning::Join }
}

impl Inner {
    async fn locate_all(&self) {
        let addresses: Vec<(BrokerId, String)> = self.catalog.read_state(|state| {
            let brokers = state.catalog().fleet().brokers().filter(|(id, _)| *id != self.broker);
            brokers.filter_map(|(id, broker)| Some((id, broker.address(PEER)?.to_owned()))).collect()
        });
        for (broker, address) in &addresses {
            self.network.transport.locate(*broker, address);
        }
        self.neighbours.note(&addresses).await;
    }

    /// Opens what is missing, closes what is not wanted.
    pub(crate) async fn host(self: &Arc<Self>) {
        self.locate_all().await;
        let wanted: BTreeMap<JournalId, (u64, Beginning)> = self.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let mine = fleet.replicas_on(self.broker, self.incarnation).filter(|(id, _)| *id != JournalId::CATALOG);
            mine.map(|(id, replica)| (id, (replica.id, beginning(fleet, id, replica.id)))).collect()
        });
        let hosted = self.hosted.all();
        for (id, journal) in
            hosted.iter().filter(|(id, journal)| wanted.get(id).is_none_or(|(replica, _)| *replica != journal.replica()))
        {
            tracing::info!(journal = id.0, replica = journal.replica(), "this broker's replica went elsewhere: it is closed");
            self.hosted.remove(*id);
            self.network.transport.unregister(*id);
            journal.shutdown().await;
        }
        let is_gone = |id, replica| {
            let is_gone = |info: &JournalInfo| info.is_gone(replica);
            self.hosted.get(id).is_none()
                && self.catalog.read_state(|state| state.catalog().fleet().journal(id).is_some_and(is_gone))
        };
        self.fleetwork.sweep(is_gone).await;
        let refused = self.fleetwork.refused();
        let is_new = |id: &JournalId, replica: u64| refused.get(id).is_none_or(|refused| refused.replica != replica);
        for (id, (replica, beginning)) in wanted.into_iter().filter(|(id, (replica, _))| is_new(id, *replica)) {
            if self.hosted.get(id).is_some() {
                continue;
            }
            match self.fleetwork.start(id, replica, beginning).await {
                Ok(journal) => self.serve_journal(journal),
                Err(error @ OpenError::Behind { .. }) => tracing::info!(%error, "this broker's catalog lags"),
                Err(error) => self.fleetwork.refuse(id, replica, &error),
            }
        }
    }

    /// Makes an open journal part of the hub.
    pub(crate) fn serve_journal(self: &Arc<Self>, journal: Journal) {
        let id = journal.id();
        tracing::info!(journal = id.0, replica = journal.replica(), "this broker holds a replica");
        self.watch_failure(&journal);
        self.hosted.insert(journal);
        let tierer = Tierer::new(Arc::clone(self), id);
        self.tasks.lock().push(self.env.threads.task("tierer", Box::pin(tierer.run())));
    }

    /// Registers anew if the catalog has this broker at other addresses than its own, or elsewhere.
    async fn announce(self: &Arc<Self>) {
        let (zone, node) = (self.settings.fleet.zone.clone(), self.settings.fleet.node.clone());
        let mut addresses = self.network.advertised.clone();
        addresses.sort();
        let is_known = self.catalog.read_state(|state| {
            let known = state.catalog().fleet().broker(self.broker);
            known.is_some_and(|known| (&known.addresses, &known.zone, &known.node) == (&addresses, &zone, &node))
        });
        if is_known {
            return;
        }
        let (broker, incarnation) = (self.broker, self.incarnation);
        let register = Operation::RegisterBroker { broker, incarnation, replaces: None, addresses, zone, node };
        if let Err(error) = self.propose(JournalId::CATALOG, Unit::of(register)).await {
            tracing::warn!(%error, "this broker's addresses could not be registered and will be again");
        }
    }

    /// Tells the catalog's leader how it is here. Whether that leader took it.
    async fn tell(self: &Arc<Self>, meter: &mut Meter) -> bool {
        let told = report(self, meter);
        let own = told.led.iter().map(|led| (JournalId(led.journal), led.term, self.broker));
        self.reports.learn(own.collect::<Vec<_>>());
        let heard = match self.leader_of(JournalId::CATALOG) {
            None => return false,
            Some(leader) if leader == self.broker => self.hear(told),
            Some(leader) => {
                let Some(address) = self.address(leader, PEER) else { return false };
                match self.ask(&address, Ask::Report(told), REPORT_DEADLINE).await {
                    Ok(Ok(Told::Heard(heard))) => Ok(heard),
                    Ok(Ok(other)) => Err(crate::hub::Error::internal(format!("a report was answered by {other:?}"))),
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(crate::hub::Error::unavailable(error)),
                }
            }
        };
        match heard {
            Ok(heard) => {
                let leaders =
                    heard.leaders.iter().map(|leader| (JournalId(leader.journal), leader.term, BrokerId(leader.broker)));
                self.reports.learn(leaders.collect::<Vec<_>>());
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the catalog's leader took no report");
                false
            }
        }
    }
}

/// Runs until the hub stops.
pub(crate) async fn keep(hub: Hub) {
    let inner = Arc::clone(&hub.inner);
    let mut changes = inner.catalog.catalog_changes();
    let (mut meter, mut place) = (Meter::default(), Place::default());
    changes.mark_changed();
    loop {
        let beat = Duration::from_millis(REPORT_MS / 2 + inner.env.random.below(REPORT_MS));
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            changed = changes.changed() => match changed {
                Ok(()) => inner.host().await,
                Err(_) => return,
            },
            () = inner.env.clock.sleep(beat) => {}
        }
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = async {
                let was_heard = inner.tell(&mut meter).await;
                place.learn(&inner, was_heard).await;
                inner.announce().await;
                if let Err(error) = hub.open_partitions(None).await {
                    tracing::debug!(%error, "partitions could not be opened yet");
                }
            } => {}
        }
    }
}

/// Places until the hub stops.
pub(crate) async fn place(inner: Arc<Inner>) {
    let mut placer = Placer::new(Arc::clone(&inner));
    loop {
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = async {
                inner.env.clock.sleep(Duration::from_millis(REPORT_MS)).await;
                placer.round().await;
            } => {}
        }
    }
}
