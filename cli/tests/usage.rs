//! What people do wrong, what scripts rely on, what a terminal shows: exit codes, JSON, closed pipes, interrupts, progress, settings, logs.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Hub, HubOptions, consume_all, http_get, wait_for};

fn hub(folder: &tempfile::TempDir) -> Hub {
    Hub::start(folder.path(), &HubOptions::default())
}

/// Exit code, standard output and standard error of a command that is fed `input`.
fn told(mut command: Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its flags does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn alone(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("TIDEGATE_ADDRESS", "127.0.0.1:1");
    command
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked_of_a_hub() {
    let cases: &[(&[&str], &str)] = &[
        (&["consume", "t", "--from", "yesterday"], "RFC 3339"),
        (&["consume", "t", "--until", "@-1"], "whole number from 0"),
        (&["offsets", "t", "--time", "noon"], "RFC 3339"),
        (&["produce", "t", "--rate", "0"], "above 0"),
        (&["generate", "clicks", "--rate", "NaN"], "above 0"),
        (&["produce", "t", "--header", "x"], "NAME=VALUE"),
        (&["produce", "t", "--key", "1"], "--key-until"),
        (&["produce", "t", "--time", "when"], "--time-after"),
        (&["produce", "t", "--format", "jsonl", "--header-row"], "csv"),
        (&["produce", "t", "--format", "csv", "--key-until", ","], "--key"),
        (&["topic", "create", "t", "--retention", "forever"], "`7d`"),
        (&["topic", "create", "t", "--retention-bytes", "10 GB"], "`512Mi`"),
        (&["topic", "undelete", "t", "--uid", "7"], "uid"),
        (&["bench", "-n", "0"], "0 is not in"),
        (&["inspect", "."], "name a file"),
        (&["inspect"], "PATH"),
        (&["consume"], "TOPIC"),
        (&["completions", "cmd"], "zsh"),
        (&["nonsense"], "nonsense"),
    ];
    for (arguments, way_out) in cases {
        let (code, _, error) = told(alone(arguments), b"");
        assert!(code == 2 && error.contains(way_out), "{arguments:?}: {code}: {error}");
    }
    let mut bad_address = alone(&["topic", "list"]);
    bad_address.env("TIDEGATE_ADDRESS", "http://[x");
    let (code, _, error) = told(bad_address, b"");
    assert!(code == 2 && error.contains("--address http://[x"), "{code}: {error}");
}

#[test]
fn every_client_command_says_how_to_start_a_hub_when_there_is_none() {
    let manifest = support::repository().join("deploy/samples/topics.yaml");
    let commands: &[&[&str]] = &[
        &["topic", "list"],
        &["apply", "-f", manifest.to_str().unwrap()],
        &["produce", "t"],
        &["consume", "t"],
        &["offsets", "t"],
        &["generate", "clicks", "-n", "1"],
        &["bench"],
    ];
    for arguments in commands {
        let (code, _, error) = told(alone(arguments), b"x\n");
        assert!(code == 4 && error.contains("`tidegate dev` starts one"), "{arguments:?}: {code}: {error}");
    }
}

#[test]
fn a_topic_that_is_not_there_is_not_found_by_any_command() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "t"]);
    let commands: &[&[&str]] = &[
        &["topic", "describe", "none"],
        &["topic", "alter", "none", "--retention", "1d"],
        &["topic", "delete", "none"],
        &["produce", "none"],
        &["produce", "t", "--partition", "1"],
        &["consume", "none"],
        &["consume", "t", "--partition", "1"],
        &["offsets", "none"],
        &["generate", "clicks"],
    ];
    for arguments in commands {
        let (code, _, error) = told(hub.command(arguments), b"");
        assert!(
            code == 3 && (error.contains("none") || error.contains("clicks") || error.contains("partition 1")),
            "{arguments:?}: {error}"
        );
    }
    let (code, _, error) = told(hub.command(&["topic", "alter", "t"]), b"");
    assert!(code == 2 && error.contains("at least one setting"), "{code}: {error}");
}

#[test]
fn a_mistake_in_the_middle_of_the_input_leaves_what_came_before_stored_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "t"]);
    let input = b"k1\tv1\nk2\tv2\nonly one column\nk4\tv4\n";
    let (code, said, error) = told(hub.command(&["produce", "t", "--format", "tsv", "--key", "2"]), input);
    assert!(code == 1 && error.contains("record 3 does not have column `2`"), "{code}: {error}");
    assert_eq!(said, "2 events stored in t\n");
    let keys: Vec<_> = consume_all(&hub, "t").into_iter().map(|event| event.key.unwrap()).collect();
    assert_eq!(keys, ["v1", "v2"]);
}

