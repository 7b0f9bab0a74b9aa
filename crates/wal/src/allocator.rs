//! The allocator thread: makes files ready ahead of the writer, uses freed ones again, and moves the last live frames out of old files.
//!
//! A freed file is renamed before its header is replaced, and the folder is synced in between, so that a crash never leaves a file under
//! a name that its header contradicts. No room on the disk is not a failure: it is tried again; any other error is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select;
use tidegate_env::bugs::{self, Bug};
use tidegate_env::{Disk, Env, OpenMode};
use tidegate_model::JournalId;
use uuid::Uuid;

use crate::format::{self, FRAME_HEADER_BYTES, FileHeader, FrameHeader, VERSION};
use crate::shared::{Batch, OnPanic, OpenFile, Shared, Slot, State};
use crate::{Failed, Payload, Position, Write};

/// Files that are made ready ahead of the writer.
const READY_FILES: usize = 2;
/// Freed files that are kept for later; more are removed.
const SPARE_FILES: usize = 4;
/// How long to wait before trying again to find room.
const RETRY: Duration = Duration::from_millis(500);
/// Live bytes that are moved at a time.
const MOVE_BYTES: u64 = 4 << 20;

pub(crate) struct Allocator {
    pub(crate) shared: Arc<Shared>,
    pub(crate) env: Env,
    pub(crate) log: Uuid,
}

enum Work {
    Prepare { generation: u32, spare: Option<PathBuf> },
    Remove(PathBuf),
    Move { generation: u32 },
    End,
}

impl Allocator {
    /// Runs until the writer has ended.
    pub(crate) async fn run(self) {
        let _on_panic = OnPanic::of_allocator(&self.shared);
        loop {
            let failed = match self.next().await {
                Work::Prepare { generation, spare } => self.prepare(generation, spare).await,
                Work::Remove(path) => self.remove(&path),
                Work::Move { generation } => {
                    self.move_frames(generation);
                    Ok(())
                }
                Work::End => return,
            };
            if let Err(failed) = failed {
                self.shared.fail(failed);
            }
        }
    }

    async fn next(&self) -> Work {
        loop {
            let rung = self.shared.allocator.notified();
            {
                let mut state = self.shared.state.lock();
                if state.failed.is_some() || state.writer_ended {
                    return Work::End;
                }
                if state.ready.len() < READY_FILES {
                    return Work::Prepare { generation: state.next_generation, spare: state.spares.pop_front() };
                }
                if state.spares.len() > SPARE_FILES
                    && let Some(path) = state.spares.pop_front()
                {
                    return Work::Remove(path);
                }
                if let Some(generation) = self.movable(&state) {
                    state.moving = true;
                    return Work::Move { generation };
                }
            }
            rung.await;
        }
    }

    async fn prepare(&self, generation: u32, spare: Option<PathBuf>) -> Result<(), Failed> {
        let settings = &self.shared.settings;
        let header = FileHeader {
            version: VERSION,
            log: self.log,
            generation,
            salt: self.env.random.next_u64(),
            file_bytes: settings.file_bytes,
        };
        let disk = &*self.env.disk;
        match prepare_file(disk, &settings.directory, header, spare.as_deref()) {
            Ok(open) => {
                let mut state = self.shared.state.lock();
                state.ready.push_back(Arc::new(open));
                state.next_generation += 1;
                state.disk_full = false;
                drop(state);
                self.shared.writer.notify_one();
                Ok(())
            }
            Err((_, _, error)) if error.kind() == io::ErrorKind::StorageFull => {
                if !std::mem::replace(&mut self.shared.state.lock().disk_full, true) {
                    tracing::warn!(
                        bytes = settings.file_bytes,
                        "the disk has no room for another WAL file: appends will be refused"
                    );
                }
                // A closing writer must hear that it waits in vain.
                self.shared.writer.notify_one();
                let rung = self.shared.allocator.notified();
                select(std::pin::pin!(rung), self.env.clock.sleep(RETRY)).await;
                Ok(())
            }
            Err((what, path, source)) => Err(Failed { what, path, source }),
        }
    }

    fn remove(&self, path: &Path) -> Result<(), Failed> {
        let disk = &*self.env.disk;
        let removed = disk.remove_file(path).and_then(|()| disk.sync_dir(&self.shared.settings.directory));
        removed.map_err(|source| Failed { what: "removing", path: path.to_owned(), source })
    }

    /// The oldest file, if moving what it still holds frees much for little: see [`worth_moving`].
    fn movable(&self, state: &State) -> Option<u32> {
        if state.moving || state.closing {
            return None;
        }
        let soft = self.shared.settings.soft_bytes();
        let used = state.used_bytes();
        let share = match used {
            used if used >= soft => 2,
            used if used >= soft / 2 => 8,
            _ => return None,
        };
        let (generation, oldest) = state.files.first_key_value()?;
        if oldest.stuck || !oldest.sealed {
            return None;
        }
        let sealed = state.files.values().take_while(|file| file.sealed && !file.stuck);
        worth_moving(sealed.map(|file| (file.live_bytes, file.open.header.file_bytes)), share).then_some(*generation)
    }

