//! A disk for tests that does what another one does, except where the test steps in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::{Disk, Entry, File, LockGuard, OpenMode};

/// Where a test steps in; by itself it does not.
pub trait Intercept: Send + Sync {
    /// Asked before a file is put into place; an error keeps it from that.
    ///
    /// # Errors
    /// Those that the test wants.
    fn rename(&self) -> io::Result<()> {
        Ok(())
    }

    /// How many bytes are free, of a disk that says so many.
    fn free(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Takes the place of a file that was opened.
    fn opened(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        file
    }
}

/// `disk`, in which `by` steps in.
pub struct InterceptedDisk<I> {
    /// What does the work.
    pub disk: Arc<dyn Disk>,
    /// What steps in.
    pub by: I,
}

impl<I: Intercept> Disk for InterceptedDisk<I> {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.disk.open(path, mode).map(|file| self.by.opened(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.by.rename()?;
        self.disk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Entry>> {
        self.disk.metadata(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path).map(|bytes| self.by.free(bytes))
    }
}

/// A disk, for tests, that says while this is true that nothing is free.
pub struct SaysFull(pub Arc<AtomicBool>);

impl Intercept for SaysFull {
    fn free(&self, bytes: u64) -> u64 {
        if self.0.load(Ordering::Relaxed) { 0 } else { bytes }
    }
}

/// A slow disk, for tests: each `sync_data` takes so many milliseconds longer.
pub struct SlowSyncs(pub Arc<AtomicU64>);

impl Intercept for SlowSyncs {
    fn opened(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SlowFile { file, sync_ms: self.0.clone() })
    }
}

struct SlowFile {
    file: Arc<dyn File>,
    sync_ms: Arc<AtomicU64>,
}

impl File for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(chunks, offset)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.sync_ms.load(Ordering::Relaxed)));
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}
