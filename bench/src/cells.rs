//! The cells of the measurement: what is sent and read, and what is noted of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::sync::{oneshot, watch};

use crate::batches::{Shape, Templates};
use crate::flight::{Flight, Landed, Reading, Terms, histogram};
use crate::process::{cpu_seconds, cpu_seconds_of, load_average, machine_busy_seconds};
use crate::report::Ran;
use crate::server::Broker;

/// Connections that share the partitions in bulk cells, but at least as many to each broker as make them up.
const CONNECTIONS: usize = 4;
/// Batches a connection may have on its way in bulk cells, by bytes.
const WINDOW_BYTES: usize = 4 << 20;
/// A bulk cell ends after so many bytes, so that a run needs bounded room.
const BULK_BYTES: u64 = 768 << 20;
/// What follows a cell in the background belongs to it, for so long at most.
const SETTLE: Duration = Duration::from_secs(5);
/// For how long a cell waits at most, before it begins, until the broker has done what the cells before left it.
const BEFORE: Duration = Duration::from_secs(20);
/// A cell that failed is run again so many times.
const AGAIN: usize = 3;
/// For making the topic, and, beside a cell's own time, for the last acknowledgements or records.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// CPU of the broker's processes from the first batch until they were quiet again.
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
    /// Share of a core that the broker takes when it is idle.
    pub(crate) idle: f64,
    pub(crate) written: Option<Written>,
}

