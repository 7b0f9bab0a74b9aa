//! A hub on a real disk with a directory as its store, for tests.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests use real files and clocks")]

pub(crate) mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidegate_broker::hub::{Append, Appended, Caller, Error, Fetched, Hub, NewTopic, OpenError, PartitionRef, TopicDescription};
use tidegate_broker::settings::{HubSettings, Limits, ObjectStoreSettings};
use tidegate_env::Env;
use tidegate_journal::entry::Management;
use tidegate_model::batch::{Record, batches};
use tidegate_model::{
    BatchBuilder, Compression, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence, TimestampMs, TopicSettings,
};
use tidegate_tier::ObjectStore;
use tokio::sync::Mutex;

/// Small files, quick tiering.
pub(crate) fn settings(directory: &Path) -> HubSettings {
    let mut settings = HubSettings { data_dir: directory.join("data"), journals: 2, ..HubSettings::default() };
    settings.wal.file_bytes = 4 << 20;
    settings.wal.budget_bytes = 64 << 20;
    settings.wal.control_reserve_bytes = 1 << 20;
    settings.tier.interval_ms = 20;
    settings.tier.retry_ms = 20;
    settings.tier.seal_age_ms = 100;
    settings.tier.checkpoint_interval_ms = 1000;
    settings.retention_interval_ms = 100;
    settings.retention_grace_ms = 0;
    settings.object_grace_ms = 0;
    settings
}

/// As `settings`, with nothing tiered by itself.
pub(crate) fn untiered(directory: &Path) -> HubSettings {
    let mut settings = settings(directory);
    settings.tier.seal_age_ms = 365 * 24 * 60 * 60 * 1000;
    settings
}

/// The stores of this process that are open: a folder is locked, so a second handle of it must be the first one.
static STORES: Mutex<BTreeMap<PathBuf, Weak<dyn ObjectStore>>> = Mutex::const_new(BTreeMap::new());

pub(crate) async fn store(directory: &Path) -> Arc<dyn ObjectStore> {
    let path = directory.join("store");
    let mut stores = STORES.lock().await;
    if let Some(store) = stores.get(&path).and_then(Weak::upgrade) {
        return store;
    }
    let settings = ObjectStoreSettings::Directory { path: path.clone() };
    let store = tidegate_broker::stores::open(&settings, &Env::real()).await.unwrap();
    stores.insert(path, Arc::downgrade(&store));
    store
}

pub(crate) async fn try_open(settings: HubSettings, directory: &Path) -> Result<Hub, OpenError> {
    Hub::open(settings, &Limits::default(), &Env::real(), store(directory).await).await
}

pub(crate) async fn open(settings: HubSettings, directory: &Path) -> Hub {
    try_open(settings, directory).await.unwrap()
}

pub(crate) async fn close(hub: Hub) {
    hub.shutdown(Duration::from_secs(20)).await;
}

pub(crate) fn new_topic(name: &str, settings: TopicSettings) -> NewTopic {
    NewTopic { name: name.to_owned(), settings, bound: None, management: Management::Catalog }
}

pub(crate) async fn create(hub: &Hub, name: &str, partitions: u32) -> TopicDescription {
    let settings = TopicSettings { partitions, ..TopicSettings::default() };
    hub.create_topic(new_topic(name, settings), &Caller::Client).await.unwrap()
}

/// A batch of records `value-N`, with given timestamps.
pub(crate) fn batch(values: &[&str], times: &[i64]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for (value, time) in values.iter().zip(times) {
        builder.push(TimestampMs(*time), None, Some(value.as_bytes()), &[]);
    }
    builder.build().unwrap()
}

pub(crate) fn sequenced(value: &str, id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None).producer(id, epoch, Sequence(sequence));
    builder.push(TimestampMs(1), None, Some(value.as_bytes()), &[]);
    builder.build().unwrap()
}

pub(crate) async fn append(hub: &Hub, topic: &str, partition: i32, batch: RecordBatch) -> Result<Appended, Error> {
    hub.append(Append { at: PartitionRef::new(topic, partition), batches: vec![batch] }).await
}

pub(crate) async fn say(hub: &Hub, topic: &str, partition: i32, value: &str) -> Offset {
    append(hub, topic, partition, batch(&[value], &[1])).await.unwrap().base_offset
}

pub(crate) fn joined(fetched: &Fetched) -> Bytes {
    let mut bytes = BytesMut::new();
    fetched.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
    bytes.freeze()
}

/// Records of what was read, from an offset on; every batch's checksum is checked.
pub(crate) fn records(fetched: &Fetched, from: Offset) -> Vec<Record> {
    let bytes = joined(fetched);
    let mut records = Vec::new();
    for item in batches(&bytes) {
        let (_, range) = item.unwrap();
        tidegate_model::batch::verify_crc(&bytes[range.clone()]).unwrap();
        let batch = RecordBatch::trusted(bytes.slice(range)).unwrap();
        records.extend(batch.records().unwrap().map(Result::unwrap).filter(|record| record.offset >= from));
    }
    records
}

/// All records of a partition from an offset on, in order; checks that offsets are dense.
pub(crate) async fn read_all(hub: &Hub, topic: &str, partition: i32, from: i64) -> Vec<Record> {
    let at = PartitionRef::new(topic, partition);
    let mut next = Offset(from);
    let mut all: Vec<Record> = Vec::new();
    loop {
        let fetched = hub.read(&at, next, 1 << 20).await.unwrap();
        if fetched.bytes == 0 {
            assert_eq!(next, fetched.marks.high_watermark);
            break;
        }
        for record in records(&fetched, next) {
            assert_eq!(record.offset.0, from + all.len() as i64, "offsets are dense");
            all.push(record);
        }
        assert!(fetched.next > next);
        next = fetched.next;
    }
    all
}

pub(crate) fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()).collect()
}

/// Waits until something holds, at most 30 s.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until all of a partition is in the store.
pub(crate) async fn tiered(hub: &Hub, topic: &str, partition: i32) {
    let at = PartitionRef::new(topic, partition);
    until("everything is tiered", async || {
        let marks = hub.marks_of(&at).unwrap();
        marks.tiered_end == marks.high_watermark
    })
    .await;
}
