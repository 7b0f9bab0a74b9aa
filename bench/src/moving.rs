//! What it costs to move 100 partitions with history from one broker to a new one, and whether that grows with the history.
//!
//! Tidegate: a broker is drained, which has nowhere to go, then a fourth one comes in and is given all its replicas. Kafka: a fourth broker comes
//! in, and its protocol's AlterPartitionReassignments puts it in the place of another one. The clock runs from the newcomer's first answer until
//! the old broker holds none of the partitions. What the same brokers take idle for as long, measured just before, is no work of the move.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::batches::{Shape, Templates};
use crate::flight::{Flight, Terms};
use crate::process::{cpu_seconds, cpu_seconds_of};
use crate::server::{Broker, Programs};

const PARTITIONS: u32 = 100;
const TOPIC: &str = "moving";
/// Batches on their way on each connection while history is written.
const WINDOW: usize = 16;
/// Bytes written with the leaders as they were found.
const PART: u64 = 128 << 20;
/// For the move, and for a hub to come to rest.
const PATIENCE: Duration = Duration::from_secs(600);
/// A hub at rest uses less than this share of a core, for so long.
const REST: (f64, Duration) = (0.15, Duration::from_secs(5));

/// For how long idle brokers are watched.
const IDLE: Duration = Duration::from_secs(15);
/// How often brokers are asked whether they are done. Each time costs them something, which counts as work.
const LOOK: Duration = Duration::from_millis(250);

/// What a move came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) took: Duration,
    /// CPU seconds of all brokers from the newcomer's first answer to the end.
    pub(crate) cpu: f64,
    /// The newcomer's share of that.
    pub(crate) newcomer_cpu: f64,
    /// Share of a core that the brokers took idle: before the newcomer came, and with it after the move.
    pub(crate) idle: (f64, f64),
    /// Bytes of log that were copied to replicas which did not vote yet, if the broker counts them.
    pub(crate) copied: Option<u64>,
    /// The newcomer's folder at the end, and its checkpoints (states of journals, which learners are sent) alone.
    pub(crate) newcomer: Stored,
}

impl Moved {
    /// CPU seconds beyond what the brokers would have taken idle.
    pub(crate) fn work(&self) -> f64 {
        self.cpu - self.idle.0 * self.took.as_secs_f64()
    }
}

/// What a folder takes on the disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stored {
    pub(crate) all: u64,
    pub(crate) checkpoints: u64,
}

/// Writes history, moves a broker's replicas to a new broker, once.
pub(crate) async fn run(broker: &mut Broker, programs: &Programs, history: u64, progress: impl Fn(&str)) -> Result<Moved> {
    let (name, begun) = (broker.kind.name(), Instant::now());
    broker.driver.create_topic(TOPIC, PARTITIONS).await?;
    progress(&format!("{name}: writing {} MiB", history >> 20));
    for part in 0..history.div_ceil(PART) {
        let bytes = PART.min(history - part * PART);
        // Leaders may move for balance meanwhile, which the driver does not follow: the part is written again.
        while let Err(error) = write(broker, bytes).await {
            progress(&format!("{name}: writing again: {error:#}"));
            ensure!(begun.elapsed() < PATIENCE, "history cannot be written: {error:#}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    progress(&format!("{name}: waiting until it is at rest"));
    rest(broker).await?;
    let from = broker.process_ids.len() - 1;
    broker.driver.make_way(from).await?;
    rest(broker).await?;
    progress(&format!("{name}: watching it idle"));
    let idle_before = idle(broker).await?;
    let copied_before = broker.driver.copied_bytes().await?;
    let home = broker.add(programs).await?;
    let newcomer = *broker.process_ids.last().context("a broker was just added")?;
    let (start, before) = (Instant::now(), cpu_seconds_of(&broker.process_ids)?);
    let newcomer_before = cpu_seconds(newcomer)?;
    broker.driver.replace(TOPIC, PARTITIONS, from).await?;
    progress(&format!("{name}: moving"));
    loop {
        let left = broker.driver.left_on(TOPIC, PARTITIONS, from).await;
        if left.as_ref().is_ok_and(|left| *left == 0) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "after {PATIENCE:?} broker {} still has its replicas: {left:?}", from + 1);
        tokio::time::sleep(LOOK).await;
    }
    let (took, cpu) = (start.elapsed(), cpu_seconds_of(&broker.process_ids)? - before);
    let (newcomer_cpu, stored) = (cpu_seconds(newcomer)? - newcomer_before, stored_below(&home)?);
    let idle = (idle_before, idle(broker).await?);
    // Brokers tell each other their counts each second, which is over by now.
    let copied = copied_before.zip(broker.driver.copied_bytes().await?).map(|(before, after)| after.saturating_sub(before));
    Ok(Moved { took, cpu, newcomer_cpu, idle, copied, newcomer: stored })
}

/// Share of a core that the brokers take while nobody asks them anything.
async fn idle(broker: &Broker) -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_seconds_of(&broker.process_ids)?);
    tokio::time::sleep(IDLE).await;
    Ok((cpu_seconds_of(&broker.process_ids)? - before) / start.elapsed().as_secs_f64())
}

