//! How long producers wait when a broker is killed, stopped or drained under load, again and again.
//!
//! One producer for each partition sends one record at a time; after any failure it asks the next broker who leads, and sends again. What is noted of a
//! round is the longest time without an acknowledgement of any partition that the victim led. The producers are the same for all that is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use futures::future::{join_all, try_join_all};

use crate::batches::{Shape, Stamp, Templates};
use crate::driver::Driver;
use crate::process::signal;
use crate::server::Broker;

/// How a broker goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// SIGKILL: nobody is told.
    Kill,
    /// SIGTERM: it hands over what it leads, and ends.
    Stop,
    /// It hands over what it leads and goes on (Tidegate alone).
    Drain,
}

const PARTITIONS: u32 = 16;
const TOPIC: &str = "failover";
/// Between one record of a partition and the next, and after a failure.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(50);
/// For one try.
const TRY: Duration = Duration::from_secs(2);
/// Load before a kill, and after the last partition is back.
const AROUND: Duration = Duration::from_secs(1);
/// How long a round waits, once everything is in sync, until each broker leads some of the producers' partitions. The victim leads some in any case.
const SPREAD: Duration = Duration::from_secs(3);
/// Rounds that may fail before no more are tried.
const FAILURES: usize = 3;
/// A partition must be back within this, and a broker that was started again.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// How many of the producers' partitions the victim led.
    pub(crate) led: usize,
    /// The longest time without an acknowledgement of a partition that the victim led.
    pub(crate) victims: Duration,
    /// The same of the other partitions.
    pub(crate) others: Duration,
}

/// The rounds so far.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) silences: Vec<Silence>,
    /// Why a round has no number.
    pub(crate) failures: Vec<String>,
}

/// Takes a leader away so many times. Says what came of each round at once.
///
/// # Errors
///
/// The hub does not come to be whole, or too many rounds failed; what was measured before stays in `rounds`.
pub(crate) async fn run(broker: &mut Broker, by: By, wanted: usize, rounds: &mut Rounds, say: impl Fn(&str)) -> Result<()> {
    let name = broker.kind.name();
    broker.driver.create_topic(TOPIC, PARTITIONS).await?;
    for round in 0..wanted {
        let start = Instant::now();
        let leaders = settled(broker.driver.as_ref(), broker.process_ids.len()).await?;
        let waited = start.elapsed().as_secs_f64();
        let victim = leaders[round % leaders.len()];
        let taken = take(broker, by, victim, &leaders).await;
        match by {
            By::Drain => broker.driver.set_draining(victim, false).await?,
            By::Kill | By::Stop => broker.restart(victim).await?,
        }
        match taken {
            Ok(silence) => {
                let Silence { led, victims, others } = silence;
                let (victims, others) = (victims.as_millis(), others.as_millis());
                say(&format!(
                    "{name}: round {} of {wanted}: broker {} led {led}: {victims} ms, others {others} ms (waited {waited:.1} s before, {:.1} s in all)",
                    round + 1,
                    victim + 1,
                    start.elapsed().as_secs_f64(),
                ));
                rounds.silences.push(silence);
            }
            Err(error) => {
                let failure = format!("round {}, broker {}: {error:#}", round + 1, victim + 1);
                say(&format!("{name}: failed: {failure}"));
                rounds.failures.push(failure);
                ensure!(rounds.failures.len() < FAILURES, "{FAILURES} rounds failed");
            }
        }
    }
    Ok(())
}

