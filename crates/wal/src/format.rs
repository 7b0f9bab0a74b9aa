//! The bytes of the log, byte by byte in `docs/formats/wal.md`. Pure: no I/O.
//!
//! Every integer is little-endian. A file is a header of 4,096 bytes, then frames, each at a multiple of 8 bytes.

use bytes::{Buf, BufMut, Bytes};
use tidegate_model::JournalId;
use uuid::Uuid;

use crate::Position;

/// Bytes before the first frame; frames never share a sector with the header.
pub(crate) const FILE_HEADER_BYTES: u64 = 4096;
/// Bytes of a file header that mean something.
const FILE_HEADER_USED: usize = 64;
/// Bytes before a frame's payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
/// Bytes of a frame in a seal.
pub(crate) const SEAL_ENTRY_BYTES: usize = 40;
/// Bytes of a seal's payload besides its entries: first sequence and count before, length and magic after.
pub(crate) const SEAL_FIXED_BYTES: usize = 16 + 8;
/// The version that this program writes, and the greatest that it reads. 2: has [`Kind::Forget`].
pub(crate) const VERSION: u16 = 2;
/// The least version that this program reads.
const OLDEST_VERSION: u16 = 1;
/// The longest vote.
pub(crate) const MAX_VOTE_BYTES: usize = 4096;

const FILE_MAGIC: [u8; 8] = *b"TIDEWAL\n";
const FRAME_MAGIC: u32 = 0x4657_4754;
const SEAL_MAGIC: u32 = 0x4557_4754;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// Says which kinds of frames the file may have.
    pub(crate) version: u16,
    /// The log that it belongs to.
    pub(crate) log: Uuid,
    /// Its place among the log's files; rises by one from file to file.
    pub(crate) generation: u32,
    /// Random for each use of a file; part of every frame's checksum, so that neither old frames nor a client's bytes can pass for one.
    pub(crate) salt: u64,
    /// Its length.
    pub(crate) file_bytes: u64,
}

/// Why a file header can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Magic,
    Version(u16),
    Checksum,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(FILE_HEADER_BYTES as usize);
        out.put_slice(&FILE_MAGIC);
        out.put_u16_le(self.version);
        out.put_u16_le(0);
        out.put_u32_le(self.generation);
        out.put_slice(self.log.as_bytes());
        out.put_u64_le(self.salt);
        out.put_u64_le(self.file_bytes);
        out.resize(FILE_HEADER_USED - 4, 0);
        let crc = crc32c(&[&out]);
        out.put_u32_le(crc);
        out.resize(FILE_HEADER_BYTES as usize, 0);
        Bytes::from(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<FileHeader, BadHeader> {
        if bytes.len() < FILE_HEADER_USED || bytes[..8] != FILE_MAGIC {
            return Err(BadHeader::Magic);
        }
        let crc_ok = crc32c(&[&bytes[..60]]) == le32(&bytes[60..]);
        let mut rest = &bytes[8..];
        let version = rest.get_u16_le();
        // A newer version keeps the first 60 bytes' checksum, so a flipped bit isn't taken for one.
        if !crc_ok {
            return Err(BadHeader::Checksum);
        }
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(BadHeader::Version(version));
        }
        rest.advance(2);
        let generation = rest.get_u32_le();
        let mut log = [0; 16];
        rest.copy_to_slice(&mut log);
        let (salt, file_bytes) = (rest.get_u64_le(), rest.get_u64_le());
        Ok(FileHeader { version, log: Uuid::from_bytes(log), generation, salt, file_bytes })
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An entry of a journal.
    Entry = 1,
    /// A journal's vote.
    Vote = 2,
    /// Entries above `index` are gone; 0: all.
    Truncate = 3,
    /// Entries up to and with `index` are gone.
    Purge = 4,
    /// A journal is committed up to `index`.
    Committed = 5,
    /// Only says what is durable.
    Mark = 6,
    /// Opens a file: what every journal's log came to before it.
    Opening = 7,
    /// Ends a file: the index of its frames.
    Seal = 8,
    /// An entry of an older file, written again so that the older file can go.
    Moved = 9,
    /// All of a journal is gone: its entries, vote and points. What follows of it begins anew.
    Forget = 10,
}

