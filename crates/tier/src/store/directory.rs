//! A folder as an object store: for `tidegate dev`, small installations and simulations. A key is the path below the folder.
//!
//! A put writes a temporary file, syncs it, gives it its name by a hard link, which fails if the name is taken, and syncs the folders. So a
//! crash leaves the whole object or none; what it may leave in a folder of unfinished puts is removed when the store is opened.
//!
//! The brokers of a hub may share a folder (of one machine, or of a file system with locks and hard links): each takes a place with a lock and a
//! folder of unfinished puts of its own. Whose objects these are is not decided here: the hub's marker object does that.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::{Disk, Env, LockGuard, OpenMode};

use super::{ObjectInfo, ObjectStore, Put, PutMode, StoreError, validate_key, validate_prefix, validate_range};
use crate::codec::crc32c_of;

/// Folder of unfinished puts of the first place. No key starts with a dot, so it cannot be one.
const TEMPORARY: &str = ".tmp";
/// Locked while a process has the first place: only then may unfinished puts of its folder be removed.
const LOCK: &str = ".lock";
/// Processes that may have a store open at once.
const PLACES: usize = 64;

/// Objects as files. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryStore {
    shared: Arc<Shared>,
    env: Env,
}

struct Shared {
    root: PathBuf,
    /// Where this process's unfinished puts are.
    temporary: PathBuf,
    next_temporary: AtomicU64,
    /// Folders whose names this process has made durable, all of them below the root.
    durable_folders: Mutex<BTreeSet<PathBuf>>,
    _lock: Box<dyn LockGuard>,
}

impl std::fmt::Debug for DirectoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirectoryStore({})", self.shared.root.display())
    }
}

