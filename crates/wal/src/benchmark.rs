//! The inner loop of a commit, for `benches/frames.rs` alone: not a part of the crate's interface.

use bytes::Bytes;
use tidegate_model::JournalId;

use crate::Position;
use crate::format::{FrameHeader, Kind};
use crate::group::Group;

/// Frames an entry of these chunks and gives the chunks that would be written.
#[must_use]
pub fn frame(payload: &[Bytes]) -> Vec<Bytes> {
    let header = FrameHeader {
        length: payload.iter().map(|chunk| chunk.len() as u32).sum(),
        generation: 1,
        journal: JournalId(1),
        sequence: 2,
        durable: 1,
        kind: Kind::Entry,
        at: Position { term: 1, leader: 1, index: 1 },
    };
    let mut group = Group::default();
    group.push(&header, 0x5eed, payload);
    group.take()
}
