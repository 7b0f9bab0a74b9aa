//! The machine's file system by positional calls.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

use crate::disk::{Disk, Entry, File, LockGuard, OpenMode};

/// The machine's file system.
#[derive(Debug)]
pub struct RealDisk;

struct RealFile(fs::File);

/// Linux takes at most so many chunks in one vectored write (IOV_MAX).
const MAX_CHUNKS: usize = 1024;
const ZEROS: usize = 1 << 20;
/// To what O_DIRECT wants addresses and lengths aligned on common disks; where it wants more, it refuses.
const BLOCK: usize = 4096;

/// Writes zeros from a file's start by O_DIRECT, and gives how many there are now: as many as whole blocks allow, or fewer where the file system or the
/// disk refuses that. Through the page cache they would cost seven times the CPU (docs/adr/0034-new-files-are-filled-past-the-page-cache.md).
fn write_zeros_past_the_cache(file: &fs::File, bytes: u64) -> io::Result<u64> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    match rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT) {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL) => return Ok(0),
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0u8; ZEROS + BLOCK];
    let aligned = zeros.as_ptr().align_offset(BLOCK);
    let mut at = 0;
    let mut written = Ok(());
    while let Some(zeros) = zeros.get(aligned..aligned + part(at, bytes) / BLOCK * BLOCK)
        && !zeros.is_empty()
    {
        written = file.write_all_at(zeros, at);
        if written.is_err() {
            break;
        }
        at += zeros.len() as u64;
    }
    // A file that kept the flag would refuse what is read and written later.
    rustix::fs::fcntl_setfl(file, flags)?;
    match written {
        // A disk that fails is not asked in another way.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(at),
    }
}

/// How much of `bytes` the next write of zeros takes.
fn part(at: u64, bytes: u64) -> usize {
    usize::try_from((bytes - at).min(ZEROS as u64)).unwrap_or(ZEROS)
}

impl RealFile {
    /// Writes what is missing of so many zeros.
    fn write_zeros(&self, mut at: u64, bytes: u64) -> io::Result<()> {
        let zeros = vec![0u8; part(at, bytes)];
        while at < bytes {
            let part = part(at, bytes);
            self.0.write_all_at(&zeros[..part], at)?;
            at += part as u64;
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
        Ok(Arc::new(RealFile(options.open(path)?)))
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
        self.0.read_at(buffer, offset)
    }

    fn write_vectored_at(&self, chunks: &[Bytes], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for group in chunks.chunks(MAX_CHUNKS) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|chunk| IoSlice::new(chunk)).collect();
            let mut left: &mut [IoSlice<'_>] = &mut slices;
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match rustix::io::pwritev(&self.0, left, at) {
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

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // Some file systems have no fallocate; writing the zeros below allocates as well.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Blocks that fallocate reserved are marked "unwritten", and each first write would change metadata that fdatasync must then write.
        let written = write_zeros_past_the_cache(&self.0, bytes)?;
        self.write_zeros(written, bytes)?;
        self.0.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}
