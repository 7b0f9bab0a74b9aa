//! Who this volume belongs to: the lock that keeps a second process out, the identity file, and the hub's marker in the object store.
//!
//! A volume is bound to one hub, broker and incarnation for ever. A fresh volume never bootstraps over a prefix of the store that is
//! marked, not even by a hub of the same name: `tidegate recover` is the way for that. It does not know what else lies on the volume.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_env::bugs::{self, Bug};
use tidegate_env::{Env, LockGuard};
use tidegate_model::{BrokerId, HubId};
use tidegate_tier::keys::Keys;
use tidegate_tier::{ObjectStore, PutMode, StoreError};
use uuid::Uuid;

/// Version of the identity file and the marker that this build writes, and the greatest it reads.
const FORMAT: u32 = 1;
const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";
const OWNER: &str = "owner";
/// There while a recovery writes log and checkpoints, until the identity file is written.
const RECOVERING: &str = "recovering";
/// The field of the marker that guards the others.
const CHECK: &str = "check";
/// A marker that is not whole is read so often: what came over the network may be wrong where what is stored is not.
const MARKER_READS: u32 = 3;
/// What a recovery writes before the identity file, and clears if an earlier one was cut off.
const RECOVERED: [&str; 2] = ["wal", "checkpoints"];

/// Why a volume or prefix was refused. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has the directory.
    #[error("{directory} is in use by {owner}: stop that process first, or give this one another data_dir")]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// What the other process wrote about itself.
        owner: String,
    },
    /// The directory cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory holds something else.
    #[error(
        "{directory} is not empty and has no {IDENTITY} (it holds `{found}`): it is not a Tidegate directory; give another data_dir"
    )]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// Something in it.
        found: String,
    },
    /// A recovery was cut off.
    #[error("a recovery into {directory} was cut off: run `tidegate recover` again, which begins anew")]
    Unfinished {
        /// The directory.
        directory: PathBuf,
    },
    /// The identity file is damaged.
    #[error("{path} cannot be read ({problem}): restore it from a backup, or empty the directory and run `tidegate recover`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The marker in the object store is damaged, or came damaged over the network.
    #[error(
        "the object `{key}`, which says whose hub the object store's prefix is, cannot be read ({problem}): nothing on this volume is wrong; look at the store, or restore the object"
    )]
    DamagedMarker {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer build.
    #[error("{place} has format {found} and this build knows up to {FORMAT}: run the newer build")]
    Newer {
        /// File or object.
        place: String,
        /// Its format.
        found: u32,
    },
    /// Another broker's volume.
    #[error(
        "{directory} belongs to broker {found}, and the setting hub.broker_id says {configured}: mount the right volume or set the right number"
    )]
    OtherBroker {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: BrokerId,
        /// Who this is.
        configured: BrokerId,
    },
    /// The prefix belongs to a hub and the volume is empty.
    #[error(
        "the object store's prefix belongs to hub {hub} and this volume is empty: to rebuild that hub from its bucket, run `tidegate recover` (on Kubernetes: set spec.restoreFrom.hubId of the Hub to that id), or give an unused prefix"
    )]
    Occupied {
        /// The hub that marked it.
        hub: HubId,
    },
    /// The prefix belongs to another hub.
    #[error(
        "the object store's prefix belongs to hub {found}, and this volume to hub {expected}: set the right bucket and prefix, or mount the right volume"
    )]
    OtherHub {
        /// The hub that marked it.
        found: HubId,
        /// The volume's hub.
        expected: HubId,
    },
    /// The store is needed and cannot be used.
    #[error("a new hub has to mark its prefix of the object store before it starts, and cannot")]
    Store {
        /// What it said.
        #[source]
        source: StoreError,
    },
}

/// What a volume says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the file.
    pub format: u32,
    /// The hub.
    pub hub_id: HubId,
    /// The broker.
    pub broker_id: BrokerId,
    /// Minted once for each volume: a volume that was lost comes back as another one.
    pub incarnation: Uuid,
    /// Whether the first start got to its end.
    pub bootstrapped: bool,
    /// While a rebuilt hub takes over the prefix: whose mark it may replace. A recovery that is cut off between the two is so finished by
    /// the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_over: Option<HubId>,
    /// This volume's replica of the catalog; 0: the broker's own number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub catalog_replica: u64,
    /// What the recovery that made this volume found and lost; absent on volumes that no recovery made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovery>,
}