    /// Submits a part of the oldest file's live frames again; the file goes once none is left.
    fn move_frames(&self, generation: u32) {
        let picked = {
            let state = self.shared.state.lock();
            let open = state.files.get(&generation).map(|file| Arc::clone(&file.open));
            open.map(|open| (open, pick(&state, generation)))
        };
        let Some((open, picked)) = picked else { return self.moved() };
        let mut writes = Vec::with_capacity(picked.len());
        for (journal, index, slot) in picked {
            match read_payload(&open, &slot) {
                Ok(payload) => writes.push((journal, index, slot, payload)),
                Err(error) => {
                    tracing::error!(path = %open.path.display(), offset = slot.offset, %journal, index, %error,
                        "a live frame of an old WAL file cannot be read: the file stays");
                    if let Some(file) = self.shared.state.lock().files.get_mut(&generation) {
                        file.stuck = true;
                    }
                    return self.moved();
                }
            }
        }
        self.submit_moved(writes);
    }

    fn submit_moved(&self, found: Vec<(JournalId, u64, Slot, Bytes)>) {
        let mut state = self.shared.state.lock();
        let mut batch = Batch { writes: Vec::new(), moved: true, releases: Vec::new(), bytes: 0 };
        for (journal, index, slot, payload) in found {
            // Still what it was: so nothing in the queue removes it, and what comes later is ordered behind.
            if state.journals.get(&journal).and_then(|log| log.slot(index)) == Some(&slot) {
                let at = Position { term: slot.term, leader: slot.leader, index };
                batch.bytes += slot.frame_bytes();
                batch.writes.push(Write::Entry { journal, at, payload: Payload::from(payload) });
            }
        }
        if batch.writes.is_empty() {
            state.moving = false;
            return;
        }
        let shared = Arc::clone(&self.shared);
        let done: crate::Done = Box::new(move |_written| {
            shared.state.lock().moving = false;
            shared.allocator.notify_one();
        });
        state.queued_bytes += batch.bytes;
        state.queue.push_back((batch, Some(done)));
        drop(state);
        self.shared.writer.notify_one();
    }

    fn moved(&self) {
        self.shared.state.lock().moving = false;
    }
}

/// Whether for some number of oldest files the live part is at most one `share`-th, so that moving it frees the rest.
fn worth_moving(files: impl Iterator<Item = (u64, u64)>, share: u64) -> bool {
    let (mut live, mut all) = (0, 0);
    for (live_bytes, file_bytes) in files {
        live += live_bytes;
        all += file_bytes;
        if live * share <= all {
            return true;
        }
    }
    false
}

fn pick(state: &State, generation: u32) -> Vec<(JournalId, u64, Slot)> {
    let (mut picked, mut bytes) = (Vec::new(), 0);
    for (journal, log) in &state.journals {
        for (place, slot) in log.slots.iter().enumerate() {
            if slot.generation != generation {
                continue;
            }
            if bytes >= MOVE_BYTES {
                return picked;
            }
            bytes += slot.frame_bytes();
            picked.push((*journal, log.first + place as u64, *slot));
        }
    }
    picked.sort_by_key(|(_, _, slot)| slot.offset);
    picked
}

/// Reads a frame and checks it.
pub(crate) fn read_payload(open: &OpenFile, slot: &Slot) -> io::Result<Bytes> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + slot.length as usize];
    open.file.read_exact_at(&mut frame, u64::from(slot.offset))?;
    match FrameHeader::read(&frame, &open.header) {
        Some((header, payload)) if header.length == slot.length && header.at.term == slot.term => {
            Ok(Bytes::from(frame).slice(payload))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the frame fails its checksum")),
    }
}

/// Makes a file ready under its final name, durable with its folder: a spare one by a new header, else a new one, written full of zeros.
///
/// # Errors
/// What was tried on which file. `StorageFull` only while allocating, with the half-made file removed.
pub(crate) fn prepare_file(
    disk: &dyn Disk,
    directory: &Path,
    header: FileHeader,
    spare: Option<&Path>,
) -> Result<OpenFile, (&'static str, PathBuf, io::Error)> {
    let parked = directory.join(format!("{:010}.spare", header.generation));
    let path = directory.join(format::file_name(header.generation));
    let at_parked = |what| move |error| (what, directory.join(format!("{:010}.spare", header.generation)), error);
    if let Some(spare) = spare {
        if spare != parked {
            disk.rename(spare, &parked).map_err(at_parked("renaming"))?;
        }
        sync_folder(disk, directory).map_err(at_parked("syncing the folder"))?;
    }
    let file = disk.open(&parked, OpenMode::CreateOrOpen).map_err(at_parked("opening"))?;
    let bytes = file.len().map_err(at_parked("measuring"))?;
    if bytes != header.file_bytes {
        let allocated = file.set_len(0).and_then(|()| file.allocate(header.file_bytes));
        if let Err(error) = allocated {
            // Gives back what it took; a failure to do so changes nothing about the first error.
            let _ = disk.remove_file(&parked);
            return Err(("allocating", parked, error));
        }
    }
    file.write_vectored_at(&[header.encode()], 0).map_err(at_parked("writing the header of"))?;
    file.sync_all().map_err(at_parked("a sync"))?;
    disk.rename(&parked, &path).map_err(at_parked("renaming"))?;
    sync_folder(disk, directory).map_err(at_parked("syncing the folder"))?;
    Ok(OpenFile { file, path, header })
}

fn sync_folder(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    if bugs::on(Bug::SkipFolderSync) { Ok(()) } else { disk.sync_dir(directory) }
}
