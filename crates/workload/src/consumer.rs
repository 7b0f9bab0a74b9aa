//! One consumer: polls its partitions, goes back now and then, commits, asks what is committed, and begins anew from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tidegate_checker::{Event, Outcome};
use tidegate_client::consumer::{Batches, Consumer};
use tidegate_client::proto::v1;
use tidegate_client::{Error, Reason, Start};

use crate::read::seen;
use crate::{Shared, WorkloadError};

/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(200);

struct Reader {
    shared: Shared,
    random: SmallRng,
    /// The group's number; its name is made of it.
    group: u32,
    partitions: Vec<i32>,
    process: u32,
    consumer: Consumer,
    /// Partitions where the next poll begins at a place of its own.
    moved: BTreeSet<i32>,
    /// The greatest position that was tried to commit.
    tried: BTreeMap<i32, i64>,
}

/// Reads until told to stop.
pub(crate) async fn run(shared: Shared, number: u32) -> Result<(), WorkloadError> {
    let consumers = shared.settings.consumers as i32;
    let partitions: Vec<i32> =
        (0..shared.settings.partitions).filter(|partition| partition % consumers == number as i32).collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let random = SmallRng::seed_from_u64(shared.settings.seed ^ (u64::from(number) << 40) ^ 1);
    let consumer = open(&shared, &partitions, None).await?;
    let mut reader = Reader {
        group: number,
        process: shared.next_process(),
        shared: shared.clone(),
        random,
        partitions,
        consumer,
        moved: BTreeSet::new(),
        tried: BTreeMap::new(),
    };
    while !shared.stop.is_cancelled() {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => {}
            done = reader.step() => done?,
        }
    }
    reader.finish().await
}

/// A consumer of these partitions, from the group's positions if there is one. Waits for the hub as long as it takes.
async fn open(shared: &Shared, partitions: &[i32], group: Option<&str>) -> Result<Consumer, WorkloadError> {
    loop {
        let mut builder = shared.client.consumer().assign_partitions(&shared.settings.topic, partitions, Start::Earliest);
        if let Some(group) = group {
            builder = builder.group(group);
        }
        match builder.build().await {
            Err(error) if error.is_retryable() && !shared.stop.is_cancelled() => {}
            other => return Ok(other?),
        }
    }
}

impl Reader {
    fn group_name(&self) -> String {
        format!("{}-{}", self.shared.settings.topic, self.group)
    }

    /// Mostly polls; sometimes does what else consumers do.
    async fn step(&mut self) -> Result<(), WorkloadError> {
        match self.random.random_range(0..100) {
            0..3 => self.go_back().await,
            3..9 => self.commit().await,
            9..11 => self.ask().await,
            11 => self.begin_anew().await,
            _ => self.poll().await,
        }
    }

    async fn poll(&mut self) -> Result<(), WorkloadError> {
        match tokio::time::timeout(POLL_WAIT, self.consumer.next_batches()).await {
            Err(_nothing_came) => Ok(()),
            Ok(Ok(Some(batches))) => {
                self.saw(&batches);
                Ok(())
            }
            Ok(Ok(None)) => self.begin_anew().await,
            Ok(Err(error)) => {
                self.alarm("a poll", &error);
                self.begin_anew().await
            }
        }
    }

    fn saw(&mut self, batches: &Batches) {
        let partition = batches.partition;
        let log_start =
            self.consumer.progress().find(|(_, number, _)| *number == partition).map_or(0, |at| at.2.log_start_offset);
        let records = match seen(batches) {
            Ok(records) => records,
            Err(error) => {
                self.shared.recorder.alarm(format!("batches of {partition} at {} cannot be decoded: {error}", batches.from));
                return;
            }
        };
        self.shared.counts.polled(records.len() as u64);
        self.shared.recorder.add(Event::Poll {
            process: self.process,
            at: self.shared.at(partition),
            from: batches.from,
            moved: self.moved.remove(&partition),
            records,
            log_start: log_start.max(0),
            high_watermark: batches.high_watermark,
            via: 0,
        });
    }

    /// Errors that waiting cures are dealt with by the client. What is left never may happen to a consumer that reads what it was told is there.
    /// Damage that the hub finds and does not serve is noted only: it may have come so from the object store, and if it lasts, the full reads fail.
    fn alarm(&self, what: &str, error: &Error) {
        if error.reason() == Some(Reason::CorruptData) {
            self.shared.recorder.note(format!("consumer {}: {what} was refused: {error}", self.process));
            return;
        }
        self.shared.recorder.alarm(format!("consumer {}: {what} failed: {error}", self.process));
    }

    async fn go_back(&mut self) -> Result<(), WorkloadError> {
        let Some((partition, position)) = self.any_position() else { return Ok(()) };
        let to = self.random.random_range(0..=position);
        self.consumer.seek(&self.shared.settings.topic, partition, Start::Offset(to)).await?;
        self.moved.insert(partition);
        Ok(())
    }

    fn any_position(&mut self) -> Option<(i32, i64)> {
        let partition = self.partitions[self.random.random_range(0..self.partitions.len())];
        let position = self.consumer.position(&self.shared.settings.topic, partition)?;
        Some((partition, position))
    }

    /// Commits a position that lies beyond all that were tried, as a consumer does that goes forward.
    async fn commit(&mut self) -> Result<(), WorkloadError> {
        let Some((partition, offset)) = self.any_position() else { return Ok(()) };
        if offset <= self.tried.get(&partition).copied().unwrap_or(-1) {
            return Ok(());
        }
        self.tried.insert(partition, offset);
        let id = self.shared.recorder.commit(self.group, self.shared.at(partition), offset);
        let position = v1::CommittedOffset { topic: self.shared.settings.topic.clone(), partition, offset, ..Default::default() };
        let outcome = match self.shared.client.admin().commit_offsets(&self.group_name(), vec![position]).await {
            Ok(()) => Outcome::Ok(()),
            Err(_) => Outcome::Info,
        };
        self.shared.recorder.committed(id, outcome);
        Ok(())
    }

    /// Asks for the committed positions.
    async fn ask(&mut self) -> Result<(), WorkloadError> {
        let one = |partition: &i32| v1::TopicPartition { topic: self.shared.settings.topic.clone(), partition: *partition };
        let wanted = self.partitions.iter().map(one).collect();
        let Ok(answer) = self.shared.client.admin().fetch_offsets(&self.group_name(), wanted).await else { return Ok(()) };
        for partition in &self.partitions {
            let found = answer.iter().find(|committed| committed.partition == *partition && committed.offset >= 0);
            let offset = found.map(|committed| committed.offset);
            self.shared.recorder.add(Event::Position { group: self.group, at: self.shared.at(*partition), offset });
        }
        Ok(())
    }

    /// Another consumer takes over from the committed positions.
    async fn begin_anew(&mut self) -> Result<(), WorkloadError> {
        self.consumer = open(&self.shared, &self.partitions, Some(&self.group_name())).await?;
        self.process = self.shared.next_process();
        self.moved.clear();
        Ok(())
    }

    /// The last look at the committed positions.
    async fn finish(&mut self) -> Result<(), WorkloadError> {
        self.ask().await
    }
}
