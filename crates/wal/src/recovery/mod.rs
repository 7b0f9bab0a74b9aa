//! Opening a log: which files there are, what they hold, where the torn tail begins, and making durable what a crash left in doubt.
//!
//! The line: damage at or below the greatest durable sequence that the mark or any valid frame states is corruption, and refused. Above it, the tail
//! is torn: it ends before the first frame that is not whole, and even valid frames behind are dropped and wiped. What lies above the
//! line and is whole is written again and synced, with its folder, before anybody builds on it.
//!
//! Whoever wrote to a file had synced all files before. So only the newest file that holds frames is read in full; of the others the
//! opening and the seal are (and all of it, should the seal be damaged: it repeats only what the frames say).

mod files;
mod replay;
pub(crate) mod scan;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tidegate_env::bugs::{self, Bug};
use tidegate_env::watch;
use tidegate_env::{BLOCK_BYTES, Env, LockGuard};
use tidegate_model::JournalId;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::format::{self, FILE_HEADER_BYTES, FRAME_HEADER_BYTES};
use crate::log_state::{JournalLog, LogStates};
use crate::mark::{self, Durable, Mark};
use crate::shared::{OpenFile, Shared, State};
use crate::writer::Current;
use crate::{OpenError, Settings};

use replay::Replay;
use scan::Scan;

/// What an opened log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Each journal that was ever written to.
    pub journals: BTreeMap<JournalId, JournalLog>,
}

/// Everything that the writer and the handle start from.
pub(crate) struct Opened {
    pub(crate) shared: Shared,
    pub(crate) states: LogStates,
    pub(crate) current: Option<Current>,
    pub(crate) log: Uuid,
    /// Where the writer says what is durable; `None` if the disk had no room for it.
    pub(crate) mark: Option<Mark>,
    /// The last sequence.
    pub(crate) last: u64,
    /// The greatest durable sequence that the mark or a frame states.
    pub(crate) durable: u64,
    pub(crate) recovered: Recovered,
}

/// The newest file that holds frames, all of it.
struct Newest {
    place: usize,
    bytes: Bytes,
    scan: Scan,
}

/// Maps an error of the disk.
fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// Opens or makes the log. Blocks.
pub(crate) fn open(settings: Settings, env: &Env) -> Result<Opened, OpenError> {
    let disk = &*env.disk;
    disk.create_dir_all_durably(&settings.directory).map_err(io_error("make the folder", &settings.directory))?;
    let lock_path = settings.directory.join("lock");
    let lock = disk.lock(&lock_path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: lock_path.clone() },
        _ => OpenError::Io { what: "lock", path: lock_path.clone(), source },
    })?;
    let found = files::find(&settings, env)?;
    let mut files = found.files;
    let mut mark = mark::read(disk, &settings.directory, found.log)?;
    if bugs::on(Bug::ForgetMark) {
        mark.durable = None;
    }
    let marked = mark.durable;
    let newest = newest(&files)?;
    let mut replay = Replay::default();
    let mut state = State::default();
    let mut lasts = BTreeMap::new();
    let (mut current, mut last, mut durable) = (None, 0, 0);
    let mut at_end = None;
    if let Some(mut newest) = newest {
        durable = newest.scan.durable().max(marked.map_or(0, |marked| marked.sequence));
        let mut torn_file = None;
        if newest.scan.frames.is_empty() {
            torn_file = Some(newest.place);
            newest = before_torn_opening(&files, newest, durable)?;
        }
        for place in 0..newest.place {
            replay.sealed_file(&files[place], &files[place + 1])?;
        }
        replay.newest_file(&files[newest.place], &newest.bytes, &newest.scan)?;
        last = check_tail(&files[newest.place..], &newest.scan, durable)?;
        replay.check_complete(&files[0])?;
        make_durable(&settings, env, &files, &newest, durable)?;
        if let Some(place) = torn_file {
            files[place] = Arc::new(files::salted_again(&files[place], env)?);
        }
        let generation = files[newest.place].header.generation;
        at_end = Some(Durable { sequence: last, generation, end: newest.scan.end as u64 });
        current = current_file(&files, &newest);
        let used = newest.place + 1;
        lasts = replay.lasts();
        replay.fill(&mut state, &files[..used], current.is_none());
        files.drain(..used);
    } else if let Some(marked) = marked.filter(|marked| marked.sequence > 0) {
        return Err(gone(&files, &settings, marked));
    } else if files.first().is_some_and(|file| file.header.generation != 1) {
        let path = settings.directory.clone();
        return Err(OpenError::Missing { path, reason: "no file holds a frame, and the first files are gone".into() });
    }
    let mark = match (mark.open(disk, &settings.directory, found.log)?, at_end) {
        (Some(mark), Some(at_end)) => Some(marked_anew(mark, at_end)?),
        (mark, _) => mark,
    };
    durable = if mark.is_some() { last } else { durable };
    state.next_generation = files.last().map(|file| file.header.generation + 1).unwrap_or(0).max(state.next_generation).max(1);
    state.ready.extend(files);
    state.spares.extend(found.spares);
    state.current_bytes = current.as_ref().map_or(0, |current| current.position);
    let shared = shared(settings, state, lock);
    let recovered = replay.recovered(&lasts);
    Ok(Opened { shared, states: replay.states, current, log: found.log, mark, last, durable, recovered })
}

