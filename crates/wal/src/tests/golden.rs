//! Files that versions 1 and 2 wrote, byte by byte: still read, still opened as a log; those of version 2 still written so. Rules: docs/formats/README.md.

use std::path::PathBuf;

use uuid::Uuid;

use super::*;
use crate::format::{self, FILE_HEADER_BYTES, FileHeader, FrameHeader, Kind, Listed};
use crate::inspect::inspect_bytes;
use crate::log_state::{self, LogState, LogStates};
use crate::mark::{self, Durable, Slot};

const FILE_BYTES: usize = 12 << 10;

fn log() -> Uuid {
    Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)
}

/// Compares with a golden file, and gives its bytes. `TIDEGATE_WRITE_GOLDEN=1` writes one that is missing; one that exists is never written again.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(kept == bytes, "{} differs: a persisted format changed under its version", path.display());
    kept
}

/// A file under construction: all of it is said by the caller.
struct Built {
    header: FileHeader,
    bytes: Vec<u8>,
    position: usize,
    sequence: u64,
    listed: Vec<Listed>,
}

impl Built {
    fn new(version: u16, generation: u32, salt: u64, before: Vec<u8>, sequence: u64) -> Built {
        let header = FileHeader { version, log: log(), generation, salt, file_bytes: FILE_BYTES as u64 };
        let mut bytes = before;
        bytes.resize(FILE_BYTES, 0);
        bytes[..FILE_HEADER_BYTES as usize].copy_from_slice(&header.encode());
        Built { header, bytes, position: FILE_HEADER_BYTES as usize, sequence, listed: Vec::new() }
    }

    fn frame(&mut self, kind: Kind, journal: JournalId, at: Position, durable: u64, payload: Bytes) {
        self.sequence += 1;
        let length = payload.len() as u32;
        let generation = self.header.generation;
        let header = FrameHeader { length, generation, journal, sequence: self.sequence, durable, kind, at };
        let head = header.encode(self.header.salt, std::slice::from_ref(&payload));
        let end = self.position + format::frame_bytes(payload.len());
        self.bytes[self.position..end].fill(0);
        self.bytes[self.position..][..head.len()].copy_from_slice(&head);
        self.bytes[self.position + head.len()..][..payload.len()].copy_from_slice(&payload);
        self.listed.push(Listed { journal, kind, offset: self.position as u32, length, at });
        self.position = end;
    }

    fn seal(&mut self, first_sequence: u64) {
        let payload = format::encode_seal(first_sequence, &self.listed);
        self.position = FILE_BYTES - format::frame_bytes(payload.len());
        let durable = self.sequence;
        self.frame(Kind::Seal, JournalId(0), Position::default(), durable, payload);
    }
}

/// A file with each kind of frame, filled and sealed.
fn first_file() -> Built {
    let mut file = Built::new(1, 1, 0x1122_3344_5566_7788, Vec::new(), 0);
    let none = Position::default();
    file.frame(Kind::Opening, JournalId(0), none, 0, log_state::encode(&LogStates::new()));
    file.frame(Kind::Vote, J, none, 0, Bytes::from_static(b"a vote"));
    (1..=4).for_each(|index| file.frame(Kind::Entry, J, at(1, index), 2, payload(J, index, 100 * index as usize)));
    file.frame(Kind::Truncate, J, Position { index: 3, ..none }, 2, Bytes::new());
    file.frame(Kind::Entry, J, at(2, 4), 7, Bytes::from_static(b"another fourth entry"));
    file.frame(Kind::Committed, J, at(1, 3), 7, Bytes::new());
    file.frame(Kind::Purge, J, at(1, 1), 9, Bytes::new());
    file.frame(Kind::Moved, J, at(1, 2), 9, payload(J, 2, 200));
    file.frame(Kind::Mark, JournalId(0), none, 11, Bytes::new());
    file.seal(1);
    file
}

/// The next one, in the place of a recycled file whose old frames are still behind its own.
fn second_file() -> Built {
    let mut file = Built::new(1, 2, 0x99aa_bbcc_ddee_ff00, first_file().bytes, 13);
    let state = LogState { vote: Some(Bytes::from_static(b"a vote")), purged: Some(at(1, 1)), committed: Some(at(1, 3)), end: 5 };
    file.frame(Kind::Opening, JournalId(0), Position::default(), 13, log_state::encode(&LogStates::from([(J, state)])));
    file.frame(Kind::Entry, J, at(2, 5), 14, Bytes::from_static(b"a fifth entry"));
    file.frame(Kind::Mark, JournalId(0), Position::default(), 15, Bytes::new());
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_version_1_stay_readable() {
    let first = golden("sealed-v1.bin", &first_file().bytes);
    let second = golden("recycled-v1.bin", &second_file().bytes);

    let found = inspect_bytes(Path::new("first"), &first).unwrap();
    assert_eq!((found.generation, found.durable, found.damaged, found.listed), (1, 12, false, Some(12)));
    assert_eq!((found.frames.len(), found.journals, found.beyond.len()), (12, Some(0), 0));
    let found = inspect_bytes(Path::new("second"), &second).unwrap();
    assert_eq!((found.generation, found.durable, found.damaged, found.listed), (2, 15, false, None));
    assert_eq!((found.frames.len(), found.journals, found.beyond.len()), (3, Some(1), 0), "old frames do not count");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("identity"), format!("tidegate wal 1\n{}\n", log())).unwrap();
    std::fs::write(folder.path().join(format::file_name(1)), &first).unwrap();
    std::fs::write(folder.path().join(format::file_name(2)), &second).unwrap();
    let (wal, recovered) = reopened(&small(folder.path()), &Env::real()).await;
    let journal = &recovered.journals[&J];
    assert_eq!(journal.vote.as_deref(), Some(&b"a vote"[..]));
    assert_eq!((journal.purged, journal.committed, journal.last), (Some(at(1, 1)), Some(at(1, 3)), Some(at(2, 5))));
    assert_eq!(wal.read(J, 2).await.unwrap(), payload(J, 2, 200));
    assert_eq!(wal.read(J, 3).await.unwrap(), payload(J, 3, 300));
    assert_eq!(wal.read(J, 4).await.unwrap(), &b"another fourth entry"[..]);
    assert_eq!(wal.read(J, 5).await.unwrap(), &b"a fifth entry"[..]);
    wal.close().await;
}

