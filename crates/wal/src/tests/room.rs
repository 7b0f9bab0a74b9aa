//! Budget, reserve, a full disk, and errors that are final.

use super::*;
use tidegate_env::Disk;

use crate::{Class, Pressure, Shortage};

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_refuses_data_first_then_control_and_purging_frees_it() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    let (mut index, mut soft) = (0, false);
    let full = loop {
        match wal.admit(3000, Class::Data) {
            Ok(_room) => {
                index += 1;
                write(&wal, vec![entry(J, index, 3000)]).await.unwrap();
                soft |= wal.status().pressure == Pressure::Soft;
            }
            Err(full) => break full,
        }
    };
    assert!(soft, "the soft mark was passed on the way");
    assert_eq!((full.why, full.budget), (Shortage::Budget, 1 << 20));
    assert!(full.to_string().contains("try again in"), "{full}");
    drop(wal.admit(3000, Class::Control).unwrap());
    assert_eq!(wal.read(J, 1).await.unwrap(), payload(J, 1, 3000), "reads go on");
    write(&wal, vec![Write::Purge { journal: J, at: at(1, index) }]).await.unwrap();
    until(|| wal.admit(3000, Class::Data).is_ok()).await;
    assert_eq!(wal.status().pressure, Pressure::Normal);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_ask_for_stops_within_the_reserve_and_what_frees_space_is_always_taken() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    let (budget, reserve) = (settings.budget_bytes, settings.control_reserve_bytes);
    let room = budget - wal.status().used_bytes;
    assert!(wal.admit(room - reserve + 1, Class::Data).is_err());
    assert!(wal.admit(room - reserve / 2 + 1, Class::Control).is_err());
    // What was admitted counts although nothing of it is written yet, and no longer once it was given up.
    let data = wal.admit(room - reserve, Class::Data).unwrap();
    assert!(wal.admit(1, Class::Data).is_err());
    let control = wal.admit(reserve / 2, Class::Control).unwrap();
    assert!(wal.admit(1, Class::Control).is_err());
    drop(wal.admit(2 * budget, Class::Space).unwrap());
    drop((data, control));
    drop(wal.admit(room - reserve, Class::Data).unwrap());
}

/// Fills the log up to where it refuses data; gives the last index.
async fn filled(wal: &Wal, mut index: u64) -> u64 {
    while let Ok(_room) = wal.admit(3000, Class::Data) {
        index += 1;
        write(wal, vec![entry(J, index, 3000)]).await.unwrap();
    }
    index
}

