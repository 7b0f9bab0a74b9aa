//! The handle: submit, admit, read, status.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use parking_lot::Mutex;
use tidegate_env::{Env, Joined};
use tidegate_model::JournalId;

use crate::allocator::{self, Allocator};
use crate::format::{FRAME_HEADER_BYTES, MAX_VOTE_BYTES, frame_bytes};
use crate::recovery::{self, Opened};
use crate::shared::{Batch, OpenFile, Shared, Slot, State};
use crate::writer::Writer;
use crate::{Done, Failed, Full, OpenError, Position, ReadError, Recovered, Settings, Shortage, Write};

/// When a refused append may be tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long an append waits for room in a log that is being emptied, before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// A log of which nothing was freed for so long is not being emptied: nobody waits for it.
const EMPTIED_WITHIN: Duration = Duration::from_secs(3);

/// Whose bytes they are. The order is that of need: what comes first finds least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Records of clients.
    Data,
    /// What else clients ask for: they may use half of the reserve.
    Control,
    /// Entries that free space. The budget never refuses them: a log that is full could not be emptied otherwise. Who submits them bounds how many there
    /// are.
    Space,
}

/// Room in the log's budget for bytes that were admitted and may not be written yet; given back when it is dropped. Keep it until they are written
/// or given up: what was written meanwhile counts twice for that time, and never not at all.
#[must_use]
pub struct Admission {
    shared: Arc<Shared>,
    bytes: u64,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admission({})", self.bytes)
    }
}

/// One who waits for room.
struct Waiting(Arc<Shared>);

impl Waiting {
    fn new(shared: Arc<Shared>) -> Waiting {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(shared)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.admitted.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    /// Where it stands.
    pub at: Position,
    /// Bytes of its payload.
    pub len: u32,
}

/// How much room is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough.
    Normal,
    /// Above the soft mark.
    Soft,
    /// Appends of clients are refused.
    Hard,
}

/// What the log says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Bytes in use: sealed files in full, and what is written or pending in the current one.
    pub used_bytes: u64,
    /// Bytes that may be used.
    pub budget_bytes: u64,
    /// Files that hold something needed.
    pub files: usize,
    /// Bytes of those that may be used for data: the rest is reserved for control entries.
    pub data_budget_bytes: u64,
    /// How much room is left.
    pub pressure: Pressure,
    /// Bytes of data that others may still send to this log: what the reserve and a sixteenth of the rest leave, for what is on its way.
    pub room_bytes: u64,
    /// True while the disk has no room for another file.
    pub disk_full: bool,
    /// How long the last fdatasync took.
    pub last_sync: Duration,
    /// How long the write or sync under way has taken so far; zero if there is none.
    pub writing_for: Duration,
    /// Syncs since the log was opened.
    pub syncs: u64,
    /// Bytes written since the log was opened, headers included.
    pub written_bytes: u64,
}

/// A handle to the log. Cheap to clone; the log ends when all are dropped, or by [`Wal::close`].
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    env: Env,
    threads: Mutex<Vec<Box<dyn Joined>>>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wal({})", self.handle.shared.settings.directory.display())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.writer.notify_one();
        self.shared.allocator.notify_one();
    }
}

impl Wal {
    /// Opens or makes a log. On return all that was recovered is durable, and the log takes submissions.
    ///
    /// # Errors
    /// Each says which file, at which offset, and what to do; nothing is changed by a refusal.
    pub async fn open(settings: Settings, env: &Env) -> Result<(Wal, Recovered), OpenError> {
        settings.validate()?;
        let for_disk = env.clone();
        let Opened { shared, states, current, log, mark, last, durable, recovered } =
            env.run_blocking(move || recovery::open(settings, &for_disk)).await?;
        let shared = Arc::new(shared);
        let mut writer = Writer::new(Arc::clone(&shared), env.clone(), states, current, mark);
        (writer.sequence, writer.durable, writer.marked) = (last, last, durable);
        let allocator = Allocator { shared: Arc::clone(&shared), env: env.clone(), log };
        let threads = vec![
            env.threads.spawn("wal-write", Box::pin(writer.run())),
            env.threads.spawn("wal-allocate", Box::pin(allocator.run())),
        ];
        let handle = Handle { shared, env: env.clone(), threads: Mutex::new(threads) };
        Ok((Wal { handle: Arc::new(handle) }, recovered))
    }