/// What a recovery from the bucket found and lost, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The hub whose bucket it was.
    pub from: HubId,
    /// When it ran, in milliseconds since 1970.
    pub time_ms: i64,
    /// Time of the oldest state that was found of a journal, in milliseconds since 1970; 0: none has one. What was acknowledged later and not
    /// tiered is lost.
    pub state_time_ms: i64,
    /// Journals of which no whole state was found: their partitions begin empty.
    pub missing_journals: Vec<u32>,
    /// Records that the states knew of and the object store does not have.
    pub lost_records: u64,
    /// Partitions that these were in.
    pub lost_partitions: u32,
    /// The first [`Recovery::MOST_LISTED`] of those partitions.
    pub lost: Vec<LostRange>,
}

impl Recovery {
    /// Partitions that are listed one by one.
    pub const MOST_LISTED: usize = 20;
}

/// Acknowledged records that a recovery did not find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset that is gone.
    pub from: i64,
    /// One past the last that was known of; later ones may be gone too.
    pub end: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Identity {
    /// The replica id in the catalog's journal.
    pub(crate) fn replica(&self) -> u64 {
        if self.catalog_replica == 0 { u64::from(self.broker_id.0) } else { self.catalog_replica }
    }
}

/// The marker object at a hub's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of the object.
    pub format: u32,
    /// The hub that the prefix belongs to.
    pub hub_id: HubId,
    /// The volume that bootstrapped it.
    pub incarnation: Uuid,
    /// CRC-32C of the other fields, in hexadecimal ([`check_of`]): one bit that turns would make it another hub's. Absent in those of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

impl Marker {
    fn of(identity: &Identity) -> Result<Marker, serde_json::Error> {
        let bare = Marker { format: FORMAT, hub_id: identity.hub_id, incarnation: identity.incarnation, check: None };
        let fields = serde_json::from_value(serde_json::to_value(&bare)?)?;
        Ok(Marker { check: Some(check_of(&fields)), ..bare })
    }
}

/// The checksum of a marker's fields, without itself: over their compact JSON, ordered by name, so that it holds of fields that later builds add.
fn check_of(fields: &BTreeMap<String, serde_json::Value>) -> String {
    let text: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{:08x}", tidegate_tier::crc32c(text.join(",").as_bytes()))
}

/// A locked data directory; dropping it lets the directory go.
pub struct Held {
    directory: PathBuf,
    _guard: Box<dyn LockGuard>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.directory.display())
    }
}

/// Locks a data directory and reads who it belongs to; `None` for a fresh one. What a recovery left that was cut off is refused. Blocking.
pub(crate) fn hold(env: &Env, directory: &Path, owner: &str) -> Result<(Held, Option<Identity>), IdentityError> {
    lock_and_read(env, directory, owner, false)
}

/// As [`hold`], for a recovery: what an earlier one left that was cut off counts as fresh. Blocking.
pub(crate) fn hold_for_recovery(env: &Env, directory: &Path, owner: &str) -> Result<(Held, Option<Identity>), IdentityError> {
    lock_and_read(env, directory, owner, true)
}

