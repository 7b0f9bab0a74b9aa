//! Several real brokers with three replicas of everything, under load: killed one by one and all at once, stopped and woken, cut off from each other in
//! both directions and in one, with full disks, without their object store, restarted one after the other, replaced by others.
//!
//! Where a majority is left, records must go on being acknowledged while the fault lasts; after each round every journal must come to three voters
//! in sync by itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use tidegate_checker::Source;

use crate::disks;
use crate::fleet::{Fleet, Plan};
use crate::hub::fill;
use crate::minio::{self, MinIo};
use crate::proxy::{Mood, Proxy};
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 100;
/// A pause of a leader that is longer than any election, and shorter than what makes a broker count as lost.
const LONGEST_PAUSE_MS: u64 = 8_000;

/// Options of this campaign.
#[derive(Clone, Debug, clap::Args)]
pub struct BrokersOptions {
    /// What all campaigns have.
    #[command(flatten)]
    pub common: Options,
    /// How many brokers, 3 to 5.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=5))]
    pub brokers: u32,
    /// Only these faults, in this order again and again.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Fault>,
}

impl BrokersOptions {
    /// Three brokers and these faults, one in each round, with the binary under test.
    pub fn slice(tidegate: PathBuf, faults: &[Fault], budget: u64) -> BrokersOptions {
        let rounds = u32::try_from(faults.len()).unwrap_or(u32::MAX);
        BrokersOptions { common: Options::slice(tidegate, rounds, budget), brokers: 3, only: faults.to_vec() }
    }
}

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// kill -9 of one broker, mostly one that leads.
    Kill,
    /// kill -9 of a majority.
    KillMajority,
    /// kill -9 of all at once.
    KillAll,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// One broker is cut off from all others.
    CutOff,
    /// One broker is not heard by the others, and hears them; or the other way round.
    OneWay,
    /// Two brokers are cut off from each other; a third reaches both.
    Bridge,
    /// The object store is away.
    NoStore,
    /// Each broker is restarted in order, one after the other.
    Rolling,
    /// A new broker comes, an old one is drained and taken away.
    Replace,
    /// One broker's disk is full.
    FullDisk,
}

impl Fault {
    const ALL: [Fault; 11] = [
        Fault::Kill,
        Fault::OneWay,
        Fault::Pause,
        Fault::Replace,
        Fault::CutOff,
        Fault::KillAll,
        Fault::FullDisk,
        Fault::Bridge,
        Fault::NoStore,
        Fault::Rolling,
        Fault::KillMajority,
    ];
}

/// One campaign under way.
struct Campaign {
    run: Run,
    fleet: Fleet,
    load: Load,
    proxy: Proxy,
}

/// Runs the campaign; `None`, with the reason printed, without MinIO.
///
/// # Errors
/// If the hub does not go on where it should, or does not become whole again.
pub async fn run(options: &BrokersOptions) -> Result<Option<Summary>> {
    if !minio::is_there("brokers") {
        return Ok(None);
    }
    let run = Run::new("brokers", &options.common, ROUNDS)?;
    let minio = MinIo::start(&run.folder.join("minio")).await?;
    let proxy = Proxy::start(minio.address).await?;
    let own_disks = match disks::missing() {
        None => true,
        Some(reason) => {
            println!("brokers: full disks are left out: {reason}");
            false
        }
    };
    let (binary, folder) = (run.binary.clone(), run.folder.clone());
    let plan = Plan { binary, folder, brokers: options.brokers, store: proxy.address, own_disks, settings: Vec::new() };
    let fleet = Fleet::start(plan).await.context("starting the brokers")?;
    let load = Load::by(&run, fleet.client().await?).await.context("starting the workload")?;
    let mut campaign = Campaign { run, fleet, load, proxy };
    while campaign.run.goes_on() {
        let done = campaign.run.done as usize;
        // Each fault in turn at first, then any.
        let drawn = if done < Fault::ALL.len() {
            Fault::ALL[done]
        } else {
            *Fault::ALL.choose(&mut campaign.run.random).unwrap_or(&Fault::Kill)
        };
        let fault = options.only.get(done % options.only.len().max(1)).copied().unwrap_or(drawn);
        if fault == Fault::FullDisk && !own_disks {
            campaign.run.round_done("left out: a full disk", campaign.load.workload.counts());
            continue;
        }
        let place = format!("round {} (seed {}): {fault:?}", campaign.run.done + 1, campaign.run.seed);
        let result = campaign.round(fault).await;
        let what = result.with_context(|| format!("{place}\n{}", campaign.fleet.logs()))?;
        campaign.run.round_done(&format!("{fault:?}: {what}"), campaign.load.workload.counts());
    }
    let summary = campaign.judge().await?;
    drop(minio);
    Ok(Some(summary))
}

