//! One link for each hub: takes over as its operator, follows its catalog into a [`Mirror`], measures, and carries calls.
//!
//! The link claims the operator epoch once and keeps it over reconnections. When another operator takes over it stops calling, and claims
//! again only after [`FENCED_FOR`]: this process ends by itself when it loses its Lease, so two that go on would be two installations.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use tidegate_model::TopicUid;
use tidegate_proto::errors::Reason;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::operator::v1::cluster_service_client::ClusterServiceClient;
use tidegate_proto::operator::v1::operator_service_client::OperatorServiceClient;
use tidegate_proto::operator::v1::watch_topics_response::Event;
use tidegate_proto::token::{Signed, SigningKey};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use uuid::Uuid;

use super::mirror::{Entry, Mirror, Numbers};
use super::network::{CallError, connect};
use crate::lease::Term;

/// Name and namespace of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for HubKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// First and greatest wait between two tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a deposed operator leaves a hub alone.
const FENCED_FOR: Duration = Duration::from_secs(60);

/// What a link tells.
#[derive(Clone, Debug)]
pub enum Told {
    /// A topic or tombstone changed.
    Changed(HubKey, Box<Entry>),
    /// The whole catalog is known.
    Synced(HubKey),
    /// The hub cannot be reached any more.
    Lost(HubKey),
    /// What the hub says of itself changed.
    Turned(HubKey),
    /// Numbers of these topics changed.
    Measured(HubKey, Vec<TopicUid>),
}

/// How a link stands.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkState {
    /// Not connected, since then, and why.
    Down {
        /// Since when.
        since: Instant,
        /// Why.
        why: String,
    },
    /// The whole catalog is mirrored.
    Synced {
        /// The hub's identity.
        hub_id: Uuid,
    },
    /// Another operator took over.
    Fenced,
    /// The broker belongs to another hub than the object says.
    WrongHub {
        /// What it said.
        message: String,
    },
}

/// What the brokers say of themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HubNumbers {
    /// What the object store said, while it cannot be reached or refuses.
    pub tier_problem: Option<String>,
    /// The log is above its soft mark.
    pub wal_percent: u64,
    /// What the recovery that made the broker's volume found and lost.
    pub recovery: Option<wire::Recovery>,
    /// How the brokers are, in short: what must not change unseen.
    pub cluster: Option<ClusterDigest>,
}

/// What of a hub's brokers and journals is worth a look when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDigest {
    /// States of the brokers, by number, and how many journals each leads.
    pub brokers: Vec<(u32, i32, u32)>,
    /// Journals without a leader or with fewer voters in sync than there shall be.
    pub lacking: u32,
}

impl ClusterDigest {
    fn of(told: &wire::DescribeClusterResponse) -> ClusterDigest {
        let mut brokers = std::collections::BTreeMap::new();
        let whole = crate::hub::fleet::learn(&mut brokers, told);
        ClusterDigest {
            brokers: told.brokers.iter().map(|broker| (broker.broker_id, broker.state, broker.leads)).collect(),
            lacking: whole.lacking,
        }
    }
}

/// A client whose calls carry tokens.
type Client = OperatorServiceClient<Signed<Channel>>;

type Cluster = ClusterServiceClient<Signed<Channel>>;

struct Session {
    client: Client,
    cluster: Cluster,
    context: wire::OperatorContext,
}

/// A link to one hub.
pub struct Link {
    /// The hub.
    pub key: HubKey,
    /// Uid of the Hub object.
    pub object_uid: String,
    mirror: RwLock<Mirror>,
    state: Mutex<LinkState>,
    numbers: Mutex<Option<HubNumbers>>,
    session: Mutex<Option<Arc<Session>>>,
    /// The epoch, and the hub that gave it.
    claim: Mutex<Option<(u64, Uuid)>>,
    target: Mutex<Target>,
    poke: Notify,
    stop: CancellationToken,
    told: mpsc::Sender<Told>,
    settings: LinkSettings,
}

/// Where the link should go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The broker's address.
    pub endpoint: Option<String>,
    /// The identity that the hub must have, if it is known.
    pub hub_id: Option<Uuid>,
}

