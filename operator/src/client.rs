//! The client of the API server: counts its calls.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::metrics::Metrics;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The environment says nothing usable.
    #[error("neither a pod's service account nor a kubeconfig can be used")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

/// Connects as the environment says: in a pod, or by a kubeconfig.
pub async fn connect(metrics: Arc<Metrics>) -> Result<Client, ConnectError> {
    Ok(build(Config::infer().await?, metrics)?)
}

/// A client for a configuration.
pub fn build(config: Config, metrics: Arc<Metrics>) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&Counting { metrics }).build())
}

/// Counts calls by verb and answer.
#[derive(Clone, Debug)]
pub struct Counting {
    metrics: Arc<Metrics>,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: Arc::clone(&self.metrics) }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, R> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let verb = match (request.method().as_str(), query.contains("watch=true")) {
            (_, true) => "watch",
            ("GET", _) if query.contains("limit=") || query.contains("resourceVersion=") => "list",
            ("GET", _) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("DELETE", _) => "delete",
            _ => "patch",
        };
        let metrics = Arc::clone(&self.metrics);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status().as_u16().to_string());
            metrics.called(verb, &code);
            answer
        })
    }
}
