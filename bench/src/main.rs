//! `tidegate-bench`: Tidegate beside Kafka on this machine, in the same run, with the same bytes from the same driver.
//!
//! Rounds of cells; in each cell all brokers take turns, in changing order, so that what else the machine does hits all alike. See docs/benchmarks.md.

mod batches;
mod cells;
mod driver;
mod failover;
mod flight;
mod kafka;
mod moving;
mod nats;
mod process;
mod report;
mod server;
mod tidegate;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;

use crate::cells::{CELLS, Round};
use crate::failover::By;
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
    /// The program `nats-server`; `tests/tools/nats.sh` prints it.
    #[arg(long, env = "NATS_SERVER")]
    nats_server: Option<PathBuf>,
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
    /// Brokers of each hub and cluster, on this one machine: 1, or 3 or 5 with three replicas of everything (Kafka: acks=all, min.insync.replicas=2).
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// Partitions of each topic, 1 to 10000.
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Journals of a Tidegate hub of several brokers, 1 to 64.
    #[arg(long, default_value_t = 24)]
    journals: u32,
    /// Instead of the cells: with a topic of --partitions besides, measure the idle hub for --idle seconds, then take a leader away so many times and
    /// show for how long nothing was acknowledged. Needs --nodes 3 or 5.
    #[arg(long)]
    failover: Option<usize>,
    /// How the leader goes.
    #[arg(long, value_enum, default_value_t = By::Kill)]
    by: By,
    /// Instead of the cells: move 100 partitions with so many MiB of history to a new broker, for each of these numbers. Needs --nodes 3.
    #[arg(long = "move", value_name = "MIB", value_delimiter = ',')]
    moving: Vec<u64>,
    /// Seconds for which an idle hub is watched, before --failover 30 by default, else 3.
    #[arg(long)]
    idle: Option<f64>,
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
        nats_server: arguments.nats_server.clone(),
        kafka_threads: (arguments.kafka_network_threads, arguments.kafka_io_threads),
        nodes: arguments.nodes,
        journals: arguments.journals,
        settings: settings(&arguments),
    };
    let parent = arguments.folder.clone().unwrap_or(here);
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent).with_context(|| parent.display().to_string())?;
    let outcome = if arguments.moving.is_empty() {
        run_all(&arguments, &programs, folder.path()).await
    } else {
        move_histories(&arguments, &programs, folder.path()).await
    };
    if outcome.is_err() {
        // The logs say more than the error.
        eprintln!("the brokers' logs stay in {}", folder.keep().display());
    }
    outcome
}

async fn run_all(arguments: &Arguments, programs: &Programs, folder: &Path) -> Result<()> {
    let mut brokers = server::start(&arguments.brokers, programs, folder).await?;
    match arguments.failover {
        Some(rounds) => fail_over(arguments, &mut brokers, rounds).await,
        None => measure(arguments, &brokers).await,
    }
}

/// Tidegate's settings besides its own.
fn settings(arguments: &Arguments) -> Vec<String> {
    let settings: &[&str] = if !arguments.moving.is_empty() {
        // All that was written is history after some seconds, and the log keeps at most 8 MiB of it for each journal.
        &["hub.tier.seal_bytes=4194304", "hub.tier.seal_age_ms=1000", "hub.journal.checkpoint_bytes=4194304"]
    } else if arguments.failover.is_some() {
        &[]
    } else {
        // Topics of the benchmark are not missed: what they take is given back at once.
        &["hub.undelete_ms=0", "hub.object_grace_ms=0", "hub.retention_interval_ms=500"]
    };
    settings.iter().map(|setting| (*setting).to_owned()).collect()
}

async fn move_histories(arguments: &Arguments, programs: &Programs, folder: &Path) -> Result<()> {
    ensure!(arguments.nodes == 3, "--move needs --nodes 3: a fourth broker comes in");
    let begun = Instant::now();
    println!("Machine: {}. Moving 100 partitions to a fourth broker.\n", process::machine());
    println!("| broker | history, MiB | seconds | CPU s of all brokers | on the new broker's disk, MiB |\n|---|---|---|---|---|");
    for history in &arguments.moving {
        for kind in &arguments.brokers {
            let folder = folder.join(format!("{history}-{kind:?}"));
            let mut brokers = server::start(&[*kind], programs, &folder).await?;
            let broker = brokers.first_mut().context("it was just started")?;
            let moved = moving::run(broker, programs, history << 20, |what| progress(begun, what)).await;
            let moving::Moved { history, took, cpu, newcomer_bytes } = moved.with_context(|| kind.name())?;
            let (history, seconds, stored) = (history >> 20, took.as_secs_f64(), newcomer_bytes >> 20);
            println!("| {} | {history} | {seconds:.2} | {cpu:.2} | {stored} |", kind.name());
            drop(brokers);
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(())
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
    let idle = idle(brokers, arguments.idle.unwrap_or(3.0)).await?;
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

async fn fail_over(arguments: &Arguments, brokers: &mut [Broker], rounds: usize) -> Result<()> {
    let begun = Instant::now();
    let (nodes, partitions, by) = (arguments.nodes, arguments.partitions, arguments.by);
    println!(
        "Machine: {}. Brokers: {nodes}, partitions besides those under load: {partitions}. By {by:?}.\n",
        process::machine()
    );
    for broker in brokers.iter() {
        ensure!(broker.process_ids.len() > 1, "--failover needs --nodes 3 or 5");
        progress(begun, &format!("{}: making {partitions} partitions", broker.kind.name()));
        broker.driver.create_topic("beside", partitions).await.context(broker.kind.name())?;
    }
    // What follows the making of a topic is over by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let seconds = arguments.idle.unwrap_or(30.0);
    progress(begun, &format!("watching them idle for {seconds} s"));
    let idle = idle(brokers, seconds).await?;
    println!(
        "| broker | idle, % of a core | rounds | p50, ms | longest, ms | other leaders' partitions: p50, ms | longest, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (broker, idle) in brokers.iter_mut().zip(idle) {
        let silences = failover::run(broker, by, rounds, |what| progress(begun, what)).await.context(broker.kind.name())?;
        let shown = |of: fn(&failover::Silence) -> Duration| {
            let spread = report::Spread::of(silences.iter().map(|silence| of(silence).as_secs_f64() * 1e3));
            spread.map_or_else(|| "– | –".to_owned(), |spread| format!("{:.0} | {:.0}", spread.median, spread.greatest))
        };
        let (victims, others) = (shown(|silence| silence.victims), shown(|silence| silence.others));
        println!("| {} | {:.1} | {rounds} | {victims} | {others} |", broker.kind.name(), idle * 100.0);
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
async fn idle(brokers: &[Broker], seconds: f64) -> Result<Vec<f64>> {
    let before: Vec<f64> = brokers.iter().map(|broker| process::cpu_seconds_of(&broker.process_ids)).collect::<Result<_>>()?;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
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
