//! A disk whose syncs take as long as a test says.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_env::File;
use tidegate_env::intercepted::Intercept;

/// How long each sync takes, in milliseconds.
pub(super) struct SlowSyncs(pub(super) Arc<AtomicU64>);

struct SlowFile {
    file: Arc<dyn File>,
    sync_ms: Arc<AtomicU64>,
}

impl Intercept for SlowSyncs {
    fn opened(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SlowFile { file, sync_ms: self.0.clone() })
    }
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
