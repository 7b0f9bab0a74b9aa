//! The connection for calls that any broker answers: to what the user named first, and to other brokers that the hub told of when those do not answer.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;

#[derive(Debug)]
struct Current {
    channel: Channel,
    /// Counts the changes.
    turn: u64,
}

/// Cheap to clone; all clones change together.
#[derive(Clone, Debug)]
pub struct Switch(Arc<Mutex<Current>>);

impl Switch {
    pub(crate) fn new(channel: Channel) -> Switch {
        Switch(Arc::new(Mutex::new(Current { channel, turn: 0 })))
    }

    /// How often it was changed.
    pub(crate) fn turn(&self) -> u64 {
        self.0.lock().turn
    }

    /// Goes over to another connection, unless somebody else did so since `seen`.
    pub(crate) fn turn_from(&self, seen: u64, other: impl FnOnce(u64) -> Channel) {
        let mut current = self.0.lock();
        if current.turn == seen {
            current.turn += 1;
            current.channel = other(current.turn);
        }
    }
}

impl Service<http::Request<Body>> for Switch {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The connection is chosen with the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut channel = self.0.lock().channel.clone();
        Box::pin(async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        })
    }
}
