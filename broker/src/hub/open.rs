//! Opening: identity, write-ahead log, journals (the catalog first), partitions, background tasks. Nothing is served before all of it is
//! there, and a failure on the way leaves nothing running.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_env::Env;
use tidegate_journal::Journal;
use tidegate_journal::entry::{Operation, Unit};
use tidegate_journal::raft::{Beginning, Links, Pacer, StartError};
use tidegate_model::{BrokerId, HubId, JournalId};
use tidegate_tier::keys::Keys;
use tidegate_tier::{CacheSettings, ObjectStore, TierReader};
use tidegate_wal::Wal;
use tokio_util::sync::CancellationToken;

use super::{Error, Hosted, Hub, Inner, Routes, fetch, producers, redeemed, submit_error};
use crate::fleet::{self, Fleetwork, Forwarder, Holdings, Neighbours, Network, Newcomer, Reports};
use crate::identity::{self, Identity, IdentityError};
use crate::metrics::Metrics;
use crate::retention;
use crate::settings::{HubSettings, Limits, SettingError};
use crate::tierer::{TierHealth, Tierer};

/// Why a hub did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The data directory or the store's prefix is not ours.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The write-ahead log did not open.
    #[error(transparent)]
    Wal(#[from] tidegate_wal::OpenError),
    /// A journal did not start.
    #[error(transparent)]
    Journal(#[from] StartError),
    /// The notes of which replicas this volume holds cannot be read or written.
    #[error("the notes of which replicas this volume holds cannot be kept")]
    Holdings {
        /// Why; names the file where one is damaged.
        #[source]
        source: std::io::Error,
    },
    /// The volume holds a later replica than the one that is to be started: the catalog, as this broker knows it, is older than its volume.
    #[error(
        "this volume holds, or held and gave back, replica {held} of journal {journal}, and {replica} is older or the same: the catalog here lags, and is waited for"
    )]
    Behind {
        /// The journal.
        journal: JournalId,
        /// What was to be started.
        replica: u64,
        /// What the volume holds.
        held: u64,
    },
    /// The block cache cannot be set up.
    #[error("the block cache in {path} cannot be set up: {problem}")]
    Cache {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        problem: String,
    },
    /// The peers did not let this broker in.
    #[error("the peers under hub.fleet.join do not let this broker in")]
    Join(#[source] Error),
    /// The catalog did not take what the start had to write.
    #[error("the hub could not finish its start")]
    Start(#[source] Error),
}

impl Hub {
    /// Opens the broker of a hub that has no other: see [`Hub::open_in`].
    pub async fn open(settings: HubSettings, limits: &Limits, env: &Env, store: Arc<dyn ObjectStore>) -> Result<Hub, OpenError> {
        Hub::open_in(settings, limits, env, store, Network::none()).await
    }

    /// Opens a hub's broker. A fresh directory bootstraps a new hub (and marks its prefix of the store, which must be unused), or, where
    /// `hub.fleet.join` names peers, comes into theirs and waits for them; any other goes on where it ended. The object store is needed by a
    /// bootstrap only. A journal with other members is not waited for: it is led when a majority is there.
    pub async fn open_in(
        settings: HubSettings,
        limits: &Limits,
        env: &Env,
        store: Arc<dyn ObjectStore>,
        network: Network,
    ) -> Result<Hub, OpenError> {
        settings.validate()?;
        let broker = BrokerId(settings.broker_id);
        let (held, identity) = identify(&settings, env, &store, &network).await?;
        let (wal, mut recovered) = Wal::open(wal_settings(&settings), env).await?;
        let pacer = Pacer::new(settings.fleet.copy_bytes_per_second);
        let links = Links::new(identity.hub_id, network.transport.begin(identity.hub_id, broker)).paced(pacer.clone());
        let recovered = std::mem::take(&mut recovered.journals);
        let holdings = Holdings::open(env, &settings.data_dir).await.map_err(|source| OpenError::Holdings { source })?;
        let transport = Arc::clone(&network.transport);
        let fleetwork = Fleetwork::new(&settings, env, wal.clone(), links, recovered, transport, holdings);
        let neighbours = Neighbours::open(env, &settings.data_dir).await;
        for (broker, address) in neighbours.all() {
            network.transport.locate(broker, &address);
        }
        let catalog = start_catalog(&fleetwork, &settings, &identity).await?;
        let journals = start_assigned(&fleetwork, assigned(&catalog, &identity), !network.advertised.is_empty()).await?;
        let reader = TierReader::new(Arc::clone(&store), cache_settings(&settings), env.clone())
            .map_err(|error| OpenError::Cache { path: settings.data_dir.join("cache"), problem: error.to_string() })?;
        let keys = keys_of(&settings, identity.hub_id)?;
        let identity = finish_bootstrap(&settings, env, identity).await?;
        let inner = Inner {
            env: env.clone(),
            hub_id: identity.hub_id,
            broker,
            incarnation: identity.incarnation,
            identity,
            store,
            keys,
            wal,
            catalog,
            hosted: Hosted::new(journals),
            network,
            fleetwork,
            pacer,
            neighbours,
            forwarder: Forwarder::default(),
            reports: Reports::default(),
            journal_failed: tidegate_env::watch::Sender::new(None),
            routes: Routes::default(),
            reader,
            manifests: fetch::ManifestCache::default(),
            producers: producers::IdBlocks::default(),
            metrics: Arc::new(Metrics::default()),
            tier_health: TierHealth::default(),
            max_message_bytes: limits.max_message_bytes,
            intake: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: parking_lot::Mutex::default(),
            held: parking_lot::Mutex::new(Some(held)),
            settings,
        };
        let hub = Hub { inner: Arc::new(inner) };
        if !hub.inner.is_alone() {
            hub.inner.routes.among_others(&hub.inner.catalog);
        }
        hub.inner.catalog.read_state(|state| hub.inner.routes.refresh(state.catalog()));
        hub.open_partitions(None).await.map_err(OpenError::Start)?;
        hub.start_tasks();
        Ok(hub)
    }

    fn start_tasks(&self) {
        let inner = &self.inner;
        let threads = &inner.env.threads;
        for journal in inner.hosted.all().values().chain([&inner.catalog]) {
            inner.watch_failure(journal);
            let tierer = Tierer::new(Arc::clone(inner), journal.id());
            inner.tasks.lock().push(threads.task("tierer", Box::pin(tierer.run())));
        }
        let mut tasks = inner.tasks.lock();
        tasks.push(threads.task("retention", Box::pin(retention::run(self.clone()))));
        tasks.push(threads.task("routes", Box::pin(follow_catalog(Arc::clone(inner)))));
        if !inner.is_alone() {
            tasks.push(threads.task("fleet", Box::pin(fleet::keep(self.clone()))));
            tasks.push(threads.task("placement", Box::pin(fleet::place(Arc::clone(inner)))));
        } else {
            tasks.push(threads.task("moves", Box::pin(fleet::move_alone(Arc::clone(inner)))));
        }
    }
}

/// Keeps the routes at the catalog's present revision.
async fn follow_catalog(inner: Arc<Inner>) {
    let mut changes = inner.catalog.catalog_changes();
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => if changed.is_err() { return },
            () = inner.stopping.cancelled() => return,
        }
        inner.catalog.read_state(|state| inner.routes.refresh(state.catalog()));
    }
}

