//! The command line as a person or a script uses it, against a hub in its own process.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::{Hub, HubOptions, consume_all, repository, tool};

fn hub() -> (tempfile::TempDir, Hub) {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(folder.path(), &HubOptions::default());
    (folder, hub)
}

/// Runs a command that must fail; gives its exit code and what it said.
fn fail(hub: &Hub, arguments: &[&str]) -> (i32, String) {
    let output = hub.command(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn feed(hub: &Hub, arguments: &[&str], input: &[u8]) {
    let mut child = hub.command(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn applying_the_samples_twice_changes_nothing_the_second_time() {
    let (_folder, mut hub) = hub();
    let samples = repository().join("deploy/samples/topics.yaml");
    let samples = samples.to_str().unwrap();
    assert_eq!(hub.run(&["apply", "-f", samples]), "topic/sensors created\ntopic/transactions created\ntopic/clicks created\n");
    let before = hub.json(&["topic", "list"]);
    assert_eq!(
        hub.run(&["apply", "-f", samples]),
        "topic/sensors unchanged\ntopic/transactions unchanged\ntopic/clicks unchanged\n"
    );
    assert_eq!(hub.json(&["topic", "list"]), before);
    hub.process.terminate();
}

#[test]
fn topics_are_made_changed_deleted_and_brought_back() {
    let (_folder, hub) = hub();
    hub.run(&["topic", "create", "t", "--partitions", "2", "--retention", "7d"]);
    hub.run(&["topic", "alter", "t", "--partitions", "3"]);
    let (code, error) = fail(&hub, &["topic", "alter", "t", "--partitions", "1"]);
    assert!(code == 5 && error.contains("partitions"), "{code}: {error}");
    let (code, error) = fail(&hub, &["topic", "create", "t"]);
    assert!(code == 5 && error.contains("exists"), "{code}: {error}");
    let (code, _) = fail(&hub, &["topic", "describe", "other"]);
    assert_eq!(code, 3);
    let (code, error) = fail(&hub, &["topic", "create", "a/b"]);
    assert!(code == 5 && error.contains("name"), "{code}: {error}");
    feed(&hub, &["produce", "t", "--key-until", ":"], b"a:1\nb:2\n");
    hub.run(&["topic", "delete", "t"]);
    assert_eq!(fail(&hub, &["consume", "t"]).0, 3);
    hub.run(&["topic", "undelete", "t"]);
    assert_eq!(consume_all(&hub, "t").len(), 2);
}

#[test]
fn events_are_consumed_from_and_until_where_asked() {
    let (_folder, hub) = hub();
    hub.run(&["topic", "create", "t"]);
    let lines: Vec<String> = (0..20).map(|number| format!("{{\"time\":{},\"n\":{number}}}", 1_000 + number * 10)).collect();
    feed(
        &hub,
        &["produce", "t", "--format", "jsonl", "--time", "time", "--header", "source=test"],
        (lines.join("\n") + "\n").as_bytes(),
    );
    let read = |arguments: &[&str]| hub.run(arguments).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(read(&["consume", "t"]), lines);
    assert_eq!(read(&["consume", "t", "--from", "@5", "--until", "@8"]), lines[5..8]);
    assert_eq!(read(&["consume", "t", "--from", "1100", "-n", "2"]), lines[10..12]);
    assert_eq!(read(&["consume", "t", "--until", "1050"]), lines[..5]);
    assert!(read(&["consume", "t", "--from", "latest"]).is_empty());
    let event: serde_json::Value = serde_json::from_str(&read(&["consume", "t", "-n", "1", "--format", "json"])[0]).unwrap();
    assert_eq!(event["headers"][0], serde_json::json!({"key": "source", "value": "test"}));
    let (code, error) = fail(&hub, &["consume", "t", "--from", "@99"]);
    assert!(code == 5 && error.contains("99"), "{code}: {error}");
}

#[test]
fn events_sent_without_acknowledgement_are_counted_as_sent() {
    let (folder, hub) = hub();
    hub.run(&["topic", "create", "t"]);
    let input = folder.path().join("input");
    let lines: String = (0..500).map(|number| format!("{number}\n")).collect();
    std::fs::write(&input, &lines).unwrap();
    let said = hub.run(&["produce", "t", "-f", input.to_str().unwrap(), "--no-ack"]);
    assert_eq!(said, "500 events sent to t, without acknowledgement; batches refused: 0\n");
    assert_eq!(hub.run(&["consume", "t"]), lines);
    let said = hub.json(&["produce", "t", "-f", input.to_str().unwrap(), "--no-ack"]);
    assert_eq!(said, serde_json::json!({"topic": "t", "sent": 500, "refusedBatches": 0}));
}

#[test]
fn a_group_goes_on_where_it_committed() {
    let (_folder, hub) = hub();
    hub.run(&["topic", "create", "t"]);
    feed(&hub, &["produce", "t"], b"a\nb\nc\n");
    assert_eq!(hub.run(&["consume", "t", "--group", "g", "-n", "2"]), "a\nb\n");
    assert_eq!(hub.run(&["consume", "t", "--group", "g"]), "c\n");
    let offsets = hub.json(&["offsets", "t", "--group", "g"]);
    assert_eq!((offsets[0]["committed"].as_i64(), offsets[0]["lag"].as_i64()), (Some(3), Some(0)));
}

#[test]
fn what_a_person_gets_wrong_is_said_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output =
            command.args(arguments).env("TIDEGATE_ADDRESS", "http://127.0.0.1:1").current_dir(folder.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["topic", "list"]);
    assert!(code == 4 && error.contains("tidegate dev"), "{code}: {error}");
    let (code, error) = run(&["config", "--set", "hub.jurnals=3"]);
    assert!(code == 1 && error.contains("did you mean"), "{code}: {error}");
    let (code, error) = run(&["dev", "--set", "hub.journals=1000"]);
    assert!(code == 1 && error.contains("hub.journals"), "{code}: {error}");
    std::fs::write(
        folder.path().join("bad.yaml"),
        "apiVersion: tidegate.dev/v1alpha1\nkind: Topic\nmetadata: {name: a}\nspec: {partition: 3}\n",
    )
    .unwrap();
    let (code, error) = run(&["apply", "-f", "bad.yaml"]);
    assert!(code == 1 && error.contains("did you mean `partitions`"), "{code}: {error}");
    assert_eq!(run(&["consume"]).0, 2);
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let (folder, _hub) = hub();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("dev").arg("--data-dir").arg(folder.path().join("data"));
    command.args(["--set", &format!("object_store.directory.path={}", folder.path().join("other-objects").display())]);
    for listener in ["client", "operator", "http"] {
        command.args(["--set", &format!("listeners.{listener}=127.0.0.1:0")]);
    }
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("is in use by process"), "{error}");
}

#[test]
fn grpcurl_finds_the_services_by_reflection_and_the_probes_answer() {
    let (_folder, hub) = hub();
    let output = support::succeed(Command::new(tool("grpcurl")).args(["-plaintext", &hub.client, "list"]));
    let services = String::from_utf8(output.stdout).unwrap();
    for service in ["tidegate.v1.ProducerService", "tidegate.v1.ConsumerService", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services}");
    }
    assert!(!services.contains("tidegate.operator"), "the operator's service is on a port of its own: {services}");
    let operator = support::succeed(Command::new(tool("grpcurl")).args(["-plaintext", &hub.operator, "list"]));
    assert!(String::from_utf8(operator.stdout).unwrap().contains("tidegate.operator.v1"));
    for (path, expected) in [("livez", "ok"), ("readyz", "ok"), ("metrics", "tidegate_")] {
        let answer = support::http_get(&hub.http, path);
        assert!(answer.contains(expected), "{path}: {answer}");
    }
}

/// The files below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn what_a_hub_wrote_is_inspected_and_kafkas_own_tool_reads_what_was_tiered() {
    let folder = tempfile::tempdir().unwrap();
    let options = HubOptions::default().set("hub.tier.seal_age_ms", 200).set("hub.tier.interval_ms", 50);
    let mut hub = Hub::start(folder.path(), &options);
    hub.run(&["topic", "create", "t"]);
    let lines: String = (0..500).map(|number| format!("line {number}\n")).collect();
    feed(&hub, &["produce", "t", "--compression", "lz4"], lines.as_bytes());
    hub.wait_until_tiered("t");
    let hub_command = |arguments: &[&str]| hub.run(arguments);
    let wal =
        files(&folder.path().join("data/wal")).into_iter().find(|path| path.extension().is_some_and(|end| end == "wal")).unwrap();
    assert!(hub_command(&["inspect", wal.to_str().unwrap()]).contains("Entry"));
    let object =
        files(&folder.path().join("data-objects")).into_iter().find(|path| path.to_str().unwrap().contains("/objects/")).unwrap();
    assert!(hub_command(&["inspect", object.to_str().unwrap()]).contains("500"), "the object holds 500 records");
    let log = folder.path().join("00000000000000000000.log");
    hub_command(&["inspect", object.to_str().unwrap(), "--kafka-log", log.to_str().unwrap()]);
    hub.process.terminate();
    let checkpoint = files(&folder.path().join("data/checkpoints"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "checkpoint"));
    assert!(hub.run(&["inspect", checkpoint.unwrap().to_str().unwrap()]).contains("state hash"));
    let dumped = support::succeed(Command::new("bash").arg(repository().join("tests/kafka/dump-log.sh")).arg(&log));
    let said = String::from_utf8(dumped.stdout).unwrap();
    assert!(said.contains("500 records, all valid"), "{said}");
}

