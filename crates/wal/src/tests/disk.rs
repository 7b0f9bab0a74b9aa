//! A disk in memory whose unsynced writes a crash keeps, drops or tears by sectors, with injected errors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::{BLOCK_BYTES, Disk, Entry, File, LockGuard, OpenMode};

use super::Lcg;

const SECTOR: usize = 512;

#[derive(Default)]
struct Content {
    /// As the page cache shows it.
    now: Vec<u8>,
    /// As the platter has it.
    durable: Vec<u8>,
    /// Sectors that a sync has to write: others it takes for written, even those that a failed writeback left clean.
    dirty: BTreeSet<usize>,
}

impl Content {
    fn of(bytes: &[u8]) -> Arc<Mutex<Content>> {
        Arc::new(Mutex::new(Content { now: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() }))
    }

    fn touch(&mut self, range: std::ops::Range<usize>) {
        self.dirty.extend(range.start / SECTOR..range.end.div_ceil(SECTOR));
    }

    fn resize(&mut self, bytes: usize) {
        let before = self.now.len();
        self.now.resize(bytes, 0);
        self.touch(before.min(bytes)..bytes);
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let range = (sector * SECTOR).min(self.now.len())..((sector + 1) * SECTOR).min(self.now.len());
            self.durable[range.clone()].copy_from_slice(&self.now[range]);
        }
    }
}

/// What is to go wrong.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) fail_writes: bool,
    pub(super) fail_syncs: bool,
    pub(super) no_room: bool,
    /// The process has died: nothing works any more.
    pub(super) dead: bool,
}

#[derive(Default)]
struct Disks {
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    locked: bool,
}

#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    disks: Arc<Mutex<Disks>>,
    pub(super) faults: Arc<Mutex<Faults>>,
}

struct MemoryFile {
    content: Arc<Mutex<Content>>,
    faults: Arc<Mutex<Faults>>,
}

struct Unlock(Arc<Mutex<Disks>>);
impl LockGuard for Unlock {}
impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

fn eio() -> io::Error {
    io::Error::other("injected EIO")
}

impl MemoryDisk {
    /// The disk after a power cut: of each unsynced sector the old or the new content, of unsynced names either. Handles of before are dead.
    pub(super) fn crashed(&self, random: &mut Lcg) -> MemoryDisk {
        self.faults.lock().dead = true;
        let disks = self.disks.lock();
        let keep_all = random.below(3) == 0;
        let mut after = Disks::default();
        let new_names = keep_all || random.below(2) == 0;
        let names = if new_names { &disks.names } else { &disks.durable_names };
        for (path, content) in names {
            let content = content.lock();
            let mut kept = content.durable.clone();
            if kept.len() < content.now.len() {
                kept.resize(content.now.len(), 0);
            }
            kept.truncate(content.now.len());
            for at in (0..kept.len()).step_by(SECTOR) {
                let end = (at + SECTOR).min(kept.len());
                if kept[at..end] != content.now[at..end] && (keep_all || random.below(2) == 0) {
                    kept[at..end].copy_from_slice(&content.now[at..end]);
                }
            }
            let content = Content::of(&kept);
            after.names.insert(path.clone(), Arc::clone(&content));
            after.durable_names.insert(path.clone(), content);
        }
        MemoryDisk { disks: Arc::new(Mutex::new(after)), faults: Arc::default() }
    }

