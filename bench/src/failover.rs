//! How long producers wait when a broker is killed: a leader dies by SIGKILL under load, again and again.
//!
//! One producer for each partition sends one record at a time; after any failure it asks the next broker who leads, and sends again. What is noted of a
//! round is the longest time without an acknowledgement of any partition that the victim led. The producers are the same for all that is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};

use crate::batches::{Shape, Stamp, Templates};
use crate::driver::Driver;
use crate::server::Broker;

const PARTITIONS: u32 = 16;
const TOPIC: &str = "failover";
/// Between one record of a partition and the next, and after a failure.
const PAUSE: Duration = Duration::from_millis(5);
/// For one try.
const TRY: Duration = Duration::from_secs(2);
/// Load before a kill, and after the last partition is back.
const AROUND: Duration = Duration::from_secs(2);
/// A partition must be back within this, and a broker that was started again.
const PATIENCE: Duration = Duration::from_secs(90);

/// Kills a leader so many times; the longest silence of each round.
pub(crate) async fn run(broker: &mut Broker, rounds: usize, progress: impl Fn(&str)) -> Result<Vec<Duration>> {
    broker.driver.create_topic(TOPIC, PARTITIONS).await?;
    let mut silences = Vec::new();
    for round in 0..rounds {
        let silence = one(broker, round).await.with_context(|| format!("round {}", round + 1))?;
        progress(&format!("{}: round {} of {rounds}: {} ms", broker.kind.name(), round + 1, silence.as_millis()));
        silences.push(silence);
    }
    broker.driver.delete_topic(TOPIC).await?;
    Ok(silences)
}

async fn one(broker: &mut Broker, round: usize) -> Result<Duration> {
    let leaders = settled(broker.driver.as_ref()).await?;
    let victim = leaders[round % leaders.len()];
    let shape = Shape { record_bytes: 1024, keyed: false, batch_bytes: 1 };
    let templates = Arc::new(Templates::build(shape, PARTITIONS)?);
    let stop = AtomicBool::new(false);
    let driver = broker.driver.as_ref();
    let brokers = broker.process_ids.len();
    let producers = (0..PARTITIONS as i32).map(|partition| {
        let producer = Producer { driver, templates: &templates, partition, brokers, leader: leaders[partition as usize] };
        producer.run(&stop)
    });
    let killing = async {
        tokio::time::sleep(AROUND).await;
        let killed = Instant::now();
        crate::process::kill(broker.process_ids[victim])?;
        let other = (victim + 1) % brokers;
        while !is_led_without(driver, other, victim).await {
            ensure!(killed.elapsed() < PATIENCE, "partitions have no leader {PATIENCE:?} after the kill");
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(AROUND).await;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(killed)
    };
    let (acknowledged, killed) = tokio::join!(join_all(producers), killing);
    let killed = killed?;
    let mut longest = Duration::ZERO;
    for (times, leader) in acknowledged.into_iter().zip(&leaders) {
        let times = times?;
        if *leader == victim {
            let after = times.iter().position(|time| *time > killed).context("a partition did not come back")?;
            let gaps = times[after.saturating_sub(1)..].windows(2).map(|pair| pair[1] - pair[0]);
            longest = gaps.fold(longest, Duration::max);
        }
    }
    broker.restart(victim).await?;
    Ok(longest)
}

/// Who leads, once every partition has a leader and all brokers are in it again.
async fn settled(driver: &dyn Driver) -> Result<Vec<usize>> {
    let start = Instant::now();
    loop {
        match driver.leaders(TOPIC, PARTITIONS).await {
            Ok(leaders) if start.elapsed() > AROUND => return Ok(leaders),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.context("brokers are not in it again")),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn is_led_without(driver: &dyn Driver, asked: usize, victim: usize) -> bool {
    let answers = try_join_all((0..PARTITIONS as i32).map(|partition| driver.leader(asked, TOPIC, partition))).await;
    answers.is_ok_and(|leaders| !leaders.contains(&victim))
}

struct Producer<'a> {
    driver: &'a dyn Driver,
    templates: &'a Templates,
    partition: i32,
    brokers: usize,
    leader: usize,
}

impl Producer<'_> {
    /// When its records were acknowledged.
    async fn run(mut self, stop: &AtomicBool) -> Result<Vec<Instant>> {
        let start = Instant::now();
        let mut times = Vec::new();
        let mut asked = self.leader;
        for number in 0.. {
            let mut batch = BytesMut::new();
            self.templates.put(&mut batch, self.partition, Stamp { number, intended: start.elapsed() });
            let batch: Bytes = batch.freeze();
            loop {
                if stop.load(Ordering::Relaxed) {
                    return Ok(times);
                }
                let sent = self.driver.append(self.leader, TOPIC, self.partition, batch.clone());
                if matches!(tokio::time::timeout(TRY, sent).await, Ok(Ok(()))) {
                    times.push(Instant::now());
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
        Ok(times)
    }
}
