//! Every target over its committed corpus, and over mutated inputs from a printed seed: the slice of fuzzing that each test run repeats.
//!
//! `TIDEGATE_FUZZ_SEED` sets the seed, `TIDEGATE_FUZZ_COUNT` the inputs for each target (2,000). `TIDEGATE_WRITE_GOLDEN=1` adds those inputs of the
//! corpus that are made of golden files and are missing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use prost::Message;
use tidegate_decoders::{TARGETS, Target};
use tidegate_proto::v1;

const MOST_CORPUS_BYTES: u64 = 300 << 10;
/// Inputs are kept to this size, as the corpus is: what is larger is slow and finds nothing more.
const MOST_INPUT_BYTES: usize = 64 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A small generator: a seed is all that a run depends on.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Changes bytes as corruption and malice do: flips, extreme integers, cuts, copies of a part, parts of another input.
fn mutate(random: &mut SplitMix, bytes: &mut Vec<u8>, other: &[u8]) {
    const EXTREMES: [u64; 6] = [0, 1, 0x7f, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => {
                let value = EXTREMES[random.below(EXTREMES.len())];
                let width = [1, 2, 4, 8][random.below(4)];
                let image = if random.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
                let image = if random.below(2) == 0 { &image[..width] } else { &image[8 - width..] };
                bytes.iter_mut().skip(at).zip(image).for_each(|(byte, new)| *byte = *new);
            }
            3 => bytes.truncate(at),
            4 => {
                let part = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                let place = random.below(bytes.len());
                bytes.splice(place..place, part);
            }
            5 => bytes.drain(at..(at + random.below(32)).min(bytes.len())).for_each(drop),
            _ if !other.is_empty() => {
                let from = random.below(other.len());
                let part = other[from..(from + random.below(128)).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {}
        }
    }
    bytes.truncate(MOST_INPUT_BYTES);
}

fn run((name, target): &Target, bytes: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        let path = std::env::temp_dir().join(format!("tidegate-fuzz-{name}.bin"));
        std::fs::write(&path, bytes).unwrap();
        panic!("{name} fails on {what}; the input is {}: mend it and add the input to fuzz/corpus/{name}", path.display());
    }
}

#[test]
fn every_target_stands_its_corpus_and_mutations_of_it() {
    write_missing_seeds();
    let (seed, count) = (number("TIDEGATE_FUZZ_SEED", 1), number("TIDEGATE_FUZZ_COUNT", 2_000));
    println!("TIDEGATE_FUZZ_SEED={seed} TIDEGATE_FUZZ_COUNT={count}");
    for target in TARGETS {
        let seeds = seeds(target.0);
        for (path, bytes) in &seeds {
            run(target, bytes, &path.display().to_string());
        }
        let mut random = SplitMix(seed);
        for round in 0..count {
            let mut bytes = seeds[random.below(seeds.len())].1.clone();
            let other = &seeds[random.below(seeds.len())].1;
            mutate(&mut random, &mut bytes, other);
            run(target, &bytes, &format!("mutation {round} of seed {seed}"));
        }
    }
}

#[test]
fn the_corpus_is_small_and_has_a_target_for_each_folder() {
    let mut total = 0;
    for folder in std::fs::read_dir(root().join("fuzz/corpus")).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "fuzz/corpus/{name} belongs to no target");
        assert!(root().join(format!("fuzz/fuzz_targets/{name}.rs")).is_file(), "{name} has no fuzz target");
        total += seeds(&name).iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    }
    assert!(total <= MOST_CORPUS_BYTES, "the corpus has {total} bytes, at most {MOST_CORPUS_BYTES}");
}

/// The corpus begins with the golden files: what real versions wrote.
fn write_missing_seeds() {
    if std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_none() {
        return;
    }
    let golden = |path: &str| std::fs::read(root().join(path)).unwrap();
    let add = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        if !folder.join(name).exists() {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        add("record_batch", codec, &golden(&format!("crates/model/tests/golden/{codec}.log")));
    }
    add("wal_file", "sealed", &golden("crates/wal/tests/golden/sealed-v1.bin"));
    add("wal_file", "recycled", &golden("crates/wal/tests/golden/recycled-v1.bin"));
    let slot = golden("crates/wal/tests/golden/mark-v1.bin");
    add("wal_mark", "two-slots", &[&slot[..], &[0; 4032], &slot].concat());
    add("tier_object", "two-ranges", &golden("crates/tier/tests/golden/tier-object-v1.bin"));
    add("manifest_object", "three-ranges", &golden("crates/tier/tests/golden/manifest-v1.bin"));
    let state = golden("crates/journal/tests/golden/checkpoint-v1.bin");
    add("journal_state", "golden", &state);
    let envelope = tidegate_tier::checkpoint::Envelope::decode(&golden("crates/tier/tests/golden/checkpoint-v1.bin")).unwrap();
    let envelope = tidegate_tier::checkpoint::Envelope { state: state.into(), ..envelope };
    add("checkpoint_object", "golden", &envelope.encode().unwrap());
    add("local_checkpoint", "golden", &golden("crates/journal/tests/golden/local-checkpoint-v1.bin"));
    add("journal_entry", "golden", &golden("crates/journal/tests/golden/entry-v1.bin"));
    let mut frames = vec![9];
    for (request_id, batches) in [(1, vec![5; 40]), (2, Vec::new()), (3, vec![7; 700])] {
        let payload = Some(v1::produce_stream_request::Payload::Batches(batches.into()));
        let message =
            v1::ProduceStreamRequest { request_id, topic: "orders".to_owned(), partition: 3, payload, ..Default::default() };
        frames.extend([0].into_iter().chain((message.encoded_len() as u32).to_be_bytes()));
        frames.extend(message.encode_to_vec());
    }
    add("produce_frames", "three-requests", &frames);
    let settings = v1::TopicSettings {
        partitions: Some(12),
        retention_ms: Some(86_400_000),
        retention_bytes_per_partition: Some(1 << 30),
        max_message_bytes: Some(1 << 20),
        timestamp_type: v1::TimestampType::LogAppendTime.into(),
        seal_bytes: Some(1 << 24),
        seal_age_ms: Some(60_000),
        placement_group: Some("orders".to_owned()),
        labels: [("team".to_owned(), "billing".to_owned())].into(),
        ..Default::default()
    };
    add("topic_settings", "every-field", &settings.encode_to_vec());
    let mut settings = tidegate_broker::settings::BrokerSettings::default();
    add("broker_settings", "defaults.toml", toml::to_string(&settings).unwrap().as_bytes());
    settings.listeners.peer = Some("127.0.0.1:7174".parse().unwrap());
    settings.listeners.advertised = Some("hub.example.com:7171".to_owned());
    settings.hub.fleet.join = vec!["hub-0.example.com:7174".to_owned()];
    let s3 = "[object_store.s3]\nbucket = \"events\"\nregion = \"eu-central-1\"\nendpoint = \"http://minio:9000\"\npath_style = true\n";
    let text = toml::to_string(&settings).unwrap();
    let without = text.split("[object_store.directory]").next().unwrap();
    add("broker_settings", "fleet.toml", format!("{without}{s3}").as_bytes());
    for entry in std::fs::read_dir(root().join("deploy/samples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            add("topic_manifest", path.file_name().unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
        }
    }
}