    /// All files, as the page cache shows them.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.disks.lock().names.iter().map(|(path, content)| (path.clone(), content.lock().now.clone())).collect()
    }

    /// A disk with these files, all durable.
    pub(super) fn of(files: &BTreeMap<PathBuf, Vec<u8>>) -> MemoryDisk {
        let mut disks = Disks::default();
        for (path, bytes) in files {
            let content = Content::of(bytes);
            disks.names.insert(path.clone(), Arc::clone(&content));
            disks.durable_names.insert(path.clone(), content);
        }
        MemoryDisk { disks: Arc::new(Mutex::new(disks)), faults: Arc::default() }
    }

    /// As a process leaves it that was killed between its first write and the sync: the page cache has all of the log's frames, the platter only what recovery needs to find the files.
    pub(super) fn unsynced_copy(&self) -> MemoryDisk {
        let copy = MemoryDisk::of(&self.files());
        for (path, content) in &copy.disks.lock().names {
            if path.extension().is_some_and(|extension| extension == "wal") {
                let mut content = content.lock();
                // The headers were synced when the file was made.
                content.durable[4096..].fill(0);
            }
            // The mark says nothing of what was not synced.
            if path.ends_with(crate::mark::FILE_NAME) {
                let mut content = content.lock();
                content.now.fill(0);
                content.durable.fill(0);
            }
        }
        copy
    }

    /// A power cut that keeps nothing unsynced.
    pub(super) fn crashed_hard(&self) -> MemoryDisk {
        let disks = self.disks.lock();
        let kept = disks.durable_names.iter().map(|(path, content)| (path.clone(), content.lock().durable.clone()));
        MemoryDisk::of(&kept.collect())
    }

    fn alive(&self) -> io::Result<()> {
        if self.faults.lock().dead { Err(eio()) } else { Ok(()) }
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        self.alive()
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.alive()?;
        let mut disks = self.disks.lock();
        let there = disks.names.get(path).cloned();
        let content = match (there, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (Some(content), _) => content,
            (None, _) => Arc::clone(disks.names.entry(path.to_owned()).or_default()),
        };
        Ok(Arc::new(MemoryFile { content, faults: Arc::clone(&self.faults) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?;
        let mut disks = self.disks.lock();
        let content = disks.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disks.names.insert(to.to_owned(), content);
        Ok(())
    }
    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.alive()?;
        self.disks.lock().names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.alive()?;
        let disks = self.disks.lock();
        let here = disks.names.iter().filter(|(name, _)| name.parent() == Some(path));
        Ok(here
            .map(|(name, content)| Entry {
                name: name.file_name().unwrap().to_string_lossy().into_owned(),
                bytes: content.lock().now.len() as u64,
                is_dir: false,
            })
            .collect())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.alive()?;
        let mut disks = self.disks.lock();
        disks.durable_names = disks.names.clone();
        Ok(())
    }
    fn metadata(&self, path: &Path) -> io::Result<Option<Entry>> {
        self.alive()?;
        let disks = self.disks.lock();
        Ok(disks.names.get(path).map(|content| Entry {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            bytes: content.lock().now.len() as u64,
            is_dir: false,
        }))
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.alive()?;
        if std::mem::replace(&mut self.disks.lock().locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(Arc::clone(&self.disks))))
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let from = (offset as usize).min(content.now.len());
        let read = buffer.len().min(content.now.len() - from);
        buffer[..read].copy_from_slice(&content.now[from..from + read]);
        Ok(read)
    }
    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let faults = self.faults.lock();
        if faults.dead || faults.fail_writes {
            return Err(eio());
        }
        let mut content = self.content.lock();
        let mut at = offset as usize;
        for chunk in chunks {
            if content.now.len() < at + chunk.len() {
                if faults.no_room {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                content.now.resize(at + chunk.len(), 0);
            }
            content.now[at..at + chunk.len()].copy_from_slice(chunk);
            at += chunk.len();
        }
        content.touch(offset as usize..at);
        Ok(())
    }
    /// Holds its caller to the contract, and writes the whole blocks, so that a power cut may tear what was durable in the first one.
    fn write_blocks_at(&self, before: &[u8], chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let begin = offset as usize - before.len();
        let all: Vec<Bytes> = std::iter::once(Bytes::copy_from_slice(before)).chain(chunks.iter().cloned()).collect();
        let end = begin + all.iter().map(Bytes::len).sum::<usize>();
        assert!(begin.is_multiple_of(BLOCK_BYTES) && end.is_multiple_of(BLOCK_BYTES), "{begin} to {end} are whole blocks");
        assert!(before.len() < BLOCK_BYTES, "not more than its block is written again");
        assert!(self.content.lock().now[begin..offset as usize] == *before, "what the file has in front of {offset} was given");
        self.write_vectored_at(&all, begin as u64)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let faults = self.faults.lock();
        if faults.dead {
            return Err(eio());
        }
        if faults.no_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.content.lock().resize(bytes as usize);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }
    fn sync_all(&self) -> io::Result<()> {
        let faults = self.faults.lock();
        if faults.dead || faults.fail_syncs {
            return Err(eio());
        }
        self.content.lock().sync();
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.faults.lock().dead {
            return Err(eio());
        }
        self.content.lock().resize(bytes as usize);
        Ok(())
    }
}
