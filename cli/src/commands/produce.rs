//! `tidegate produce` and `tidegate generate`: events from a file, standard input or the generator go to a topic.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tidegate_client::{Compression, Delivery, Producer, Record};
use tokio::time::Instant;

use crate::args::{CompressionArg, Connection, GenerateArgs, Output, ProduceArgs};
use crate::context::{client, client_error};
use crate::generate::Generator;
use crate::input::{Events, Extract};
use crate::progress;

/// Deliveries that may be undecided before the command waits for the oldest; their bytes are bounded by the client.
const UNDECIDED: usize = 100_000;
const GENERATED: u64 = 10_000;
const FOLLOW_RATE: f64 = 100.0;

impl From<CompressionArg> for Compression {
    fn from(argument: CompressionArg) -> Compression {
        match argument {
            CompressionArg::None => Compression::None,
            CompressionArg::Gzip => Compression::Gzip,
            CompressionArg::Snappy => Compression::Snappy,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        }
    }
}

/// Appends what is sent to it, holds a rate, and counts what became durable.
struct Sink {
    producer: Producer,
    undecided: VecDeque<Delivery>,
    pace: Option<(Instant, Duration)>,
    sent: u64,
    durable: u64,
    bar: indicatif::ProgressBar,
}

impl Sink {
    async fn connect(connection: &Connection, compression: Compression, rate: Option<f64>, total: Option<u64>) -> Result<Sink> {
        let pace = match rate {
            Some(rate) if rate > 0.0 => Some((Instant::now(), Duration::from_secs_f64(1.0 / rate))),
            Some(rate) => bail!("--rate {rate}: write a number of events a second above 0"),
            None => None,
        };
        let client = client(connection).await?;
        let producer = client.producer().compression(compression).build().map_err(client_error)?;
        Ok(Sink { producer, undecided: VecDeque::new(), pace, sent: 0, durable: 0, bar: progress::events(total) })
    }

    async fn send(&mut self, record: Record) -> Result<()> {
        if let Some((start, step)) = self.pace {
            tokio::time::sleep_until(start + step.mul_f64(self.sent as f64)).await;
        }
        self.undecided.push_back(self.producer.send(record).await.map_err(client_error)?);
        self.sent += 1;
        while self.undecided.len() > UNDECIDED || self.undecided.front().is_some_and(Delivery::is_decided) {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        if let Some(delivery) = self.undecided.pop_front() {
            delivery.wait().await.map_err(client_error).with_context(|| format!("event {} was not stored", self.durable + 1))?;
            self.durable += 1;
            self.bar.inc(1);
        }
        Ok(())
    }

    async fn finish(mut self, topic: &str, output: Output) -> Result<()> {
        self.producer.flush().await.map_err(client_error)?;
        while !self.undecided.is_empty() {
            self.settle_oldest().await?;
        }
        self.producer.close().await.map_err(client_error)?;
        self.bar.finish_and_clear();
        match output {
            Output::Json => println!("{:#}", json!({"topic": topic, "stored": self.durable})),
            Output::Table => println!("{} events stored in {topic}", self.durable),
        }
        Ok(())
    }
}

/// Runs `tidegate produce`.
pub(crate) async fn run(args: ProduceArgs) -> Result<()> {
    let headers = parse_headers(&args.headers)?;
    let extract = Extract {
        key: args.key,
        key_until: args.key_until,
        time: args.time,
        time_after: args.time_after,
        time_format: args.time_format,
        header: args.header_row,
    };
    let reader: Box<dyn BufRead> = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        None => Box::new(std::io::stdin().lock()),
        Some(path) => Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)),
    };
    let partition = args.partition.map(i32::try_from).transpose().context("--partition is too large")?;
    let mut sink = Sink::connect(&args.connection, args.compression.into(), args.rate, None).await?;
    for event in Events::new(reader, args.format, extract)? {
        let event = event?;
        let mut record = Record::new(args.topic.as_str()).value(event.value);
        if let Some(key) = event.key {
            record = record.key(key);
        }
        if let Some(time) = event.timestamp_ms {
            record = record.timestamp_ms(time);
        }
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        for (name, value) in &headers {
            record = record.header(name.clone(), value.clone().into_bytes());
        }
        sink.send(record).await?;
    }
    sink.finish(&args.topic, args.connection.output).await
}

fn parse_headers(headers: &[String]) -> Result<Vec<(String, String)>> {
    let one = |header: &String| match header.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("--header {header}: write NAME=VALUE"),
    };
    headers.iter().map(one).collect()
}

/// Runs `tidegate generate`.
pub(crate) async fn generate(args: GenerateArgs) -> Result<()> {
    let name = clap::ValueEnum::to_possible_value(&args.kind).map(|value| value.get_name().to_owned()).unwrap_or_default();
    let topic = args.topic.unwrap_or(name);
    let count = if args.follow { args.count } else { Some(args.count.unwrap_or(GENERATED)) };
    let rate = args.rate.or(args.follow.then_some(FOLLOW_RATE));
    // Without a rate the events are made as if they had happened up to now, a hundred a second.
    let per_second = rate.unwrap_or(FOLLOW_RATE);
    let now = chrono::Utc::now().timestamp_millis();
    let start = if rate.is_some() { now } else { now - (count.unwrap_or(0) as f64 * 1000.0 / per_second) as i64 };
    let generator =
        Generator::new(args.kind, args.seed, start, per_second).take(count.map_or(usize::MAX, |count| count as usize));
    if topic == "-" {
        for event in generator {
            println!("{}", event.value);
        }
        return Ok(());
    }
    let mut sink = Sink::connect(&args.connection, Compression::None, rate, count).await?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    for event in generator {
        let record = Record::new(topic.as_str()).key(event.key).value(event.value.to_string()).timestamp_ms(event.timestamp_ms);
        tokio::select! {
            sent = sink.send(record) => sent?,
            _ = &mut interrupted => break,
        }
    }
    sink.finish(&topic, args.connection.output).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_a_name_and_an_equals_sign() {
        assert_eq!(parse_headers(&["a=b=c".to_owned()]).unwrap(), [("a".to_owned(), "b=c".to_owned())]);
        assert!(parse_headers(&["a".to_owned()]).is_err());
        assert!(parse_headers(&["=a".to_owned()]).is_err());
    }
}
