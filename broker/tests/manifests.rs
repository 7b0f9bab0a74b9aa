//! The tier of a hub in a simulation, so that more than a thousand uploads take seconds. A partition with more ranges in it than the state keeps:
//! they move to manifest objects and are read, found by time, dropped and recovered from there. Objects that nobody needs go whatever the clock does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use tidegate_broker::hub::{Caller, Hub, PartitionRef, Position};
use tidegate_broker::recover::recover;
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_env::sim::{Ended, Simulation};
use tidegate_model::{Offset, TimestampMs, TopicSettings};
use tidegate_tier::{DirectoryStore, ObjectStore};

const RANGES: i64 = 1_250;
/// Milliseconds between the records' timestamps.
const STEP_MS: i64 = 10;

fn of_life(data_dir: &str) -> HubSettings {
    let mut settings = settings(Path::new("/hub"));
    settings.data_dir = PathBuf::from(data_dir);
    settings
}

async fn the_store(env: &Env) -> Arc<dyn ObjectStore> {
    Arc::new(DirectoryStore::open(env, "/hub/objects").await.unwrap())
}

async fn open_simulated(env: &Env, data_dir: &str) -> Hub {
    Hub::open(of_life(data_dir), &Limits::default(), env, the_store(env).await).await.unwrap()
}

/// Waits until something holds, at most ten minutes of simulated time.
async fn holds(env: &Env, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = env.clock.monotonic() + Duration::from_secs(600);
    while !condition() {
        assert!(env.clock.monotonic() < deadline, "waited in vain until {what}");
        env.clock.sleep(Duration::from_millis(1)).await;
    }
}

async fn check_all(hub: &Hub, from: i64) {
    let at = PartitionRef::new("events", 0);
    hub.drop_local_copies().await.unwrap();
    let expected: Vec<String> = (from..RANGES).map(|number| format!("value-{number}")).collect();
    assert_eq!(values(&read_all(hub, "events", 0, from).await)[..expected.len()], expected);
    for offset in (from..RANGES).step_by(97).chain([from, RANGES - 1]) {
        let fetched = hub.read(&at, Offset(offset), 1).await.unwrap();
        assert_eq!(values(&records(&fetched, Offset(offset)))[0], format!("value-{offset}"));
        for time in [offset * STEP_MS, offset * STEP_MS - STEP_MS + 1] {
            let located = hub.locate(&at, Position::Timestamp(TimestampMs(time))).await.unwrap();
            assert_eq!((located.offset, located.timestamp), (Offset(offset), Some(TimestampMs(offset * STEP_MS))), "time {time}");
        }
    }
}

fn output<T>(ended: Ended<T>, simulation: &Simulation) -> T {
    assert_eq!(simulation.panics(), Vec::<String>::new());
    match ended {
        Ended::Output(output) => output,
        Ended::PowerCut | Ended::Stuck => panic!("the life did not come to its end"),
    }
}

