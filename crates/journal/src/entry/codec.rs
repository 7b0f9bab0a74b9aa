//! The bytes of an entry: a fixed head, protobuf for what is done, then the batches back to back (docs/formats/entry.md).
//!
//! Batches are never copied into protobuf: small ones go into one arena with the head, larger ones stay their own chunk.
//! No batch crosses a chunk's end. Single appends between two other units are sorted by partition (stably), so that a
//! partition's batches of an entry are one stretch of bytes and one item of its tail index.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tidegate_model::{TimestampMs, TopicPartition};

use super::convert::{at_in, at_out, operation_in, operation_out, precondition_in, precondition_out, window_in};
use super::wire::{self, PieceKind};
use super::{Entry, Operation, Unit};

/// The format version that this build writes and the greatest that it reads.
pub const VERSION: u8 = 1;

/// Version, reserved byte, length of the protobuf, time.
pub(crate) const FIXED_BYTES: usize = 14;

/// Batches up to this size are copied next to each other; larger ones are passed on as they are.
const COPIED_BYTES: usize = 4096;

/// Units that an entry may hold, and so the length of any list in it before its bytes were looked at.
const MOST_BYTES: usize = u32::MAX as usize;

/// Why an entry cannot be encoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Positions in an entry are 32 bits wide.
    #[error("an entry of {bytes} bytes is too large: at most {MOST_BYTES}; propose fewer units at once")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Why bytes are not an entry. A replica that meets one that Raft committed must stop: it cannot know the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the head says.
    #[error("an entry needs {needed} bytes and has {given}")]
    Short {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// Bytes are left over.
    #[error("an entry has {extra} bytes after its last batch")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Written by a newer build.
    #[error("entry format version {given} is newer than {VERSION}: run a newer build")]
    Version {
        /// The version byte.
        given: u8,
    },
    /// The protobuf part is damaged.
    #[error("the entry's protobuf part is damaged: {0}")]
    Protobuf(String),
    /// Something that this build does not know.
    #[error("the entry holds an unknown {what}: run a newer build")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
    },
    /// A field has an impossible value.
    #[error("the entry's field {field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Units of one append each, to one partition, back to back.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRun {
    /// Where they go.
    pub at: TopicPartition,
    /// Position of the first batch in the payload.
    pub position: u32,
    /// Length of each batch.
    pub lengths: Vec<u32>,
    /// How many batches to remember of their producers; 0 stands for 5.
    pub window: u8,
}

/// A stretch of an entry, in the order of application.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Many units in compact form.
    Run(AppendRun),
    /// Any other unit. Its batches lie back to back from `position`.
    Unit {
        /// The unit.
        unit: Unit,
        /// Position of its first batch in the payload.
        position: u32,
    },
}

impl Piece {
    /// How many units it stands for.
    pub fn units(&self) -> usize {
        match self {
            Piece::Run(run) => run.lengths.len(),
            Piece::Unit { .. } => 1,
        }
    }
}

/// An entry as it is stored and applied. Cheap to clone as far as its batches go; clones share their bytes.
#[derive(Clone, Debug)]
pub struct EntryPayload {
    time: TimestampMs,
    pieces: Vec<Piece>,
    chunks: Vec<Bytes>,
    meta_bytes: usize,
    bytes: usize,
}

/// Equal if the bytes are, however they are cut into chunks.
impl PartialEq for EntryPayload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.to_bytes() == other.to_bytes()
    }
}

impl EntryPayload {
    /// Encodes an entry. The second result says for each unit, in the order of application (and so of outcomes), which unit
    /// of the given entry it was.
    pub fn encode(entry: Entry) -> Result<(EntryPayload, Vec<u32>), EncodeError> {
        let order = application_order(&entry.units);
        let (meta, bodies) = describe(&entry.units, &order);
        let meta_bytes = meta.encoded_len();
        let body_bytes: usize = bodies.iter().map(Bytes::len).sum();
        let bytes = FIXED_BYTES + meta_bytes + body_bytes;
        if bytes > MOST_BYTES {
            return Err(EncodeError::TooLarge { bytes });
        }
        let chunks = write(entry.time, &meta, meta_bytes, &bodies);
        let pieces = pieces(meta, &mut Bodies::new(&chunks, FIXED_BYTES + meta_bytes))
            .expect("what was just described from operations reads back as them");
        Ok((EntryPayload { time: entry.time, pieces, chunks, meta_bytes, bytes }, order))
    }

