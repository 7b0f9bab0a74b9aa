//! The driver of Kafka: its own protocol over TCP, with the batches as they are.
//!
//! Produce: up to five requests are on their way on a connection (what Kafka's idempotent producer allows), each with all batches that are due, one a
//! partition, up to 1 MiB (its `max.request.size`). Fetch: the next request goes out before the last answer is checked.

mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::driver::{Driver, Leaders, Ready, Until};
use crate::flight::{Flight, Outgoing, Reading, whole_batches};

const REQUESTS: usize = 5;
const REQUEST_BYTES: usize = 1 << 20;

/// Where Kafka brokers listen, by their numbers from 1, and what their topics are set to.
#[derive(Debug)]
pub(crate) struct Kafka {
    addresses: Vec<String>,
    replicas: u16,
    topic_settings: Vec<(&'static str, &'static str)>,
    leaders: Leaders,
}

impl Kafka {
    pub(crate) fn new(addresses: Vec<String>, replicas: u16, topic_settings: Vec<(&'static str, &'static str)>) -> Kafka {
        Kafka { addresses, replicas, topic_settings, leaders: Leaders::default() }
    }

    async fn connect(&self, broker: usize) -> Result<TcpStream> {
        let address = &self.addresses[broker];
        let stream = TcpStream::connect(address).await.with_context(|| address.clone())?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&self, broker: usize, request: Bytes) -> Result<Bytes> {
        let mut stream = self.connect(broker).await?;
        stream.write_all(&request).await?;
        let (_, answer) = receive(&mut stream).await?.context("Kafka closed the connection")?;
        Ok(answer)
    }

    /// Fails until the leader of each partition takes a fetch.
    async fn is_known(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut led: HashMap<usize, Vec<(i32, i64)>> = HashMap::new();
        for (partition, leader) in (0..).zip(self.leaders(topic, partitions).await?) {
            led.entry(leader).or_default().push((partition, 0));
        }
        for (leader, partitions) in led {
            wire::fetched(self.ask(leader, wire::fetch(1, topic, &partitions, 0)?).await?)?;
        }
        Ok(())
    }
}

