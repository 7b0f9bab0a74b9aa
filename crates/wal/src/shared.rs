//! What the handle, the writer and the allocator share: the queue, where each entry lies, and the files.
//!
//! One short lock. `Slot::generation == 0` means submitted and not yet durable. A file's `live_frames` counts the slots that point into
//! it, plus those whose removal is not durable yet.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_env::watch;
use tidegate_env::{File, LockGuard};
use tidegate_model::JournalId;
use tokio::sync::Notify;

use crate::format::{self, FileHeader};
use crate::{Done, Failed, Position, Settings, Write};

/// Where an entry lies; its index is implied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) generation: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Slot {
    pub(crate) fn frame_bytes(&self) -> u64 {
        format::frame_bytes(self.length as usize) as u64
    }
}

/// One journal's entries. `slots[0]` is entry `first`.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) first: u64,
    pub(crate) slots: VecDeque<Slot>,
    pub(crate) purged: Option<Position>,
    /// Noted, and not yet written.
    pub(crate) committed: Option<Position>,
}

impl Default for Index {
    fn default() -> Index {
        Index { first: 1, slots: VecDeque::new(), purged: None, committed: None }
    }
}

impl Index {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        let place = index.checked_sub(self.first)?;
        self.slots.get(usize::try_from(place).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let place = index.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(place).ok()?)
    }

    /// The last entry, else the purge point.
    pub(crate) fn last(&self) -> Option<Position> {
        let last = self.slots.back().map(|slot| Position { term: slot.term, leader: slot.leader, index: self.end() - 1 });
        last.or(self.purged)
    }

    /// Removes entries above `index` and says what they held.
    pub(crate) fn truncate_after(&mut self, index: u64, releases: &mut Vec<Release>) {
        while self.end() > index + 1 {
            match self.slots.pop_back() {
                Some(slot) => Release::note(releases, &slot),
                None => break,
            }
        }
    }

    /// Removes entries up to and with `at` and says what they held.
    pub(crate) fn purge(&mut self, at: Position, releases: &mut Vec<Release>) {
        if at.index < self.first {
            return;
        }
        while self.first <= at.index {
            match self.slots.pop_front() {
                Some(slot) => Release::note(releases, &slot),
                None => break,
            }
            self.first += 1;
        }
        self.first = at.index + 1;
        self.purged = Some(at);
    }
}

/// Frames of a file that nobody needs any more, once the write that says so is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) generation: u32,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

impl Release {
    fn note(releases: &mut Vec<Release>, slot: &Slot) {
        if slot.generation == 0 {
            return;
        }
        match releases.last_mut() {
            Some(last) if last.generation == slot.generation => {
                last.frames += 1;
                last.bytes += slot.frame_bytes();
            }
            _ => releases.push(Release { generation: slot.generation, frames: 1, bytes: slot.frame_bytes() }),
        }
    }
}

/// A file of the log that is open.
pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) header: FileHeader,
}

/// A file that holds frames.
pub(crate) struct FileState {
    pub(crate) open: Arc<OpenFile>,
    pub(crate) sealed: bool,
    pub(crate) live_frames: u64,
    pub(crate) live_bytes: u64,
    /// A frame that should have been moved is damaged: the file stays.
    pub(crate) stuck: bool,
}

/// What one submission asks for.
pub(crate) struct Batch {
    pub(crate) writes: Vec<Write>,
    /// Entries of an old file, written again.
    pub(crate) moved: bool,
    pub(crate) releases: Vec<Release>,
    pub(crate) bytes: u64,
}

/// Everything under the lock.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) journals: BTreeMap<JournalId, Index>,
    /// Journals with a noted commit point that is not yet written.
    pub(crate) noted: Vec<JournalId>,
    pub(crate) files: BTreeMap<u32, FileState>,
    pub(crate) queue: VecDeque<(Batch, Option<Done>)>,
    pub(crate) queued_bytes: u64,
    /// Bytes of the current file that are written.
    pub(crate) current_bytes: u64,
    pub(crate) ready: VecDeque<Arc<OpenFile>>,
    pub(crate) spares: VecDeque<PathBuf>,
    pub(crate) next_generation: u32,
    pub(crate) disk_full: bool,
    pub(crate) moving: bool,
    pub(crate) closing: bool,
    pub(crate) writer_ended: bool,
    pub(crate) failed: Option<Arc<Failed>>,
    pub(crate) last_sync: Duration,
    pub(crate) syncs: u64,
    pub(crate) written_bytes: u64,
}

impl State {
    /// Bytes of sealed files and of what is written or pending in the current one.
    pub(crate) fn used_bytes(&self) -> u64 {
        let sealed: u64 = self.files.values().filter(|file| file.sealed).map(|file| file.open.header.file_bytes).sum();
        sealed + self.current_bytes + self.queued_bytes
    }

    /// Bytes that can be written before another file must be allocated.
    pub(crate) fn room_bytes(&self) -> u64 {
        let ready: u64 = self.ready.iter().map(|file| file.header.file_bytes).sum();
        let current = self.files.values().filter(|file| !file.sealed).map(|file| file.open.header.file_bytes).sum::<u64>();
        (ready + current).saturating_sub(self.current_bytes + self.queued_bytes)
    }

