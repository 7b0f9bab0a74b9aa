//! Power cuts at any moment: what was acknowledged is there again, and nothing that was not submitted is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::inspect::inspect;

/// What a journal must come back with: entries from `first` to at least `acknowledged`, at most `submitted`.
#[derive(Clone, Debug, Default)]
struct Expected {
    purge_submitted: u64,
    purge_acknowledged: u64,
    submitted: u64,
    acknowledged: u64,
}

async fn check(wal: &Wal, recovered: &Recovered, expected: &BTreeMap<JournalId, Expected>, seed: u64) {
    for (journal, expected) in expected {
        let log = recovered.journals.get(journal).cloned().unwrap_or_default();
        let last = log.last.map_or(0, |at| at.index);
        let purged = log.purged.map_or(0, |at| at.index);
        assert!(last >= expected.acknowledged, "seed {seed}: {journal} ends at {last}, acknowledged was {expected:?}");
        assert!(last <= expected.submitted, "seed {seed}: {journal} ends at {last} of {expected:?}");
        assert!((expected.purge_acknowledged..=expected.purge_submitted).contains(&purged), "seed {seed}: {purged} {expected:?}");
        for index in purged + 1..=last {
            let read = wal.read(*journal, index).await.unwrap();
            assert_eq!(read, payload(*journal, index, length(index)), "seed {seed}: entry {index} of {journal}");
        }
    }
}

fn length(index: u64) -> usize {
    (index * 613 % 3000) as usize
}

async fn round(seed: u64) {
    let mut random = Lcg(seed.wrapping_mul(7919) + 1);
    let settings = small(Path::new("/log"));
    let mut disk = MemoryDisk::default();
    let mut expected: BTreeMap<JournalId, Expected> = BTreeMap::new();
    for life in 0..4 {
        let opened = Wal::open(settings.clone(), &on(&disk)).await;
        let (wal, recovered) = opened.unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
        check(&wal, &recovered, &expected, seed).await;
        for (journal, expected) in &mut expected {
            let log = recovered.journals.get(journal).cloned().unwrap_or_default();
            (expected.submitted, expected.acknowledged) = (log.last.map_or(0, |at| at.index), log.last.map_or(0, |at| at.index));
            expected.purge_submitted = log.purged.map_or(0, |at| at.index);
            expected.purge_acknowledged = expected.purge_submitted;
        }
        let mut acknowledged: Vec<(JournalId, u64, u64, Arc<AtomicU64>)> = Vec::new();
        for _ in 0..random.below(40) {
            let journal = JournalId(random.below(3) as u32);
            let known = expected.entry(journal).or_default();
            let mut writes = Vec::new();
            for _ in 0..=random.below(3) {
                known.submitted += 1;
                writes.push(entry(journal, known.submitted, length(known.submitted)));
            }
            if random.below(4) == 0 {
                known.purge_submitted = known.purge_submitted.max(known.submitted.saturating_sub(random.below(6)));
                writes.push(Write::Purge { journal, at: at(1, known.purge_submitted) });
            }
            let flag = Arc::new(AtomicU64::new(0));
            acknowledged.push((journal, known.submitted, known.purge_submitted, Arc::clone(&flag)));
            let wait = random.below(3) == 0;
            if wait {
                write(&wal, writes).await.unwrap();
                flag.store(1, Ordering::SeqCst);
            } else {
                let done = move |result: Result<(), Arc<Failed>>| flag.store(u64::from(result.is_ok()), Ordering::SeqCst);
                wal.submit(writes, Some(Box::new(done)));
            }
            if random.below(20) == 0 {
                marked(&wal).await;
            }
        }
        // Everything that was acknowledged before the cut counts; what is acknowledged between is not looked at.
        for (journal, entries, purged, flag) in acknowledged {
            if flag.load(Ordering::SeqCst) == 1 {
                let known = expected.entry(journal).or_default();
                known.acknowledged = known.acknowledged.max(entries);
                known.purge_acknowledged = known.purge_acknowledged.max(purged);
            }
        }
        disk = disk.crashed(&mut random);
    }
    let (wal, recovered) = reopened(&settings, &on(&disk)).await;
    check(&wal, &recovered, &expected, seed).await;
    wal.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing_that_was_acknowledged() {
    for seed in 0..150 {
        round(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_dropped_with_valid_frames_behind_it_and_they_never_come_back() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 100)]).await.unwrap();
    marked(&wal).await;
    let mark = disk.files().remove(Path::new("/log/mark")).unwrap();
    // One group of three, of which the middle one's sectors never reach the disk, nor does the mark, which is written after the sync.
    write(&wal, vec![entry(J, 2, 1500), entry(J, 3, 1500), entry(J, 4, 1500)]).await.unwrap();
    let path = Path::new("/log/0000000001.wal").to_owned();
    let mut files = disk.files();
    files.insert("/log/mark".into(), mark);
    let seen = inspect(&MemoryDisk::of(&files), &path).unwrap();
    let frames: Vec<_> = seen.frames.iter().filter(|frame| frame.header.at.index > 1).collect();
    let file = files.get_mut(&path).unwrap();
    file[frames[1].offset as usize..][..64].fill(0);
    let after = frames[2].offset as usize + 64 + 1504;
    file[after..after + 64].fill(0);
    let torn = MemoryDisk::of(&files);
    assert_eq!(inspect(&torn, &path).unwrap().beyond.len(), 1);
    let (wal, recovered) = reopened(&settings, &on(&torn)).await;
    assert_eq!(recovered.journals[&J].last, Some(at(1, 2)));
    assert!(inspect(&torn, &path).unwrap().beyond.is_empty(), "dropped frames are wiped before the log is used");
    // The same place and length as the dropped one: what was behind it must not be joined on.
    write(&wal, vec![entry(J, 3, 1500)]).await.unwrap();
    wal.close().await;
    let (_, recovered) = reopened(&settings, &on(&torn)).await;
    assert_eq!(recovered.journals[&J].last, Some(at(1, 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_above_the_mark_is_durable_before_open_returns() {
    let settings = Settings { idle_mark: Duration::from_secs(10), ..small(Path::new("/log")) };
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 100)]).await.unwrap();
    // As after a kill: the page cache has it, the platter does not.
    let killed = disk.unsynced_copy();
    assert_eq!(killed.crashed_hard().files().values().map(Vec::len).sum::<usize>(), killed.files().values().map(Vec::len).sum());
    let (wal_again, recovered) = reopened(&settings, &on(&killed)).await;
    assert_eq!(recovered.journals[&J].last, Some(at(1, 1)));
    let cut = killed.crashed_hard();
    let (_, recovered) = reopened(&settings, &on(&cut)).await;
    assert_eq!(recovered.journals[&J].last, Some(at(1, 1)), "it was served, so it must stay");
    drop((wal, wal_again));
}