#[test]
fn more_than_a_thousand_ranges_of_a_partition_are_folded_read_trimmed_and_recovered() {
    let seed = 20_260;
    println!("seed {seed}");
    let mut simulation = Simulation::new(seed);
    simulation.patience = Duration::from_secs(3_600);
    let ended = simulation.live(|env, _| async move {
        let hub = open_simulated(&env, "/hub/data").await;
        let each_by_itself = TopicSettings { seal_bytes: Some(1), ..TopicSettings::default() };
        hub.create_topic(new_topic("events", each_by_itself), &Caller::Client).await.unwrap();
        let at = PartitionRef::new("events", 0);
        for number in 0..RANGES {
            append(&hub, "events", 0, batch(&[&format!("value-{number}")], &[number * STEP_MS])).await.unwrap();
            holds(&env, "the record is tiered", || hub.marks_of(&at).unwrap().tiered_end == Offset(number + 1)).await;
        }
        // 512 ranges stay at the most, and a manifest for each fold.
        holds(&env, "old ranges are folded", || hub.tier_objects() <= 520).await;
        check_all(&hub, 0).await;
        close(hub).await;
    });
    output(ended, &simulation);
    simulation.crash();

    let ended = simulation.live(|env, _| async move {
        let hub = open_simulated(&env, "/hub/data").await;
        check_all(&hub, 0).await;
        let at = PartitionRef::new("events", 0);
        let topic = hub.topic("events").unwrap();
        // Room for some 700 of the 1,250 batches: the first manifest goes as a whole.
        let bytes = hub.all_partition_numbers(topic.uid).await.unwrap()[0].tiered_bytes;
        let kept = TopicSettings { retention_bytes_per_partition: Some(bytes * 700 / 1_250), ..topic.settings.clone() };
        hub.alter_topic(topic.uid, None, kept, &Caller::Client).await.unwrap();
        holds(&env, "old records are dropped", || hub.marks_of(&at).unwrap().log_start >= Offset(500)).await;
        // Some twenty rounds of retention later it is still there.
        env.clock.sleep(Duration::from_secs(2)).await;
        let log_start = hub.marks_of(&at).unwrap().log_start;
        assert!(log_start < Offset(700), "{log_start}");
        check_all(&hub, log_start.0).await;
        // The first manifest's 385 objects go with it; those of the second only when all of it is dropped. A few files more are manifests and
        // checkpoints.
        let limit = RANGES as usize - 385 + 40;
        holds(&env, "dropped objects are deleted", || objects(&env, Path::new("/hub/objects")) <= limit).await;
        check_all(&hub, log_start.0).await;
        hub.checkpoint_to_store().await.unwrap();
        close(hub).await;
        log_start
    });
    let log_start = output(ended, &simulation);
    simulation.crash();

    let ended = simulation.live(|env, _| async move {
        let report = recover(&of_life("/hub/fresh"), &env, the_store(&env).await).await.unwrap();
        assert!(report.missing.is_empty() && report.lost.is_empty(), "{report:?}");
        let hub = open_simulated(&env, "/hub/fresh").await;
        check_all(&hub, log_start.0).await;
        assert_eq!(say(&hub, "events", 0, "after").await, Offset(RANGES));
        close(hub).await;
    });
    output(ended, &simulation);
}

/// Counts files below the store's folder.
fn objects(env: &Env, folder: &Path) -> usize {
    let entries = env.disk.list(folder).unwrap();
    entries.iter().map(|entry| if entry.is_dir { objects(env, &folder.join(&entry.name)) } else { 1 }).sum()
}

#[test]
fn objects_go_after_their_grace_even_when_the_wall_clock_was_a_day_ahead_meanwhile() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let seed = 20_261;
    println!("seed {seed}");
    let mut simulation = Simulation::new(seed);
    simulation.patience = Duration::from_secs(3_600);
    let ended = simulation.live(|env, handle| async move {
        let mut graceful = of_life("/hub/data");
        graceful.object_grace_ms = 2_000;
        let grace = Duration::from_millis(graceful.object_grace_ms);
        let hub = Hub::open(graceful, &Limits::default(), &env, the_store(&env).await).await.unwrap();
        let newest_only =
            TopicSettings { seal_bytes: Some(1), retention_bytes_per_partition: Some(1), ..TopicSettings::default() };
        hub.create_topic(new_topic("events", newest_only), &Caller::Client).await.unwrap();
        let at = PartitionRef::new("events", 0);
        for (number, leap) in [0, DAY_MS, 0, 0, -DAY_MS, 0, 0, 0].into_iter().enumerate() {
            handle.clock.jump_wall_clock(leap);
            append(&hub, "events", 0, batch(&["value"], &[1])).await.unwrap();
            let end = Offset(number as i64 + 1);
            holds(&env, "the record is tiered", || hub.marks_of(&at).unwrap().tiered_end == end).await;
        }
        holds(&env, "all but the newest are dropped", || hub.marks_of(&at).unwrap().log_start >= Offset(6)).await;
        let begun = env.clock.monotonic();
        holds(&env, "their objects are forgotten", || hub.tier_objects() <= 2).await;
        let took = env.clock.monotonic() - begun;
        assert!(took < Duration::from_secs(60), "a minute is long for a grace of {grace:?}: {took:?}");
        close(hub).await;
    });
    output(ended, &simulation);
}