    pub(crate) fn release(&mut self, release: Release) {
        if let Some(file) = self.files.get_mut(&release.generation) {
            file.live_frames = file.live_frames.saturating_sub(release.frames);
            file.live_bytes = file.live_bytes.saturating_sub(release.bytes);
        }
    }

    /// Hands files over that nothing needs, oldest first. Call only when the current file's opening is durable.
    pub(crate) fn free_files(&mut self) -> bool {
        let mut freed = false;
        while self.files.first_key_value().is_some_and(|(_, file)| file.sealed && file.live_frames == 0) {
            if self.files.values().all(|file| file.sealed) {
                break;
            }
            if let Some((_, file)) = self.files.pop_first() {
                self.spares.push_back(file.open.path.clone());
                freed = true;
            }
        }
        freed
    }

    /// Notes where a durable entry lies, unless it is gone or replaced by now.
    pub(crate) fn place(&mut self, journal: JournalId, index: u64, placed: Slot) {
        let Some(slot) = self.journals.get_mut(&journal).and_then(|log| log.slot_mut(index)) else { return };
        if slot.term != placed.term {
            return;
        }
        let old = std::mem::replace(slot, placed);
        if old.generation != 0 {
            self.release(Release { generation: old.generation, frames: 1, bytes: old.frame_bytes() });
        }
        if let Some(file) = self.files.get_mut(&placed.generation) {
            file.live_frames += 1;
            file.live_bytes += placed.frame_bytes();
        }
    }
}

/// The lock and the bells.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) state: Mutex<State>,
    /// Bytes that were admitted and not given back, see [`crate::Admission`].
    pub(crate) admitted: AtomicU64,
    /// Time that the writer spent on writes and syncs, in nanoseconds.
    pub(crate) disk_ns: AtomicU64,
    /// When the write under way began, in milliseconds of the monotonic clock from 1; 0 if there is none.
    pub(crate) writing_since_ms: AtomicU64,
    /// When a file was freed last, in milliseconds of the monotonic clock from 1; 0 before the first.
    pub(crate) freed_at_ms: AtomicU64,
    /// Rung when files were freed.
    pub(crate) freed: Notify,
    /// Those who wait for room, in the order of their coming, and how many they are.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub(crate) waiting: AtomicU64,
    /// Rung for the writer.
    pub(crate) writer: Notify,
    /// Rung for the allocator.
    pub(crate) allocator: Notify,
    pub(crate) failure: watch::Sender<Option<Arc<Failed>>>,
    /// Held as long as anything can write.
    pub(crate) _lock: Box<dyn LockGuard>,
}

impl Shared {
    /// Called by the writer when it ends: what is submitted from now on fails.
    pub(crate) fn end(&self) {
        let path = self.settings.directory.clone();
        let closed = Failed { what: "a submission after closing", path, source: std::io::ErrorKind::NotConnected.into() };
        let (failed, late) = {
            let mut state = self.state.lock();
            state.writer_ended = true;
            (Arc::clone(state.failed.get_or_insert_with(|| Arc::new(closed))), std::mem::take(&mut state.queue))
        };
        for done in late.into_iter().filter_map(|(_, done)| done) {
            done(Err(Arc::clone(&failed)));
        }
        self.allocator.notify_one();
    }

    /// Ends the log: every pending and every later submission fails.
    pub(crate) fn fail(&self, failed: Failed) {
        tracing::error!(error = %failed, "the write-ahead log has failed");
        let (failed, pending) = {
            let mut state = self.state.lock();
            let failed = Arc::clone(state.failed.get_or_insert_with(|| Arc::new(failed)));
            state.queued_bytes = 0;
            (failed, std::mem::take(&mut state.queue))
        };
        for done in pending.into_iter().filter_map(|(_, done)| done) {
            done(Err(Arc::clone(&failed)));
        }
        self.failure.send_replace(Some(failed));
        self.writer.notify_one();
        self.allocator.notify_one();
    }
}

/// Held by each thread of the log while it runs. A panic of one fails the log, as a disk error does, instead of leaving the other thread and
/// every caller waiting for it, and the folder locked.
pub(crate) struct OnPanic {
    shared: Arc<Shared>,
    is_writer: bool,
}

impl OnPanic {
    pub(crate) fn of_writer(shared: &Arc<Shared>) -> OnPanic {
        OnPanic { shared: Arc::clone(shared), is_writer: true }
    }

    pub(crate) fn of_allocator(shared: &Arc<Shared>) -> OnPanic {
        OnPanic { shared: Arc::clone(shared), is_writer: false }
    }
}

impl Drop for OnPanic {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let what =
            if self.is_writer { "a panic of the thread that writes" } else { "a panic of the thread that makes files for" };
        let source = std::io::Error::other("a defect: its message stands in the log of the process");
        self.shared.fail(Failed { what, path: self.shared.settings.directory.clone(), source });
        if self.is_writer {
            self.shared.end();
        }
    }
}
