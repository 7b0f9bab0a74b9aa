//! Administration for clients: topics, offsets, groups, metadata. Thin over the wire: the messages are the protocol's own,
//! so that each field's documentation in the .proto files holds here too.

use std::future::Future;

use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::group_service_client::GroupServiceClient;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::{Request, Response, Status};

use crate::{Client, Error, Failure, Reason, Result, Start, Transport};

/// Groups and topics asked for in one page of a listing.
const PAGE_SIZE: u32 = 1000;

/// Administration calls over the client's shared connection. Reads and commits are tried again within the request timeout;
/// calls that make, change or delete a topic are tried once, because a second try would answer for the first.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Admin { client }
    }

    fn topics(&self) -> TopicServiceClient<Transport> {
        TopicServiceClient::new(self.client.transport()).max_decoding_message_size(self.client.settings().max_message_bytes)
    }

    fn groups(&self) -> GroupServiceClient<Transport> {
        GroupServiceClient::new(self.client.transport()).max_decoding_message_size(self.client.settings().max_message_bytes)
    }

    async fn once<Q, A, F>(&self, message: Q, call: impl FnOnce(Request<Q>) -> F) -> Result<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.client.settings().request_timeout);
        let turn = self.client.turn();
        let answer = call(request).await.map_err(Error::from);
        if answer.as_ref().is_err_and(Error::is_unreachable) {
            // Whoever tries again asks another broker.
            self.client.turn_from(turn);
        }
        Ok(answer?.into_inner())
    }

    /// Makes a topic; it can be used when this returns.
    ///
    /// # Errors
    /// `TOPIC_EXISTS`, `INVALID_ARGUMENT` with the field.
    pub async fn create_topic(&self, request: v1::CreateTopicRequest) -> Result<v1::Topic> {
        let mut client = self.topics();
        let answer = self.once(request, |request| async move { client.create_topic(request).await }).await?;
        required(answer.topic, "CreateTopicResponse.topic")
    }

    /// Changes settings of a topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `TOPIC_MANAGED`, `REVISION_MISMATCH`, `INVALID_ARGUMENT` with the field.
    pub async fn alter_topic(&self, request: v1::AlterTopicRequest) -> Result<v1::Topic> {
        let mut client = self.topics();
        let answer = self.once(request, |request| async move { client.alter_topic(request).await }).await?;
        required(answer.topic, "AlterTopicResponse.topic")
    }

    /// Deletes a topic; it can be restored until `restorable_until_ms` of the answer.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `TOPIC_MANAGED`.
    pub async fn delete_topic(&self, request: v1::DeleteTopicRequest) -> Result<v1::Topic> {
        let mut client = self.topics();
        let answer = self.once(request, |request| async move { client.delete_topic(request).await }).await?;
        required(answer.topic, "DeleteTopicResponse.topic")
    }

    /// Restores a deleted topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `TOPIC_NOT_RESTORABLE`.
    pub async fn undelete_topic(&self, request: v1::UndeleteTopicRequest) -> Result<v1::Topic> {
        let mut client = self.topics();
        let answer = self.once(request, |request| async move { client.undelete_topic(request).await }).await?;
        required(answer.topic, "UndeleteTopicResponse.topic")
    }

    /// Describes a topic with its partitions' numbers.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn describe_topic(&self, name: impl Into<String>) -> Result<v1::DescribeTopicResponse> {
        let request = v1::DescribeTopicRequest { name: name.into(), ..Default::default() };
        let client = self.topics();
        self.client
            .retry(request, |request| {
                let mut client = client.clone();
                async move { client.describe_topic(request).await }
            })
            .await
    }

    /// Lists all topics that fit the request, page after page; its page fields are ignored.
    ///
    /// # Errors
    /// Those of reaching the hub.
    pub async fn list_topics(&self, request: v1::ListTopicsRequest) -> Result<Vec<v1::Topic>> {
        let mut topics = Vec::new();
        let mut page = v1::ListTopicsRequest { page_size: PAGE_SIZE, page_token: String::new(), ..request };
        loop {
            let client = self.topics();
            let answer = self
                .client
                .retry(page.clone(), |request| {
                    let mut client = client.clone();
                    async move { client.list_topics(request).await }
                })
                .await?;
            topics.extend(answer.topics);
            if answer.next_page_token.is_empty() {
                return Ok(topics);
            }
            page.page_token = answer.next_page_token;
        }
    }

    /// Brokers, limits, and the named topics; all topics if none is named.
    ///
    /// # Errors
    /// Those of reaching the hub; a topic that is unknown has an error of its own in the answer.
    pub async fn metadata(&self, topics: Vec<String>) -> Result<v1::GetMetadataResponse> {
        self.client.metadata(topics).await
    }

    /// Looks up the offset of a place in each given partition, in order. Each answer may have an error of its own.
    ///
    /// # Errors
    /// Those of reaching the hub.
    pub async fn list_offsets(&self, places: &[(&str, i32, Start)]) -> Result<Vec<v1::ListedOffset>> {
        let partitions = places.iter().map(|(topic, partition, start)| v1::ListOffsetsPartition {
            topic: (*topic).to_owned(),
            partition: *partition,
            position: Some((*start).into()),
            leader_epoch: None,
        });
        let request = v1::ListOffsetsRequest { partitions: partitions.collect(), ..Default::default() };
        let client = ConsumerServiceClient::new(self.client.transport());
        let answer = self
            .client
            .retry(request, |request| {
                let mut client = client.clone();
                async move { client.list_offsets(request).await }
            })
            .await?;
        Ok(answer.offsets)
    }

    /// Stores positions of a group. All of them are durable when this returns `Ok`.
    ///
    /// # Errors
    /// The first error of a partition, or those of reaching the hub. The other partitions may have been stored.
    pub async fn commit_offsets(&self, group: &str, offsets: Vec<v1::CommittedOffset>) -> Result<()> {
        let request = v1::CommitOffsetsRequest { group: group.to_owned(), offsets, ..Default::default() };
        let client = self.groups();
        let answer = self
            .client
            .retry(request, |request| {
                let mut client = client.clone();
                async move { client.commit_offsets(request).await }
            })
            .await?;
        match answer.results.into_iter().find_map(|result| result.error) {
            Some(error) => Err(Failure::from(error).into()),
            None => Ok(()),
        }
    }

    /// Reads positions of a group; all of them if no partition is named.
    ///
    /// # Errors
    /// Those of reaching the hub.
    pub async fn fetch_offsets(&self, group: &str, partitions: Vec<v1::TopicPartition>) -> Result<Vec<v1::CommittedOffset>> {
        let request = v1::FetchOffsetsRequest { group: group.to_owned(), partitions, ..Default::default() };
        let client = self.groups();
        let answer = self
            .client
            .retry(request, |request| {
                let mut client = client.clone();
                async move { client.fetch_offsets(request).await }
            })
            .await?;
        Ok(answer.offsets)
    }

    /// Lists all groups, page after page.
    ///
    /// # Errors
    /// Those of reaching the hub.
    pub async fn list_groups(&self) -> Result<Vec<v1::GroupListing>> {
        let mut groups = Vec::new();
        let mut page = v1::ListGroupsRequest { page_size: PAGE_SIZE, page_token: String::new() };
        loop {
            let client = self.groups();
            let answer = self
                .client
                .retry(page.clone(), |request| {
                    let mut client = client.clone();
                    async move { client.list_groups(request).await }
                })
                .await?;
            groups.extend(answer.groups);
            if answer.next_page_token.is_empty() {
                return Ok(groups);
            }
            page.page_token = answer.next_page_token;
        }
    }

    /// Describes a group with its lag.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`.
    pub async fn describe_group(&self, group: &str) -> Result<v1::DescribeGroupResponse> {
        let client = self.groups();
        self.client
            .retry(v1::DescribeGroupRequest { group: group.to_owned() }, |request| {
                let mut client = client.clone();
                async move { client.describe_group(request).await }
            })
            .await
    }

    /// Deletes a group and its positions.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`, `GROUP_NOT_EMPTY`.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let mut client = self.groups();
        let request = v1::DeleteGroupRequest { group: group.to_owned() };
        self.once(request, |request| async move { client.delete_group(request).await }).await?;
        Ok(())
    }
}

/// A field that the hub must fill.
fn required<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| Failure::new(Reason::Internal, format!("the hub's answer lacks {name}")).into())
}