impl DirectoryStore {
    /// Opens the store below `root`, which is made if missing, and removes what interrupted puts left.
    ///
    /// # Errors
    /// The file system's, `WouldBlock` if 64 processes have it open.
    pub async fn open(env: &Env, root: impl Into<PathBuf>) -> io::Result<DirectoryStore> {
        let (disk, root) = (env.disk.clone(), root.into());
        let shared = env
            .run_blocking(move || -> io::Result<Shared> {
                disk.create_dir_all_durably(&root)?;
                let (temporary, lock) = take_place(disk.as_ref(), &root)?;
                if disk.metadata(&temporary)?.is_some() {
                    disk.remove_dir_all(&temporary)?;
                }
                disk.create_dir_all(&temporary)?;
                disk.sync_dir(&root)?;
                Ok(Shared { root, temporary, next_temporary: AtomicU64::new(0), durable_folders: Mutex::default(), _lock: lock })
            })
            .await?;
        Ok(DirectoryStore { shared: Arc::new(shared), env: env.clone() })
    }

    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        operation: &'static str,
        work: impl FnOnce(&Shared, &dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (shared, disk) = (self.shared.clone(), self.env.disk.clone());
        let result = self.env.run_blocking(move || work(&shared, disk.as_ref())).await;
        result.map_err(|error| store_error(key, operation, &error))
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put(&self, key: &str, body: Vec<Bytes>, mode: PutMode) -> Result<Put, StoreError> {
        let PutMode::CreateOnly = mode;
        validate_key(key)?;
        let name = key.to_owned();
        let written = Put { bytes: body.iter().map(|chunk| chunk.len() as u64).sum(), crc32c: 0 };
        // A failure after the link leaves the name seen but perhaps not durable: only that outcome is ambiguous.
        let linked = self.run(key, "put", move |shared, disk| shared.write(disk, &name, &body)).await?;
        match linked {
            Linked::Durable(crc32c) => Ok(Put { crc32c, ..written }),
            Linked::Unsure(message) => Err(StoreError::Ambiguous { key: key.to_owned(), operation: "put", message }),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        let name = key.to_owned();
        self.run(key, "get", move |shared, disk| Ok(Bytes::from(disk.read(&shared.root.join(name))?))).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        validate_range(key, &range)?;
        let (name, wanted) = (key.to_owned(), range.clone());
        let read = move |shared: &Shared, disk: &dyn Disk| {
            let file = disk.open(&shared.root.join(name), OpenMode::Read)?;
            let length = file.len()?;
            // Compared first, so that no caller's number decides how much is allocated.
            if wanted.end > length {
                return Ok(Err(length));
            }
            let mut content = vec![0; usize::try_from(wanted.end - wanted.start).map_err(io::Error::other)?];
            file.read_exact_at(&mut content, wanted.start)?;
            Ok(Ok(Bytes::from(content)))
        };
        self.run(key, "get", read).await?.map_err(|length| StoreError::InvalidRange {
            key: key.to_owned(),
            start: range.start,
            end: range.end,
            why: format!("the object has {length} bytes"),
        })
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        validate_key(key)?;
        let name = key.to_owned();
        let found = self.run(key, "head", move |shared, disk| metadata(disk, &shared.root.join(name))).await?;
        match found {
            Some(entry) if !entry.is_dir => Ok(ObjectInfo { key: key.to_owned(), bytes: entry.bytes }),
            _ => Err(StoreError::NotFound { key: key.to_owned() }),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        validate_key(key)?;
        let name = key.to_owned();
        let remove = move |shared: &Shared, disk: &dyn Disk| {
            let path = shared.root.join(name);
            match metadata(disk, &path)? {
                Some(entry) if !entry.is_dir => {}
                _ => return Ok(()),
            }
            match disk.remove_file(&path) {
                Err(error) if is_missing(&error) => Ok(()),
                Err(error) => Err(error),
                Ok(()) => disk.sync_dir(path.parent().unwrap_or(&shared.root)),
            }
        };
        self.run(key, "delete", remove).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        validate_prefix(prefix)?;
        let listing = Listing { prefix: prefix.to_owned(), start_after: start_after.map(str::to_owned), limit };
        self.run(prefix, "list", move |shared, disk| listing.run(disk, &shared.root)).await
    }
}

/// The first place that no other process has: its folder of unfinished puts, and its lock.
fn take_place(disk: &dyn Disk, root: &Path) -> io::Result<(PathBuf, Box<dyn LockGuard>)> {
    let named = |name: &str, place: usize| root.join(if place == 0 { name.to_owned() } else { format!("{name}-{place}") });
    for place in 0..PLACES {
        let path = named(LOCK, place);
        match disk.lock(&path) {
            Ok(lock) => return Ok((named(TEMPORARY, place), lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()))),
        }
    }
    let hint = "use S3-compatible storage for hubs of so many brokers, or give this hub a folder of its own";
    Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is open in {PLACES} processes: {hint}", root.display())))
}

enum Linked {
    Durable(u32),
    Unsure(String),
}

impl Shared {
    /// Makes the folders down to `folder`, each name durable; once for each in the life of the process, as one that was killed may have made
    /// them without that.
    fn ensure_folder(&self, disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        if self.durable_folders.lock().contains(folder) {
            return Ok(());
        }
        let below_root = folder.ancestors().take_while(|ancestor| *ancestor != self.root);
        for ancestor in below_root.collect::<Vec<_>>().into_iter().rev() {
            disk.create_dir_all_durably(ancestor)?;
        }
        self.durable_folders.lock().insert(folder.to_owned());
        Ok(())
    }

    fn write(&self, disk: &dyn Disk, key: &str, body: &[Bytes]) -> io::Result<Linked> {
        let path = self.root.join(key);
        if metadata(disk, &path)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let folder = path.parent().unwrap_or(&self.root);
        self.ensure_folder(disk, folder)?;
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.temporary.join(number.to_string());
        let linked = write_synced(disk, &temporary, body).and_then(|()| disk.hard_link(&temporary, &path));
        // The temporary name goes in each case; if that fails, the next open removes it.
        let removed = disk.remove_file(&temporary);
        linked?;
        if let Err(error) = disk.sync_dir(folder) {
            return Ok(Linked::Unsure(error.to_string()));
        }
        if let Err(error) = removed {
            tracing::warn!(file = %temporary.display(), %error, "a temporary file stays until the store is opened again");
        }
        Ok(Linked::Durable(crc32c_of(body)))
    }
}

fn write_synced(disk: &dyn Disk, path: &Path, body: &[Bytes]) -> io::Result<()> {
    let file = disk.open(path, OpenMode::CreateNew)?;
    file.write_vectored_at(body, 0)?;
    file.sync_all()
}

/// As `Disk::metadata`; a path through a file counts as nothing, too.
fn metadata(disk: &dyn Disk, path: &Path) -> io::Result<Option<tidegate_env::Entry>> {
    match disk.metadata(path) {
        Err(error) if is_missing(&error) => Ok(None),
        other => other,
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

struct Listing {
    prefix: String,
    start_after: Option<String>,
    limit: usize,
}

impl Listing {
    /// Walks depth first. Within a folder, names are ordered as their keys are: a folder counts as its name with a slash.
    fn run(&self, disk: &dyn Disk, root: &Path) -> io::Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        self.walk(disk, root, "", &mut found)?;
        Ok(found)
    }

    fn walk(&self, disk: &dyn Disk, folder: &Path, key: &str, found: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let mut entries = match disk.list(folder) {
            Err(error) if is_missing(&error) => return Ok(()),
            other => other?,
        };
        entries.retain(|entry| !entry.name.starts_with('.'));
        entries.iter_mut().filter(|entry| entry.is_dir).for_each(|entry| entry.name.push('/'));
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        for entry in entries {
            if found.len() >= self.limit {
                break;
            }
            let path = format!("{key}{}", entry.name);
            if entry.is_dir {
                // Below are only keys that start with `path`.
                let may_match = path.starts_with(&self.prefix) || self.prefix.starts_with(&path);
                let all_before = self.start_after.as_ref().is_some_and(|after| *after > path && !after.starts_with(&path));
                if may_match && !all_before {
                    self.walk(disk, &folder.join(&entry.name), &path, found)?;
                }
            } else if path.starts_with(&self.prefix) && self.start_after.as_ref().is_none_or(|after| path > *after) {
                found.push(ObjectInfo { key: path, bytes: entry.bytes });
            }
        }
        Ok(())
    }
}

fn store_error(key: &str, operation: &'static str, error: &io::Error) -> StoreError {
    let (key, message) = (key.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory if operation != "put" => StoreError::NotFound { key },
        io::ErrorKind::NotADirectory if operation != "put" => StoreError::NotFound { key },
        io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { key },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { key, message },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
            StoreError::Refused { key, operation, message }
        }
        _ => StoreError::Unavailable { key, operation, message },
    }
}