/// How links work.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// Who this operator is, for the brokers' logs.
    pub holder: String,
    /// Time between two measurements.
    pub measure_every: Duration,
    /// Signs the calls' tokens.
    pub key: Arc<SigningKey>,
    /// Until when calls may be made. What is sent all the same, because it was under way, meets the brokers' operator epoch.
    pub term: Term,
}

impl Link {
    /// A link that connects by itself from now on, until [`Link::stop`].
    pub(super) fn start(
        key: &HubKey,
        object_uid: &str,
        target: Target,
        told: mpsc::Sender<Told>,
        settings: LinkSettings,
    ) -> Arc<Link> {
        let link = Arc::new(Link {
            key: key.clone(),
            object_uid: object_uid.to_owned(),
            mirror: RwLock::default(),
            state: Mutex::new(LinkState::Down { since: Instant::now(), why: "connecting".to_owned() }),
            numbers: Mutex::default(),
            session: Mutex::default(),
            claim: Mutex::default(),
            target: Mutex::new(target),
            poke: Notify::new(),
            stop: CancellationToken::new(),
            told,
            settings,
        });
        tokio::spawn(Arc::clone(&link).run());
        link
    }

    /// Ends the link; calls that are under way are not cut.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Reads the mirror; `None` unless the whole catalog is known.
    pub fn synced<R>(&self, read: impl FnOnce(&Mirror) -> R) -> Option<R> {
        let is_synced = matches!(*self.state.lock(), LinkState::Synced { .. });
        is_synced.then(|| read(&self.mirror.read()))
    }

    /// How the link stands.
    pub fn state(&self) -> LinkState {
        self.state.lock().clone()
    }

    /// The newest numbers of the hub.
    pub fn numbers(&self) -> Option<HubNumbers> {
        self.numbers.lock().clone()
    }

    /// Makes a topic bound to an object.
    pub async fn create(&self, request: wire::CreateTopicRequest) -> Result<Entry, CallError> {
        let (mut client, context) = self.call()?;
        let answer = client.create_topic(wire::CreateTopicRequest { context: Some(context), ..request }).await;
        self.learn(answer.map(|answer| answer.into_inner().topic))
    }

    /// Binds a topic.
    pub async fn bind(&self, request: wire::BindTopicRequest) -> Result<Entry, CallError> {
        let (mut client, context) = self.call()?;
        let answer = client.bind_topic(wire::BindTopicRequest { context: Some(context), ..request }).await;
        self.learn(answer.map(|answer| answer.into_inner().topic))
    }

    /// Changes a topic.
    pub async fn alter(&self, request: wire::AlterTopicRequest) -> Result<Entry, CallError> {
        let (mut client, context) = self.call()?;
        let answer = client.alter_topic(wire::AlterTopicRequest { context: Some(context), ..request }).await;
        self.learn(answer.map(|answer| answer.into_inner().topic))
    }

    /// Deletes a topic.
    pub async fn delete(&self, request: wire::DeleteTopicRequest) -> Result<(), CallError> {
        let (mut client, context) = self.call()?;
        let uid = Uuid::from_slice(&request.topic_uid).map(TopicUid).unwrap_or_default();
        client.delete_topic(wire::DeleteTopicRequest { context: Some(context), ..request }).await.map_err(|s| self.failed(s))?;
        let mut mirror = self.mirror.write();
        if let Some(entry) = mirror.by_uid(uid).cloned() {
            mirror.put(Entry { deleted: true, bound: None, ..entry });
        }
        Ok(())
    }

    /// Where the link goes.
    pub fn endpoint(&self) -> Option<String> {
        self.target.lock().endpoint.clone()
    }

    /// How the hub's brokers and journals are now.
    pub async fn cluster(&self) -> Result<wire::DescribeClusterResponse, CallError> {
        let (mut client, _) = self.cluster_call()?;
        let answer = client.describe_cluster(wire::DescribeClusterRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(status))
    }

    /// Commits what a broker shall do.
    pub async fn set_broker_state(&self, broker_id: u32, state: wire::ClusterBrokerState) -> Result<(), CallError> {
        let (mut client, context) = self.cluster_call()?;
        let request = wire::SetBrokerStateRequest { broker_id, state: state.into(), context: Some(context) };
        client.set_broker_state(request).await.map(drop).map_err(|status| self.failed(status))
    }

