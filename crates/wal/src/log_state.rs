//! What a journal's log comes to, frame by frame: the same rules when frames are written and when they are read again.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use tidegate_model::JournalId;

use crate::Position;
use crate::format::{self, Kind};

/// What recovery found of one journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalLog {
    /// The last vote, as it was submitted.
    pub vote: Option<Bytes>,
    /// The purge point.
    pub purged: Option<Position>,
    /// The last commit point that was noted; never beyond `last`.
    pub committed: Option<Position>,
    /// The first index that is (or would be) in the log.
    pub first_index: u64,
    /// The last entry; the purge point if there is none after it.
    pub last: Option<Position>,
}

/// What an opening repeats of a journal. `purged.index < end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<Position>,
    pub(crate) committed: Option<Position>,
    /// The index after the last one.
    pub(crate) end: u64,
}

impl LogState {
    pub(crate) fn first(&self) -> u64 {
        self.purged.map_or(1, |at| at.index + 1)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.max(self.first())
    }

    /// Takes in a frame; the reason if it cannot follow what was before.
    pub(crate) fn apply(&mut self, kind: Kind, at: Position, payload: &Bytes) -> Result<(), String> {
        match kind {
            Kind::Entry => {
                if at.index != self.end() {
                    return Err(format!("entry {} follows entry {}", at.index, self.end() - 1));
                }
                self.end = at.index + 1;
            }
            Kind::Vote => self.vote = Some(payload.clone()),
            Kind::Truncate => {
                if at.index + 1 < self.first() {
                    return Err(format!("truncation after {} below the purge point {}", at.index, self.first() - 1));
                }
                self.end = self.end().min(at.index + 1);
            }
            Kind::Purge => {
                if at.index >= self.first() {
                    self.purged = Some(at);
                    self.end = self.end();
                }
            }
            Kind::Committed => self.committed = Some(at),
            Kind::Moved => {
                if at.index >= self.end() {
                    return Err(format!("entry {} was moved, but the log ends at {}", at.index, self.end()));
                }
            }
            Kind::Forget => *self = LogState::default(),
            Kind::Mark | Kind::Opening | Kind::Seal => {}
        }
        Ok(())
    }
}

/// Every journal's state, as an opening holds it.
pub(crate) type LogStates = BTreeMap<JournalId, LogState>;

/// Takes a journal's frame in; the reason if it cannot follow what was before. A journal that is forgotten stands in no opening any more.
pub(crate) fn take_in(
    states: &mut LogStates,
    journal: JournalId,
    kind: Kind,
    at: Position,
    payload: &Bytes,
) -> Result<(), String> {
    if kind == Kind::Forget {
        states.remove(&journal);
        return Ok(());
    }
    states.entry(journal).or_default().apply(kind, at, payload)
}

const HAS_VOTE: u8 = 1;
const HAS_PURGED: u8 = 2;
const HAS_COMMITTED: u8 = 4;

/// The payload of an opening.
pub(crate) fn encode(states: &LogStates) -> Bytes {
    let mut out = Vec::with_capacity(8 + states.len() * 96);
    out.put_u64_le(states.len() as u64);
    for (journal, state) in states {
        let flags = (u8::from(state.vote.is_some()) * HAS_VOTE)
            | (u8::from(state.purged.is_some()) * HAS_PURGED)
            | (u8::from(state.committed.is_some()) * HAS_COMMITTED);
        out.put_u32_le(journal.0);
        out.put_u8(flags);
        out.put_u64_le(state.end());
        for at in [state.purged, state.committed].into_iter().flatten() {
            format::put_position(&mut out, at);
        }
        if let Some(vote) = &state.vote {
            out.put_u32_le(vote.len() as u32);
            out.put_slice(vote);
        }
    }
    Bytes::from(out)
}

/// Reads an opening's payload; `None` if it is malformed.
pub(crate) fn decode(mut payload: &[u8]) -> Option<LogStates> {
    let input = &mut payload;
    let count = input.try_get_u64_le().ok()?;
    let mut states = LogStates::new();
    for _ in 0..count {
        let journal = JournalId(input.try_get_u32_le().ok()?);
        let flags = input.try_get_u8().ok()?;
        let mut state = LogState { end: input.try_get_u64_le().ok()?, ..LogState::default() };
        if flags & HAS_PURGED != 0 {
            state.purged = Some(format::get_position(input)?);
        }
        if flags & HAS_COMMITTED != 0 {
            state.committed = Some(format::get_position(input)?);
        }
        if flags & HAS_VOTE != 0 {
            let bytes = input.try_get_u32_le().ok()? as usize;
            state.vote = Some(Bytes::copy_from_slice(input.get(..bytes)?));
            input.advance(bytes);
        }
        states.insert(journal, state);
    }
    input.is_empty().then_some(states)
}
