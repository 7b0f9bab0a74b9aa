//! The cells of the measurement: what is sent and read, and what is noted of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::sync::{oneshot, watch};

use crate::batches::{Shape, Templates};
use crate::flight::{Flight, Landed, Reading, Terms, histogram};
use crate::process::{cpu_seconds, cpu_seconds_of, load_average, machine_busy_seconds};
use crate::server::Broker;

/// Connections that share the partitions in bulk cells, but at least as many to each broker as make them up.
const CONNECTIONS: usize = 4;
/// Batches a connection may have on its way in bulk cells, by bytes.
const WINDOW_BYTES: usize = 4 << 20;
/// A bulk cell ends after so many bytes, so that a run needs bounded room.
const BULK_BYTES: u64 = 768 << 20;
/// What follows a cell in the background belongs to it, for so long at most.
const SETTLE: Duration = Duration::from_secs(5);

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// As fast as the window allows.
    Bulk,
    /// The topic of the bulk cell before, read from its beginning by as many connections.
    CatchUp,
    /// At a fixed rate, with one consumer that follows the tail of all partitions.
    Tail { bytes_a_second: u64 },
    /// One batch at a time.
    Single,
}

/// A cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) load: Load,
    shape: Shape,
    /// Share of the full time.
    time: f64,
}

const KIB: Shape = Shape { record_bytes: 1024, keyed: false, batch_bytes: 256 << 10 };
const SMALL: Shape = Shape { record_bytes: 100, keyed: true, batch_bytes: 16 << 10 };
const ONE: Shape = Shape { record_bytes: 1024, keyed: false, batch_bytes: 1 };

/// All cells, in the order in which they are run.
pub(crate) const CELLS: [Cell; 6] = [
    Cell {
        name: "produce, 1 KiB records",
        about: "Batches of 256 KiB, all partitions over 4 connections (three brokers: 2 to each), each with 4 MiB on its way.",
        load: Load::Bulk,
        shape: KIB,
        time: 1.0,
    },
    Cell {
        name: "catch-up read, 1 KiB records",
        about: "What the cell before wrote, from the beginning, over as many connections.",
        load: Load::CatchUp,
        shape: KIB,
        time: 1.0,
    },
    Cell {
        name: "produce, 100-byte keyed records",
        about: "Batches of 16 KiB (what Kafka's producer makes by default), as many connections, each with 4 MiB on its way.",
        load: Load::Bulk,
        shape: SMALL,
        time: 1.0,
    },
    Cell {
        name: "catch-up read, 100-byte records",
        about: "What the cell before wrote, from the beginning, over as many connections.",
        load: Load::CatchUp,
        shape: SMALL,
        time: 1.0,
    },
    Cell {
        name: "tail read at 16 MB/s",
        about: "100-byte keyed records in batches of 16 KiB at a fixed rate (open loop), and one consumer (three brokers: one of each) that follows all partitions.",
        load: Load::Tail { bytes_a_second: 16_000_000 },
        shape: SMALL,
        time: 1.0,
    },
    Cell {
        name: "one record at a time",
        about: "One producer, one record of 1 KiB in a batch of its own, the next after the acknowledgement.",
        load: Load::Single,
        shape: ONE,
        time: 0.5,
    },
];

/// What one run of a cell came to.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    /// CPU of the broker's process until it was quiet again.
    pub(crate) broker_cpu: f64,
    pub(crate) driver_cpu: f64,
    /// Cores that neither broker nor driver kept busy meanwhile: other programs, and the kernel's own threads.
    pub(crate) other_cores: f64,
    pub(crate) load_average: f64,
    /// From when a batch was due to its acknowledgement; `None` for a cell that only reads.
    pub(crate) acknowledged_us: Option<Histogram<u64>>,
    /// From when a batch was due to its arrival at the consumer.
    pub(crate) received_us: Option<Histogram<u64>>,
}

/// Work done so far by everybody.
struct Usage {
    broker: f64,
    driver: f64,
    busy: f64,
    at: Instant,
}

impl Usage {
    fn now(broker: &[u32]) -> Result<Usage> {
        let driver = cpu_seconds(std::process::id())?;
        Ok(Usage { broker: cpu_seconds_of(broker)?, driver, busy: machine_busy_seconds()?, at: Instant::now() })
    }
}

/// The topic of a bulk cell, which the next one reads.
pub(crate) struct Written {
    topic: String,
    templates: Arc<Templates>,
    /// The partitions of each connection, and their records.
    lines: Vec<(Vec<i32>, u64)>,
}

/// Runs the cells of one round against a broker.
pub(crate) struct Round<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) number: usize,
    /// Partitions of each topic.
    pub(crate) partitions: u32,
    /// The time of a cell.
    pub(crate) duration: Duration,
    pub(crate) written: Option<Written>,
}

