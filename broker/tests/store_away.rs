//! The object store fails, loses answers and goes away: producing and reading recent data go on, nothing is lost, nothing is stored twice.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use common::*;
use tidegate_broker::Hub;
use tidegate_broker::hub::{Error, PartitionRef};
use tidegate_broker::recover::recover;
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_model::Offset;
use tidegate_tier::{ObjectInfo, ObjectStore, Put, PutMode, StoreError};

/// A store that can be away, and whose answers to puts can get lost after the object is there.
struct Moody {
    store: Arc<dyn ObjectStore>,
    away: AtomicBool,
    /// So many puts succeed and answer with an error.
    lost_answers: AtomicU64,
    /// Puts and deletes so far.
    writes: AtomicU64,
    /// Puts and deletes that still succeed.
    writes_left: AtomicU64,
}

impl Moody {
    fn new(store: Arc<dyn ObjectStore>) -> Arc<Moody> {
        Arc::new(Moody {
            store,
            away: AtomicBool::new(false),
            lost_answers: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            writes_left: AtomicU64::new(u64::MAX),
        })
    }

    fn check(&self, key: &str) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) { Err(unavailable(key)) } else { Ok(()) }
    }

    fn write(&self, key: &str) -> Result<(), StoreError> {
        self.check(key)?;
        let left = self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| unavailable(key))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn unavailable(key: &str) -> StoreError {
    StoreError::Unavailable { key: key.to_owned(), operation: "a call", message: "the test says so".to_owned() }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn put(&self, key: &str, body: Vec<Bytes>, mode: PutMode) -> Result<Put, StoreError> {
        self.write(key)?;
        let put = self.store.put(key, body, mode).await?;
        let lost = self.lost_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if lost.is_ok() { Err(unavailable(key)) } else { Ok(put) }
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.check(key)?;
        self.store.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(key)?;
        self.store.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        self.check(key)?;
        self.store.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.write(key)?;
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        self.check(prefix)?;
        self.store.list(prefix, start_after, limit).await
    }
}

async fn open_with(settings: HubSettings, store: &Arc<Moody>) -> Hub {
    let store: Arc<dyn ObjectStore> = Arc::clone(store) as Arc<dyn ObjectStore>;
    Hub::open(settings, &Limits::default(), &Env::real(), store).await.unwrap()
}

