//! Taking in frames in their order: each journal's state, and where its entries lie.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::JournalId;

use super::files::read_all;
use super::scan::{self, Found, Scan};
use super::{Recovered, io_error};
use crate::format::{self, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, Kind, Listed, frame_bytes};
use crate::log_state::{self, JournalLog, LogStates};
use crate::shared::{FileState, Index, OpenFile, Slot, State};
use crate::{OpenError, Position};

/// What the files so far come to.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) states: LogStates,
    journals: BTreeMap<JournalId, Index>,
    /// The last sequence; `None` before the first file.
    sequence: Option<u64>,
}

/// As a seal lists a frame.
pub(super) fn listed(found: &Found) -> Listed {
    let header = &found.header;
    let offset = u32::try_from(found.offset).expect("files are at most 1 GiB");
    Listed { journal: header.journal, kind: header.kind, offset, length: header.length, at: header.at }
}

fn corrupt(file: &OpenFile, offset: u64, reason: String) -> OpenError {
    OpenError::Corrupt { path: file.path.clone(), offset, reason }
}

impl Replay {
    /// A file before the newest one: by its opening and its seal, or all of it if the seal is damaged.
    pub(super) fn sealed_file(&mut self, file: &OpenFile, next: &OpenFile) -> Result<(), OpenError> {
        let (opening, payload) = read_frame(file, FILE_HEADER_BYTES)?
            .filter(|(header, _)| header.kind == Kind::Opening)
            .ok_or_else(|| corrupt(file, FILE_HEADER_BYTES, "its opening fails its checksum".into()))?;
        self.opening(file, opening.sequence, &payload)?;
        let (frames, last) = match read_seal(file)? {
            Some((seal, first, frames)) if first == opening.sequence && seal == first + frames.len() as u64 => (frames, seal),
            _ => scanned(file, next)?,
        };
        for frame in &frames {
            self.frame(file, frame, &Bytes::new())?;
        }
        self.sequence = Some(last);
        Ok(())
    }

    /// The newest file, which was read in full.
    pub(super) fn newest_file(&mut self, file: &OpenFile, bytes: &Bytes, scan: &Scan) -> Result<(), OpenError> {
        let Some(first) = scan.frames.first() else { return Ok(()) };
        self.opening(file, first.header.sequence, &bytes[first.payload()])?;
        for found in &scan.frames {
            self.frame(file, &listed(found), &bytes.slice(found.payload()))?;
        }
        self.sequence = scan.last_sequence();
        Ok(())
    }

    /// Takes in what a file's opening repeats, which must be what the files before came to.
    fn opening(&mut self, file: &OpenFile, sequence: u64, payload: &[u8]) -> Result<(), OpenError> {
        let states =
            log_state::decode(payload).ok_or_else(|| corrupt(file, FILE_HEADER_BYTES, "its opening is malformed".into()))?;
        match self.sequence {
            None => {
                for (journal, state) in &states {
                    let first = state.first();
                    let entries = usize::try_from(state.end() - first).unwrap_or(usize::MAX);
                    let mut slots = VecDeque::new();
                    if slots.try_reserve(entries).is_err() {
                        return Err(corrupt(file, FILE_HEADER_BYTES, format!("its opening claims {entries} entries")));
                    }
                    slots.resize(entries, Slot::default());
                    self.journals.insert(*journal, Index { first, slots, purged: state.purged, committed: None });
                }
            }
            Some(last) if last + 1 != sequence => {
                let reason = format!("it begins with sequence {sequence}, the file before ends with {last}");
                return Err(corrupt(file, FILE_HEADER_BYTES, reason));
            }
            Some(_) => {
                let ends = |states: &LogStates| -> Vec<(JournalId, u64, u64)> {
                    states.iter().map(|(journal, state)| (*journal, state.first(), state.end())).collect()
                };
                if ends(&states) != ends(&self.states) {
                    let reason = "its opening does not repeat what the files before it say".into();
                    return Err(corrupt(file, FILE_HEADER_BYTES, reason));
                }
            }
        }
        self.states = states;
        Ok(())
    }

    fn frame(&mut self, file: &OpenFile, frame: &Listed, payload: &Bytes) -> Result<(), OpenError> {
        let Listed { journal, kind, offset, length, at } = *frame;
        if matches!(kind, Kind::Opening | Kind::Mark | Kind::Seal) {
            return Ok(());
        }
        let applied = log_state::take_in(&mut self.states, journal, kind, at, payload);
        applied.map_err(|reason| corrupt(file, u64::from(offset), format!("journal {journal}: {reason}")))?;
        if kind == Kind::Forget {
            self.journals.remove(&journal);
            return Ok(());
        }
        let generation = file.header.generation;
        let slot = Slot { term: at.term, leader: at.leader, generation, offset, length };
        let index = self.journals.entry(journal).or_default();
        let mut released = Vec::new();
        match kind {
            Kind::Entry => index.slots.push_back(slot),
            Kind::Moved => {
                if let Some(old) = index.slot_mut(at.index) {
                    *old = slot;
                }
            }
            Kind::Truncate => index.truncate_after(at.index, &mut released),
            Kind::Purge => index.purge(at, &mut released),
            Kind::Vote | Kind::Committed | Kind::Mark | Kind::Opening | Kind::Seal | Kind::Forget => {}
        }
        Ok(())
    }

