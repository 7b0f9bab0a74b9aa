//! Frames on their way to one vectored write. Headers and small payloads share an arena, larger payloads stay their own chunk.

use bytes::{BufMut, Bytes, BytesMut};

use crate::format::{FRAME_HEADER_BYTES, FrameHeader};

/// Chunks up to so many bytes are copied beside their header: cheaper than one more slice for the kernel to walk.
const COPY_BYTES: usize = 512;

enum Part {
    /// So many bytes of the arena.
    Arena(usize),
    Chunk(Bytes),
}

/// Frames that are not written yet.
#[derive(Default)]
pub(crate) struct Group {
    arena: BytesMut,
    parts: Vec<Part>,
    bytes: u64,
}

impl Group {
    /// Bytes of all frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a frame.
    pub(crate) fn push(&mut self, header: &FrameHeader, salt: u64, payload: &[Bytes]) {
        let encoded = header.encode(salt, payload);
        self.copy(&encoded);
        for chunk in payload {
            if chunk.len() <= COPY_BYTES {
                self.copy(chunk);
            } else {
                self.parts.push(Part::Chunk(chunk.clone()));
            }
        }
        let length = header.length as usize;
        let padding = length.next_multiple_of(8) - length;
        self.copy(&[0; 8][..padding]);
        self.bytes += (FRAME_HEADER_BYTES + length + padding) as u64;
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.arena.put_slice(bytes);
        match self.parts.last_mut() {
            Some(Part::Arena(len)) => *len += bytes.len(),
            _ => self.parts.push(Part::Arena(bytes.len())),
        }
    }

    /// All frames as chunks in order; the group is empty afterwards, its memory is used again.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        let mut arena = self.arena.split().freeze();
        self.bytes = 0;
        self.parts
            .drain(..)
            .map(|part| match part {
                Part::Arena(len) => arena.split_to(len),
                Part::Chunk(chunk) => chunk,
            })
            .collect()
    }
}
