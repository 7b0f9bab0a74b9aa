//! The writer thread: drain what is pending, one vectored write, one fdatasync, then the callers in order; then the next.
//!
//! Never waits for more to come. `durable` is the last sequence that a sync covered; it stands in every later frame, and after each sync in the mark, which
//! is synced once the log is idle, so that recovery can tell damage from a torn tail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::{Either, select};
use tidegate_env::bugs::{self, Bug};
use tidegate_env::{BLOCK_BYTES, Env, File};
use tidegate_model::JournalId;

use crate::format::{self, FILE_HEADER_BYTES, FrameHeader, Kind, Listed};
use crate::group::Group;
use crate::log_state::{self, LogStates};
use crate::mark::{Durable, Mark};
use crate::shared::{Batch, FileState, OnPanic, OpenFile, Shared, Slot};
use crate::{Done, Failed, Position, Write};

/// The file that is written to.
pub(crate) struct Current {
    pub(crate) open: Arc<OpenFile>,
    /// Where the next frame goes.
    pub(crate) position: u64,
    pub(crate) first_sequence: u64,
    pub(crate) listed: Vec<Listed>,
    /// What the block that `position` lies in holds before it.
    pub(crate) block: Vec<u8>,
}

impl Current {
    /// Writes chunks where the next frame goes. Whole blocks go past the page cache, which does little for a log but to cost CPU.
    fn write(&mut self, mut chunks: Vec<Bytes>, bytes: u64) -> io::Result<()> {
        let end = self.position + bytes;
        let next = block_after(&self.block, &chunks, end);
        let padding = padding(self, end);
        let whole = (end + padding.len() as u64).is_multiple_of(BLOCK_BYTES as u64);
        chunks.push(padding);
        if whole {
            self.open.file.write_blocks_at(&self.block, &chunks, self.position)?;
        } else {
            // The file's seal lies in the same block, and may be there already.
            self.open.file.write_vectored_at(&chunks, self.position)?;
        }
        (self.position, self.block) = (end, next);
        Ok(())
    }
}

/// An entry whose place becomes known once it is durable.
struct Placed {
    journal: JournalId,
    index: u64,
    slot: Slot,
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) env: Env,
    /// What the frames so far come to: what an opening repeats.
    pub(crate) states: LogStates,
    pub(crate) current: Option<Current>,
    /// The last sequence given out.
    pub(crate) sequence: u64,
    /// The last sequence that a sync covered.
    pub(crate) durable: u64,
    /// The greatest durable sequence that a synced mark or frame states.
    pub(crate) marked: u64,
    /// Says what is durable beside the log; `None` if the disk had no room for it when the log was opened.
    mark: Option<Mark>,
    group: Group,
    placed: Vec<Placed>,
}

/// A commit that can't go on.
enum Stop {
    Failed(Failed),
    /// Somebody else failed, and has told everybody.
    Ended,
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        Stop::Failed(failed)
    }
}

/// What to do next.
enum Work {
    Commit { batches: Vec<Batch>, dones: Vec<Done>, noted: Vec<(JournalId, Position)> },
    Mark,
    Close,
}

/// What goes into a frame.
struct Content<'a> {
    kind: Kind,
    journal: JournalId,
    at: Position,
    payload: &'a [Bytes],
}

/// Zeros up to the end of the block that `end` lies in, as far as they leave the file's seal alone: whole blocks go past the page cache, and of a page of
/// which only a part is written the rest would be read from the disk first. Nothing valid is behind `end`.
fn padding(current: &Current, end: u64) -> Bytes {
    let room = current.open.header.file_bytes - format::seal_bytes(current.listed.len()) as u64;
    let bytes = end.next_multiple_of(BLOCK_BYTES as u64).min(room).saturating_sub(end);
    Bytes::from_static(&[0; BLOCK_BYTES]).slice(..usize::try_from(bytes).unwrap_or(0))
}