    /// Submits writes, in order; `done` is called once all of them are durable. Returns at once. Entries can be found by [`Wal::entry`]
    /// from now on, and read once `done` was called.
    ///
    /// Does not refuse for want of room: ask [`Wal::admit`] first. After a failure `done` is called with it, on this thread.
    ///
    /// # Panics
    /// If an entry does not follow its journal's last one, is longer than [`Settings::max_payload_bytes`], a vote is longer than 4,096
    /// bytes, or a truncation goes below the purge point: errors of the caller, found before anything is changed.
    pub fn submit(&self, writes: Vec<Write>, done: Option<Done>) {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        let failed = state.failed.clone();
        if let Some(failed) = failed {
            drop(state);
            if let Some(done) = done {
                done(Err(failed));
            }
            return;
        }
        check(&state, &writes, shared.settings.max_payload_bytes());
        let mut batch = Batch { writes, moved: false, releases: Vec::new(), bytes: 0 };
        batch.bytes = batch.writes.iter().map(pending_bytes).sum();
        take_in(&mut state, &batch.writes, &mut batch.releases);
        if done.is_none() && batch.writes.iter().all(|write| matches!(write, Write::Committed { .. })) {
            return;
        }
        batch.writes.retain(|write| !matches!(write, Write::Committed { .. }));
        state.queued_bytes += batch.bytes;
        state.queue.push_back((batch, done));
        drop(state);
        shared.writer.notify_one();
    }

    /// The longest payload that the log takes, see [`Settings::max_payload_bytes`].
    pub fn max_payload_bytes(&self) -> usize {
        self.handle.shared.settings.max_payload_bytes()
    }

    /// Room for so many more bytes of payload, if they may be submitted now.
    ///
    /// # Errors
    /// Says what is short and when to try again.
    pub fn admit(&self, bytes: u64, class: Class) -> Result<Admission, Full> {
        let shared = &self.handle.shared;
        let settings = &shared.settings;
        let (reserve, file) = (settings.control_reserve_bytes, settings.file_bytes);
        // With a small file the reserve may be more than what is ever made ready: a part of a file must do on a full disk.
        let (reserve, on_disk) = match class {
            Class::Data => (reserve, reserve.min(file / 2)),
            Class::Control => (reserve / 2, reserve.min(file / 4)),
            Class::Space => (0, 0),
        };
        // Counted under the lock, given back without it: at worst a moment too late.
        let state = shared.state.lock();
        let used = state.used_bytes() + shared.admitted.load(Ordering::Relaxed);
        let full = |why| Full { retry_after: RETRY_AFTER, used, budget: settings.budget_bytes, why };
        if class != Class::Space && used + bytes + reserve > settings.budget_bytes {
            return Err(full(Shortage::Budget));
        }
        let room = state.room_bytes().saturating_sub(shared.admitted.load(Ordering::Relaxed));
        if state.disk_full && room < bytes + on_disk {
            return Err(full(Shortage::Disk));
        }
        // What frees space has room of its own.
        let counted = if class == Class::Space { 0 } else { bytes };
        shared.admitted.fetch_add(counted, Ordering::Relaxed);
        Ok(Admission { shared: Arc::clone(shared), bytes: counted })
    }

