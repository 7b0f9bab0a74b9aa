//! HTTP for machines: `/metrics` (OpenMetrics), `/livez`, `/readyz`. Readiness needs neither quorum nor object store.
//!
//! A few connections at a time, each of which must have sent its headers within [`HEADERS_WITHIN`]: a port for probes must not cost the
//! broker its file descriptors.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidegate_env::Env;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::Hub;

/// Connections at a time; those beyond are closed at once.
const MOST_CONNECTIONS: usize = 128;
/// Headers of a request must be there within so long; an idle connection is kept as long.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a request's headers at most.
const MOST_HEADER_BYTES: usize = 64 << 10;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`.
pub(crate) fn serve(
    hub: Hub,
    env: Env,
    listener: TcpListener,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<std::io::Result<()>> {
    let metrics = hub.metrics();
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(hub);
    tokio::spawn(async move {
        let (room, tasks) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), TaskTracker::new());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let Ok((stream, _)) = accepted else {
                env.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                metrics.limit("128 connections of listeners.http");
                continue;
            };
            let (router, env, stop) = (router.clone(), env.clone(), stop.clone());
            tasks.spawn(async move {
                connection(router, &env, stream, &stop).await;
                drop(permit);
            });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}

async fn connection(router: Router, env: &Env, stream: TcpStream, stop: &CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(MOST_HEADER_BYTES);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    // An answer under way is finished; who takes no answer is not waited for.
    tokio::select! {
        _ = serving => {}
        () = env.clock.sleep(HEADERS_WITHIN) => {}
    }
}

async fn metrics_text(State(hub): State<Hub>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], hub.metrics_text())
}

async fn ready(State(hub): State<Hub>) -> (StatusCode, String) {
    match hub.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
