//! `tidegate-bench`: Tidegate beside Kafka on this machine, in the same run, with the same bytes from the same driver.
//!
//! Rounds of cells; in each cell all brokers take turns, in changing order, so that what else the machine does hits all alike. See docs/benchmarks.md.

mod batches;
mod cells;
mod driver;
mod failover;
mod flight;
mod kafka;
mod process;
mod report;
mod server;
mod tidegate;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;

use crate::cells::{CELLS, Round};
use crate::report::Series;
use crate::server::{Broker, Kind, Programs};

// The driver shall be small beside what it measures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Tidegate, and Kafka beside it, on this machine. `bench/run.sh` sets everything up.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", version, max_term_width = 100)]
struct Arguments {
    /// Short cells and one round: shows that all works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// What is measured; the first is what the others are compared with. Default: all but `tidegate-again`, or Tidegate alone without --kafka-libs.
    #[arg(long, value_enum, value_delimiter = ',')]
    brokers: Vec<Kind>,
    /// Rounds, 1 to 50.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a cell, 0.1 to 60.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only cells whose name contains this text (a catch-up read goes with its producing cell).
    #[arg(long, default_value = "")]
    cells: String,
    /// The folder of Kafka's jars; `tests/tools/kafka.sh` prints it.
    #[arg(long, env = "KAFKA_LIBS")]
    kafka_libs: Option<PathBuf>,
    /// Kafka's num.network.threads.
    #[arg(long, default_value_t = 3)]
    kafka_network_threads: u32,
    /// Kafka's num.io.threads.
    #[arg(long, default_value_t = 8)]
    kafka_io_threads: u32,
    /// The command `tidegate`. Default: the one beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// The command that `tidegate-again` runs, such as an older build. Default: the same.
    #[arg(long)]
    tidegate_again: Option<PathBuf>,
    /// Brokers of each hub and cluster, on this one machine: 1, or 3 with three replicas of everything (Kafka: acks=all, min.insync.replicas=2).
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// Partitions of each topic, 1 to 10000.
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Instead of the cells: kill a leader so many times, and show for how long nothing was acknowledged. Needs --nodes 3 or 5.
    #[arg(long)]
    failover: Option<usize>,
    /// Where the brokers keep their data, on a real disk; a folder is made in it and removed. Default: beside this program.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the numbers to this file, too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let run = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(Arguments::parse())));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 0.3);
    }
    ensure!((1..=50).contains(&arguments.rounds), "--rounds {} is not within 1 to 50", arguments.rounds);
    ensure!((0.1..=60.0).contains(&arguments.seconds), "--seconds {} is not within 0.1 to 60", arguments.seconds);
    ensure!(matches!(arguments.nodes, 1 | 3 | 5), "--nodes {} is not 1, 3 or 5", arguments.nodes);
    ensure!((1..=10_000).contains(&arguments.partitions), "--partitions {} is not within 1 to 10000", arguments.partitions);
    if arguments.brokers.is_empty() {
        arguments.brokers = match arguments.kafka_libs {
            Some(_) => vec![Kind::Tidegate, Kind::TidegateLocal, Kind::Kafka, Kind::KafkaFsync],
            None => vec![Kind::Tidegate],
        };
    }
    let here = std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned();
    let tidegate = arguments.tidegate.clone().unwrap_or_else(|| here.join("tidegate"));
    let programs = Programs {
        tidegate_again: arguments.tidegate_again.clone().unwrap_or_else(|| tidegate.clone()),
        tidegate,
        kafka_libs: arguments.kafka_libs.clone(),
        kafka_threads: (arguments.kafka_network_threads, arguments.kafka_io_threads),
        nodes: arguments.nodes,
    };
    let parent = arguments.folder.clone().unwrap_or(here);
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent).with_context(|| parent.display().to_string())?;
    let mut brokers = server::start(&arguments.brokers, &programs, folder.path()).await?;
    let outcome = match arguments.failover {
        Some(rounds) => fail_over(&mut brokers, rounds).await,
        None => measure(&arguments, &brokers).await,
    };
    if outcome.is_err() {
        // The logs say more than the error.
        eprintln!("the brokers' logs stay in {}", folder.keep().display());
    }
    server::stop(brokers)?;
    outcome
}

