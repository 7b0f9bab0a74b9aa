//! Taking the messages of other brokers: each stream is read in order, each request goes to its journal, answers go back as they come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tidegate_journal::raft::Message;
use tidegate_model::JournalId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::Inner;
use super::client::{EXCHANGE, FROM, HUB, TO};
use super::codec::{Frame, Frames};

/// Bytes of one stream's requests that are not answered yet; beyond it nothing more is read. More than a sender's own budget, so that
/// it binds only a sender that keeps to none.
const UNANSWERED_BYTES: usize = 96 << 20;
/// The longest request: one entry, or a part of a snapshot.
const FRAME_BYTES: usize = 80 << 20;
/// Answers handed to HTTP/2 ahead of its flow control.
const WRITING: usize = 64;
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const KEEPALIVE: Duration = Duration::from_secs(5);

pub(super) fn serve(inner: Arc<Inner>, listener: TcpListener, beside: Routes) -> std::io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let (tasks, stopping) = (inner.tasks.clone(), inner.stopping.clone());
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(256 << 10)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(beside)
        .add_service(PeerServer { inner });
    tasks.spawn(async move {
        // What a server is told of TCP_NODELAY holds only for what it accepts itself: answers would wait 40 ms for acknowledgements of earlier ones.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        // Streams between brokers never end by themselves: the server is dropped, not drained.
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            served = router.serve_with_incoming(incoming) => if let Err(error) = served {
                tracing::error!(%error, "the listener for peers ended");
            },
        }
    });
    Ok(address)
}

#[derive(Clone)]
struct PeerServer {
    inner: Arc<Inner>,
}

impl NamedService for PeerServer {
    const NAME: &'static str = "tidegate.peer.v1.PeerService";
}

impl Service<http::Request<Body>> for PeerServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let exchange = Exchange { inner: Arc::clone(&self.inner) };
        async move {
            if request.uri().path() != EXCHANGE {
                return Ok(Status::unimplemented("PeerService has the call Exchange and no other").into_http());
            }
            let mut grpc = Grpc::new(Frames).apply_max_message_size_config(Some(FRAME_BYTES), Some(usize::MAX));
            Ok(grpc.streaming(exchange, request).await)
        }
        .boxed()
    }
}

struct Exchange {
    inner: Arc<Inner>,
}

impl StreamingService<Frame> for Exchange {
    type Response = Frame;
    type ResponseStream = ReceiverStream<Result<Frame, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        async move {
            admit(&inner, request.metadata())?;
            let (answers, written) = mpsc::channel(WRITING);
            let (tasks, stopping) = (inner.tasks.clone(), inner.stopping.clone());
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => {}
                    () = take(inner, request.into_inner(), answers) => {}
                }
            });
            Ok(Response::new(ReceiverStream::new(written)))
        }
        .boxed()
    }
}

/// Refuses callers of another hub, and those who look for another broker.
fn admit(inner: &Inner, metadata: &MetadataMap) -> Result<(), Status> {
    let told = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = |problem: String| Err(Status::failed_precondition(problem));
    if told(HUB) != inner.hub.to_string() {
        return refused(format!(
            "this broker belongs to hub {}, the caller (broker {}) to `{}`",
            inner.hub,
            told(FROM),
            told(HUB)
        ));
    }
    if told(TO) != inner.broker.to_string() {
        return refused(format!(
            "this is broker {}, the caller looks for broker `{}`: its list of peers is wrong",
            inner.broker,
            told(TO)
        ));
    }
    Ok(())
}

async fn take(inner: Arc<Inner>, mut requests: Streaming<Frame>, answers: mpsc::Sender<Result<Frame, Status>>) {
    let mut unanswered = 0;
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some((id, bytes, answer)) = waiting.next(), if !waiting.is_empty() => {
                let answer: Message = answer;
                unanswered -= bytes;
                if answers.send(Ok(Frame { id, journal: answer.journal.0, chunks: answer.chunks })).await.is_err() {
                    return;
                }
            }
            request = requests.message(), if unanswered < UNANSWERED_BYTES => {
                let Ok(Some(Frame { id, journal, chunks })) = request else { return };
                let message = Message { journal: JournalId(journal), chunks };
                let bytes = message.bytes();
                unanswered += bytes;
                let journal = inner.journals.read().get(&message.journal).cloned();
                let accepted = match journal {
                    Some(journal) => Ok(journal.accept(message).await),
                    None => Err(Message::refusal(message.journal, "this broker has no replica of it now")),
                };
                waiting.push(async move {
                    let answer = match accepted {
                        Ok(accepted) => accepted.answer().await,
                        Err(refusal) => refusal,
                    };
                    (id, bytes, answer)
                });
            }
        }
    }
}