impl Round<'_> {
    /// Runs one cell of [`CELLS`], again if it fails, at most [`AGAIN`] times.
    ///
    /// # Errors
    ///
    /// A broker has ended: nothing more can be measured.
    pub(crate) async fn run(&mut self, place: usize) -> Result<Ran> {
        let cell = &CELLS[place];
        let mut failures = Vec::new();
        if cell.load == Load::CatchUp && self.written.is_none() {
            failures.push("nothing was written that it could read".to_owned());
            return Ok(Ran { measured: None, failures });
        }
        while failures.len() <= AGAIN {
            match self.attempt(cell, place, failures.len()).await {
                Ok((measured, before)) => {
                    let measured = Some(self.follow(measured, before).await?);
                    if cell.load != Load::Bulk {
                        self.clean().await;
                    }
                    return Ok(Ran { measured, failures });
                }
                // A leader that is lost or moved meanwhile is not followed by the driver.
                Err(error) => {
                    eprintln!("{}: `{}` failed: {error:#}", self.broker.kind.name(), cell.name);
                    if cell.load != Load::CatchUp {
                        let _gone = self.broker.driver.delete_topic(&self.topic(place, failures.len())).await;
                    }
                    failures.push(format!("{error:#}"));
                    self.settle(SETTLE).await?;
                }
            }
        }
        if cell.load == Load::CatchUp {
            self.clean().await;
        }
        Ok(Ran { measured: None, failures })
    }

    /// One try, and what everybody had used when it began. Making the topic is before that.
    async fn attempt(&mut self, cell: &Cell, place: usize, number: usize) -> Result<(Measured, Usage)> {
        let limit = self.duration + PATIENCE;
        if cell.load == Load::CatchUp {
            let before = Usage::now(&self.broker.process_ids)?;
            let measured = tokio::time::timeout(limit, self.catch_up()).await;
            return Ok((measured.unwrap_or_else(|_| Err(anyhow!("not read within {limit:?}")))?, before));
        }
        let (topic, driver) = (self.topic(place, number), &self.broker.driver);
        let making = driver.create_topic(&topic, self.partitions);
        tokio::time::timeout(PATIENCE, making).await.with_context(|| format!("no topic within {PATIENCE:?}"))??;
        let templates = Arc::new(Templates::build(cell.shape, self.partitions)?);
        if is_touched(cell.load, &templates) {
            let touching = self.touch(cell, &topic, &templates);
            tokio::time::timeout(PATIENCE, touching).await.with_context(|| format!("no first batches within {PATIENCE:?}"))??;
        }
        self.settle(BEFORE).await?;
        let before = Usage::now(&self.broker.process_ids)?;
        let measured = tokio::time::timeout(limit, self.produce(cell, topic, templates)).await;
        Ok((measured.unwrap_or_else(|_| Err(anyhow!("not all acknowledged within {limit:?}")))?, before))
    }

    /// Writes one batch to each partition: making its files belongs to making the topic.
    async fn touch(&self, cell: &Cell, topic: &str, templates: &Arc<Templates>) -> Result<()> {
        let driver = &self.broker.driver;
        let lines = lines(&driver.leaders(topic, self.partitions).await?, CONNECTIONS);
        let flights = lines.into_iter().map(|partitions| {
            let (start, batches) = (Instant::now(), partitions.len() as u64);
            let window = window(cell.load, templates);
            let terms = Terms { start, duration: PATIENCE, batches, first: 0, interval: None, window, partitions };
            Ok(Arc::new(Flight::new(Arc::clone(templates), terms)?))
        });
        let flights = flights.collect::<Result<Vec<_>>>()?;
        futures::future::try_join_all(flights.iter().map(|flight| driver.produce(topic, Arc::clone(flight)))).await?;
        flights.iter().try_for_each(|flight| flight.land().map(drop))
    }

    /// Waits until the broker is quiet again, and notes what all of it took.
    async fn follow(&self, mut measured: Measured, before: Usage) -> Result<Measured> {
        let driver = cpu_seconds(std::process::id())? - before.driver;
        self.settle(SETTLE).await?;
        let after = Usage::now(&self.broker.process_ids)?;
        measured.broker_cpu = after.broker - before.broker;
        measured.driver_cpu = driver;
        let elapsed = (after.at - before.at).as_secs_f64();
        let other = after.busy - before.busy - measured.broker_cpu - (after.driver - before.driver);
        measured.other_cores = (other / elapsed).max(0.0);
        measured.load_average = load_average()?;
        Ok(measured)
    }

    fn topic(&self, place: usize, attempt: usize) -> String {
        format!("bench-{}-{place}-{}-{attempt}", self.number, self.broker.kind as u8)
    }

    async fn clean(&mut self) {
        let Some(written) = self.written.take() else { return };
        if let Err(error) = self.broker.driver.delete_topic(&written.topic).await {
            eprintln!("{}: topic {} stays: {error:#}", self.broker.kind.name(), written.topic);
        }
    }

    /// Waits until the broker does nothing any more.
    async fn settle(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut quiet = 0;
        let mut last = cpu_seconds_of(&self.broker.process_ids)?;
        while quiet < 2 && start.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = cpu_seconds_of(&self.broker.process_ids)?;
            // One tick of the clock, and twice what it takes when it is idle.
            quiet = if now - last < 0.015 + 0.2 * self.idle { quiet + 1 } else { 0 };
            last = now;
        }
        if quiet < 2 && limit == BEFORE {
            eprintln!("{}: still busy after {limit:?}: a cell begins beside what the ones before left", self.broker.kind.name());
        }
        Ok(())
    }

    async fn produce(&mut self, cell: &Cell, topic: String, templates: Arc<Templates>) -> Result<Measured> {
        let driver = &self.broker.driver;
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
        // A reader finds the first batch of each partition, too.
        let is_touched = is_touched(cell.load, &templates);
        let touched = |line: &Vec<i32>| if is_touched { line.len() as u64 } else { 0 };
        let records = landed.iter().zip(&lines).map(|(landed, line)| (landed.batches + touched(line)) * templates.records());
        let records: Vec<u64> = records.collect();
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

/// Whether each partition gets a batch before the cell begins: not if that were more than the cell itself.
fn is_touched(load: Load, templates: &Templates) -> bool {
    load == Load::Bulk && u64::from(templates.partitions()) * templates.batch_bytes() as u64 <= BULK_BYTES
}

/// Batches that a connection may have on its way.
fn window(load: Load, templates: &Templates) -> usize {
    match load {
        Load::Single => 1,
        Load::Tail { .. } => usize::MAX,
        Load::Bulk | Load::CatchUp => WINDOW_BYTES / templates.batch_bytes(),
    }
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
        let window = window(cell.load, templates);
        // Behind those that every partition may have already.
        let first = u64::from(templates.partitions());
        let batches = BULK_BYTES / batch_bytes as u64 / lines.len() as u64;
        Terms { start, duration, batches, first, interval, window, partitions: partitions.clone() }
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

/// Warms a broker up: one run of each of these cells of [`CELLS`], nothing noted.
pub(crate) async fn warm_up(broker: &Broker, places: &[usize], partitions: u32, duration: Duration) -> Result<()> {
    let mut round = Round { broker, number: usize::MAX, partitions, duration, idle: 0.0, written: None };
    for place in places.iter().copied() {
        round.run(place).await.with_context(|| format!("warming up {} by `{}`", broker.kind.name(), CELLS[place].name))?;
    }
    round.clean().await;
    round.settle(BEFORE).await
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