    /// Commits how many voters each journal shall have.
    pub async fn set_replication_factor(&self, replication_factor: u32) -> Result<(), CallError> {
        let (mut client, context) = self.cluster_call()?;
        let request = wire::SetReplicationFactorRequest { replication_factor, context: Some(context) };
        client.set_replication_factor(request).await.map(drop).map_err(|status| self.failed(status))
    }

    fn call(&self) -> Result<(Client, wire::OperatorContext), CallError> {
        self.live().map(|session| (session.client.clone(), session.context.clone()))
    }

    fn cluster_call(&self) -> Result<(Cluster, wire::OperatorContext), CallError> {
        self.live().map(|session| (session.cluster.clone(), session.context.clone()))
    }

    fn live(&self) -> Result<Arc<Session>, CallError> {
        if !self.settings.term.holds() {
            return Err(CallError::Unreachable);
        }
        self.session.lock().clone().ok_or(CallError::Unreachable)
    }

    /// Takes the answer into the mirror, so that the next look sees what was just done.
    fn learn(&self, answer: Result<Option<tidegate_proto::v1::Topic>, tonic::Status>) -> Result<Entry, CallError> {
        let topic = answer.map_err(|status| self.failed(status))?;
        let entry = topic.and_then(Entry::from_topic).ok_or(CallError::Unreachable)?;
        self.mirror.write().put(entry.clone());
        Ok(entry)
    }

    fn failed(&self, status: tonic::Status) -> CallError {
        let error = CallError::from(status);
        if error.is_fenced() {
            self.fence();
        }
        error
    }

    fn fence(&self) {
        tracing::warn!(hub = %self.key, "another operator took over; leaving the hub alone");
        *self.session.lock() = None;
        *self.claim.lock() = None;
        *self.state.lock() = LinkState::Fenced;
        self.poke.notify_one();
    }

