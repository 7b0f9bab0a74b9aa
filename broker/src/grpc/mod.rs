//! The gRPC edge: decoding, limits, errors and framing over the [`Hub`]. It decides nothing about data.

mod authority;
mod bulk;
mod cluster;
mod connection;
mod consumer;
mod convert;
mod errors;
mod explain;
mod frames;
mod groups;
mod lanes;
mod metadata;
mod operator;
mod producer;
mod records;
mod server;
mod stream;
mod subscribe;
mod topics;
mod trace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidegate_env::Env;
use tidegate_model::BatchLimits;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status};

use crate::hub::{Error, Hub};
use crate::metrics::Metrics;
use crate::settings::{Limits, OperatorKeys};

pub(crate) use cluster::cluster_out;
pub(crate) use errors::failure;
pub(crate) use server::{Served, serve};

/// What all services share.
pub(crate) struct Edge {
    pub(crate) hub: Hub,
    pub(crate) env: Env,
    pub(crate) limits: Limits,
    pub(crate) batch_limits: BatchLimits,
    pub(crate) metrics: Arc<Metrics>,
    /// Payload bytes of requests under way in the whole broker, in units of [`PERMIT_BYTES`].
    pub(crate) in_flight: Arc<Semaphore>,
    /// Cancelled when intake ends: streams say goodbye.
    pub(crate) draining: CancellationToken,
    /// Tasks of streams, so that a stop can wait for them.
    pub(crate) tasks: TaskTracker,
    /// The `host:port` that clients are told.
    pub(crate) endpoint: String,
    /// What calls of the operator must show.
    pub(crate) operator_keys: OperatorKeys,
    /// How long a goodbye lasts.
    pub(crate) grace: Duration,
}

/// One permit stands for so many bytes: a semaphore counts to 2^61 but takes only u32 at a time.
const PERMIT_BYTES: u64 = 1024;

impl Edge {
    /// Runs a call: counts it, times it, and turns the hub's error into a status.
    pub(crate) async fn call<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let started = self.env.clock.monotonic();
        let done = work.await;
        let seconds = (self.env.clock.monotonic().saturating_sub(started)).as_secs_f64();
        match done {
            Ok(answer) => {
                self.metrics.called(method, "ok", seconds);
                Ok(Response::new(answer))
            }
            Err(error) => {
                self.note(&error);
                self.metrics.called(method, error.reason(), seconds);
                Err(errors::failure(error).into_status())
            }
        }
    }

    /// Counts an error that a limit made.
    pub(crate) fn note(&self, error: &Error) {
        match error {
            Error::TooLarge { setting, .. } | Error::LimitExceeded { setting, .. } => self.metrics.limit(setting),
            Error::Throttled { .. } => self.metrics.limit("limits.max_in_flight_bytes"),
            Error::StorageFull { .. } => self.metrics.limit("hub.wal.budget_bytes"),
            _ => {}
        }
    }

    /// Room for a request's bytes, held until it is answered. Does not wait: what has arrived is in memory already.
    pub(crate) fn admit(&self, bytes: usize) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let permits = (bytes as u64).div_ceil(PERMIT_BYTES).max(1);
        Arc::clone(&self.in_flight).try_acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX)).map_err(|_| {
            Error::Throttled {
                problem: format!(
                    "{bytes} bytes more would exceed limits.max_in_flight_bytes, {}: try again, or raise the setting",
                    self.limits.max_in_flight_bytes
                ),
                retry_after: Duration::from_millis(100),
            }
        })
    }
}

/// Permits of [`Edge::in_flight`] for a number of bytes.
pub(crate) fn permits(bytes: u64) -> usize {
    usize::try_from(bytes / PERMIT_BYTES).unwrap_or(usize::MAX >> 4).clamp(1, usize::MAX >> 4)
}
