//! The durable mark: what was acknowledged last is not lost to damage that takes the very end of the log with all frames that vouch for it.

use std::path::PathBuf;

use super::damage::{Files, open_files, sample, wal_file};
use super::*;
use crate::OpenError;
use crate::inspect::inspect;
use crate::mark::{self, Slot};

fn mark_path() -> PathBuf {
    PathBuf::from("/log/mark")
}

/// Where the frames of a file end.
fn end_of(files: &Files, generation: u32) -> usize {
    inspect(&MemoryDisk::of(files), &wal_file(generation)).unwrap().end as usize
}

fn zeroed(files: &Files, generation: u32, range: std::ops::Range<usize>) -> Files {
    let mut damaged = files.clone();
    damaged.get_mut(&wal_file(generation)).unwrap()[range].fill(0);
    damaged
}

/// A log of one small file: killed when it had been idle, so that nothing of it was closed in order.
async fn killed_when_idle(entries: u64) -> (Settings, Files) {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    for index in 1..=entries {
        write(&wal, vec![entry(J, index, 600)]).await.unwrap();
    }
    marked(&wal).await;
    (settings, disk.files())
}

#[tokio::test]
async fn a_zeroed_page_at_the_very_end_is_refused_and_not_taken_for_a_torn_tail() {
    for (settings, files) in [sample(3).await, killed_when_idle(5).await] {
        let end = end_of(&files, 1);
        let page = (end - 1) / 4096 * 4096;
        for from in [page, 4096, end - 64] {
            let error = open_files(&settings, &zeroed(&files, 1, from..end)).await.unwrap_err();
            assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == wal_file(1)), "zeros from {from}: {error}");
        }
    }
}

#[tokio::test]
async fn the_mark_is_written_with_the_answer_so_that_a_kill_right_after_it_leaves_it() {
    let settings = Settings { idle_mark: Duration::from_secs(10), ..small(Path::new("/log")) };
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 600), entry(J, 2, 600)]).await.unwrap();
    // Nothing was idle for long enough: only the page cache has it.
    let files = disk.files();
    let end = end_of(&files, 1);
    let error = open_files(&settings, &zeroed(&files, 1, end - 600..end)).await.unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    drop(wal);
}

#[tokio::test]
async fn the_last_file_removed_with_all_that_were_made_ahead_is_missed() {
    let (settings, files) = sample(60).await;
    let last = files.keys().filter(|path| path.extension().is_some_and(|extension| extension == "wal")).count() as u32;
    let newest = (1..=last).rev().find(|generation| end_of(&files, *generation) > 4096).unwrap();
    let mut fewer = files.clone();
    for generation in newest..=last {
        fewer.remove(&wal_file(generation));
    }
    let error = open_files(&settings, &fewer).await.unwrap_err();
    assert!(matches!(&error, OpenError::Missing { path, .. } if *path == wal_file(newest)), "{error}");
    // All of its frames wiped is damage of that file, not of the one before.
    let wiped = zeroed(&files, newest, 4096..32 << 10);
    let error = open_files(&settings, &wiped).await.unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == wal_file(newest)), "{error}");
}

#[tokio::test]
async fn a_log_without_a_mark_opens_and_gets_one() {
    let (settings, files) = sample(5).await;
    // As version 1 was before there were marks, and as it is when the file is lost, cut, or damaged all over.
    let mut without = files.clone();
    without.remove(&mark_path());
    let mut short = files.clone();
    short.get_mut(&mark_path()).unwrap().truncate(100);
    let mut garbage = files.clone();
    garbage.get_mut(&mark_path()).unwrap().fill(7);
    for files in [without, short, garbage] {
        let disk = MemoryDisk::of(&files);
        let (wal, recovered) = reopened(&settings, &on(&disk)).await;
        assert_eq!(recovered.journals[&J].last, Some(at(1, 5)));
        wal.close().await;
        let said = mark::slots(&disk.files()[&mark_path()]);
        let last = inspect(&disk, &wal_file(1)).unwrap().frames.last().unwrap().header.sequence;
        let says = |slot: &Slot| matches!(slot, Slot::Whole { durable, .. } if durable.sequence == last);
        assert!(said.iter().any(says), "{said:?} of {last}");
    }
}

#[tokio::test]
async fn any_flipped_bit_of_the_mark_is_harmless_and_one_of_another_log_or_version_is_refused() {
    let (settings, files) = sample(3).await;
    for at in (0..64).chain(4096..4160) {
        let mut damaged = files.clone();
        damaged.get_mut(&mark_path()).unwrap()[at] ^= 1 << (at % 8);
        let (wal, recovered) = open_files(&settings, &damaged).await.unwrap();
        assert_eq!(recovered.journals[&J].last.unwrap().index, 3, "flip at {at}");
        wal.close().await;
    }
    let (_, others) = sample(3).await;
    let mut foreign = files.clone();
    foreign.insert(mark_path(), others[&mark_path()].clone());
    let error = open_files(&settings, &foreign).await.unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { path, .. } if *path == mark_path()), "{error}");

    let mut newer = files.clone();
    let slot = &mut newer.get_mut(&mark_path()).unwrap()[..64];
    slot[..8].copy_from_slice(b"TIDEMRK\n");
    slot[8] = 9;
    let crc = crate::format::crc32c(&[&slot[..60]]);
    slot[60..].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(open_files(&settings, &newer).await, Err(OpenError::Newer { found: 9, .. })));

    let mut nameless = files;
    nameless.retain(|path, _| *path == mark_path());
    assert!(matches!(open_files(&settings, &nameless).await, Err(OpenError::Missing { .. })));
}

#[tokio::test]
async fn the_slot_that_was_synced_stays_until_the_other_one_is() {
    let settings = Settings { idle_mark: Duration::from_secs(10), ..small(Path::new("/log")) };
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 100)]).await.unwrap();
    wal.close().await;
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    let before = disk.crashed_hard().files()[&mark_path()].clone();
    for index in 2..=9 {
        write(&wal, vec![entry(J, index, 100)]).await.unwrap();
    }
    let now = disk.files()[&mark_path()].clone();
    let changed: Vec<bool> = [0, 4096].iter().map(|slot| before[*slot..slot + 64] != now[*slot..slot + 64]).collect();
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 1, "one slot takes all that is not synced");
    let greatest = |bytes: &[u8]| {
        let said = mark::slots(bytes);
        said.iter().filter_map(|slot| if let Slot::Whole { durable, .. } = slot { Some(durable.sequence) } else { None }).max()
    };
    assert!(greatest(&now) > greatest(&before));
    // The unsynced one torn: the other one still says what it said.
    let mut torn = now;
    let at = if changed[0] { 0 } else { 4096 };
    torn[at..at + 64].fill(1);
    assert_eq!(greatest(&torn), greatest(&before));
    drop(wal);
}

#[tokio::test]
async fn a_disk_without_room_for_the_mark_opens_and_says_in_frames_what_is_durable() {
    let (settings, mut files) = sample(3).await;
    files.remove(&mark_path());
    let disk = MemoryDisk::of(&files);
    disk.faults.lock().no_room = true;
    let (wal, recovered) = reopened(&settings, &on(&disk)).await;
    assert_eq!(recovered.journals[&J].last, Some(at(1, 3)));
    write(&wal, vec![entry(J, 4, 100)]).await.unwrap();
    wal.close().await;
    let frames = inspect(&disk, &wal_file(1)).unwrap().frames;
    assert_eq!(frames.last().unwrap().header.kind, crate::inspect::Kind::Mark);
    assert!(!disk.files().contains_key(&mark_path()));
}
