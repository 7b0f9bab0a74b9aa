//! Committed offsets.

use tidegate_client::proto::errors::{Failure, Reason};
use tidegate_client::proto::v1;
use tonic::{Request, Response, Status};

use super::Hub;

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Failure::new(Reason::Unsupported, "the tests do not use it").into_status())
}

#[tonic::async_trait]
impl v1::group_service_server::GroupService for Hub {
    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        let mut results = Vec::new();
        for offset in request.offsets {
            let error = (!state.partitions.contains_key(&offset.topic))
                .then(|| Failure::new(Reason::UnknownTopic, format!("no topic `{}`", offset.topic)).into());
            results.push(v1::CommitOffsetsResult { topic: offset.topic.clone(), partition: offset.partition, error });
            state.commits.insert((request.group.clone(), offset.topic, offset.partition), offset.offset);
        }
        Ok(Response::new(v1::CommitOffsetsResponse { results }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        let state = self.state.lock();
        let offsets = state.commits.iter().filter(|((group, ..), _)| *group == request.group);
        let offsets = offsets.map(|((_, topic, partition), offset)| v1::CommittedOffset {
            topic: topic.clone(),
            partition: *partition,
            offset: *offset,
            ..Default::default()
        });
        Ok(Response::new(v1::FetchOffsetsResponse { offsets: offsets.collect() }))
    }

    async fn list_groups(&self, _: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        unused()
    }

    async fn describe_group(&self, _: Request<v1::DescribeGroupRequest>) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        unused()
    }

    async fn delete_group(&self, _: Request<v1::DeleteGroupRequest>) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        unused()
    }
}
