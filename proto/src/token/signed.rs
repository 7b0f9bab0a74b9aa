//! A gRPC channel whose unary calls carry tokens.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue};
use http_body_util::{BodyExt, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tower_service::Service;

use super::{Call, SigningKey, sign};
use crate::framing::PREFIX_BYTES;

/// The present time in seconds since the Unix epoch.
type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Signs each request of the channel below, for clients as `OperatorServiceClient::new(Signed::new(channel, key, hub, now))`. Requests are one
/// message each, uncompressed, and are gathered before they are sent.
#[derive(Clone)]
pub struct Signed<S> {
    channel: S,
    key: Arc<SigningKey>,
    hub: uuid::Uuid,
    now: Now,
}

impl<S> Signed<S> {
    /// Signs for a hub; `now` answers seconds since the Unix epoch.
    pub fn new(channel: S, key: Arc<SigningKey>, hub: uuid::Uuid, now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Signed { channel, key, hub, now: Arc::new(now) }
    }
}

impl<S> Service<http::Request<Body>> for Signed<S>
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<S::ResponseBody>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes with the call; its copy has to become ready again.
        let copy = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, copy);
        let (key, hub, now) = (Arc::clone(&self.key), self.hub, (self.now)());
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let message = bytes.get(PREFIX_BYTES..).ok_or_else(|| Status::internal("a request without a message"))?;
            let token = sign(&key, &Call { hub, method: head.uri.path(), now }, message);
            let value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            head.headers.insert(AUTHORIZATION, value);
            channel.call(http::Request::from_parts(head, Body::new(Full::new(bytes)))).await.map_err(Into::into)
        })
    }
}
