//! `ClusterService`: the hub's brokers and journals, for people and the operator.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tidegate_journal::entry::BrokerState;
use tidegate_model::{BrokerId, JournalId};
use tidegate_proto::operator::v1::cluster_service_server::ClusterService;
use tidegate_proto::operator::v1::{self as wire, ClusterBrokerState};
use tonic::{Request, Response, Status};

use super::Edge;
use super::operator::Operator;
use crate::fleet::{BrokerStatus, ClusterStatus, JournalStatus};
use crate::hub::{Error, PartitionRef};

pub(crate) struct Cluster(pub(crate) Arc<Edge>);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn describe_cluster(
        &self,
        _request: Request<wire::DescribeClusterRequest>,
    ) -> Result<Response<wire::DescribeClusterResponse>, Status> {
        let work = async {
            let told = self.0.hub.cluster().await?;
            wire::DescribeClusterResponse::decode(told).map_err(Error::internal)
        };
        self.0.call("cluster.DescribeCluster", work).await
    }

    async fn set_broker_state(
        &self,
        request: Request<wire::SetBrokerStateRequest>,
    ) -> Result<Response<wire::SetBrokerStateResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            self.fenced(request.context.as_ref())?;
            let state = match request.state() {
                ClusterBrokerState::Active => BrokerState::Active,
                ClusterBrokerState::Draining => BrokerState::Draining,
                ClusterBrokerState::Retired => BrokerState::Retired,
                ClusterBrokerState::Unspecified => {
                    return Err(Error::invalid("state", "is absent: say ACTIVE, DRAINING or RETIRED"));
                }
            };
            self.0.hub.set_broker_state(BrokerId(request.broker_id), state).await?;
            Ok(wire::SetBrokerStateResponse {})
        };
        self.0.call("cluster.SetBrokerState", work).await
    }

    async fn set_replication_factor(
        &self,
        request: Request<wire::SetReplicationFactorRequest>,
    ) -> Result<Response<wire::SetReplicationFactorResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            self.fenced(request.context.as_ref())?;
            self.0.hub.set_replication_factor(request.replication_factor).await?;
            Ok(wire::SetReplicationFactorResponse {})
        };
        self.0.call("cluster.SetReplicationFactor", work).await
    }

    async fn move_partition(
        &self,
        request: Request<wire::MovePartitionRequest>,
    ) -> Result<Response<wire::MovePartitionResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let at = PartitionRef::new(&request.topic, request.partition);
            self.0.hub.move_partition(&at, JournalId(request.journal)).await?;
            Ok(wire::MovePartitionResponse {})
        };
        self.0.call("cluster.MovePartition", work).await
    }
}

impl Cluster {
    /// Refuses an operator if another one has taken over; a person has no epoch.
    fn fenced(&self, context: Option<&wire::OperatorContext>) -> Result<(), Error> {
        match context {
            Some(_) => Operator(Arc::clone(&self.0)).caller(context, None).map(drop),
            None => Ok(()),
        }
    }
}

/// The status as it is sent, between brokers too.
pub(crate) fn cluster_out(status: &ClusterStatus) -> Bytes {
    let data = status.journals.iter().filter(|journal| journal.journal != JournalId::CATALOG);
    let moving = data.flat_map(|journal| &journal.members).filter(|member| !member.votes);
    let response = wire::DescribeClusterResponse {
        replication_factor: status.replication_factor,
        brokers: status.brokers.iter().map(broker_out).collect(),
        journals: status.journals.iter().map(journal_out).collect(),
        partitions_moving: status.partitions_moving,
        replicas_moving: moving.count() as u32,
    };
    response.encode_to_vec().into()
}

fn broker_out(status: &BrokerStatus) -> wire::ClusterBroker {
    let state = match status.entry.state {
        BrokerState::Active => ClusterBrokerState::Active,
        BrokerState::Draining => ClusterBrokerState::Draining,
        BrokerState::Retired => ClusterBrokerState::Retired,
    };
    wire::ClusterBroker {
        broker_id: status.broker.0,
        incarnation: Bytes::copy_from_slice(status.entry.incarnation.as_bytes()),
        state: state.into(),
        addresses: status.entry.addresses.iter().cloned().collect(),
        zone: status.entry.zone.clone(),
        node: status.entry.node.clone(),
        silent_ms: status.silent.map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
        replicas: status.replicas,
        leads: status.leads,
        bytes_out_per_second: status.busy.map(|busy| busy.bytes_out),
        cpu_cores: status.busy.and_then(|busy| busy.cpu_cores),
        log_percent: status.busy.map(|busy| busy.log_percent),
        copy_bytes_per_second: status.busy.map(|busy| busy.copy_bytes),
        copy_limit_bytes_per_second: status.busy.map(|busy| busy.copy_limit),
        copied_bytes: status.busy.map(|busy| busy.copied_bytes),
        wait_ms: status.busy.map(|busy| busy.wait_ms),
        slow: status.busy.is_some_and(|busy| busy.slow),
    }
}

fn journal_out(status: &JournalStatus) -> wire::ClusterJournal {
    let replicas = status.members.iter().map(|member| wire::ClusterReplica {
        replica: member.replica,
        broker: member.broker.0,
        votes: member.votes,
        in_sync: member.in_sync,
    });
    wire::ClusterJournal {
        journal: status.journal.0,
        leader: status.leader.map(|broker| broker.0),
        replicas: replicas.collect(),
        partitions: status.partitions,
        bytes_per_second: status.load,
    }
}
