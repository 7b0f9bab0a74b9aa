//! Real events through three real clients: tweets by the command, access-log lines by Python, flights by grpcurl; tiered to a real MinIO, the
//! local copies dropped, the process killed and started, and everything back byte for byte.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use support::{Consumed, Hub, HubOptions, MinIo, consume_all, repository, succeed, test_data, tool, tools};

/// An event as it went in.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    key: String,
    value: String,
    timestamp_ms: Option<i64>,
}

fn tweets(data: &Path) -> Vec<Sent> {
    let text = std::fs::read_to_string(data.join("tweets_groundtruth.tsv")).unwrap();
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).filter(|line| !line.is_empty());
    lines
        .map(|line| Sent { key: line.split('\t').next().unwrap().to_owned(), value: line.to_owned(), timestamp_ms: None })
        .collect()
}

fn access_log(data: &Path) -> Vec<Sent> {
    let text = std::fs::read_to_string(data.join("apache_access.log")).unwrap();
    let lines = text.split('\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let time = &line[line.find('[').unwrap() + 1..];
            let (time, _) = chrono::DateTime::parse_and_remainder(time, "%d/%b/%Y:%H:%M:%S %z").unwrap();
            let key = line.split(' ').next().unwrap().to_owned();
            Sent { key, value: line.to_owned(), timestamp_ms: Some(time.timestamp_millis()) }
        })
        .collect()
}

fn flights(data: &Path) -> Vec<Sent> {
    let text = std::fs::read_to_string(data.join("flights_20k.json")).unwrap();
    let elements: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(&text).unwrap();
    elements
        .iter()
        .map(|element| {
            let flight: Value = serde_json::from_str(element.get()).unwrap();
            Sent { key: flight["origin"].as_str().unwrap().to_owned(), value: element.get().to_owned(), timestamp_ms: None }
        })
        .collect()
}

fn send_tweets_by_command(hub: &Hub, data: &Path) {
    let file = data.join("tweets_groundtruth.tsv");
    let printed = hub.run(&[
        "produce",
        "tweets",
        "--file",
        file.to_str().unwrap(),
        "--format",
        "tsv",
        "--key",
        "1",
        "--compression",
        "zstd",
    ]);
    assert_eq!(printed, "4200 events stored in tweets\n");
}

fn send_log_by_python(hub: &Hub, data: &Path) {
    let python = tools().join("venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `bash deploy/setup.sh tests`", python.display());
    let script = repository().join("tests/clients/produce_access_log.py");
    succeed(Command::new(python).arg(script).args([&hub.client, "access-log"]).arg(data.join("apache_access.log")));
}