    /// Reads an entry back. Nothing is copied: batches are slices of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<EntryPayload, DecodeError> {
        if bytes.is_empty() || bytes.len() < FIXED_BYTES {
            return Err(DecodeError::Short { needed: FIXED_BYTES, given: bytes.len() });
        }
        if bytes[0] != VERSION {
            return Err(DecodeError::Version { given: bytes[0] });
        }
        let length = |from: usize| [bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]];
        let meta_bytes = u32::from_le_bytes(length(2)) as usize;
        let time = u64::from(u32::from_le_bytes(length(6))) | u64::from(u32::from_le_bytes(length(10))) << 32;
        let needed = FIXED_BYTES.saturating_add(meta_bytes);
        if bytes.len() < needed {
            return Err(DecodeError::Short { needed, given: bytes.len() });
        }
        if bytes.len() > MOST_BYTES {
            return Err(DecodeError::Field { field: "length", problem: "is above 4 GiB" });
        }
        let meta = wire::Meta::decode(&bytes[FIXED_BYTES..needed]).map_err(|error| DecodeError::Protobuf(error.to_string()))?;
        let total = bytes.len();
        let chunks = vec![bytes];
        let mut bodies = Bodies::new(&chunks, needed);
        let pieces = pieces(meta, &mut bodies)?;
        if bodies.position != total {
            return Err(DecodeError::Trailing { extra: total - bodies.position });
        }
        Ok(EntryPayload { time: TimestampMs(time as i64), pieces, chunks, meta_bytes, bytes: total })
    }

    /// The proposer's time.
    pub fn time(&self) -> TimestampMs {
        self.time
    }

    /// What it does, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Number of units.
    pub fn units(&self) -> usize {
        self.pieces.iter().map(Piece::units).sum()
    }

    /// The encoded bytes, in chunks that follow each other. None is empty; no batch crosses a chunk's end.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Length of the encoded bytes; what the chunks add up to.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The encoded bytes in one piece; copies if there are several chunks.
    pub fn to_bytes(&self) -> Bytes {
        if let [only] = self.chunks.as_slice() {
            return only.clone();
        }
        let mut whole = BytesMut::with_capacity(self.bytes);
        self.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }

    /// The encoded bytes of a range, uncopied. What lies beyond the end is left out.
    pub fn slice(&self, range: Range<u32>) -> Vec<Bytes> {
        let (from, to) = (range.start as usize, (range.end as usize).min(self.bytes));
        let mut slices = Vec::new();
        let mut start = 0;
        for chunk in &self.chunks {
            let end = start + chunk.len();
            if end > from && start < to {
                slices.push(chunk.slice(from.max(start) - start..to.min(end) - start));
            }
            start = end;
        }
        slices
    }

    /// The units in the order of application, as they were before they were encoded. Batches are shared.
    pub fn to_units(&self) -> Vec<Unit> {
        let mut units = Vec::with_capacity(self.units());
        for piece in &self.pieces {
            match piece {
                Piece::Unit { unit, .. } => units.push(unit.clone()),
                Piece::Run(run) => {
                    let mut position = run.position;
                    for length in &run.lengths {
                        let batch = match self.slice(position..position + length).as_slice() {
                            [only] => only.clone(),
                            several => several.concat().into(),
                        };
                        units.push(Unit::of(Operation::Append { at: run.at, batch, window: run.window }));
                        position += length;
                    }
                }
            }
        }
        units
    }

    /// Walks the batches from the first on.
    pub(crate) fn bodies(&self) -> Bodies<'_> {
        Bodies::new(&self.chunks, FIXED_BYTES + self.meta_bytes)
    }

    /// The head and the protobuf part.
    pub(crate) fn head(&self) -> &[u8] {
        &self.chunks[0][..FIXED_BYTES + self.meta_bytes]
    }
}

/// A cursor over the batches of an entry.
pub(crate) struct Bodies<'a> {
    chunks: &'a [Bytes],
    chunk: usize,
    offset: usize,
    pub(crate) position: usize,
}

impl<'a> Bodies<'a> {
    fn new(chunks: &'a [Bytes], position: usize) -> Self {
        Bodies { chunks, chunk: 0, offset: position, position }
    }

    /// The next batch: its chunk and its place in it. `None` beyond the end of the bytes.
    fn advance(&mut self, length: usize) -> Option<(&'a Bytes, Range<usize>)> {
        while self.chunks.get(self.chunk)?.len() == self.offset {
            self.chunk += 1;
            self.offset = 0;
        }
        let range = self.offset..self.offset.checked_add(length)?;
        let chunk = self.chunks.get(self.chunk).filter(|chunk| chunk.len() >= range.end)?;
        self.offset = range.end;
        self.position += length;
        Some((chunk, range))
    }

