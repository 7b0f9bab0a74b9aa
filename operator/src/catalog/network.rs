//! Where a hub's broker is called, and how calls fail.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tidegate_crd::Hub;
use tidegate_proto::errors::{Failure, Reason};
use tonic::transport::{Channel, Endpoint};

/// The broker's port for the operator, in no client Service.
pub const OPERATOR_PORT: u16 = 7172;
const CONNECT: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Finds the address of a hub's broker.
pub trait BrokerNetwork: Send + Sync {
    /// `http://host:port` of the operator's port, if the broker can be there at all.
    fn endpoint(&self, hub: &Hub, pod: Option<&Pod>) -> Option<String>;
}

/// Brokers at their pods' addresses: no name has to be resolved, so a broker is called as soon as it has an address.
#[derive(Debug)]
pub struct PodNetwork;

impl BrokerNetwork for PodNetwork {
    fn endpoint(&self, _hub: &Hub, pod: Option<&Pod>) -> Option<String> {
        let address = pod?.status.as_ref()?.pod_ip.as_deref().filter(|address| !address.is_empty())?;
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Some(format!("http://{host}:{OPERATOR_PORT}"))
    }
}

/// Why a call to a broker failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no link to the hub now.
    #[error("the hub cannot be reached")]
    Unreachable,
    /// The broker refused.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl CallError {
    /// Whether another operator has taken over at the hub.
    pub fn is_fenced(&self) -> bool {
        matches!(self, CallError::Refused(failure) if failure.reason == Reason::OperatorFenced)
    }

    /// Whether what was planned no longer fits what is there: look again and plan anew.
    pub fn is_outdated(&self) -> bool {
        matches!(self, CallError::Refused(failure) if matches!(failure.reason,
            Reason::BindingMismatch | Reason::RevisionMismatch | Reason::TopicExists | Reason::UnknownTopic | Reason::TopicUidMismatch))
    }

    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_temporary(&self) -> bool {
        match self {
            CallError::Unreachable => true,
            CallError::Refused(failure) => failure.is_retryable() || failure.reason == Reason::Unavailable,
        }
    }
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        CallError::Refused(Failure::from_status(&status))
    }
}

/// Connects to a broker.
pub(crate) async fn connect(endpoint: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CONNECT)
        .timeout(CALL)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await
}
