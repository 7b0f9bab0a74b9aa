//! Wiring: watches, queues and tasks of a leader. Everything ends with `stop`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use kube::runtime::controller::{Config, Controller};
use kube::runtime::events::{EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::PredicateConfig;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Predicate, WatchStreamExt, predicates};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tidegate_crd::{Hub, Topic};
use tidegate_model::TopicUid;
use tidegate_proto::token::SigningKey;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::WatchBackoff;
use crate::catalog::link::{HubKey, LinkSettings, Told};
use crate::catalog::{BrokerNetwork, Links};
use crate::context::{self, Context};
use crate::error::Error;
use crate::hub::labels;
use crate::lease::Term;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::topic::{self, adopt, measure, plan};

/// References that wait to be looked at: a few for each of thousands of topics, some hundred bytes each.
const QUEUE: usize = 16 * 1024;
/// Topics that are worked on at a time.
const TOPICS_AT_A_TIME: u16 = 16;
/// Hubs that are worked on at a time.
const HUBS_AT_A_TIME: u16 = 4;
/// Entries that are swept at a time.
const SWEEPS_AT_A_TIME: usize = 8;
/// The topics of a hub are counted at most so often.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// How long until a sweep that failed is tried again.
const SWEEP_AGAIN: Duration = Duration::from_secs(2);

/// What a leader needs.
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// Settings.
    pub settings: Settings,
    /// Where brokers are.
    pub network: Arc<dyn BrokerNetwork>,
    /// Signs calls to brokers.
    pub key: Arc<SigningKey>,
    /// Numbers about ourselves.
    pub metrics: Arc<Metrics>,
    /// Until when this process may act. The client has its own gate.
    pub term: Term,
}

fn api<K>(client: &Client, settings: &Settings) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match &settings.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What makes an object worth a look; measurements in its status do not.
fn matters<K: kube::Resource>(object: &K) -> Option<u64> {
    let rest = predicates::generation.combine(predicates::finalizers).combine(predicates::annotations).hash_property(object);
    // Zero, and not absent, unless somebody else manages what the operator made: an apply that changes no value is seen too.
    Some(rest?.wrapping_add(object.meta().managed_fields.as_ref().map_or(0, Vec::len) as u64))
}

/// Who manages which field is most of an object's bytes. Of it stays our own entry on an object that we made and somebody else manages now.
fn keep_little<K: kube::Resource>(object: &mut K) {
    let fields = object.managed_fields_mut();
    if adopt::is_taken_over(fields) {
        fields.retain(|entry| entry.manager.as_deref() == Some(adopt::MANAGER));
    } else {
        fields.clear();
    }
}

/// Watches a kind into a store; the stream has what changed in a way that matters.
fn watched<K>(
    api: Api<K>,
    gone: mpsc::Sender<K>,
    is_known: watch::Sender<bool>,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .modify(keep_little)
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(Event::Delete(object)) => drop(gone.try_send(object.clone())),
            Ok(Event::InitDone) => drop(is_known.send_replace(true)),
            _ => {}
        })
        .applied_objects()
        .predicate_filter(matters::<K>, PredicateConfig::default());
    (store, stream)
}

