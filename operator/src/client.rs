//! The client of the API server: counts its calls, makes not too many of them, and writes nothing once this process no longer leads.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::limit::RateLimitLayer;
use tower::{BoxError, Layer, Service};

use crate::lease::Term;
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

/// A leader's client: connects as [`connect`] does, makes at most so many calls a second, and refuses to write when the term is over.
pub async fn connect_for(metrics: Arc<Metrics>, calls_per_second: u32, term: Term) -> Result<Client, ConnectError> {
    let limit = RateLimitLayer::new(u64::from(calls_per_second.max(1)), Duration::from_secs(1));
    let builder = ClientBuilder::try_from(Config::infer().await?)?;
    Ok(builder.with_layer(&Counting { metrics }).with_layer(&limit).with_layer(&Gate::new(term)).build())
}

/// A write that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("this process leads no longer: nothing is written")]
pub struct TermOver;

/// Lets writes pass only while a term holds; reads pass always.
#[derive(Clone, Debug)]
pub struct Gate {
    term: Term,
}

impl Gate {
    /// For a term.
    pub fn new(term: Term) -> Gate {
        Gate { term }
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, term: self.term.clone() }
    }
}

/// A service behind a [`Gate`].
#[derive(Clone, Debug)]
pub struct Gated<S> {
    inner: S,
    term: Term,
}

impl<S, R> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = http::Response<R>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.method() != http::Method::GET && !self.term.holds() {
            return Box::pin(async { Err(TermOver.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn after_the_term_reads_pass_and_nothing_is_written() {
        let over = Term::until(Instant::now());
        let holds = Term::until(Instant::now() + Duration::from_secs(60));
        for (term, method, passes) in [
            (&over, "GET", true),
            (&over, "PATCH", false),
            (&over, "DELETE", false),
            (&over, "POST", false),
            (&holds, "PATCH", true),
            (&Term::endless(), "DELETE", true),
        ] {
            let inner = tower::service_fn(|_: http::Request<Body>| async { Ok::<_, BoxError>(http::Response::new(())) });
            let mut gated = Gate::new(term.clone()).layer(inner);
            let request = http::Request::builder().method(method).body(Body::empty()).unwrap();
            assert_eq!(gated.call(request).await.is_ok(), passes, "{method}");
        }
    }
}
