//! What all campaigns share: options, a workload on a hub that is hurt again and again, the last reads and the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tidegate_checker::{Recorder, Rule, Source, Verdict};
use tidegate_client::Client;
use tidegate_workload::{Counts, Settings, Workload, WorkloadError};

use crate::hub::{Hub, HubSetup, PATIENCE};

/// Options of every campaign.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many rounds.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Decides what is done in which round; printed at the start. Default: a random one.
    #[arg(long, env = "TIDEGATE_SEED")]
    pub seed: Option<u64>,
    /// No round begins after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub budget: u64,
    /// Records a second of the workload.
    #[arg(long, default_value_t = 1500.0)]
    pub rate: f64,
    /// The binary under test. Default: `tidegate` beside this program.
    #[arg(long, env = "TIDEGATE_BINARY")]
    pub tidegate: Option<PathBuf>,
    /// Where to work; left there if something is wrong. Default: a folder in the temporary directory.
    #[arg(long)]
    pub folder: Option<PathBuf>,
}

impl Options {
    /// The defaults with this binary, for a slice of so many rounds.
    pub fn slice(tidegate: PathBuf, rounds: u32, budget: u64) -> Options {
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok());
        Options { rounds: Some(rounds), seed, budget, rate: 1500.0, tidegate: Some(tidegate), folder: None }
    }

    fn binary(&self) -> Result<PathBuf> {
        match &self.tidegate {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("tidegate")),
        }
    }
}

/// One campaign's run.
pub struct Run {
    /// Its name.
    pub campaign: &'static str,
    /// Where it works.
    pub folder: PathBuf,
    /// The binary under test.
    pub binary: PathBuf,
    /// The seed.
    pub seed: u64,
    /// Decisions of the rounds.
    pub random: SmallRng,
    /// How many rounds there shall be.
    pub rounds: u32,
    /// Rounds done.
    pub done: u32,
    /// What else is counted, for the last line.
    pub also: BTreeMap<&'static str, u64>,
    rate: f64,
    start: Instant,
    budget: Duration,
    _folder: Option<tempfile::TempDir>,
}

