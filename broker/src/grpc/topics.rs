//! `TopicService`: topics, for clients.

use std::sync::Arc;

use tidegate_journal::entry::Management;
use tidegate_proto::convert::{settings_altered, settings_to_wire};
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_server::TopicService;
use tonic::{Request, Response, Status};

use super::{Edge, convert};
use crate::hub::{Caller, Error, Listing, NewTopic, TopicDescription};

const DEFAULT_PAGE: u32 = 100;
const MOST_PAGE: u32 = 1000;

pub(crate) struct Topics(pub(crate) Arc<Edge>);

/// The size of a page that a client asks for.
pub(crate) fn page(asked: u32) -> Result<usize, Error> {
    match asked {
        0 => Ok(DEFAULT_PAGE as usize),
        given if given > MOST_PAGE => Err(Error::invalid("page_size", format!("{given} is above {MOST_PAGE}"))),
        given => Ok(given as usize),
    }
}

#[tonic::async_trait]
impl TopicService for Topics {
    async fn create_topic(&self, request: Request<v1::CreateTopicRequest>) -> Result<Response<v1::CreateTopicResponse>, Status> {
        self.0.call("CreateTopic", self.create(request.into_inner())).await
    }

    async fn alter_topic(&self, request: Request<v1::AlterTopicRequest>) -> Result<Response<v1::AlterTopicResponse>, Status> {
        self.0.call("AlterTopic", self.alter(request.into_inner())).await
    }

    async fn delete_topic(&self, request: Request<v1::DeleteTopicRequest>) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        self.0.call("DeleteTopic", self.delete(request.into_inner())).await
    }

    async fn undelete_topic(
        &self,
        request: Request<v1::UndeleteTopicRequest>,
    ) -> Result<Response<v1::UndeleteTopicResponse>, Status> {
        self.0.call("UndeleteTopic", self.undelete(request.into_inner())).await
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        self.0.call("DescribeTopic", async { self.describe(&request.into_inner()).await }).await
    }

    async fn list_topics(&self, request: Request<v1::ListTopicsRequest>) -> Result<Response<v1::ListTopicsResponse>, Status> {
        self.0.call("ListTopics", async { self.list(&request.into_inner()) }).await
    }
}

impl Topics {
    async fn create(&self, request: v1::CreateTopicRequest) -> Result<v1::CreateTopicResponse, Error> {
        let settings = convert::new_topic_settings(&request.settings.unwrap_or_default(), &self.0.limits)?;
        let new = NewTopic { name: request.name, settings, bound: None, management: Management::Catalog };
        if request.validate_only {
            self.0.hub.check_new_topic(&new)?;
            let settings = Some(settings_to_wire(&new.settings));
            let topic = v1::Topic { name: new.name, settings, ..v1::Topic::default() };
            return Ok(v1::CreateTopicResponse { topic: Some(topic) });
        }
        let topic = self.0.hub.create_topic(new, &Caller::Client).await?;
        Ok(v1::CreateTopicResponse { topic: Some(convert::topic_out(&topic)) })
    }

    async fn alter(&self, request: v1::AlterTopicRequest) -> Result<v1::AlterTopicResponse, Error> {
        let topic = self.named(&request.name, &request.topic_uid)?;
        let given = request.settings.unwrap_or_default();
        let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let settings = settings_altered(&topic.settings, &given, &mask).map_err(convert::refused)?;
        if request.validate_only {
            self.0.hub.check_change(&topic.settings, &settings)?;
            let changed = TopicDescription { settings, ..topic };
            return Ok(v1::AlterTopicResponse { topic: Some(convert::topic_out(&changed)) });
        }
        // Settings are read, merged and written: another change in between must not be undone.
        let revision = request.expected_revision.unwrap_or(topic.revision);
        let changed = self.0.hub.alter_topic(topic.uid, Some(revision), settings, &Caller::Client).await?;
        Ok(v1::AlterTopicResponse { topic: Some(convert::topic_out(&changed)) })
    }

    async fn delete(&self, request: v1::DeleteTopicRequest) -> Result<v1::DeleteTopicResponse, Error> {
        let topic = self.named(&request.name, &request.topic_uid)?;
        let deleted = self.0.hub.delete_topic(topic.uid, request.expected_revision, &Caller::Client).await?;
        Ok(v1::DeleteTopicResponse { topic: Some(convert::topic_out(&deleted)) })
    }

    async fn undelete(&self, request: v1::UndeleteTopicRequest) -> Result<v1::UndeleteTopicResponse, Error> {
        let uid = match convert::uid("topic_uid", &request.topic_uid)? {
            Some(uid) => uid,
            None => self.only_deleted(&request.name)?,
        };
        let topic = self.0.hub.undelete_topic(uid, &Caller::Client).await?;
        Ok(v1::UndeleteTopicResponse { topic: Some(convert::topic_out(&topic)) })
    }

    fn only_deleted(&self, name: &str) -> Result<tidegate_model::TopicUid, Error> {
        if name.is_empty() {
            return Err(Error::invalid("topic_uid", "and `name` are empty: give one of them"));
        }
        match self.0.hub.deleted_topics(name).as_slice() {
            [one] => Ok(one.uid),
            [] => {
                let why = "no deleted topic of this name can be restored".to_owned();
                Err(Error::TopicNotRestorable { topic: name.to_owned(), why })
            }
            several => {
                let uids: Vec<_> = several.iter().map(|topic| topic.uid.to_string()).collect();
                Err(Error::invalid(
                    "topic_uid",
                    format!("is empty and several deleted topics have the name: {}", uids.join(", ")),
                ))
            }
        }
    }

    async fn describe(&self, request: &v1::DescribeTopicRequest) -> Result<v1::DescribeTopicResponse, Error> {
        let topic = match convert::uid("topic_uid", &request.topic_uid)? {
            Some(uid) if request.name.is_empty() => self.0.hub.topic_described(uid)?,
            _ => self.named(&request.name, &request.topic_uid)?,
        };
        let leader = self.0.hub.broker().0;
        let numbers = if topic.deleted.is_none() { self.0.hub.all_partition_numbers(topic.uid).await? } else { Vec::new() };
        Ok(v1::DescribeTopicResponse {
            topic: Some(convert::topic_out(&topic)),
            partitions: numbers.iter().map(|numbers| convert::numbers_out(numbers, leader)).collect(),
        })
    }

    fn list(&self, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Error> {
        let size = page(request.page_size)?;
        let listing = if request.include_deleted { Listing::WithDeleted } else { Listing::Living };
        let topics = self.0.hub.list_topics(&request.name_prefix, &request.page_token, size, listing);
        let next_page_token = match topics.last() {
            Some(last) if topics.len() >= size => last.name.clone(),
            _ => String::new(),
        };
        let shown = topics.iter().filter(|topic| request.include_internal || !topic.name.starts_with("__"));
        Ok(v1::ListTopicsResponse { topics: shown.map(convert::topic_out).collect(), next_page_token })
    }

    /// A living topic by name, checked against the uid that the client expects.
    fn named(&self, name: &str, uid: &bytes::Bytes) -> Result<TopicDescription, Error> {
        if name.is_empty() {
            return Err(Error::invalid("name", "is empty: name a topic"));
        }
        let topic = self.0.hub.topic(name)?;
        match convert::uid("topic_uid", uid)? {
            Some(expected) if expected != topic.uid => {
                Err(Error::TopicUidMismatch { topic: topic.name, expected, actual: topic.uid })
            }
            _ => Ok(topic),
        }
    }
}
