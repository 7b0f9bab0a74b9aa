//! `GroupService`: committed offsets.

use std::sync::Arc;

use tidegate_model::{LeaderEpoch, Offset, PartitionId, TimestampMs};
use tidegate_proto::v1;
use tidegate_proto::v1::group_service_server::GroupService;
use tonic::{Request, Response, Status};

use super::topics::page;
use super::{Edge, errors};
use crate::hub::{Error, GroupOffset, PartitionRef, named};

pub(crate) struct Groups(pub(crate) Arc<Edge>);

#[tonic::async_trait]
impl GroupService for Groups {
    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        self.0.call("CommitOffsets", self.commit(request.into_inner())).await
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        self.0.call("FetchOffsets", self.read(&request.into_inner())).await
    }

    async fn list_groups(&self, request: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        self.0.call("ListGroups", async { self.list(&request.into_inner()).await }).await
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        self.0.call("DescribeGroup", self.describe(request.into_inner())).await
    }

    async fn delete_group(&self, request: Request<v1::DeleteGroupRequest>) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let work = async {
            self.0.hub.delete_group(&request.into_inner().group).await?;
            Ok(v1::DeleteGroupResponse {})
        };
        self.0.call("DeleteGroup", work).await
    }
}

/// There is no membership yet: a request that claims one is mistaken.
fn check_member(member: &str, generation: Option<i32>) -> Result<(), Error> {
    if !member.is_empty() {
        let problem = "is set, and groups have no members yet: leave it empty".to_owned();
        return Err(Error::Unsupported { field: "member_id".to_owned(), problem });
    }
    if generation.is_some() {
        let problem = "is set, and groups have no generations yet: leave it out".to_owned();
        return Err(Error::Unsupported { field: "generation".to_owned(), problem });
    }
    Ok(())
}

impl Groups {
    async fn commit(&self, request: v1::CommitOffsetsRequest) -> Result<v1::CommitOffsetsResponse, Error> {
        check_member(&request.member_id, request.generation)?;
        let offsets: Vec<_> = request.offsets.into_iter().map(offset_in).collect();
        let outcomes = self.0.hub.commit_offsets(&request.group, &offsets).await?;
        let results = offsets.into_iter().zip(outcomes).map(|(offset, outcome)| v1::CommitOffsetsResult {
            topic: offset.topic,
            partition: offset.partition.0,
            error: outcome.err().map(|error| errors::failure(error).into_message()),
        });
        Ok(v1::CommitOffsetsResponse { results: results.collect() })
    }

    async fn read(&self, request: &v1::FetchOffsetsRequest) -> Result<v1::FetchOffsetsResponse, Error> {
        check_member(&request.member_id, request.generation)?;
        let wanted = |offset: &GroupOffset| {
            request.partitions.is_empty()
                || request.partitions.iter().any(|part| part.topic == offset.topic && part.partition == offset.partition.0)
        };
        let (_, offsets) = self.0.hub.positions(&request.group).await?;
        Ok(v1::FetchOffsetsResponse { offsets: offsets.into_iter().filter(wanted).map(offset_out).collect() })
    }

    async fn list(&self, request: &v1::ListGroupsRequest) -> Result<v1::ListGroupsResponse, Error> {
        let size = page(request.page_size)?;
        let (groups, more, missing) = self.0.hub.list_all_groups(&request.page_token, size).await;
        let next_page_token =
            if more { groups.last().map(|group| group.name.clone()).unwrap_or_default() } else { String::new() };
        let groups = groups.into_iter().map(|group| v1::GroupListing {
            group: group.name,
            state: v1::GroupState::Empty.into(),
            partitions: u32::try_from(group.partitions).unwrap_or(u32::MAX),
        });
        Ok(v1::ListGroupsResponse { groups: groups.collect(), next_page_token, incomplete: named(&missing) })
    }

    async fn describe(&self, request: v1::DescribeGroupRequest) -> Result<v1::DescribeGroupResponse, Error> {
        let (known, positions) = self.0.hub.positions(&request.group).await?;
        if !known {
            return Err(Error::UnknownGroup { group: request.group });
        }
        let places: Vec<PartitionRef> =
            positions.iter().map(|offset| PartitionRef::new(&offset.topic, offset.partition.0)).collect();
        let marks = futures::future::join_all(places.iter().map(|at| self.0.hub.marks_at(at))).await;
        let partitions = positions.into_iter().zip(marks).map(|(offset, marks)| {
            let marks = marks.ok().filter(|marks| marks.leaderless.is_none());
            let high = marks.map_or(-1, |marks| marks.high_watermark.0);
            v1::GroupPartition {
                high_watermark: high,
                log_start_offset: marks.map_or(-1, |marks| marks.log_start.0),
                lag: marks.map_or(-1, |marks| (high - offset.offset.0.max(marks.log_start.0)).max(0)),
                committed: Some(offset_out(offset)),
            }
        });
        let partitions = partitions.collect();
        Ok(v1::DescribeGroupResponse { group: request.group, state: v1::GroupState::Empty.into(), partitions })
    }
}

fn offset_in(offset: v1::CommittedOffset) -> GroupOffset {
    GroupOffset {
        topic: offset.topic,
        partition: PartitionId(offset.partition),
        offset: Offset(offset.offset),
        leader_epoch: offset.leader_epoch.map(LeaderEpoch),
        metadata: offset.metadata,
        time: TimestampMs(-1),
    }
}

fn offset_out(offset: GroupOffset) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: offset.topic,
        partition: offset.partition.0,
        offset: offset.offset.0,
        leader_epoch: offset.leader_epoch.map(|epoch| epoch.0),
        metadata: offset.metadata,
        commit_time_ms: offset.time.0,
    }
}