/// The next answer: the number of its request, and the rest. `None` at the end.
async fn receive(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<(i32, Bytes)>> {
    let Ok(length) = stream.read_i32().await else { return Ok(None) };
    let length = usize::try_from(length).context("a negative length")?;
    let mut answer = BytesMut::with_capacity(length);
    let mut rest = stream.take(length as u64);
    while answer.len() < length {
        ensure!(rest.read_buf(&mut answer).await? > 0, "an answer ended early");
    }
    let correlation = answer.try_get_i32()?;
    Ok(Some((correlation, answer.freeze())))
}

/// Batches that go into one request: those that can be sent now, one a partition. The first that does not fit is left in `held`.
fn gather(flight: &Flight, first: Outgoing, held: &mut Option<Outgoing>) -> Vec<Outgoing> {
    let mut batches = vec![first];
    let most = (REQUEST_BYTES / flight.templates.batch_bytes()).max(1);
    while batches.len() < most {
        let Some(next) = flight.ready() else { break };
        if batches.iter().any(|batch| batch.partition == next.partition) {
            *held = Some(next);
            break;
        }
        batches.push(next);
    }
    batches
}

fn request(topic: &str, correlation: i32, flight: &Flight, batches: &[Outgoing]) -> Result<Bytes> {
    let head = wire::begin_produce(correlation, topic, batches.len())?;
    let mut out = BytesMut::with_capacity(head.len() + batches.len() * (8 + flight.templates.batch_bytes()));
    out.extend_from_slice(&head);
    for batch in batches {
        out.put_i32(batch.partition);
        let length_at = out.len();
        out.put_i32(0);
        flight.put(&mut out, *batch);
        let length = i32::try_from(out.len() - length_at - 4)?;
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
    wire::finish(out)
}

/// Requests on their way: their number, their batches, their place among the five.
type OnTheWay = Mutex<VecDeque<(i32, Vec<u64>, OwnedSemaphorePermit)>>;

#[async_trait]
impl Driver for Kafka {
    async fn is_up(&self, broker: usize) -> Result<()> {
        self.ask(broker, wire::finish(wire::begin(wire::API_VERSIONS, 1))?).await.map(drop)
    }

    async fn create_topic(&self, name: &str, partitions: u32) -> Result<()> {
        wire::created_topic(self.ask(0, wire::create_topic(1, name, partitions, self.replicas, &self.topic_settings)?).await?)?;
        // It is made by the controller and known to the brokers a moment later: ask until they take a fetch.
        for _ in 0..200 {
            if self.is_known(name, partitions).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::bail!("topic {name} did not come up")
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.ask(0, wire::delete_topic(1, name)?).await.map(drop)
    }

    async fn leaders(&self, topic: &str, partitions: u32) -> Result<Vec<usize>> {
        let led = wire::led(self.ask(0, wire::metadata(1, topic)?).await?)?;
        ensure!(led.len() == partitions as usize, "{topic} has {} partitions", led.len());
        ensure!(led.iter().all(|led| led.in_sync.len() == usize::from(self.replicas)), "{topic}: replicas are not in sync");
        let leaders = led.iter().map(|led| Ok(usize::try_from(led.leader)? - 1)).collect::<Result<Vec<_>>>()?;
        self.leaders.note(topic, &leaders);
        Ok(leaders)
    }

    async fn leader(&self, asked: usize, topic: &str, partition: i32) -> Result<usize> {
        let led = wire::led(self.ask(asked, wire::metadata(1, topic)?).await?)?;
        let leader = led.get(usize::try_from(partition)?).context("no such partition")?.leader;
        Ok(usize::try_from(leader)? - 1)
    }

    async fn replace(&self, topic: &str, partitions: u32, from: usize) -> Result<()> {
        let led = wire::led(self.ask(0, wire::metadata(1, topic)?).await?)?;
        ensure!(led.len() == partitions as usize, "{topic} has {} partitions", led.len());
        let (from, newcomer) = (i32::try_from(from + 1)?, i32::try_from(self.addresses.len() + 1)?);
        let with = |led: &wire::Led| led.replicas.iter().map(|id| if *id == from { newcomer } else { *id }).collect();
        let moves: Vec<(i32, Vec<i32>)> = (0..).zip(&led).map(|(partition, led)| (partition, with(led))).collect();
        wire::reassigned(self.ask(0, wire::reassign(1, topic, &moves)?).await?)
    }

    async fn left_on(&self, topic: &str, partitions: u32, from: usize) -> Result<usize> {
        let led = wire::led(self.ask(0, wire::metadata(1, topic)?).await?)?;
        ensure!(led.len() == partitions as usize, "{topic} has {} partitions", led.len());
        let from = i32::try_from(from + 1)?;
        let done = |led: &wire::Led| !led.replicas.contains(&from) && led.in_sync.len() == usize::from(self.replicas);
        Ok(led.iter().filter(|led| !done(led)).count())
    }

    async fn append(&self, broker: usize, topic: &str, partition: i32, batch: Bytes) -> Result<()> {
        let mut out = wire::begin_produce(1, topic, 1)?;
        out.put_i32(partition);
        out.put_i32(i32::try_from(batch.len())?);
        out.extend_from_slice(&batch);
        wire::check_produced(self.ask(broker, wire::finish(out)?).await?)
    }

    async fn produce(&self, topic: &str, flight: Arc<Flight>) -> Result<()> {
        let leader = self.leaders.of(topic, flight.partition());
        let (mut reader, mut writer) = self.connect(leader).await?.into_split();
        let on_the_way: OnTheWay = Mutex::default();
        let places = Arc::new(Semaphore::new(REQUESTS));
        let send = async {
            let mut held = None;
            for correlation in 0.. {
                let place = Arc::clone(&places).acquire_owned().await?;
                let first = match held.take() {
                    Some(first) => first,
                    None => match flight.next().await {
                        Some(first) => first,
                        None => break,
                    },
                };
                let batches = gather(&flight, first, &mut held);
                let bytes = request(topic, correlation, &flight, &batches)?;
                let numbers = batches.iter().map(|batch| batch.stamp.number).collect();
                on_the_way.lock().push_back((correlation, numbers, place));
                writer.write_all(&bytes).await?;
            }
            // All places are free once everything is answered.
            let _all = Arc::clone(&places).acquire_many_owned(REQUESTS as u32).await?;
            writer.shutdown().await?;
            anyhow::Ok(())
        };
        let take = async {
            while let Some((correlation, answer)) = receive(&mut reader).await? {
                let (expected, numbers, _place) = on_the_way.lock().pop_front().context("an answer nobody asked for")?;
                ensure!(expected == correlation, "answer {correlation} came before {expected}");
                wire::check_produced(answer)?;
                for number in numbers {
                    flight.acknowledge(number)?;
                }
            }
            anyhow::Ok(())
        };
        tokio::try_join!(send, take).map(drop)
    }

    async fn consume(
        &self,
        topic: &str,
        partitions: &[i32],
        records: Until,
        mut reading: Reading,
        ready: Ready,
    ) -> Result<Reading> {
        let leader = self.leaders.of(topic, partitions.first().copied().unwrap_or(0));
        let mut stream = self.connect(leader).await?;
        let mut next: HashMap<i32, i64> = partitions.iter().map(|partition| (*partition, 0)).collect();
        let ask = |next: &HashMap<i32, i64>| {
            let asked: Vec<(i32, i64)> = partitions.iter().map(|partition| (*partition, next[partition])).collect();
            wire::fetch(1, topic, &asked, wire::FETCH_WAIT_MS)
        };
        stream.write_all(&ask(&next)?).await?;
        let _ = ready.send(());
        while reading.records < *records.borrow() {
            let (_, answer) = receive(&mut stream).await?.context("Kafka closed the connection")?;
            let parts = wire::fetched(answer)?;
            let mut whole = Vec::with_capacity(parts.len());
            for (partition, bytes) in parts {
                let (end, offset) = whole_batches(&bytes);
                if let Some(offset) = offset {
                    next.insert(partition, offset);
                    whole.push((partition, bytes.slice(..end)));
                }
            }
            stream.write_all(&ask(&next)?).await?;
            for (partition, bytes) in whole {
                reading.take(partition, &bytes)?;
            }
        }
        Ok(reading)
    }
}
