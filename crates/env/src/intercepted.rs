//! A disk for tests that does what another one does, except where the test steps in.

use std::io;
use std::path::Path;
use std::sync::Arc;

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
        self.disk.free_bytes(path)
    }
}
