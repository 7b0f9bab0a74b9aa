//! What broke others, each a test of its own on a whole simulated machine.
#![allow(missing_docs, clippy::unwrap_used)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::Hub;
use tidegate_broker::hub::{
    Append, Appended, Caller, Error, Fetch, FetchPart, GroupOffset, InitProducer, NewTopic, OpenError, PartitionRef,
};
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_env::sim::{Ended, Fault, OperationKind, SimHandle, Simulation};
use tidegate_journal::entry::Management;
use tidegate_model::{
    BatchBuilder, Compression, Offset, PartitionId, ProducerEpoch, ProducerId, RecordBatch, Sequence, TimestampMs, TopicSettings,
};
use tidegate_sim::store::{SimStore, Weather};
use tidegate_tier::ObjectStore;

/// A machine and its bucket.
struct Machine {
    simulation: Simulation,
    store: SimStore,
    settings: HubSettings,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let mut settings = HubSettings { data_dir: PathBuf::from("/hub"), journals: 2, ..HubSettings::default() };
        settings.wal.file_bytes = 1 << 20;
        settings.wal.budget_bytes = 64 << 20;
        settings.wal.control_reserve_bytes = 1 << 20;
        settings.journal.checkpoint_bytes = 16 << 10;
        settings.tier.interval_ms = 20;
        settings.tier.retry_ms = 20;
        settings.tier.seal_age_ms = 100;
        settings.tier.checkpoint_interval_ms = 1_000;
        settings.retention_interval_ms = 100;
        settings.retention_grace_ms = 0;
        settings.object_grace_ms = 0;
        Machine { simulation: Simulation::new(seed), store: SimStore::new(seed), settings }
    }

    /// Keeps everything in the log.
    fn untiered(seed: u64) -> Machine {
        let mut machine = Machine::new(seed);
        machine.settings.tier.seal_age_ms = 24 * 60 * 60 * 1000;
        machine
    }

    /// One life, in which the hub opens and does something; it is killed at the end, unless it was stopped.
    fn life<F, T>(&mut self, body: impl FnOnce(Hub, Env, SimHandle) -> F) -> T
    where
        F: Future<Output = T>,
    {
        self.try_life(async |hub: Result<Hub, OpenError>, env, handle| body(hub.unwrap(), env, handle).await)
    }

    fn try_life<T>(&mut self, body: impl AsyncFnOnce(Result<Hub, OpenError>, Env, SimHandle) -> T) -> T {
        let (settings, store) = (self.settings.clone(), self.store.clone());
        let ended = self.simulation.live(|env, handle| async move {
            let store: Arc<dyn ObjectStore> = Arc::new(store.in_life(&env.clock));
            let hub = Hub::open(settings, &Limits::default(), &env, store).await;
            body(hub, env, handle).await
        });
        assert_eq!(self.simulation.panics(), Vec::<String>::new());
        match ended {
            Ended::Output(output) => output,
            Ended::PowerCut | Ended::Stuck => panic!("the life did not come to its end"),
        }
    }

    fn files(&self, part: &str) -> Vec<PathBuf> {
        let files = self.simulation.disk().files(Path::new("/hub")).unwrap();
        files.into_iter().map(|(path, _)| path).filter(|path| path.to_string_lossy().contains(part)).collect()
    }
}

async fn make(hub: &Hub, name: &str, settings: TopicSettings) {
    let new = NewTopic { name: name.to_owned(), settings, bound: None, management: Management::Catalog };
    hub.create_topic(new, &Caller::Client).await.unwrap();
}

fn batch(value: &str, producer: Option<(ProducerId, i32)>) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, ProducerEpoch(0), Sequence(sequence));
    }
    builder.push(TimestampMs(1_767_225_600_000), None, Some(value.as_bytes()), &[]);
    builder.build().unwrap()
}

async fn append(hub: &Hub, topic: &str, partition: i32, value: &str) -> Result<Appended, Error> {
    hub.append(Append { at: PartitionRef::new(topic, partition), batches: vec![batch(value, None)] }).await
}

/// All values of a partition from its log start, or the error.
async fn values(hub: &Hub, topic: &str, partition: i32) -> Result<Vec<String>, Error> {
    let at = PartitionRef::new(topic, partition);
    let marks = hub.marks_of(&at)?;
    let (mut next, mut values) = (marks.log_start, Vec::new());
    while next < marks.high_watermark {
        let fetched = hub.read(&at, next, 1 << 16).await?;
        values.extend(decode(&fetched.chunks.concat(), next));
        next = fetched.next;
    }
    Ok(values)
}

