//! The durable mark: a small file beside the log's files that says up to which sequence everything was synced. What stands at the very end of the log has
//! no later frame to vouch for it; the mark does, from another place of the disk, so that damage there is not taken for a torn tail.
//!
//! It is written after each sync of the log, before anybody is answered, and is itself synced once the log is idle and when it is closed. So it never
//! says more than what is durable, whatever part of it reaches the disk. Two slots: the one that was synced last stays as it is until the other one is
//! synced, so that a power cut leaves at least that one whole. Bytes: `docs/formats/wal.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use tidegate_env::{Disk, File, OpenMode};
use uuid::Uuid;

use crate::OpenError;
use crate::format::crc32c;

/// Its name in the log's folder.
pub(crate) const FILE_NAME: &str = "mark";
/// Bytes from one slot to the next: they never share a page.
const SLOT_BYTES: u64 = 4096;
const SLOTS: u64 = 2;
/// Bytes of a slot that mean something; they lie in one sector.
const USED: usize = 64;
const MAGIC: [u8; 8] = *b"TIDEMRK\n";
const VERSION: u16 = 1;

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Every frame up to this sequence was synced.
    pub sequence: u64,
    /// The file that holds it.
    pub generation: u32,
    /// Where the frames of that file ended, in bytes.
    pub end: u64,
}

/// What one of the two slots holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// It was never written to.
    Empty,
    /// It fails its checksum: torn by a power cut, or damaged.
    Damaged,
    /// It is of a format version that this program does not know.
    Newer(u16),
    /// It is whole.
    Whole {
        /// The log that it belongs to.
        log: Uuid,
        /// What it says.
        durable: Durable,
    },
}

pub(crate) fn encode(log: Uuid, durable: Durable) -> Bytes {
    let mut out = Vec::with_capacity(USED);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u32_le(durable.generation);
    out.put_slice(log.as_bytes());
    out.put_u64_le(durable.sequence);
    out.put_u64_le(durable.end);
    out.resize(USED - 4, 0);
    let crc = crc32c(&[&out]);
    out.put_u32_le(crc);
    Bytes::from(out)
}

fn decode(bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let Some((mut head, mut crc)) = bytes.get(..USED).map(|slot| slot.split_at(USED - 4)) else { return Slot::Damaged };
    if crc.get_u32_le() != crc32c(&[head]) || head[..8] != MAGIC {
        return Slot::Damaged;
    }
    head.advance(8);
    let version = head.get_u16_le();
    if version != VERSION {
        return Slot::Newer(version);
    }
    head.advance(2);
    let generation = head.get_u32_le();
    let mut log = [0; 16];
    head.copy_to_slice(&mut log);
    Slot::Whole {
        log: Uuid::from_bytes(log),
        durable: Durable { sequence: head.get_u64_le(), generation, end: head.get_u64_le() },
    }
}

/// What the slots of a mark hold, whose bytes are in memory. A file that was cut has damaged slots.
pub fn slots(bytes: &[u8]) -> [Slot; SLOTS as usize] {
    let slot = |number: usize| {
        let start = number * SLOT_BYTES as usize;
        bytes.get(start..start + USED).map_or(Slot::Damaged, decode)
    };
    [slot(0), slot(1)]
}

/// The mark of an open log.
pub(crate) struct Mark {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    log: Uuid,
    /// The slot to write to: not the one that was synced last.
    next: u64,
}

/// What a log's folder says in its mark.
pub(crate) struct Found {
    /// The greatest durable sequence, if a slot is whole.
    pub(crate) durable: Option<Durable>,
    /// Whether there is such a file with room for both slots.
    is_there: bool,
    /// The slot that may be written to.
    next: u64,
}

/// Reads a log's mark. One that is missing, or of which no slot is whole, says nothing: the frames alone do then.
pub(crate) fn read(disk: &dyn Disk, directory: &Path, log: Uuid) -> Result<Found, OpenError> {
    let path = directory.join(FILE_NAME);
    let io = |what| {
        let path = path.clone();
        move |source| OpenError::Io { what, path, source }
    };
    if disk.metadata(&path).map_err(io("look for"))?.is_none() {
        return Ok(Found { durable: None, is_there: false, next: 0 });
    }
    let bytes = disk.read(&path).map_err(io("read"))?;
    let mut found = Found { durable: None, is_there: bytes.len() as u64 == SLOTS * SLOT_BYTES, next: 0 };
    for (number, slot) in slots(&bytes).into_iter().enumerate() {
        match slot {
            Slot::Whole { log: other, .. } if other != log => {
                let reason = format!("it is of log {other}, this folder's log is {log}");
                return Err(OpenError::Foreign { path, reason });
            }
            Slot::Newer(version) => return Err(OpenError::Newer { path, found: version, supported: VERSION }),
            Slot::Whole { durable, .. } if found.durable.is_none_or(|known| known.sequence < durable.sequence) => {
                found.durable = Some(durable);
                found.next = (number as u64 + 1) % SLOTS;
            }
            Slot::Damaged => {
                tracing::warn!(path = %path.display(), slot = number, "a slot of the log's durable mark is torn or damaged");
            }
            Slot::Whole { .. } | Slot::Empty => {}
        }
    }
    Ok(found)
}

impl Found {
    /// Opens the mark for writing, and makes it if there is none; `None` if the disk has no room for it.
    pub(crate) fn open(self, disk: &dyn Disk, directory: &Path, log: Uuid) -> Result<Option<Mark>, OpenError> {
        let path = directory.join(FILE_NAME);
        if !self.is_there {
            let mut content = self.durable.map(|durable| encode(log, durable).to_vec()).unwrap_or_default();
            content.resize((SLOTS * SLOT_BYTES) as usize, 0);
            match disk.write_atomically(&path, &content) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(path = %path.display(), "no room for the log's durable mark: frames alone say what is durable until the next start");
                    return Ok(None);
                }
                Err(source) => return Err(OpenError::Io { what: "make", path, source }),
            }
        }
        let next = if self.is_there { self.next } else { 1 };
        match disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => Ok(Some(Mark { file, path, log, next })),
            Err(source) => Err(OpenError::Io { what: "open", path, source }),
        }
    }
}

impl Mark {
    /// Says what is durable, to be called only once it is. Not synced.
    pub(crate) fn write(&self, durable: Durable) -> io::Result<()> {
        self.file.write_vectored_at(&[encode(self.log, durable)], self.next * SLOT_BYTES)
    }

    /// To be called when a sync of the file has succeeded: the slot that was written to stays from now on, the other one is written to.
    pub(crate) fn synced(&mut self) {
        self.next = (self.next + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Durable = Durable { sequence: 77, generation: 3, end: 9000 };

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_noticed() {
        let log = Uuid::from_u128(7);
        let good = encode(log, SAID);
        assert_eq!(decode(&good), Slot::Whole { log, durable: SAID });
        for bit in 0..USED * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Slot::Damaged, "bit {bit}");
        }
        assert_eq!(decode(&[0; USED]), Slot::Empty);
        assert_eq!(slots(&good), [Slot::Whole { log, durable: SAID }, Slot::Damaged], "a file that was cut");
    }
}