impl Round<'_> {
    /// Runs one cell.
    pub(crate) async fn run(&mut self, cell: &Cell, place: usize) -> Result<Measured> {
        let mut attempt = 0;
        let (before, mut measured) = loop {
            let before = Usage::now(&self.broker.process_ids)?;
            let measured = match cell.load {
                Load::CatchUp => self.catch_up().await,
                _ => self.produce(cell, place, attempt).await,
            };
            match measured {
                Ok(measured) => break (before, measured),
                // Leaders may move for balance meanwhile, which the driver does not follow: the cell is run again, and that is said.
                Err(error) if cell.load != Load::CatchUp && attempt < 3 => {
                    eprintln!("{}: `{}` is run again: {error:#}", self.broker.kind.name(), cell.name);
                    attempt += 1;
                    self.settle().await?;
                }
                Err(error) => return Err(error),
            }
        };
        let driver = cpu_seconds(std::process::id())? - before.driver;
        self.settle().await?;
        let after = Usage::now(&self.broker.process_ids)?;
        measured.broker_cpu = after.broker - before.broker;
        measured.driver_cpu = driver;
        let elapsed = (after.at - before.at).as_secs_f64();
        let other = after.busy - before.busy - measured.broker_cpu - (after.driver - before.driver);
        measured.other_cores = (other / elapsed).max(0.0);
        measured.load_average = load_average()?;
        if cell.load != Load::Bulk {
            self.clean().await?;
        }
        Ok(measured)
    }

    async fn clean(&mut self) -> Result<()> {
        match self.written.take() {
            Some(written) => self.broker.driver.delete_topic(&written.topic).await,
            None => Ok(()),
        }
    }

    /// Waits until the broker does nothing any more.
    async fn settle(&self) -> Result<()> {
        let start = Instant::now();
        let mut quiet = 0;
        let mut last = cpu_seconds_of(&self.broker.process_ids)?;
        while quiet < 2 && start.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = cpu_seconds_of(&self.broker.process_ids)?;
            quiet = if now - last < 0.015 { quiet + 1 } else { 0 };
            last = now;
        }
        Ok(())
    }

    async fn produce(&mut self, cell: &Cell, place: usize, attempt: usize) -> Result<Measured> {
        let templates = Arc::new(Templates::build(cell.shape, self.partitions)?);
        let topic = format!("bench-{}-{place}-{}-{attempt}", self.number, self.broker.kind as u8);
        let driver = &self.broker.driver;
        driver.create_topic(&topic, self.partitions).await?;
        let leaders = driver.leaders(&topic, self.partitions).await?;
        let lines = lines(&leaders, if cell.load == Load::Single { 1 } else { CONNECTIONS });
        // One producer is one connection, whichever broker it goes to.
        let lines = if cell.load == Load::Single { lines[..1].to_vec() } else { lines };
        let start = Instant::now();
        let duration = self.duration.mul_f64(cell.time);
        let flights = flights(cell, &lines, &templates, start, duration)?;
        let consumers = match cell.load {
            Load::Tail { .. } => followers(&leaders),
            _ => Vec::new(),
        };
        let totals: Vec<_> = consumers.iter().map(|_| watch::channel(u64::MAX)).collect();
        let (ready, begun): (Vec<_>, Vec<_>) = consumers.iter().map(|_| oneshot::channel()).unzip();
        let consuming = consumers.iter().zip(&totals).zip(ready).map(|((partitions, (_, until)), ready)| {
            let reading = Reading::new(Arc::clone(&templates), start);
            let topic = &topic;
            async move { driver.consume(topic, partitions, until.clone(), reading?, ready).await }
        });
        let producers = async {
            futures::future::try_join_all(begun).await.context("a consumer failed")?;
            let sending = flights.iter().map(|flight| driver.produce(&topic, Arc::clone(flight)));
            futures::future::try_join_all(sending).await?;
            let landed: Vec<Landed> = flights.iter().map(|flight| flight.land()).collect::<Result<_>>()?;
            for (partitions, (total, _)) in consumers.iter().zip(&totals) {
                let theirs = lines.iter().zip(&landed).filter(|(line, _)| partitions.contains(&line[0]));
                total.send_replace(theirs.map(|(_, landed)| landed.batches * templates.records()).sum());
            }
            anyhow::Ok(landed)
        };
        let (read, landed) = tokio::try_join!(futures::future::try_join_all(consuming), producers)?;
        let records = landed.iter().map(|landed| landed.batches * templates.records());
        let lines = lines.iter().cloned().zip(records).collect();
        let measured = landed_to_measured(start, &templates, &landed, &read)?;
        self.written = Some(Written { topic, lines, templates });
        Ok(measured)
    }

    async fn catch_up(&mut self) -> Result<Measured> {
        let written = self.written.as_ref().context("a catch-up cell follows a bulk cell")?;
        let driver = &self.broker.driver;
        let start = Instant::now();
        let mut readers = Vec::new();
        for (partitions, records) in &written.lines {
            let (records, partitions) = (*records, partitions.as_slice());
            let reading = Reading::new(Arc::clone(&written.templates), start)?;
            let (total, until) = watch::channel(records);
            let (ready, _) = oneshot::channel();
            readers.push(async move {
                let read = driver.consume(&written.topic, partitions, until, reading, ready).await?;
                ensure!(read.records == records, "{} records came back of {records}", read.records);
                // A reader follows how many there are as long as it reads.
                drop(total);
                anyhow::Ok(read)
            });
        }
        let read = futures::future::try_join_all(readers).await?;
        let last = read.iter().map(|read| read.last).max().unwrap_or(start);
        Ok(Measured {
            seconds: (last - start).as_secs_f64(),
            bytes: read.iter().map(|read| read.bytes).sum(),
            records: read.iter().map(|read| read.records).sum(),
            broker_cpu: 0.0,
            driver_cpu: 0.0,
            other_cores: 0.0,
            load_average: 0.0,
            acknowledged_us: None,
            received_us: None,
        })
    }
}

