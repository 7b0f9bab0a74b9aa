//! HTTP for machines: `/metrics` (OpenMetrics), `/livez`, `/readyz`. Readiness needs neither quorum nor object store.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// Serves until `stop`.
pub(crate) fn serve(hub: Hub, listener: TcpListener, stop: CancellationToken) -> tokio::task::JoinHandle<std::io::Result<()>> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(hub);
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::spawn(async move { serving.await })
}

async fn metrics(State(hub): State<Hub>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], hub.metrics_text())
}

async fn ready(State(hub): State<Hub>) -> (StatusCode, String) {
    match hub.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