    /// The next `length` bytes, borrowed.
    pub(crate) fn next(&mut self, length: u32) -> Option<&'a [u8]> {
        self.advance(length as usize).map(|(chunk, range)| &chunk[range])
    }

    /// Passes over the batches of a unit.
    pub(crate) fn skip_appends(&mut self, unit: &Unit) {
        for operation in &unit.operations {
            if let Operation::Append { batch, .. } = operation
                && !batch.is_empty()
            {
                self.advance(batch.len());
            }
        }
    }

    fn next_shared(&mut self, length: u32) -> Result<Bytes, DecodeError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let short = DecodeError::Short { needed: self.position + length as usize, given: self.end() };
        self.advance(length as usize).map(|(chunk, range)| chunk.slice(range)).ok_or(short)
    }

    fn end(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// The append that a unit consists of, if it is nothing else.
fn single_append(unit: &Unit) -> Option<(TopicPartition, &Bytes, u8)> {
    match (unit.preconditions.as_slice(), unit.operations.as_slice()) {
        ([], [Operation::Append { at, batch, window }]) if !batch.is_empty() => Some((*at, batch, *window)),
        _ => None,
    }
}

/// Sorts each stretch of single appends by partition; every other unit stays between what came before and after it.
fn application_order(units: &[Unit]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..units.len() as u32).collect();
    let at = |index: &u32| single_append(&units[*index as usize]).map(|(at, ..)| at);
    let mut start = 0;
    for end in 0..=units.len() {
        if end == units.len() || single_append(&units[end]).is_none() {
            order[start..end].sort_by_key(at);
            start = end + 1;
        }
    }
    order
}

fn describe(units: &[Unit], order: &[u32]) -> (wire::Meta, Vec<Bytes>) {
    let mut meta = wire::Meta::default();
    let mut bodies = Vec::with_capacity(units.len());
    let mut last: Option<(TopicPartition, u8)> = None;
    for index in order {
        let unit = &units[*index as usize];
        if let Some((at, batch, window)) = single_append(unit) {
            let length = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            bodies.push(batch.clone());
            match meta.pieces.last_mut() {
                Some(wire::Piece { kind: Some(PieceKind::Run(run)) }) if last == Some((at, window)) => run.lengths.push(length),
                _ => meta.pieces.push(piece(PieceKind::Run(wire::Run {
                    at: at_out(at),
                    lengths: vec![length],
                    window: u32::from(window),
                }))),
            }
            last = Some((at, window));
        } else {
            last = None;
            let preconditions = unit.preconditions.iter().map(precondition_out).collect();
            let operations = unit.operations.iter().map(operation_out).collect();
            meta.pieces.push(piece(PieceKind::Unit(wire::Unit { preconditions, operations })));
            bodies.extend(unit.operations.iter().filter_map(|operation| match operation {
                Operation::Append { batch, .. } => Some(batch.clone()),
                _ => None,
            }));
        }
    }
    (meta, bodies)
}

fn piece(kind: PieceKind) -> wire::Piece {
    wire::Piece { kind: Some(kind) }
}

/// One arena for head, protobuf and small batches, cut where a large batch stands between.
fn write(time: TimestampMs, meta: &wire::Meta, meta_bytes: usize, bodies: &[Bytes]) -> Vec<Bytes> {
    let copied: usize = bodies.iter().map(Bytes::len).filter(|length| *length <= COPIED_BYTES).sum();
    let mut arena = BytesMut::with_capacity(FIXED_BYTES + meta_bytes + copied);
    arena.put_u8(VERSION);
    arena.put_u8(0);
    arena.put_u32_le(meta_bytes as u32);
    arena.put_i64_le(time.0);
    meta.encode(&mut arena).expect("the arena grows as needed");
    let mut chunks = Vec::new();
    for body in bodies {
        if body.len() <= COPIED_BYTES {
            arena.put_slice(body);
            continue;
        }
        if !arena.is_empty() {
            chunks.push(arena.split().freeze());
        }
        chunks.push(body.clone());
    }
    if !arena.is_empty() {
        chunks.push(arena.freeze());
    }
    chunks
}

/// Gives each piece its place among the batches.
fn pieces(meta: wire::Meta, bodies: &mut Bodies<'_>) -> Result<Vec<Piece>, DecodeError> {
    let mut pieces = Vec::with_capacity(meta.pieces.len());
    for piece in meta.pieces {
        let position = bodies.position as u32;
        pieces.push(match piece.kind.ok_or(DecodeError::Unknown { what: "piece" })? {
            PieceKind::Run(run) => {
                for length in &run.lengths {
                    if *length == 0 {
                        return Err(DecodeError::Field { field: "lengths", problem: "has an empty batch" });
                    }
                    let short = DecodeError::Short { needed: bodies.position + *length as usize, given: bodies.end() };
                    bodies.next(*length).ok_or(short)?;
                }
                Piece::Run(AppendRun { at: at_in(&run.at), position, lengths: run.lengths, window: window_in(run.window)? })
            }
            PieceKind::Unit(unit) => {
                let preconditions = unit.preconditions.into_iter().map(precondition_in).collect::<Result<_, _>>()?;
                let mut batch = |length| bodies.next_shared(length);
                let operations =
                    unit.operations.into_iter().map(|operation| operation_in(operation, &mut batch)).collect::<Result<_, _>>()?;
                Piece::Unit { unit: Unit { preconditions, operations }, position }
            }
        });
    }
    Ok(pieces)
}
