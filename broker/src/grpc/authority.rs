//! The guard before the operator's service: lets a call through if its token is right for it. What the calls do is not known here.
//!
//! Headers are judged before a byte of the request is read, and a request may take [`MOST_REQUEST_BYTES`]: strangers cost no memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use tidegate_proto::errors::{Failure, LIMIT, Reason};
use tidegate_proto::framing::PREFIX_BYTES;
use tidegate_proto::token::{self, Call, Refused};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::Edge;
use crate::settings::OperatorKeys;

/// Largest request of the operator with its prefix.
const MOST_REQUEST_BYTES: usize = 1 << 20;
/// A request must have arrived within so long.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    edge: Arc<Edge>,
    inner: S,
}

impl<S> Guarded<S> {
    pub(crate) fn new(edge: &Arc<Edge>, inner: S) -> Self {
        Guarded { edge: Arc::clone(edge), inner }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let edge = Arc::clone(&self.edge);
        Box::pin(async move {
            match admitted(&edge, request).await {
                Ok(request) => inner.call(request).await,
                Err(failure) => {
                    tracing::warn!(reason = ?failure.reason, "a call to the operator's service was refused: {failure}");
                    edge.metrics.called("operator", "refused", 0.0);
                    Ok(failure.into_status().into_http())
                }
            }
        })
    }
}

async fn admitted(edge: &Edge, request: Request<Body>) -> Result<Request<Body>, Failure> {
    let keys = match &edge.operator_keys {
        OperatorKeys::Open => return Ok(request),
        OperatorKeys::Closed => {
            let message = "this broker has no key of the operator, and its operator listener is not on loopback: set operator.public_key or \
                operator.public_key_file";
            return Err(refusal(edge, "no_key", message));
        }
        OperatorKeys::Signed(keys) => keys,
    };
    let (head, body) = request.into_parts();
    let call = Call { hub: edge.hub.id().0, method: head.uri.path(), now: edge.env.clock.now_ms() / 1000 };
    let value = head.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let refused = |refused: Refused| refusal(edge, refused.name(), &refused.to_string());
    let verified = token::verify(keys, &call, value).map_err(refused)?;
    let gathered = Limited::new(body, MOST_REQUEST_BYTES).collect();
    let bytes = tokio::select! {
        biased;
        gathered = gathered => gathered.map_err(|error| not_arrived(error.as_ref()))?.to_bytes(),
        () = edge.env.clock.sleep(ARRIVES_WITHIN) => {
            return Err(Failure::new(Reason::TimedOut, "the request did not arrive within 10 s"));
        }
    };
    match bytes.get(..PREFIX_BYTES) {
        Some([0, ..]) => verified.covers(&bytes[PREFIX_BYTES..]).map_err(refused)?,
        Some(_) => return Err(Failure::new(Reason::Unsupported, "the request is compressed: send it as it is")),
        None => return Err(Failure::new(Reason::InvalidArgument, "the request has no message")),
    }
    Ok(Request::from_parts(head, Body::new(Full::new(bytes))))
}

/// Too large, or cut off.
fn not_arrived(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Failure {
    match error.downcast_ref::<Status>() {
        Some(status) => Failure::from_status(status),
        None => {
            let message = format!("the request takes more than {MOST_REQUEST_BYTES} bytes: send less at a time");
            Failure::new(Reason::MessageTooLarge, message).with(LIMIT, MOST_REQUEST_BYTES)
        }
    }
}

fn refusal(edge: &Edge, problem: &str, message: &str) -> Failure {
    Failure::new(Reason::Unauthenticated, message).with("problem", problem).with("hub_id", edge.hub.id())
}