    /// Points the link somewhere else if that is news.
    pub(super) fn aim(&self, target: Target) {
        let mut present = self.target.lock();
        if *present == target {
            return;
        }
        // That the identity is known now, and is the one that we talk to, is no reason to connect anew.
        let connected = match *self.state.lock() {
            LinkState::Synced { hub_id } => Some(hub_id),
            _ => None,
        };
        let is_news =
            present.endpoint != target.endpoint || (connected.is_some() && target.hub_id.is_some() && connected != target.hub_id);
        *present = target;
        if is_news || connected.is_none() {
            self.poke.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut wait = RETRY.0;
        loop {
            let target = self.target.lock().clone();
            let outcome = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.aimed_elsewhere(&target) => Err(CallError::Unreachable),
                outcome = self.session(&target) => outcome,
            };
            let was_up = self.session.lock().take().is_some();
            let fenced = *self.state.lock() == LinkState::Fenced;
            if let Err(error) = &outcome {
                self.down(&target, error, fenced);
            }
            wait = if was_up { RETRY.0 } else { (wait * 2).min(RETRY.1) };
            let pause = if fenced { FENCED_FOR } else { wait.mul_f64(0.75 + rand::random::<f64>() / 2.0) };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.poke.notified(), if !fenced => wait = RETRY.0,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn aimed_elsewhere(&self, target: &Target) {
        loop {
            self.poke.notified().await;
            if *self.target.lock() != *target || *self.state.lock() == LinkState::Fenced {
                return;
            }
        }
    }

    fn down(&self, target: &Target, error: &CallError, fenced: bool) {
        if fenced {
            return;
        }
        let mut state = self.state.lock();
        let is_wrong = matches!(error, CallError::Refused(f) if (f.reason == Reason::InvalidArgument && f.message.contains("hub_id"))
            || (f.reason == Reason::Unauthenticated && f.metadata.get("problem").is_some_and(|problem| problem == "audience")));
        let why = match (&target.endpoint, error) {
            (None, _) => "no broker has an address yet".to_owned(),
            (Some(_), error) => error.to_string(),
        };
        if is_wrong {
            if target.hub_id.is_none() {
                // Another hub may be there now, and no object says that it must not.
                *self.claim.lock() = None;
            }
            *state = LinkState::WrongHub { message: why };
            return;
        }
        let lost = matches!(*state, LinkState::Synced { .. });
        *state = match &*state {
            LinkState::Down { since, .. } => LinkState::Down { since: *since, why },
            _ => LinkState::Down { since: Instant::now(), why },
        };
        drop(state);
        if lost {
            tracing::warn!(hub = %self.key, %error, "the hub cannot be reached");
            let _ = self.told.try_send(Told::Lost(self.key.clone()));
        }
    }

    /// Connects, takes over, and follows until something fails.
    async fn session(&self, target: &Target) -> Result<(), CallError> {
        let Some(endpoint) = target.endpoint.as_ref().filter(|_| self.settings.term.holds()) else {
            return Err(CallError::Unreachable);
        };
        let unreachable = |error: tonic::transport::Error| CallError::from(tonic::Status::unavailable(chain(&error)));
        let channel = connect(endpoint).await.map_err(unreachable)?;
        let (mut client, context) = self.take_over(&channel, target).await?;
        let id = Uuid::from_slice(&context.hub_id).map_err(|_| CallError::Unreachable)?;
        let cluster = ClusterServiceClient::new(self.signed(&channel, id)).max_decoding_message_size(64 << 20);
        *self.session.lock() = Some(Arc::new(Session { client: client.clone(), cluster, context: context.clone() }));
        let watch = wire::WatchTopicsRequest { context: Some(context.clone()), after_revision: 0 };
        let events = client.watch_topics(watch).await.map_err(|status| self.failed(status))?.into_inner();
        let mut ticks = tokio::time::interval(self.settings.measure_every);
        let measured = async {
            loop {
                ticks.tick().await;
                if let Err(error) = self.measure(&mut client, &context).await {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            error = self.follow(events, id) => Err(error),
            error = measured => Err(error),
        }
    }

    /// Claims the operator epoch, or goes on with the one that was claimed before.
    async fn take_over(&self, channel: &Channel, target: &Target) -> Result<(Client, wire::OperatorContext), CallError> {
        let known = *self.claim.lock();
        let wire_id = |id: Uuid| Bytes::copy_from_slice(id.as_bytes());
        // Also before the object says which hub it is: to claim again would depose whoever took over meanwhile.
        if let Some((operator_epoch, id)) = known.filter(|(_, id)| target.hub_id.is_none_or(|wanted| wanted == *id)) {
            return Ok((self.client(channel, id), wire::OperatorContext { operator_epoch, hub_id: wire_id(id) }));
        }
        // A claim by a process that was paused past its Lease would depose the one that leads now.
        if !self.settings.term.holds() {
            return Err(CallError::Unreachable);
        }
        let holder = self.settings.holder.clone();
        let mut client = self.client(channel, target.hub_id.unwrap_or_default());
        let claim = wire::ClaimEpochRequest { hub_id: target.hub_id.map(wire_id).unwrap_or_default(), holder: holder.clone() };
        let answer = match client.claim_epoch(claim).await.map_err(CallError::from) {
            // A token names its hub: a hub that is not known yet says its name with the refusal.
            Err(CallError::Refused(failure)) if target.hub_id.is_none() && failure.reason == Reason::Unauthenticated => {
                let named = failure.metadata.get("hub_id").and_then(|id| Uuid::parse_str(id).ok());
                client = self.client(channel, named.ok_or(CallError::Refused(failure))?);
                client.claim_epoch(wire::ClaimEpochRequest { holder, ..Default::default() }).await.map_err(CallError::from)?
            }
            answer => answer?,
        };
        let claimed = answer.into_inner();
        let id = Uuid::from_slice(&claimed.hub_id).map_err(|_| CallError::Unreachable)?;
        *self.claim.lock() = Some((claimed.operator_epoch, id));
        let context = wire::OperatorContext { operator_epoch: claimed.operator_epoch, hub_id: claimed.hub_id };
        Ok((self.client(channel, id), context))
    }

    fn client(&self, channel: &Channel, hub: Uuid) -> Client {
        OperatorServiceClient::new(self.signed(channel, hub)).max_decoding_message_size(64 << 20)
    }

    fn signed(&self, channel: &Channel, hub: Uuid) -> Signed<Channel> {
        let now = || k8s_openapi::jiff::Timestamp::now().as_second();
        Signed::new(channel.clone(), Arc::clone(&self.settings.key), hub, now)
    }

    async fn follow(&self, mut events: tonic::Streaming<wire::WatchTopicsResponse>, hub_id: Uuid) -> CallError {
        let mut named = Some(HashSet::new());
        while let Some(event) = events.next().await {
            let wire::WatchTopicsResponse { revision, event } = match event {
                Ok(event) => event,
                Err(status) => return self.failed(status),
            };
            let entry = match event {
                Some(Event::Topic(topic)) => Entry::from_topic(topic),
                Some(Event::Tombstone(tombstone)) => Entry::from_tombstone(tombstone, revision),
                Some(Event::Bookmark(_)) => {
                    if let Some(named) = named.take() {
                        let gone = self.mirror.write().retain(&named);
                        if !self.becomes_synced(hub_id) {
                            continue;
                        }
                        tracing::info!(hub = %self.key, topics = named.len(), gone = gone.len(), "the catalog is known");
                        self.tell(Told::Synced(self.key.clone())).await;
                    }
                    continue;
                }
                None => continue,
            };
            let Some(entry) = entry else { continue };
            if let Some(named) = &mut named {
                named.insert(entry.uid);
            }
            let is_news = self.mirror.write().put(entry.clone());
            if is_news && named.is_none() {
                self.tell(Told::Changed(self.key.clone(), Box::new(entry))).await;
            }
        }
        CallError::Unreachable
    }

    /// False if another operator took over meanwhile: that has ended the session, and is said under the same lock or after it.
    fn becomes_synced(&self, hub_id: Uuid) -> bool {
        let mut state = self.state.lock();
        let is_live = self.session.lock().is_some();
        if is_live {
            *state = LinkState::Synced { hub_id };
        }
        is_live
    }

    async fn measure(&self, client: &mut Client, context: &wire::OperatorContext) -> Result<(), CallError> {
        let request = wire::GetStatisticsRequest { context: Some(context.clone()), ..Default::default() };
        let answer = client.get_statistics(request).await.map_err(|status| self.failed(status))?.into_inner();
        let changed: Vec<TopicUid> = {
            let mut mirror = self.mirror.write();
            let numbers =
                answer.topics.iter().filter_map(|topic| Some((TopicUid(Uuid::from_slice(&topic.topic_uid).ok()?), topic)));
            numbers.filter(|(uid, topic)| mirror.measure(*uid, numbers_of(topic))).map(|(uid, _)| uid).collect()
        };
        if let Some(hub) = answer.hub {
            let wal_percent = hub.wal_used_bytes.saturating_mul(100).checked_div(hub.wal_budget_bytes).unwrap_or(0);
            let tier_problem = hub.tier_unavailable.then_some(hub.tier_problem);
            let cluster = self.cluster().await.ok().map(|told| ClusterDigest::of(&told));
            let numbers = HubNumbers { tier_problem, wal_percent, recovery: answer.recovery, cluster };
            let said = |numbers: &HubNumbers| (numbers.tier_problem.clone(), numbers.recovery.clone(), numbers.cluster.clone());
            let (says, before) = (said(&numbers), self.numbers.lock().replace(numbers));
            if before.is_none_or(|before| said(&before) != says) {
                self.tell(Told::Turned(self.key.clone())).await;
            }
        }
        if !changed.is_empty() {
            self.tell(Told::Measured(self.key.clone(), changed)).await;
        }
        Ok(())
    }

    async fn tell(&self, told: Told) {
        // The receiver goes only with the process.
        let _ = self.told.send(told).await;
    }
}

fn numbers_of(topic: &wire::TopicStatistics) -> Numbers {
    Numbers {
        ready_partitions: topic.ready_partitions,
        end_offset_total: topic.end_offset_total,
        local_bytes: topic.local_bytes,
        tiered_bytes: topic.tiered_bytes,
        tiering_lag: Duration::from_millis(topic.tiering_lag_ms),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    text
}
