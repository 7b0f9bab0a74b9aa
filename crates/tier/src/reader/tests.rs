//! What reading back promises.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tidegate_model::{BatchBuilder, Compression, HubId, JournalId, LeaderEpoch, PartitionId, TimestampMs, TopicUid};
use uuid::Uuid;

use super::*;
use crate::object::{RangeHeader, TierObjectBuilder};
use crate::store::{ObjectInfo, Put, PutMode};

/// Objects in memory, which can be damaged on the way out.
#[derive(Default)]
struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    requests: AtomicUsize,
    /// Requests yet to be answered with a flipped byte.
    damage: AtomicUsize,
    /// While it is there, requests for data wait until a permit is added.
    held: Mutex<Option<Arc<Semaphore>>>,
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &str, body: Vec<Bytes>, _mode: PutMode) -> Result<Put, StoreError> {
        let joined = Bytes::from(body.concat());
        let put = Put { bytes: joined.len() as u64, crc32c: crate::crc32c(&joined) };
        self.objects.lock().insert(key.to_owned(), joined);
        Ok(put)
    }
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.objects.lock().get(key).cloned().ok_or(StoreError::NotFound { key: key.to_owned() })
    }
    async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let held = self.held.lock().clone();
        if let Some(held) = held {
            held.acquire().await.unwrap().forget();
        }
        let object = self.get(key).await?;
        let mut bytes = object.slice(range.start as usize..range.end as usize).to_vec();
        let damaged = self.damage.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if damaged.is_ok() {
            bytes[0] ^= 1;
        }
        Ok(Bytes::from(bytes))
    }
    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        Ok(ObjectInfo { key: key.to_owned(), bytes: self.get(key).await?.len() as u64 })
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.objects.lock().remove(key);
        Ok(())
    }
    async fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        Ok(Vec::new())
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: TopicUid(Uuid::from_u128(5)), partition: PartitionId(number) }
}

/// A batch of `records` records of `bytes` bytes each, as served from `base`.
fn batch(base: i64, records: usize, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for number in 0..records {
        let value: Vec<u8> = (0..bytes).map(|at| (at as i64 * 31 + base + number as i64) as u8).collect();
        builder.push(TimestampMs(1_000 + base + number as i64), None, Some(&value), &[]);
    }
    let built = builder.build().unwrap();
    let prefix = tidegate_model::batch::served_prefix(built.header(), Offset(base), LeaderEpoch(2));
    Bytes::from([&prefix[..], &built.bytes()[16..]].concat())
}

struct Stored {
    store: Arc<MemoryStore>,
    object: ObjectRef,
    ranges: Vec<RangeRef>,
}

/// An object with two partitions of `batches` batches of two records each, chunks cut unlike the batches.
async fn stored(batches: i64, record_bytes: usize) -> Stored {
    let mut builder = TierObjectBuilder::new(HubId(Uuid::from_u128(1)), JournalId(3), "object");
    for number in 0..2 {
        let all: Vec<u8> = (0..batches).flat_map(|index| batch(100 + index * 2, 2, record_bytes).to_vec()).collect();
        let chunks = all.chunks(7_001).map(Bytes::copy_from_slice).collect();
        let header = RangeHeader {
            at: partition(number),
            topic_name: "t".to_owned(),
            base: Offset(100),
            end: Offset(100 + batches * 2),
            epoch_starts: vec![(LeaderEpoch(2), Offset(100))],
        };
        builder.add_range(header, chunks).unwrap();
    }
    let built = builder.finish().unwrap();
    let ranges = built.ranges.iter().map(|place| RangeRef {
        at: place.at,
        base: place.base,
        end: place.end,
        position: place.position,
        bytes: place.bytes,
    });
    let ranges = ranges.collect();
    let store = Arc::new(MemoryStore::default());
    let put = store.put("object", built.chunks, PutMode::CreateOnly).await.unwrap();
    assert_eq!(put, Put { bytes: built.bytes, crc32c: built.crc32c });
    Stored { store, object: ObjectRef { key: "object".to_owned(), bytes: built.bytes }, ranges }
}

fn reader(stored: &Stored, settings: CacheSettings) -> TierReader {
    TierReader::new(Arc::clone(&stored.store) as Arc<dyn ObjectStore>, settings, Env::real()).unwrap()
}

