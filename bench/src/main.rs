//! `tidegate-bench`: Tidegate beside Kafka on this machine, in the same run, with the same bytes from the same driver.
//!
//! Rounds of cells; in each cell all brokers take turns, in changing order, so that what else the machine does hits all alike. See docs/benchmarks.md.

mod batches;
mod cells;
mod driver;
mod failover;
mod flight;
mod kafka;
mod measure;
mod moving;
mod nats;
mod process;
mod report;
mod server;
mod tidegate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::failover::{By, Rounds, Silence};
use crate::measure::{Plan, idle, measure};
use crate::moving::Moved;
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
        // Leaders go back to a broker that has come back after seconds, not after five minutes, so that the next round can begin.
        kafka_settings: if arguments.failover.is_some() { "leader.imbalance.check.interval.seconds=3\n" } else { "" },
    };
    let parent = arguments.folder.clone().unwrap_or(here);
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent).with_context(|| parent.display().to_string())?;
    let outcome = if arguments.moving.is_empty() {
        run_all(&arguments, &programs, folder.path()).await
    } else {
        move_histories(&arguments, &programs, folder.path()).await
    };
    eprintln!("removing what the brokers stored");
    if outcome.as_ref().is_err_and(|error| !error.is::<Interrupted>()) {
        // The logs say more than the error; the data may be many gigabytes.
        let folder = folder.keep();
        keep_logs(&folder)?;
        eprintln!("the brokers' logs stay in {}", folder.display());
    }
    outcome
}

async fn run_all(arguments: &Arguments, programs: &Programs, folder: &Path) -> Result<()> {
    let mut brokers = until_interrupted(server::start(&arguments.brokers, programs, folder)).await?;
    match arguments.failover {
        Some(rounds) => fail_over(arguments, &mut brokers, rounds).await,
        None => {
            let plan = Plan {
                rounds: arguments.rounds,
                duration: Duration::from_secs_f64(arguments.seconds),
                cells: &arguments.cells,
                nodes: arguments.nodes,
                partitions: arguments.partitions,
                idle: arguments.idle.unwrap_or(3.0),
                json: arguments.json.as_deref(),
            };
            measure(plan, &brokers).await
        }
    }
}

/// Tidegate's settings besides its own.
fn settings(arguments: &Arguments) -> Vec<String> {
    let settings: &[&str] = if !arguments.moving.is_empty() {
        // All that was written is history after some seconds, and the log keeps at most some MiB of it for each journal.
        &["hub.tier.seal_bytes=4194304", "hub.tier.seal_age_ms=1000", "hub.journal.checkpoint_bytes=1048576"]
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
    println!(
        "| broker | history, MiB | seconds | CPU s of all brokers | beyond idle | the newcomer's part | idle before and after, % of a core \
         | log copied, MiB | on the newcomer's disk, MiB | of which checkpoints, KiB |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut failed = 0;
    for history in &arguments.moving {
        for kind in &arguments.brokers {
            let (name, folder) = (kind.name(), folder.join(format!("{history}-{kind:?}")));
            let moved = until_interrupted(async {
                let mut brokers = server::start(&[*kind], programs, &folder).await?;
                let broker = brokers.first_mut().context("it was just started")?;
                moving::run(broker, programs, history << 20, |what| progress(begun, what)).await
            });
            match moved.await {
                Ok(moved) => println!("| {name} | {history} | {} |", moved_row(&moved)),
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => {
                    failed += 1;
                    println!("| {name} | {history} | failed: {error:#} |");
                }
            }
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    ensure!(failed == 0, "{failed} moves failed; the table says why");
    Ok(())
}

fn moved_row(moved: &Moved) -> String {
    let percent = |share: f64| format!("{:.1}", share * 100.0);
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let cells = [
        format!("{:.1}", moved.took.as_secs_f64()),
        format!("{:.2}", moved.cpu),
        format!("{:.2}", moved.work()),
        format!("{:.2}", moved.newcomer_cpu),
        format!("{}, {}", percent(moved.idle.0), percent(moved.idle.1)),
        moved.copied.map_or_else(|| "–".to_owned(), mebibytes),
        mebibytes(moved.newcomer.all),
        format!("{:.1}", moved.newcomer.checkpoints as f64 / 1024.0),
    ];
    cells.join(" | ")
}

async fn fail_over(arguments: &Arguments, brokers: &mut [Broker], wanted: usize) -> Result<()> {
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
    let mut rows = Vec::new();
    let mut outcome = Ok(());
    for (broker, idle) in brokers.iter_mut().zip(idle) {
        let (name, mut rounds) = (broker.kind.name(), Rounds::default());
        let ran = until_interrupted(failover::run(broker, by, wanted, &mut rounds, |what| say(begun, what))).await;
        rows.push(row(name, idle, wanted, &rounds));
        rows.extend(rounds.failures.iter().map(|failure| format!("\n- {name}, {failure}")));
        if let Err(error) = ran {
            let is_interrupted = error.is::<Interrupted>();
            rows.push(format!("\n- {name}: no more rounds: {error:#}"));
            outcome = Err(error.context(name));
            if is_interrupted {
                break;
            }
        }
    }
    println!(
        "\n| broker | idle, % of a core | rounds | p50, ms | longest, ms | other leaders' partitions: p50, ms | longest, ms |"
    );
    println!("|---|---|---|---|---|---|---|\n{}", rows.join("\n"));
    outcome
}

/// A broker's line of the table of failovers.
fn row(name: &str, idle: f64, wanted: usize, rounds: &Rounds) -> String {
    let shown = |of: fn(&Silence) -> Duration| {
        let spread = report::Spread::of(rounds.silences.iter().map(|silence| of(silence).as_secs_f64() * 1e3));
        spread.map_or_else(|| "– | –".to_owned(), |spread| format!("{:.0} | {:.0}", spread.median, spread.greatest))
    };
    let (victims, others) = (shown(|silence| silence.victims), shown(|silence| silence.others));
    let (idle, done) = (idle * 100.0, rounds.silences.len());
    format!("| {name} | {idle:.1} | {done} of {wanted} | {victims} | {others} |")
}

/// A number as soon as it is measured.
fn say(begun: Instant, what: &str) {
    println!("{:>4} s  {what}", begun.elapsed().as_secs());
}

fn progress(begun: Instant, what: &str) {
    eprintln!("{:>4} s  {what}", begun.elapsed().as_secs());
}

/// Somebody ended the run: what was measured until then is shown.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted: shown is what was measured until then")]
struct Interrupted;

/// Drops the work at SIGINT and SIGTERM.
async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        biased;
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
        done = work => done,
    }
}

/// Removes all files below a folder but the logs.
fn keep_logs(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            keep_logs(&entry.path())?;
        } else if entry.file_name() != "log" {
            std::fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}
