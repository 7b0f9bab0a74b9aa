//! Consumers over the network: they follow through any broker, seek, commit positions and read them back; and the full reads of the end, of each
//! broker.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidegate_broker::Hub;
use tidegate_broker::hub::{Error, Fetch, FetchPart, GroupOffset, Marks, PartitionRef};
use tidegate_checker::{Event, Outcome, Source};
use tidegate_env::Random;
use tidegate_env::sim::EPOCH_MS;
use tidegate_model::{Offset, TimestampMs, TopicPartition};
use tidegate_proto::errors::Reason;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::producing::any_broker;
use crate::records::parse;
use crate::world::Kind;

/// The first consumer's number on the network.
pub(super) const CONSUMERS: u32 = 2_000;
/// Retention moves a log's start a few times at most while a partition is read.
const OVERTAKEN_AT_MOST: u32 = 20;
/// How long one step of a full read may be refused without faults.
const PATIENCE: Duration = Duration::from_secs(60);

/// One consuming client.
pub(super) struct Reading {
    pub(super) cluster: Arc<Cluster>,
    pub(super) number: usize,
    /// Ends the work.
    pub(super) stop: CancellationToken,
}

fn group_name(group: u32) -> String {
    format!("group-{group}")
}

fn now_ms(cluster: &Cluster) -> i64 {
    EPOCH_MS + i64::try_from(cluster.env.clock.monotonic().as_millis()).unwrap_or(i64::MAX)
}

/// What no fault explains. Damage is: the store may lie, and then nothing is served.
fn is_defect(error: &Error) -> bool {
    match error {
        Error::Internal { .. } | Error::OutOfSequence { .. } | Error::InvalidBatch { .. } => true,
        Error::Told(failure) => matches!(failure.reason, Reason::Internal | Reason::OutOfSequence | Reason::InvalidBatch),
        _ => false,
    }
}

/// Whoever leads tells of all that anybody was told of before the question.
fn stale(at: TopicPartition, broker: u32, known: i64, told: i64) -> String {
    format!("stale read: {at} was known to reach {known} before broker {broker} was asked, which says that it ends at {told}")
}

/// What an answer out of range said of the log, whoever gave it.
fn range_told(error: &Error) -> Option<(i64, i64)> {
    match error {
        Error::OffsetOutOfRange { log_start, high_watermark, .. } => Some((log_start.0, high_watermark.0)),
        Error::Told(failure) if failure.reason == Reason::OffsetOutOfRange => {
            let number = |key: &str| failure.metadata.get(key).and_then(|value| value.parse().ok());
            Some((number("log_start_offset")?, number("high_watermark")?))
        }
        _ => None,
    }
}

impl Reading {
    fn client(&self) -> u32 {
        CONSUMERS + self.number as u32
    }

    /// Works until it is told to stop.
    pub(super) async fn run(self) {
        let random = &self.cluster.random;
        let mut broker = 1;
        while !self.stop.is_cancelled() {
            if random.below(10) == 0 {
                broker = any_broker(random);
            }
            let key = self.cluster.world.lock().any_key();
            if let Some((_, at)) = key {
                let went_well = match random.below(16) {
                    0 => self.look_up_positions(broker).await,
                    1 | 7 => self.commit(broker, at).await,
                    // What one broker has told must hold of what another tells.
                    2..=6 => self.poll(broker, at).await && self.poll(any_broker(random), at).await,
                    _ => self.poll(broker, at).await,
                };
                if !went_well {
                    broker = any_broker(random);
                }
            }
            self.cluster.pause(250).await;
        }
    }

    /// Reads the group's positions.
    async fn look_up_positions(&self, broker: u32) -> bool {
        let group = self.cluster.world.lock().consumers[self.number].group;
        let ask = move |hub: Hub| async move { hub.positions(&group_name(group)).await }.boxed();
        let Ok(Ok((_, found))) = self.cluster.call(self.client(), broker, ask).await else { return false };
        let world = self.cluster.world.lock();
        for topic in world.topics.iter().filter(|topic| topic.kind != Kind::Fleeting) {
            for at in topic.keys() {
                let position = found.iter().find(|one| one.topic == topic.name && one.partition == at.partition);
                let offset = position.map(|position| position.offset.0);
                world.recorder.add(Event::Position { group, at, offset });
            }
        }
        true
    }

