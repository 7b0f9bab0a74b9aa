//! `tidegate verify` against a real hub: a good hub passes, also one that is killed meanwhile; a damaged history does not.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{Hub, HubOptions, free_port, wait_for};

fn verify(hub: &Hub, arguments: &[&str]) -> Output {
    let mut command = hub.command(&["verify"]);
    command.args(arguments).args(["--rate", "800", "-o", "json"]).output().unwrap()
}

fn judge(history: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["verify", "-o", "json", "--check"]).arg(history).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[test]
fn a_good_hub_passes_and_its_history_damaged_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(folder.path(), &HubOptions::default());
    let history = folder.path().join("history.jsonl");
    let output = verify(&hub, &["--for", "3s", "--seed", "5", "--partitions", "3", "--history", history.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr);
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(output.status.success(), "{verdict:#}");
    assert!(verdict["counts"]["acknowledged"].as_u64().unwrap() > 500, "{verdict:#}");
    assert!(text.contains("seed 5"), "{text}");
    assert_eq!(hub.json(&["topic", "list", "--prefix", "verify-"]), Value::Array(vec![]), "the topic is deleted at the end");

    // The same history passes again, without a hub.
    let (code, again) = judge(&history);
    assert_eq!((code, &again["counts"]), (Some(0), &verdict["counts"]));

    // Take one record out of the last full read: an acknowledged record is lost.
    let text = std::fs::read_to_string(&history).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let part = lines.iter_mut().rev().find(|line| line["event"] == "read_part").unwrap();
    part["records"].as_array_mut().unwrap().remove(0);
    let damaged: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = folder.path().join("damaged.jsonl");
    std::fs::write(&path, damaged).unwrap();
    let (code, verdict) = judge(&path);
    assert_eq!(code, Some(1), "{verdict:#}");
    assert!(verdict["broken"]["lost_write"].as_u64() == Some(1), "{verdict:#}");
}

#[test]
fn a_hub_that_is_killed_meanwhile_passes_too() {
    let folder = tempfile::tempdir().unwrap();
    // The same port each time, as clients expect it.
    let options = HubOptions::default().set("listeners.client", format!("127.0.0.1:{}", free_port()));
    let mut hub = Hub::start(folder.path(), &options);
    let verifying = hub
        .command(&["verify", "--for", "4s", "--rate", "800", "--seed", "6", "--keep", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("records of the workload", || {
        let topics = hub.json(&["topic", "list", "--prefix", "verify-6"]);
        (!topics.as_array().unwrap().is_empty() && hub.total("verify-6", "highWatermark") > 100).then_some(())
    });
    hub.process.kill();
    let hub = Hub::start(folder.path(), &options);
    let output = verifying.wait_with_output().unwrap();
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{verdict:#}");
    assert!(hub.total("verify-6", "highWatermark") > 500);
}
