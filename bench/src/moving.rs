//! What it costs to move 100 partitions with history from one broker to a new one, and whether that grows with the history.
//!
//! Tidegate: a broker is drained, which has nowhere to go, then a fourth one comes in and is given all its replicas. Kafka: a fourth broker comes
//! in, and its protocol's AlterPartitionReassignments puts it in the place of another one. The clock runs from the newcomer's first answer until
//! the old broker holds none of the partitions.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::batches::{Shape, Templates};
use crate::flight::{Flight, Terms};
use crate::process::cpu_seconds_of;
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

/// What a move came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) history: u64,
    pub(crate) took: Duration,
    /// CPU of all brokers from the newcomer's first answer to the end.
    pub(crate) cpu: f64,
    /// The newcomer's folder at the end.
    pub(crate) newcomer_bytes: u64,
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
    let home = broker.add(programs).await?;
    let (start, before) = (Instant::now(), cpu_seconds_of(&broker.process_ids)?);
    broker.driver.replace(TOPIC, PARTITIONS, from).await?;
    progress(&format!("{name}: moving"));
    loop {
        let left = broker.driver.left_on(TOPIC, PARTITIONS, from).await;
        if left.as_ref().is_ok_and(|left| *left == 0) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "after {PATIENCE:?} broker {} still has its replicas: {left:?}", from + 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (took, cpu) = (start.elapsed(), cpu_seconds_of(&broker.process_ids)? - before);
    Ok(Moved { history, took, cpu, newcomer_bytes: bytes_below(&home)? })
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
            let terms = Terms { start, duration: PATIENCE, batches, interval: None, window: WINDOW, partitions };
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

/// What a folder takes on the disk.
fn bytes_below(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        // Files may go meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
