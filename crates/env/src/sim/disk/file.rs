//! An open file of a simulated disk.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::tree::NodeId;
use super::{OperationKind, SimDisk, State, dead, index};
use crate::Random;
use crate::disk::File;

/// A handle that is dead once its life has ended.
pub(super) struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    node: NodeId,
    life: u64,
    writable: bool,
    latency: Mutex<Duration>,
}

impl SimFile {
    pub(super) fn new(disk: SimDisk, path: PathBuf, node: NodeId, life: u64, writable: bool) -> SimFile {
        SimFile { disk, path, node, life, writable, latency: Mutex::new(Duration::ZERO) }
    }

    fn operate<T>(
        &self,
        kind: OperationKind,
        detail: impl FnOnce() -> String,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        {
            let state = self.disk.state.lock();
            if state.life != self.life {
                return Err(dead());
            }
            *self.latency.lock() = state.latency.draw(kind, &state.random);
        }
        if !self.writable && matches!(kind, OperationKind::Write | OperationKind::Allocate) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.operate(kind, self.path.as_path(), detail, act)
    }

    fn sync(&self) -> io::Result<()> {
        let result = self.operate(OperationKind::Sync, String::new, |state| {
            state.content(self.node)?.sync();
            Ok(())
        });
        if result.is_err() {
            let mut state = self.disk.state.lock();
            // A power cut is no failed writeback: then the crash decides what had got to the platter.
            if state.alive && state.life == self.life {
                state.content(self.node)?.fail_sync();
            }
        }
        result
    }

    /// Lays as many of the bytes into the file as the seed says, as a failed or interrupted write does.
    fn write_in_part(&self, bytes: &[u8], offset: usize) {
        let mut state = self.disk.state.lock();
        if state.life != self.life {
            return;
        }
        let part = usize::try_from(state.random.below(bytes.len() as u64 + 1)).unwrap_or(0);
        if let Ok(content) = state.content(self.node)
            && offset + part <= content.len()
        {
            content.write(offset, &bytes[..part]);
        }
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = index(offset)?;
        let wanted = buffer.len();
        self.operate(
            OperationKind::Read,
            || format!("{wanted} at {offset}"),
            |state| Ok(state.content(self.node)?.read(buffer, offset)),
        )
    }

    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let offset = index(offset)?;
        let bytes = chunks.concat();
        let detail = || format!("{} at {offset} #{:x}", bytes.len(), hash_of(&bytes));
        let result = self.operate(OperationKind::Write, detail, |state| {
            let growth = (offset + bytes.len()).saturating_sub(state.content(self.node)?.len());
            state.reserve(growth as u64)?;
            state.content(self.node)?.write(offset, &bytes);
            Ok(())
        });
        if result.is_err() && self.writable {
            self.write_in_part(&bytes, offset);
        }
        result
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let length = index(bytes)?;
        self.operate(
            OperationKind::Allocate,
            || format!("{bytes}"),
            |state| {
                let growth = length.saturating_sub(state.content(self.node)?.len());
                state.reserve(growth as u64)?;
                let content = state.content(self.node)?;
                // As the real one: the whole file is zeroed and synced.
                content.set_len(0);
                content.set_len(length);
                content.sync();
                Ok(())
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.operate(OperationKind::Name, || "length".to_owned(), |state| Ok(state.content(self.node)?.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let length = index(bytes)?;
        self.operate(
            OperationKind::Write,
            || format!("length {bytes}"),
            |state| {
                let growth = length.saturating_sub(state.content(self.node)?.len());
                state.reserve(growth as u64)?;
                state.content(self.node)?.set_len(length);
                Ok(())
            },
        )
    }

    fn simulated_latency(&self) -> Option<Duration> {
        Some(*self.latency.lock())
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path: &Path = &self.path;
        f.debug_struct("SimFile").field("path", &path).finish_non_exhaustive()
    }
}