    async fn poll(&self, broker: u32, at: TopicPartition) -> bool {
        let Some((place, process, from, moved)) = self.next_poll(at) else { return true };
        let known_end = self.cluster.world.lock().known_end(at);
        let part = FetchPart { at: place, offset: Offset(from), max_bytes: 1 + self.cluster.random.below(20_000) as usize };
        let max_wait = Duration::from_millis(self.cluster.random.below(2) * 80);
        let fetch = Fetch { parts: vec![part], max_wait, min_bytes: 1, max_bytes: 1 << 20 };
        let newest = self.cluster.newest_life();
        let ask = move |hub: Hub| async move { hub.fetch(&fetch).await.pop() }.boxed();
        let Ok(answer) = self.cluster.call(self.client(), broker, ask).await else { return false };
        let now_ms = now_ms(&self.cluster);
        let mut world = self.cluster.world.lock();
        match answer {
            Some(Ok(fetched)) => match parse(&fetched.chunks, Offset(from)) {
                Ok(records) => {
                    let Marks { log_start, high_watermark, leaderless, .. } = fetched.marks;
                    let next = records.last().map_or(from, |last| last.offset + 1);
                    world.told_log_start(at, log_start.0, now_ms);
                    let (log_start, high_watermark) = (log_start.0, high_watermark.0);
                    if leaderless.is_none() && high_watermark < known_end {
                        world.recorder.alarm(stale(at, broker, known_end, high_watermark));
                    }
                    world.told_end(at, if leaderless.is_some() { next } else { high_watermark });
                    // Whoever leads, or follows a leader, tells what holds of every later answer. Where nobody leads, each replica tells what it has;
                    // an answer of which nobody knows in which life it was given goes with no other.
                    let teller = leaderless.map(|teller| self.cluster.life(teller.0).filter(|life| *life <= newest));
                    let via = teller.map_or(0, |life| life.unwrap_or_else(|| u64::from(world.process()) << 32));
                    world.recorder.add(Event::Poll { process, at, from, moved, records, log_start, high_watermark, via });
                    world.consumers[self.number].positions.insert(at, (next, false));
                }
                Err(problem) => world.recorder.alarm(format!("{at} at {from}: what was served is no batch of ours: {problem}")),
            },
            Some(Err(error)) => {
                if let Some((log_start, high_watermark)) = range_told(&error) {
                    if !moved && from > high_watermark {
                        let what =
                            format!("{at}: {from} was reached, broker {broker} says that the log ends at {high_watermark}");
                        world.recorder.alarm(what);
                    }
                    // That an offset lies below the log's start is for any replica to say, whose end may lag where nobody leads.
                    if from > high_watermark && high_watermark < known_end {
                        world.recorder.alarm(stale(at, broker, known_end, high_watermark));
                    }
                    let place = from.clamp(log_start, high_watermark);
                    world.consumers[self.number].positions.insert(at, (place, true));
                } else if is_defect(&error) {
                    world.recorder.alarm(format!("{at} at {from}: a read was answered by: {error}"));
                }
                return false;
            }
            None => world.recorder.alarm("a fetch of one part was answered without one"),
        }
        true
    }

    fn next_poll(&self, at: TopicPartition) -> Option<(PartitionRef, u32, i64, bool)> {
        let world = self.cluster.world.lock();
        let place = world.topic_of(at)?.place(at.partition);
        let consumer = &world.consumers[self.number];
        let (mut from, mut moved) = consumer.positions.get(&at).copied().unwrap_or((0, true));
        if world.random.below(12) == 0 {
            (from, moved) = (world.random.below(from.unsigned_abs() + 6) as i64, true);
        }
        Some((place, consumer.process, from, moved))
    }

