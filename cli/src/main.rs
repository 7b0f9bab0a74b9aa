//! The command `tidegate`: composition root of the hub and its clients.
#![deny(clippy::print_stdout, reason = "print by `outln!`: a reader may go away")]

mod args;
mod commands;
mod context;
mod exported_metrics;
mod generate;
mod input;
mod output;
mod progress;
mod settings;
mod telemetry;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::commands::server::Greeting;

const _: () = assert!(!tidegate_env::bugs::ENABLED, "the command is never built with bugs on purpose: leave out `seeded-bugs`");

// A broker's threads pass buffers to each other all the time, and the static image's own allocator takes one lock for all of them: docs/adr/0098.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.downcast_ref().is_some_and(output::is_closed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {}", context::describe(&error));
            ExitCode::from(context::exit_code(&error))
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Dev(args) => return commands::server::run(args, Greeting::Person).await,
        Command::Broker(args) => return commands::server::run(args, Greeting::None).await,
        Command::Cluster(args) => commands::cluster::run(args).await?,
        Command::Topic(args) => commands::topic::run(args).await?,
        Command::Apply(args) => commands::apply::run(args).await?,
        Command::Produce(args) => commands::produce::run(args).await?,
        Command::Consume(args) => commands::consume::run(args).await?,
        Command::Offsets(args) => commands::offsets::run(args).await?,
        Command::Generate(args) => commands::produce::generate(args).await?,
        Command::Bench(args) => commands::bench::run(args).await?,
        Command::Verify(args) => return commands::verify::run(args).await,
        Command::Inspect(args) => commands::inspect::run(&args)?,
        Command::Config(args) => commands::server::config(&args)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
            output::out!("{}", String::from_utf8_lossy(&script));
        }
        Command::Recover(args) => commands::recover::run(&args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
