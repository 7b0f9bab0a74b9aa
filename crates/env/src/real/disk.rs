//! The machine's file system by positional calls.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation};

use super::direct::Direct;
use crate::disk::{BLOCK_BYTES, Disk, Entry, File, LockGuard, OpenMode};

/// The machine's file system.
#[derive(Debug)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
    direct: Direct,
}

/// Linux takes at most so many chunks in one vectored write (IOV_MAX).
const MAX_CHUNKS: usize = 1024;
/// What files are filled with.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// How much of `bytes` the next write of zeros takes.
fn part(at: u64, bytes: u64) -> &'static [u8] {
    &ZEROS[..usize::try_from(bytes - at).unwrap_or(usize::MAX).min(ZEROS.len())]
}

impl RealFile {
    /// Writes so many zeros from its start, past the page cache as far as whole blocks allow.
    fn write_zeros(&self, bytes: u64) -> io::Result<()> {
        let blocks = bytes - bytes % BLOCK_BYTES as u64;
        let starts = (0..blocks).step_by(ZEROS.len());
        let mut at = if self.direct.write(&self.file, starts.map(|at| part(at, blocks)), 0)? { blocks } else { 0 };
        while at < bytes {
            let zeros = part(at, bytes);
            self.file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        Ok(())
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::CreateOrOpen => {
                options.write(true).create(true).truncate(false);
            }
        }
        Ok(Arc::new(RealFile { file: options.open(path)?, direct: Direct::default() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            entries.push(entry_of(entry.file_name().to_string_lossy().into_owned(), &metadata));
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Entry>> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(entry_of(name, &metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn entry_of(name: String, metadata: &fs::Metadata) -> Entry {
    let is_dir = metadata.is_dir();
    Entry { name, bytes: if is_dir { 0 } else { metadata.len() }, is_dir }
}

/// The lock goes with the open file.
struct RealLock {
    _file: fs::File,
}

impl LockGuard for RealLock {}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for group in chunks.chunks(MAX_CHUNKS) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|chunk| IoSlice::new(chunk)).collect();
            let mut left: &mut [IoSlice<'_>] = &mut slices;
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match rustix::io::pwritev(&self.file, left, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn write_blocks_at(&self, before: &[u8], chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let all = std::iter::once(before).chain(chunks.iter().map(Bytes::as_ref));
        if self.direct.write(&self.file, all, offset - before.len() as u64)? {
            return Ok(());
        }
        self.write_vectored_at(chunks, offset)
    }

    fn end_blocks(&self) {
        self.direct.close();
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Some file systems have no fallocate; writing the zeros below allocates as well.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Blocks that fallocate reserved are marked "unwritten", and each first write would change metadata that fdatasync must then write.
        self.write_zeros(bytes)?;
        self.file.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}