/// Locks the directory and makes sure that directory and store belong to this hub; mints a new one for an empty directory.
async fn identify(
    settings: &HubSettings,
    env: &Env,
    store: &Arc<dyn ObjectStore>,
    network: &Network,
) -> Result<(identity::Held, Identity), OpenError> {
    let broker = BrokerId(settings.broker_id);
    let directory = settings.data_dir.clone();
    let owner = format!("process {}", settings.process_id);
    let blocking = env.clone();
    let (held, found) = env.run_blocking(move || identity::hold(&blocking, &directory, &owner)).await?;
    if let Some(identity) = &found
        && identity.broker_id != broker
    {
        let directory = settings.data_dir.clone();
        return Err(IdentityError::OtherBroker { directory, found: identity.broker_id, configured: broker }.into());
    }
    let identity = match found {
        Some(identity) => identity,
        None if !settings.fleet.join.is_empty() => {
            let hub_id = fleet::hello(env, network, &settings.fleet.join).await.map_err(OpenError::Join)?;
            write_identity(settings, env, Identity { hub_id, ..identity::mint(env, broker) }).await?
        }
        None => {
            // An occupied prefix is refused before anything is written.
            if let Some(marker) = identity::marker(store, &keys_of(settings, HubId::default())?.marker()).await? {
                return Err(IdentityError::Occupied { hub: marker.hub_id }.into());
            }
            write_identity(settings, env, identity::mint(env, broker)).await?
        }
    };
    if !settings.fleet.join.is_empty() && !identity.bootstrapped {
        let newcomer = Newcomer { identity: &identity, zone: &settings.fleet.zone, node: &settings.fleet.node };
        let catalog_replica = fleet::join(env, network, &settings.fleet.join, newcomer).await.map_err(OpenError::Join)?;
        let identity = Identity { catalog_replica, ..identity };
        return Ok((held, write_identity(settings, env, identity).await?));
    }
    let keys = keys_of(settings, identity.hub_id)?;
    if identity.takes_over.is_some() {
        tracing::warn!("a recovery was cut off before the object store's prefix was marked anew: that is done now");
        identity::take_over(store, &keys, &identity).await?;
        let identity = write_identity(settings, env, Identity { takes_over: None, ..identity }).await?;
        return Ok((held, identity));
    }
    match identity::claim(store, &keys, &identity).await {
        // A hub that has started before goes on without the store; the tierer checks the marker before it uploads.
        Err(IdentityError::Store { source }) if identity.bootstrapped => {
            tracing::warn!(%source, "the object store cannot be reached: starting without it");
        }
        Err(error @ IdentityError::DamagedMarker { .. }) if identity.bootstrapped => {
            tracing::warn!("{error}: starting without the object store");
        }
        other => other?,
    }
    Ok((held, identity))
}

