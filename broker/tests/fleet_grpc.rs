//! Three brokers as users run them, on loopback: coming in by address, metadata, records through any broker, one broker gone.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use common::*;
use tidegate_broker::settings::BrokerSettings;
use tidegate_broker::{RunningBroker, serve_with};
use tidegate_client::proto::errors::{Failure, Reason};
use tidegate_client::proto::operator::v1 as wire;
use tidegate_client::proto::operator::v1::cluster_service_client::ClusterServiceClient;
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::metadata_service_client::MetadataServiceClient;
use tidegate_client::{Client, Record, Start};
use tidegate_env::Env;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn start(directory: &Path, number: u32, join: &[String]) -> RunningBroker {
    let mut settings = BrokerSettings { hub: untiered(&directory.join(number.to_string())), ..BrokerSettings::default() };
    settings.hub.broker_id = number;
    settings.hub.fleet.join = join.to_vec();
    settings.listeners.client = ANY;
    settings.listeners.operator = ANY;
    settings.listeners.http = ANY;
    settings.listeners.peer = Some(ANY);
    serve_with(settings, Env::real(), store(directory).await).await.unwrap()
}

async fn metadata(client: &Client) -> v1::GetMetadataResponse {
    let request = v1::GetMetadataRequest { topics: vec!["events".to_owned()], exclude_topics: false };
    MetadataServiceClient::new(client.transport()).get_metadata(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_take_records_anywhere_and_go_on_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let first = start(directory.path(), 1, &[]).await;
    let join = [first.peer_addr().unwrap().to_string()];
    let second = start(directory.path(), 2, &join).await;
    let third = start(directory.path(), 3, &join).await;
    // Asked of a broker that does not lead the catalog.
    let address = format!("http://{}", third.operator_addr);
    let mut cluster = ClusterServiceClient::connect(address).await.unwrap();
    let refused = cluster
        .set_replication_factor(wire::SetReplicationFactorRequest { replication_factor: 2, context: None })
        .await
        .unwrap_err();
    assert_eq!(Failure::from_status(&refused).reason, Reason::InvalidArgument, "{refused}");
    cluster.set_replication_factor(wire::SetReplicationFactorRequest { replication_factor: 3, context: None }).await.unwrap();
    create(second.hub(), "events", 8).await;

    let client = Client::connect(format!("{},{}", first.client_addr, second.client_addr)).await.unwrap();
    let producer = client.producer().build().unwrap();
    let mut said = BTreeSet::new();
    for number in 0..50 {
        let value = format!("before {number}");
        producer.send(Record::new("events").key(number.to_string()).value(value.clone())).await.unwrap().wait().await.unwrap();
        said.insert(value);
    }
    until("all brokers lead, and metadata says so", async || {
        let metadata = metadata(&client).await;
        let leaders: BTreeSet<_> = metadata.topics[0].partitions.iter().filter_map(|partition| partition.leader).collect();
        let whole = metadata.topics[0].partitions.iter().all(|partition| partition.replicas.len() == 3);
        metadata.brokers.len() == 3 && whole && leaders.len() >= 2
    })
    .await;
    until("all voters are there", async || {
        let described = cluster.describe_cluster(wire::DescribeClusterRequest {}).await.map(tonic::Response::into_inner);
        described.is_ok_and(|hub| {
            let voting = |journal: &wire::ClusterJournal| {
                journal.replicas.iter().filter(|replica| replica.votes && replica.in_sync).count()
            };
            hub.brokers.len() == 3 && hub.journals.iter().all(|journal| voting(journal) == 3)
        })
    })
    .await;

    // Straight to the leaders, from one address.
    let forwarded = || -> u64 { [&first, &second, &third].iter().map(|broker| broker.hub().metrics().forwarded.get()).sum() };
    let direct = Client::connect(third.client_addr.to_string()).await.unwrap();
    let to_leaders = direct.producer().build().unwrap();
    let before = forwarded();
    for number in 0..100 {
        let value = format!("direct {number}");
        let record = Record::new("events").key(number.to_string()).value(value.clone());
        to_leaders.send(record).await.unwrap().wait().await.unwrap();
        said.insert(value);
    }
    to_leaders.close().await.unwrap();
    assert!(forwarded() - before < 20, "{} of 100 appends were forwarded", forwarded() - before);

    first.shutdown().await;
    for number in 0..50 {
        let value = format!("after {number}");
        producer.send(Record::new("events").key(number.to_string()).value(value.clone())).await.unwrap().wait().await.unwrap();
        said.insert(value);
    }
    producer.close().await.unwrap();
    let other = Client::connect(third.client_addr.to_string()).await.unwrap();
    let mut consumer = other.consumer().assign("events", Start::Earliest).build().await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < said.len() {
        let record = consumer.next().await.unwrap().unwrap();
        heard.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    assert_eq!(heard.iter().cloned().collect::<BTreeSet<_>>(), said);
    assert_eq!(heard.len(), said.len(), "nothing came twice");
    second.shutdown().await;
    third.shutdown().await;
}
