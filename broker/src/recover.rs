//! A hub rebuilt from its bucket alone, under a new identity: newest whole checkpoint of each journal, cut off where the tier ends. It tells
//! what was acknowledged and is lost because it was not tiered.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_env::Env;
use tidegate_journal::raft::Links;
use tidegate_journal::state::{Lost, State};
use tidegate_journal::{Journal, JournalParts, TailCache};
use tidegate_model::{BrokerId, HubId, JournalId, TimestampMs, TopicPartition};
use tidegate_tier::keys::Keys;
use tidegate_tier::{ObjectStore, StoreError, checkpoint};
use tidegate_wal::Wal;

use crate::hub::wal_settings;
use crate::identity::{self, Identity, IdentityError, LostRange, Recovery};
use crate::settings::{HubSettings, SettingError};

/// Keys asked for at a time.
const PAGE: usize = 1000;

/// Why a hub could not be rebuilt. The bucket was not changed unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Directory or marker.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directory has a hub.
    #[error("{directory} holds a hub already ({hub}): give an empty data_dir")]
    NotEmpty {
        /// The directory.
        directory: std::path::PathBuf,
        /// Whose it is.
        hub: HubId,
    },
    /// The bucket belongs to another hub than was asked for.
    #[error(
        "the object store's prefix belongs to hub {found}, and hub {expected} was asked for: name the right hub, bucket and prefix"
    )]
    OtherHub {
        /// The hub that marked it.
        found: HubId,
        /// The hub that was asked for.
        expected: HubId,
    },
    /// No marker.
    #[error("the object store has no hub under the prefix `{prefix}`: check bucket and prefix")]
    NoHub {
        /// The prefix.
        prefix: String,
    },
    /// No catalog.
    #[error("hub {hub} has no whole checkpoint of its catalog in the store: without it nobody knows its topics")]
    NoCatalog {
        /// The hub.
        hub: HubId,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Wal(#[from] tidegate_wal::OpenError),
    /// The disk.
    #[error("journal {journal} could not be written")]
    Seed {
        /// The journal.
        journal: JournalId,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What became of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The hub whose bucket it was.
    pub from: HubId,
    /// The hub that it is now.
    pub hub: HubId,
    /// Of each journal, the time of the state that was found; what was acknowledged later is lost unless it was tiered.
    pub journals: BTreeMap<JournalId, TimestampMs>,
    /// Journals that the catalog names and that have no whole checkpoint: their partitions begin empty.
    pub missing: Vec<JournalId>,
    /// What the checkpoints knew of and the tier does not have, with the topic's name.
    pub lost: Vec<(String, Lost)>,
}

/// Rebuilds a hub into the empty directory that the settings name. Afterwards open it as any other; the old hub's volumes are refused from
/// then on, for the prefix is marked anew.
pub async fn recover(settings: &HubSettings, env: &Env, store: Arc<dyn ObjectStore>) -> Result<Recovered, RecoverError> {
    recover_hub(settings, None, env, store).await
}

/// As [`recover`], refused if the bucket belongs to another hub than `expected`.
pub async fn recover_hub(
    settings: &HubSettings,
    expected: Option<HubId>,
    env: &Env,
    store: Arc<dyn ObjectStore>,
) -> Result<Recovered, RecoverError> {
    settings.validate()?;
    let (blocking, directory) = (env.clone(), settings.data_dir.clone());
    let owner = format!("process {} (recover)", settings.process_id);
    let (held, found) = env.run_blocking(move || identity::hold_for_recovery(&blocking, &directory, &owner)).await?;
    if let Some(found) = found {
        return Err(RecoverError::NotEmpty { directory: settings.data_dir.clone(), hub: found.hub_id });
    }
    let prefix = || settings.store_prefix.clone();
    let bad_prefix = |error: StoreError| SettingError::new("hub.store_prefix", error.to_string());
    let any = Keys::new(&prefix(), HubId::default()).map_err(bad_prefix)?;
    let marker = identity::marker(&store, &any.marker()).await?.ok_or_else(|| RecoverError::NoHub { prefix: prefix() })?;
    if let Some(expected) = expected.filter(|expected| *expected != marker.hub_id) {
        return Err(RecoverError::OtherHub { found: marker.hub_id, expected });
    }
    let old = Keys::new(&prefix(), marker.hub_id).map_err(bad_prefix)?;
    let mut states = newest_states(&store, &old).await?;
    let catalog = states.get(&JournalId::CATALOG).ok_or(RecoverError::NoCatalog { hub: marker.hub_id })?.catalog().clone();
    let journals = states.iter().map(|(id, state)| (*id, state.time())).collect();
    let missing = catalog.journals().map(|(id, _)| id).filter(|id| !states.contains_key(id)).collect();

    let minted = identity::mint(env, BrokerId(settings.broker_id));
    let (blocking, directory) = (env.clone(), settings.data_dir.clone());
    env.run_blocking(move || identity::begin_recovery(&blocking, &directory)).await?;
    let lost = seed(settings, env, &mut states).await?;
    let name = |at: TopicPartition| catalog.topic(at.topic).map_or_else(|| at.topic.to_string(), |topic| topic.name.clone());
    let lost = lost.into_iter().map(|lost| (name(lost.at), lost)).collect();
    let recovered = Recovered { from: marker.hub_id, hub: minted.hub_id, journals, missing, lost };
    let told = recovered.told(env.clock.now_ms());
    let identity = Identity { takes_over: Some(marker.hub_id), recovered: Some(told), ..minted };
    let write = async |identity: Identity| {
        let (blocking, directory) = (env.clone(), settings.data_dir.clone());
        env.run_blocking(move || identity::write(&blocking, &directory, &identity)).await
    };
    write(identity.clone()).await?;
    let (blocking, directory) = (env.clone(), settings.data_dir.clone());
    env.run_blocking(move || identity::end_recovery(&blocking, &directory)).await?;
    // From here on the old hub's volumes are refused, and this one is the prefix's. Cut off in between, the next start does the rest.
    let new = Keys::new(&prefix(), identity.hub_id).map_err(bad_prefix)?;
    identity::take_over(&store, &new, &identity).await?;
    write(Identity { takes_over: None, ..identity.clone() }).await?;
    drop(held);
    Ok(recovered)
}

impl Recovered {
    /// As it is kept on the volume.
    fn told(&self, now_ms: i64) -> Recovery {
        let range = |(topic, lost): &(String, Lost)| LostRange {
            topic: topic.clone(),
            partition: lost.at.partition.0,
            from: lost.from.0,
            end: lost.end.0,
        };
        let records = self.lost.iter().map(|(_, lost)| u64::try_from(lost.end.0.saturating_sub(lost.from.0)).unwrap_or(0));
        Recovery {
            from: self.from,
            time_ms: now_ms,
            // A journal that never had anything has no time.
            state_time_ms: self.journals.values().map(|time| time.0).filter(|time| *time > 0).min().unwrap_or(0),
            missing_journals: self.missing.iter().map(|journal| journal.0).collect(),
            lost_records: records.sum(),
            lost_partitions: u32::try_from(self.lost.len()).unwrap_or(u32::MAX),
            lost: self.lost.iter().take(Recovery::MOST_LISTED).map(range).collect(),
        }
    }
}

/// The newest checkpoint of each journal that is whole.
async fn newest_states(store: &Arc<dyn ObjectStore>, keys: &Keys) -> Result<BTreeMap<JournalId, State>, RecoverError> {
    let mut found: BTreeMap<JournalId, Vec<(u64, String)>> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(&keys.all_checkpoints(), after.as_deref(), PAGE).await?;
        for object in &page {
            if let Some((journal, index)) = keys.parse_checkpoint(&object.key) {
                found.entry(journal).or_default().push((index, object.key.clone()));
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => break,
        }
    }
    let mut states = BTreeMap::new();
    for (journal, mut checkpoints) in found {
        checkpoints.sort();
        for (_, key) in checkpoints.iter().rev() {
            match read(store, keys.hub(), journal, key).await {
                Ok(state) => {
                    states.insert(journal, state);
                    break;
                }
                Err(Problem::Store(error)) => return Err(error.into()),
                Err(Problem::Damaged(problem)) => {
                    tracing::warn!(%journal, %key, %problem, "a checkpoint is unusable: going on from an older one");
                }
            }
        }
    }
    Ok(states)
}

enum Problem {
    Store(StoreError),
    Damaged(String),
}

async fn read(store: &Arc<dyn ObjectStore>, hub: HubId, journal: JournalId, key: &str) -> Result<State, Problem> {
    let bytes = store.get(key).await.map_err(Problem::Store)?;
    let envelope = checkpoint::Envelope::decode(&bytes).map_err(|error| Problem::Damaged(error.to_string()))?;
    if envelope.hub != hub || envelope.journal != journal {
        return Err(Problem::Damaged(format!("it is of hub {} and journal {}", envelope.hub, envelope.journal)));
    }
    State::decode(&envelope.state).map_err(|error| Problem::Damaged(error.to_string()))
}

/// Writes log and local checkpoints of all journals.
async fn seed(settings: &HubSettings, env: &Env, states: &mut BTreeMap<JournalId, State>) -> Result<Vec<Lost>, RecoverError> {
    let (wal, _) = Wal::open(wal_settings(settings), env).await?;
    let mut all = Vec::new();
    for (id, state) in std::mem::take(states) {
        let parts = JournalParts {
            wal: wal.clone(),
            cache: TailCache::new(settings.journal.tail_cache_bytes),
            checkpoint_dir: settings.data_dir.join("checkpoints").join(id.to_string()),
            env: env.clone(),
            links: Links::none(),
        };
        let lost = Journal::seed(id, u64::from(settings.broker_id), state, &parts).await;
        all.extend(lost.map_err(|source| RecoverError::Seed { journal: id, source })?);
    }
    wal.close().await;
    Ok(all)
}