/// Reads a range from `from` to its end in steps; the offsets must be dense.
async fn read_all(reader: &TierReader, stored: &Stored, range: usize, from: i64, max_bytes: usize) -> usize {
    let range = &stored.ranges[range];
    let mut next = Offset(from);
    let mut batches = 0;
    while next < range.end {
        let read = reader.read(&stored.object, range, next, max_bytes).await.unwrap();
        for bytes in &read.batches {
            tidegate_model::batch::verify_crc(bytes).unwrap();
            let header = BatchHeader::read(bytes).unwrap();
            assert!(header.base_offset <= next, "{} behind {next}", header.base_offset);
            next = Offset(header.base_offset.0 + i64::from(header.last_offset_delta) + 1);
            batches += 1;
        }
        assert_eq!(read.next, next);
    }
    batches
}

#[tokio::test]
async fn every_offset_is_read_in_steps_of_any_size() {
    let stored = stored(60, 20_000).await;
    for (from, max_bytes) in [(100, 1), (100, 50_000), (101, 1 << 20), (157, 16 << 20), (219, 1)] {
        let reader = reader(&stored, CacheSettings::default());
        for range in 0..2 {
            let batches = read_all(&reader, &stored, range, from, max_bytes).await;
            assert_eq!(batches as i64, (220 - from + 1) / 2, "from {from} by {max_bytes}");
        }
    }
}

#[tokio::test]
async fn a_batch_larger_than_every_window_is_read() {
    let stored = stored(2, 3 << 20).await;
    assert_eq!(read_all(&reader(&stored, CacheSettings::default()), &stored, 1, 100, 1).await, 2);
}

#[tokio::test]
async fn what_was_read_once_comes_from_memory_and_else_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored(100, 20_000).await;
    let settings =
        CacheSettings { disk_dir: Some(folder.path().join("cache")), memory_bytes: 64 << 20, ..CacheSettings::default() };
    let warm = reader(&stored, settings.clone());
    read_all(&warm, &stored, 0, 100, 1 << 20).await;
    let requests = stored.store.requests.load(Ordering::Relaxed);
    read_all(&warm, &stored, 0, 100, 1 << 20).await;
    assert_eq!(stored.store.requests.load(Ordering::Relaxed), requests, "the second time nothing was fetched");
    assert!(warm.statistics().memory_hits > 0);

    let small = reader(&stored, CacheSettings { memory_bytes: 1, ..settings });
    read_all(&small, &stored, 0, 100, 1 << 20).await;
    read_all(&small, &stored, 0, 100, 1 << 20).await;
    assert!(small.statistics().disk_hits > 0, "{:?}", small.statistics());
}

#[tokio::test]
async fn damage_on_the_way_is_fetched_again_and_damage_in_the_store_is_named() {
    let stored = stored(30, 20_000).await;
    stored.store.damage.store(1, Ordering::Relaxed);
    assert_eq!(read_all(&reader(&stored, CacheSettings::default()), &stored, 0, 100, 1 << 20).await, 30);

    let mut bytes = stored.store.get("object").await.unwrap().to_vec();
    bytes[100_000] ^= 1;
    stored.store.objects.lock().insert("object".to_owned(), Bytes::from(bytes));
    let read = reader(&stored, CacheSettings::default()).read(&stored.object, &stored.ranges[0], Offset(100), 1 << 20).await;
    let error = read.unwrap_err().to_string();
    assert!(error.contains("object object is damaged at byte 0"), "{error}");
}

#[tokio::test]
async fn every_flipped_byte_of_a_small_object_is_found_or_harmless() {
    let stored = stored(1, 40).await;
    let whole = stored.store.get("object").await.unwrap();
    let expected =
        reader(&stored, CacheSettings::default()).read(&stored.object, &stored.ranges[0], Offset(100), 1).await.unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        stored.store.objects.lock().insert("object".to_owned(), Bytes::from(bytes));
        if let Ok(read) = reader(&stored, CacheSettings::default()).read(&stored.object, &stored.ranges[0], Offset(100), 1).await
        {
            assert_eq!(read, expected, "byte {at} was changed and served");
        }
    }
}

#[tokio::test]
async fn a_cut_object_is_refused() {
    let stored = stored(1, 40).await;
    let whole = stored.store.get("object").await.unwrap();
    for length in [0, 10, 31, 32, whole.len() - 1] {
        stored.store.objects.lock().insert("object".to_owned(), whole.slice(..length));
        let object = ObjectRef { bytes: length as u64, ..stored.object.clone() };
        assert!(
            reader(&stored, CacheSettings::default()).read(&object, &stored.ranges[0], Offset(100), 1).await.is_err(),
            "{length}"
        );
    }
}

#[tokio::test]
async fn an_offset_outside_of_the_range_is_refused() {
    let stored = stored(1, 40).await;
    for offset in [99, 102] {
        let read = reader(&stored, CacheSettings::default()).read(&stored.object, &stored.ranges[0], Offset(offset), 1).await;
        assert!(matches!(read, Err(TierReadError::OutOfRange { .. })), "{offset}");
    }
}