/// What handle, writer and allocator share at the start.
fn shared(settings: Settings, state: State, lock: Box<dyn LockGuard>) -> Shared {
    Shared {
        settings,
        state: parking_lot::Mutex::new(state),
        admitted: AtomicU64::new(0),
        disk_ns: AtomicU64::new(0),
        writing_since_ms: AtomicU64::new(0),
        freed_at_ms: AtomicU64::new(0),
        freed: Notify::new(),
        turn: tokio::sync::Mutex::default(),
        waiting: AtomicU64::new(0),
        writer: Notify::new(),
        allocator: Notify::new(),
        failure: watch::Sender::new(None),
        _lock: lock,
    }
}

/// Says in the mark what recovery has made durable.
fn marked_anew(mut mark: Mark, durable: Durable) -> Result<Mark, OpenError> {
    mark.write(durable).and_then(|()| mark.file.sync_data()).map_err(io_error("write", &mark.path))?;
    mark.synced();
    Ok(mark)
}

/// The mark knows of frames, and no file holds one.
fn gone(files: &[Arc<OpenFile>], settings: &Settings, marked: Durable) -> OpenError {
    let Durable { sequence, generation, end } = marked;
    match files.iter().find(|file| file.header.generation == generation) {
        Some(file) => {
            let reason = format!("no frame is whole, and those up to {sequence}, which ended at {end}, were durable");
            OpenError::Corrupt { path: file.path.clone(), offset: FILE_HEADER_BYTES, reason }
        }
        None => {
            let path = settings.directory.join(format::file_name(generation));
            OpenError::Missing { path, reason: format!("it held frames up to {sequence}, which were durable") }
        }
    }
}

