//! A layer around the calls of the API server that a client makes: a test sees each one, and may keep it, or its answer, from arriving.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kube::client::Body;
use tower::{Layer, Service};

/// What a test does with calls.
pub(crate) trait Watcher: Clone + Send + 'static {
    /// What is remembered of a call until its answer.
    type Asked: Send;

    /// Before a call; `None`: it never arrives, and never ends.
    fn asked(&self, method: &http::Method, uri: &http::Uri) -> Option<Self::Asked>;

    /// After it was answered. False: nobody hears of it.
    fn answered(&self, asked: Self::Asked, status: http::StatusCode) -> bool;
}

/// The layer.
#[derive(Clone)]
pub(crate) struct Watched<W>(pub(crate) W);

impl<S, W: Watcher> Layer<S> for Watched<W> {
    type Service = Calls<S, W>;

    fn layer(&self, inner: S) -> Calls<S, W> {
        Calls { inner, watcher: self.0.clone() }
    }
}

/// Calls that are watched.
#[derive(Clone)]
pub(crate) struct Calls<S, W> {
    inner: S,
    watcher: W,
}

impl<S, W, R> Service<http::Request<Body>> for Calls<S, W>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
    W: Watcher,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(asked) = self.watcher.asked(request.method(), request.uri()) else {
            return Box::pin(std::future::pending());
        };
        let (watcher, answer) = (self.watcher.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await?;
            if !watcher.answered(asked, answer.status()) {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        })
    }
}