fn lock_and_read(env: &Env, directory: &Path, owner: &str, recovers: bool) -> Result<(Held, Option<Identity>), IdentityError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { path, source }
    };
    env.disk.create_dir_all_durably(directory).map_err(io(directory))?;
    let owner_path = directory.join(OWNER);
    let lock_path = directory.join(LOCK);
    let guard = env.disk.lock(&lock_path).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => {
            let owner = env.disk.read(&owner_path).map(|text| String::from_utf8_lossy(&text).into_owned());
            IdentityError::InUse {
                directory: directory.to_owned(),
                owner: owner.unwrap_or_else(|_| "another process".to_owned()),
            }
        }
        _ => IdentityError::Io { path: lock_path.clone(), source },
    })?;
    let identity = read(env, directory, recovers)?;
    let note = directory.join(RECOVERING);
    if identity.is_some() && env.disk.metadata(&note).map_err(io(&note))?.is_some() {
        // Cut off between identity and note. It must not lie here: were the identity file lost one day, it would say that the rest may go.
        env.disk.remove_file(&note).and_then(|()| env.disk.sync_dir(directory)).map_err(io(&note))?;
    }
    match env.disk.write_atomically(&owner_path, owner.as_bytes()) {
        // It only tells people who has the lock: a full disk needs the broker that makes room. What the last owner wrote would name the wrong one.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            tracing::warn!(path = %owner_path.display(), "no room to write who has the directory");
            match env.disk.remove_file(&owner_path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&owner_path)(error)),
                _ => {}
            }
        }
        written => written.map_err(io(&owner_path))?,
    }
    Ok((Held { directory: directory.to_owned(), _guard: guard }, identity))
}

/// Says that what comes into this empty directory is of a recovery, before any of it does; clears what an earlier one left that was cut off before
/// it wrote the identity file. Blocking.
pub(crate) fn begin_recovery(env: &Env, directory: &Path) -> Result<(), IdentityError> {
    let note = directory.join(RECOVERING);
    let io = |path: &Path, source| IdentityError::Io { path: path.to_owned(), source };
    if env.disk.metadata(&note).map_err(|source| io(&note, source))?.is_some() {
        for path in RECOVERED.map(|name| directory.join(name)) {
            if env.disk.metadata(&path).map_err(|source| io(&path, source))?.is_some() {
                env.disk.remove_dir_all(&path).map_err(|source| io(&path, source))?;
            }
        }
        env.disk.sync_dir(directory).map_err(|source| io(directory, source))?;
    }
    env.disk.write_atomically(&note, b"").map_err(|source| io(&note, source))
}

/// Takes the note of [`begin_recovery`] away; the identity file says all from now on. Blocking.
pub(crate) fn end_recovery(env: &Env, directory: &Path) -> Result<(), IdentityError> {
    let note = directory.join(RECOVERING);
    env.disk.remove_file(&note).map_err(|source| IdentityError::Io { path: note, source })
}

fn read(env: &Env, directory: &Path, recovers: bool) -> Result<Option<Identity>, IdentityError> {
    let path = directory.join(IDENTITY);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    if env.disk.metadata(&path).map_err(io)?.is_none() {
        let names = env.disk.list(directory).map_err(io)?;
        let was_cut_off = names.iter().any(|entry| entry.name == RECOVERING);
        if was_cut_off && !recovers {
            return Err(IdentityError::Unfinished { directory: directory.to_owned() });
        }
        // A directory as object store may lie within, and has been made by now.
        let ours = |name: &str| {
            [LOCK, OWNER, RECOVERING, "objects", "lost+found"].contains(&name)
                || name.ends_with(".tmp")
                || (was_cut_off && RECOVERED.contains(&name))
        };
        return match names.into_iter().find(|entry| !ours(&entry.name)) {
            Some(found) => Err(IdentityError::Foreign { directory: directory.to_owned(), found: found.name }),
            None => Ok(None),
        };
    }
    let text = env.disk.read(&path).map_err(io)?;
    parse(&text).map(Some).map_err(|problem| match problem {
        Problem::Newer(found) => IdentityError::Newer { place: path.display().to_string(), found },
        Problem::Damaged(problem) => IdentityError::Damaged { path: path.clone(), problem },
    })
}

enum Problem {
    Newer(u32),
    Damaged(String),
}

fn parse<T: for<'a> Deserialize<'a>>(text: &[u8]) -> Result<T, Problem> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let damaged = |error: serde_json::Error| Problem::Damaged(error.to_string());
    // The version first: a newer build may have changed everything else.
    let versioned: Versioned = serde_json::from_slice(text).map_err(damaged)?;
    if versioned.format > FORMAT {
        return Err(Problem::Newer(versioned.format));
    }
    serde_json::from_slice(text).map_err(damaged)
}

