//! Ten times the load on several brokers with three replicas of everything: memory of each broker stays within its budget, what cannot be taken is refused
//! with a reason, what is acknowledged is there, and goodput stays at four fifths of the peak. [`crate::soak`] looks at one broker for longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidegate_checker::Source;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, Plan};
use crate::minio::{self, MinIo};
use crate::run::{Load, Options, Run, Summary};
use crate::soak::clients::{self, Seen};
use crate::soak::samples::{self, Sample};
use crate::soak::{self, GOODPUT, OVERLOAD};

/// Options of this campaign.
#[derive(Clone, Debug, clap::Args)]
pub struct OverloadOptions {
    /// What all campaigns have. `--rounds` is not used.
    #[command(flatten)]
    pub common: Options,
    /// How many brokers, 3 to 5.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=5))]
    pub brokers: u32,
    /// How long, in seconds.
    #[arg(long, default_value_t = 480)]
    pub seconds: u64,
    /// Say what was measured, and fail only for lost records and memory: for machines that are shared.
    #[arg(long)]
    pub shared_machine: bool,
}

const JOURNALS: u64 = 3;
/// What may be on its way from one peer, unanswered: the limit of the peer service.
const PEER_BYTES: u64 = 96 << 20;
const LOOK: Duration = Duration::from_millis(200);

fn budget_bytes(brokers: u32) -> u64 {
    // One journal more: the catalog's.
    soak::budget_bytes(JOURNALS + 1) + u64::from(brokers - 1) * PEER_BYTES
}

struct Overload {
    run: Run,
    fleet: Fleet,
    load: Load,
    seen: Arc<Seen>,
    start: Instant,
    resident_bytes: u64,
}

/// Runs the campaign; `None`, with the reason printed, without MinIO.
///
/// # Errors
/// If a broker ends, or does not answer.
pub async fn run(options: &OverloadOptions) -> Result<Option<Summary>> {
    if !minio::is_there("overload") {
        return Ok(None);
    }
    let run = Run::new("overload", &options.common, 1)?;
    let minio = MinIo::start(&run.folder.join("minio")).await?;
    let plan = Plan {
        binary: run.binary.clone(),
        folder: run.folder.clone(),
        brokers: options.brokers,
        store: minio.address,
        own_disks: false,
        settings: soak::settings(JOURNALS).to_vec(),
    };
    let fleet = Fleet::start(plan).await.context("starting the brokers")?;
    let client = fleet.client().await?;
    soak::make_topic(&client).await?;
    let load = Load::by(&run, client).await.context("starting the workload")?;
    let seen = Arc::default();
    let mut overload = Overload { run, fleet, load, seen, start: Instant::now(), resident_bytes: 0 };
    let (peak, over) = overload.phases(Duration::from_secs(options.seconds)).await?;
    let mut faults = overload.report(budget_bytes(options.brokers)).await?;
    println!(
        "overload: goodput under {OVERLOAD} times the load is {:.0} % of the peak ({:.1} MB/s)",
        100.0 * over / peak,
        peak / 1e6
    );
    if over < GOODPUT * peak && !options.shared_machine {
        faults.push(format!("goodput fell to {:.0} % of the peak", 100.0 * over / peak));
    }
    let mut summary = overload.judge().await?;
    for fault in &faults {
        println!("OUT OF BOUNDS {fault}");
    }
    summary.holds &= faults.is_empty();
    drop(minio);
    Ok(Some(summary))
}

/// A slice for tests.
///
/// # Errors
/// As [`run`].
pub async fn slice(common: Options, seconds: u64) -> Result<Option<Summary>> {
    run(&OverloadOptions { common, brokers: 3, seconds, shared_machine: true }).await
}