/// The last entry that each journal has applied.
fn applied(hub: &Hub) -> Vec<(u64, u64)> {
    let metrics = support::http_get(&hub.http, "metrics");
    let lines =
        metrics.lines().filter_map(|line| line.strip_prefix("tidegate_journal_applied_index{journal=\"")?.split_once("\"} "));
    let applied: Vec<(u64, u64)> = lines.map(|(journal, index)| (journal.parse().unwrap(), index.parse().unwrap())).collect();
    assert_eq!(applied.len(), 5, "the catalog and four data journals");
    applied
}

/// Whether the newest checkpoint of every journal in the store covers `needed`: it goes as far, or nothing but the intent of its own upload came
/// behind it.
fn checkpoints_cover(folder: &std::path::Path, hub: &Hub, needed: &[(u64, u64)]) -> bool {
    let now = applied(hub);
    let uploaded = files(&folder.join("data-objects"));
    let newest = |journal: u64| {
        let indexes = uploaded.iter().filter_map(|path| {
            let (folder, name) = (path.parent()?.file_name()?.to_str()?, path.file_name()?.to_str()?);
            let is_checkpoint = path.to_str()?.contains("/checkpoints/") && folder.parse() == Ok(journal);
            is_checkpoint.then(|| name.split('-').next()?.parse::<u64>().ok()).flatten()
        });
        indexes.max().unwrap_or(0)
    };
    needed.iter().zip(now).all(|((journal, needed), (_, now))| newest(*journal) >= *needed || newest(*journal) + 1 >= now)
}