impl Campaign {
    async fn round(&mut self, fault: Fault) -> Result<String> {
        self.load.progress(50).await.context("before the fault")?;
        self.load.recorder.note(format!("{fault:?}"));
        let what = match fault {
            Fault::Kill => self.kill(1).await,
            Fault::KillMajority => self.kill(self.fleet.members.len() / 2 + 1).await,
            Fault::KillAll => self.kill(self.fleet.members.len()).await,
            Fault::Pause => self.pause().await,
            Fault::CutOff | Fault::OneWay | Fault::Bridge => self.cut(fault).await,
            Fault::NoStore => self.no_store().await,
            Fault::Rolling => self.rolling().await,
            Fault::Replace => self.replace().await,
            Fault::FullDisk => self.full_disk().await,
        }?;
        self.load.progress(50).await.context("after the fault")?;
        self.while_working().await?;
        Ok(what)
    }

    /// Waits until all is whole, with the workload going on.
    async fn while_working(&mut self) -> Result<()> {
        tokio::select! {
            biased;
            failed = self.load.workload.failed() => failed.context("the workload"),
            whole = self.fleet.whole() => whole,
        }
    }

    fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.run.random.random_range(least..most))
    }

    /// A broker to be hurt: mostly the one that leads most.
    async fn victim(&mut self) -> u32 {
        let leaders = self.fleet.leaders().await;
        let all = self.fleet.numbers();
        match leaders.first() {
            Some(leader) if self.run.random.random_range(0..3) > 0 => *leader,
            _ => *all.choose(&mut self.run.random).unwrap_or(&all[0]),
        }
    }

    /// Some others than this one.
    fn others(&self, victim: u32) -> Vec<u32> {
        self.fleet.numbers().into_iter().filter(|number| *number != victim).collect()
    }

    async fn kill(&mut self, how_many: usize) -> Result<String> {
        let first = self.victim().await;
        let victims: Vec<u32> = [first].into_iter().chain(self.others(first)).take(how_many).collect();
        for victim in &victims {
            self.fleet.hub(*victim)?.kill();
        }
        self.run.count("kills", victims.len() as u64);
        if victims.len() * 2 < self.fleet.members.len() {
            self.load.progress(50).await.with_context(|| format!("without broker {first}"))?;
        }
        let away = self.milliseconds(0, 1500);
        self.load.pause(away).await?;
        for victim in &victims {
            self.fleet.spawn(*victim)?;
        }
        for victim in &victims {
            self.fleet.serves(*victim).await?;
        }
        Ok(format!("{victims:?} killed and started again"))
    }

    async fn pause(&mut self) -> Result<String> {
        let victim = self.victim().await;
        let time = self.milliseconds(300, LONGEST_PAUSE_MS);
        self.fleet.hub(victim)?.signal(Signal::STOP)?;
        let passed = self.load.pause(time).await;
        let progressed = match time > Duration::from_secs(4) {
            true => self.load.progress(50).await,
            false => Ok(()),
        };
        self.fleet.hub(victim)?.signal(Signal::CONT)?;
        passed?;
        progressed.with_context(|| format!("while broker {victim} stood still"))?;
        Ok(format!("{victim} stood still for {} ms", time.as_millis()))
    }

    async fn cut(&mut self, fault: Fault) -> Result<String> {
        let victim = self.victim().await;
        let others = self.others(victim);
        let mut ways: Vec<(u32, u32)> = match fault {
            Fault::Bridge => vec![(victim, others[0]), (others[0], victim)],
            Fault::OneWay if self.run.random.random_range(0..2) == 0 => others.iter().map(|other| (victim, *other)).collect(),
            Fault::OneWay => others.iter().map(|other| (*other, victim)).collect(),
            _ => others.iter().flat_map(|other| [(victim, *other), (*other, victim)]).collect(),
        };
        ways.sort_unstable();
        self.fleet.wires.cut(ways.iter().copied());
        let progressed = self.load.progress(50).await;
        let time = self.milliseconds(500, 6_000);
        let passed = self.load.pause(time).await;
        self.fleet.wires.cut([]);
        progressed.with_context(|| format!("with {ways:?} cut"))?;
        passed?;
        self.run.count("cuts", 1);
        Ok(format!("{ways:?} cut for {} ms", time.as_millis()))
    }

    async fn no_store(&mut self) -> Result<String> {
        let moods = [Mood::Down, Mood::Busy, Mood::Refusing, Mood::LostAnswers, Mood::Truncating, Mood::WrongBytes];
        let mood = *moods.choose(&mut self.run.random).unwrap_or(&Mood::Down);
        self.proxy.set(mood);
        let progressed = self.load.progress(200).await;
        let time = self.milliseconds(1_000, 6_000);
        let passed = self.load.pause(time).await;
        self.proxy.set(Mood::Good);
        progressed.with_context(|| format!("with the store {mood:?}"))?;
        passed?;
        Ok(format!("the store was {mood:?} for {} ms", time.as_millis()))
    }

    async fn rolling(&mut self) -> Result<String> {
        for number in self.fleet.numbers() {
            self.fleet.terminate(number).await?;
            self.load.progress(20).await.with_context(|| format!("while broker {number} was stopped"))?;
            self.fleet.run(number).await?;
            self.while_working().await?;
        }
        Ok("each was restarted".to_owned())
    }

    async fn replace(&mut self) -> Result<String> {
        let victim = self.victim().await;
        let new = self.fleet.add().await?;
        tokio::select! {
            biased;
            failed = self.load.workload.failed() => failed.context("the workload")?,
            replaced = self.fleet.replace(victim) => replaced?,
        }
        self.run.count("replaced", 1);
        Ok(format!("{victim} was replaced by {new}"))
    }

    async fn full_disk(&mut self) -> Result<String> {
        let victim = self.victim().await;
        let disk = self.fleet.members[&victim].disk.as_ref().context("it has a disk of its own")?;
        let filler = disk.path().join("filler");
        let time = self.milliseconds(1_000, 6_000);
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < time {
            fill(&filler)?;
            self.load.pause(Duration::from_millis(50)).await?;
        }
        let ended = self.fleet.hub(victim)?.has_ended()?;
        std::fs::remove_file(&filler)?;
        anyhow::ensure!(ended.is_none(), "broker {victim} ended with {ended:?} because its disk was full");
        Ok(format!("the disk of {victim} was full for {} ms", time.as_millis()))
    }

    /// Reads everything as it is, after all were restarted one after the other, and once more when all is in the object store.
    async fn judge(mut self) -> Result<Summary> {
        let counts = self.load.stop().await?;
        self.fleet.whole().await?;
        self.load.workload.read_everything(Source::Anywhere).await.context("the first full read")?;
        self.fleet.restart_each().await?;
        self.load.workload.read_everything(Source::Restarted).await.context("the full read after restarts")?;
        let tiered =
            |partition: &tidegate_client::proto::v1::PartitionStatus| partition.tiered_end_offset == partition.high_watermark;
        self.load.wait_for("everything in the object store", tiered).await?;
        self.load.workload.read_everything(Source::Anywhere).await.context("the last full read")?;
        for number in self.fleet.numbers() {
            self.fleet.terminate(number).await?;
        }
        let recorded = self.load.recorder.finish()?;
        Ok(Summary::of(&self.run, &recorded.verdict.context("the recorder judges")?, counts))
    }
}
