//! Flipped bits, missing, swapped, foreign and newer files: refused with the file and what to do, or harmless; never wrong bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::OpenError;
use crate::inspect::inspect;

pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A log of a few files, closed in order.
pub(super) async fn sample(entries: u64) -> (Settings, Files) {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![Write::Vote { journal: J, bytes: Bytes::from_static(b"vote") }]).await.unwrap();
    for index in 1..=entries {
        write(&wal, vec![entry(J, index, 2000)]).await.unwrap();
    }
    wal.close().await;
    (settings, disk.files())
}

pub(super) async fn open_files(settings: &Settings, files: &Files) -> Result<(Wal, Recovered), OpenError> {
    Wal::open(settings.clone(), &on(&MemoryDisk::of(files))).await
}

pub(super) fn wal_file(generation: u32) -> PathBuf {
    PathBuf::from(format!("/log/{generation:010}.wal"))
}

/// Opens damaged files; true if the damage was refused or was found when an entry was read.
async fn detected(settings: &Settings, files: &Files, entries: u64) -> bool {
    let Ok((wal, recovered)) = open_files(settings, files).await else { return true };
    let log = &recovered.journals[&J];
    assert_eq!(log.last.unwrap().index, entries, "acknowledged entries are gone");
    assert_eq!(log.vote.as_deref(), Some(b"vote".as_slice()));
    let mut found = false;
    for index in 1..=entries {
        match wal.read(J, index).await {
            Ok(read) => assert_eq!(read, payload(J, index, 2000)),
            Err(_) => found = true,
        }
    }
    wal.close().await;
    found
}

/// The parts of a file that mean something: its header, its frames, its seal.
fn used(disk: &MemoryDisk, path: &Path) -> Vec<(std::ops::Range<usize>, bool)> {
    let seen = inspect(disk, path).unwrap();
    let frames = seen.frames.iter().chain(&seen.seal);
    let mut parts: Vec<_> = frames
        .map(|frame| {
            let start = frame.offset as usize;
            let redundant = matches!(frame.header.kind, crate::inspect::Kind::Seal | crate::inspect::Kind::Mark);
            (start..start + 64 + frame.header.length as usize, !redundant)
        })
        .collect();
    parts.push((0..64, true));
    parts
}

#[tokio::test]
async fn every_flipped_byte_of_a_small_log_is_detected_or_harmless() {
    let (settings, files) = sample(3).await;
    let disk = MemoryDisk::of(&files);
    let path = wal_file(1);
    let mut flips = 0;
    for (part, needed) in used(&disk, &path) {
        for at in part {
            let mut damaged = files.clone();
            damaged.get_mut(&path).unwrap()[at] ^= 1 << (at % 8);
            let found = detected(&settings, &damaged, 3).await;
            assert!(found || !needed, "the flip at {at} went unnoticed");
            flips += 1;
        }
    }
    assert!(flips > 6000, "{flips} flips");
}

#[tokio::test]
async fn flips_in_sealed_files_are_detected_or_harmless() {
    let (settings, files) = sample(60).await;
    let disk = MemoryDisk::of(&files);
    let mut random = Lcg(11);
    for generation in 1..=3 {
        let path = wal_file(generation);
        for (part, needed) in used(&disk, &path) {
            for _ in 0..4 {
                let at = part.start + random.below(part.len() as u64) as usize;
                let mut damaged = files.clone();
                damaged.get_mut(&path).unwrap()[at] ^= 0x10;
                let found = detected(&settings, &damaged, 60).await;
                // In sealed files votes are repeated by later openings, so a damaged one is harmless.
                let vote = generation == 1 && at < 4096 + 400;
                assert!(found || !needed || vote, "the flip at {at} of {} went unnoticed", path.display());
            }
        }
    }
}