impl Overload {
    /// Looks for the peak, and multiplies it; gives both goodputs, bytes a second.
    async fn phases(&mut self, total: Duration) -> Result<(f64, f64)> {
        let (mut peak, mut best) = (0.0, 1);
        for producers in [1, 2, 4, 8] {
            let rate = self.phase("looking for the peak", producers, total / 8).await?;
            if rate > peak {
                (peak, best) = (rate, producers);
            }
        }
        let over = self.phase("ten times the load", best * OVERLOAD, total * 3 / 8).await?;
        let again = self.phase("full load again", best, total / 8).await?;
        Ok((again.max(peak), over))
    }

    /// So many producers for a while; gives the mean goodput of the second half: in the first one, an empty log takes more than what leaves it.
    async fn phase(&mut self, what: &str, producers: u64, time: Duration) -> Result<f64> {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..producers {
            tasks.spawn(clients::produce(self.fleet.addresses(), number, self.seen.clone(), stop.clone()));
        }
        let begin = self.start.elapsed();
        let mut sums = Vec::new();
        while self.start.elapsed() < begin + time {
            sums.push(self.look().await?);
            self.load.pause(LOOK).await?;
        }
        let rate = samples::goodput(&sums, begin + time / 2, self.start.elapsed());
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        // The next phase begins when the canary is heard again.
        self.load.progress(10).await?;
        let most = sums.iter().map(|sample| sample.resident_bytes).max().unwrap_or(0);
        println!(
            "overload {:.0} s: {what}, {producers} producers: {:.1} MB/s, resident {} MiB at most",
            self.start.elapsed().as_secs_f64(),
            rate / 1e6,
            most >> 20
        );
        self.resident_bytes = self.resident_bytes.max(most);
        Ok(rate)
    }

    /// One look at all brokers: metrics are summed, of the memory it is the broker that takes most.
    async fn look(&self) -> Result<Sample> {
        let mut sum = Sample { at: self.start.elapsed(), ..Sample::default() };
        for (number, member) in &self.fleet.members {
            let hub = member.hub.as_ref().with_context(|| format!("broker {number} does not run"))?;
            let one = samples::look(hub, self.start).await.with_context(|| format!("broker {number}"))?;
            sum.resident_bytes = sum.resident_bytes.max(one.resident_bytes);
            for (name, value) in one.metrics {
                *sum.metrics.entry(name).or_default() += value;
            }
        }
        Ok(sum)
    }

    /// Prints what was refused and why; gives what is out of bounds.
    async fn report(&mut self, budget: u64) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        println!(
            "overload: resident at most {} MiB of a budget of {} MiB for each broker",
            self.resident_bytes >> 20,
            budget >> 20
        );
        if self.resident_bytes > budget {
            faults.push(format!("{} MiB resident, the budget is {} MiB", self.resident_bytes >> 20, budget >> 20));
        }
        let sum = self.look().await?;
        for (name, number) in sum.metrics.iter().filter(|(_, number)| **number > 0.0) {
            if name.starts_with("tidegate_limited") || (name.starts_with("tidegate_calls") && !name.contains("result=\"ok\"")) {
                println!("overload: counted by the brokers: {name} {number}");
            }
        }
        for (reason, times) in self.seen.refusals.lock().iter() {
            println!("overload: seen by clients: {reason}: {times}");
        }
        self.run.count("MiB appended", sum.appended() as u64 >> 20);
        Ok(faults)
    }

    /// Reads everything that the checked producers wrote, as it is and after each broker was restarted.
    async fn judge(mut self) -> Result<Summary> {
        let counts = self.load.stop().await?;
        self.fleet.whole().await?;
        self.load.workload.read_everything(Source::Anywhere).await.context("the first full read")?;
        self.fleet.restart_each().await?;
        self.load.workload.read_everything(Source::Restarted).await.context("the full read after restarts")?;
        for number in self.fleet.numbers() {
            self.fleet.terminate(number).await?;
        }
        self.run.done = 1;
        let recorded = self.load.recorder.finish()?;
        Ok(Summary::of(&self.run, &recorded.verdict.context("the recorder judges")?, counts))
    }
}
