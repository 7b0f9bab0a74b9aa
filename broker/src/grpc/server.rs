//! Listening: one port for clients, one for the operator, both with health and reflection; transport settings and the limit on
//! connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::operator::v1::cluster_service_server::ClusterServiceServer;
use tidegate_proto::operator::v1::operator_service_server::OperatorServiceServer;
use tidegate_proto::v1::group_service_server::GroupServiceServer;
use tidegate_proto::v1::metadata_service_server::MetadataServiceServer;
use tidegate_proto::v1::topic_service_server::TopicServiceServer;
use tidegate_proto::{operator, v1};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};
use tower::util::MapResponseLayer;

use super::Edge;
use super::authority::Guarded;
use super::bulk::{BulkConsumer, BulkProducer};
use super::cluster::Cluster;
use super::connection::{Connection, Counted};
use super::explain::explained;
use super::groups::Groups;
use super::metadata::Metadata;
use super::operator::Operator;
use super::topics::Topics;

/// Puts an ErrorInfo on refusals of the transport.
type Explained = MapResponseLayer<fn(http::Response<Body>) -> http::Response<Body>>;
/// Services of one port.
type Services = Router<Stack<Explained, Identity>>;

/// Receive window of a stream and of a connection: what keeps bulk streams from waiting for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_BYTES: u32 = 256 << 10;
/// A connection on which nothing is heard for so long is asked, and dropped without an answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Accepted connections that wait for the server.
const ACCEPTED: usize = 64;
/// What gRPC adds to a message, generously: topic names, uids, headers of records come on top of the payload.
const ENVELOPE_BYTES: usize = 64 << 10;

/// A running server.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    pub(crate) health: HealthReporter,
}

/// Serves clients and operator on listeners that are bound already, until `stop`.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    client: TcpListener,
    operator: TcpListener,
    stop: &CancellationToken,
) -> std::io::Result<(Served, Served)> {
    let client = start(client_services(&edge).await, client, &edge, stop, Some(edge.limits.max_connections))?;
    let operator = start(operator_services(&edge).await, operator, &edge, stop, None)?;
    Ok((client, operator))
}

fn start(
    (router, health): (Services, HealthReporter),
    listener: TcpListener,
    edge: &Arc<Edge>,
    stop: &CancellationToken,
    limit: Option<u32>,
) -> std::io::Result<Served> {
    let address = listener.local_addr()?;
    let (accepted, connections) = mpsc::channel(ACCEPTED);
    edge.tasks.spawn(accept(listener, accepted, Arc::clone(edge), limit, stop.clone()));
    let stop = stop.clone();
    let incoming = ReceiverStream::new(connections);
    let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await }));
    Ok(Served { address, task, health })
}

fn builder(edge: &Edge) -> tonic::transport::Server<Stack<Explained, Identity>> {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(edge.limits.max_streams_per_connection)
        .http2_max_header_list_size(edge.limits.max_headers_bytes)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapResponseLayer::new(explained as fn(_) -> _))
}

async fn client_services(edge: &Arc<Edge>) -> (Services, HealthReporter) {
    let message = edge.limits.max_request_bytes as usize + ENVELOPE_BYTES;
    let answer = usize::MAX;
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Details of errors, so that grpcurl and its like can print them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are compiled in");
    health.set_service_status("", ServingStatus::Serving).await;
    let router = builder(edge)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(BulkProducer::new(edge, message))
        .add_service(BulkConsumer::new(edge, message))
        .add_service(GroupServiceServer::new(Groups(Arc::clone(edge))).max_decoding_message_size(message))
        .add_service(MetadataServiceServer::new(Metadata(Arc::clone(edge))).max_encoding_message_size(answer))
        .add_service(TopicServiceServer::new(Topics(Arc::clone(edge))).max_encoding_message_size(answer));
    (router, health)
}

async fn operator_services(edge: &Arc<Edge>) -> (Services, HealthReporter) {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(operator::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are compiled in");
    health.set_service_status("", ServingStatus::Serving).await;
    let operator = OperatorServiceServer::new(Operator(Arc::clone(edge))).max_encoding_message_size(usize::MAX);
    let cluster = ClusterServiceServer::new(Cluster(Arc::clone(edge))).max_encoding_message_size(usize::MAX);
    let router = builder(edge)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(Guarded::new(edge, cluster))
        .add_service(Guarded::new(edge, operator));
    (router, health)
}

/// Accepts connections; beyond the limit they are closed at once and counted.
async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<std::io::Result<Connection>>,
    edge: Arc<Edge>,
    limit: Option<u32>,
    stop: CancellationToken,
) {
    let metrics = Arc::clone(&edge.metrics);
    let room = limit.map(|limit| Arc::new(Semaphore::new(limit as usize)));
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = stop.cancelled() => return,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most often too many open files: existing connections go on, and the next accept may succeed.
                tracing::warn!(%error, "a connection could not be accepted");
                edge.env.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permit = match &room {
            None => None,
            Some(room) => match Arc::clone(room).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    metrics.limit("limits.max_connections");
                    tracing::warn!(?limit, "a connection was refused: limits.max_connections are open");
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        if permit.is_some() {
            metrics.connections.inc();
        }
        let counted = permit.map(|permit| Counted { _permit: permit, metrics: Arc::clone(&metrics) });
        let connection = Connection::new(stream, &edge.env, &metrics, counted);
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}