/// The partitions of each connection: those of one have one leader, and each leader has as many connections.
pub(crate) fn lines(leaders: &[usize], connections: usize) -> Vec<Vec<i32>> {
    let led = followers(leaders);
    let each = connections.div_ceil(led.len().max(1));
    let share = |partitions: &Vec<i32>, place: usize| partitions.iter().skip(place).step_by(each).copied().collect::<Vec<_>>();
    let all = led.iter().flat_map(|partitions| (0..each).map(move |place| share(partitions, place)));
    all.filter(|partitions| !partitions.is_empty()).collect()
}

/// The partitions that each broker leads, without brokers that lead none.
fn followers(leaders: &[usize]) -> Vec<Vec<i32>> {
    let mut led: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
    for (partition, leader) in (0..).zip(leaders) {
        led.entry(*leader).or_default().push(partition);
    }
    led.into_values().collect()
}

fn flights(
    cell: &Cell,
    lines: &[Vec<i32>],
    templates: &Arc<Templates>,
    start: Instant,
    duration: Duration,
) -> Result<Vec<Arc<Flight>>> {
    let batch_bytes = templates.batch_bytes();
    let terms = |partitions: &Vec<i32>| {
        let interval = match cell.load {
            Load::Tail { bytes_a_second } => {
                let batches_a_second = bytes_a_second as f64 / batch_bytes as f64 / lines.len() as f64;
                Some(Duration::from_secs_f64(1.0 / batches_a_second))
            }
            _ => None,
        };
        let window = match cell.load {
            Load::Single => 1,
            Load::Tail { .. } => usize::MAX,
            _ => WINDOW_BYTES / batch_bytes,
        };
        let batches = BULK_BYTES / batch_bytes as u64 / lines.len() as u64;
        Terms { start, duration, batches, interval, window, partitions: partitions.clone() }
    };
    lines.iter().map(|line| Ok(Arc::new(Flight::new(Arc::clone(templates), terms(line))?))).collect()
}

fn landed_to_measured(start: Instant, templates: &Templates, landed: &[Landed], read: &[Reading]) -> Result<Measured> {
    let mut acknowledged = histogram()?;
    for landed in landed {
        acknowledged.add(&landed.latency_us)?;
    }
    let last = landed.iter().map(|landed| landed.last).chain(read.iter().map(|read| read.last)).max().unwrap_or(start);
    let batches: u64 = landed.iter().map(|landed| landed.batches).sum();
    let records = batches * templates.records();
    let mut received = None;
    if !read.is_empty() {
        let came: u64 = read.iter().map(|read| read.records).sum();
        ensure!(came == records, "{came} records came back of {records}");
        let received = received.insert(histogram()?);
        for read in read {
            received.add(&read.latency_us)?;
        }
    }
    Ok(Measured {
        seconds: (last - start).as_secs_f64(),
        bytes: batches * templates.batch_bytes() as u64,
        records,
        broker_cpu: 0.0,
        driver_cpu: 0.0,
        other_cores: 0.0,
        load_average: 0.0,
        acknowledged_us: Some(acknowledged),
        received_us: received,
    })
}

/// Warms a broker up: some seconds of the bulk load, nothing noted.
pub(crate) async fn warm_up(broker: &Broker, partitions: u32, duration: Duration) -> Result<()> {
    let mut round = Round { broker, number: usize::MAX, partitions, duration, written: None };
    for (place, cell) in CELLS.iter().enumerate() {
        round.run(cell, place).await.with_context(|| format!("warming up {} by `{}`", broker.kind.name(), cell.name))?;
    }
    round.clean().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_to_one_leader_and_every_partition_has_one() {
        assert_eq!(lines(&[0; 6], 4), [vec![0, 4], vec![1, 5], vec![2], vec![3]]);
        let spread = lines(&[2, 0, 1, 2, 0, 1, 2], 4);
        assert_eq!(spread, [vec![1], vec![4], vec![2], vec![5], vec![0, 6], vec![3]]);
        assert_eq!(lines(&[0, 1], 1), [vec![0], vec![1]]);
    }
}
