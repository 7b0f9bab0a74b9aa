//! `tidegate bench`: how fast a hub takes events and gives them back, by this machine's clock.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::json;
use tidegate_client::{Client, Consumer, Delivery, Record, Start};
use tidegate_proto::v1;

use crate::args::{BenchArgs, Output};
use crate::context::{client, client_error};
use crate::output::outln;
use crate::progress;

/// Events whose acknowledgement is awaited one by one to measure its latency.
const LATENCY_EVENTS: u64 = 500;
const UNDECIDED: usize = 100_000;

struct Measured {
    produce_seconds: f64,
    consume_seconds: f64,
    latency_us: Histogram<u64>,
}

/// Runs the command.
pub(crate) async fn run(args: BenchArgs) -> Result<()> {
    let client = client(&args.connection).await?;
    ensure_topic(&client, &args).await?;
    let mut consumer = at_the_end(&client, &args.topic).await?;
    let latency_us = latency(&client, &args).await?;
    for _ in 0..LATENCY_EVENTS {
        consumer.next().await.map_err(client_error)?;
    }
    let produce_seconds = produce(&client, &args).await?;
    let start = Instant::now();
    let bar = progress::events(Some(args.count));
    for _ in 0..args.count {
        if consumer.next().await.map_err(client_error)?.is_none() {
            bail!("the subscription ended before all events were read");
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(&args, &Measured { produce_seconds, consume_seconds: start.elapsed().as_secs_f64(), latency_us });
    Ok(())
}

async fn ensure_topic(client: &Client, args: &BenchArgs) -> Result<()> {
    let settings = v1::TopicSettings { partitions: Some(args.partitions), ..Default::default() };
    let request = v1::CreateTopicRequest { name: args.topic.clone(), settings: Some(settings), validate_only: false };
    match client.admin().create_topic(request).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Some(tidegate_proto::errors::Reason::TopicExists) => Ok(()),
        Err(error) => Err(client_error(error)),
    }
}

/// A consumer whose position is where the topic ends now: one that begins at `Start::Latest` looks for the end when it first reads.
async fn at_the_end(client: &Client, topic: &str) -> Result<Consumer> {
    let mut consumer = client.consumer().assign(topic, Start::Latest).build().await.map_err(client_error)?;
    let partitions: Vec<i32> = consumer.progress().map(|(_, partition, _)| partition).collect();
    for partition in partitions {
        consumer.seek(topic, partition, Start::Latest).await.map_err(client_error)?;
    }
    Ok(consumer)
}

fn record(args: &BenchArgs, number: u64, value: &Bytes) -> Record {
    Record::new(args.topic.as_str()).key(number.to_be_bytes().to_vec()).value(value.clone())
}

async fn latency(client: &Client, args: &BenchArgs) -> Result<Histogram<u64>> {
    let producer = client.producer().build().map_err(client_error)?;
    let value = Bytes::from(vec![b'x'; args.event_bytes as usize]);
    // Bounds, because saturation cuts off at what a histogram without them holds at first (2 ms).
    let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    let bar = progress::events(Some(LATENCY_EVENTS));
    for number in 0..LATENCY_EVENTS {
        let start = Instant::now();
        let delivery = producer.send(record(args, number, &value)).await.map_err(client_error)?;
        producer.flush().await.map_err(client_error)?;
        delivery.wait().await.map_err(client_error)?;
        histogram.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        bar.inc(1);
    }
    bar.finish_and_clear();
    producer.close().await.map_err(client_error)?;
    Ok(histogram)
}

async fn produce(client: &Client, args: &BenchArgs) -> Result<f64> {
    let producer = client.producer().compression(args.compression.into()).build().map_err(client_error)?;
    let value = Bytes::from(vec![b'x'; args.event_bytes as usize]);
    let bar = progress::events(Some(args.count));
    let start = Instant::now();
    let mut undecided: VecDeque<Delivery> = VecDeque::new();
    for number in 0..args.count {
        undecided.push_back(producer.send(record(args, number, &value)).await.map_err(client_error)?);
        if undecided.len() > UNDECIDED
            && let Some(delivery) = undecided.pop_front()
        {
            delivery.wait().await.map_err(client_error)?;
        }
        bar.inc(1);
    }
    producer.flush().await.map_err(client_error)?;
    for delivery in undecided {
        delivery.wait().await.map_err(client_error)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    producer.close().await.map_err(client_error)?;
    bar.finish_and_clear();
    Ok(seconds)
}

fn report(args: &BenchArgs, measured: &Measured) {
    let megabytes = args.count as f64 * f64::from(args.event_bytes) / 1e6;
    let (produce_rate, consume_rate) =
        (args.count as f64 / measured.produce_seconds, args.count as f64 / measured.consume_seconds);
    let at = |quantile| measured.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
    if args.connection.output == Output::Json {
        let json = json!({
            "events": args.count, "eventBytes": args.event_bytes,
            "produce": {"eventsPerSecond": produce_rate, "megabytesPerSecond": megabytes / measured.produce_seconds},
            "consume": {"eventsPerSecond": consume_rate, "megabytesPerSecond": megabytes / measured.consume_seconds},
            "acknowledgementMs": {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)},
        });
        outln!("{json:#}");
        return;
    }
    outln!("{} events of {} bytes, durable (fsync) before each acknowledgement", args.count, args.event_bytes);
    outln!("produce  {produce_rate:>12.0} events/s  {:>8.1} MB/s", megabytes / measured.produce_seconds);
    outln!("consume  {consume_rate:>12.0} events/s  {:>8.1} MB/s", megabytes / measured.consume_seconds);
    outln!(
        "one event at a time: acknowledged after {:.2} ms (median), {:.2} ms (99 %), {:.2} ms (worst)",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    outln!("Measure release builds (cargo build --release); a client on the hub's machine takes a part of its time.");
}
