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
const AROUND: Duration = Duration::from_secs(2);
/// A partition must be back within this, and a broker that was started again.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// The longest time without an acknowledgement of a partition that the victim led.
    pub(crate) victims: Duration,
    /// The same of the other partitions.
    pub(crate) others: Duration,
}

/// Takes a leader away so many times.
pub(crate) async fn run(broker: &mut Broker, by: By, rounds: usize, progress: impl Fn(&str)) -> Result<Vec<Silence>> {
    broker.driver.create_topic(TOPIC, PARTITIONS).await?;
    let mut silences = Vec::new();
    for round in 0..rounds {
        let silence = one(broker, by, round).await.with_context(|| format!("round {}", round + 1))?;
        let (victims, others) = (silence.victims.as_millis(), silence.others.as_millis());
        progress(&format!("{}: round {} of {rounds}: {victims} ms, others {others} ms", broker.kind.name(), round + 1));
        silences.push(silence);
    }
    Ok(silences)
}

async fn one(broker: &mut Broker, by: By, round: usize) -> Result<Silence> {
    let leaders = settled(broker.driver.as_ref()).await?;
    let victim = leaders[round % leaders.len()];
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
    let mut silence = Silence { victims: Duration::ZERO, others: Duration::ZERO };
    for (times, leader) in acknowledged.into_iter().zip(&leaders) {
        let after = times.iter().position(|time| *time > begun).context("a partition did not come back")?;
        let gaps = times[after.saturating_sub(1)..].windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let longest = if *leader == victim { &mut silence.victims } else { &mut silence.others };
        *longest = gaps.fold(*longest, Duration::max);
    }
    match by {
        By::Drain => broker.driver.set_draining(victim, false).await?,
        By::Kill | By::Stop => broker.restart(victim).await?,
    }
    Ok(silence)
}

/// Who leads, once every partition has a leader, all brokers are in it again and lead their share.
async fn settled(driver: &dyn Driver) -> Result<Vec<usize>> {
    let start = Instant::now();
    loop {
        let found = match driver.is_whole().await {
            Ok(()) => driver.leaders(TOPIC, PARTITIONS).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(leaders) if start.elapsed() > AROUND => return Ok(leaders),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.context("brokers are not in it again")),
            _ => tokio::time::sleep(LOOK * 4).await,
        }
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