/// A marker's fields, if they are what was written.
fn parse_marker(text: &[u8]) -> Result<Marker, Problem> {
    let mut fields: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|error| Problem::Damaged(error.to_string()))?;
    if let Some(told) = fields.remove(CHECK) {
        let found = check_of(&fields);
        if told.as_str() != Some(&found) {
            return Err(Problem::Damaged(format!("its field `{CHECK}` says {told}, and its other fields come to \"{found}\"")));
        }
    }
    parse(text)
}

/// A new identity for an empty volume; not written yet.
pub(crate) fn mint(env: &Env, broker_id: BrokerId) -> Identity {
    let hub_id = HubId(env.random.uuid());
    let incarnation = if bugs::on(Bug::ReuseReplicaId) { Uuid::from_u128(u128::from(broker_id.0)) } else { env.random.uuid() };
    Identity {
        format: FORMAT,
        hub_id,
        broker_id,
        incarnation,
        bootstrapped: false,
        takes_over: None,
        catalog_replica: 0,
        recovered: None,
    }
}

/// Writes the identity file, durably. Blocking.
pub(crate) fn write(env: &Env, directory: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let path = directory.join(IDENTITY);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    let text = serde_json::to_vec_pretty(identity).map_err(|error| io(std::io::Error::other(error)))?;
    env.disk.write_atomically(&path, &text).map_err(io)
}

/// Reads the marker of the store's prefix.
pub(crate) async fn marker(store: &Arc<dyn ObjectStore>, key: &str) -> Result<Option<Marker>, IdentityError> {
    let mut reads = 1;
    loop {
        let text = match store.get(key).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(IdentityError::Store { source }),
        };
        match parse_marker(&text) {
            Ok(marker) => return Ok(Some(marker)),
            Err(Problem::Newer(found)) => return Err(IdentityError::Newer { place: key.to_owned(), found }),
            Err(Problem::Damaged(problem)) if reads == MARKER_READS => {
                return Err(IdentityError::DamagedMarker { key: key.to_owned(), problem });
            }
            Err(Problem::Damaged(_)) => reads += 1,
        }
    }
}

/// Marks the store's prefix for a hub. Done again by the same volume it changes nothing; anybody else's mark is refused.
pub(crate) async fn claim(store: &Arc<dyn ObjectStore>, keys: &Keys, identity: &Identity) -> Result<(), IdentityError> {
    let key = keys.marker();
    if let Some(found) = marker(store, &key).await? {
        return judge(&found, identity);
    }
    let text = Marker::of(identity)
        .and_then(|ours| serde_json::to_vec_pretty(&ours))
        .map_err(|error| IdentityError::DamagedMarker { key: key.clone(), problem: error.to_string() })?;
    match store.put(&key, vec![Bytes::from(text)], PutMode::CreateOnly).await {
        Ok(_) => Ok(()),
        // Somebody was quicker, or our own first try arrived although it seemed to fail.
        Err(StoreError::AlreadyExists { .. }) => match marker(store, &key).await? {
            Some(found) => judge(&found, identity),
            None => Err(IdentityError::Occupied { hub: identity.hub_id }),
        },
        Err(source) => Err(IdentityError::Store { source }),
    }
}

/// Puts the rebuilt hub's mark in the place of that of the hub whose bucket it was, if [`Identity::takes_over`] still says so. Anybody else's mark is
/// left alone. Does the same again after it was cut off anywhere.
pub(crate) async fn take_over(store: &Arc<dyn ObjectStore>, keys: &Keys, identity: &Identity) -> Result<(), IdentityError> {
    let key = keys.marker();
    if let Some(found) = marker(store, &key).await?
        && Some(found.hub_id) == identity.takes_over
    {
        store.delete(&key).await.map_err(|source| IdentityError::Store { source })?;
    }
    claim(store, keys, identity).await
}

