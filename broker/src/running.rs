//! One broker from settings to sockets, and back down: stop intake, drain, flush, checkpoint, under a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_env::Env;
use tidegate_model::{BatchLimits, HubId, RecordValidation};
use tidegate_tier::ObjectStore;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fleet::{self, GrpcTransport, Network};
use crate::grpc::{self, Edge, Served};
use crate::http;
use crate::hub::{Hub, OpenError};
use crate::settings::{BrokerSettings, Limits, ListenerSettings, OperatorKeys, SettingError};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The object store cannot be set up.
    #[error("cannot set up the object store")]
    Store(#[source] tidegate_tier::StoreError),
    /// The hub did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A port cannot be listened on.
    #[error("cannot listen on listeners.{listener} = {address}: is another process there? Give another port, or 0 for any")]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

/// A broker that serves.
pub struct RunningBroker {
    /// Where clients' gRPC listens.
    pub client_addr: SocketAddr,
    /// Where the operator's gRPC listens.
    pub operator_addr: SocketAddr,
    /// Where HTTP listens.
    pub http_addr: SocketAddr,
    /// The hub's identity.
    pub hub_id: HubId,
    hub: Hub,
    /// The port for peers, where there is one.
    transport: Option<Arc<GrpcTransport>>,
    edge: Arc<Edge>,
    client: Served,
    operator: Served,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
    stop: CancellationToken,
    deadline: Duration,
}

/// Opens the hub and listens. Nothing listens before the hub is open. Cancelling the future leaves nothing behind but files.
pub async fn serve(mut settings: BrokerSettings, env: Env) -> Result<RunningBroker, ServeError> {
    settings.validate()?;
    settings.hub.process_id = std::process::id();
    let store = crate::stores::open(&settings.object_store, &env).await.map_err(ServeError::Store)?;
    serve_with(settings, env, store).await
}

/// As [`serve`], over a given object store.
pub async fn serve_with(settings: BrokerSettings, env: Env, store: Arc<dyn ObjectStore>) -> Result<RunningBroker, ServeError> {
    settings.validate()?;
    let operator_keys = settings.operator.keys(&env, settings.listeners.operator.ip().is_loopback())?;
    if matches!(operator_keys, OperatorKeys::Closed) {
        tracing::warn!(
            "calls of the operator will be refused: listeners.operator = {} is not on loopback, and neither operator.public_key nor \
             operator.public_key_file is set",
            settings.listeners.operator
        );
    }
    // Ports first: a port that is taken should not cost a recovery.
    let client = listen("client", settings.listeners.client).await?;
    let operator = listen("operator", settings.listeners.operator).await?;
    let http = listen("http", settings.listeners.http).await?;
    let peer = match settings.listeners.peer {
        Some(address) => Some(listen("peer", address).await?),
        None => None,
    };
    let stop = CancellationToken::new();
    let address = |listener: &TcpListener, name, configured| {
        listener.local_addr().map_err(|source| ServeError::Listen { listener: name, address: configured, source })
    };
    let http_addr = address(&http, "http", settings.listeners.http)?;
    let client_addr = address(&client, "client", settings.listeners.client)?;
    let bound = Bound { client: client_addr, operator: address(&operator, "operator", settings.listeners.operator)? };
    let (network, transport) = network(&settings.listeners, &env, peer, bound)?;
    let hub = Hub::open_in(settings.hub.clone(), &settings.limits, &env, store, network).await?;
    if let Some(transport) = &transport {
        transport.attach(&hub);
    }
    let edge = Arc::new(Edge {
        hub: hub.clone(),
        env,
        batch_limits: batch_limits(&settings.limits),
        metrics: hub.metrics(),
        in_flight: Arc::new(Semaphore::new(grpc::permits(settings.limits.max_in_flight_bytes))),
        draining: CancellationToken::new(),
        tasks: TaskTracker::new(),
        endpoint: settings.listeners.advertised.clone().unwrap_or_else(|| client_addr.to_string()),
        operator_keys,
        grace: Duration::from_millis(settings.shutdown_deadline_ms),
        limits: settings.limits,
    });
    let (client, operator) = grpc::serve(Arc::clone(&edge), client, operator, &stop)
        .await
        .map_err(|source| ServeError::Listen { listener: "client", address: client_addr, source })?;
    let http = http::serve(hub.clone(), edge.env.clone(), http, stop.clone());
    tracing::info!(hub = %hub.id(), client = %client.address, operator = %operator.address, http = %http_addr, "serving");
    Ok(RunningBroker {
        client_addr: client.address,
        operator_addr: operator.address,
        http_addr,
        hub_id: hub.id(),
        hub,
        transport,
        edge,
        client,
        operator,
        http,
        stop,
        deadline: Duration::from_millis(settings.shutdown_deadline_ms),
    })
}

/// Where listeners came to.
struct Bound {
    client: SocketAddr,
    operator: SocketAddr,
}

/// The way to other brokers, if there is a port for them, and what they are told of this one.
fn network(
    listeners: &ListenerSettings,
    env: &Env,
    peer: Option<TcpListener>,
    bound: Bound,
) -> Result<(Network, Option<Arc<GrpcTransport>>), ServeError> {
    let (Some(peer), Some(configured)) = (peer, listeners.peer) else { return Ok((Network::none(), None)) };
    let unnamed = |source| ServeError::Listen { listener: "peer", address: configured, source };
    let peer_addr = peer.local_addr().map_err(unnamed)?;
    let told = |given: &Option<String>, bound: SocketAddr| given.clone().unwrap_or_else(|| bound.to_string());
    let advertised = vec![
        (fleet::CLIENT.to_owned(), told(&listeners.advertised, bound.client)),
        (fleet::OPERATOR.to_owned(), told(&listeners.advertised_operator, bound.operator)),
        (fleet::PEER.to_owned(), told(&listeners.advertised_peer, peer_addr)),
    ];
    let transport = Arc::new(GrpcTransport::new(env.clone(), peer));
    Ok((Network { transport: Arc::clone(&transport) as Arc<dyn fleet::Transport>, advertised }, Some(transport)))
}

async fn listen(listener: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { listener, address, source })
}