impl Run {
    /// Prepares a run and prints its seed.
    ///
    /// # Errors
    /// If there is no folder to work in.
    pub fn new(campaign: &'static str, options: &Options, rounds: u32) -> Result<Run> {
        let seed = options.seed.unwrap_or_else(rand::random);
        let rounds = options.rounds.unwrap_or(rounds);
        let (folder, temporary) = match &options.folder {
            Some(path) => (path.clone(), None),
            None => {
                let folder = tempfile::Builder::new().prefix(&format!("tidegate-{campaign}-")).tempdir()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        println!("{campaign}: seed {seed}, {rounds} rounds; --seed {seed} repeats its decisions");
        Ok(Run {
            campaign,
            folder,
            binary: options.binary()?,
            seed,
            random: SmallRng::seed_from_u64(seed),
            rounds,
            done: 0,
            also: BTreeMap::new(),
            rate: options.rate,
            start: Instant::now(),
            budget: Duration::from_secs(options.budget),
            _folder: temporary,
        })
    }

    /// Whether another round is to begin.
    pub fn goes_on(&self) -> bool {
        self.done < self.rounds && self.start.elapsed() < self.budget
    }

    /// Counts something for the last line.
    pub fn count(&mut self, what: &'static str, many: u64) {
        *self.also.entry(what).or_default() += many;
    }

    /// Ends a round, saying what happened.
    pub fn round_done(&mut self, what: &str, counts: Counts) {
        self.done += 1;
        println!(
            "{} {}/{}: {what}; {} acknowledged, {} unknown, {} polled so far",
            self.campaign, self.done, self.rounds, counts.acknowledged, counts.unknown, counts.polled
        );
    }
}

/// A workload on a hub, and the history of it.
pub struct Load {
    /// The workload.
    pub workload: Workload,
    /// Its history's recorder.
    pub recorder: Recorder,
    /// A client that lives through the hub's restarts.
    pub client: Client,
    topic: String,
}

impl Load {
    /// Starts the workload.
    ///
    /// # Errors
    /// If the hub cannot be reached or refuses the topic.
    pub async fn start(run: &Run, setup: &HubSetup) -> Result<Load> {
        Load::by(run, setup.client().await?).await
    }

    /// Starts the workload with this client.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub async fn by(run: &Run, client: Client) -> Result<Load> {
        let recorder = tidegate_workload::recorder().checking();
        let topic = format!("{}-{}", run.campaign, run.seed);
        let settings = Settings { records_per_second: run.rate, ..Settings::new(topic.clone(), run.seed) };
        let begin = Instant::now();
        let workload = loop {
            match Workload::start(client.clone(), settings.clone(), recorder.clone()).await {
                // Leaders may still be on their way to where they belong.
                Err(WorkloadError::Client(error)) if error.is_retryable() && begin.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => break other?,
            }
        };
        Ok(Load { workload, recorder, client, topic })
    }

    /// The workload's topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Waits for so many more acknowledged records: without them a round proves nothing, and a hub that takes nothing is a failure by itself.
    ///
    /// # Errors
    /// If they do not come within [`PATIENCE`], or the workload ends.
    pub async fn progress(&mut self, records: u64) -> Result<()> {
        let goal = self.workload.counts().acknowledged + records;
        let begin = Instant::now();
        while self.workload.counts().acknowledged < goal {
            ensure!(
                begin.elapsed() < PATIENCE,
                "only {:?} {PATIENCE:?} later; {goal} were to be acknowledged",
                self.workload.counts()
            );
            self.pause(Duration::from_millis(5)).await?;
        }
        Ok(())
    }

    /// Lets the workload go on for a while.
    ///
    /// # Errors
    /// If a task of the workload ends.
    pub async fn pause(&mut self, time: Duration) -> Result<()> {
        tokio::select! {
            failed = self.workload.failed() => failed.context("the workload"),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Waits, with the workload going on, until the hub ends by itself.
    ///
    /// # Errors
    /// If it does not within `limit`, or a task of the workload ends.
    pub async fn while_ending(&mut self, hub: &mut Hub, limit: Duration) -> Result<ExitStatus> {
        tokio::select! {
            biased;
            status = hub.ends(limit) => status,
            failed = self.workload.failed() => {
                failed.context("the workload")?;
                bail!("the workload ended");
            }
        }
    }

    /// Waits until everything is in the object store and the local log has let go of it, by orderly restarts.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn drop_local_copies(&self, setup: &HubSetup, mut hub: Hub) -> Result<Hub> {
        self.wait_for("everything in the object store", |partition| partition.tiered_end_offset == partition.high_watermark)
            .await?;
        // It takes two checkpoints, and each orderly end writes one.
        for _ in 0..3 {
            hub.terminate().await?;
            hub = setup.start(&[]).await?.0;
        }
        self.wait_for("no local copies", |partition| partition.local_bytes == 0).await?;
        Ok(hub)
    }

    /// Stops the workload, waiting for what is under way.
    ///
    /// # Errors
    /// What waiting does not cure.
    pub async fn stop(&mut self) -> Result<Counts> {
        self.workload.stop().await.context("the workload")
    }

    /// Waits until each partition's status is as wanted.
    ///
    /// # Errors
    /// If that takes longer than [`PATIENCE`].
    pub async fn wait_for(&self, what: &str, holds: impl Fn(&tidegate_client::proto::v1::PartitionStatus) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let described = self.client.admin().describe_topic(self.topic.clone()).await?;
            if described.partitions.iter().all(&holds) {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {:?}", described.partitions);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the workload, reads everything three times (as it is, after a restart, from the object store alone), and judges.
    ///
    /// # Errors
    /// If the hub does not answer; the verdict is no error.
    pub async fn judge(mut self, setup: &HubSetup, hub: Hub) -> Result<(Verdict, Counts)> {
        let counts = self.workload.stop().await.context("the workload")?;
        self.workload.read_everything(Source::Anywhere).await.context("the first full read")?;
        hub.terminate().await?;
        let (hub, _) = setup.start(&[]).await?;
        self.workload.read_everything(Source::Restarted).await.context("the full read after a restart")?;
        let hub = self.drop_local_copies(setup, hub).await?;
        self.workload.read_everything(Source::Tier).await.context("the full read from the object store")?;
        hub.terminate().await?;
        let recorded = self.recorder.finish()?;
        Ok((recorded.verdict.context("the recorder judges")?, counts))
    }
}

/// What a campaign came to.
#[derive(Debug)]
pub struct Summary {
    /// The last line.
    pub line: String,
    /// Whether every rule held.
    pub holds: bool,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Rounds done.
    pub rounds: u32,
    /// Acknowledged records that are gone, or are there twice.
    pub lost_or_doubled: u64,
}

impl Summary {
    /// Puts the last line together and prints it.
    pub fn of(run: &Run, verdict: &Verdict, counts: Counts) -> Summary {
        for violation in &verdict.violations {
            println!("VIOLATION {violation}");
        }
        let broken = |rule: Rule| verdict.broken.get(&rule).copied().unwrap_or(0);
        let (lost, doubled) = (broken(Rule::LostWrite) + broken(Rule::LostRead), broken(Rule::Duplicate));
        let others = verdict.broken.values().sum::<u64>() - lost - doubled;
        let also: String = run.also.iter().map(|(what, many)| format!(", {what} {many}")).collect();
        let line = format!(
            "{}: rounds {}, acknowledged {}, lost {lost}, doubled {doubled}, other violations {others}, unknown outcomes {}, refused {}, \
             polled {}{also}, seed {}, {:.0} s",
            run.campaign,
            run.done,
            counts.acknowledged,
            counts.unknown,
            counts.refused,
            counts.polled,
            run.seed,
            run.start.elapsed().as_secs_f64()
        );
        println!("{line}");
        Summary {
            line,
            holds: verdict.holds(),
            acknowledged: counts.acknowledged,
            rounds: run.done,
            lost_or_doubled: lost + doubled,
        }
    }
}