#[test]
fn each_format_finds_key_and_time_and_keeps_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    let csv = b"when,id,text\n1970-01-01T00:00:01Z,7,\"a, \"\"b\"\"\nc\"\n";
    /// Topic, flags, input, the key and the value that must come of it.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [u8], &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (
            "csv",
            &["--format", "csv", "--header-row", "--key", "text", "--time", "when"],
            csv,
            "a, \"b\"\nc",
            "1970-01-01T00:00:01Z,7,\"a, \"\"b\"\"\nc\"",
        ),
        ("tsv", &["--format", "tsv", "--key", "2", "--time", "1"], b"1000\tk\tv\r\n", "k", "1000\tk\tv"),
        (
            "jsonl",
            &["--format", "jsonl", "--key", "k", "--time", "t"],
            b"{\"t\": 1000, \"k\":\"x\"}\n",
            "x",
            "{\"t\": 1000, \"k\":\"x\"}",
        ),
        (
            "json",
            &["--format", "json", "--key", "k", "--time", "t"],
            b"[ {\"t\":1000,\n \"k\":5} ]",
            "5",
            "{\"t\":1000,\n \"k\":5}",
        ),
        ("lines", &["--key-until", " ", "--time-after", "at ", "--time-format", "%s"], b"me at 1\n", "me", "me at 1"),
    ];
    for (topic, flags, input, key, value) in cases {
        hub.run(&["topic", "create", topic]);
        let arguments = [&["produce", topic, "-H", "a=1", "-H", "b=", "--compression", "gzip"], *flags].concat();
        let (code, said, error) = told(hub.command(&arguments), input);
        assert_eq!((code, said.as_str()), (0, format!("1 events stored in {topic}\n").as_str()), "{topic}: {error}");
        let event: Value = serde_json::from_str(&hub.run(&["consume", topic, "-o", "json"])).unwrap();
        assert_eq!(
            (event["key"].as_str(), event["value"].as_str(), event["timestampMs"].as_i64()),
            (Some(*key), Some(*value), Some(1000))
        );
        let headers = serde_json::json!([{"key": "a", "value": "1"}, {"key": "b", "value": ""}]);
        assert_eq!(event["headers"], headers);
        assert_eq!(hub.run(&["consume", topic, "--format", "raw"]), *value);
        assert_eq!(hub.run(&["consume", topic, "--format", "key-value"]), format!("{key}\t{value}\n"));
    }
}

#[test]
fn a_rate_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "clicks"]);
    let start = std::time::Instant::now();
    hub.run(&["generate", "clicks", "-n", "21", "--rate", "20"]);
    assert!(start.elapsed().as_millis() >= 1000, "21 events at 20 a second take a second: {:?}", start.elapsed());
}

#[test]
fn a_reader_that_stops_reading_ends_a_command_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "t", "--partitions", "2"]);
    let lines: String = (0..20_000).map(|number| format!("line {number} with some text to fill a pipe\n")).collect();
    assert_eq!(told(hub.command(&["produce", "t"]), lines.as_bytes()).0, 0);
    let commands: &[&[&str]] = &[
        &["generate", "clicks", "-", "-n", "100000"],
        &["consume", "t"],
        &["consume", "t", "--follow"],
        &["completions", "bash"],
    ];
    for arguments in commands {
        let mut child = hub.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        // The pipe is closed now, with most of the output unread.
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!first.is_empty() && output.status.success() && error.is_empty(), "{arguments:?}: {:?} {error}", output.status);
    }
}

/// Sends a signal as a terminal (INT) or a service manager (TERM) does.
fn send(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

#[test]
fn an_interrupted_producer_stores_and_counts_what_it_has_read() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "t"]);
    let mut child = hub.command(&["produce", "t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a\nb\n").unwrap();
    wait_for("both events", || (consume_all(&hub, "t").len() == 2).then_some(()));
    send("-INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()), (Some(0), "2 events stored in t\n"));
    drop(input);
}

#[test]
fn a_following_consumer_commits_while_it_runs_and_when_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "t"]);
    let committed = || hub.json(&["offsets", "t", "--group", "g"])[0]["committed"].as_i64();
    let mut child = hub.command(&["consume", "t", "--follow", "--group", "g"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(told(hub.command(&["produce", "t"]), b"a\nb\n").0, 0);
    assert_eq!((lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()), ("a".to_owned(), "b".to_owned()));
    wait_for("the commit of a running consumer", || (committed() == Some(2)).then_some(()));
    assert_eq!(told(hub.command(&["produce", "t"]), b"c\n").0, 0);
    assert_eq!(lines.next().unwrap().unwrap(), "c");
    send("-TERM", child.id());
    assert!(child.wait().unwrap().success());
    assert_eq!(committed(), Some(3));
}

#[test]
fn a_consumer_whose_hub_goes_away_ends_with_the_code_for_trying_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub(&folder);
    hub.run(&["topic", "create", "t"]);
    assert_eq!(told(hub.command(&["produce", "t"]), b"a\n").0, 0);
    let mut child = hub.command(&["consume", "t", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut first).unwrap();
    hub.process.terminate();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && error.contains("again"), "{:?}: {error}", output.status);
}

