//! What stands between the operator and those it talks to: a gRPC proxy that loses one call, a client whose watches are always late.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use kube::client::Body;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{Layer, Service, ServiceExt};

use crate::faults::Moment;

/// A proxy in front of a broker's port for the operator. It ends with this.
pub(crate) struct Between {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Cutter {
    channel: Channel,
    at: usize,
    moment: Moment,
    calls: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    async fn pass(mut self, request: axum::extract::Request) -> axum::response::Response {
        // What only reads is tried again without end anyway.
        let path = request.uri().path();
        let counts = !path.ends_with("/WatchTopics") && !path.ends_with("/GetStatistics");
        let strikes = counts && self.calls.fetch_add(1, Ordering::SeqCst) == self.at;
        if strikes {
            self.cuts.fetch_add(1, Ordering::SeqCst);
            if self.moment == Moment::Before {
                return tonic::Status::unavailable("cut before it arrived").into_http();
            }
        }
        let answer = async { self.channel.ready().await?.call(request.map(tonic::body::Body::new)).await }.await;
        match answer {
            Ok(answer) if strikes => {
                let _ = answer.into_body().collect().await;
                tonic::Status::unavailable("cut after it was done").into_http()
            }
            Ok(answer) => answer.map(axum::body::Body::new),
            Err(error) => tonic::Status::unavailable(error.to_string()).into_http(),
        }
    }
}

impl Between {
    /// In front of a broker: the call of this number, counted from 0, is cut.
    pub(crate) async fn start(broker: SocketAddr, at: usize, moment: Moment) -> Between {
        let channel = Endpoint::from_shared(format!("http://{broker}")).unwrap().connect_lazy();
        let (calls, cuts) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let cutter = Cutter { channel, at, moment, calls: Arc::clone(&calls), cuts: Arc::clone(&cuts) };
        let router = axum::Router::new().fallback(move |request| cutter.clone().pass(request));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Server::builder().add_routes(router.into()).serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { served.await.unwrap() });
        Between { address, calls, cuts, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Calls that do something, so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Calls that were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// How late a late watch is: longer than anything that the operator does takes.
const LATE: Duration = Duration::from_millis(1500);

/// A layer under which what watches tell comes late, so that whatever rests on it is old.
#[derive(Clone)]
pub(crate) struct Late {
    kinds: Option<&'static str>,
    delayed: Arc<AtomicUsize>,
}

impl Late {
    /// For watches whose path has this part; for none.
    pub(crate) fn new(kinds: Option<&'static str>) -> Late {
        Late { kinds, delayed: Arc::default() }
    }

    /// Parts of watches that came late so far.
    pub(crate) fn delayed(&self) -> usize {
        self.delayed.load(Ordering::SeqCst)
    }
}

impl<S> Layer<S> for Late {
    type Service = Delayed<S>;

    fn layer(&self, inner: S) -> Delayed<S> {
        Delayed { inner, late: self.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Delayed<S> {
    inner: S,
    late: Late,
}

type Frames<E> = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, E>> + Send>>;

impl<S, R> Service<http::Request<Body>> for Delayed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = http::Response<StreamBody<Frames<R::Error>>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let is_late = is_watch && self.late.kinds.is_some_and(|kinds| request.uri().path().contains(kinds));
        let delayed = Arc::clone(&self.late.delayed);
        let answer = self.inner.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| {
                let frames = BodyStream::new(body);
                let frames: Frames<R::Error> = if is_late {
                    let late = move |frame| {
                        delayed.fetch_add(1, Ordering::SeqCst);
                        async move {
                            tokio::time::sleep(LATE).await;
                            frame
                        }
                    };
                    Box::pin(frames.map(late).buffered(256))
                } else {
                    Box::pin(frames)
                };
                StreamBody::new(frames)
            }))
        })
    }
}
