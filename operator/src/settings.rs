//! Settings of the operator: flags and environment variables.

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Act in this namespace only. Default: in all.
    #[arg(long, env = "TIDEGATE_NAMESPACE")]
    pub namespace: Option<String>,
    /// The image of brokers whose Hub names none.
    #[arg(long, env = "TIDEGATE_BROKER_IMAGE", default_value = "tidegate:0.1.0")]
    pub broker_image: String,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, env = "TIDEGATE_METRICS_LISTEN", default_value = "0.0.0.0:8080")]
    pub metrics_listen: SocketAddr,
    /// The namespace of the Lease that elects the leader; the operator's own.
    #[arg(long, env = "TIDEGATE_LEASE_NAMESPACE", default_value = "tidegate-system")]
    pub lease_namespace: String,
    /// The Lease that elects the leader.
    #[arg(long, env = "TIDEGATE_LEASE_NAME", default_value = "tidegate-operator")]
    pub lease_name: String,
    /// Who this process is among its replicas. Default: the pod's name (HOSTNAME), else a random one.
    #[arg(long, env = "HOSTNAME", default_value = "")]
    pub identity: String,
    /// Time between two measurements of each hub, in seconds.
    #[arg(long, env = "TIDEGATE_MEASURE_SECONDS", default_value_t = 30)]
    pub measure_seconds: u64,
    /// Measured numbers are written into the status of at most so many Topics of a hub in a second, 1 to 1000.
    #[arg(long, env = "TIDEGATE_STATUS_WRITES_PER_SECOND", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub status_writes_per_second: u32,
    /// The leader asks the API server at most so many times in a second, 1 to 10000; more waits. A watch counts once, when it begins; the Lease does
    /// not wait behind the others.
    #[arg(long, env = "TIDEGATE_API_CALLS_PER_SECOND", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub api_calls_per_second: u32,
    /// For tests: how long a deletion waits for its hub.
    #[arg(skip)]
    pub deletion_patience: Option<Duration>,
}

impl Settings {
    /// What this installation calls itself on the hubs that it acts on.
    pub fn installation(&self) -> String {
        format!("{}/{}", self.lease_namespace, self.lease_name)
    }
}
