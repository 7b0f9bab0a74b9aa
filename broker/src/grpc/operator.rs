//! `OperatorService`: the catalog for the Kubernetes operator. Every call that changes something is fenced by the operator's epoch.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tidegate_journal::entry::Management;
use tidegate_model::HubId;
use tidegate_proto::convert::uid_to_wire;
use tidegate_proto::operator::v1::operator_service_server::OperatorService;
use tidegate_proto::operator::v1::{self as wire, watch_topics_response::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Edge, convert, errors};
use crate::hub::{Caller, Error, NewTopic, TopicChanges, TopicDescription, TopicStatistics};
use crate::identity::{LostRange, Recovery};

/// Events that wait for the transport.
const EVENTS: usize = 64;
/// A bookmark comes at least so often.
const BOOKMARK: Duration = Duration::from_secs(30);

pub(crate) struct Operator(pub(crate) Arc<Edge>);

type Answer = Result<wire::WatchTopicsResponse, Status>;

#[tonic::async_trait]
impl OperatorService for Operator {
    async fn claim_epoch(&self, request: Request<wire::ClaimEpochRequest>) -> Result<Response<wire::ClaimEpochResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            self.check_hub(&request.hub_id)?;
            let operator_epoch = self.0.hub.claim_operator().await?;
            tracing::info!(holder = %request.holder, operator_epoch, "a new operator took over");
            Ok(wire::ClaimEpochResponse { operator_epoch, hub_id: hub_bytes(self.0.hub.id()) })
        };
        self.0.call("operator.ClaimEpoch", work).await
    }

    type WatchTopicsStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn watch_topics(
        &self,
        request: Request<wire::WatchTopicsRequest>,
    ) -> Result<Response<Self::WatchTopicsStream>, Status> {
        let work = async {
            let request = request.into_inner();
            self.caller(request.context.as_ref(), None)?;
            let (events, receiver) = mpsc::channel(EVENTS);
            self.0.tasks.spawn(watch(Arc::clone(&self.0), request.after_revision, events));
            Ok(Box::pin(ReceiverStream::new(receiver)) as Self::WatchTopicsStream)
        };
        self.0.call("operator.WatchTopics", work).await
    }

    async fn create_topic(
        &self,
        request: Request<wire::CreateTopicRequest>,
    ) -> Result<Response<wire::CreateTopicResponse>, Status> {
        self.0.call("operator.CreateTopic", self.create(request.into_inner())).await
    }

    async fn bind_topic(&self, request: Request<wire::BindTopicRequest>) -> Result<Response<wire::BindTopicResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let caller = self.caller(request.context.as_ref(), None)?;
            let uid = convert::needed_uid("topic_uid", &request.topic_uid)?;
            let expected = request.expected_bound_object.map(convert::object_in);
            let object = request.bound_object.map(convert::object_in);
            let management = convert::management_in(request.management)?;
            let topic = self.0.hub.bind_topic(uid, expected, object, management, &caller).await?;
            Ok(wire::BindTopicResponse { topic: Some(convert::topic_out(&topic)) })
        };
        self.0.call("operator.BindTopic", work).await
    }

    async fn alter_topic(&self, request: Request<wire::AlterTopicRequest>) -> Result<Response<wire::AlterTopicResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let object = request.expected_bound_object.map(convert::object_in);
            let caller = self.caller(request.context.as_ref(), object)?;
            let uid = convert::needed_uid("topic_uid", &request.topic_uid)?;
            let settings = convert::new_topic_settings(&request.settings.unwrap_or_default(), &self.0.limits)?;
            let topic = self.0.hub.alter_topic(uid, request.expected_revision, settings, &caller).await?;
            Ok(wire::AlterTopicResponse { topic: Some(convert::topic_out(&topic)) })
        };
        self.0.call("operator.AlterTopic", work).await
    }

    async fn delete_topic(
        &self,
        request: Request<wire::DeleteTopicRequest>,
    ) -> Result<Response<wire::DeleteTopicResponse>, Status> {
        self.0.call("operator.DeleteTopic", self.delete(request.into_inner())).await
    }

    async fn get_statistics(
        &self,
        request: Request<wire::GetStatisticsRequest>,
    ) -> Result<Response<wire::GetStatisticsResponse>, Status> {
        self.0.call("operator.GetStatistics", async { self.statistics(&request.into_inner()).await }).await
    }
}

