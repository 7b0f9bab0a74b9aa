//! The transport of a real broker: questions as unary calls and Raft by [`PeerNetwork`], both on the port for peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_env::Env;
use tidegate_journal::Journal;
use tidegate_journal::raft::Peers;
use tidegate_model::{BrokerId, HubId, JournalId};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::fleet_service_client::FleetServiceClient;
use tidegate_proto::internal::v1::fleet_service_server::{FleetService, FleetServiceServer};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::{AskError, Told, Transport};
use crate::hub::{Hub, Inner};
use crate::peers::PeerNetwork;

/// The longest question or answer: a lot of units and one as long as the log takes.
const MESSAGE_BYTES: usize = 24 << 20;
const CONNECT: Duration = Duration::from_secs(2);
/// A connection on which nothing is heard for so long is asked, and dropped without an answer.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// The port for peers and the connections to others'.
pub(crate) struct GrpcTransport {
    env: Env,
    listener: Mutex<Option<TcpListener>>,
    address: OnceLock<SocketAddr>,
    network: OnceLock<PeerNetwork>,
    hub: Arc<OnceLock<Weak<Inner>>>,
    channels: Mutex<BTreeMap<String, FleetServiceClient<Channel>>>,
}

impl GrpcTransport {
    /// Takes over a bound listener; serves it once the hub is known.
    pub(crate) fn new(env: Env, listener: TcpListener) -> GrpcTransport {
        GrpcTransport {
            env,
            listener: Mutex::new(Some(listener)),
            address: OnceLock::new(),
            network: OnceLock::new(),
            hub: Arc::default(),
            channels: Mutex::default(),
        }
    }

    /// Where it listens, once it does.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    /// Answers questions from now on.
    pub(crate) fn attach(&self, hub: &Hub) {
        let _ = self.hub.set(Arc::downgrade(&hub.inner));
    }

    /// Ends all connections and the listener.
    pub(crate) async fn stop(&self) {
        self.channels.lock().clear();
        if let Some(network) = self.network.get() {
            network.stop().await;
        }
    }

    fn serve(&self, network: &PeerNetwork) -> std::io::Result<Option<SocketAddr>> {
        let Some(listener) = self.listener.lock().take() else { return Ok(None) };
        let service = FleetServiceServer::new(Answering { hub: Arc::clone(&self.hub) })
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        network.serve_with(listener, tonic::service::Routes::new(service)).map(Some)
    }

    fn client(&self, address: &str) -> Result<FleetServiceClient<Channel>, AskError> {
        let mut channels = self.channels.lock();
        if let Some(known) = channels.get(address) {
            return Ok(known.clone());
        }
        let unfit =
            |error: tonic::transport::Error| AskError::Unreachable { address: address.to_owned(), reason: error.to_string() };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(unfit)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let client = FleetServiceClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        channels.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

impl Transport for GrpcTransport {
    fn begin(&self, hub: HubId, broker: BrokerId) -> Arc<dyn Peers> {
        let network = self.network.get_or_init(|| PeerNetwork::new(hub, broker, self.env.clone()));
        match self.serve(network) {
            Ok(Some(address)) => {
                tracing::info!(%address, "serving peers");
                let _ = self.address.set(address);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the port for peers cannot be served"),
        }
        network.links().peers
    }

    fn locate(&self, broker: BrokerId, address: &str) {
        if let Some(network) = self.network.get() {
            network.locate(broker, address.to_owned());
        }
    }

    fn register(&self, journal: &Journal) {
        if let Some(network) = self.network.get() {
            network.register(journal);
        }
    }

    fn unregister(&self, journal: JournalId) {
        if let Some(network) = self.network.get() {
            network.unregister(journal);
        }
    }

    fn ask(&self, address: &str, request: wired::Request) -> Told {
        let (client, address) = (self.client(address), address.to_owned());
        Box::pin(async move {
            match client?.ask(request).await {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(unanswered(address, &status)),
            }
        })
    }
}

/// A connection that could not be made carried nothing; after any other failure nobody knows.
fn unanswered(address: String, status: &Status) -> AskError {
    let mut source = std::error::Error::source(status);
    let mut refused = false;
    while let Some(error) = source {
        let is_connect = error.downcast_ref::<std::io::Error>().is_some_and(|io| {
            matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::HostUnreachable
                    | std::io::ErrorKind::NetworkUnreachable
            )
        });
        refused |= is_connect;
        source = error.source();
    }
    let reason = status.message().to_owned();
    // A peer that is not open yet says so itself, having done nothing.
    if refused || Failure::from_status(status).reason == Reason::ShuttingDown {
        return AskError::Unreachable { address, reason };
    }
    AskError::Broken { address, reason }
}

struct Answering {
    hub: Arc<OnceLock<Weak<Inner>>>,
}

#[tonic::async_trait]
impl FleetService for Answering {
    async fn ask(&self, request: Request<wired::Request>) -> Result<Response<wired::Answer>, Status> {
        let Some(inner) = self.hub.get().and_then(Weak::upgrade) else {
            return Err(Failure::new(Reason::ShuttingDown, "this broker is not open yet: try again").into_status());
        };
        Ok(Response::new(Hub { inner }.answer(request.into_inner()).await))
    }
}
