//! One hub as seen by a program: where it is, and channels to it. Each producer and each consumer has a connection of its
//! own, because one HTTP/2 connection is one lock and one TCP stream.

use std::future::Future;
use std::sync::Arc;

use tidegate_proto::v1;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::consumer::ConsumerBuilder;
use crate::producer::ProducerBuilder;
use crate::{Admin, ClientSettings, Error, Propagation, Result, TracePropagator};

/// A quiet connection is asked after so long, and dropped as long after that without an answer.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(20);
/// The same where there are several endpoints.
const LEAVE_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

/// What carries calls: a connection with the trace hook.
pub type Transport = InterceptedService<Channel, Propagation>;

/// A hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Arc<ClientSettings>,
    endpoints: Arc<[Endpoint]>,
    propagation: Propagation,
    /// For unary calls.
    shared: Transport,
}

impl Client {
    /// Connects with default settings.
    ///
    /// # Errors
    /// [`Error::Setting`] if the endpoint is no URI; [`Error::Hub`] with `UNAVAILABLE` if nobody answers there.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client> {
        Client::connect_with(ClientSettings::new(endpoint), None).await
    }

    /// Connects with the given settings, and a hook for trace context if wanted. One connection is tried, so that a wrong
    /// endpoint shows at once.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(settings: ClientSettings, propagator: Option<Arc<dyn TracePropagator>>) -> Result<Client> {
        let endpoints = endpoints(&settings)?;
        let propagation = propagator.map(Propagation::new).unwrap_or_default();
        let mut tried = None;
        for endpoint in endpoints.iter() {
            tried = Some(endpoint.connect().await);
            if matches!(tried, Some(Ok(_))) {
                break;
            }
        }
        let channel = match (tried, endpoints.len()) {
            (Some(Ok(channel)), 1) => channel,
            (Some(Ok(_)) | None, _) => channel(&endpoints),
            (Some(Err(error)), _) => return Err(error.into()),
        };
        let shared = InterceptedService::new(channel, propagation.clone());
        Ok(Client { settings: Arc::new(settings), endpoints, propagation, shared })
    }

    /// The settings.
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// A new producer's settings.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// A new consumer's settings.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Topics, offsets, groups, metadata.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The shared connection, for calls through the generated clients of [`crate::proto`].
    pub fn transport(&self) -> Transport {
        self.shared.clone()
    }

    /// A connection of its own, opened with the first call and again after each failure.
    pub fn new_transport(&self) -> Transport {
        InterceptedService::new(channel(&self.endpoints), self.propagation.clone())
    }

    /// Brokers, topics and limits; all topics if none is named.
    pub(crate) async fn metadata(&self, topics: Vec<String>) -> Result<v1::GetMetadataResponse> {
        let message = v1::GetMetadataRequest { topics, exclude_topics: false };
        let client = v1::metadata_service_client::MetadataServiceClient::new(self.transport())
            .max_decoding_message_size(self.settings.max_message_bytes);
        self.retry(message, |request| {
            let mut client = client.clone();
            async move { client.get_metadata(request).await }
        })
        .await
    }

    /// Makes a unary call, again after failures that are worth it, within the request timeout. For calls that may be repeated.
    pub(crate) async fn retry<Q, A, F>(&self, message: Q, call: impl Fn(Request<Q>) -> F) -> Result<A>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + self.settings.request_timeout;
        for attempt in 1.. {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            let error = match call(request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            let delay = match &error {
                Error::Hub(failure) => failure.retry_after.unwrap_or_default(),
                _ => Default::default(),
            }
            .max(self.settings.backoff.delay(attempt));
            if !error.is_retryable() || tokio::time::Instant::now() + delay >= deadline {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
        }
        unreachable!("the loop ends by a return: attempts are counted without end")
    }
}

/// A connection that is opened with the first call, and again after each failure: with several endpoints, to any of them.
fn channel(endpoints: &[Endpoint]) -> Channel {
    match endpoints {
        [only] => only.connect_lazy(),
        several => Channel::balance_list(several.iter().cloned()),
    }
}

fn endpoints(settings: &ClientSettings) -> Result<Arc<[Endpoint]>> {
    settings.validate()?;
    let addresses: Vec<&str> = settings.endpoint.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
    let several = addresses.len() > 1;
    if addresses.is_empty() {
        return Err(Error::Setting {
            field: "endpoint",
            message: "is empty: give http://host:port, or several divided by commas".to_owned(),
        });
    }
    addresses.into_iter().map(|address| endpoint(settings, address, several)).collect()
}

fn endpoint(settings: &ClientSettings, address: &str, several: bool) -> Result<Endpoint> {
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| Error::Setting {
        field: "endpoint",
        message: format!("`{address}` is no URI of the form http://host:port: {error}"),
    })?;
    // Where there are others to go to, a broker that does not answer is left soon.
    let (interval, timeout) = if several { (LEAVE_AFTER, LEAVE_AFTER) } else { (KEEPALIVE, KEEPALIVE) };
    Ok(endpoint
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(std::time::Duration::from_secs(30)))
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .initial_stream_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.connection_window_bytes)
        .max_frame_size(settings.frame_bytes))
}