#[tokio::test]
async fn readers_that_give_up_hold_no_request() {
    let stored = stored(200, 20_000).await;
    let reader = reader(&stored, CacheSettings { requests: 2, ..CacheSettings::default() });
    read_all(&reader, &stored, 0, 498, 1).await;
    let held = Arc::new(Semaphore::new(0));
    *stored.store.held.lock() = Some(Arc::clone(&held));
    for from in [100, 160] {
        let before = stored.store.requests.load(Ordering::Relaxed);
        let mut read = Box::pin(reader.read(&stored.object, &stored.ranges[0], Offset(from), 1));
        while stored.store.requests.load(Ordering::Relaxed) == before {
            assert!(futures::poll!(&mut read).is_pending());
            tokio::task::yield_now().await;
        }
        drop(read);
    }
    *stored.store.held.lock() = None;
    held.add_permits(100);
    // Other spans than those that were given up: both permits must be free again.
    let read = reader.read(&stored.object, &stored.ranges[1], Offset(480), 1);
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
    assert!(read.expect("a read waits for ever behind those that were given up").is_ok());
}

#[tokio::test]
async fn a_span_that_is_fetched_again_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let disk = DiskCache::open(&Env::real(), cache.clone(), 1 << 20).unwrap();
    let id: SpanId = (Arc::from("object"), 1);
    for byte in 1..=5 {
        disk.put(&Env::real(), &id, Bytes::from(vec![byte; 1000])).await;
    }
    assert_eq!(disk.get(&Env::real(), &id).await.unwrap(), Bytes::from(vec![5; 1000]));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1, "one file for one span");
}

#[tokio::test]
async fn two_objects_that_changed_places_are_found_out() {
    let (first, second) = (stored(2, 40).await, stored(2, 40).await);
    let mut builder = TierObjectBuilder::new(HubId(Uuid::from_u128(1)), JournalId(3), "abject");
    for (number, base) in [(0, 100), (1, 104)] {
        let header = RangeHeader {
            at: partition(number),
            topic_name: "t".to_owned(),
            base: Offset(base),
            end: Offset(base + 4),
            epoch_starts: vec![(LeaderEpoch(2), Offset(base))],
        };
        builder.add_range(header, vec![batch(base, 2, 40), batch(base + 2, 2, 40)]).unwrap();
    }
    let other = Bytes::from(builder.finish().unwrap().chunks.concat());
    assert_eq!(other.len() as u64, first.object.bytes, "the length does not give it away");
    second.store.objects.lock().insert("object".to_owned(), other);
    let read = reader(&second, CacheSettings::default()).read(&second.object, &second.ranges[0], Offset(100), 1).await;
    let error = read.unwrap_err().to_string();
    assert!(error.contains("it is the object abject"), "{error}");

    // The right object, but a range that it does not hold.
    let elsewhere = RangeRef { base: Offset(101), ..first.ranges[0] };
    let read = reader(&first, CacheSettings::default()).read(&first.object, &elsewhere, Offset(101), 1).await;
    let error = read.unwrap_err().to_string();
    assert!(error.contains("does not hold offsets 101..104"), "{error}");
}

/// Waits until `holds`, at most twenty seconds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Env::real().clock;
    let deadline = clock.monotonic() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(clock.monotonic() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn fetches_that_nobody_waits_for_leave_the_queue_and_the_last_reader_ends_all() {
    let stored = stored(200, 20_000).await;
    let reader = reader(&stored, CacheSettings { requests: 1, ..CacheSettings::default() });
    read_all(&reader, &stored, 0, 498, 1).await;
    until("the fetches end", || reader.fetches.running() == 0).await;
    *stored.store.held.lock() = Some(Arc::new(Semaphore::new(0)));
    let mut read = Box::pin(reader.read(&stored.object, &stored.ranges[0], Offset(100), 7 << 20));
    assert!(futures::poll!(&mut read).is_pending());
    let requests = stored.store.requests.load(Ordering::Relaxed);
    until("a fetch begins", || stored.store.requests.load(Ordering::Relaxed) > requests || reader.fetches.running() == 0).await;
    assert!(reader.fetches.running() >= 4, "one fetch for each span: {}", reader.fetches.running());
    drop(read);
    until("those in the queue end", || reader.fetches.running() == 1).await;

    let inner = Arc::downgrade(&reader.inner);
    drop(reader);
    until("the last fetch ends with the reader", || inner.upgrade().is_none()).await;
}
