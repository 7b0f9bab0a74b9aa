//! Bit rot on everything that a hub keeps: one bit flipped, a page zeroed, a file cut, two files swapped; then the hub is opened and read. Each
//! damage must be detected or harmless; nothing wrong may be served.
//!
//! `TIDEGATE_BITROT_COUNT` damages (200) from `TIDEGATE_BITROT_SEED` (1). The verdict is printed with `--nocapture`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use tidegate_broker::hub::{Append, Hub, PartitionRef};
use tidegate_broker::recover::recover;
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_model::{Offset, TopicSettings};
use tidegate_tier::DirectoryStore;

const RECORDS: i64 = 120;
const TOPICS: [&str; 2] = ["tiered", "tail"];

struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// Nothing moves by itself but what a topic asks for.
fn still(directory: &Path, data: &str) -> HubSettings {
    let mut settings = untiered(directory);
    settings.data_dir = directory.join(data);
    settings.wal.file_bytes = 1 << 20;
    settings.journal.checkpoint_bytes = 16 << 10;
    settings.tier.checkpoint_interval_ms = 3_600_000;
    settings.retention_interval_ms = 3_600_000;
    settings
}

async fn open_in(directory: &Path, data: &str) -> Result<Hub, String> {
    let env = Env::real();
    let store = DirectoryStore::open(&env, directory.join("store")).await.map_err(|error| error.to_string())?;
    let hub = Hub::open(still(directory, data), &Limits::default(), &env, Arc::new(store)).await;
    hub.map_err(|error| format!("{error:?}"))
}

fn value(topic: &str, number: i64) -> String {
    format!("{topic}-{number}-{}", "abcdefgh".repeat(1 + (number as usize * 7) % 60))
}

/// A hub with records in the tier, records in the log, checkpoints here and there, and every file closed.
async fn build(directory: &Path) {
    let hub = open_in(directory, "data").await.unwrap();
    for topic in TOPICS {
        let seal_bytes = (topic == "tiered").then_some(1);
        hub.create_topic(
            new_topic(topic, TopicSettings { seal_bytes, ..Default::default() }),
            &tidegate_broker::hub::Caller::Client,
        )
        .await
        .unwrap();
    }
    for number in 0..RECORDS {
        for topic in TOPICS {
            let batches = vec![batch(&[&value(topic, number)], &[number])];
            hub.append(Append { at: PartitionRef::new(topic, 0), batches }).await.unwrap();
        }
        if number % 40 == 39 {
            tiered(&hub, "tiered", 0).await;
            hub.checkpoint_to_store().await.unwrap();
        }
    }
    close(hub).await;
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if std::fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
}

/// What kind of file it is; `None` for those that mean nothing (locks, notes about the process, spares).
fn kind(path: &Path) -> Option<&'static str> {
    let text = path.to_string_lossy();
    let name = path.file_name()?.to_string_lossy();
    match () {
        () if name == "lock" || name == ".lock" || name == "owner" || name.ends_with(".spare") || text.contains("/cache/") => {
            None
        }
        () if name.ends_with(".wal") => Some("WAL file"),
        () if name == "mark" => Some("durable mark"),
        () if name.ends_with(".checkpoint") => Some("local checkpoint"),
        () if name == "identity.json" || name == "identity" => Some("identity"),
        () if name == "hub.json" => Some("marker"),
        () if text.contains("/checkpoints/") => Some("checkpoint object"),
        () if text.contains("/objects/") => Some("tier object"),
        () => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Flip,
    Page,
    Cut,
    Swap,
}

