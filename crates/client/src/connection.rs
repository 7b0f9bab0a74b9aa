//! One hub as seen by a program: where it is, and channels to it. Each producer and each consumer has a connection of its
//! own, because one HTTP/2 connection is one lock and one TCP stream.

use std::future::Future;
use std::sync::Arc;

use tidegate_proto::v1;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::consumer::ConsumerBuilder;
use crate::leaders::Leaders;
use crate::producer::ProducerBuilder;
use crate::switch::Switch;
use crate::{Admin, ClientSettings, Error, Propagation, Result, TracePropagator};

/// A quiet connection is asked after so long, and dropped as long after that without an answer.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(20);
/// The same where there are several endpoints.
const LEAVE_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

/// What carries calls: a connection with the trace hook.
pub type Transport = InterceptedService<Switch, Propagation>;

/// Between two questions for metadata that nobody but this client's own troubles asks for.
const REFRESH_GAP: std::time::Duration = std::time::Duration::from_millis(200);

/// A hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Arc<ClientSettings>,
    endpoints: Arc<[Endpoint]>,
    propagation: Propagation,
    /// For unary calls.
    shared: Switch,
    leaders: Arc<Leaders>,
    /// Held by the one refresh that is on its way; when the last one ended.
    refresh: Arc<tokio::sync::Mutex<Option<tokio::time::Instant>>>,
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
        let mut endpoints = endpoints(&settings)?;
        let propagation = propagator.map(Propagation::new).unwrap_or_default();
        // Many clients with the same list spread over it.
        let first = rand::random_range(0..endpoints.len());
        endpoints.rotate_left(first);
        let mut tried = endpoints[0].connect().await;
        for _ in 1..endpoints.len() {
            if tried.is_ok() {
                break;
            }
            // The one that answers comes first from now on.
            endpoints.rotate_left(1);
            tried = endpoints[0].connect().await;
        }
        let channel = tried?;
        let endpoints: Arc<[Endpoint]> = endpoints.into();
        Ok(Client {
            settings: Arc::new(settings),
            endpoints,
            propagation,
            shared: Switch::new(channel),
            leaders: Arc::default(),
            refresh: Arc::default(),
        })
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
        InterceptedService::new(self.shared.clone(), self.propagation.clone())
    }

    /// A connection of its own to any broker, opened with the first call and again after each failure.
    pub fn new_transport(&self) -> Transport {
        self.over(self.any(self.shared.turn()))
    }

    /// A connection of its own to one broker; to any where its address is not known.
    pub(crate) fn transport_to(&self, broker: Option<u32>) -> Transport {
        let known = broker.and_then(|broker| self.leaders.endpoint(broker));
        match known.and_then(|address| endpoint(&self.settings, &address, true).ok()) {
            Some(endpoint) => self.over(endpoint.connect_lazy()),
            None => self.new_transport(),
        }
    }

    fn over(&self, channel: Channel) -> Transport {
        InterceptedService::new(Switch::new(channel), self.propagation.clone())
    }

    /// Where any broker is asked: what the user named, then what the hub has told of, one after the other.
    fn any(&self, turn: u64) -> Channel {
        let others = self.leaders.endpoints();
        let place = usize::try_from(turn).unwrap_or(0) % (self.endpoints.len() + others.len());
        let named = self.endpoints.get(place).cloned();
        let told = || endpoint(&self.settings, others.get(place - self.endpoints.len())?, true).ok();
        named.or_else(told).unwrap_or_else(|| self.endpoints[0].clone()).connect_lazy()
    }

    /// Whoever was asked since `seen` did not answer: ask another broker from now on.
    pub(crate) fn turn_from(&self, seen: u64) {
        self.shared.turn_from(seen, |turn| self.any(turn));
    }

    /// See [`Switch::turn`].
    pub(crate) fn turn(&self) -> u64 {
        self.shared.turn()
    }

    /// Who leads what; nobody if the settings say that any broker is to be asked.
    pub(crate) fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    /// The broker to go to for a partition; `None` for any.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<u32> {
        if self.settings.any_broker { None } else { self.leaders.leader(topic, partition) }
    }

    /// Asks for the leaders of all topics that this client knows. One question at a time, however many ask, and not soon after the last one: whoever comes
    /// while it is on its way is served by it.
    pub(crate) async fn refresh(&self) {
        let wanted = tokio::time::Instant::now();
        let mut last = self.refresh.lock().await;
        if last.is_some_and(|last| last >= wanted) {
            return;
        }
        if let Some(last) = *last {
            let gap = REFRESH_GAP.mul_f64(1.0 + rand::random::<f64>());
            tokio::time::sleep_until(last + gap).await;
        }
        let topics = self.leaders.topics();
        if topics.is_empty() {
            return;
        }
        if let Err(error) = self.metadata(topics).await {
            tracing::debug!("metadata could not be looked up: {error}");
        }
        *last = Some(tokio::time::Instant::now());
    }

    /// Brokers, topics and limits; all topics if none is named.
    pub(crate) async fn metadata(&self, topics: Vec<String>) -> Result<v1::GetMetadataResponse> {
        let message = v1::GetMetadataRequest { topics, exclude_topics: false };
        let client = v1::metadata_service_client::MetadataServiceClient::new(self.transport())
            .max_decoding_message_size(self.settings.max_message_bytes);
        let answer = self
            .retry(message, |request| {
                let mut client = client.clone();
                async move { client.get_metadata(request).await }
            })
            .await?;
        self.leaders.learn(&answer);
        Ok(answer)
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
            let turn = self.shared.turn();
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            let error = match call(request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            if error.is_unreachable() {
                self.turn_from(turn);
            }
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

/// At least one.
fn endpoints(settings: &ClientSettings) -> Result<Vec<Endpoint>> {
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