fn keys_of(settings: &HubSettings, hub: HubId) -> Result<Keys, SettingError> {
    Keys::new(&settings.store_prefix, hub).map_err(|error| SettingError::new("hub.store_prefix", error.to_string()))
}

async fn write_identity(settings: &HubSettings, env: &Env, identity: Identity) -> Result<Identity, IdentityError> {
    let (blocking, directory) = (env.clone(), settings.data_dir.clone());
    env.run_blocking(move || identity::write(&blocking, &directory, &identity).map(|()| identity)).await
}

/// What a new hub's catalog begins with. Each step finds out whether a start that was cut off has done it. A hub that was rebuilt from its
/// bucket has journals and no brokers: this one takes all of them over.
async fn bootstrap(catalog: &Journal, settings: &HubSettings, identity: &Identity) -> Result<(), Error> {
    let (broker, incarnation) = (identity.broker_id, identity.incarnation);
    let (is_known, journals, unplaced) = catalog.read_state(|state| {
        let fleet = state.catalog().fleet();
        let unplaced = fleet.data_journals().filter(|(_, info)| info.replicas.is_empty()).map(|(id, _)| id);
        (fleet.broker(broker).is_some(), fleet.data_journals().count(), unplaced.collect::<Vec<_>>())
    });
    if !is_known {
        let (addresses, zone, node) = (Vec::new(), settings.fleet.zone.clone(), settings.fleet.node.clone());
        propose(catalog, Operation::RegisterBroker { broker, incarnation, replaces: None, addresses, zone, node }).await?;
    }
    for journal in unplaced {
        propose(catalog, Operation::AddReplica { journal, broker, incarnation }).await?;
    }
    let missing = settings.journals.saturating_sub(u32::try_from(journals).unwrap_or(u32::MAX));
    if missing > 0 {
        propose(catalog, Operation::AddJournals { count: missing, replicas: vec![broker] }).await?;
    }
    Ok(())
}

async fn propose(journal: &Journal, operation: Operation) -> Result<(), Error> {
    redeemed(journal.submit(Unit::of(operation)).await.map_err(submit_error)?).await.map(|_| ())
}

async fn finish_bootstrap(settings: &HubSettings, env: &Env, identity: Identity) -> Result<Identity, OpenError> {
    if identity.bootstrapped {
        return Ok(identity);
    }
    Ok(write_identity(settings, env, Identity { bootstrapped: true, ..identity }).await?)
}

