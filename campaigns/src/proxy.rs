//! An HTTP proxy in front of a real object store, that misbehaves as it is told. Requests and answers pass as they are otherwise, so signatures hold.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it is.
    Good,
    /// Connections are taken and dropped.
    Down,
    /// Every answer comes so late.
    Slow(Duration),
    /// Two of three requests are answered with 503 SlowDown and go nowhere.
    Busy,
    /// Every second change is made and then answered with 500.
    LostAnswers,
    /// Everything is refused with 403.
    Refusing,
    /// Bodies of answers end after half of their bytes.
    Truncating,
    /// One byte of each body that is read is wrong.
    WrongBytes,
    /// CompleteMultipartUpload is answered with 200 and an error in its body, and not done.
    FalseComplete,
    /// Requests wait until the mood changes.
    Frozen,
}

impl Mood {
    /// All that hurt.
    pub const BAD: [Mood; 8] = [
        Mood::Down,
        Mood::Slow(Duration::from_millis(700)),
        Mood::Busy,
        Mood::LostAnswers,
        Mood::Refusing,
        Mood::Truncating,
        Mood::WrongBytes,
        Mood::FalseComplete,
    ];
}

/// A kind of request, to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An object is about to be uploaded.
    Put,
    /// Something is read back.
    Get,
    /// An object is about to be deleted.
    Delete,
}

#[derive(Debug)]
struct State {
    mood: watch::Sender<Mood>,
    /// The next request of this kind tells the waiter, and is held until it says to go on.
    trap: Mutex<Option<(Step, tokio::sync::oneshot::Sender<tokio::sync::oneshot::Sender<()>>)>>,
    requests: AtomicU64,
    hurt: AtomicU64,
    backend: SocketAddr,
}

/// A proxy that runs; dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before `backend`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(backend: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            mood: watch::Sender::new(Mood::Good),
            trap: Mutex::new(None),
            requests: AtomicU64::new(0),
            hurt: AtomicU64::new(0),
            backend,
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        let task = tokio::spawn(accept(listener, state.clone(), client));
        Ok(Proxy { address, state, task })
    }

    /// Changes how it behaves.
    pub fn set(&self, mood: Mood) {
        self.state.mood.send_replace(mood);
    }

    /// Requests so far, and those that were hurt.
    pub fn counts(&self) -> (u64, u64) {
        (self.state.requests.load(Ordering::Relaxed), self.state.hurt.load(Ordering::Relaxed))
    }

    /// Waits for the next request of this kind and holds it; it goes on when what is given back is dropped.
    ///
    /// # Errors
    /// If none comes within `limit`.
    pub async fn catch(&self, step: Step, limit: Duration) -> Result<tokio::sync::oneshot::Sender<()>> {
        let (told, hears) = tokio::sync::oneshot::channel();
        *self.state.trap.lock() = Some((step, told));
        tokio::time::timeout(limit, hears)
            .await
            .with_context(|| format!("no {step:?} within {limit:?}"))?
            .context("the proxy ended")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, client: Client<HttpConnector, Full<Bytes>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        if *state.mood.borrow() == Mood::Down {
            state.hurt.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (state, client) = (state.clone(), client.clone());
        tokio::spawn(async move {
            let mut moods = state.mood.subscribe();
            let service = service_fn(|request| answer(request, state.clone(), client.clone()));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            loop {
                tokio::select! {
                    biased;
                    // Whether the client went or we cut an answer short, the connection is over.
                    _ = &mut connection => return,
                    changed = moods.changed() => if changed.is_err() || *moods.borrow() == Mood::Down { return },
                }
            }
        });
    }
}

/// An answer whose body may break off.
type Answer = Response<http_body_util::combinators::BoxBody<Bytes, std::io::Error>>;

fn whole(response: Response<Bytes>) -> Answer {
    response.map(|body| Full::new(body).map_err(|never: Infallible| match never {}).boxed())
}

fn plain(status: StatusCode, code: &str) -> Answer {
    let body =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>made by a test</Message></Error>");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/xml"));
    whole(response)
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
    client: Client<HttpConnector, Full<Bytes>>,
) -> Result<Answer, std::io::Error> {
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let changes = matches!(*request.method(), Method::PUT | Method::POST | Method::DELETE);
    let completes = request.method() == Method::POST && request.uri().query().is_some_and(|query| query.contains("uploadId="));
    hold(&request, &state).await;
    let mood = *state.mood.borrow();
    let hurt = || state.hurt.fetch_add(1, Ordering::Relaxed);
    match mood {
        Mood::Slow(time) => {
            hurt();
            tokio::time::sleep(time).await;
        }
        Mood::Busy if !number.is_multiple_of(3) => {
            hurt();
            return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
        }
        Mood::Refusing => {
            hurt();
            return Ok(plain(StatusCode::FORBIDDEN, "AccessDenied"));
        }
        Mood::FalseComplete if completes => {
            hurt();
            return Ok(plain(StatusCode::OK, "InternalError"));
        }
        Mood::Down => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Mood::Frozen => {
            hurt();
            let mut moods = state.mood.subscribe();
            let _ = moods.wait_for(|mood| *mood != Mood::Frozen).await;
        }
        _ => {}
    }
    let reads = request.method() == Method::GET;
    let response = forward(request, &state, &client).await?;
    let succeeded = response.status().is_success();
    match mood {
        Mood::LostAnswers if changes && number.is_multiple_of(2) => {
            hurt();
            Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
        }
        Mood::Truncating if reads && succeeded && response.body().len() > 1 => {
            hurt();
            Ok(cut(response))
        }
        Mood::WrongBytes if reads && succeeded && !response.body().is_empty() => {
            hurt();
            Ok(whole(response.map(|body| {
                let mut bytes = body.to_vec();
                let at = number as usize * 7919 % bytes.len();
                bytes[at] ^= 0x40;
                bytes.into()
            })))
        }
        _ => Ok(whole(response)),
    }
}

/// Tells whoever waits for such a request, and waits until it may go on.
async fn hold(request: &Request<Incoming>, state: &State) {
    let step = match *request.method() {
        Method::PUT => Step::Put,
        Method::GET | Method::HEAD => Step::Get,
        Method::DELETE => Step::Delete,
        _ => return,
    };
    let trapped = {
        let mut trap = state.trap.lock();
        match &*trap {
            Some((wanted, _)) if *wanted == step => trap.take(),
            _ => None,
        }
    };
    if let Some((_, told)) = trapped {
        let (go_on, waits) = tokio::sync::oneshot::channel();
        if told.send(go_on).is_ok() {
            let _ = waits.await;
        }
    }
}

async fn forward(
    request: Request<Incoming>,
    state: &State,
    client: &Client<HttpConnector, Full<Bytes>>,
) -> Result<Response<Bytes>, std::io::Error> {
    let other = |error: String| std::io::Error::other(error);
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| other(error.to_string()))?.to_bytes();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    // The Host header stays what the client signed.
    head.uri = format!("http://{}{path}", state.backend).parse().map_err(|error| other(format!("{error}")))?;
    let response = client.request(Request::from_parts(head, Full::new(body))).await.map_err(|error| other(error.to_string()))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| other(error.to_string()))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// An answer that promises all bytes and breaks off after half of them.
fn cut(response: Response<Bytes>) -> Answer {
    response.map(|body| {
        let half = body.slice(..body.len() / 2);
        let frames = [Ok(hyper::body::Frame::data(half)), Err(std::io::ErrorKind::ConnectionReset.into())];
        http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed()
    })
}
