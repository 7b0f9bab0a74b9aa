//! Files that a newer build wrote, and directories that are another's: the start is refused, names the file, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidegate_broker::serve;
use tidegate_broker::settings::BrokerSettings;
use tidegate_env::Env;

use crate::common::say;
use crate::support::{create_topic, settings, start};

/// Why a broker did not start, with all causes.
async fn refusal(settings: &BrokerSettings) -> String {
    let error = serve(settings.clone(), Env::real()).await.err().expect("the start must be refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn files(folder: &Path, holding: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, holding));
        } else if path.to_string_lossy().contains(holding) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copied(from: &Path, to: &Path) {
    for path in files(from, "") {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// A WAL file of version 9, its header's checksum right (docs/formats/wal.md).
fn newer_wal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8] = 9;
    let sum = crc(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum);
    bytes
}

/// A local checkpoint of version 9, its checksum right (docs/formats/checkpoint.md).
fn newer_checkpoint(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8] = 9;
    let end = bytes.len() - 4;
    let sum = crc(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum);
    bytes
}

fn newer_json(bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    let changed = text.replace("\"format\": 1", "\"format\": 9");
    assert_ne!(changed, text, "{text}");
    changed.into_bytes()
}

/// A marker of version 9, its checksum right (docs/formats/identity.md).
fn newer_marker(bytes: Vec<u8>) -> Vec<u8> {
    let mut marker: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&newer_json(bytes)).unwrap();
    marker.remove("check").expect("markers have a checksum");
    let fields: Vec<String> = marker.iter().map(|(name, value)| format!("{}:{value}", serde_json::json!(name))).collect();
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, fields.join(",").as_bytes());
    marker.insert("check".to_owned(), format!("{sum:08x}").into());
    serde_json::to_vec(&marker).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_build_wrote_is_refused_by_its_file_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let (broker, channel) = start(settings.clone()).await;
    create_topic(&channel, "events", 1).await;
    say(broker.hub(), "events", 0, "kept").await;
    drop(channel);
    broker.shutdown().await;
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let rows: [(&str, &str, Change, &str); 4] = [
        ("the log", "/data/wal/0", newer_wal, "has format version 9, this program reads up to 2"),
        ("a checkpoint", "/data/checkpoints/", newer_checkpoint, "format version 9 is newer than 1: run a newer build"),
        ("the volume", "/data/identity.json", newer_json, "has format 9 and this build knows up to 1: run the newer build"),
        ("the store's layout", "/store/hub.json", newer_marker, "has format 9 and this build knows up to 1: run the newer build"),
    ];
    for (input, holding, change, words) in rows {
        // A copy for each: a start that is refused half-way ends with its process, which a test does not.
        let copy = tempfile::tempdir().unwrap();
        copied(directory.path(), copy.path());
        let settings = crate::support::settings(copy.path());
        let path = files(copy.path(), holding).pop().unwrap_or_else(|| panic!("{input}: no file {holding}"));
        let newer = change(std::fs::read(&path).unwrap());
        std::fs::write(&path, &newer).unwrap();
        let text = refusal(&settings).await;
        assert!(text.contains(words), "{input}: {text}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(name), "{input}: no {name} in {text}");
        assert_eq!(std::fs::read(&path).unwrap(), newer, "{input}: left as it was");
    }
    let copy = tempfile::tempdir().unwrap();
    copied(directory.path(), copy.path());
    let (broker, _) = start(crate::support::settings(copy.path())).await;
    let found = crate::common::values(&crate::common::read_all(broker.hub(), "events", 0, 0).await);
    assert_eq!(found, ["kept"], "the copies are good but for what was changed");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_a_directory_or_a_port_is_refused_while_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = settings(directory.path());
    let (broker, channel) = start(first.clone()).await;
    create_topic(&channel, "events", 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut same_volume = first.clone();
    same_volume.object_store = settings(elsewhere.path()).object_store;
    for settings in [&first, &same_volume] {
        let text = refusal(settings).await;
        assert!(text.contains("in use by process") && text.contains(&std::process::id().to_string()), "{text}");
    }
    let mut same_store = settings(elsewhere.path());
    same_store.object_store = first.object_store.clone();
    let text = refusal(&same_store).await;
    assert!(text.contains("belongs to hub") && text.contains("give an unused prefix"), "{text}");
    let mut same_port = settings(elsewhere.path());
    same_port.listeners.client = broker.client_addr;
    let text = refusal(&same_port).await;
    assert!(text.contains("listeners.client") && text.contains("another port"), "{text}");
    assert!(!elsewhere.path().join("data/wal").exists(), "a port that is taken costs no start");
    say(broker.hub(), "events", 0, "still here").await;
    broker.shutdown().await;
}
