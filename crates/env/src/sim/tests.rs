#![allow(clippy::unwrap_used)]
//! What a crash may and may not take, faults, and that a simulation repeats.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, OpenMode};

const FILE: &str = "/data/file";

fn disk_with_folder(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn write(disk: &SimDisk, bytes: &[u8], offset: u64) -> io::Result<()> {
    disk.open(Path::new(FILE), OpenMode::CreateOrOpen)?.write_vectored_at(&[Bytes::copy_from_slice(bytes)], offset)
}

fn sync(disk: &SimDisk) -> io::Result<()> {
    disk.open(Path::new(FILE), OpenMode::ReadWrite)?.sync_data()
}

#[test]
fn both_disks_keep_the_contract() {
    crate::conformance::run_all(&SimDisk::new(1), Path::new("/")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    crate::conformance::run_all(&crate::real::RealDisk, folder.path()).unwrap();
}

#[test]
fn a_name_without_a_sync_of_its_folder_may_be_lost_and_may_be_kept() {
    let survived: BTreeSet<bool> = (0..64)
        .map(|seed| {
            let disk = disk_with_folder(seed);
            write(&disk, b"synced", 0).unwrap();
            sync(&disk).unwrap();
            disk.crash(seed);
            disk.metadata(Path::new(FILE)).unwrap().is_some()
        })
        .collect();
    assert_eq!(survived.len(), 2, "64 seeds show both outcomes");
}

#[test]
fn an_unsynced_write_of_many_sectors_tears_in_every_way() {
    let mut ends = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk_with_folder(seed);
        write(&disk, &[1; 2048], 0).unwrap();
        sync(&disk).unwrap();
        disk.sync_dir(Path::new("/data")).unwrap();
        write(&disk, &[2; 2048], 0).unwrap();
        disk.crash(seed);
        let content = disk.read(Path::new(FILE)).unwrap();
        assert!(content.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "a sector is never torn");
        ends.insert(content.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>());
    }
    for shape in [[1, 1, 1, 1], [2, 2, 2, 2], [2, 1, 1, 1], [1, 1, 2, 2], [1, 2, 1, 2]] {
        assert!(ends.contains(&shape[..]), "{shape:?} never came up in {ends:?}");
    }
}

#[test]
fn a_failed_sync_drops_its_data_and_the_next_one_succeeds_without_it() {
    let disk = disk_with_folder(3);
    write(&disk, b"old", 0).unwrap();
    sync(&disk).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&disk, b"new", 0).unwrap();
    let fault = Fault { on: OperationKind::Sync, path_contains: "file".into(), after: 0, error: io::ErrorKind::Other };
    disk.inject(fault);
    assert!(sync(&disk).is_err());
    sync(&disk).unwrap();
    assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"new", "the page cache still shows it");
    disk.crash(0);
    assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"old");
}

#[test]
fn a_full_disk_says_so_and_goes_on_once_there_is_room() {
    let disk = disk_with_folder(4);
    disk.set_capacity(Some(1000));
    let file = disk.open(Path::new(FILE), OpenMode::CreateNew).unwrap();
    assert_eq!(file.allocate(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.allocate(900).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 100);
    file.write_vectored_at(&[Bytes::from(vec![1; 900])], 0).expect("allocated room is there");
    let other = disk.open(Path::new("/data/other"), OpenMode::CreateNew).unwrap();
    let refused = other.write_vectored_at(&[Bytes::from(vec![1; 101])], 0).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    disk.remove_file(Path::new(FILE)).unwrap();
    other.write_vectored_at(&[Bytes::from(vec![1; 101])], 0).unwrap();
}

#[test]
fn a_flipped_bit_is_served_and_survives_a_crash() {
    let disk = disk_with_folder(5);
    write(&disk, b"abc", 0).unwrap();
    sync(&disk).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    disk.flip_bit(Path::new(FILE), 1, 0).unwrap();
    disk.crash(0);
    assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"acc");
}

#[test]
fn handles_and_locks_of_an_earlier_life_are_dead() {
    let disk = disk_with_folder(6);
    let file = disk.open(Path::new(FILE), OpenMode::CreateNew).unwrap();
    let lock = disk.lock(Path::new("/data/lock")).unwrap();
    disk.crash(1);
    assert!(file.write_vectored_at(&[Bytes::from_static(b"x")], 0).is_err());
    assert!(file.sync_data().is_err());
    let taken = disk.lock(Path::new("/data/lock")).unwrap();
    drop(lock);
    assert!(disk.lock(Path::new("/data/lock")).is_err(), "an old guard doesn't free the new one's lock");
    drop(taken);
}

