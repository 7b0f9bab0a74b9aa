//! `tidegate-sim`: runs seeds until the first that breaks a promise, and prints the command that repeats it.

mod campaign;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use campaign::Campaign;
use clap::Parser;
use tidegate_sim::brokers::{BrokersReport, run_brokers};
use tidegate_sim::replicas::{ReplicaReport, run_replicas};
use tidegate_sim::{Failure, Report, replay_brokers, replay_command, replay_replicas};

/// Whole hubs in simulation, seed after seed.
#[derive(Parser)]
struct Arguments {
    /// Run this seed alone, and print what came of it.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: write the history of what clients did and saw here, one JSON object a line.
    #[arg(long, requires = "seed")]
    history: Option<PathBuf>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Stop after so many seconds even if seeds are left.
    #[arg(long)]
    seconds: Option<u64>,
    /// Journals with several replicas over a network with faults, instead of whole hubs of one broker.
    #[arg(long, conflicts_with = "history")]
    replicas: bool,
    /// Hubs of several brokers over a network with faults, instead of whole hubs of one broker.
    #[arg(long, conflicts_with = "replicas")]
    brokers: bool,
    /// Go on after a seed that breaks a promise.
    #[arg(long)]
    keep_going: bool,
    /// With --brokers: so many seeds at a time, each on a thread.
    #[arg(long, default_value_t = 1, requires = "brokers")]
    jobs: usize,
    /// With --brokers: keep here which seeds held, one line each, and do not run those again.
    #[arg(long, requires = "brokers")]
    progress: Option<PathBuf>,
    /// Put each bug on purpose into the hub, and tell the seeds, from --start on, that find it. With --brokers: those that take several.
    #[cfg(feature = "seeded-bugs")]
    #[arg(long)]
    bugs: bool,
    /// With --bugs: this one alone.
    #[cfg(feature = "seeded-bugs")]
    #[arg(long, requires = "bugs")]
    bug: Option<String>,
}

/// Runs each bug for all the seeds.
#[cfg(feature = "seeded-bugs")]
fn hunt(arguments: &Arguments) -> ExitCode {
    use tidegate_env::bugs::Bug;
    let chosen = |bug: &Bug| arguments.bug.as_ref().is_none_or(|name| format!("{bug:?}") == *name);
    let (all, run): (Vec<Bug>, fn(Bug, u64) -> Result<(), String>) = if arguments.brokers {
        (tidegate_sim::bugs_of_brokers(), tidegate_sim::run_brokers_with)
    } else {
        (Bug::ALL.into_iter().filter(|bug| !Bug::OF_BROKERS.contains(bug)).collect(), tidegate_sim::run_with)
    };
    for bug in all.into_iter().filter(chosen) {
        let mut found = Vec::new();
        for seed in arguments.start..arguments.start.saturating_add(arguments.seeds) {
            let begun = Instant::now();
            let Err(failure) = run(bug, seed) else { continue };
            found.push(seed);
            println!("  {bug:?}, seed {seed}, {} s:", begun.elapsed().as_secs());
            failure.lines().take(4).for_each(|line| println!("    {}", line.chars().take(200).collect::<String>()));
            if !arguments.keep_going {
                break;
            }
        }
        println!("{bug:?}: found by {found:?} of {} seeds from {} on", arguments.seeds, arguments.start);
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "seeded-bugs")]
    if arguments.bugs {
        return hunt(&arguments);
    }
    if arguments.replicas {
        return replicas(&arguments);
    }
    if arguments.brokers {
        return brokers(&arguments);
    }
    match arguments.seed {
        Some(seed) => one(seed, arguments.history.as_deref()),
        None => many(&arguments),
    }
}

