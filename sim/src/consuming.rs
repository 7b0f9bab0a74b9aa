//! Consumers: they follow, seek, commit positions and read them back; and the full reads of the end.

use std::time::Duration;

use tidegate_broker::hub::{Error, Fetch, FetchPart, GroupOffset, Marks};
use tidegate_checker::{Event, Outcome, Seen, Source};
use tidegate_env::Random;
use tidegate_model::{Offset, TimestampMs, TopicPartition};

use crate::life::Session;
use crate::records::parse;
use crate::world::Kind;

/// Retention moves a log's start a few times in a life at most.
const OVERTAKEN_AT_MOST: u32 = 20;

fn group_name(group: u32) -> String {
    format!("group-{group}")
}

impl Session {
    /// One consumer's life.
    pub(crate) async fn consume(&self, number: usize, rounds: u64) {
        self.look_up_positions(number);
        for _ in 0..rounds {
            let Some((_, at)) = self.world.lock().any_key() else { return };
            self.poll(number, at).await;
            if self.env.random.below(4) == 0 {
                self.commit(number, at).await;
            }
            self.pause(60).await;
        }
    }

    /// Reads the group's positions of lasting topics.
    fn look_up_positions(&self, number: usize) {
        let world = self.world.lock();
        let group = world.consumers[number].group;
        let Ok(found) = self.hub.fetch_offsets(&group_name(group)) else { return };
        for topic in world.topics.iter().filter(|topic| topic.kind != Kind::Fleeting) {
            for at in topic.keys() {
                let position = found.iter().find(|one| one.topic == topic.name && one.partition == at.partition);
                let offset = position.map(|position| position.offset.0);
                world.recorder.add(Event::Position { group, at, offset });
            }
        }
    }

    async fn poll(&self, number: usize, at: TopicPartition) {
        let Some((place, process, from, moved)) = self.next_poll(number, at) else { return };
        let part = FetchPart { at: place, offset: Offset(from), max_bytes: 1 + self.env.random.below(20_000) as usize };
        let max_wait = Duration::from_millis(self.env.random.below(2) * 80);
        let answer = self.hub.fetch(&Fetch { parts: vec![part], max_wait, min_bytes: 1, max_bytes: 1 << 20 }).await;
        let mut world = self.world.lock();
        match answer.into_iter().next() {
            Some(Ok(fetched)) => match parse(&fetched.chunks, Offset(from)) {
                Ok(records) => {
                    let Marks { log_start, high_watermark, .. } = fetched.marks;
                    let next = records.last().map_or(from, |last| last.offset + 1);
                    world.told_log_start(at, log_start.0, self.true_time());
                    let (log_start, high_watermark) = (log_start.0, high_watermark.0);
                    world.recorder.add(Event::Poll { process, at, from, moved, records, log_start, high_watermark, via: 0 });
                    world.consumers[number].positions.insert(at, (next, false));
                }
                Err(problem) => world.recorder.alarm(format!("{at} at {from}: what was served is no batch of ours: {problem}")),
            },
            Some(Err(Error::OffsetOutOfRange { log_start, high_watermark, .. })) => {
                if !moved && from > high_watermark.0 {
                    world.recorder.alarm(format!("{at}: {from} was reached, now the log ends at {high_watermark}"));
                }
                let place = from.clamp(log_start.0, high_watermark.0);
                world.consumers[number].positions.insert(at, (place, true));
            }
            Some(Err(error)) => {
                if let Err(problem) = self.tolerated(&error) {
                    world.recorder.alarm(format!("{at} at {from}: {problem}"));
                }
            }
            None => world.recorder.alarm("a fetch of one part was answered without one"),
        }
    }

    fn next_poll(&self, number: usize, at: TopicPartition) -> Option<(tidegate_broker::hub::PartitionRef, u32, i64, bool)> {
        let world = self.world.lock();
        let place = world.topic_of(at)?.place(at.partition);
        let consumer = &world.consumers[number];
        let (mut from, mut moved) = consumer.positions.get(&at).copied().unwrap_or((0, true));
        if world.random.below(12) == 0 {
            (from, moved) = (world.random.below(from.unsigned_abs() + 6) as i64, true);
        }
        Some((place, consumer.process, from, moved))
    }

    async fn commit(&self, number: usize, at: TopicPartition) {
        let (id, group, commit) = {
            let world = self.world.lock();
            let consumer = &world.consumers[number];
            let Some(topic) = world.topic_of(at).filter(|topic| topic.kind != Kind::Fleeting) else { return };
            let Some((offset, _)) = consumer.positions.get(&at).copied() else { return };
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
        let answer = self.hub.commit_offsets(&group_name(group), &[commit]).await;
        let outcome = match answer.map(|parts| parts.into_iter().next()) {
            Ok(Some(Ok(()))) => Outcome::Ok(()),
            Ok(_) | Err(Error::StorageFull { .. }) => Outcome::Fail,
            Err(_) => Outcome::Info,
        };
        self.world.lock().recorder.committed(id, outcome);
    }

    /// Whether an error of a read is one that the present faults explain.
    pub(crate) fn tolerated(&self, error: &Error) -> Result<(), String> {
        match error {
            Error::Corrupt { problem } if !self.has_lied() => Err(format!("damage without a fault: {problem}")),
            Error::Internal { problem } => Err(format!("a defect: {problem}")),
            Error::OutOfSequence { .. } | Error::InvalidBatch { .. } => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Reads a partition from its log start to its high watermark as a fresh consumer does, and records it. A consumer that retention
    /// overtakes begins again at the new start, as long as the topic is one that forgets.
    pub(crate) async fn read_fully(&self, at: TopicPartition, source: Source) -> Result<Vec<Seen>, String> {
        for _ in 0..OVERTAKEN_AT_MOST {
            if let Some(all) = self.try_read_fully(at, source).await? {
                return Ok(all);
            }
        }
        Err(format!("{at}: retention overtook {OVERTAKEN_AT_MOST} full reads one after the other"))
    }

    /// `None`: the log's start moved beyond what was to be read next.
    async fn try_read_fully(&self, at: TopicPartition, source: Source) -> Result<Option<Vec<Seen>>, String> {
        let found = self.world.lock().topic_of(at).map(|topic| (topic.place(at.partition), topic.forgets()));
        let (place, forgets) = found.ok_or_else(|| format!("{at} is of no topic"))?;
        let marks = self.hub.marks_of(&place).map_err(|error| error.to_string())?;
        let recorder = self.world.lock().recorder.clone();
        let read = recorder.read_begins(at, source, marks.log_start.0);
        let (mut next, mut all) = (marks.log_start, Vec::new());
        while next < marks.high_watermark {
            let fetched = match self.hub.read(&place, next, 64 << 10).await {
                Ok(fetched) => fetched,
                Err(Error::OffsetOutOfRange { log_start, .. }) if forgets && log_start > next => {
                    self.world.lock().told_log_start(at, log_start.0, self.true_time());
                    return Ok(None);
                }
                Err(error) => return Err(format!("{at} at {next}: {error}")),
            };
            let records = parse(&fetched.chunks, next).map_err(|problem| format!("{at} at {next}: {problem}"))?;
            if fetched.next <= next {
                return Err(format!("{at}: a read from {next} comes to {}", fetched.next));
            }
            next = fetched.next;
            all.extend(records.iter().copied());
            recorder.read_part(read, records);
        }
        recorder.read_ends(read, marks.high_watermark.0);
        self.world.lock().told_log_start(at, marks.log_start.0, self.true_time());
        Ok(Some(all))
    }
}