impl Kind {
    /// The version of the file that a frame of this kind needs.
    pub(crate) fn version(self) -> u16 {
        if self == Kind::Forget { 2 } else { 1 }
    }
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        const ALL: [Kind; 10] = [
            Kind::Entry,
            Kind::Vote,
            Kind::Truncate,
            Kind::Purge,
            Kind::Committed,
            Kind::Mark,
            Kind::Opening,
            Kind::Seal,
            Kind::Moved,
            Kind::Forget,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What precedes a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub length: u32,
    /// The file's generation.
    pub generation: u32,
    /// The journal; 0 for frames of the log itself.
    pub journal: JournalId,
    /// Rises by one from frame to frame, through all files.
    pub sequence: u64,
    /// The last sequence that was known durable when the frame was written.
    pub durable: u64,
    /// What it holds.
    pub kind: Kind,
    /// The place it speaks of.
    pub at: Position,
}

/// Bytes of a frame on disk, padding included.
pub(crate) const fn frame_bytes(length: usize) -> usize {
    FRAME_HEADER_BYTES + length.next_multiple_of(8)
}

impl FrameHeader {
    /// The 64 bytes, checksum included.
    pub(crate) fn encode(&self, salt: u64, payload: &[Bytes]) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        let mut rest = &mut out[8..];
        rest.put_u32_le(self.generation);
        rest.put_u32_le(self.journal.0);
        rest.put_u64_le(self.sequence);
        rest.put_u64_le(self.durable);
        rest.put_u32_le(FRAME_MAGIC);
        rest.put_u8(self.kind as u8);
        rest.put_slice(&[0; 3]);
        rest.put_u64_le(self.at.term);
        rest.put_u64_le(self.at.index);
        rest.put_u64_le(self.at.leader);
        out[..4].copy_from_slice(&self.length.to_le_bytes());
        let check = header_check(salt, &out);
        out[HEADER_CHECK].copy_from_slice(&check);
        let mut crc = digest(salt, &out);
        for chunk in payload {
            crc.update(chunk);
        }
        out[4..8].copy_from_slice(&(crc.finalize() as u32).to_le_bytes());
        out
    }

    /// Reads a header that belongs to a file; `None` if these bytes are no such header. The frame's checksum is not checked, the header's own is:
    /// recovery tries every place of a file, and a client's bytes that look like headers of long frames must not make each try long.
    pub(crate) fn decode(bytes: &[u8], file: &FileHeader) -> Option<FrameHeader> {
        if bytes.len() < FRAME_HEADER_BYTES || le32(&bytes[8..]) != file.generation || le32(&bytes[32..]) != FRAME_MAGIC {
            return None;
        }
        if bytes[HEADER_CHECK] != header_check(file.salt, bytes) {
            return None;
        }
        Some(FrameHeader {
            length: le32(bytes),
            generation: file.generation,
            journal: JournalId(le32(&bytes[12..])),
            sequence: le64(&bytes[16..]),
            durable: le64(&bytes[24..]),
            kind: Kind::from_byte(bytes[36])?,
            at: Position { term: le64(&bytes[40..]), index: le64(&bytes[48..]), leader: le64(&bytes[56..]) },
        })
    }

    /// Whether `frame` (header and payload, without padding) has the checksum that it states.
    pub(crate) fn verify(salt: u64, frame: &[u8]) -> bool {
        let mut crc = digest(salt, &frame[..FRAME_HEADER_BYTES]);
        crc.update(&frame[FRAME_HEADER_BYTES..]);
        crc.finalize() as u32 == le32(&frame[4..])
    }

    /// Reads the whole valid frame at the start of `bytes`: its header and its payload.
    pub(crate) fn read(bytes: &[u8], file: &FileHeader) -> Option<(FrameHeader, std::ops::Range<usize>)> {
        let header = FrameHeader::decode(bytes, file)?;
        let end = FRAME_HEADER_BYTES.checked_add(header.length as usize)?;
        (end <= bytes.len() && FrameHeader::verify(file.salt, &bytes[..end])).then_some((header, FRAME_HEADER_BYTES..end))
    }
}

/// Where a header's own check stands.
const HEADER_CHECK: std::ops::Range<usize> = 37..40;