async fn measure(arguments: &Arguments, brokers: &[Broker]) -> Result<()> {
    let begun = Instant::now();
    let duration = Duration::from_secs_f64(arguments.seconds);
    let wanted = wanted(&arguments.cells)?;
    let mut all: Vec<Vec<Series>> = wanted
        .iter()
        .map(|_| brokers.iter().map(|broker| Series { broker: broker.kind.name(), runs: Vec::new() }).collect())
        .collect();
    for broker in brokers {
        progress(begun, &format!("warming up {}", broker.kind.name()));
        cells::warm_up(broker, arguments.partitions, duration).await?;
    }
    let idle = idle(brokers).await?;
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..brokers.len()).collect();
        // Each one goes first as often as the others.
        order.rotate_left(round % brokers.len());
        let mut rounds: Vec<Round<'_>> = brokers
            .iter()
            .map(|broker| Round { broker, number: round, partitions: arguments.partitions, duration, written: None })
            .collect();
        for (slot, place) in wanted.iter().copied().enumerate() {
            let cell = &CELLS[place];
            for turn in order.iter().copied() {
                progress(
                    begun,
                    &format!("round {} of {}: {}: {}", round + 1, arguments.rounds, cell.name, brokers[turn].kind.name()),
                );
                // What others left in the page cache is not for this one's fsyncs to write.
                Command::new("sync").status().context("sync")?;
                let measured = rounds[turn].run(cell, place).await;
                all[slot][turn].runs.push(measured.with_context(|| format!("{}: {}", brokers[turn].kind.name(), cell.name))?);
            }
        }
    }
    show(arguments, brokers, &wanted, &all, &idle, begun)
}

async fn fail_over(brokers: &mut [Broker], rounds: usize) -> Result<()> {
    let begun = Instant::now();
    println!("Machine: {}. {rounds} kills each.\n", process::machine());
    println!("| broker | p50, ms | longest, ms |\n|---|---|---|");
    for broker in brokers {
        ensure!(broker.process_ids.len() > 1, "--failover needs --nodes 3 or 5");
        let mut silences = failover::run(broker, rounds, |what| progress(begun, what)).await.context(broker.kind.name())?;
        silences.sort_unstable();
        let longest = silences.last().context("no rounds")?;
        println!("| {} | {} | {} |", broker.kind.name(), silences[silences.len() / 2].as_millis(), longest.as_millis());
    }
    Ok(())
}

/// The places of the wanted cells in [`CELLS`]; a cell that reads brings the one before, which writes for it.
fn wanted(text: &str) -> Result<Vec<usize>> {
    let matches = |place: usize| CELLS[place].name.contains(text);
    let reads = |place: usize| CELLS.get(place).is_some_and(|cell| cell.load == cells::Load::CatchUp);
    let wanted: Vec<usize> = (0..CELLS.len())
        .filter(|place| matches(*place) || (reads(place + 1) && matches(place + 1)) || (reads(*place) && matches(place - 1)))
        .collect();
    ensure!(!wanted.is_empty(), "--cells {text}: no cell's name contains that");
    Ok(wanted)
}

/// Share of a core that each broker uses while nobody asks it anything.
async fn idle(brokers: &[Broker]) -> Result<Vec<f64>> {
    let before: Vec<f64> = brokers.iter().map(|broker| process::cpu_seconds_of(&broker.process_ids)).collect::<Result<_>>()?;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let share = |(broker, before): (&Broker, f64)| {
        anyhow::Ok((process::cpu_seconds_of(&broker.process_ids)? - before) / start.elapsed().as_secs_f64())
    };
    brokers.iter().zip(before).map(share).collect()
}

fn show(
    arguments: &Arguments,
    brokers: &[Broker],
    wanted: &[usize],
    all: &[Vec<Series>],
    idle: &[f64],
    begun: Instant,
) -> Result<()> {
    let (nodes, partitions) = (arguments.nodes, arguments.partitions);
    println!(
        "Machine: {}. {} rounds of cells of {} s, brokers: {nodes}, partitions: {partitions}.\n",
        process::machine(),
        arguments.rounds,
        arguments.seconds
    );
    println!("| broker | most memory, MiB | idle, % of a core |\n|---|---|---|");
    let mut memory = serde_json::Map::new();
    for (broker, idle) in brokers.iter().zip(idle) {
        let bytes = broker.process_ids.iter().map(|process| process::memory_bytes(*process, "VmHWM")).sum::<Result<u64>>()?;
        println!("| {} | {} | {:.1} |", broker.kind.name(), bytes >> 20, idle * 100.0);
        memory.insert(broker.kind.name().to_owned(), json!({"mostMemoryBytes": bytes, "idleCores": idle}));
    }
    for (place, series) in wanted.iter().zip(all) {
        println!("\n{}", report::table(&CELLS[*place], series));
    }
    if let Some(path) = &arguments.json {
        let cells: Vec<_> = wanted.iter().zip(all).map(|(place, series)| report::json(&CELLS[*place], series)).collect();
        let document = json!({"machine": process::machine(), "rounds": arguments.rounds, "nodes": nodes, "partitions": partitions, "brokers": memory, "cells": cells});
        std::fs::write(path, format!("{document:#}\n")).with_context(|| path.display().to_string())?;
    }
    progress(begun, "done");
    Ok(())
}

fn progress(begun: Instant, what: &str) {
    eprintln!("{:>4} s  {what}", begun.elapsed().as_secs());
}