#[tokio::test(flavor = "multi_thread")]
async fn data_waits_for_room_in_a_log_that_is_being_emptied_and_is_refused_at_once_in_one_that_is_not() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    let first = filled(&wal, 0).await;
    let begun = std::time::Instant::now();
    assert_eq!(wal.admit_soon(3000, Class::Data).await.unwrap_err().why, Shortage::Budget);
    assert!(begun.elapsed() < Duration::from_millis(900), "nothing was ever freed: waiting would be in vain");
    write(&wal, vec![Write::Purge { journal: J, at: at(1, first) }]).await.unwrap();
    until(|| wal.admit(3000, Class::Data).is_ok()).await;
    let second = filled(&wal, first).await;
    let waits = wal.clone();
    let waiting = tokio::spawn(async move { waits.admit_soon(3000, Class::Data).await.map(drop) });
    until(|| wal.is_awaited()).await;
    write(&wal, vec![Write::Purge { journal: J, at: at(1, second) }]).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert!(!wal.is_awaited());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_appends_and_recovers_by_itself() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    // The next file is ready, and each later one is asked for while another is being filled: so the log knows that there is no room before it
    // needs it. What is admitted before it knows waits, as the next test shows.
    let files = || disk.list(Path::new("/log")).unwrap().iter().filter(|entry| entry.name.ends_with(".wal")).count();
    until(|| files() > 1).await;
    disk.faults.lock().no_room = true;
    let mut index = 0;
    let full = loop {
        match wal.admit(3000, Class::Data) {
            Ok(_room) => {
                index += 1;
                write(&wal, vec![entry(J, index, 3000)]).await.unwrap();
                if wal.status().files > 1 {
                    until(|| wal.status().disk_full).await;
                }
            }
            Err(full) => break full,
        }
    };
    assert_eq!(full.why, Shortage::Disk);
    assert!(wal.status().disk_full);
    // Control entries still find room.
    drop(wal.admit(100, Class::Control).unwrap());
    write(&wal, vec![Write::Vote { journal: K, bytes: Bytes::from_static(b"v") }]).await.unwrap();
    disk.faults.lock().no_room = false;
    until(|| wal.admit(3000, Class::Data).is_ok()).await;
    write(&wal, (index + 1..index + 9).map(|index| entry(J, index, 3000)).collect()).await.unwrap();
    assert!(!wal.status().disk_full);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_found_no_file_wait_for_room_and_are_not_lost() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    disk.faults.lock().no_room = true;
    let (done, mut written) = oneshot::channel();
    wal.submit((1..=60).map(|index| entry(J, index, 3000)).collect(), Some(Box::new(move |result| drop(done.send(result)))));
    until(|| wal.status().disk_full).await;
    assert!(written.try_recv().is_err());
    disk.faults.lock().no_room = false;
    written.await.unwrap().unwrap();
    assert_eq!(wal.read(J, 60).await.unwrap(), payload(J, 60, 3000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_the_first_start_is_said_and_leaves_nothing_behind() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    disk.faults.lock().no_room = true;
    assert!(matches!(Wal::open(settings.clone(), &on(&disk)).await, Err(crate::OpenError::NoRoom { .. })));
    disk.faults.lock().no_room = false;
    reopened(&settings, &on(&disk)).await.0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_final_even_if_the_next_would_succeed() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 100)]).await.unwrap();
    disk.faults.lock().fail_syncs = true;
    let error = write(&wal, vec![entry(J, 2, 100)]).await.unwrap_err();
    disk.faults.lock().fail_syncs = false;
    assert!(error.to_string().contains("end the process"), "{error}");
    assert_eq!(wal.failed().await.what, error.what);
    assert!(write(&wal, vec![entry(J, 3, 100)]).await.is_err(), "later submissions fail as well");
    wal.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_fails_all_that_is_pending_in_order() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    write(&wal, vec![entry(J, 1, 10)]).await.unwrap();
    disk.faults.lock().fail_writes = true;
    let (send, mut heard) = tokio::sync::mpsc::channel(100);
    for index in 2..=50u64 {
        let send = send.clone();
        wal.submit(
            vec![entry(J, index, 10)],
            Some(Box::new(move |result| {
                assert!(result.is_err());
                send.try_send(index).unwrap();
            })),
        );
    }
    drop(send);
    let mut all = Vec::new();
    while let Some(index) = heard.recv().await {
        all.push(index);
    }
    assert_eq!(all.len(), 49, "each is answered");
    wal.failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_after_closing_fails_instead_of_hanging() {
    let settings = small(Path::new("/log"));
    let disk = MemoryDisk::default();
    let (wal, _) = reopened(&settings, &on(&disk)).await;
    let other = wal.clone();
    wal.close().await;
    assert!(write(&other, vec![entry(J, 1, 1)]).await.is_err());
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let good = small(Path::new("x"));
    good.validate().unwrap();
    let bad = [
        (Settings { file_bytes: 1000, ..good.clone() }, "file_bytes"),
        (Settings { budget_bytes: 1, ..good.clone() }, "budget_bytes"),
        (Settings { soft_percent: 0, ..good.clone() }, "soft_percent"),
        (Settings { control_reserve_bytes: 1 << 30, ..good.clone() }, "control_reserve_bytes"),
        (Settings { group_bytes: 0, ..good.clone() }, "group_bytes"),
        (Settings { idle_mark: Duration::ZERO, ..good }, "idle_mark"),
    ];
    for (settings, field) in bad {
        assert_eq!(settings.validate().unwrap_err().field, field);
    }
}
