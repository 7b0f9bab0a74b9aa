//! One life of a hub: it opens, what earlier lives were told is checked, clients append and read, until the end or until something goes wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_broker::hub::{Append, Caller, Error, Hub, NewTopic, PartitionRef};
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_journal::entry::Management;
use tidegate_model::batch::{batches, verify_crc};
use tidegate_model::{BatchBuilder, Compression, Offset, RecordBatch, TimestampMs, TopicSettings};
use tidegate_tier::{DirectoryStore, ObjectStore};

use crate::history::{History, Outcome};

const TOPIC: &str = "events";
const PARTITIONS: u32 = 3;
/// Appends whose answers are awaited together.
const PIPELINE: u64 = 8;

/// What a life is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) number: u64,
    pub(crate) appends: u64,
    pub(crate) is_last: bool,
}

/// How a life ended by itself.
#[derive(Debug)]
pub(crate) enum End {
    /// All was done.
    Done,
    /// The hub could not go on.
    Failed(String),
    /// Something that must hold does not.
    Wrong(String),
}

fn settings() -> HubSettings {
    let mut settings = HubSettings { data_dir: PathBuf::from("/hub/data"), journals: 2, ..HubSettings::default() };
    settings.wal.file_bytes = 1 << 20;
    settings.wal.budget_bytes = 64 << 20;
    settings.wal.control_reserve_bytes = 1 << 20;
    settings.journal.checkpoint_bytes = 64 << 10;
    settings.tier.interval_ms = 50;
    settings.tier.seal_age_ms = 200;
    settings.tier.seal_bytes = 64 << 10;
    settings.tier.checkpoint_interval_ms = 1_000;
    settings
}

pub(crate) async fn live(env: Env, plan: Plan, history: &mut History) -> End {
    let store = match DirectoryStore::open(&env, "/hub/objects").await {
        Ok(store) => Arc::new(store) as Arc<dyn ObjectStore>,
        Err(error) => return End::Failed(format!("the store does not open: {error}")),
    };
    let hub = match Hub::open(settings(), &Limits::default(), &env, store).await {
        Ok(hub) => hub,
        Err(error) => return End::Failed(format!("the hub does not open: {error:?}")),
    };
    match work(&hub, &env, plan, history).await {
        Ok(()) => {}
        Err(end) => return end,
    }
    hub.shutdown(Duration::from_secs(30)).await;
    End::Done
}

async fn work(hub: &Hub, env: &Env, plan: Plan, history: &mut History) -> Result<(), End> {
    if hub.topic(TOPIC).is_err() {
        let settings = TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() };
        let new = NewTopic { name: TOPIC.to_owned(), settings, bound: None, management: Management::Catalog };
        if history.acknowledged() > 0 {
            return Err(End::Wrong("the topic is gone".to_owned()));
        }
        hub.create_topic(new, &Caller::Client).await.map_err(|error| End::Failed(error.to_string()))?;
    }
    check(hub, history).await?;
    append(hub, env, plan, history).await?;
    if plan.is_last {
        // Once from the tail, once when the log has let go of everything.
        check(hub, history).await?;
        tiered(hub, env).await?;
        hub.drop_local_copies().await.map_err(|error| End::Wrong(error.to_string()))?;
    }
    check(hub, history).await
}

async fn append(hub: &Hub, env: &Env, plan: Plan, history: &mut History) -> Result<(), End> {
    let mut sent = 0;
    while sent < plan.appends {
        let mut tickets = Vec::new();
        for _ in 0..PIPELINE.min(plan.appends - sent) {
            let partition = env.random.below(u64::from(PARTITIONS)) as i32;
            let value = format!("{}-{sent}-{}", plan.number, "x".repeat(env.random.below(400) as usize));
            let number = history.sent(partition, value.clone());
            sent += 1;
            let append = Append { at: PartitionRef::new(TOPIC, partition), batches: vec![batch(&value, env.clock.now_ms())] };
            match hub.submit(append).await {
                Ok(ticket) => tickets.push((number, ticket)),
                Err(error) => settle(history, number, Err(error))?,
            }
        }
        for (number, ticket) in tickets {
            let answer = ticket.await.map(|appended| appended.base_offset);
            settle(history, number, answer)?;
        }
        if env.random.below(4) == 0 {
            env.clock.sleep(Duration::from_millis(env.random.below(400))).await;
        }
    }
    Ok(())
}

/// Notes an answer; only refusals that prove that nothing was stored count as such.
fn settle(history: &mut History, number: usize, answer: Result<Offset, Error>) -> Result<(), End> {
    match answer {
        Ok(offset) => history.settle(number, Outcome::Acknowledged(offset.0)),
        Err(Error::StorageFull { .. }) => history.settle(number, Outcome::Refused),
        Err(error) => {
            history.settle(number, Outcome::Unknown);
            return Err(End::Failed(error.to_string()));
        }
    }
    Ok(())
}

fn batch(value: &str, now: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(now), None, Some(value.as_bytes()), &[]);
    builder.build().expect("one small record makes a batch")
}

async fn tiered(hub: &Hub, env: &Env) -> Result<(), End> {
    for partition in 0..PARTITIONS {
        let at = PartitionRef::new(TOPIC, partition as i32);
        loop {
            let marks = hub.marks_of(&at).map_err(|error| End::Wrong(error.to_string()))?;
            if marks.tiered_end == marks.high_watermark {
                break;
            }
            env.clock.sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Reads each partition from its beginning and compares.
async fn check(hub: &Hub, history: &History) -> Result<(), End> {
    for partition in 0..PARTITIONS as i32 {
        let at = PartitionRef::new(TOPIC, partition);
        let mut read = Vec::new();
        let mut next = Offset(0);
        loop {
            let fetched = hub.read(&at, next, 16 << 10).await.map_err(|error| match error {
                Error::Corrupt { problem } => End::Wrong(format!("partition {partition} at {next}: {problem}")),
                other => End::Failed(other.to_string()),
            })?;
            if fetched.bytes == 0 {
                break;
            }
            let mut joined = BytesMut::new();
            fetched.chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
            read.extend(records(&joined.freeze(), next).map_err(End::Wrong)?);
            next = fetched.next;
        }
        history.check(partition, &read).map_err(End::Wrong)?;
    }
    Ok(())
}

fn records(bytes: &bytes::Bytes, from: Offset) -> Result<Vec<(i64, String)>, String> {
    let mut found = Vec::new();
    for item in batches(bytes) {
        let (_, place) = item.map_err(|error| error.to_string())?;
        verify_crc(&bytes[place.clone()]).map_err(|error| error.to_string())?;
        let batch = RecordBatch::trusted(bytes.slice(place)).map_err(|error| error.to_string())?;
        for record in batch.records().map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            if record.offset >= from {
                found.push((record.offset.0, String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()));
            }
        }
    }
    Ok(found)
}