/// A file in which a journal is forgotten and begun anew, and another one is forgotten for good.
fn forgetting_file() -> Built {
    let mut file = Built::new(2, 1, 0x0bad_cafe_0bad_cafe, Vec::new(), 0);
    let none = Position::default();
    file.frame(Kind::Opening, JournalId(0), none, 0, log_state::encode(&LogStates::new()));
    file.frame(Kind::Vote, J, none, 0, Bytes::from_static(b"a vote"));
    (1..=3).for_each(|index| file.frame(Kind::Entry, J, at(1, index), 2, payload(J, index, 100)));
    file.frame(Kind::Entry, K, at(1, 1), 2, payload(K, 1, 100));
    file.frame(Kind::Forget, J, none, 6, Bytes::new());
    file.frame(Kind::Entry, J, at(4, 1), 7, Bytes::from_static(b"another beginning"));
    file.frame(Kind::Forget, K, none, 8, Bytes::new());
    file.frame(Kind::Mark, JournalId(0), none, 9, Bytes::new());
    file.seal(1);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_version_2_stay_readable_and_are_still_written_so() {
    let bytes = golden("sealed-v2.bin", &forgetting_file().bytes);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("identity"), format!("tidegate wal 1\n{}\n", log())).unwrap();
    std::fs::write(folder.path().join(format::file_name(1)), &bytes).unwrap();
    let (wal, recovered) = reopened(&small(folder.path()), &Env::real()).await;
    assert_eq!(recovered.journals.keys().collect::<Vec<_>>(), [&J]);
    let journal = &recovered.journals[&J];
    assert_eq!((journal.vote.clone(), journal.first_index, journal.last), (None, 1, Some(at(4, 1))));
    assert_eq!(wal.read(J, 1).await.unwrap(), &b"another beginning"[..]);
    wal.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_version_1_began_takes_no_frame_of_version_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("identity"), format!("tidegate wal 1\n{}\n", log())).unwrap();
    std::fs::write(folder.path().join(format::file_name(1)), first_file().bytes).unwrap();
    std::fs::write(folder.path().join(format::file_name(2)), second_file().bytes).unwrap();
    let (wal, _) = reopened(&small(folder.path()), &Env::real()).await;
    write(&wal, vec![Write::Forget { journal: J }]).await.unwrap();
    wal.close().await;
    let found = inspect_bytes(Path::new("second"), &std::fs::read(folder.path().join(format::file_name(2))).unwrap()).unwrap();
    assert!(found.frames.iter().all(|frame| frame.header.kind != Kind::Forget), "an older build reads all of this file");
    let (_, recovered) = reopened(&small(folder.path()), &Env::real()).await;
    assert!(recovered.journals.is_empty());
}

#[test]
fn a_mark_of_version_1_is_still_written_and_read_so() {
    let durable = Durable { sequence: 16, generation: 2, end: 4640 };
    let kept = golden("mark-v1.bin", &mark::encode(log(), durable));
    assert_eq!(mark::slots(&kept)[0], Slot::Whole { log: log(), durable });
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_file_is_found_or_harmless() {
    let good = second_file().bytes;
    let expected = inspect_bytes(Path::new("good"), &good).unwrap();
    let end = expected.end as usize;
    for bit in (0..64 * 8).chain(FILE_HEADER_BYTES as usize * 8..end * 8) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(found) = inspect_bytes(Path::new("flipped"), &bytes) else { continue };
        let shorter = found.frames.len() < expected.frames.len();
        assert!(shorter || found.frames == expected.frames, "bit {bit} was taken for content");
        // Up to the durable sequence that a later whole frame states it is damage, not a torn tail.
        let torn = found.frames.len() == expected.frames.len() - 1;
        assert!(!shorter || torn || found.damaged, "bit {bit} passes for a torn tail");
    }
    for length in (0..64).chain((FILE_HEADER_BYTES as usize..end).step_by(8)) {
        if let Ok(found) = inspect_bytes(Path::new("cut"), &good[..length]) {
            assert!(expected.frames.starts_with(&found.frames), "cut to {length}");
        }
    }
}

#[test]
fn a_clients_bytes_that_look_like_headers_of_long_frames_do_not_make_recovery_slow() {
    let file_bytes = 32 << 20;
    let header = FileHeader { version: format::VERSION, log: log(), generation: 1, salt: 77, file_bytes };
    let mut bytes = header.encode().to_vec();
    // All that a client can know, with a length that always fits: without the salt it cannot make the check right.
    while bytes.len() < file_bytes as usize {
        let length = (file_bytes as usize - bytes.len()).saturating_sub(64) as u32;
        let fake = FrameHeader { length, generation: 1, journal: J, sequence: 5, durable: 4, kind: Kind::Entry, at: at(1, 1) };
        bytes.extend_from_slice(&fake.encode(78, &[]));
    }
    let begun = std::time::Instant::now();
    let found = inspect_bytes(Path::new("hostile"), &bytes).unwrap();
    assert_eq!((found.frames.len(), found.beyond.len()), (0, 0));
    // Half a million tries of sixteen megabytes each would take hours.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