/// One `ProduceStream` call by grpcurl: frames of 500 plain records, each frame for the partition that its key's hash gives.
fn send_flights_by_grpcurl(hub: &Hub, flights: &[Sent], partitions: i32) {
    let mut frames = String::new();
    let mut by_partition: BTreeMap<i32, Vec<Value>> = BTreeMap::new();
    for flight in flights {
        let partition = tidegate_model::partition_for_key(flight.key.as_bytes(), partitions as u32).0;
        by_partition
            .entry(partition)
            .or_default()
            .push(json!({"key": BASE64.encode(&flight.key), "value": BASE64.encode(&flight.value)}));
    }
    let mut number = 0;
    for (partition, records) in &by_partition {
        for chunk in records.chunks(500) {
            number += 1;
            frames.push_str(
                &json!({"requestId": number, "topic": "flights", "partition": partition, "records": {"records": chunk}})
                    .to_string(),
            );
            frames.push('\n');
        }
    }
    let mut command = Command::new(tool("grpcurl"));
    command.args(["-plaintext", "-d", "@", &hub.client, "tidegate.v1.ProducerService/ProduceStream"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, frames.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "grpcurl: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap);
    let acks: Vec<Value> = answers.flat_map(|answer| answer["acks"].as_array().cloned().unwrap_or_default()).collect();
    assert_eq!(acks.len(), number, "one acknowledgement for each frame");
    assert!(acks.iter().all(|ack| ack.get("error").is_none()), "{text}");
}

/// Complete, byte for byte, dense, and in order within each partition: the keys of a partition come in the order of the input.
fn check_complete(name: &str, sent: &[Sent], read: &[Consumed]) {
    assert_eq!(read.len(), sent.len(), "{name}: number of events");
    let mut by_partition: BTreeMap<i64, Vec<&Consumed>> = BTreeMap::new();
    for event in read {
        by_partition.entry(event.partition).or_default().push(event);
    }
    assert!(by_partition.len() > 1, "{name}: several partitions hold events");
    let count = u32::try_from(by_partition.keys().max().unwrap() + 1).unwrap();
    for (partition, events) in by_partition {
        let expected: Vec<&Sent> = sent
            .iter()
            .filter(|event| i64::from(tidegate_model::partition_for_key(event.key.as_bytes(), count).0) == partition)
            .collect();
        assert_eq!(events.len(), expected.len(), "{name}/{partition}: number of events");
        for (index, (event, expected)) in events.iter().zip(expected).enumerate() {
            assert_eq!(event.offset, index as i64, "{name}/{partition}");
            assert_eq!(event.value, expected.value, "{name}/{partition}@{index}");
            assert_eq!(event.key.as_deref(), Some(expected.key.as_str()), "{name}/{partition}@{index}");
            if let Some(time) = expected.timestamp_ms {
                assert_eq!(event.timestamp_ms, time, "{name}/{partition}@{index}");
            }
        }
    }
}

/// The offset found for a time is the first whose timestamp is at or after it, in each partition.
fn check_offsets_by_time(hub: &Hub, read: &[Consumed]) {
    let falls = read
        .windows(2)
        .filter(|pair| pair[0].partition == pair[1].partition && pair[0].timestamp_ms > pair[1].timestamp_ms)
        .count();
    assert!(falls > 10, "the log lines should be out of order, or this proves nothing: {falls}");
    let first = read.iter().map(|event| event.timestamp_ms).min().unwrap();
    let last = read.iter().map(|event| event.timestamp_ms).max().unwrap();
    let steps = 12;
    for step in 0..=steps + 1 {
        let time = first - 1_000 + (last - first + 2_000) / steps * step;
        for partition in hub.json(&["offsets", "access-log", "--time", &time.to_string()]).as_array().unwrap() {
            let number = partition["partition"].as_i64().unwrap();
            let mut events = read.iter().filter(|event| event.partition == number);
            let expected = events.find(|event| event.timestamp_ms >= time).map(|event| event.offset);
            let expected = expected.unwrap_or_else(|| partition["end"].as_i64().unwrap());
            assert_eq!(partition["atTime"].as_i64(), Some(expected), "partition {number} at {time}");
        }
    }
}

#[test]
fn real_events_come_back_from_the_object_store_complete_and_in_order() {
    let Some(data) = test_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let minio = MinIo::start(&folder.path().join("minio"));
    let options = HubOptions::default()
        .with_minio(&minio)
        .set("hub.tier.seal_age_ms", 500)
        .set("hub.tier.interval_ms", 100)
        .set("hub.wal.file_bytes", 4 << 20)
        .set("hub.journal.checkpoint_bytes", 1 << 20);
    let hub = Hub::start(folder.path(), &options);
    for (topic, partitions) in [("tweets", "3"), ("access-log", "4"), ("flights", "3")] {
        hub.run(&["topic", "create", topic, "--partitions", partitions]);
    }
    let sent = [("tweets", tweets(&data)), ("access-log", access_log(&data)), ("flights", flights(&data))];
    send_tweets_by_command(&hub, &data);
    send_log_by_python(&hub, &data);
    send_flights_by_grpcurl(&hub, &sent[2].1, 3);
    for (topic, events) in &sent {
        check_complete(topic, events, &consume_all(&hub, topic));
        hub.wait_until_tiered(topic);
    }
    // What is read from here on comes out of MinIO.
    let mut hub = hub.drop_local_copies(folder.path(), &options, &["tweets", "access-log", "flights"]);
    hub.process.kill();
    let _ = std::fs::remove_dir_all(folder.path().join("data/cache"));
    let mut hub = Hub::start(folder.path(), &options);
    for (topic, events) in &sent {
        check_complete(topic, events, &consume_all(&hub, topic));
    }
    check_offsets_by_time(&hub, &consume_all(&hub, "access-log"));
    hub.process.terminate();
}
