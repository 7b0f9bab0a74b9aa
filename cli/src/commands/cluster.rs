//! `tidegate cluster`: the hub's brokers and journals, draining, the replication factor.

use anyhow::Result;
use serde_json::json;
use tidegate_proto::operator::v1::cluster_service_client::ClusterServiceClient;
use tidegate_proto::operator::v1::{self as wire, ClusterBrokerState};

use crate::args::{ClusterArgs, ClusterCommand, Connection, Output};
use crate::context::{CommandError, connect, human_bytes};
use crate::output::outln;

/// Runs a cluster command.
pub(crate) async fn run(args: ClusterArgs) -> Result<()> {
    let output = args.output;
    let connection = Connection { address: args.operator_address, any_broker: false, output };
    let mut client = ClusterServiceClient::new(connect(&connection).await?);
    let mut set = async |broker_id, state: ClusterBrokerState| {
        let request = wire::SetBrokerStateRequest { broker_id, state: state.into(), context: None };
        client.set_broker_state(request).await.map_err(CommandError::from)
    };
    match args.command {
        ClusterCommand::Drain { broker } => {
            set(broker, ClusterBrokerState::Draining).await?;
            said(
                output,
                &format!("broker {broker} drains: its leaders, then its replicas go elsewhere; it is retired when it holds none"),
            );
        }
        ClusterCommand::Undrain { broker } => {
            set(broker, ClusterBrokerState::Active).await?;
            said(output, &format!("broker {broker} takes part again"));
        }
        ClusterCommand::Retire { broker } => {
            set(broker, ClusterBrokerState::Retired).await?;
            said(output, &format!("broker {broker} is retired for good"));
        }
        ClusterCommand::Move { topic, partition, to } => {
            let request = wire::MovePartitionRequest { topic: topic.clone(), partition, journal: to };
            client.move_partition(request).await.map_err(CommandError::from)?;
            said(output, &format!("partition {partition} of {topic} lives in journal {to}"));
        }
        ClusterCommand::Replicas { factor } => {
            let request = wire::SetReplicationFactorRequest { replication_factor: factor, context: None };
            client.set_replication_factor(request).await.map_err(CommandError::from)?;
            said(output, &format!("each journal shall have {factor} voters"));
        }
        ClusterCommand::Describe => {
            let hub = client.describe_cluster(wire::DescribeClusterRequest {}).await.map_err(CommandError::from)?.into_inner();
            match output {
                Output::Json => outln!("{}", as_json(&hub)),
                Output::Table => as_table(&hub),
            }
        }
    }
    Ok(())
}

fn said(output: Output, text: &str) {
    match output {
        Output::Json => outln!("{}", json!({ "done": text })),
        Output::Table => outln!("{text}"),
    }
}

fn state(broker: &wire::ClusterBroker) -> &'static str {
    match broker.state() {
        ClusterBrokerState::Active => "active",
        ClusterBrokerState::Draining => "draining",
        ClusterBrokerState::Retired => "retired",
        ClusterBrokerState::Unspecified => "unknown",
    }
}

/// How fast replicas are copied from a broker to others, and how fast they may be.
fn copies(broker: &wire::ClusterBroker) -> String {
    match (broker.copy_bytes_per_second, broker.copy_limit_bytes_per_second) {
        (Some(rate), Some(limit)) => format!("{}/s ({}/s)", human_bytes(rate as u64), human_bytes(limit)),
        _ => "-".to_owned(),
    }
}

/// Journals with fewer voters in sync than there shall be.
fn under_replicated(hub: &wire::DescribeClusterResponse) -> usize {
    let in_sync =
        |journal: &wire::ClusterJournal| journal.replicas.iter().filter(|replica| replica.votes && replica.in_sync).count();
    hub.journals.iter().filter(|journal| in_sync(journal) < hub.replication_factor as usize).count()
}

fn as_json(hub: &wire::DescribeClusterResponse) -> serde_json::Value {
    let broker = |broker: &wire::ClusterBroker| {
        json!({
            "broker": broker.broker_id, "state": state(broker), "zone": broker.zone, "node": broker.node,
            "addresses": broker.addresses, "silentMs": broker.silent_ms, "replicas": broker.replicas, "leads": broker.leads,
            "bytesOutPerSecond": broker.bytes_out_per_second, "cpuCores": broker.cpu_cores, "logPercent": broker.log_percent,
            "copyBytesPerSecond": broker.copy_bytes_per_second, "copyLimitBytesPerSecond": broker.copy_limit_bytes_per_second,
            "copiedBytes": broker.copied_bytes, "slow": broker.slow, "writeWaitMs": broker.wait_ms,
        })
    };
    let replica = |replica: &wire::ClusterReplica| json!({ "replica": replica.replica, "broker": replica.broker, "votes": replica.votes, "inSync": replica.in_sync });
    let journal = |journal: &wire::ClusterJournal| {
        json!({
            "journal": journal.journal, "leader": journal.leader, "partitions": journal.partitions,
            "bytesPerSecond": journal.bytes_per_second, "replicas": journal.replicas.iter().map(replica).collect::<Vec<_>>(),
        })
    };
    json!({
        "replicationFactor": hub.replication_factor,
        "underReplicatedJournals": under_replicated(hub),
        "partitionsMoving": hub.partitions_moving,
        "replicasMoving": hub.replicas_moving,
        "brokers": hub.brokers.iter().map(broker).collect::<Vec<_>>(),
        "journals": hub.journals.iter().map(journal).collect::<Vec<_>>(),
    })
}

fn as_table(hub: &wire::DescribeClusterResponse) {
    outln!("replication factor {}, {} journals with fewer voters in sync", hub.replication_factor, under_replicated(hub));
    outln!("on their way: {} replicas, {} partitions\n", hub.replicas_moving, hub.partitions_moving);
    outln!(
        "{:<8}{:<10}{:<12}{:<10}{:<8}{:<30}{:<8}{}",
        "BROKER",
        "STATE",
        "HEARD",
        "REPLICAS",
        "LEADS",
        "COPIES (limit)",
        "ZONE",
        "CLIENTS"
    );
    for broker in &hub.brokers {
        let heard = broker.silent_ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        let client = broker.addresses.get("client").map_or("-", String::as_str);
        let zone = if broker.zone.is_empty() { "-" } else { &broker.zone };
        outln!(
            "{:<8}{:<10}{heard:<12}{:<10}{:<8}{:<30}{zone:<8}{client}",
            broker.broker_id,
            // It hands its leaderships over, and gets them back when it is not slow any more.
            if broker.slow { "slow" } else { state(broker) },
            broker.replicas,
            broker.leads,
            copies(broker)
        );
    }
    outln!("\n{:<9}{:<8}{:<12}{:<12}{}", "JOURNAL", "LEADER", "PARTITIONS", "LOAD", "REPLICAS (broker; * in sync, + learning)");
    for journal in &hub.journals {
        let leader = journal.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string());
        let replica = |replica: &wire::ClusterReplica| {
            let mark = if !replica.votes {
                "+"
            } else if replica.in_sync {
                "*"
            } else {
                ""
            };
            format!("{}{mark}", replica.broker)
        };
        let replicas: Vec<String> = journal.replicas.iter().map(replica).collect();
        let load = format!("{}/s", human_bytes(journal.bytes_per_second as u64));
        outln!("{:<9}{leader:<8}{:<12}{load:<12}{}", journal.journal, journal.partitions, replicas.join(" "));
    }
}