#[test]
fn a_hub_is_rebuilt_from_its_object_store_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = HubOptions::default()
        .set("hub.tier.seal_age_ms", 200)
        .set("hub.tier.interval_ms", 50)
        .set("hub.tier.checkpoint_interval_ms", 1000);
    let mut hub = Hub::start(folder.path(), &options);
    hub.run(&["topic", "create", "t", "--partitions", "2"]);
    feed(
        &hub,
        &["produce", "t", "--key-until", "e"],
        (0..500).map(|number| format!("{number}e\n")).collect::<String>().as_bytes(),
    );
    hub.wait_until_tiered("t");
    let before = consume_all(&hub, "t");
    let needed = applied(&hub);
    support::wait_for("checkpoints in the object store that know of it", || {
        checkpoints_cover(folder.path(), &hub, &needed).then_some(())
    });
    hub.process.kill();
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let mut recover = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = support::succeed(recover.arg("recover").arg("--data-dir").arg(folder.path().join("data")));
    assert!(String::from_utf8(output.stdout).unwrap().contains("was rebuilt as"));
    let hub = Hub::start(folder.path(), &options);
    assert_eq!(consume_all(&hub, "t"), before);
    feed(&hub, &["produce", "t"], b"after\n");
    assert_eq!(consume_all(&hub, "t").len(), 501);
}

#[test]
fn the_cluster_is_shown_and_refuses_what_cannot_be() {
    let (_folder, hub) = hub();
    let address = format!("http://{}", hub.operator);
    fn asked<'a>(address: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["cluster", "--operator-address", address], arguments].concat()
    }
    let cluster = |arguments: &[&'static str]| asked(&address, arguments);
    let shown = hub.json(&cluster(&["describe"]));
    assert_eq!((&shown["replicationFactor"], &shown["underReplicatedJournals"]), (&1.into(), &0.into()), "{shown}");
    assert_eq!((&shown["brokers"][0]["state"], &shown["brokers"][0]["leads"]), (&"active".into(), &5.into()), "{shown}");
    assert!(shown["journals"].as_array().unwrap().iter().all(|journal| journal["leader"] == 1), "{shown}");
    let table = hub.run(&cluster(&["describe"]));
    assert!(table.contains("replication factor 1") && table.contains("1*"), "{table}");
    let (code, error) = fail(&hub, &cluster(&["replicas", "2"]));
    assert!(code == 5 && error.contains("replication_factor"), "{code}: {error}");
    let (code, error) = fail(&hub, &cluster(&["drain", "9"]));
    assert!(code == 5 && error.contains("no broker 9"), "{code}: {error}");
    let (code, error) = fail(&hub, &cluster(&["retire", "1"]));
    assert!(code == 5 && error.contains("drain it first"), "{code}: {error}");
}
