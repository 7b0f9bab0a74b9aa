//! The commands, one file each.

use anyhow::Result;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Channel;

use crate::context::CommandError;

pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod consume;
pub(crate) mod inspect;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod recover;
pub(crate) mod server;
pub(crate) mod topic;
pub(crate) mod verify;

/// How many partitions a topic has.
pub(crate) async fn partitions_of(mut client: MetadataServiceClient<Channel>, topic: &str) -> Result<i32> {
    let request = v1::GetMetadataRequest { topics: vec![topic.to_owned()], ..Default::default() };
    let answer = client.get_metadata(request).await.map_err(CommandError::from)?.into_inner();
    match answer.topics.into_iter().find(|found| found.name == topic) {
        Some(found) => match found.error {
            Some(error) => Err(CommandError::Hub(error.into()).into()),
            None => Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX)),
        },
        None => Err(CommandError::Hub(Failure::new(Reason::UnknownTopic, format!("there is no topic `{topic}`"))).into()),
    }
}

/// A partition given on the command line as one that the topic has.
pub(crate) fn partition_of(topic: &str, count: i32, partition: u32) -> Result<i32> {
    match i32::try_from(partition) {
        Ok(partition) if partition < count => Ok(partition),
        _ => {
            let message = format!("--partition: {topic} has no partition {partition}; it has {count}, from 0");
            Err(CommandError::Hub(Failure::new(Reason::UnknownPartition, message)).into())
        }
    }
}

/// Ends when somebody interrupts the command (Ctrl-C) or tells it to terminate.
pub(crate) async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