/// What a client's batch may be.
fn batch_limits(limits: &Limits) -> BatchLimits {
    BatchLimits {
        max_batch_bytes: limits.max_message_bytes as usize,
        max_decompressed_bytes: limits.max_decompressed_bytes.into(),
        max_compression_ratio: limits.max_compression_ratio.into(),
        max_headers_bytes: limits.max_headers_bytes.into(),
        validate_records: RecordValidation::Walk,
        ..BatchLimits::default()
    }
}

impl RunningBroker {
    /// Where other brokers reach this one; `None` if it is alone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.transport.as_ref().and_then(|transport| transport.address())
    }

    /// The hub under the edges.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Resolves, with the reason, when the broker cannot go on: the process must end.
    pub async fn failed(&self) -> String {
        self.hub.failed().await
    }

    /// Stops: says goodbye on streams and refuses appends, waits for calls under way, closes the hub; all within
    /// `shutdown_deadline_ms`.
    pub async fn shutdown(self) {
        self.client.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        self.operator.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        // Others lead before this one refuses anything.
        self.hub.hand_over().await;
        self.hub.stop_intake();
        self.edge.draining.cancel();
        self.stop.cancel();
        self.edge.tasks.close();
        let drained = async {
            self.edge.tasks.wait().await;
            let _ = tokio::join!(self.client.task, self.operator.task, self.http);
        };
        // Half of the time for clients, the rest for the hub's own end.
        tokio::select! {
            () = drained => {}
            () = self.edge.env.clock.sleep(self.deadline / 2) => tracing::warn!("clients did not finish in time and are cut off"),
        }
        self.hub.shutdown(self.deadline / 2).await;
        if let Some(transport) = &self.transport {
            transport.stop().await;
        }
        tracing::info!("stopped");
    }
}