fn replicas(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let first = arguments.seed.unwrap_or(arguments.start);
    let count = if arguments.seed.is_some() { 1 } else { arguments.seeds };
    let (mut ran, mut failed, mut sum) = (0_u64, 0_u64, ReplicaReport::default());
    for seed in first..first.saturating_add(count) {
        if arguments.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
            break;
        }
        match run_replicas(seed) {
            Ok(report) => {
                ran += 1;
                sum.acknowledged += report.acknowledged;
                sum.crashes += report.crashes;
                sum.cuts += report.cuts;
                sum.moves += report.moves;
                sum.fresh_reads += report.fresh_reads;
                sum.terms += report.terms;
                sum.simulated_ms += report.simulated_ms;
            }
            Err(what) => {
                failed += 1;
                println!("seed {seed}: {what}\nrepeat it: {}", replay_replicas(seed));
                if !arguments.keep_going {
                    break;
                }
            }
        }
    }
    println!(
        "{ran} seeds of replicas hold, {failed} do not, in {} s: {} records acknowledged, {} crashes, {} cuts, {} voters replaced, \
         {} fresh reads, {} terms, {} simulated seconds",
        begun.elapsed().as_secs(),
        sum.acknowledged,
        sum.crashes,
        sum.cuts,
        sum.moves,
        sum.fresh_reads,
        sum.terms,
        sum.simulated_ms / 1000
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl campaign::Sum for BrokersReport {
    fn add(&mut self, other: &Self) {
        BrokersReport::add(self, other);
    }
}

fn brokers(arguments: &Arguments) -> ExitCode {
    let tell = |seed: u64, failure: &Failure| {
        write_history(failure, arguments.history.as_deref());
        format!("{failure}\nrepeat it: {}", replay_brokers(seed))
    };
    if let Some(seed) = arguments.seed {
        return match run_brokers(seed) {
            Ok(report) => {
                println!("seed {seed} holds: {report:?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("seed {seed}: {}", tell(seed, &failure));
                ExitCode::FAILURE
            }
        };
    }
    let campaign = Campaign {
        kind: "brokers",
        start: arguments.start,
        seeds: arguments.seeds,
        within: arguments.seconds.map(Duration::from_secs),
        keeps_going: arguments.keep_going,
        jobs: arguments.jobs,
        progress: arguments.progress.clone(),
    };
    match campaign.run(|seed| run_brokers(seed).map_err(|failure| tell(seed, &failure))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn write_history(failure: &Failure, path: Option<&Path>) {
    if let Some(path) = path
        && let Err(error) = std::fs::File::create(path).map_err(Into::into).and_then(|file| failure.history.write_lines(file))
    {
        eprintln!("{}: {error}", path.display());
    }
}

fn one(seed: u64, history: Option<&Path>) -> ExitCode {
    match tidegate_sim::run(seed) {
        Ok(report) => {
            println!("seed {seed} holds: {report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tell(seed, &failure);
            write_history(&failure, history);
            ExitCode::FAILURE
        }
    }
}

fn tell(seed: u64, failure: &Failure) {
    println!("seed {seed}: {failure}\nrepeat it: {}", replay_command(seed));
}

fn many(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let mut told = Instant::now();
    let mut sum = Report::default();
    let (mut ran, mut failed) = (0_u64, 0_u64);
    for seed in arguments.start..arguments.start.saturating_add(arguments.seeds) {
        if arguments.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
            break;
        }
        match tidegate_sim::run(seed) {
            Ok(report) => {
                ran += 1;
                add(&mut sum, &report);
            }
            Err(failure) => {
                failed += 1;
                tell(seed, &failure);
                if !arguments.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
        if told.elapsed() > Duration::from_secs(5) {
            eprintln!(
                "{ran} seeds hold, {failed} do not; {} records acknowledged, {} power cuts",
                sum.acknowledged, sum.power_cuts
            );
            told = Instant::now();
        }
    }
    println!(
        "{ran} seeds hold, {failed} do not, in {} s: {} records acknowledged, {} read; {} power cuts at a disk operation ({} with those between lives), {} kills, {} disk errors, \
         {} refusals of the object store, {} pauses at its calls, {} objects deleted; of {} damaged hubs {} refused to start and {} served what was whole; {} hubs rebuilt from their bucket",
        begun.elapsed().as_secs(),
        sum.acknowledged,
        sum.read,
        sum.power_cuts,
        sum.power_losses,
        sum.kills,
        sum.disk_errors,
        sum.store_refusals,
        sum.pauses,
        sum.deletes,
        sum.rotten.0 + sum.rotten.1,
        sum.rotten.0,
        sum.rotten.1,
        sum.recovered,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(sum: &mut Report, report: &Report) {
    sum.acknowledged += report.acknowledged;
    sum.read += report.read;
    sum.power_cuts += report.power_cuts;
    sum.power_losses += report.power_losses;
    sum.kills += report.kills;
    sum.disk_errors += report.disk_errors;
    sum.store_refusals += report.store_refusals;
    sum.pauses += report.pauses;
    sum.deletes += report.deletes;
    sum.rotten = (sum.rotten.0 + report.rotten.0, sum.rotten.1 + report.rotten.1);
    sum.recovered += report.recovered;
}
