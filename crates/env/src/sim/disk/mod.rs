//! A disk in memory that keeps apart what was synced and what was only written.
//!
//! Semantics are those that POSIX leaves open, at their worst: an unsynced sector may reach the platter or not, in any order; a name that
//! was made, renamed or removed since its folder's last sync may be there or not; a failed sync drops what it was to write, and the next
//! one succeeds. Stricter than ext4 where programs should not rely on ext4.
//!
//! Every operation has a number and goes into the trace hash, so that two runs can be compared and the power be cut at any of them.

mod content;
mod faults;
mod file;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use content::SECTOR;
pub use faults::{Fault, Latency, OperationKind};

use crate::disk::{Disk, Entry, File, LockGuard, OpenMode};
use crate::sim::SimRandom;
use faults::Plan;
use file::SimFile;
use tree::{NodeId, Tree};

/// How many of the last operations are kept for a person to read.
const RECENT: usize = 64;

/// A handle to a simulated disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    power: watch::Sender<bool>,
}

struct State {
    tree: Tree,
    plan: Plan,
    latency: Latency,
    random: SimRandom,
    capacity: Option<u64>,
    locks: BTreeMap<PathBuf, u64>,
    /// Rises with each life of the process; handles of earlier ones are dead.
    life: u64,
    alive: bool,
    operations: u64,
    cut_at: Option<u64>,
    trace: DefaultHasher,
    recent: VecDeque<String>,
}

/// What became of an operation before it was done.
enum Verdict {
    /// Do it.
    Go,
    /// Give this error; the operation may have been done in part.
    Fail(io::Error),
    /// The power goes while it runs; what it changes may or may not have got so far.
    Cut,
}

fn dead() -> io::Error {
    io::Error::other("the simulated machine is off")
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimDisk").field("operations", &state.operations).field("life", &state.life).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk without a limit.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            tree: Tree::new(),
            plan: Plan::default(),
            latency: Latency::default(),
            random: SimRandom::new(seed),
            capacity: None,
            locks: BTreeMap::new(),
            life: 0,
            alive: true,
            operations: 0,
            cut_at: None,
            trace: DefaultHasher::new(),
            recent: VecDeque::new(),
        };
        SimDisk { state: Arc::new(Mutex::new(state)), power: watch::channel(false).0 }
    }

    /// Another disk with the same content, durable and not; without this one's faults and limits.
    #[must_use]
    pub fn copied(&self, seed: u64) -> SimDisk {
        let copy = SimDisk::new(seed);
        copy.state.lock().tree = self.state.lock().tree.clone();
        copy
    }

    /// The files below a folder with their lengths, by path.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    pub fn files(&self, folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = self.state.lock().tree.list(&folder)?;
            for entry in entries {
                let path = folder.join(entry.name);
                if entry.is_dir { folders.push(path) } else { found.push((path, entry.bytes)) }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Limits what all files together may take; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().tree.occupied()
    }

    /// Lets operations take virtual time from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.state.lock().latency = latency;
    }

    /// Lets a later operation fail.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().plan.add(fault);
    }

    /// Forgets the faults that did not strike yet.
    pub fn clear_faults(&self) {
        self.state.lock().plan.clear();
    }

    /// Cuts the power at the `operations`-th operation from now (0: the next), which may still take effect or not.
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.operations + operations);
    }

    /// Ends once the power was cut.
    pub fn power_cut(&self) -> BoxFuture<'static, ()> {
        let mut power = self.power.subscribe();
        Box::pin(async move {
            // This disk's own sender lives as long as its handles, one of which the waiter's environment holds.
            let _ = power.wait_for(|cut| *cut).await;
        })
    }

    /// Whether the power was cut in this life.
    pub fn power_is_cut(&self) -> bool {
        *self.power.borrow()
    }

    /// Flips a bit of a file, on the platter and in the page cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        self.rot(path, byte..byte + 1, move |value| value ^ (1 << (bit % 8)))
    }

    /// Overwrites part of a file with zeros, on the platter and in the page cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn zero(&self, path: &Path, range: std::ops::Range<u64>) -> io::Result<()> {
        self.rot(path, range, |_| 0)
    }

    /// Cuts a file off, on the platter and in the page cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn cut(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.tree.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        let content = state.tree.file(node)?;
        content.set_len(index(bytes)?);
        content.sync();
        Ok(())
    }

    /// One past the last byte of a file that is not zero.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn written(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state.lock();
        let node = state.tree.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(state.tree.file(node)?.written() as u64)
    }

    fn rot(&self, path: &Path, range: std::ops::Range<u64>, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.tree.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        state.tree.file(node)?.rot(index(range.start)?..index(range.end)?, change);
        Ok(())
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// A hash of all operations so far with their paths, places, bytes and results: equal for equal runs of one build.
    pub fn trace_hash(&self) -> u64 {
        self.state.lock().trace.finish()
    }

    /// Lets something that is not a disk operation count in the trace.
    pub fn note(&self, what: &str) {
        self.state.lock().record(what.to_owned());
    }

    /// The last operations, oldest first, for a person to read.
    pub fn recent(&self) -> Vec<String> {
        self.state.lock().recent.iter().cloned().collect()
    }

    /// The power goes: what was synced stays, of the rest what the seed says. Handles and locks of before are dead.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state.lock();
        state.tree.crash(&SimRandom::new(seed));
        state.end_life();
        state.begin_life();
        state.record(format!("crash {seed:x}"));
        drop(state);
        self.power.send_replace(false);
    }

    /// A process starts: its handles will be alive.
    pub(crate) fn begin_life(&self) {
        self.state.lock().begin_life();
        self.power.send_replace(false);
    }

    /// The process is gone, its handles and locks with it. Its unsynced writes stay in the page cache.
    pub(crate) fn end_life(&self) {
        self.state.lock().end_life();
    }

    /// Judges and counts an operation, and carries it out with `act` on the tree.
    fn operate<T>(
        &self,
        kind: OperationKind,
        path: &Path,
        detail: impl FnOnce() -> String,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let verdict = state.judge(kind, path)?;
        let result = match verdict {
            Verdict::Go => act(&mut state),
            Verdict::Fail(error) => Err(error),
            Verdict::Cut => {
                if state.random.chance(2) {
                    let _ = act(&mut state);
                }
                Err(dead())
            }
        };
        let outcome = result.as_ref().map_or_else(|error| error.kind().to_string(), |_| "ok".to_owned());
        state.record(format!("{kind:?} {} {}: {outcome}", path.display(), detail()));
        let cut = !state.alive;
        drop(state);
        if cut {
            self.power.send_replace(true);
        }
        result
    }

    fn name<T>(&self, what: &str, path: &Path, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.operate(OperationKind::Name, path, || what.to_owned(), act)
    }
}

