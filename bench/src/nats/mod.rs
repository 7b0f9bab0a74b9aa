//! The driver of NATS JetStream: its client protocol over TCP, each batch one message.
//!
//! That is the cheapest way for NATS to take the same bytes: it stores and acknowledges one message where its own clients would send hundreds. A topic is
//! as many streams as a hub has journals, at most one a partition, and each partition a subject of one of them. Acknowledged are all messages.

mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

use self::wire::{Arrived, Line, Reader};
use crate::driver::{Driver, Leaders, Ready, Until};
use crate::flight::{Flight, Reading};

/// Where the count of records stands in a batch, and its base offset.
const RECORD_COUNT: std::ops::Range<usize> = 57..61;
const BASE_OFFSET: std::ops::Range<usize> = 0..8;
/// For one answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Nanoseconds between two signs of life of an idle consumer.
const HEARTBEAT_NANOS: u64 = 5_000_000_000;

/// Where servers listen, by their numbers from 1.
#[derive(Debug)]
pub(crate) struct Nats {
    addresses: Vec<String>,
    replicas: u16,
    streams: u32,
    leaders: Leaders,
    inboxes: AtomicU64,
}

impl Nats {
    pub(crate) fn new(addresses: Vec<String>, replicas: u16, streams: u32) -> Nats {
        Nats { addresses, replicas, streams, leaders: Leaders::default(), inboxes: AtomicU64::new(0) }
    }

    fn stream_of(&self, topic: &str, partition: i32) -> String {
        format!("{topic}_{}", partition.cast_unsigned() % self.streams)
    }

    fn subject(&self, topic: &str, partition: i32) -> String {
        format!("{topic}.{}.{partition}", partition.cast_unsigned() % self.streams)
    }

    /// A connection that hears what comes to its inbox.
    async fn open(&self, broker: usize) -> Result<(Reader, OwnedWriteHalf, String)> {
        let (reader, mut writer) = wire::connect(&self.addresses[broker]).await?;
        let inbox = format!("_INBOX.{}-{}", std::process::id(), self.inboxes.fetch_add(1, Ordering::Relaxed));
        writer.write_all(format!("SUB {inbox}.> 1\r\n").as_bytes()).await?;
        Ok((reader, writer, inbox))
    }

    /// Asks JetStream something, by a server.
    async fn ask(&self, broker: usize, subject: &str, body: &[u8]) -> Result<Value> {
        let (mut reader, mut writer, inbox) = self.open(broker).await?;
        send(&mut writer, subject, &format!("{inbox}.a"), body).await?;
        // While nobody leads, nobody answers.
        let answer = tokio::time::timeout(PATIENCE, next(&mut reader, &mut writer)).await.context("no answer")?;
        wire::answer(&answer?)
    }

    async fn ask_api(&self, broker: usize, call: &str, body: &Value) -> Result<Value> {
        let answer = self.ask(broker, &format!("$JS.API.{call}"), body.to_string().as_bytes()).await;
        answer.with_context(|| call.to_owned())
    }