impl Operator {
    fn check_hub(&self, hub_id: &Bytes) -> Result<(), Error> {
        let ours = self.0.hub.id();
        match hub_id.len() {
            0 => Ok(()),
            16 if Uuid::from_slice(hub_id).is_ok_and(|given| given == ours.0) => Ok(()),
            16 => Err(Error::invalid("context.hub_id", format!("names another hub; this is {ours}"))),
            other => Err(Error::invalid("context.hub_id", format!("has {other} bytes; a uid has 16"))),
        }
    }

    /// Who calls, refused if another operator has taken over.
    pub(super) fn caller(
        &self,
        context: Option<&wire::OperatorContext>,
        object: Option<tidegate_journal::entry::BoundObject>,
    ) -> Result<Caller, Error> {
        let context = context.ok_or_else(|| Error::invalid("context", "is absent: say who calls"))?;
        self.check_hub(&context.hub_id)?;
        let current = self.0.hub.operator_epoch();
        if context.operator_epoch < current {
            return Err(Error::OperatorFenced { given: context.operator_epoch, current });
        }
        if context.operator_epoch == 0 {
            return Err(Error::invalid("context.operator_epoch", "is 0: call ClaimEpoch first"));
        }
        Ok(Caller::Operator { epoch: context.operator_epoch, object })
    }

    async fn create(&self, request: wire::CreateTopicRequest) -> Result<wire::CreateTopicResponse, Error> {
        let caller = self.caller(request.context.as_ref(), None)?;
        let object = request.bound_object.map(convert::object_in);
        let object =
            object.ok_or_else(|| Error::invalid("bound_object", "is absent: name the object that asks for the topic"))?;
        // Sent twice, the second finds what the first made.
        if let Ok(topic) = self.0.hub.topic(&request.name)
            && topic.bound.as_ref() == Some(&object)
        {
            return Ok(wire::CreateTopicResponse { topic: Some(convert::topic_out(&topic)), created: false });
        }
        let new = NewTopic {
            name: request.name,
            settings: convert::new_topic_settings(&request.settings.unwrap_or_default(), &self.0.limits)?,
            bound: Some(object),
            management: convert::management_in(request.management)?.unwrap_or(Management::Object),
        };
        let topic = self.0.hub.create_topic(new, &caller).await?;
        Ok(wire::CreateTopicResponse { topic: Some(convert::topic_out(&topic)), created: true })
    }

    async fn delete(&self, request: wire::DeleteTopicRequest) -> Result<wire::DeleteTopicResponse, Error> {
        let object = request.expected_bound_object.map(convert::object_in);
        let caller = self.caller(request.context.as_ref(), object)?;
        let uid = convert::needed_uid("topic_uid", &request.topic_uid)?;
        let present = self.0.hub.topic_described(uid)?;
        let topic = match present.deleted {
            Some(_) => present,
            None => self.0.hub.delete_topic(uid, request.expected_revision, &caller).await?,
        };
        Ok(wire::DeleteTopicResponse { tombstone: Some(tombstone(&topic)) })
    }

    async fn statistics(&self, request: &wire::GetStatisticsRequest) -> Result<wire::GetStatisticsResponse, Error> {
        self.caller(request.context.as_ref(), None)?;
        let mut uids = Vec::with_capacity(request.topic_uids.len());
        for (index, uid) in request.topic_uids.iter().enumerate() {
            uids.push(convert::needed_uid(&format!("topic_uids[{index}]"), uid)?);
        }
        let hub = self.0.hub.statistics();
        let leader = self.0.hub.broker().0;
        let topics = self.0.hub.all_topic_statistics(&uids).await;
        Ok(wire::GetStatisticsResponse {
            revision: hub.revision,
            hub: Some(wire::HubStatistics {
                wal_used_bytes: hub.wal_used_bytes,
                wal_budget_bytes: hub.wal_budget_bytes,
                tier_unavailable: hub.tier_unavailable,
                tiering_lag_ms: hub.tiering_lag_ms,
                appended_bytes_total: hub.appended_bytes,
                fetched_bytes_total: hub.fetched_bytes,
                connections: hub.connections,
                time_ms: hub.time.0,
                tier_problem: hub.tier_problem.unwrap_or_default(),
            }),
            topics: topics.iter().map(|topic| topic_numbers(topic, request.include_partitions, leader)).collect(),
            recovery: self.0.hub.recovery().map(recovery_out),
        })
    }
}