/// Damages one file of the given kind; says how.
fn damage(random: &mut SplitMix, of_kind: &[PathBuf]) -> (Damage, String) {
    let path = &of_kind[random.below(of_kind.len() as u64) as usize];
    let mut bytes = std::fs::read(path).unwrap();
    // Preallocated room behind the last frame holds nothing: damage goes where something is.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
    let how = match random.below(10) {
        7 => Damage::Page,
        8 => Damage::Cut,
        9 if of_kind.len() > 1 => Damage::Swap,
        _ => Damage::Flip,
    };
    let place = random.below(used) as usize;
    match how {
        Damage::Flip => bytes[place] ^= 1 << random.below(8),
        Damage::Page => {
            let start = place / 4096 * 4096;
            let end = (start + 4096).min(bytes.len());
            bytes[start..end].fill(0);
        }
        Damage::Cut => bytes.truncate(place),
        Damage::Swap => {
            let other = &of_kind[random.below(of_kind.len() as u64) as usize];
            let theirs = std::fs::read(other).unwrap();
            std::fs::write(other, &bytes).unwrap();
            bytes = theirs;
        }
    }
    std::fs::write(path, bytes).unwrap();
    (how, format!("{how:?} of {} at byte {place}", path.display()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Harmless,
    Detected,
    /// The end of the log is gone without a word.
    TornTail,
}

/// Reads a topic; panics if anything wrong is served.
async fn read_topic(hub: &Hub, topic: &str, what: &str) -> Verdict {
    let at = PartitionRef::new(topic, 0);
    let mut next = Offset(0);
    loop {
        let Ok(fetched) = hub.read(&at, next, 1 << 16).await else { return Verdict::Detected };
        if fetched.bytes == 0 {
            break;
        }
        for record in records(&fetched, next) {
            assert_eq!(record.offset, next, "{what}: offsets are dense");
            let read = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
            assert_eq!(read, value(topic, next.0), "{what}: offset {next} of {topic} was served wrong");
            next = Offset(next.0 + 1);
        }
    }
    if next == Offset(RECORDS) { Verdict::Harmless } else { Verdict::TornTail }
}

async fn judge(directory: &Path, kind: &str, what: &str) -> Verdict {
    let recovers = kind == "checkpoint object";
    if recovers {
        let env = Env::real();
        let store = Arc::new(DirectoryStore::open(&env, directory.join("store")).await.unwrap());
        match recover(&still(directory, "fresh"), &env, store).await {
            Err(_) => return Verdict::Detected,
            // What was not in a whole checkpoint is reported as lost: the untiered topic, and what an older checkpoint does not know.
            Ok(report) if !report.missing.is_empty() => return Verdict::Detected,
            Ok(_) => {}
        }
    }
    let hub = match open_in(directory, if recovers { "fresh" } else { "data" }).await {
        Ok(hub) => hub,
        Err(_) => return Verdict::Detected,
    };
    let mut verdict = Verdict::Harmless;
    for topic in TOPICS {
        if recovers && topic == "tail" {
            continue;
        }
        verdict = verdict.max(read_topic(&hub, topic, what).await);
    }
    // Once more from the tier alone.
    if hub.drop_local_copies().await.is_ok() {
        verdict = verdict.max(read_topic(&hub, "tiered", what).await);
    }
    hub.shutdown(Duration::from_secs(10)).await;
    // A recovery from an older checkpoint knows less and says so in its report.
    if recovers && verdict == Verdict::TornTail { Verdict::Detected } else { verdict }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// In memory where that can be had: ten thousand copies of a hub are not for a disk.
fn workplace() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_detected_or_harmless_and_never_served_wrong() {
    let (seed, count) = (number("TIDEGATE_BITROT_SEED", 1), number("TIDEGATE_BITROT_COUNT", 200));
    println!("TIDEGATE_BITROT_SEED={seed} TIDEGATE_BITROT_COUNT={count}");
    let place = workplace();
    let base = place.path().join("base");
    build(&base).await;
    let mut random = SplitMix(seed);
    let mut verdicts = BTreeMap::<(&str, Damage, Verdict), u64>::new();
    for round in 0..count {
        let directory = place.path().join("damaged");
        copy(&base, &directory);
        let mut found = Vec::new();
        files(&directory, &mut found);
        let mut kinds = BTreeMap::<&str, Vec<PathBuf>>::new();
        found
            .into_iter()
            .for_each(|path| kind(&path).into_iter().for_each(|kind| kinds.entry(kind).or_default().push(path.clone())));
        assert!(kinds.len() >= 7, "every kind of file is there: {:?}", kinds.keys());
        // Half of all damage to the log, which has most of the bytes.
        let names: Vec<&str> = kinds.keys().copied().collect();
        let of = if random.below(2) == 0 { "WAL file" } else { names[random.below(names.len() as u64) as usize] };
        let (how, what) = damage(&mut random, &kinds[of]);
        let what = format!("seed {seed}, round {round}: {what}");
        let verdict = judge(&directory, of, &what).await;
        assert!(verdict != Verdict::TornTail, "{what}: acknowledged records are gone");
        *verdicts.entry((of, how, verdict)).or_default() += 1;
        std::fs::remove_dir_all(&directory).unwrap();
    }
    for ((of, how, verdict), count) in &verdicts {
        println!("{of:<18} {how:<6?} {verdict:<9?} {count:>6}");
    }
}
