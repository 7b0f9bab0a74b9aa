//! `MetadataService`: what a client has to know to find its way.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_proto::convert::uid_to_wire;
use tidegate_proto::v1;
use tidegate_proto::v1::metadata_service_server::MetadataService;
use tonic::{Request, Response, Status};

use super::{Edge, errors};
use crate::hub::{Error, Listing, PartitionRef, TopicDescription};

/// Most topics that an answer without names lists.
const MOST_TOPICS: usize = 10_000;

pub(crate) struct Metadata(pub(crate) Arc<Edge>);

#[tonic::async_trait]
impl MetadataService for Metadata {
    async fn get_metadata(&self, request: Request<v1::GetMetadataRequest>) -> Result<Response<v1::GetMetadataResponse>, Status> {
        self.0.call("GetMetadata", async { self.answer(request.into_inner()) }).await
    }
}

impl Metadata {
    fn answer(&self, request: v1::GetMetadataRequest) -> Result<v1::GetMetadataResponse, Error> {
        let edge = &self.0;
        let broker = edge.hub.broker().0;
        let topics = if request.exclude_topics {
            Vec::new()
        } else if request.topics.is_empty() {
            let topics = edge.hub.list_topics("", "", MOST_TOPICS + 1, Listing::Living);
            if topics.len() > MOST_TOPICS {
                let problem = format!("is empty and the hub has more than {MOST_TOPICS} topics: name some, or use ListTopics");
                return Err(Error::invalid("topics", problem));
            }
            topics.iter().map(|topic| self.describe(topic)).collect()
        } else {
            request.topics.iter().map(|name| self.named(name)).collect()
        };
        Ok(v1::GetMetadataResponse {
            hub_id: Bytes::copy_from_slice(edge.hub.id().0.as_bytes()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            brokers: edge
                .hub
                .endpoints(&edge.endpoint)
                .into_iter()
                .map(|(id, endpoint)| v1::Broker { broker_id: id.0, endpoint })
                .collect(),
            broker_id: broker,
            topics,
            limits: Some(v1::HubLimits {
                max_request_bytes: edge.limits.max_request_bytes.into(),
                max_batch_bytes: edge.limits.max_message_bytes.into(),
                max_fetch_bytes: edge.limits.max_fetch_bytes.into(),
                max_headers_bytes: edge.limits.max_headers_bytes.into(),
                max_decompressed_bytes: edge.limits.max_decompressed_bytes.into(),
            }),
        })
    }

    fn named(&self, name: &str) -> v1::TopicMetadata {
        match self.0.hub.topic(name) {
            Ok(topic) => self.describe(&topic),
            Err(error) => v1::TopicMetadata {
                name: name.to_owned(),
                error: Some(errors::failure(error).into_message()),
                ..v1::TopicMetadata::default()
            },
        }
    }

    fn describe(&self, topic: &TopicDescription) -> v1::TopicMetadata {
        let hub = &self.0.hub;
        let homes = hub.homes_of(topic.uid);
        let partitions = (0..).zip(homes).map(|(partition, home)| {
            let marks = hub.marks_of(&PartitionRef::new(&topic.name, partition)).ok();
            v1::PartitionMetadata {
                partition,
                leader: home.leader.map(|broker| broker.0),
                leader_epoch: marks.map_or(-1, |marks| marks.epoch.0),
                replicas: home.replicas.iter().map(|broker| broker.0).collect(),
            }
        });
        v1::TopicMetadata {
            name: topic.name.clone(),
            topic_uid: uid_to_wire(topic.uid),
            internal: topic.name.starts_with("__"),
            partitions: partitions.collect(),
            error: None,
            max_message_bytes: topic.settings.max_message_bytes.into(),
        }
    }
}