/// Starts the replicas that the catalog gives this broker. Among others, one whose data is lost does not keep the rest from going on.
async fn start_assigned(
    fleetwork: &Fleetwork,
    assigned: Vec<(JournalId, u64, Beginning)>,
    among_others: bool,
) -> Result<BTreeMap<JournalId, Journal>, OpenError> {
    let mut journals = BTreeMap::new();
    for (id, replica, beginning) in assigned {
        match fleetwork.start_ready(id, replica, beginning).await {
            Ok(journal) => drop(journals.insert(id, journal)),
            // Others hold what was lost here: placement gives this broker another replica.
            Err(OpenError::Journal(error)) if error.is_loss() && among_others => {
                fleetwork.refuse(id, replica, &OpenError::Journal(error));
            }
            Err(error @ OpenError::Behind { .. }) => tracing::info!(%error, "this broker's catalog lags"),
            Err(error) => return Err(error),
        }
    }
    Ok(journals)
}

/// Starts the catalog. One that is new, or alone, is waited for; so is the first sight of a hub that this broker came into.
async fn start_catalog(fleetwork: &Fleetwork, settings: &HubSettings, identity: &Identity) -> Result<Journal, OpenError> {
    let replica = identity.replica();
    let beginning = match (identity.catalog_replica, identity.bootstrapped) {
        (0, true) => Beginning::Restart,
        // Its first sight of the catalog may be all that was durable, and not yet the entry that makes it a member.
        (_, true) => Beginning::Return,
        (0, false) => Beginning::Bootstrap { voters: [replica].into() },
        (_, false) => Beginning::Join,
    };
    let catalog = fleetwork.start_ready(JournalId::CATALOG, replica, beginning).await?;
    if identity.bootstrapped {
        return Ok(catalog);
    }
    if identity.catalog_replica == 0 {
        bootstrap(&catalog, settings, identity).await.map_err(OpenError::Start)?;
        return Ok(catalog);
    }
    let (mut changes, mut ended) = (catalog.catalog_changes(), catalog.failed());
    while catalog.read_state(|state| state.catalog().fleet().broker(identity.broker_id).is_none()) {
        tokio::select! {
            biased;
            // Nobody else looks yet: a broker whose disk failed by now would wait for ever.
            failed = fleetwork.log_failed() => return Err(OpenError::Start(Error::internal(failed))),
            Ok(reason) = ended.wait_for(Option::is_some) => {
                return Err(OpenError::Start(Error::internal(reason.as_deref().unwrap_or_default())));
            }
            changed = changes.changed() => changed.map_err(|_| OpenError::Start(Error::ShuttingDown))?,
        }
    }
    Ok(catalog)
}

/// The data journals that this volume holds, as far as its catalog knows, and how each begins if there is nothing of it yet.
fn assigned(catalog: &Journal, identity: &Identity) -> Vec<(JournalId, u64, Beginning)> {
    catalog.read_state(|state| {
        let fleet = state.catalog().fleet();
        let mine = fleet.replicas_on(identity.broker_id, identity.incarnation).filter(|(id, _)| *id != JournalId::CATALOG);
        mine.map(|(id, replica)| (id, replica.id, fleet::beginning(fleet, id, replica.id))).collect()
    })
}

pub(crate) fn wal_settings(settings: &HubSettings) -> tidegate_wal::Settings {
    tidegate_wal::Settings {
        file_bytes: settings.wal.file_bytes,
        budget_bytes: settings.wal.budget_bytes,
        soft_percent: settings.wal.soft_percent,
        control_reserve_bytes: settings.wal.control_reserve_bytes,
        ..tidegate_wal::Settings::new(settings.data_dir.join("wal"))
    }
}

pub(crate) fn journal_settings(settings: &HubSettings, replica: u64) -> tidegate_journal::JournalSettings {
    tidegate_journal::JournalSettings {
        data_bytes: u32::try_from(settings.journal.in_flight_bytes).unwrap_or(u32::MAX),
        checkpoint_bytes: settings.journal.checkpoint_bytes,
        ..tidegate_journal::JournalSettings::fitting(replica, wal_settings(settings).max_payload_bytes())
    }
}

/// Bytes of batches that one append may have.
pub(crate) fn unit_bytes(settings: &HubSettings) -> usize {
    journal_settings(settings, 0).unit_bytes
}

fn cache_settings(settings: &HubSettings) -> CacheSettings {
    CacheSettings {
        memory_bytes: settings.tier.cache_memory_bytes,
        disk_bytes: settings.tier.cache_disk_bytes,
        disk_dir: cache_directory(&settings.data_dir),
        ..CacheSettings::default()
    }
}

fn cache_directory(data_dir: &Path) -> Option<std::path::PathBuf> {
    Some(data_dir.join("cache"))
}