/// What the block that `end` lies in holds before it, once the chunks follow what the last one held and end there.
fn block_after(block: &[u8], chunks: &[Bytes], end: u64) -> Vec<u8> {
    let keep = usize::try_from(end % BLOCK_BYTES as u64).unwrap_or(0);
    let mut skip = (block.len() + chunks.iter().map(Bytes::len).sum::<usize>()).saturating_sub(keep);
    let mut next = Vec::with_capacity(keep);
    for part in std::iter::once(block).chain(chunks.iter().map(Bytes::as_ref)) {
        let cut = skip.min(part.len());
        skip -= cut;
        next.extend_from_slice(&part[cut..]);
    }
    next
}

/// Frames longer than any settings allow are refused at submission.
const FITS: &str = "payloads are far below 4 GiB";

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, env: Env, states: LogStates, current: Option<Current>, mark: Option<Mark>) -> Writer {
        let (group, placed) = (Group::default(), Vec::new());
        Writer { shared, env, states, current, sequence: 0, durable: 0, marked: 0, mark, group, placed }
    }

    /// Runs until the log is closed or has failed.
    pub(crate) async fn run(mut self) {
        let _on_panic = OnPanic::of_writer(&self.shared);
        loop {
            let result = match self.next().await {
                Work::Commit { batches, dones, noted } => self.commit(batches, dones, noted).await,
                Work::Mark => self.mark().await,
                Work::Close => {
                    if let Err(Stop::Failed(failed)) = self.mark().await {
                        self.shared.fail(failed);
                    }
                    return self.shared.end();
                }
            };
            match result {
                Ok(()) => {}
                Err(Stop::Failed(failed)) => self.shared.fail(failed),
                Err(Stop::Ended) => {}
            }
        }
    }

    async fn next(&self) -> Work {
        loop {
            let rung = self.shared.writer.notified();
            if let Some(work) = self.pending() {
                return work;
            }
            if self.marked >= self.durable {
                rung.await;
                continue;
            }
            let idle = self.env.clock.sleep(self.shared.settings.idle_mark);
            if let Either::Right(_) = select(std::pin::pin!(rung), idle).await {
                return Work::Mark;
            }
        }
    }

    /// Takes what is pending, up to the limit of a group but at least one submission.
    fn pending(&self) -> Option<Work> {
        let mut state = self.shared.state.lock();
        if state.failed.is_some() {
            return Some(Work::Close);
        }
        let limit = self.shared.settings.group_bytes as u64;
        let (mut batches, mut dones, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((next, _)) = state.queue.front() {
            if bytes > 0 && bytes + next.bytes > limit {
                break;
            }
            bytes += next.bytes;
            if let Some((batch, done)) = state.queue.pop_front() {
                batches.push(batch);
                dones.extend(done);
            }
        }
        if batches.is_empty() {
            return state.closing.then_some(Work::Close);
        }
        let mut noted = Vec::new();
        // What is committed is in the log before it: only once nothing is left in the queue is that sure.
        if state.queue.is_empty() && !state.noted.is_empty() {
            for journal in std::mem::take(&mut state.noted) {
                let at = state.journals.get_mut(&journal).and_then(|log| log.committed.take());
                noted.extend(at.map(|at| (journal, at)));
            }
        }
        Some(Work::Commit { batches, dones, noted })
    }

    async fn commit(&mut self, batches: Vec<Batch>, mut dones: Vec<Done>, noted: Vec<(JournalId, Position)>) -> Result<(), Stop> {
        if bugs::on(Bug::AcknowledgeEarly) {
            dones.drain(..).for_each(|done| done(Ok(())));
        }
        match self.write_all(&batches, noted).await {
            Ok(()) => {
                self.complete(&batches, dones);
                Ok(())
            }
            Err(stop) => {
                // The failure is told before the queue behind is drained, so that the order of calls holds.
                let failed = match stop {
                    Stop::Failed(failed) => Arc::new(failed),
                    Stop::Ended => match self.shared.state.lock().failed.clone() {
                        Some(failed) => failed,
                        None => return Err(Stop::Ended),
                    },
                };
                let failed = Arc::clone(self.shared.state.lock().failed.get_or_insert(failed));
                for done in dones {
                    done(Err(Arc::clone(&failed)));
                }
                let source = io::Error::new(failed.source.kind(), failed.source.to_string());
                Err(Stop::Failed(Failed { what: failed.what, path: failed.path.clone(), source }))
            }
        }
    }

    async fn write_all(&mut self, batches: &[Batch], noted: Vec<(JournalId, Position)>) -> Result<(), Stop> {
        for batch in batches {
            for write in &batch.writes {
                self.put_write(write, batch.moved).await?;
            }
        }
        for (journal, at) in noted {
            self.put(Content { kind: Kind::Committed, journal, at, payload: &[] }).await?;
        }
        self.flush().await
    }

    async fn put_write(&mut self, write: &Write, moved: bool) -> Result<(), Stop> {
        let at_index = |index| Position { index, ..Position::default() };
        let content = match write {
            Write::Entry { journal, at, payload } => {
                let kind = if moved { Kind::Moved } else { Kind::Entry };
                Content { kind, journal: *journal, at: *at, payload: payload.chunks() }
            }
            Write::Vote { journal, bytes } => {
                Content { kind: Kind::Vote, journal: *journal, at: Position::default(), payload: std::slice::from_ref(bytes) }
            }
            Write::TruncateAfter { journal, index } => {
                Content { kind: Kind::Truncate, journal: *journal, at: at_index(*index), payload: &[] }
            }
            Write::Purge { journal, at } => Content { kind: Kind::Purge, journal: *journal, at: *at, payload: &[] },
            Write::Committed { journal, at } => Content { kind: Kind::Committed, journal: *journal, at: *at, payload: &[] },
            Write::Forget { journal } => Content { kind: Kind::Forget, journal: *journal, at: Position::default(), payload: &[] },
        };
        self.put(content).await
    }

    /// Adds a frame to the group, in the next file if this one has no room for it and for its seal.
    async fn put(&mut self, content: Content<'_>) -> Result<(), Stop> {
        let length: usize = content.payload.iter().map(Bytes::len).sum();
        if !self.fits(length) {
            self.roll().await?;
        }
        // A file that an earlier build began takes no frame that it would not know.
        while self.current.as_ref().is_some_and(|current| current.open.header.version < content.kind.version()) {
            self.roll().await?;
        }
        self.put_here(content, length);
        Ok(())
    }

    fn fits(&self, length: usize) -> bool {
        self.current.as_ref().is_some_and(|current| {
            let seal = format::seal_bytes(current.listed.len() + 1) as u64;
            let end = current.position + self.group.bytes() + format::frame_bytes(length) as u64;
            end + seal <= current.open.header.file_bytes
        })
    }

    fn put_here(&mut self, content: Content<'_>, length: usize) {
        let header = self.header(&content, length);
        let current = self.current.as_mut().expect("a frame is put only once a file is open");
        let offset = u32::try_from(current.position + self.group.bytes()).expect("files are at most 1 GiB");
        current.listed.push(Listed {
            journal: content.journal,
            kind: content.kind,
            offset,
            length: header.length,
            at: content.at,
        });
        self.group.push(&header, current.open.header.salt, content.payload);
        let Content { kind, journal, at, payload } = content;
        if matches!(kind, Kind::Entry | Kind::Moved) {
            let generation = header.generation;
            let slot = Slot { term: at.term, leader: at.leader, generation, offset, length: header.length };
            self.placed.push(Placed { journal, index: at.index, slot });
        }
        if !matches!(kind, Kind::Opening | Kind::Mark) {
            let payload = payload.first().filter(|_| kind == Kind::Vote).cloned().unwrap_or_default();
            let taken = log_state::take_in(&mut self.states, journal, kind, at, &payload);
            taken.expect("submissions are checked against the same rules");
        }
    }

    fn header(&mut self, content: &Content<'_>, length: usize) -> FrameHeader {
        self.sequence += 1;
        let current = self.current.as_ref().expect("a frame is put only once a file is open");
        FrameHeader {
            length: u32::try_from(length).expect(FITS),
            generation: current.open.header.generation,
            journal: content.journal,
            sequence: self.sequence,
            durable: self.durable,
            kind: content.kind,
            at: content.at,
        }
    }

    /// Writes the group and makes it durable.
    async fn flush(&mut self) -> Result<(), Stop> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let open = Arc::clone(&current.open);
        let bytes = self.group.bytes();
        let durable = self.durable;
        let begun = self.env.clock.monotonic();
        let begun_ms = u64::try_from(begun.as_millis()).unwrap_or(u64::MAX);
        self.shared.writing_since_ms.store(begun_ms.max(1), Ordering::Relaxed);
        if bytes > 0 {
            let failed = |source| Failed { what: "a write", path: open.path.clone(), source };
            current.write(self.group.take(), bytes).map_err(failed)?;
            wait(&self.env, &*open.file).await;
        }
        let position = current.position;
        let synced = Durable { sequence: self.sequence, generation: open.header.generation, end: position };
        if bugs::on(Bug::MarkEarly) {
            self.say_durable(synced)?;
        }
        self.sync(&*open.file, &open.path).await?;
        self.say_durable(synced)?;
        self.shared.writing_since_ms.store(0, Ordering::Relaxed);
        let took = self.env.clock.monotonic().saturating_sub(begun);
        self.shared.disk_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.durable = self.sequence;
        if bytes > 0 {
            self.marked = durable;
        }
        let mut state = self.shared.state.lock();
        state.current_bytes = position;
        state.written_bytes += bytes;
        Ok(())
    }

    /// Writes into the mark what a sync has just covered. Not synced: a killed process leaves it to the page cache.
    fn say_durable(&self, durable: Durable) -> Result<(), Stop> {
        let Some(mark) = &self.mark else { return Ok(()) };
        mark.write(durable).map_err(|source| Failed { what: "a write", path: mark.path.clone(), source })?;
        Ok(())
    }

    async fn sync(&self, file: &dyn File, path: &Path) -> Result<(), Stop> {
        let start = self.env.clock.monotonic();
        let mut synced = if bugs::on(Bug::SkipFsync) { Ok(()) } else { file.sync_data() };
        if synced.is_err() && bugs::on(Bug::RetryFsync) {
            synced = file.sync_data();
        }
        synced.map_err(|source| Failed { what: "a sync", path: path.to_owned(), source })?;
        wait(&self.env, file).await;
        let took = self.env.clock.monotonic().saturating_sub(start);
        let mut state = self.shared.state.lock();
        state.last_sync = took;
        state.syncs += 1;
        Ok(())
    }

    /// Seals the current file, if there is one, and opens the next.
    async fn roll(&mut self) -> Result<(), Stop> {
        if self.current.is_some() {
            self.seal().await?;
        }
        let open = self.next_file().await?;
        let (position, first_sequence) = (FILE_HEADER_BYTES, self.sequence + 1);
        self.current = Some(Current { open, position, first_sequence, listed: Vec::new(), block: Vec::new() });
        let opening = log_state::encode(&self.states);
        let length = opening.len();
        let content = Content { kind: Kind::Opening, journal: JournalId(0), at: Position::default(), payload: &[opening] };
        if !self.fits(length) {
            let source = io::Error::other("the journals' votes need more than a file; raise file_bytes");
            let path = self.shared.settings.directory.clone();
            return Err(Failed { what: "the opening of a file", path, source }.into());
        }
        self.put_here(content, length);
        Ok(())
    }

    /// Writes the index of the file's frames at its end and makes all of the file durable.
    async fn seal(&mut self) -> Result<(), Stop> {
        let Some(current) = &self.current else { return Ok(()) };
        let payload = format::encode_seal(current.first_sequence, &current.listed);
        let (open, length) = (Arc::clone(&current.open), payload.len());
        let payload = [payload];
        let content = Content { kind: Kind::Seal, journal: JournalId(0), at: Position::default(), payload: &payload };
        let header = self.header(&content, length);
        let mut seal = Group::default();
        seal.push(&header, open.header.salt, &payload);
        let offset = open.header.file_bytes - seal.bytes();
        let failed = |source| Failed { what: "a write", path: open.path.clone(), source };
        open.file.write_vectored_at(&seal.take(), offset).map_err(failed)?;
        self.flush().await?;
        open.file.end_blocks();
        let mut state = self.shared.state.lock();
        if let Some(file) = state.files.get_mut(&open.header.generation) {
            file.sealed = true;
        }
        state.current_bytes = 0;
        drop(state);
        self.current = None;
        Ok(())
    }

    /// The next file, which the allocator has made ready; waits while the disk has no room.
    async fn next_file(&self) -> Result<Arc<OpenFile>, Stop> {
        loop {
            let rung = self.shared.writer.notified();
            {
                let mut state = self.shared.state.lock();
                if state.failed.is_some() {
                    return Err(Stop::Ended);
                }
                if let Some(open) = state.ready.pop_front() {
                    let file = FileState { open: Arc::clone(&open), sealed: false, live_frames: 0, live_bytes: 0, stuck: false };
                    state.files.insert(open.header.generation, file);
                    state.current_bytes = FILE_HEADER_BYTES;
                    self.shared.allocator.notify_one();
                    return Ok(open);
                }
                if state.closing && state.disk_full {
                    let path = self.shared.settings.directory.clone();
                    let source = io::ErrorKind::StorageFull.into();
                    return Err(Failed { what: "the last commit before closing", path, source }.into());
                }
            }
            self.shared.allocator.notify_one();
            rung.await;
        }
    }

    /// Says up to where everything is durable.
    async fn mark(&mut self) -> Result<(), Stop> {
        if self.marked >= self.durable || self.shared.state.lock().failed.is_some() {
            return Ok(());
        }
        let noted: Vec<_> = {
            let mut state = self.shared.state.lock();
            let journals = if state.queue.is_empty() { std::mem::take(&mut state.noted) } else { Vec::new() };
            let take = |journal| Some((journal, state.journals.get_mut(&journal)?.committed.take()?));
            journals.into_iter().filter_map(take).collect()
        };
        if !noted.is_empty() || self.mark.is_none() {
            for (journal, at) in noted {
                self.put(Content { kind: Kind::Committed, journal, at, payload: &[] }).await?;
            }
            self.put(Content { kind: Kind::Mark, journal: JournalId(0), at: Position::default(), payload: &[] }).await?;
            self.flush().await?;
            self.complete(&[], Vec::new());
        }
        if let Some(mark) = &self.mark {
            let (file, path) = (Arc::clone(&mark.file), mark.path.clone());
            self.sync(&*file, &path).await?;
        }
        if let Some(mark) = &mut self.mark {
            mark.synced();
        }
        // A mark frame needs no mark of its own: nothing was acknowledged since the sequence that it states.
        self.marked = self.durable;
        Ok(())
    }

    /// Tells where entries lie, frees files and calls the callers, in order.
    fn complete(&mut self, batches: &[Batch], dones: Vec<Done>) {
        let (freed, wanted) = {
            let mut state = self.shared.state.lock();
            for placed in self.placed.drain(..) {
                state.place(placed.journal, placed.index, placed.slot);
            }
            for batch in batches {
                state.queued_bytes = state.queued_bytes.saturating_sub(batch.bytes);
                for release in &batch.releases {
                    state.release(*release);
                }
            }
            let released = batches.iter().any(|batch| !batch.releases.is_empty());
            // What was released may make it worth while to move the rest of an old file.
            let freed = state.free_files();
            (freed, freed || (released && state.used_bytes() >= self.shared.settings.soft_bytes() / 2))
        };
        if freed {
            let now = u64::try_from(self.env.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
            self.shared.freed_at_ms.store(now.max(1), Ordering::Relaxed);
            self.shared.freed.notify_waiters();
        }
        if wanted {
            self.shared.allocator.notify_one();
        }
        for done in dones {
            done(Ok(()));
        }
    }
}

/// Lets a simulated disk take its time.
async fn wait(env: &Env, file: &dyn File) {
    if let Some(latency) = file.simulated_latency() {
        env.clock.sleep(latency).await;
    }
}
