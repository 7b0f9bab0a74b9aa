//! The promise under `kill -9`: twenty rounds under load, nothing acknowledged is lost, doubled or out of order.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use support::{Hub, HubOptions, consume_all};
use tidegate_client::{Client, ClientSettings, Record};

const ROUNDS: usize = 20;
const PRODUCERS: usize = 3;
const PARTITIONS: i32 = 4;

/// What one producer was told: value → (partition, offset).
type Acknowledged = HashMap<String, (i64, i64)>;

/// Sends numbered values until told to stop; remembers those that were acknowledged, in order.
async fn produce(client: Client, producer_name: String, stop: Arc<AtomicBool>) -> Acknowledged {
    let producer = client.producer().delivery_timeout(Duration::from_secs(2)).build().unwrap();
    let mut deliveries = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = format!("{producer_name}-{number}");
        let partition = number % PARTITIONS;
        match producer.send(Record::new("load").partition(partition).value(value.clone())).await {
            Ok(delivery) => deliveries.push((value, delivery)),
            Err(_) => break,
        }
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut acknowledged = Acknowledged::new();
    for (value, delivery) in deliveries {
        // The hub is gone by now: what is not decided was not acknowledged.
        if !delivery.is_decided() {
            continue;
        }
        if let Ok(stored) = delivery.wait().await
            && stored.offset >= 0
        {
            acknowledged.insert(value, (i64::from(stored.partition), stored.offset));
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_twenty_rounds_of_kill_9() {
    let seed: u64 = std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("seed {seed}: TIDEGATE_SEED={seed} repeats the moments of the kills");
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    // Small files and quick sealing, so that kills also fall into recycling, checkpoints and uploads.
    let options = HubOptions::default()
        .set("hub.wal.file_bytes", 4 << 20)
        .set("hub.wal.budget_bytes", 256 << 20)
        .set("hub.tier.seal_bytes", 64 << 10)
        .set("hub.tier.seal_age_ms", 200)
        .set("hub.tier.interval_ms", 50)
        .set("hub.journal.checkpoint_bytes", 1 << 20);
    let mut hub = Hub::start(folder.path(), &options);
    hub.run(&["topic", "create", "load", "--partitions", &PARTITIONS.to_string()]);
    let mut acknowledged = Acknowledged::new();
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let mut producers = Vec::new();
        for number in 0..PRODUCERS {
            let client = Client::connect_with(ClientSettings::new(format!("http://{}", hub.client)), None).await.unwrap();
            producers.push(tokio::spawn(produce(client, format!("r{round}p{number}"), stop.clone())));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(30..400))).await;
        hub.process.kill();
        stop.store(true, Ordering::Relaxed);
        let before = acknowledged.len();
        for producer in producers {
            acknowledged.extend(producer.await.unwrap());
        }
        eprintln!("round {round}: {} events acknowledged before the kill", acknowledged.len() - before);
        hub = Hub::start(folder.path(), &options);
    }
    assert!(acknowledged.len() > 1_000, "the load was too small to prove anything: {}", acknowledged.len());
    check(&hub, &acknowledged);
    // And once more when all of it comes from the object store.
    hub.wait_until_tiered("load");
    hub = hub.drop_local_copies(folder.path(), &options, &["load"]);
    check(&hub, &acknowledged);
    hub.process.terminate();
}

/// Every acknowledged value stands once, where its acknowledgement said; offsets are dense; a producer's values are in order.
fn check(hub: &Hub, acknowledged: &Acknowledged) {
    let mut found: HashMap<String, (i64, i64)> = HashMap::new();
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    let mut last_number: HashMap<(String, i64), u64> = HashMap::new();
    for event in consume_all(hub, "load") {
        let expected = next.entry(event.partition).or_default();
        assert_eq!(event.offset, *expected, "a gap or a repeat in partition {}", event.partition);
        *expected += 1;
        let (producer, number) = event.value.split_once('-').unwrap();
        let number: u64 = number.parse().unwrap();
        if let Some(before) = last_number.insert((producer.to_owned(), event.partition), number) {
            assert!(before < number, "{producer} in partition {}: {number} stands behind {before}", event.partition);
        }
        let twice = found.insert(event.value.clone(), (event.partition, event.offset));
        assert_eq!(twice, None, "{} is stored twice", event.value);
    }
    for (value, place) in acknowledged {
        assert_eq!(found.get(value), Some(place), "{value} was acknowledged at {place:?}");
    }
}