    /// As [`Wal::admit`], but waits its turn for up to a second where the budget is used up and the log is being emptied: so a log that fills faster than
    /// it is emptied takes as much as leaves it, instead of refusing what is then sent again. Cancellation-safe: a dropped call has no room.
    ///
    /// # Errors
    /// As [`Wal::admit`]; at once if nothing leaves the log.
    pub async fn admit_soon(&self, bytes: u64, class: Class) -> Result<Admission, Full> {
        let shared = &self.handle.shared;
        // Nobody overtakes those who wait.
        match self.admit(bytes, class) {
            Ok(room) if class != Class::Data || shared.waiting.load(Ordering::Relaxed) == 0 => return Ok(room),
            Ok(room) => drop(room),
            Err(full) if class == Class::Data && full.why == Shortage::Budget && self.is_emptied() => {}
            Err(full) => return Err(full),
        }
        let _waiting = Waiting::new(Arc::clone(shared));
        let over = self.handle.env.clock.sleep(PATIENCE);
        let turn = async {
            let _turn = shared.turn.lock().await;
            loop {
                let freed = shared.freed.notified();
                match self.admit(bytes, class) {
                    Err(full) if full.why == Shortage::Budget && self.is_emptied() => freed.await,
                    decided => return decided,
                }
            }
        };
        match select(std::pin::pin!(turn), over).await {
            Either::Left((decided, _)) => decided,
            Either::Right(_) => self.admit(bytes, class),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.handle.shared.waiting.load(Ordering::Relaxed) > 0
    }

    fn is_emptied(&self) -> bool {
        let now = self.handle.env.clock.monotonic();
        let freed_at = Duration::from_millis(self.handle.shared.freed_at_ms.load(Ordering::Relaxed));
        !freed_at.is_zero() && now.saturating_sub(freed_at) < EMPTIED_WITHIN
    }

    /// Time that the log has spent on writes and syncs since it was opened.
    pub fn disk_time(&self) -> Duration {
        Duration::from_nanos(self.handle.shared.disk_ns.load(Ordering::Relaxed))
    }

    /// Where an entry stands, and its length; `None` if it is not in the log.
    pub fn entry(&self, journal: JournalId, index: u64) -> Option<EntryRef> {
        let state = self.handle.shared.state.lock();
        let slot = state.journals.get(&journal)?.slot(index)?;
        Some(EntryRef { at: Position { term: slot.term, leader: slot.leader, index }, len: slot.length })
    }

    /// Whether an entry of this term is durable: [`Wal::entry`] finds it as soon as it is submitted.
    pub fn is_durable(&self, journal: JournalId, at: Position) -> bool {
        let state = self.handle.shared.state.lock();
        let slot = state.journals.get(&journal).and_then(|log| log.slot(at.index));
        slot.is_some_and(|slot| slot.term == at.term && slot.generation != 0)
    }

    /// The first index that is (or would be) in the log: one above the purge point.
    pub fn first_index(&self, journal: JournalId) -> u64 {
        self.handle.shared.state.lock().journals.get(&journal).map_or(1, |log| log.first)
    }

    /// The last entry, else the purge point, else `None`.
    pub fn last(&self, journal: JournalId) -> Option<Position> {
        self.handle.shared.state.lock().journals.get(&journal)?.last()
    }

    /// Reads an entry's payload; its checksum is verified.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, journal: JournalId, index: u64) -> Result<Bytes, ReadError> {
        loop {
            let (open, slot) = self.find(journal, index)?;
            let file = Arc::clone(&open);
            let read = self.handle.env.run_blocking(move || allocator::read_payload(&file, &slot)).await;
            match read {
                Ok(payload) => return Ok(payload),
                Err(source) => self.explain(journal, index, &open, slot, source)?,
            }
        }
    }

    /// Reads a part of an entry's payload. No checksum is verified: the caller checks that of the batch.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_range(&self, journal: JournalId, index: u64, range: Range<u32>) -> Result<Bytes, ReadError> {
        loop {
            let (open, slot) = self.find(journal, index)?;
            let Range { start, end } = range;
            if start > end || end > slot.length {
                return Err(ReadError::Range { journal, index, len: slot.length, start, end });
            }
            let file = Arc::clone(&open);
            let read = move || {
                let mut bytes = vec![0; (end - start) as usize];
                let offset = u64::from(slot.offset) + FRAME_HEADER_BYTES as u64 + u64::from(start);
                file.file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
            };
            let bytes = self.handle.env.run_blocking(read).await;
            // A file that was used again meanwhile gives other bytes without an error.
            let still = self.find(journal, index).is_ok_and(|(_, now)| now == slot);
            match bytes {
                Ok(bytes) if still => return Ok(bytes),
                Ok(_) => {}
                Err(source) => self.explain(journal, index, &open, slot, source)?,
            }
        }
    }

    fn find(&self, journal: JournalId, index: u64) -> Result<(Arc<OpenFile>, Slot), ReadError> {
        let state = self.handle.shared.state.lock();
        let slot = state.journals.get(&journal).and_then(|log| log.slot(index));
        let slot = *slot.ok_or(ReadError::Missing { journal, index })?;
        let file = state.files.get(&slot.generation).ok_or(ReadError::NotWritten { journal, index })?;
        Ok((Arc::clone(&file.open), slot))
    }

    /// `Ok` if the entry was moved meanwhile: read it again.
    fn explain(
        &self,
        journal: JournalId,
        index: u64,
        open: &OpenFile,
        slot: Slot,
        source: std::io::Error,
    ) -> Result<(), ReadError> {
        if self.find(journal, index)?.1 != slot {
            return Ok(());
        }
        let path = open.path.clone();
        match source.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                Err(ReadError::Corrupt { journal, index, path, offset: u64::from(slot.offset) })
            }
            _ => Err(ReadError::Io { journal, index, path, source }),
        }
    }

    /// What the log says of itself.
    pub fn status(&self) -> Status {
        let settings = &self.handle.shared.settings;
        let hard = settings.budget_bytes - settings.control_reserve_bytes;
        let begun = Duration::from_millis(self.handle.shared.writing_since_ms.load(Ordering::Relaxed));
        let writing_for = if begun.is_zero() { begun } else { self.handle.env.clock.monotonic().saturating_sub(begun) };
        let state = self.handle.shared.state.lock();
        let used_bytes = state.used_bytes();
        let pressure = match used_bytes {
            used if used >= hard => Pressure::Hard,
            used if used >= settings.soft_bytes() => Pressure::Soft,
            _ => Pressure::Normal,
        };
        Status {
            used_bytes,
            budget_bytes: settings.budget_bytes,
            data_budget_bytes: hard,
            files: state.files.len(),
            pressure,
            room_bytes: if state.disk_full { 0 } else { hard.saturating_sub(used_bytes + hard / 16) },
            disk_full: state.disk_full,
            writing_for,
            last_sync: state.last_sync,
            syncs: state.syncs,
            written_bytes: state.written_bytes,
        }
    }

    /// Resolves when a write or sync has failed: the process must end. Never resolves otherwise.
    pub fn failed(&self) -> BoxFuture<'static, Arc<Failed>> {
        let mut failure = self.handle.shared.failure.subscribe();
        Box::pin(async move {
            let failed = match failure.wait_for(Option::is_some).await {
                Ok(failed) => failed.clone(),
                Err(_closed) => None,
            };
            match failed {
                Some(failed) => failed,
                None => std::future::pending().await,
            }
        })
    }

    /// Writes what is pending, marks it durable and ends both threads. Other handles must not submit any more: what they do is lost.
    pub async fn close(self) {
        let shared = &self.handle.shared;
        shared.state.lock().closing = true;
        shared.writer.notify_one();
        shared.allocator.notify_one();
        let threads = std::mem::take(&mut *self.handle.threads.lock());
        for thread in threads {
            thread.join().await;
        }
    }
}

