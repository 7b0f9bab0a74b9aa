//! A hub of one broker grows to three and shrinks back to one while it is written and read, judged by the rules of histories.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files, sockets and clocks")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::hub::PartitionRef;
use tidegate_broker::settings::{BrokerSettings, ObjectStoreSettings};
use tidegate_broker::{RunningBroker, serve_with};
use tidegate_checker::Source;
use tidegate_client::{Client, Record};
use tidegate_env::Env;
use tidegate_journal::entry::BrokerState;
use tidegate_model::{BrokerId, JournalId};
use tidegate_proto::v1;
use tidegate_tier::ObjectStore;
use tidegate_workload::{Settings, Workload};
use tokio_util::sync::CancellationToken;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SEED: u64 = 20_261_121;

async fn start(directory: &Path, store: &Arc<dyn ObjectStore>, number: u32, join: &[String]) -> RunningBroker {
    let mut settings = BrokerSettings::default();
    settings.hub.data_dir = directory.join(number.to_string());
    settings.hub.broker_id = number;
    settings.hub.journals = 2;
    settings.hub.wal.file_bytes = 4 << 20;
    settings.hub.wal.budget_bytes = 256 << 20;
    settings.hub.wal.control_reserve_bytes = 1 << 20;
    settings.hub.fleet.join = join.to_vec();
    settings.listeners.client = ANY;
    settings.listeners.operator = ANY;
    settings.listeners.http = ANY;
    settings.listeners.peer = Some(ANY);
    serve_with(settings, Env::real(), Arc::clone(store)).await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(90), "waited 90 s in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{what} after {:.1} s", begun.elapsed().as_secs_f64());
}

/// True if each journal has so many voters, all in sync.
fn has_voters(brokers: &[&RunningBroker], voters: usize) -> bool {
    let statuses = brokers.iter().map(|broker| (broker.hub().broker(), broker.hub().cluster_status()));
    let leading = statuses.into_iter().find(|(broker, status)| status.journals[0].leader == Some(*broker));
    leading.is_some_and(|(_, status)| {
        status.journals.iter().all(|journal| {
            let voting = journal.members.iter().filter(|member| member.votes);
            voting.clone().count() == voters && voting.clone().all(|member| member.in_sync)
        })
    })
}

/// One record after the other, until it is told to stop: the longest time between two acknowledgements.
async fn probe(client: Client, stop: CancellationToken) -> (u64, Duration) {
    let settings = v1::TopicSettings { partitions: Some(1), ..Default::default() };
    let request = v1::CreateTopicRequest { name: "probe".to_owned(), settings: Some(settings), validate_only: false };
    client.admin().create_topic(request).await.unwrap();
    let producer = client.producer().linger(Duration::ZERO).build().unwrap();
    let (mut count, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
    while !stop.is_cancelled() {
        producer.send_and_wait(Record::new("probe").value("x")).await.unwrap();
        longest = longest.max(last.elapsed());
        (count, last) = (count + 1, Instant::now());
    }
    producer.close().await.unwrap();
    (count, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_grows_to_three_brokers_and_back_to_one_without_stopping_writes() {
    println!("seed {SEED}");
    let directory = tempfile::tempdir().unwrap();
    let place = ObjectStoreSettings::Directory { path: directory.path().join("store") };
    let store = tidegate_broker::stores::open(&place, &Env::real()).await.unwrap();
    let first = start(directory.path(), &store, 1, &[]).await;
    let client = Client::connect(first.client_addr.to_string()).await.unwrap();
    let recorder = tidegate_workload::recorder().checking();
    let settings = Settings { producers: 2, consumers: 2, records_per_second: 400.0, ..Settings::new("events", SEED) };
    let mut workload = Workload::start(client.clone(), settings, recorder.clone()).await.unwrap();
    let stop = CancellationToken::new();
    let probing = tokio::spawn(probe(client, stop.clone()));

    let join = [first.peer_addr().unwrap().to_string()];
    let second = start(directory.path(), &store, 2, &join).await;
    let third = start(directory.path(), &store, 3, &join).await;
    second.hub().set_replication_factor(3).await.unwrap();
    until("three voters for each journal", async || has_voters(&[&first, &second, &third], 3)).await;
    for partition in 0..4 {
        let at = PartitionRef::new("events", partition);
        let uid = third.hub().topic("events").unwrap().uid;
        let lives = third.hub().all_partition_numbers(uid).await.unwrap()[partition as usize].journal;
        let to = JournalId(3 - lives.0);
        until("a partition moved to another journal", async || third.hub().move_partition(&at, to).await.is_ok()).await;
    }
    first.hub().set_replication_factor(1).await.unwrap();
    for broker in [2, 3] {
        first.hub().set_broker_state(BrokerId(broker), BrokerState::Draining).await.unwrap();
    }
    until("the others are retired", async || {
        let brokers = first.hub().cluster_status().brokers;
        brokers.iter().filter(|broker| broker.entry.state == BrokerState::Retired).count() == 2
    })
    .await;
    assert!(has_voters(&[&first], 1));
    second.shutdown().await;
    third.shutdown().await;

    let before = workload.counts().acknowledged;
    until("the first goes on alone", async || workload.counts().acknowledged > before + 200).await;
    stop.cancel();
    let (probes, longest) = probing.await.unwrap();
    let counts = workload.stop().await.unwrap();
    let read = workload.read_everything(Source::Anywhere).await.unwrap();
    let verdict = recorder.finish().unwrap().verdict.unwrap();
    println!("{counts:?}, {read} records read; {probes} records one by one, the longest gap {longest:?}");
    println!("{verdict}");
    assert!(verdict.holds(), "{verdict}");
    assert!(read >= counts.acknowledged);
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    first.shutdown().await;
}