fn recovery_out(recovery: &Recovery) -> wire::Recovery {
    let range = |lost: &LostRange| wire::LostRange {
        topic: lost.topic.clone(),
        partition: lost.partition,
        from: lost.from,
        end: lost.end,
    };
    wire::Recovery {
        from_hub_id: hub_bytes(recovery.from),
        time_ms: recovery.time_ms,
        state_time_ms: recovery.state_time_ms,
        missing_journals: recovery.missing_journals.clone(),
        lost_records: recovery.lost_records,
        lost_partitions: recovery.lost_partitions,
        lost: recovery.lost.iter().map(range).collect(),
    }
}

fn topic_numbers(topic: &TopicStatistics, partitions: bool, leader: u32) -> wire::TopicStatistics {
    let sum = |of: fn(&crate::hub::PartitionNumbers) -> u64| topic.partitions.iter().map(of).sum();
    wire::TopicStatistics {
        topic_uid: uid_to_wire(topic.uid),
        name: topic.name.clone(),
        partitions: topic.partitions.len() as u32,
        ready_partitions: topic.ready,
        end_offset_total: sum(|numbers| u64::try_from(numbers.marks.high_watermark.0).unwrap_or(0)),
        local_bytes: sum(|numbers| numbers.local_bytes),
        tiered_bytes: sum(|numbers| numbers.tiered_bytes),
        tiering_lag_ms: topic.tiering_lag_ms,
        partition_statuses: if partitions {
            topic.partitions.iter().map(|numbers| convert::numbers_out(numbers, leader)).collect()
        } else {
            Vec::new()
        },
    }
}

fn hub_bytes(hub: HubId) -> Bytes {
    Bytes::copy_from_slice(hub.0.as_bytes())
}

fn tombstone(topic: &TopicDescription) -> wire::TopicTombstone {
    wire::TopicTombstone {
        topic_uid: uid_to_wire(topic.uid),
        name: topic.name.clone(),
        bound_object: topic.bound.as_ref().map(convert::object_out),
        delete_time_ms: topic.deleted.map_or(0, |deleted| deleted.at.0),
        restorable_until_ms: topic.deleted.map_or(0, |deleted| deleted.restorable_until.0),
    }
}

/// Sends what changed, then waits for the catalog, until the client or the broker goes.
async fn watch(edge: Arc<Edge>, after: u64, events: mpsc::Sender<Answer>) {
    let mut applied = edge.hub.catalog_changes();
    let mut sent = after;
    let mut initial = after == 0;
    let mut bookmark_due = true;
    loop {
        applied.mark_unchanged();
        let (revision, changes) = edge.hub.topic_changes(sent);
        let topics = match changes {
            TopicChanges::Since(topics) => topics,
            TopicChanges::Restart => {
                let failure = tidegate_proto::errors::Failure::new(
                    tidegate_proto::errors::Reason::RevisionCompacted,
                    format!("what followed revision {sent} is forgotten: watch again from revision 0"),
                );
                let _ = events.send(Err(failure.into_status())).await;
                return;
            }
        };
        bookmark_due |= !topics.is_empty();
        for topic in topics {
            let event = if topic.deleted.is_some() {
                Event::Tombstone(tombstone(&topic))
            } else {
                Event::Topic(convert::topic_out(&topic))
            };
            if events.send(Ok(wire::WatchTopicsResponse { revision: topic.revision, event: Some(event) })).await.is_err() {
                return;
            }
        }
        sent = sent.max(revision);
        if bookmark_due {
            let event = Event::Bookmark(wire::WatchBookmark { initial_topics_sent: initial });
            if events.send(Ok(wire::WatchTopicsResponse { revision: sent, event: Some(event) })).await.is_err() {
                return;
            }
            initial = false;
        }
        bookmark_due = tokio::select! {
            _ = applied.changed() => false,
            () = edge.env.clock.sleep(BOOKMARK) => true,
            () = events.closed() => return,
            () = edge.draining.cancelled() => {
                let _ = events.send(Err(errors::failure(Error::ShuttingDown).into_status())).await;
                return;
            }
        };
    }
}
