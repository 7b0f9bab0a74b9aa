//! `tidegate produce` and `tidegate generate`: events from a file, standard input or the generator go to a topic.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_client::{Compression, Delivery, Producer, ProducerSettings, Record};
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{interrupted, partition_of, partitions_of};
use crate::args::{CompressionArg, Connection, GenerateArgs, Output, ProduceArgs};
use crate::context::{CommandError, client, client_error, connect};
use crate::generate::Generator;
use crate::input::{Events, Extract, InputEvent, InputFormat};
use crate::output::outln;
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

/// Appends what is sent to it, holds a rate, and counts what became durable; without acknowledgements, what was sent.
struct Sink {
    producer: Producer,
    acknowledged: bool,
    undecided: VecDeque<Delivery>,
    pace: Option<(Instant, Duration)>,
    sent: u64,
    decided: u64,
    bar: indicatif::ProgressBar,
}

impl Sink {
    async fn connect(connection: &Connection, settings: ProducerSettings, rate: Option<f64>, total: Option<u64>) -> Result<Sink> {
        let pace = rate.map(|rate| (Instant::now(), Duration::from_secs_f64(1.0 / rate)));
        let acknowledged = settings.acknowledged;
        let producer = client(connection).await?.producer().settings(settings).build().map_err(client_error)?;
        Ok(Sink { producer, acknowledged, undecided: VecDeque::new(), pace, sent: 0, decided: 0, bar: progress::events(total) })
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
            delivery.wait().await.map_err(client_error).with_context(|| format!("event {} was not stored", self.decided + 1))?;
            self.decided += 1;
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
        let (decided, refused) = (self.decided, self.producer.refused_batches());
        match output {
            Output::Json if self.acknowledged => outln!("{:#}", json!({"topic": topic, "stored": decided})),
            Output::Json => outln!("{:#}", json!({"topic": topic, "sent": decided, "refusedBatches": refused})),
            Output::Table if self.acknowledged => outln!("{decided} events stored in {topic}"),
            Output::Table => outln!("{decided} events sent to {topic}, without acknowledgement; batches refused: {refused}"),
        }
        Ok(())
    }
}

/// Events read ahead of the client, each at most as large as a message.
const READ_AHEAD: usize = 64;

/// Runs `tidegate produce`. An interrupt ends the input; what was read before it is stored and counted.
pub(crate) async fn run(args: ProduceArgs) -> Result<()> {
    let extract = Extract {
        key: args.key,
        key_until: args.key_until,
        time: args.time,
        time_after: args.time_after,
        time_format: args.time_format,
        header: args.header_row,
    };
    extract.check(args.format).map_err(CommandError::Usage)?;
    let reader: Box<dyn BufRead + Send> = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        None => Box::new(BufReader::new(std::io::stdin())),
        Some(path) => Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)),
    };
    let partition = known_partition(&args.connection, &args.topic, args.partition).await?;
    let settings = ProducerSettings {
        compression: args.compression.into(),
        idempotent: !args.no_ack,
        acknowledged: !args.no_ack,
        ..ProducerSettings::default()
    };
    let mut sink = Sink::connect(&args.connection, settings, args.rate, None).await?;
    let mut events = read_ahead(reader, args.format, extract);
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let mut failure = None;
    loop {
        let event = tokio::select! {
            biased;
            () = &mut interrupted => break,
            event = events.recv() => match event {
                None => break,
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
            },
        };
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
        for (name, value) in &args.headers {
            record = record.header(name.clone(), value.clone().into_bytes());
        }
        sink.send(record).await?;
    }
    sink.finish(&args.topic, args.connection.output).await?;
    // What came before the mistake is stored and was counted.
    failure.map_or(Ok(()), Err)
}

/// Reads on a thread of its own: standard input may pause for as long as it likes. The thread ends with the process at the latest.
fn read_ahead(reader: Box<dyn BufRead + Send>, format: InputFormat, extract: Extract) -> mpsc::Receiver<Result<InputEvent>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || match Events::new(reader, format, extract) {
        Err(error) => drop(sender.blocking_send(Err(error))),
        Ok(events) => {
            for event in events {
                let is_last = event.is_err();
                if sender.blocking_send(event).is_err() || is_last {
                    break;
                }
            }
        }
    });
    receiver
}

/// Checks topic and partition before anything is read.
async fn known_partition(connection: &Connection, topic: &str, partition: Option<u32>) -> Result<Option<i32>> {
    let count = partitions_of(MetadataServiceClient::new(connect(connection).await?), topic).await?;
    partition.map(|partition| partition_of(topic, count, partition)).transpose()
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
            outln!("{}", event.value);
        }
        return Ok(());
    }
    known_partition(&args.connection, &topic, None).await?;
    let mut sink = Sink::connect(&args.connection, ProducerSettings::default(), rate, count).await?;
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    for event in generator {
        let record = Record::new(topic.as_str()).key(event.key).value(event.value.to_string()).timestamp_ms(event.timestamp_ms);
        tokio::select! {
            biased;
            () = &mut interrupted => break,
            sent = sink.send(record) => sent?,
        }
    }
    sink.finish(&topic, args.connection.output).await
}