#[tokio::test]
async fn damage_at_or_below_the_durable_mark_is_refused_and_says_where() {
    let (settings, mut files) = sample(3).await;
    let path = wal_file(1);
    let third = inspect(&MemoryDisk::of(&files), &path).unwrap().frames[3].offset;
    files.get_mut(&path).unwrap()[third as usize + 70] ^= 1;
    assert!(inspect(&MemoryDisk::of(&files), &path).unwrap().damaged);
    let error = open_files(&settings, &files).await.unwrap_err();
    let OpenError::Corrupt { path: named, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((named, *offset), (&path, third));
    assert!(error.to_string().contains("rebuilt from its peers or the tier"), "{error}");
}

#[tokio::test]
async fn a_zeroed_page_and_a_cut_file_are_refused() {
    let (settings, files) = sample(30).await;
    let mut zeroed = files.clone();
    zeroed.get_mut(&wal_file(1)).unwrap()[4096..8192].fill(0);
    assert!(matches!(open_files(&settings, &zeroed).await, Err(OpenError::Corrupt { .. })));
    let mut cut = files.clone();
    cut.get_mut(&wal_file(2)).unwrap().truncate(9000);
    assert!(matches!(open_files(&settings, &cut).await, Err(OpenError::Corrupt { .. })));
}

#[tokio::test]
async fn a_missing_file_is_refused_be_it_first_middle_or_all() {
    let (settings, files) = sample(60).await;
    assert!(files.contains_key(&wal_file(4)));
    for generation in [1, 2, 3, 4] {
        let mut fewer = files.clone();
        fewer.remove(&wal_file(generation));
        let error = open_files(&settings, &fewer).await.unwrap_err();
        assert!(matches!(&error, OpenError::Missing { path, .. } if *path == wal_file(generation)), "{error}");
    }
    let mut none = files.clone();
    none.retain(|path, _| path.extension().is_none());
    assert!(matches!(open_files(&settings, &none).await, Err(OpenError::Missing { .. })));
    let mut nameless = files.clone();
    nameless.remove(Path::new("/log/identity"));
    assert!(matches!(open_files(&settings, &nameless).await, Err(OpenError::Missing { .. })));
}

#[tokio::test]
async fn swapped_foreign_and_newer_files_are_refused() {
    let (settings, files) = sample(60).await;
    let mut swapped = files.clone();
    let (two, three) = (files[&wal_file(2)].clone(), files[&wal_file(3)].clone());
    swapped.insert(wal_file(2), three);
    swapped.insert(wal_file(3), two);
    assert!(matches!(open_files(&settings, &swapped).await, Err(OpenError::Foreign { .. })));

    let (_, others) = sample(60).await;
    let mut foreign = files.clone();
    foreign.insert(wal_file(2), others[&wal_file(2)].clone());
    assert!(matches!(open_files(&settings, &foreign).await, Err(OpenError::Foreign { .. })));

    let mut text = files.clone();
    text.insert(wal_file(2), b"no log at all ".repeat(1000));
    assert!(matches!(open_files(&settings, &text).await, Err(OpenError::Foreign { .. })));

    let mut newer = files.clone();
    let head = newer.get_mut(&wal_file(2)).unwrap();
    head[8] = 9;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &head[..60]) as u32;
    head[60..64].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(open_files(&settings, &newer).await, Err(OpenError::Newer { found: 9, .. })));
}

#[tokio::test]
async fn a_refused_log_is_left_as_it_was() {
    let (settings, mut files) = sample(3).await;
    files.get_mut(&wal_file(1)).unwrap()[4100] ^= 1;
    let disk = MemoryDisk::of(&files);
    assert!(Wal::open(settings, &on(&disk)).await.is_err());
    assert_eq!(disk.files(), files);
}

#[tokio::test]
async fn payloads_that_imitate_frames_are_not_taken_for_frames() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 100)]).await.unwrap();
    marked(&wal).await;
    let mark = disk.files().remove(Path::new("/log/mark")).unwrap();
    // A frame of this very file, with a durable sequence of its own choice, sealed under a salt that the client cannot know.
    let header = crate::format::FrameHeader {
        length: 0,
        generation: 1,
        journal: J,
        sequence: 900,
        durable: 899,
        kind: crate::format::Kind::Mark,
        at: Position::default(),
    };
    let forged = Bytes::copy_from_slice(&header.encode(0, &[]));
    write(&wal, vec![Write::Entry { journal: J, at: at(1, 2), payload: Payload::from(forged) }]).await.unwrap();
    wal.close().await;
    let mut files = disk.files();
    let seen = inspect(&disk, &wal_file(1)).unwrap();
    assert!(seen.durable < 100);
    // Even with the entry's own header torn, nothing above the mark counts (of before: the entry was never synced).
    files.insert("/log/mark".into(), mark);
    let last = seen.frames.iter().rev().find(|frame| frame.header.kind == crate::inspect::Kind::Entry).unwrap().offset as usize;
    let file = files.get_mut(&wal_file(1)).unwrap();
    file[last..last + 64].fill(0);
    for frame in seen.frames.iter().filter(|frame| frame.offset as usize > last) {
        file[frame.offset as usize..frame.offset as usize + 64].fill(0);
    }
    let (_, recovered) = open_files(&settings, &files).await.unwrap();
    assert_eq!(recovered.journals[&J].last, Some(at(1, 1)));
}