#[test]
fn deleted_topics_of_one_name_are_told_apart_by_their_uid() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    for partitions in ["1", "2"] {
        hub.run(&["topic", "create", "t", "--partitions", partitions]);
        hub.run(&["topic", "delete", "t"]);
    }
    let (code, _, error) = told(hub.command(&["topic", "undelete", "t"]), b"");
    assert!(code == 5 && error.contains("several deleted topics"), "{code}: {error}");
    let deleted = hub.json(&["topic", "list", "--deleted"]);
    let two = deleted.as_array().unwrap().iter().find(|topic| topic["partitions"] == 2).unwrap();
    let uid = two["topicUid"].as_str().unwrap();
    assert!(hub.run(&["topic", "list", "--deleted"]).contains(uid), "the table names the uid, too");
    hub.run(&["topic", "undelete", "t", "--uid", uid]);
    assert_eq!(hub.json(&["topic", "describe", "t"])["topic"]["partitions"], 2);
}

#[test]
fn the_benchmark_measures_a_topic_that_is_there_already_too() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    for _ in 0..2 {
        let measured = hub.json(&["bench", "-n", "500", "--event-bytes", "100"]);
        for part in ["produce", "consume"] {
            assert!(measured[part]["eventsPerSecond"].as_f64().unwrap() > 0.0, "{measured}");
        }
    }
    assert_eq!(hub.total("bench", "highWatermark"), 2 * (500 + 500), "500 for the rate and 500 for the latency, twice");
}

#[test]
fn a_terminal_shows_progress_and_a_pipe_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    hub.run(&["topic", "create", "clicks"]);
    let arguments = ["generate", "clicks", "-n", "60", "--rate", "50"];
    let (_, _, piped) = told(hub.command(&arguments), b"");
    assert_eq!(piped, "", "no progress in a pipe");
    // util-linux's `script` gives the command a terminal.
    let typed = format!("{} {}", env!("CARGO_BIN_EXE_tidegate"), arguments.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &typed, "/dev/null"]);
    script.env("TIDEGATE_ADDRESS", &hub.client).env("TERM", "xterm").stdin(Stdio::null());
    let shown = String::from_utf8(support::succeed(&mut script).stdout).unwrap();
    assert!(shown.contains("/60 events"), "{shown:?}");
}

#[test]
fn settings_come_from_file_environment_and_flags_and_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    std::fs::write(
        &file,
        "[hub]\njournals = 2\nbroker_id = 5\n[hub.tier]\nuploads = 3\n[object_store.directory]\npath = \"o\"\n",
    )
    .unwrap();
    let mut config = alone(&["config", "-o", "json", "--set", "hub.journals=8"]);
    config.env("TIDEGATE_CONFIG", &file).env("TIDEGATE_SET_hub__journals", "4").env("TIDEGATE_SET_hub__broker_id", "6");
    let (code, said, error) = told(config, b"");
    let settings: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{code}: {error}"));
    let hub = &settings["hub"];
    assert_eq!((&hub["journals"], &hub["broker_id"], &hub["tier"]["uploads"]), (&8.into(), &6.into(), &3.into()));
    let (_, toml, _) = told(alone(&["config"]), b"");
    assert!(toml.contains("[hub.wal]") && toml.contains("client = \"127.0.0.1:7171\""), "loopback is the default: {toml}");
    let mut broken = alone(&["broker"]);
    let (code, _, error) = told(
        {
            broken.env("TIDEGATE_SET_listeners__client", "everywhere");
            broken
        },
        b"",
    );
    assert!(code == 1 && error.contains("`listeners.client`"), "{code}: {error}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder);
    let mut second = alone(&["dev", "--data-dir"]);
    second.arg(folder.path().join("second")).args(["--set", &format!("listeners.client={}", hub.client)]);
    let (code, _, error) = told(second, b"");
    assert!(code == 1 && error.contains("listeners.client") && error.contains(&hub.client), "{code}: {error}");
}

#[test]
fn logs_are_json_when_asked_for_and_readiness_and_metrics_answer_until_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(folder.path(), &HubOptions::default().set("telemetry.log_format", "json"));
    assert!(http_get(&hub.http, "livez").contains("ok") && http_get(&hub.http, "readyz").contains("ok"));
    hub.run(&["topic", "create", "t"]);
    let metrics = http_get(&hub.http, "metrics");
    assert!(metrics.contains("tidegate_calls_total{method=\"CreateTopic\",result=\"ok\"} 1"), "{metrics}");
    hub.process.terminate();
    let log = std::fs::read_to_string(&hub.log).unwrap();
    let (json, other): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.starts_with('{'));
    let said: Vec<Value> = json.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(said.iter().any(|line| line["message"] == "serving" && line["level"] == "INFO"), "{log}");
    assert!(said.iter().any(|line| line["message"] == "told to terminate: stopping"), "{log}");
    assert!(other.iter().all(|line| !line.contains(" INFO ")), "no log line is plain text: {log}");
}