/// Leads until `stop`: starts all watches, queues and links, and ends them.
pub async fn lead(parts: Parts, stop: CancellationToken) {
    let Parts { client, settings, network, key, metrics, term } = parts;
    let (wake_topics, woken_topics) = mpsc::channel(QUEUE);
    let (wake_hubs, woken_hubs) = mpsc::channel(QUEUE);
    let (told, telling) = mpsc::channel(QUEUE);
    let told_again = told.clone();
    let (gone_topics, gone) = mpsc::channel(QUEUE);
    let (gone_hubs, gone_hub) = mpsc::channel(QUEUE);
    let (topics_are_known, topics_known) = watch::channel(false);
    let (hubs_are_known, hubs_known) = watch::channel(false);
    let (topics, topic_stream) = watched(api::<Topic>(&client, &settings), gone_topics, topics_are_known);
    let (hubs, hub_stream) = watched(api::<Hub>(&client, &settings), gone_hubs, hubs_are_known);
    let reporter = Reporter { controller: "tidegate-operator".into(), instance: std::env::var("HOSTNAME").ok() };
    let link_settings = LinkSettings {
        holder: settings.identity.clone(),
        measure_every: Duration::from_secs(settings.measure_seconds.max(1)),
        key,
        term,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let (events, to_publish) = mpsc::channel(context::EVENTS);
    let ctx = Arc::new(Context {
        events,
        links: Links::new(link_settings, told),
        client,
        settings,
        hubs,
        topics,
        hubs_known,
        topics_known,
        network,
        metrics,
        wake_topics,
        wake_hubs,
        attempts: Mutex::default(),
        poked: Mutex::default(),
        contested: Mutex::default(),
        scaling: Mutex::default(),
        served: Mutex::default(),
        begun: Instant::now(),
    });
    let tasks = TaskTracker::new();
    let (measured, to_measure) = mpsc::channel(QUEUE);
    let (sweep, to_sweep) = mpsc::channel(QUEUE);
    let until = |token: &CancellationToken| token.clone().cancelled_owned();
    tasks.spawn(run_hubs(Arc::clone(&ctx), hub_stream, woken_hubs, until(&stop)));
    tasks.spawn(run_topics(Arc::clone(&ctx), topic_stream, woken_topics, until(&stop)));
    spawn_until(&tasks, &stop, context::publish(recorder, to_publish));
    spawn_until(&tasks, &stop, measure::run(Arc::clone(&ctx), to_measure));
    spawn_until(&tasks, &stop, run_sweeps(Arc::clone(&ctx), to_sweep, sweep.clone()));
    spawn_until(&tasks, &stop, route(Arc::clone(&ctx), telling, measured, sweep.clone()));
    spawn_until(&tasks, &stop, listed_anew(Arc::clone(&ctx), told_again));
    spawn_until(&tasks, &stop, objects_gone(Arc::clone(&ctx), gone, sweep));
    spawn_until(&tasks, &stop, hubs_gone(Arc::clone(&ctx), gone_hub));
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
}

fn spawn_until(tasks: &TaskTracker, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(work).await });
}

async fn run_hubs(
    ctx: Arc<Context>,
    stream: impl Stream<Item = Result<Hub, watcher::Error>> + Send + 'static,
    woken: mpsc::Receiver<ObjectRef<Hub>>,
    until: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let ours = watcher::Config::default().labels(labels::SELECTOR);
    let (client, settings) = (ctx.client.clone(), ctx.settings.clone());
    let of_hub = |namespace: Option<String>, hub: Option<&String>| {
        Some(ObjectRef::<Hub>::new(hub?).within(namespace.as_deref().unwrap_or_default()))
    };
    let hubs = Controller::for_stream(stream, ctx.hubs.clone())
        .with_config(Config::default().concurrency(HUBS_AT_A_TIME))
        .trigger_backoff(WatchBackoff::default())
        .owns(api::<StatefulSet>(&client, &settings), ours.clone())
        .owns(api::<Service>(&client, &settings), ours.clone())
        .owns(api::<ConfigMap>(&client, &settings), ours.clone())
        .watches(api::<Pod>(&client, &settings), ours.clone(), move |pod| of_hub(pod.namespace(), pod.labels().get(labels::HUB)))
        .watches(api::<PersistentVolumeClaim>(&client, &settings), ours, move |claim| {
            of_hub(claim.namespace(), claim.labels().get(labels::HUB))
        })
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(until)
        .run(
            |hub, ctx: Arc<Context>| async move {
                let outcome = crate::hub::reconcile(Arc::clone(&hub), Arc::clone(&ctx)).await;
                if outcome.is_ok() {
                    ctx.went_well(&*hub);
                }
                let (all, linked) = ctx.links.counts();
                ctx.metrics.hubs(all, linked);
                outcome
            },
            |hub: Arc<Hub>, error: &Error, ctx: Arc<Context>| ctx.after_error(&*hub, error),
            ctx,
        );
    hubs.for_each(|_| std::future::ready(())).await;
}

