//! The disk as a trait. What is written is durable only after a sync of the file, and, for a new or renamed file, of its folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// What is written past the page cache begins and ends at multiples of this.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; writes fail.
    Read,
    /// It must exist.
    ReadWrite,
    /// It must not exist.
    CreateNew,
    /// It is made if it does not exist, and keeps what it has.
    CreateOrOpen,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last part of its path.
    pub name: String,
    /// Bytes of a file; 0 for a folder.
    pub bytes: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Held while a lock file is locked; dropping it unlocks.
pub trait LockGuard: Send + Sync {}

/// A file system. All calls may block; errors are the operating system's, with `StorageFull` for a disk without room.
pub trait Disk: Send + Sync {
    /// Makes a folder and those above it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames within a file system, replacing what is there. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must not exist yet. Durable after `sync_dir`.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all below it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// What is in a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The entry of a path, `None` if there is nothing.
    fn metadata(&self, path: &Path) -> io::Result<Option<Entry>>;
    /// Locks a file (made if missing) against other processes; `WouldBlock` if one holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// Bytes that can still be written to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Makes a folder and those above it, each new name durable in the folder that holds it: without that, a power cut takes the folder with
    /// all that was synced in it.
    fn create_dir_all_durably(&self, path: &Path) -> io::Result<()> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !matches!(self.metadata(folder), Ok(Some(_)));
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        self.create_dir_all(path)?;
        // The folder's own name is synced even if it is there: a process that was killed right after making it may not have done so.
        let names = missing.iter().rev().copied().filter(|folder| *folder != path).chain([path]);
        for folder in names {
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// Replaces a file's content so that a crash leaves the old or the new, never a mixture. Durable on return.
    fn write_atomically(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut temporary = PathBuf::from(path).into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        if self.metadata(&temporary)?.is_some() {
            self.remove_file(&temporary)?;
        }
        let file = self.open(&temporary, OpenMode::CreateNew)?;
        file.write_vectored_at(&[Bytes::copy_from_slice(content)], 0)?;
        file.sync_all()?;
        self.rename(&temporary, path)?;
        self.sync_dir(folder)
    }

    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let bytes = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }
}

/// An open file. Calls may run at once from several threads.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all chunks one after the other from `offset`, or fails; a failure may leave any part written.
    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()>;
    /// Writes as [`File::write_vectored_at`] does, past the page cache where the file system can do that: cheaper for what is hardly ever read. The chunks
    /// must end at a multiple of [`BLOCK_BYTES`], and `before` is what the file holds in front of them from such a multiple on: it is written again.
    fn write_blocks_at(&self, before: &[u8], chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let _ = before;
        self.write_vectored_at(chunks, offset)
    }
    /// Lets go of what [`File::write_blocks_at`] needs beside the file: no more blocks come for now.
    fn end_blocks(&self) {}
    /// Makes the file `bytes` long with its blocks allocated and zeroed, so that a later `sync_data` has no metadata to write.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes content durable (fdatasync). After an error nothing that was written since the last success may be trusted.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and length durable (fsync).
    fn sync_all(&self) -> io::Result<()>;
    /// Bytes.
    fn len(&self) -> io::Result<u64>;
    /// True for a file without bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// How long the last operation would have taken on a simulated disk; `None` on a real one, where it did take that long.
    fn simulated_latency(&self) -> Option<Duration> {
        None
    }

    /// Reads exactly `buffer.len()` bytes.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