async fn take(broker: &Broker, by: By, victim: usize, leaders: &[usize]) -> Result<Silence> {
    let shape = Shape { record_bytes: 1024, keyed: false, batch_bytes: 1 };
    let templates = Arc::new(Templates::build(shape, PARTITIONS)?);
    let load =
        Load { start: Instant::now(), stop: AtomicBool::new(false), last: leaders.iter().map(|_| AtomicU64::new(0)).collect() };
    let driver = broker.driver.as_ref();
    let brokers = broker.process_ids.len();
    let producers = (0..PARTITIONS as i32).map(|partition| {
        let producer = Producer { driver, templates: &templates, partition, brokers, leader: leaders[partition as usize] };
        producer.run(&load)
    });
    let taking = async {
        tokio::time::sleep(AROUND).await;
        let begun = load.start.elapsed();
        match by {
            By::Kill => signal(broker.process_ids[victim], "KILL")?,
            By::Stop => signal(broker.process_ids[victim], "TERM")?,
            By::Drain => driver.set_draining(victim, true).await?,
        }
        let other = (victim + 1) % brokers;
        while !load.has_acknowledged_since(begun) || !is_led_without(driver, other, victim).await {
            ensure!(load.start.elapsed() < begun + PATIENCE, "partitions have no other leader after {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(AROUND).await;
        anyhow::Ok(begun)
    };
    let taking = async {
        let begun = taking.await;
        load.stop.store(true, Ordering::Relaxed);
        begun
    };
    let (acknowledged, begun) = tokio::join!(join_all(producers), taking);
    let begun = begun?;
    let led = leaders.iter().filter(|leader| **leader == victim).count();
    let mut silence = Silence { led, victims: Duration::ZERO, others: Duration::ZERO };
    for (times, leader) in acknowledged.into_iter().zip(leaders) {
        let after = times.iter().position(|time| *time > begun).context("a partition did not come back")?;
        let gaps = times[after.saturating_sub(1)..].windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let longest = if *leader == victim { &mut silence.victims } else { &mut silence.others };
        *longest = gaps.fold(*longest, Duration::max);
    }
    Ok(silence)
}

/// Who leads, once everything is in sync; for a moment it waits until each broker leads some of the producers' partitions, too.
async fn settled(driver: &dyn Driver, brokers: usize) -> Result<Vec<usize>> {
    let start = Instant::now();
    let mut in_sync_since = None;
    loop {
        let found = match driver.is_in_sync().await {
            Ok(()) => driver.leaders(TOPIC, PARTITIONS).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(leaders) => {
                let since = *in_sync_since.get_or_insert_with(Instant::now);
                if since.elapsed() > SPREAD || (0..brokers).all(|broker| leaders.contains(&broker)) {
                    return Ok(leaders);
                }
            }
            Err(error) => {
                in_sync_since = None;
                ensure!(start.elapsed() < PATIENCE, "brokers are not in it again after {PATIENCE:?}: {error:#}");
            }
        }
        tokio::time::sleep(LOOK * 4).await;
    }
}

async fn is_led_without(driver: &dyn Driver, asked: usize, victim: usize) -> bool {
    let answers = try_join_all((0..PARTITIONS as i32).map(|partition| driver.leader(asked, TOPIC, partition))).await;
    answers.is_ok_and(|leaders| !leaders.contains(&victim))
}

/// What the producers of a round share.
struct Load {
    start: Instant,
    stop: AtomicBool,
    /// The last acknowledgement of each partition, in nanoseconds since the start.
    last: Vec<AtomicU64>,
}

impl Load {
    fn has_acknowledged_since(&self, since: Duration) -> bool {
        self.last.iter().all(|last| u128::from(last.load(Ordering::Relaxed)) > since.as_nanos())
    }
}

struct Producer<'a> {
    driver: &'a dyn Driver,
    templates: &'a Templates,
    partition: i32,
    brokers: usize,
    leader: usize,
}

impl Producer<'_> {
    /// When its records were acknowledged, since the load's start.
    async fn run(mut self, load: &Load) -> Vec<Duration> {
        let mut times = Vec::new();
        let mut asked = self.leader;
        for number in 0.. {
            let mut batch = BytesMut::new();
            self.templates.put(&mut batch, self.partition, Stamp { number, intended: load.start.elapsed() });
            let batch: Bytes = batch.freeze();
            loop {
                if load.stop.load(Ordering::Relaxed) {
                    return times;
                }
                let sent = self.driver.append(self.leader, TOPIC, self.partition, batch.clone());
                if matches!(tokio::time::timeout(TRY, sent).await, Ok(Ok(()))) {
                    let now = load.start.elapsed();
                    times.push(now);
                    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                    load.last[self.partition as usize].store(nanos, Ordering::Relaxed);
                    break;
                }
                asked = (asked + 1) % self.brokers;
                let leader = self.driver.leader(asked, TOPIC, self.partition);
                if let Ok(Ok(leader)) = tokio::time::timeout(TRY / 4, leader).await {
                    self.leader = leader;
                }
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
        times
    }
}
