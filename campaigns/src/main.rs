//! The command `tidegate-campaigns`: one sub-command for each campaign. Exit code 0 if every rule held, 1 if not, 2 if it could not be run here.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate_campaigns::run::{Options, Summary};
use tidegate_campaigns::{brokers, fsync_error, full_disk, kill9, overload, pause, power_cut, soak, store};

/// Hurt a Tidegate hub and see whether it keeps its promises.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 every rule held, 1 one did not, 2 the campaign cannot be run here.")]
struct Cli {
    #[command(subcommand)]
    campaign: Campaign,
}

#[derive(Debug, Subcommand)]
enum Campaign {
    /// kill -9 under load, also during recovery.
    Kill9(Options),
    /// Cut the power of the disk (ext4 on a loop device; needs root).
    PowerCut(Options),
    /// Fill the disk (needs root).
    FullDisk(Options),
    /// Let fsync fail once (by strace).
    FsyncError(Options),
    /// Let writeback fail, below a loop device (needs root).
    WritebackError(Options),
    /// Let the object store misbehave (a proxy before a real MinIO).
    Store(Options),
    /// Stop the process and let it go on late, also at each step of tiering (with a real MinIO).
    Pause(Options),
    /// Hurt several brokers with three replicas (with a real MinIO; full disks need root).
    Brokers(brokers::BrokersOptions),
    /// Ten times the load on several brokers with three replicas (with a real MinIO).
    Overload(overload::OverloadOptions),
    /// Full load and ten times of it for half an hour, with everything that comes and goes.
    Soak(soak::SoakOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(cli.campaign)) {
        Ok(Some(summary)) if summary.holds => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::FAILURE,
        Ok(None) => ExitCode::from(2),
        Err(error) => {
            println!("FAILED {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(campaign: Campaign) -> anyhow::Result<Option<Summary>> {
    match campaign {
        Campaign::Kill9(options) => kill9::run(&options).await.map(Some),
        Campaign::PowerCut(options) => power_cut::run(&options).await,
        Campaign::FullDisk(options) => full_disk::run(&options).await,
        Campaign::FsyncError(options) => fsync_error::run(&options).await,
        Campaign::WritebackError(options) => fsync_error::run_writeback(&options).await,
        Campaign::Store(options) => store::run(&options).await,
        Campaign::Pause(options) => pause::run(&options).await,
        Campaign::Brokers(options) => brokers::run(&options).await,
        Campaign::Overload(options) => overload::run(&options).await,
        Campaign::Soak(options) => soak::run(&options).await.map(Some),
    }
}