    async fn commit(&self, broker: u32, at: TopicPartition) -> bool {
        let (id, group, commit) = {
            let world = self.cluster.world.lock();
            let consumer = &world.consumers[self.number];
            let Some(topic) = world.topic_of(at).filter(|topic| topic.kind != Kind::Fleeting) else { return true };
            let Some((offset, _)) = consumer.positions.get(&at).copied() else { return true };
            let commit = GroupOffset {
                topic: topic.name.to_owned(),
                partition: at.partition,
                offset: Offset(offset),
                leader_epoch: None,
                metadata: String::new(),
                time: TimestampMs(0),
            };
            (world.recorder.commit(consumer.group, at, offset), consumer.group, commit)
        };
        let ask = move |hub: Hub| async move { hub.commit_offsets(&group_name(group), &[commit]).await }.boxed();
        let outcome = match self.cluster.call(self.client(), broker, ask).await {
            Ok(Ok(parts)) if matches!(parts.as_slice(), [Ok(())]) => Outcome::Ok(()),
            Ok(Ok(_)) | Err(crate::net::Lost::Unreached) => Outcome::Fail,
            _ => Outcome::Info,
        };
        self.cluster.world.lock().recorder.committed(id, outcome);
        outcome == Outcome::Ok(())
    }
}

/// Reads a partition through one broker from its log start to its high watermark as a fresh consumer does, and records it.
pub(super) async fn read_fully(cluster: &Cluster, broker: u32, at: TopicPartition, source: Source) -> Result<(), String> {
    for _ in 0..OVERTAKEN_AT_MOST {
        if try_read_fully(cluster, broker, at, source).await? {
            return Ok(());
        }
    }
    Err(format!("{at}: retention overtook {OVERTAKEN_AT_MOST} full reads one after the other"))
}

/// False: the log's start moved beyond what was to be read next.
async fn try_read_fully(cluster: &Cluster, broker: u32, at: TopicPartition, source: Source) -> Result<bool, String> {
    let found = cluster.world.lock().topic_of(at).map(|topic| (topic.place(at.partition), topic.forgets()));
    let (place, forgets) = found.ok_or_else(|| format!("{at} is of no topic"))?;
    let hub = cluster.hub(broker).ok_or_else(|| format!("broker {broker} is not open in the end"))?;
    let led = async || match hub.marks_at(&place).await {
        Ok(marks) if marks.leaderless.is_some() => Err(Error::Unavailable { problem: format!("{at} has no leader") }),
        marks => marks,
    };
    let marks = insist(cluster, led)
        .await
        .map_err(|error| format!("{at} through broker {broker}: {error}; replicas: {:#?}", cluster.describe_replicas()))?;
    let recorder = cluster.world.lock().recorder.clone();
    let read = recorder.read_begins(at, source, marks.log_start.0);
    let mut next = marks.log_start;
    while next < marks.high_watermark {
        let fetched = match insist(cluster, async || hub.read(&place, next, 64 << 10).await).await {
            Ok(fetched) => fetched,
            Err(error) => {
                if let Some((log_start, _)) = range_told(&error).filter(|(log_start, _)| forgets && *log_start > next.0) {
                    cluster.world.lock().told_log_start(at, log_start, now_ms(cluster));
                    return Ok(false);
                }
                return Err(format!("{at} at {next} through broker {broker}: {error}"));
            }
        };
        let records = parse(&fetched.chunks, next).map_err(|problem| format!("{at} at {next}: {problem}"))?;
        if fetched.next <= next {
            return Err(format!("{at}: a read from {next} comes to {}", fetched.next));
        }
        next = fetched.next;
        recorder.read_part(read, records);
    }
    recorder.read_ends(read, marks.high_watermark.0);
    cluster.world.lock().told_log_start(at, marks.log_start.0, now_ms(cluster));
    Ok(true)
}

/// Asks until the answer is not one of the moment.
async fn insist<T>(cluster: &Cluster, mut ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = cluster.env.clock.monotonic() + PATIENCE;
    loop {
        match ask().await {
            Err(Error::Unavailable { .. } | Error::NotLeader { .. } | Error::Told(_))
                if cluster.env.clock.monotonic() < until =>
            {
                cluster.pause(200).await;
            }
            answer => return answer,
        }
    }
}