/// The low 24 bits of the checksum of the salt and of a header but for its two checks.
fn header_check(salt: u64, header: &[u8]) -> [u8; 3] {
    let parts =
        [&salt.to_le_bytes()[..], &header[..4], &header[8..HEADER_CHECK.start], &header[HEADER_CHECK.end..FRAME_HEADER_BYTES]];
    let [low, middle, high, _] = crc32c(&parts).to_le_bytes();
    [low, middle, high]
}

/// A checksum of the salt and of a header but for its checksum.
fn digest(salt: u64, header: &[u8]) -> crc_fast::Digest {
    let mut head = [0; FRAME_HEADER_BYTES + 4];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..12].copy_from_slice(&header[..4]);
    head[12..].copy_from_slice(&header[8..FRAME_HEADER_BYTES]);
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    crc.update(&head);
    crc
}

pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        crc.update(part);
    }
    crc.finalize() as u32
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from(le32(bytes)) | (u64::from(le32(&bytes[4..])) << 32)
}

/// A frame as a seal lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) journal: JournalId,
    pub(crate) kind: Kind,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) at: Position,
}

/// Bytes of the frame of a seal of `count` frames.
pub(crate) fn seal_bytes(count: usize) -> usize {
    frame_bytes(SEAL_FIXED_BYTES + count * SEAL_ENTRY_BYTES)
}

/// The payload of a seal. It ends the file, so that its own length can be found in the file's last bytes.
pub(crate) fn encode_seal(first_sequence: u64, frames: &[Listed]) -> Bytes {
    let length = SEAL_FIXED_BYTES + frames.len() * SEAL_ENTRY_BYTES;
    let mut out = Vec::with_capacity(length);
    out.put_u64_le(first_sequence);
    out.put_u64_le(frames.len() as u64);
    for frame in frames {
        out.put_u32_le(frame.journal.0);
        out.put_u32_le(frame.kind as u32);
        out.put_u32_le(frame.offset);
        out.put_u32_le(frame.length);
        put_position(&mut out, frame.at);
    }
    out.put_u32_le(length as u32);
    out.put_u32_le(SEAL_MAGIC);
    Bytes::from(out)
}

/// Where the seal's frame begins, by the file's last 8 bytes.
pub(crate) fn seal_offset(last: &[u8; 8], file_bytes: u64) -> Option<u64> {
    let length = le32(last) as usize;
    if le32(&last[4..]) != SEAL_MAGIC || !length.is_multiple_of(8) {
        return None;
    }
    file_bytes.checked_sub(frame_bytes(length) as u64).filter(|offset| *offset >= FILE_HEADER_BYTES)
}

/// The first sequence and the frames that a seal lists.
pub(crate) fn decode_seal(mut payload: &[u8]) -> Option<(u64, Vec<Listed>)> {
    if payload.len() < SEAL_FIXED_BYTES || !(payload.len() - SEAL_FIXED_BYTES).is_multiple_of(SEAL_ENTRY_BYTES) {
        return None;
    }
    let count = (payload.len() - SEAL_FIXED_BYTES) / SEAL_ENTRY_BYTES;
    let first = payload.get_u64_le();
    if payload.get_u64_le() != count as u64 {
        return None;
    }
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        let journal = JournalId(payload.get_u32_le());
        let kind = u8::try_from(payload.get_u32_le()).ok().and_then(Kind::from_byte)?;
        let (offset, length) = (payload.get_u32_le(), payload.get_u32_le());
        frames.push(Listed { journal, kind, offset, length, at: get_position(&mut payload)? });
    }
    Some((first, frames))
}

pub(crate) fn put_position(out: &mut Vec<u8>, at: Position) {
    out.put_u64_le(at.term);
    out.put_u64_le(at.index);
    out.put_u64_le(at.leader);
}

pub(crate) fn get_position(input: &mut &[u8]) -> Option<Position> {
    if input.len() < 24 {
        return None;
    }
    Some(Position { term: input.get_u64_le(), index: input.get_u64_le(), leader: input.get_u64_le() })
}

/// The name of a file of the log.
pub(crate) fn file_name(generation: u32) -> String {
    format!("{generation:010}.wal")
}

/// The generation that a file's name states.
pub(crate) fn generation_of(name: &str) -> Option<u32> {
    name.strip_suffix(".wal").filter(|digits| digits.len() == 10).and_then(|digits| digits.parse().ok())
}