fn judge(found: &Marker, identity: &Identity) -> Result<(), IdentityError> {
    if found.hub_id == identity.hub_id {
        return Ok(());
    }
    if identity.bootstrapped {
        return Err(IdentityError::OtherHub { found: found.hub_id, expected: identity.hub_id });
    }
    Err(IdentityError::Occupied { hub: found.hub_id })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "golden files are real files")]

    use super::*;

    /// Gives a golden file's bytes. `TIDEGATE_WRITE_GOLDEN=1` writes one that is missing; one that exists is never written again.
    fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if !path.exists() && std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        assert!(kept == bytes, "{} differs: a persisted format changed under its version", path.display());
        kept
    }

    fn identity() -> Identity {
        let (hub_id, incarnation) = (HubId(Uuid::from_u128(1)), Uuid::from_u128(2));
        Identity {
            format: 1,
            hub_id,
            broker_id: BrokerId(3),
            incarnation,
            bootstrapped: true,
            takes_over: None,
            catalog_replica: 0,
            recovered: None,
        }
    }

    #[test]
    fn identity_and_marker_of_format_1_stay_readable_and_are_still_written_so() {
        let kept = golden("identity-v1.json", &serde_json::to_vec_pretty(&identity()).unwrap());
        assert!(matches!(parse::<Identity>(&kept), Ok(read) if read == identity()));
        let marker = Marker::of(&identity()).unwrap();
        let kept = golden("marker-v1-checked.json", &serde_json::to_vec_pretty(&marker).unwrap());
        assert!(matches!(parse_marker(&kept), Ok(read) if read == marker));
        let older = Marker { check: None, ..marker };
        let kept = golden("marker-v1.json", &serde_json::to_vec_pretty(&older).unwrap());
        assert!(matches!(parse_marker(&kept), Ok(read) if read == older));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_keeps_no_broker_from_its_own_directory() {
        let (env, handle) = Env::simulated(1);
        let directory = Path::new("/hub/data");
        drop(hold(&env, directory, "the first").expect("a fresh disk has room"));
        handle.disk.set_capacity(Some(1));
        for owner in ["the second", "the third"] {
            let (_held, identity) = hold(&env, directory, owner).expect("nothing that is needed has to be written");
            assert!(identity.is_none());
            let refused = hold(&env, directory, "another").expect_err("it is held");
            assert!(matches!(&refused, IdentityError::InUse { owner, .. } if owner == "another process"), "{refused}");
        }
    }

    #[test]
    fn a_marker_with_one_bit_turned_is_never_another_hubs() {
        let marker = Marker::of(&identity()).unwrap();
        let text = serde_json::to_vec_pretty(&marker).unwrap();
        for bit in 0..text.len() * 8 {
            let mut turned = text.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            match parse_marker(&turned) {
                Err(Problem::Damaged(_)) => {}
                // The name of the checksum's own field, or an upper-case digit of an id.
                Ok(read) => assert_eq!((read.hub_id, read.incarnation), (marker.hub_id, marker.incarnation), "bit {bit}"),
                Err(Problem::Newer(format)) => panic!("bit {bit}: it seems to have format {format}"),
            }
        }
    }

    #[test]
    fn an_identity_keeps_what_a_recovery_lost() {
        let lost = LostRange { topic: "clicks".to_owned(), partition: 3, from: 10, end: 12 };
        let recovered = Recovery {
            from: HubId(Uuid::from_u128(9)),
            time_ms: 5,
            lost_records: 2,
            lost_partitions: 1,
            lost: vec![lost],
            ..Recovery::default()
        };
        let identity = Identity { recovered: Some(recovered), ..identity() };
        let kept = golden("identity-v1-recovered.json", &serde_json::to_vec_pretty(&identity).unwrap());
        assert!(matches!(parse::<Identity>(&kept), Ok(read) if read == identity));
    }

    #[test]
    fn every_cut_of_an_identity_is_refused_and_a_newer_format_is_named() {
        let text = serde_json::to_vec_pretty(&identity()).unwrap();
        assert!((0..text.len()).all(|length| parse::<Identity>(&text[..length]).is_err()));
        assert!(matches!(parse::<Identity>(br#"{"format": 2, "anything": []}"#), Err(Problem::Newer(2))));
    }
}