/// A process that writes on several tasks until the power goes.
fn busy_life(seed: u64) -> (u64, Duration, Vec<String>) {
    let mut simulation = Simulation::new(seed);
    simulation.disk().set_latency(Latency { sync: Duration::from_millis(2), transfer: Duration::ZERO, stall_one_in: 50 });
    for life in 0..3 {
        let ended = simulation.live(|env, handle| async move {
            env.disk.create_dir_all(Path::new("/data")).unwrap();
            handle.disk.cut_power_after(200 + life);
            for writer in 0..4u64 {
                let own = env.clone();
                let body = async move {
                    loop {
                        let path = format!("/data/{}", own.random.below(4) + writer);
                        let Ok(file) = own.disk.open(Path::new(&path), OpenMode::CreateOrOpen) else { return };
                        let bytes = Bytes::from(own.random.next_u64().to_be_bytes().to_vec());
                        let written = own.run_blocking(move || {
                            file.write_vectored_at(&[bytes], 0)?;
                            file.sync_data()?;
                            io::Result::Ok(file.simulated_latency())
                        });
                        let Ok(latency) = written.await else { return };
                        own.clock.sleep(latency.unwrap_or_default()).await;
                    }
                };
                env.threads.task("writer", Box::pin(body));
            }
            std::future::pending::<()>().await;
        });
        assert_eq!(ended, Ended::PowerCut);
        simulation.crash();
    }
    (simulation.disk().trace_hash(), simulation.elapsed, simulation.disk().recent())
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let first = busy_life(7);
    assert_eq!(first, busy_life(7));
    assert_ne!(first.0, busy_life(8).0);
}

#[test]
fn a_stuck_life_ends_and_a_panic_is_noted() {
    let mut simulation = Simulation::new(9);
    let ended = simulation.live(|env, _| async move {
        env.threads.task("faulty", Box::pin(async { panic!("as the test wants it") }));
        std::future::pending::<()>().await;
    });
    assert_eq!(ended, Ended::Stuck);
    assert_eq!(simulation.panics(), ["faulty: as the test wants it"]);
}

#[test]
fn clocks_go_on_over_lives_and_only_the_wall_clock_jumps() {
    let mut simulation = Simulation::new(10);
    let read = |env: &Env| (env.clock.now_ms(), env.clock.monotonic());
    let Ended::Output(first) = simulation.live(|env, handle| async move {
        env.clock.sleep(Duration::from_secs(5)).await;
        handle.clock.jump_wall_clock(-60_000);
        read(&env)
    }) else {
        panic!("this life ends by itself")
    };
    assert_eq!(first, (EPOCH_MS - 55_000, Duration::from_secs(5)));
    assert_eq!(simulation.live(|env, _| async move { read(&env) }), Ended::Output(first));
}

#[derive(Clone, Debug)]
enum Step {
    Write { sector: u64, sectors: u64, value: u8 },
    Sync,
    SetLen { sectors: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..12u64, 1..5u64, 1..255u8).prop_map(|(sector, sectors, value)| Step::Write { sector, sectors, value }),
        2 => Just(Step::Sync),
        1 => (0..16u64).prop_map(|sectors| Step::SetLen { sectors }),
    ]
}

proptest! {
    /// A sector that a crash leaves holds what it held at the last sync or was given since; the length likewise.
    #[test]
    fn a_crash_leaves_only_what_was_written_and_all_that_was_synced(steps in prop::collection::vec(step(), 1..40), seed: u64) {
        let disk = disk_with_folder(seed);
        write(&disk, b"", 0).unwrap();
        disk.sync_dir(Path::new("/data")).unwrap();
        let file = disk.open(Path::new(FILE), OpenMode::ReadWrite).unwrap();
        let mut now: Vec<u8> = Vec::new();
        let mut possible: Vec<BTreeSet<u8>> = vec![BTreeSet::from([0]); 20];
        let mut lengths = BTreeSet::from([0]);
        for step in steps {
            match step {
                Step::Write { sector, sectors, value } => {
                    let (start, end) = (usize::try_from(sector).unwrap(), usize::try_from(sector + sectors).unwrap());
                    file.write_vectored_at(&[Bytes::from(vec![value; (end - start) * 512])], sector * 512).unwrap();
                    now.resize(now.len().max(end), 0);
                    now[start..end].fill(value);
                }
                Step::SetLen { sectors } => {
                    file.set_len(sectors * 512).unwrap();
                    now.resize(usize::try_from(sectors).unwrap(), 0);
                }
                Step::Sync => {
                    file.sync_data().unwrap();
                    lengths.clear();
                    possible.iter_mut().for_each(BTreeSet::clear);
                }
            }
            lengths.insert(now.len());
            for (sector, values) in possible.iter_mut().enumerate() {
                values.insert(now.get(sector).copied().unwrap_or(0));
            }
        }
        disk.crash(seed);
        let left = disk.read(Path::new(FILE)).unwrap();
        prop_assert!(lengths.contains(&(left.len() / 512)), "{} sectors are left, possible were {lengths:?}", left.len() / 512);
        for (sector, bytes) in left.chunks(512).enumerate() {
            prop_assert!(possible[sector].contains(&bytes[0]), "sector {sector} holds {}, possible were {:?}", bytes[0], possible[sector]);
        }
    }
}