/// Looks from the newest file back for the first that holds any valid frame.
fn newest(files: &[Arc<OpenFile>]) -> Result<Option<Newest>, OpenError> {
    for (place, file) in files.iter().enumerate().rev() {
        let newest = load(place, file)?;
        if !newest.scan.is_empty() {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

fn load(place: usize, file: &OpenFile) -> Result<Newest, OpenError> {
    let bytes = Bytes::from(files::read_all(file)?);
    let scan = scan::scan(&bytes, &file.header);
    Ok(Newest { place, bytes, scan })
}

/// A file whose opening is not whole: torn if nothing says that it was durable; then the file before is the newest.
fn before_torn_opening(files: &[Arc<OpenFile>], torn: Newest, durable: u64) -> Result<Newest, OpenError> {
    let file = &files[torn.place];
    let corrupt = |reason: String| OpenError::Corrupt { path: file.path.clone(), offset: FILE_HEADER_BYTES, reason };
    if torn.place == 0 {
        if durable > 0 {
            return Err(corrupt(format!("its opening is damaged, and frames up to {durable} were durable")));
        }
        // The very first commit was torn.
        return Ok(Newest { place: 0, bytes: torn.bytes, scan: Scan { end: FILE_HEADER_BYTES as usize, ..Scan::default() } });
    }
    let before = load(torn.place - 1, &files[torn.place - 1])?;
    match before.scan.last_sequence() {
        Some(last) if last >= durable => Ok(before),
        // Damage there, or an opening here that was durable: the caller's checks tell the first.
        Some(_) if before.scan.seal.is_none() => Ok(before),
        _ => Err(corrupt(format!("its opening is damaged, and frames up to {durable} were durable"))),
    }
}

/// The last sequence, unless something at or below the durable one is damaged. `files` are the newest one that holds frames and those after it.
fn check_tail(files: &[Arc<OpenFile>], scan: &Scan, durable: u64) -> Result<u64, OpenError> {
    let last = scan.last_sequence().unwrap_or(0);
    if last >= durable || bugs::on(Bug::RotIsTornTail) {
        return Ok(last);
    }
    let reason = format!("the frame with sequence {} is not whole, and frames up to {durable} were durable", last + 1);
    match (scan.seal, files) {
        (None, [file, ..]) => Err(OpenError::Corrupt { path: file.path.clone(), offset: scan.end as u64, reason }),
        (Some(_), [_, next, ..]) => Err(OpenError::Corrupt { path: next.path.clone(), offset: FILE_HEADER_BYTES, reason }),
        (Some(_), [file]) => {
            let path = file.path.with_file_name(format::file_name(file.header.generation + 1));
            Err(OpenError::Missing { path, reason })
        }
        (_, []) => Ok(last),
    }
}

/// Writes the tail again, wipes what is dropped, and syncs file and folder.
fn make_durable(settings: &Settings, env: &Env, files: &[Arc<OpenFile>], newest: &Newest, durable: u64) -> Result<(), OpenError> {
    let Newest { place, bytes, scan } = newest;
    if bugs::on(Bug::SkipTailRewrite) {
        return Ok(());
    }
    let open = &files[*place];
    let write = |range: std::ops::Range<usize>| {
        open.file
            .write_vectored_at(&[bytes.slice(range.clone())], range.start as u64)
            .map_err(io_error("rewrite the tail of", &open.path))
    };
    if let Some(first) = scan.frames.iter().find(|found| found.header.sequence > durable) {
        write(first.offset..scan.end)?;
    }
    if let Some(seal) = scan.seal.filter(|seal| seal.header.sequence > durable) {
        write(seal.offset..seal.end())?;
    }
    if !scan.beyond.is_empty() {
        tracing::warn!(path = %open.path.display(), offset = scan.end, frames = scan.beyond.len(), "a torn tail is dropped");
    }
    for dropped in &scan.beyond {
        let zeros = Bytes::from_static(&[0; FRAME_HEADER_BYTES]);
        open.file.write_vectored_at(&[zeros], dropped.offset as u64).map_err(io_error("wipe the torn tail of", &open.path))?;
    }
    open.file.sync_all().map_err(io_error("sync", &open.path))?;
    env.disk.sync_dir(&settings.directory).map_err(io_error("sync", &settings.directory))
}

/// Where the writer goes on; `None` if the newest file is sealed or has not even an opening.
fn current_file(files: &[Arc<OpenFile>], newest: &Newest) -> Option<Current> {
    let first = newest.scan.frames.first()?;
    if newest.scan.seal.is_some() {
        return None;
    }
    let listed = newest.scan.frames.iter().map(replay::listed).collect();
    let open = Arc::clone(&files[newest.place]);
    let end = newest.scan.end;
    let block = newest.bytes[end - end % BLOCK_BYTES..end].to_vec();
    Some(Current { open, position: end as u64, first_sequence: first.header.sequence, listed, block })
}