fn pending_bytes(write: &Write) -> u64 {
    let payload = match write {
        Write::Entry { payload, .. } => payload.bytes(),
        Write::Vote { bytes, .. } => bytes.len(),
        Write::TruncateAfter { .. } | Write::Purge { .. } | Write::Committed { .. } | Write::Forget { .. } => 0,
    };
    frame_bytes(payload) as u64
}

/// Finds a caller's errors before anything is changed.
fn check(state: &State, writes: &[Write], max_payload_bytes: usize) {
    // Nearly always one journal: remember where it stands after the writes so far.
    let mut ends: Vec<(JournalId, u64, u64)> = Vec::new();
    for write in writes {
        let journal = match write {
            Write::Entry { journal, .. }
            | Write::TruncateAfter { journal, .. }
            | Write::Purge { journal, .. }
            | Write::Forget { journal } => *journal,
            Write::Vote { bytes, .. } => {
                assert!(bytes.len() <= MAX_VOTE_BYTES, "a vote of {} bytes exceeds {MAX_VOTE_BYTES}", bytes.len());
                continue;
            }
            Write::Committed { .. } => continue,
        };
        let place = ends.iter().position(|(known, ..)| *known == journal).unwrap_or_else(|| {
            ends.push(state.journals.get(&journal).map_or((journal, 1, 1), |log| (journal, log.first, log.end())));
            ends.len() - 1
        });
        let (_, first, end) = &mut ends[place];
        match write {
            Write::Entry { at, payload, .. } => {
                assert_eq!(at.index, *end, "an entry of journal {journal} does not follow the last one");
                let bytes = payload.bytes();
                assert!(bytes <= max_payload_bytes, "an entry of {bytes} bytes exceeds {max_payload_bytes}");
                *end += 1;
            }
            Write::TruncateAfter { index, .. } => {
                assert!(*index + 1 >= *first, "a truncation of journal {journal} goes below its purge point");
                *end = (*end).min(index + 1);
            }
            Write::Purge { at, .. } => {
                *first = (*first).max(at.index + 1);
                *end = (*end).max(*first);
            }
            Write::Forget { .. } => (*first, *end) = (1, 1),
            Write::Vote { .. } | Write::Committed { .. } => {}
        }
    }
}

/// Makes the writes visible to readers of the index.
fn take_in(state: &mut State, writes: &[Write], releases: &mut Vec<crate::shared::Release>) {
    for write in writes {
        match write {
            Write::Entry { journal, at, payload } => {
                let length = u32::try_from(payload.bytes()).expect("checked against the longest payload");
                let slot = Slot { term: at.term, leader: at.leader, length, ..Slot::default() };
                state.journals.entry(*journal).or_default().slots.push_back(slot);
            }
            Write::TruncateAfter { journal, index } => {
                state.journals.entry(*journal).or_default().truncate_after(*index, releases);
            }
            Write::Purge { journal, at } => state.journals.entry(*journal).or_default().purge(*at, releases),
            Write::Committed { journal, at } => {
                if state.journals.entry(*journal).or_default().committed.replace(*at).is_none() {
                    state.noted.push(*journal);
                }
            }
            Write::Forget { journal } => {
                if let Some(mut log) = state.journals.remove(journal) {
                    log.truncate_after(0, releases);
                }
            }
            Write::Vote { .. } => {}
        }
    }
}