impl State {
    fn begin_life(&mut self) {
        self.life += 1;
        self.alive = true;
        self.cut_at = None;
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.alive = false;
        self.locks.clear();
    }

    fn judge(&mut self, kind: OperationKind, path: &Path) -> io::Result<Verdict> {
        if !self.alive {
            return Err(dead());
        }
        let number = self.operations;
        self.operations += 1;
        if self.cut_at == Some(number) {
            self.alive = false;
            return Ok(Verdict::Cut);
        }
        Ok(self.plan.strike(kind, path).map_or(Verdict::Go, Verdict::Fail))
    }

    fn record(&mut self, line: String) {
        line.hash(&mut self.trace);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// Refuses growth beyond the capacity.
    fn reserve(&self, growth: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if growth > 0 && self.tree.occupied() + growth > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// The content of a file whose handle must be of this life.
    fn content(&mut self, node: NodeId) -> io::Result<&mut content::Content> {
        self.tree.file(node)
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.name("create folders", path, |state| state.tree.create_folders(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (node, life) = self.name(&format!("open {mode:?}"), path, |state| {
            let node = match (state.tree.find(path)?, mode) {
                (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
                (Some(node), _) => node,
                (None, OpenMode::CreateNew | OpenMode::CreateOrOpen) => state.tree.create_file(path)?,
                (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            };
            if mode != OpenMode::Read {
                state.tree.file(node)?;
            }
            Ok((node, state.life))
        })?;
        Ok(Arc::new(SimFile::new(self.clone(), path.to_owned(), node, life, mode != OpenMode::Read)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name(&format!("rename to {}", to.display()), from, |state| state.tree.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name(&format!("link as {}", to.display()), from, |state| state.tree.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.name("remove", path, |state| state.tree.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.name("remove all", path, |state| state.tree.remove_folder(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.name("list", path, |state| state.tree.list(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(OperationKind::SyncFolder, path, String::new, |state| state.tree.sync_folder(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Entry>> {
        self.name("metadata", path, |state| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(state.tree.find(path)?.map(|node| state.tree.entry(name, node)))
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let life = self.name("lock", path, |state| {
            if state.tree.find(path)?.is_none() {
                state.tree.create_file(path)?;
            }
            let life = state.life;
            match state.locks.insert(path.to_owned(), life) {
                None => Ok(life),
                Some(holder) => {
                    state.locks.insert(path.to_owned(), holder);
                    Err(io::ErrorKind::WouldBlock.into())
                }
            }
        })?;
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.name("free bytes", path, |state| {
            Ok(state.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(state.tree.occupied())))
        })
    }
}

/// Holds a lock until dropped, or until its life ends.
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.locks.get(&self.path) == Some(&self.life) {
            state.locks.remove(&self.path);
        }
    }
}