async fn run_topics(
    ctx: Arc<Context>,
    stream: impl Stream<Item = Result<Topic, watcher::Error>> + Send + 'static,
    woken: mpsc::Receiver<ObjectRef<Topic>>,
    until: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let topics = Controller::for_stream(stream, ctx.topics.clone())
        .with_config(Config::default().concurrency(TOPICS_AT_A_TIME))
        .trigger_backoff(WatchBackoff::default())
        .reconcile_on(ReceiverStream::new(woken))
        .graceful_shutdown_on(until)
        .run(
            |topic, ctx: Arc<Context>| async move {
                // Without the Hubs, none of them would seem to exist.
                if !ctx.hubs_are_known().await {
                    return Ok(kube::runtime::controller::Action::await_change());
                }
                let outcome = topic::reconcile(Arc::clone(&topic), Arc::clone(&ctx)).await;
                if outcome.is_ok() {
                    ctx.went_well(&*topic);
                }
                outcome
            },
            |topic: Arc<Topic>, error: &Error, ctx: Arc<Context>| ctx.after_error(&*topic, error),
            ctx,
        );
    topics.for_each(|_| std::future::ready(())).await;
}

/// Sends what links tell to whom it concerns.
async fn route(
    ctx: Arc<Context>,
    mut telling: mpsc::Receiver<Told>,
    measured: mpsc::Sender<(HubKey, Vec<TopicUid>)>,
    sweep: mpsc::Sender<(HubKey, TopicUid)>,
) {
    // Without the objects, every topic would seem to have none.
    if !ctx.topics_are_known().await {
        return;
    }
    while let Some(told) = telling.recv().await {
        match told {
            Told::Changed(hub, entry) => {
                let uid = entry.uid.to_string();
                let bound = entry.bound.as_ref().map(|bound| bound.uid.as_str());
                let topics = ctx.topics.state_filter(|topic| {
                    is_of(topic, &hub)
                        && (topic_name(topic) == entry.name
                            || (bound.is_some() && topic.metadata.uid.as_deref() == bound)
                            || plan::recorded_text(topic) == Some(&uid))
                });
                for topic in topics {
                    let _ = ctx.wake_topics.send(ObjectRef::from_obj(&*topic)).await;
                }
                let _ = sweep.send((hub.clone(), entry.uid)).await;
                poke_later(&ctx, hub);
            }
            Told::Synced(hub) => {
                ctx.poke_hub(&hub);
                for topic in ctx.topics.state_filter(|topic| is_of(topic, &hub)) {
                    let _ = ctx.wake_topics.send(ObjectRef::from_obj(&*topic)).await;
                }
                let uids: Option<Vec<TopicUid>> =
                    ctx.links.get(&hub).and_then(|link| link.synced(|mirror| mirror.entries().map(|entry| entry.uid).collect()));
                for uid in uids.unwrap_or_default() {
                    let _ = sweep.send((hub.clone(), uid)).await;
                }
            }
            Told::Lost(hub) | Told::Turned(hub) => ctx.poke_hub(&hub),
            Told::Measured(hub, topics) => {
                let _ = measured.send((hub, topics)).await;
            }
        }
    }
}

/// The hub's status counts topics: many changes at once are counted once.
fn poke_later(ctx: &Arc<Context>, hub: HubKey) {
    if !ctx.poked.lock().insert(hub.clone()) {
        return;
    }
    let ctx = Arc::clone(ctx);
    tokio::spawn(async move {
        tokio::time::sleep(COUNT_EVERY).await;
        ctx.poked.lock().remove(&hub);
        ctx.poke_hub(&hub);
    });
}