/// Whose the prefix is changes in two steps in the store. Cut off before the first or between the two, the rebuilt volume is whole, and its next
/// start does the rest: nobody has to empty anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_cut_off_while_it_marks_the_prefix_anew_is_finished_by_the_next_start() {
    for writes_left in [0, 1] {
        let directory = tempfile::tempdir().unwrap();
        let moody = Moody::new(store(directory.path()).await);
        let hub = open_with(settings(directory.path()), &moody).await;
        create(&hub, "events", 1).await;
        say(&hub, "events", 0, "kept").await;
        tiered(&hub, "events", 0).await;
        hub.checkpoint_to_store().await.unwrap();
        let old = hub.id();
        close(hub).await;
        std::fs::remove_dir_all(directory.path().join("data")).unwrap();

        moody.writes_left.store(writes_left, Ordering::Relaxed);
        let shared: Arc<dyn ObjectStore> = Arc::clone(&moody) as Arc<dyn ObjectStore>;
        let cut_off = recover(&settings(directory.path()), &Env::real(), shared).await;
        assert!(cut_off.is_err(), "{writes_left} writes are too few");
        moody.writes_left.store(u64::MAX, Ordering::Relaxed);
        for offset in 1..3 {
            let hub = open_with(settings(directory.path()), &moody).await;
            assert_ne!(hub.id(), old);
            assert_eq!(values(&read_all(&hub, "events", 0, 0).await)[0], "kept");
            assert_eq!(say(&hub, "events", 0, "after").await, Offset(offset));
            close(hub).await;
        }
        let identity = std::fs::read_to_string(directory.path().join("data/identity.json")).unwrap();
        assert!(!identity.contains("takes_over"), "{identity}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_store_away_appends_reads_and_restarts_go_on_and_tiering_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let moody = Moody::new(store(directory.path()).await);
    let hub = open_with(settings(directory.path()), &moody).await;
    create(&hub, "events", 1).await;
    moody.away.store(true, Ordering::Relaxed);
    for round in 0..50 {
        say(&hub, "events", 0, &round.to_string()).await;
    }
    until("the hub says so", async || hub.statistics().tier_unavailable).await;
    assert_eq!(hub.statistics().tier_problem.unwrap(), "a call: the test says so");
    assert_eq!(read_all(&hub, "events", 0, 0).await.len(), 50);
    close(hub).await;

    let hub = open_with(settings(directory.path()), &moody).await;
    assert_eq!(read_all(&hub, "events", 0, 0).await.len(), 50);
    say(&hub, "events", 0, "50").await;
    assert!(hub.marks_of(&PartitionRef::new("events", 0)).unwrap().tiered_end.0 == 0, "nothing was tiered meanwhile");
    moody.away.store(false, Ordering::Relaxed);
    tiered(&hub, "events", 0).await;
    until("the hub says so", async || !hub.statistics().tier_unavailable).await;
    hub.drop_local_copies().await.unwrap();
    let expected: Vec<_> = (0..=50).map(|round| round.to_string()).collect();
    assert_eq!(values(&read_all(&hub, "events", 0, 0).await), expected);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_of_uploads_neither_lose_nor_double_anything() {
    let directory = tempfile::tempdir().unwrap();
    let moody = Moody::new(store(directory.path()).await);
    let hub = open_with(settings(directory.path()), &moody).await;
    create(&hub, "events", 1).await;
    moody.lost_answers.store(5, Ordering::Relaxed);
    for round in 0..20 {
        say(&hub, "events", 0, &round.to_string()).await;
    }
    tiered(&hub, "events", 0).await;
    assert_eq!(moody.lost_answers.load(Ordering::Relaxed), 0);
    hub.drop_local_copies().await.unwrap();
    let expected: Vec<_> = (0..20).map(|round| round.to_string()).collect();
    assert_eq!(values(&read_all(&hub, "events", 0, 0).await), expected);
    // What came to nothing is abandoned by a commit and then deleted: in the end the store has what the hub refers to.
    let refers = async || {
        let objects = moody.store.list("", None, 1000).await.unwrap();
        objects.iter().filter(|object| object.key.contains("/objects/")).count()
    };
    let appended = async || say(&hub, "events", 0, "more").await;
    until("orphans are deleted", async || {
        appended().await;
        tiered(&hub, "events", 0).await;
        refers().await as u64 == hub.tier_objects()
    })
    .await;
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_that_only_the_store_has_is_refused_with_a_reason_while_it_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let moody = Moody::new(store(directory.path()).await);
    let mut uncached = settings(directory.path());
    uncached.tier.cache_disk_bytes = 0;
    let hub = open_with(uncached, &moody).await;
    create(&hub, "events", 1).await;
    say(&hub, "events", 0, "old").await;
    tiered(&hub, "events", 0).await;
    hub.drop_local_copies().await.unwrap();
    moody.away.store(true, Ordering::Relaxed);
    say(&hub, "events", 0, "new").await;
    let at = PartitionRef::new("events", 0);
    let refused = hub.read(&at, tidegate_model::Offset(0), 1 << 20).await.unwrap_err();
    assert!(matches!(refused, Error::TierUnavailable { .. }), "{refused:?}");
    assert_eq!(values(&read_all(&hub, "events", 0, 1).await), ["new"]);
    moody.away.store(false, Ordering::Relaxed);
    assert_eq!(values(&read_all(&hub, "events", 0, 0).await), ["old", "new"]);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_hub_writes_nothing_to_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::new(store(directory.path()).await);
    // A second between checkpoints, the shortest there is.
    let hub = open_with(settings(directory.path()), &store).await;
    let topic = create(&hub, "events", 4).await;
    let gone = create(&hub, "gone", 2).await;
    for partition in 0..4 {
        say(&hub, "events", partition, "x").await;
    }
    say(&hub, "gone", 0, "x").await;
    tiered(&hub, "gone", 0).await;
    hub.delete_topic(gone.uid, None, &tidegate_broker::hub::Caller::Client).await.unwrap();
    hub.alter_topic(
        topic.uid,
        None,
        tidegate_model::TopicSettings { partitions: 5, ..topic.settings },
        &tidegate_broker::hub::Caller::Client,
    )
    .await
    .unwrap();
    // Idle: over four intervals not one write. Housekeeping of what went before comes to its end first.
    let mut before = u64::MAX;
    let mut since = std::time::Instant::now();
    until("four intervals passed without a write", async || {
        let writes = store.writes.load(Ordering::Relaxed);
        if writes != before {
            (before, since) = (writes, std::time::Instant::now());
        }
        since.elapsed() > std::time::Duration::from_secs(4)
    })
    .await;
    // What is new still gets there.
    say(&hub, "events", 0, "y").await;
    until("the new record and its journal's checkpoint are written", async || store.writes.load(Ordering::Relaxed) >= before + 2)
        .await;
    close(hub).await;
}