    /// Who leads a stream; fails while a replica is not current.
    async fn stream_leader(&self, asked: usize, stream: &str, whole: bool) -> Result<usize> {
        let answer = self.ask_api(asked, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
        if self.addresses.len() == 1 {
            return Ok(0);
        }
        let cluster = &answer["cluster"];
        let current = cluster["replicas"].as_array().into_iter().flatten().filter(|replica| replica["current"] == true).count();
        ensure!(!whole || current + 1 == usize::from(self.replicas), "{stream}: {current} replicas are current");
        let leader = cluster["leader"].as_str().and_then(|name| name.strip_prefix('n')?.parse::<usize>().ok());
        leader.and_then(|number| number.checked_sub(1)).with_context(|| format!("{stream} has no leader"))
    }

    fn streams_of(&self, partitions: u32) -> u32 {
        self.streams.min(partitions)
    }
}

async fn send(writer: &mut OwnedWriteHalf, subject: &str, reply: &str, payload: &[u8]) -> Result<()> {
    let mut out = BytesMut::with_capacity(payload.len() + 128);
    out.extend_from_slice(wire::publish(subject, reply, payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    Ok(writer.write_all(&out).await?)
}

/// The next message; PINGs are answered.
async fn next(reader: &mut Reader, writer: &mut OwnedWriteHalf) -> Result<Arrived> {
    loop {
        match reader.next().await?.context("NATS closed the connection")? {
            Line::Message(arrived) => return Ok(arrived),
            Line::Ping => writer.write_all(b"PONG\r\n").await?,
        }
    }
}

/// The answer that a consumer owes for flow control, if this message is one.
fn flow_control(arrived: &Arrived) -> Option<String> {
    if !arrived.headers.starts_with(b"NATS/1.0 100") {
        return None;
    }
    let text = std::str::from_utf8(&arrived.headers).ok()?;
    let stalled = text.lines().find_map(|line| line.strip_prefix("Nats-Consumer-Stalled:"));
    Some(stalled.map_or_else(|| arrived.reply.clone(), |subject| subject.trim().to_owned()))
}

#[async_trait]
impl Driver for Nats {
    async fn is_up(&self, broker: usize) -> Result<()> {
        self.ask_api(broker, "INFO", &json!({})).await.map(drop)
    }

    async fn create_topic(&self, name: &str, partitions: u32) -> Result<()> {
        for stream in 0..self.streams_of(partitions) {
            let stream_name = format!("{name}_{stream}");
            let config = json!({"name": stream_name, "subjects": [format!("{name}.{stream}.*")], "storage": "file",
                "retention": "limits", "discard": "old", "num_replicas": self.replicas, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1});
            self.ask_api(0, &format!("STREAM.CREATE.{stream_name}"), &config).await?;
        }
        // Leaders and followers are there a moment later.
        for _ in 0..200 {
            if self.leaders(name, partitions).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        self.leaders(name, partitions).await.map(drop)
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let mut stream = 0;
        // It has no more streams than were made.
        while stream < self.streams {
            let deleted = self.ask_api(0, &format!("STREAM.DELETE.{name}_{stream}"), &json!({})).await;
            if stream > 0 && deleted.is_err() {
                break;
            }
            deleted?;
            stream += 1;
        }
        Ok(())
    }

    async fn leaders(&self, topic: &str, partitions: u32) -> Result<Vec<usize>> {
        let mut by_stream = Vec::new();
        for stream in 0..self.streams_of(partitions) {
            by_stream.push(self.stream_leader(0, &format!("{topic}_{stream}"), true).await?);
        }
        let leaders: Vec<usize> = (0..partitions as usize).map(|partition| by_stream[partition % by_stream.len()]).collect();
        self.leaders.note(topic, &leaders);
        Ok(leaders)
    }

    async fn leader(&self, asked: usize, topic: &str, partition: i32) -> Result<usize> {
        self.stream_leader(asked, &self.stream_of(topic, partition), false).await
    }

    async fn append(&self, broker: usize, topic: &str, partition: i32, batch: Bytes) -> Result<()> {
        self.ask(broker, &self.subject(topic, partition), &batch).await.map(drop)
    }

    async fn produce(&self, topic: &str, flight: Arc<Flight>) -> Result<()> {
        let (mut reader, mut writer, inbox) = self.open(self.leaders.of(topic, flight.partition())).await?;
        let (pong, mut pings) = tokio::sync::mpsc::channel::<()>(4);
        let all_sent = tokio::sync::Notify::new();
        let send = async {
            loop {
                let outgoing = tokio::select! {
                    biased;
                    Some(()) = pings.recv() => {
                        writer.write_all(b"PONG\r\n").await?;
                        continue;
                    }
                    outgoing = flight.next() => outgoing,
                };
                let Some(outgoing) = outgoing else { break };
                let (subject, number) = (self.subject(topic, outgoing.partition), outgoing.stamp.number);
                let batch_bytes = flight.templates.bytes_of(outgoing.partition);
                let mut out = BytesMut::with_capacity(batch_bytes + 128);
                out.extend_from_slice(wire::publish(&subject, &format!("{inbox}.{number}"), batch_bytes).as_bytes());
                flight.put(&mut out, outgoing);
                out.extend_from_slice(b"\r\n");
                writer.write_all(&out).await?;
            }
            all_sent.notify_one();
            anyhow::Ok(())
        };
        let take = async {
            let mut over = false;
            while !over || flight.land().is_err() {
                let line = tokio::select! {
                    biased;
                    () = all_sent.notified(), if !over => {
                        over = true;
                        continue;
                    }
                    line = reader.next() => line?,
                };
                match line.context("NATS closed the connection")? {
                    Line::Ping => pong.send(()).await?,
                    Line::Message(arrived) => {
                        wire::answer(&arrived)?;
                        let number = arrived.subject.rsplit('.').next().context("no number")?.parse()?;
                        flight.acknowledge(number)?;
                    }
                }
            }
            anyhow::Ok(())
        };
        tokio::try_join!(send, take).map(drop)
    }

    async fn consume(
        &self,
        topic: &str,
        partitions: &[i32],
        mut records: Until,
        mut reading: Reading,
        ready: Ready,
    ) -> Result<Reading> {
        let (mut reader, mut writer, inbox) = self.open(self.leaders.of(topic, partitions.first().copied().unwrap_or(0))).await?;
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for partition in partitions {
            wanted.entry(self.stream_of(topic, *partition)).or_default().push(self.subject(topic, *partition));
        }
        for (number, (stream, subjects)) in wanted.into_iter().enumerate() {
            let name = format!("c{}", self.inboxes.fetch_add(1, Ordering::Relaxed));
            let config = json!({"name": name, "deliver_subject": format!("{inbox}-{number}"), "deliver_policy": "all", "ack_policy": "none",
                "replay_policy": "instant", "filter_subjects": subjects, "flow_control": true, "idle_heartbeat": HEARTBEAT_NANOS,
                "num_replicas": 1, "mem_storage": true});
            let request = json!({"stream_name": stream, "config": config});
            // Over the connection that listens, so that its subscription is known before: a consumer that nobody listens to ends. A
            // subscription with a wildcard does not count (measured with 2.15.1: nothing is delivered), and one beside it makes two copies.
            writer.write_all(format!("SUB {inbox}-{number} {}\r\n", number + 2).as_bytes()).await?;
            let (call, body) = (format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), request.to_string());
            send(&mut writer, &call, &format!("{inbox}.a"), body.as_bytes()).await?;
        }
        let _ = ready.send(());
        let mut offsets: HashMap<i32, i64> = HashMap::new();
        while reading.records < *records.borrow() {
            let arrived = tokio::select! {
                biased;
                arrived = next(&mut reader, &mut writer) => arrived?,
                changed = records.changed() => { changed?; continue }
            };
            if let Some(subject) = flow_control(&arrived) {
                if !subject.is_empty() {
                    send(&mut writer, &subject, "", b"").await?;
                }
                continue;
            }
            if arrived.subject.starts_with(&inbox) {
                wire::answer(&arrived)?;
                continue;
            }
            let partition: i32 = arrived.subject.rsplit('.').next().context("no partition")?.parse()?;
            // NATS numbers messages, not records: what a record's offset would be is counted here. Order and number are checked by the stamps.
            let offset = offsets.entry(partition).or_insert(0);
            let mut batch = BytesMut::from(arrived.payload);
            batch.get_mut(BASE_OFFSET).context("too short")?.copy_from_slice(&offset.to_be_bytes());
            let count = batch.get(RECORD_COUNT).and_then(|bytes| bytes.first_chunk()).context("too short")?;
            *offset += i64::from(i32::from_be_bytes(*count));
            reading.take(partition, &batch)?;
        }
        Ok(reading)
    }
}