fn is_of(topic: &Topic, hub: &HubKey) -> bool {
    topic.metadata.namespace.as_deref() == Some(&hub.namespace)
        && topic.spec.hub_ref.as_ref().is_some_and(|named| named.name == hub.name)
}

/// The name of an object's topic.
fn topic_name(topic: &Topic) -> &str {
    topic.spec.topic_name(topic.metadata.name.as_deref().unwrap_or_default())
}

async fn run_sweeps(ctx: Arc<Context>, to_sweep: mpsc::Receiver<(HubKey, TopicUid)>, again: mpsc::Sender<(HubKey, TopicUid)>) {
    if !ctx.hubs_are_known().await {
        return;
    }
    ReceiverStream::new(to_sweep)
        .for_each_concurrent(SWEEPS_AT_A_TIME, |(hub, uid)| {
            let (ctx, again) = (Arc::clone(&ctx), again.clone());
            async move {
                if let Err(error) = adopt::sweep(&ctx, &hub, uid).await {
                    tracing::warn!(%hub, topic = %uid, %error, "will be looked at again");
                    ctx.metrics.failed("Entry", error.kind());
                    tokio::spawn(async move {
                        tokio::time::sleep(SWEEP_AGAIN).await;
                        let _ = again.send((hub, uid)).await;
                    });
                }
            }
        })
        .await;
}

/// An object that went: its topic is looked at, and objects that waited for the name.
async fn objects_gone(ctx: Arc<Context>, mut gone: mpsc::Receiver<Topic>, sweep: mpsc::Sender<(HubKey, TopicUid)>) {
    while let Some(topic) = gone.recv().await {
        let Some(hub) = &topic.spec.hub_ref else { continue };
        let key = HubKey { namespace: topic.namespace().unwrap_or_default(), name: hub.name.clone() };
        let name = topic_name(&topic).to_owned();
        let Some(link) = ctx.links.get(&key) else { continue };
        let object = topic.uid().unwrap_or_default();
        let bound = link.synced(|mirror| mirror.by_object(&object).map(|entry| entry.uid)).flatten();
        if let Some(uid) = bound {
            let _ = sweep.send((key.clone(), uid)).await;
        }
        for other in ctx.topics.state_filter(|other| is_of(other, &key) && topic_name(other) == name) {
            let _ = ctx.wake_topics.send(ObjectRef::from_obj(&*other)).await;
        }
    }
}

/// A Hub that went: what stays is named, its link ends, and its topics say so.
async fn hubs_gone(ctx: Arc<Context>, mut gone: mpsc::Receiver<Hub>) {
    while let Some(hub) = gone.recv().await {
        if ctx.is_ours(&hub) {
            ctx.event(&hub, EventType::Normal, "Kept", &crate::hub::status::what_stays(&hub));
        }
        hub_went(&ctx, &crate::context::hub_key(&hub)).await;
    }
}

async fn hub_went(ctx: &Context, key: &HubKey) {
    if ctx.hub(key).is_none() {
        ctx.scaling.lock().remove(key);
        ctx.served.lock().remove(key);
        ctx.links.remove(key);
    }
    for topic in ctx.topics.state_filter(|topic| is_of(topic, key)) {
        let _ = ctx.wake_topics.send(ObjectRef::from_obj(&*topic)).await;
    }
}

/// After a watch that could not go on, everything is listed anew, and nobody tells what went meanwhile: each hub's topics are compared with
/// all objects again.
async fn listed_anew(ctx: Arc<Context>, told: mpsc::Sender<Told>) {
    let (mut topics, mut hubs) = (ctx.topics_known.clone(), ctx.hubs_known.clone());
    loop {
        let changed = tokio::select! {
            biased;
            changed = topics.changed() => changed,
            changed = hubs.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        for key in ctx.links.keys() {
            if ctx.hub(&key).is_some() {
                let _ = told.send(Told::Synced(key)).await;
            } else {
                hub_went(&ctx, &key).await;
            }
        }
    }
}