async fn write(broker: &Broker, history: u64) -> Result<()> {
    let templates = Arc::new(Templates::build(Shape { record_bytes: 1024, keyed: false, batch_bytes: 256 << 10 }, PARTITIONS)?);
    let leaders = broker.driver.leaders(TOPIC, PARTITIONS).await?;
    let lines = crate::cells::lines(&leaders, 4);
    let batches = history / templates.batch_bytes() as u64 / lines.len() as u64;
    let start = Instant::now();
    let flights: Vec<_> = lines
        .into_iter()
        .map(|partitions| {
            let terms = Terms { start, duration: PATIENCE, batches, first: 0, interval: None, window: WINDOW, partitions };
            Ok(Arc::new(Flight::new(Arc::clone(&templates), terms)?))
        })
        .collect::<Result<_>>()?;
    let sending = flights.iter().map(|flight| broker.driver.produce(TOPIC, Arc::clone(flight)));
    futures::future::try_join_all(sending).await?;
    flights.iter().try_for_each(|flight| flight.land().map(drop))
}

/// Waits until all that follows the writing is done.
async fn rest(broker: &Broker) -> Result<()> {
    let start = Instant::now();
    loop {
        let (from, before) = (Instant::now(), cpu_seconds_of(&broker.process_ids)?);
        tokio::time::sleep(REST.1).await;
        let share = (cpu_seconds_of(&broker.process_ids)? - before) / from.elapsed().as_secs_f64();
        if share < REST.0 * broker.process_ids.len() as f64 {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "it still uses {share:.2} of a core");
    }
}

fn stored_below(folder: &Path) -> Result<Stored> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = Stored::default();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        // Files may go meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let below = stored_below(&entry.path())?;
            sum = Stored { all: sum.all + below.all, checkpoints: sum.checkpoints + below.checkpoints };
        } else {
            sum.all += metadata.blocks() * 512;
            if entry.path().extension().is_some_and(|extension| extension == "checkpoint") {
                sum.checkpoints += metadata.len();
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_told_apart_from_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journals")).unwrap();
        std::fs::write(folder.path().join("journals/0001.checkpoint"), [1; 5000]).unwrap();
        std::fs::write(folder.path().join("wal"), [1; 9000]).unwrap();
        let stored = stored_below(folder.path()).unwrap();
        assert_eq!(stored.checkpoints, 5000);
        assert!(stored.all >= 14_000, "{stored:?}");
    }

    #[test]
    fn what_brokers_take_idle_is_no_work_of_a_move() {
        let moved = Moved {
            took: Duration::from_secs(20),
            cpu: 3.0,
            newcomer_cpu: 1.0,
            idle: (0.05, 0.06),
            copied: None,
            newcomer: Stored::default(),
        };
        assert!((moved.work() - 2.0).abs() < 1e-9);
    }
}
