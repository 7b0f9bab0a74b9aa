//! Writes past the page cache: by O_DIRECT, from memory that is aligned as it asks. Through the cache each page of a file is found, cleared, filled,
//! written back and given up again, which costs a log more CPU than all else (docs/adr/0035-the-log-is-written-past-the-page-cache.md).

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::disk::BLOCK_BYTES;

/// Bytes of one write, and of memory for each thread that writes so.
const STAGE_BYTES: usize = 1 << 20;

thread_local! {
    static STAGE: RefCell<Stage> = const { RefCell::new(Stage { memory: Vec::new(), start: 0, filled: 0 }) };
}

/// A file's second handle, for writes past the cache alone: the first one's reads stay in the cache, and need not be aligned.
#[derive(Default)]
pub(super) struct Direct(Mutex<Handle>);

#[derive(Default)]
enum Handle {
    #[default]
    NotTried,
    Open(fs::File),
    /// The file system or the disk refuses.
    Refused,
}

impl Direct {
    /// Writes the chunks one after the other from `offset`. False if that cannot be had, or not of so many bytes: what was written of them then is to be
    /// written again in the common way.
    pub(super) fn write<'a>(&self, file: &fs::File, chunks: impl Iterator<Item = &'a [u8]>, offset: u64) -> io::Result<bool> {
        let mut handle = self.0.lock();
        if matches!(*handle, Handle::NotTried) {
            *handle = second_handle(file)?;
        }
        let Handle::Open(direct) = &*handle else { return Ok(false) };
        match STAGE.with_borrow_mut(|stage| stage.write(direct, chunks, offset)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                *handle = Handle::Refused;
                Ok(false)
            }
            // A disk that fails is not asked in another way.
            Err(error) => Err(error),
        }
    }

    /// Closes the second handle, until something is written so again.
    pub(super) fn close(&self) {
        let mut handle = self.0.lock();
        if matches!(*handle, Handle::Open(_)) {
            *handle = Handle::NotTried;
        }
    }
}

/// Opens a file that may be written once more. By what the process has open, as its name may have changed.
fn second_handle(file: &fs::File) -> io::Result<Handle> {
    use std::os::fd::AsRawFd;
    if rustix::fs::fcntl_getfl(file)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Ok(Handle::Refused);
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()) {
        Ok(direct) => Ok(Handle::Open(direct.into())),
        // As many files are open as may be, which passes.
        Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Ok(Handle::NotTried),
        Err(_) => Ok(Handle::Refused),
    }
}

/// Aligned memory.
struct Stage {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Stage {
    fn write<'a>(&mut self, file: &fs::File, chunks: impl Iterator<Item = &'a [u8]>, offset: u64) -> io::Result<()> {
        if self.memory.is_empty() {
            self.memory = vec![0; STAGE_BYTES + BLOCK_BYTES];
            self.start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        }
        self.filled = 0;
        let mut at = offset;
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let (now, later) = chunk.split_at(chunk.len().min(STAGE_BYTES - self.filled));
                let end = self.start + self.filled;
                self.memory[end..end + now.len()].copy_from_slice(now);
                self.filled += now.len();
                chunk = later;
                if self.filled == STAGE_BYTES {
                    at += self.flush(file, at)?;
                }
            }
        }
        self.flush(file, at).map(drop)
    }

    fn flush(&mut self, file: &fs::File, at: u64) -> io::Result<u64> {
        let filled = std::mem::take(&mut self.filled);
        file.write_all_at(&self.memory[self.start..self.start + filled], at)?;
        Ok(filled as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_go_past_the_cache_and_only_where_that_can_be_had() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log");
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let can = rustix::fs::open(&path, OFlags::WRONLY | OFlags::DIRECT, Mode::empty()).is_ok();
        let direct = Direct::default();
        let block = [7; BLOCK_BYTES];
        assert_eq!(direct.write(&file, [&block[..10], &block[10..]].into_iter(), 0)?, can);
        if can {
            assert_eq!(fs::read(&path)?, block);
        }
        assert!(!direct.write(&file, [&b"odd"[..]].into_iter(), 4096)?, "no whole block");
        assert!(!direct.write(&file, [&block[..]].into_iter(), 4096)?, "who was refused once does not try again");
        Ok(())
    }
}
