//! `tidegate-sim`: runs seeds until the first that breaks a promise, and prints the command that repeats it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

/// Whole hubs in simulation, seed after seed.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Stop after so many seconds even if seeds are left.
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let mut told = Instant::now();
    let (mut ran, mut acknowledged, mut power_cuts, mut disk_errors) = (0, 0, 0, 0);
    for seed in arguments.start..arguments.start.saturating_add(arguments.seeds) {
        if arguments.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
            break;
        }
        match tidegate_sim::run(seed) {
            Ok(report) => {
                ran += 1;
                acknowledged += report.acknowledged;
                power_cuts += report.power_cuts;
                disk_errors += report.disk_errors;
            }
            Err(problem) => {
                eprintln!("seed {seed}: {problem}\nrepeat it: cargo run -p tidegate-sim -- --start {seed} --seeds 1");
                return ExitCode::FAILURE;
            }
        }
        if told.elapsed() > Duration::from_secs(2) {
            eprintln!("{ran} seeds, {acknowledged} records acknowledged, {power_cuts} power cuts");
            told = Instant::now();
        }
    }
    println!("{ran} seeds hold: {acknowledged} records acknowledged, {power_cuts} power cuts, {disk_errors} disk errors");
    ExitCode::SUCCESS
}