    /// Refuses if an entry is in no file.
    pub(super) fn check_complete(&self, oldest: &OpenFile) -> Result<(), OpenError> {
        for (journal, log) in &self.journals {
            if let Some(place) = log.slots.iter().position(|slot| slot.generation == 0) {
                let index = log.first + place as u64;
                let before = oldest.header.generation.saturating_sub(1);
                return Err(OpenError::Missing {
                    path: oldest.path.with_file_name(format::file_name(before)),
                    reason: format!("entry {index} of journal {journal} is in no file that is there"),
                });
            }
        }
        Ok(())
    }

    /// Hands over the index and the files in use.
    pub(super) fn fill(&mut self, state: &mut State, files: &[Arc<OpenFile>], newest_sealed: bool) {
        for (place, open) in files.iter().enumerate() {
            let sealed = newest_sealed || place + 1 < files.len();
            let file = FileState { open: Arc::clone(open), sealed, live_frames: 0, live_bytes: 0, stuck: false };
            state.next_generation = open.header.generation + 1;
            state.files.insert(open.header.generation, file);
        }
        for slot in self.journals.values().flat_map(|log| &log.slots) {
            if let Some(file) = state.files.get_mut(&slot.generation) {
                file.live_frames += 1;
                file.live_bytes += slot.frame_bytes();
            }
        }
        state.journals = self.journals.iter_mut().map(|(journal, log)| (*journal, std::mem::take(log))).collect();
    }

    /// What the caller hears. Call after [`Replay::fill`] only with the states, which stay.
    pub(super) fn recovered(&self, lasts: &BTreeMap<JournalId, Option<Position>>) -> Recovered {
        let journals = self.states.iter().map(|(journal, state)| {
            let last = lasts.get(journal).copied().flatten();
            // A commit point may have been noted before the entries that it covers were durable here.
            let committed = state.committed.and_then(|at| last.map(|last| if at.index > last.index { last } else { at }));
            let (vote, purged) = (state.vote.clone(), state.purged);
            (*journal, JournalLog { vote, purged, committed, first_index: state.first(), last })
        });
        Recovered { journals: journals.collect() }
    }

    /// Each journal's last position.
    pub(super) fn lasts(&self) -> BTreeMap<JournalId, Option<Position>> {
        self.journals.iter().map(|(journal, log)| (*journal, log.last())).collect()
    }
}

/// Reads the frame at an offset, if it is whole.
fn read_frame(file: &OpenFile, offset: u64) -> Result<Option<(FrameHeader, Vec<u8>)>, OpenError> {
    let mut head = vec![0; FRAME_HEADER_BYTES];
    file.file.read_exact_at(&mut head, offset).map_err(io_error("read", &file.path))?;
    let Some(header) = FrameHeader::decode(&head, &file.header) else { return Ok(None) };
    if offset + frame_bytes(header.length as usize) as u64 > file.header.file_bytes {
        return Ok(None);
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + header.length as usize];
    file.file.read_exact_at(&mut frame, offset).map_err(io_error("read", &file.path))?;
    Ok(FrameHeader::read(&frame, &file.header).map(|(header, payload)| (header, frame[payload].to_vec())))
}

/// The seal's sequence, and the first sequence and the frames that it lists; `None` if it is damaged.
fn read_seal(file: &OpenFile) -> Result<Option<(u64, u64, Vec<Listed>)>, OpenError> {
    let mut last = [0; 8];
    file.file.read_exact_at(&mut last, file.header.file_bytes - 8).map_err(io_error("read", &file.path))?;
    let Some(offset) = format::seal_offset(&last, file.header.file_bytes) else { return Ok(None) };
    let Some((header, payload)) = read_frame(file, offset)? else { return Ok(None) };
    if header.kind != Kind::Seal {
        return Ok(None);
    }
    Ok(format::decode_seal(&payload).map(|(first, frames)| (header.sequence, first, frames)))
}

/// A file with a damaged seal, frame by frame: all must be there up to the next file's opening.
fn scanned(file: &OpenFile, next: &OpenFile) -> Result<(Vec<Listed>, u64), OpenError> {
    tracing::warn!(path = %file.path.display(), "the index at the end of this WAL file is damaged: reading all of its frames");
    let scan = scan::scan(&read_all(file)?, &file.header);
    let (opening, _) = read_frame(next, FILE_HEADER_BYTES)?
        .ok_or_else(|| corrupt(next, FILE_HEADER_BYTES, "its opening fails its checksum".into()))?;
    let last = opening.sequence.saturating_sub(1);
    match scan.frames.last() {
        Some(found) if found.header.sequence + 1 == last => Ok((scan.frames.iter().map(listed).collect(), last)),
        _ => Err(corrupt(file, scan.end as u64, format!("frames up to {last} were durable, and one is not whole"))),
    }
}