fn decode(bytes: &[u8], from: Offset) -> Vec<String> {
    let mut values = Vec::new();
    for item in tidegate_model::batch::batches(bytes) {
        let (_, place) = item.unwrap();
        let batch = RecordBatch::trusted(bytes::Bytes::copy_from_slice(&bytes[place])).unwrap();
        for record in batch.records().unwrap().map(Result::unwrap).filter(|record| record.offset >= from) {
            values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

fn expected(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| format!("value-{number}")).collect()
}

async fn tiered(hub: &Hub, env: &Env, topic: &str, partition: i32) {
    let deadline = env.clock.monotonic() + Duration::from_secs(120);
    loop {
        let marks = hub.marks_of(&PartitionRef::new(topic, partition)).unwrap();
        if marks.tiered_end.max(marks.log_start) == marks.high_watermark {
            return;
        }
        assert!(env.clock.monotonic() < deadline, "{topic}/{partition} is not tiered: {marks:?}");
        env.clock.sleep(Duration::from_millis(20)).await;
    }
}

/// Appends one batch for each number, stops the hub in order.
async fn fill_and_stop(hub: Hub, range: std::ops::Range<u64>) {
    if hub.topic("t").is_err() {
        make(&hub, "t", TopicSettings::default()).await;
    }
    for value in expected(range) {
        append(&hub, "t", 0, &value).await.unwrap();
    }
    hub.shutdown(Duration::from_secs(10)).await;
}

#[test]
fn incident_nats_2025_a_power_failure_loses_nothing_that_was_acknowledged() {
    for seed in 0..10 {
        let mut machine = Machine::untiered(seed);
        machine.life(async |hub, _, _| {
            make(&hub, "t", TopicSettings::default()).await;
            for value in expected(0..20) {
                append(&hub, "t", 0, &value).await.unwrap();
            }
        });
        machine.simulation.crash();
        let read = machine.life(async |hub, _, _| values(&hub, "t", 0).await.unwrap());
        assert_eq!(read, expected(0..20), "seed {seed}");
    }
}

#[test]
fn incident_nats_2025_a_flipped_bit_is_refused_with_file_and_offset_and_costs_nothing_else() {
    let mut machine = Machine::untiered(1);
    machine.life(async |hub, _, _| fill_and_stop(hub, 0..40).await);
    let file = machine.files(".wal").remove(0);
    let middle = machine.simulation.disk().written(&file).unwrap() / 2;
    machine.simulation.disk().flip_bit(&file, middle, 3).unwrap();
    let refusal = machine.try_life(async |hub, _, _| hub.err().map(|error| error.to_string()));
    let refusal = refusal.expect("damage of the newest file's durable part is refused at the start");
    assert!(refusal.contains(&*file.to_string_lossy()) && refusal.contains("offset"), "{refusal}");
    // Nothing was cut off or written over: with the bit set right, everything is there.
    machine.simulation.disk().flip_bit(&file, middle, 3).unwrap();
    let read = machine.life(async |hub, _, _| values(&hub, "t", 0).await.unwrap());
    assert_eq!(read, expected(0..40));
}

#[test]
fn incident_nats_2025_damaged_snapshots_delete_no_topic_and_no_object() {
    let mut machine = Machine::new(2);
    machine.life(async |hub, env, _| {
        make(&hub, "t", TopicSettings::default()).await;
        for value in expected(0..30) {
            append(&hub, "t", 0, &value).await.unwrap();
        }
        tiered(&hub, &env, "t", 0).await;
        hub.shutdown(Duration::from_secs(10)).await;
    });
    let (objects, checkpoints) = (machine.store.keys(), machine.files("/checkpoints/"));
    assert!(!objects.is_empty() && !checkpoints.is_empty());
    for file in &checkpoints {
        machine.simulation.disk().flip_bit(file, 40, 1).unwrap();
    }
    let read = machine.try_life(async |hub, env, _| {
        let hub = hub.map_err(|error| error.to_string())?;
        env.clock.sleep(Duration::from_secs(30)).await;
        values(&hub, "t", 0).await.map_err(|error| error.to_string())
    });
    match read {
        // The log still had everything.
        Ok(read) => assert_eq!(read, expected(0..30)),
        Err(refusal) => assert!(refusal.contains("checkpoint"), "{refusal}"),
    }
    let left = machine.store.keys();
    assert!(objects.iter().filter(|key| key.contains("/objects/")).all(|key| left.contains(key)), "{objects:?} became {left:?}");
}

#[test]
fn incident_redpanda_2022_a_batch_sent_again_after_a_lost_answer_is_stored_once_where_it_was() {
    let mut machine = Machine::new(3);
    let (id, first) = machine.life(async |hub, _, _| {
        make(&hub, "t", TopicSettings::default()).await;
        let id = hub.init_producer(InitProducer::default()).await.unwrap().id;
        let mut offsets = Vec::new();
        for sequence in 0..3 {
            let batches = vec![batch(&format!("value-{sequence}"), Some((id, sequence)))];
            offsets.push(hub.append(Append { at: PartitionRef::new("t", 0), batches }).await.unwrap().base_offset);
        }
        (id, offsets)
    });
    machine.simulation.crash();
    machine.life(async |hub, _, _| {
        for sequence in 0..3 {
            let batches = vec![batch(&format!("value-{sequence}"), Some((id, sequence)))];
            let again = hub.append(Append { at: PartitionRef::new("t", 0), batches }).await.unwrap();
            assert!(again.duplicate && again.base_offset == first[sequence as usize], "{again:?}");
        }
        assert_eq!(values(&hub, "t", 0).await.unwrap(), expected(0..3));
    });
}

#[test]
fn incident_redpanda_object_keys_are_never_used_twice() {
    let mut machine = Machine::new(4);
    for life in 0..5 {
        // Every second life loses answers of its writes.
        machine.store.set(if life % 2 == 1 { Weather::Silent } else { Weather::Fair });
        machine.life(async |hub, env, _| {
            if hub.topic("t").is_err() {
                make(&hub, "t", TopicSettings::default()).await;
            }
            for value in expected(life * 10..life * 10 + 10) {
                append(&hub, "t", 0, &value).await.unwrap();
                env.clock.sleep(Duration::from_millis(150)).await;
            }
        });
    }
    let mut stored = machine.store.stored();
    let all = stored.len();
    stored.sort();
    stored.dedup();
    assert!(all > 10 && stored.len() == all, "{all} writes, {} keys", stored.len());
}

#[test]
fn incident_redpanda_a_restart_that_sees_an_empty_listing_forgets_and_deletes_nothing() {
    let mut machine = Machine::new(5);
    machine.life(async |hub, env, _| {
        make(&hub, "t", TopicSettings::default()).await;
        for value in expected(0..30) {
            append(&hub, "t", 0, &value).await.unwrap();
        }
        tiered(&hub, &env, "t", 0).await;
        hub.drop_local_copies().await.unwrap();
    });
    let objects: Vec<String> = machine.store.keys().into_iter().filter(|key| key.contains("/objects/")).collect();
    machine.store.list_nothing();
    machine.life(async |hub, env, _| {
        env.clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(values(&hub, "t", 0).await.unwrap(), expected(0..30));
    });
    let left = machine.store.keys();
    assert!(!objects.is_empty() && objects.iter().all(|key| left.contains(key)), "{objects:?} became {left:?}");
}

#[test]
fn incident_redpanda_retention_after_lost_answers_deletes_only_what_was_trimmed() {
    let mut machine = Machine::new(6);
    machine.life(async |hub, env, _| {
        make(&hub, "t", TopicSettings { retention_bytes_per_partition: Some(2_000), ..TopicSettings::default() }).await;
        for value in expected(0..200) {
            append(&hub, "t", 0, &value).await.unwrap();
            env.clock.sleep(Duration::from_millis(20)).await;
        }
    });
    machine.store.set(Weather::Silent);
    machine.life(async |_, env, _| env.clock.sleep(Duration::from_secs(30)).await);
    machine.store.set(Weather::Fair);
    machine.life(async |hub, env, _| {
        tiered(&hub, &env, "t", 0).await;
        hub.drop_local_copies().await.unwrap();
        let marks = hub.marks_of(&PartitionRef::new("t", 0)).unwrap();
        assert!(marks.log_start > Offset(0), "retention did something");
        let read = values(&hub, "t", 0).await.unwrap();
        assert_eq!(read, expected(marks.log_start.0 as u64..200));
    });
}

#[test]
fn incident_bufstream_2024_committed_positions_and_offsets_are_never_zero_by_accident() {
    let mut machine = Machine::new(7);
    machine.life(async |hub, _, _| {
        make(&hub, "t", TopicSettings::default()).await;
        for (number, value) in (0..).zip(expected(0..10)) {
            assert_eq!(append(&hub, "t", 0, &value).await.unwrap().base_offset, Offset(number));
        }
        let position = GroupOffset {
            topic: "t".to_owned(),
            partition: PartitionId(0),
            offset: Offset(7),
            leader_epoch: None,
            metadata: String::new(),
            time: TimestampMs(0),
        };
        hub.commit_offsets("g", &[position]).await.unwrap().remove(0).unwrap();
    });
    for _ in 0..3 {
        machine.simulation.crash();
        machine.life(async |hub, _, _| {
            assert_eq!(hub.fetch_offsets("g").unwrap()[0].offset, Offset(7));
            assert!(append(&hub, "t", 0, "more").await.unwrap().base_offset >= Offset(10));
        });
    }
}

#[test]
fn incident_kafka_15351_the_log_start_survives_a_restart() {
    let mut machine = Machine::new(8);
    machine.life(async |hub, env, _| {
        make(&hub, "t", TopicSettings { retention_bytes_per_partition: Some(2_000), ..TopicSettings::default() }).await;
        for value in expected(0..200) {
            append(&hub, "t", 0, &value).await.unwrap();
            env.clock.sleep(Duration::from_millis(20)).await;
        }
    });
    let start =
        |machine: &mut Machine| machine.life(async |hub, _, _| hub.marks_of(&PartitionRef::new("t", 0)).unwrap().log_start);
    let before = start(&mut machine);
    machine.simulation.crash();
    let after = start(&mut machine);
    assert!(before > Offset(0) && after >= before, "{before} became {after}");
}

#[test]
fn incident_kafka_14915_one_fetch_reads_several_tiered_partitions() {
    let mut machine = Machine::new(9);
    machine.life(async |hub, env, _| {
        make(&hub, "t", TopicSettings { partitions: 3, ..TopicSettings::default() }).await;
        for partition in 0..3 {
            append(&hub, "t", partition, "value").await.unwrap();
        }
        for partition in 0..3 {
            tiered(&hub, &env, "t", partition).await;
        }
        hub.drop_local_copies().await.unwrap();
        let part = |partition| FetchPart { at: PartitionRef::new("t", partition), offset: Offset(0), max_bytes: 1 << 16 };
        let fetch = Fetch { parts: (0..3).map(part).collect(), max_wait: Duration::ZERO, min_bytes: 1, max_bytes: 1 << 20 };
        let bytes: Vec<usize> = hub.fetch(&fetch).await.into_iter().map(|part| part.unwrap().bytes).collect();
        assert!(bytes.len() == 3 && bytes.iter().all(|bytes| *bytes > 0), "{bytes:?}");
    });
}

#[test]
fn incident_postgres_2018_after_a_failed_fsync_nothing_is_acknowledged_and_the_process_ends() {
    let mut machine = Machine::untiered(10);
    let stored = machine.life(async |hub, _, handle| {
        make(&hub, "t", TopicSettings::default()).await;
        append(&hub, "t", 0, "value-0").await.unwrap();
        let error = std::io::ErrorKind::Other;
        handle.disk.inject(Fault { on: OperationKind::Sync, path_contains: ".wal".to_owned(), after: 0, error });
        let mut stored = Vec::new();
        for value in expected(1..20) {
            if append(&hub, "t", 0, &value).await.is_ok() {
                stored.push(value);
            }
        }
        assert!(hub.failed().await.contains("sync"));
        stored
    });
    assert_eq!(stored, Vec::<String>::new(), "a second sync would have succeeded without writing");
    machine.simulation.crash();
    let read = machine.life(async |hub, _, _| values(&hub, "t", 0).await.unwrap());
    assert_eq!(read[0], "value-0");
}

#[test]
fn incident_a_torn_tail_is_dropped_and_a_flipped_bit_below_the_mark_is_not_taken_for_one() {
    let (mut torn, mut refused) = (0, 0);
    for seed in 0..12 {
        let mut machine = Machine::untiered(seed);
        machine.life(async |hub, _, _| fill_and_stop(hub, 0..10).await);
        // The power goes somewhere in the writes of the next one.
        let (settings, store) = (machine.settings.clone(), machine.store.clone());
        machine.simulation.live(|env, handle| async move {
            let store: Arc<dyn ObjectStore> = Arc::new(store.in_life(&env.clock));
            let hub = Hub::open(settings, &Limits::default(), &env, store).await.unwrap();
            handle.disk.cut_power_after(seed % 3);
            drop(append(&hub, "t", 0, &"x".repeat(5_000)).await);
        });
        machine.simulation.crash();
        let read = machine.life(async |hub, _, _| {
            let read = values(&hub, "t", 0).await.unwrap();
            hub.shutdown(Duration::from_secs(10)).await;
            read
        });
        assert_eq!(read[..10], expected(0..10));
        torn += usize::from(read.len() == 10);
        let file = machine.files(".wal").remove(0);
        let place = machine.simulation.disk().written(&file).unwrap() * (seed + 1) / 14;
        machine.simulation.disk().flip_bit(&file, place, 0).unwrap();
        let kept = machine.try_life(async |hub, _, _| match hub {
            Ok(hub) => values(&hub, "t", 0).await.ok(),
            Err(_) => None,
        });
        // Refused, or the place meant nothing: never less than before.
        refused += usize::from(kept.is_none());
        assert!(kept.is_none_or(|kept| kept == read), "seed {seed}: the flip at {place} cost records without a word");
    }
    assert!(torn > 0 && refused > 6, "{torn} torn tails, {refused} refusals");
}
