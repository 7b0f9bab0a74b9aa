//! The operator is stopped at every call of the API server in turn, before the call arrives and after it was done without an answer, and a new
//! one takes over: the final state is always the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::client::{Body, ClientBuilder};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tidegate_broker::RunningBroker;
use tidegate_broker::hub::{Caller, Listing, NewTopic};
use tidegate_model::TopicSettings;
use tokio::sync::Notify;
use tower::{Layer, Service as TowerService};

use crate::bed::{Bed, Operator, config, eventually};

/// Where the operator is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The call never arrives.
    Before,
    /// The call is done, and nobody hears of it.
    After,
}

#[derive(Clone)]
struct Fault {
    at: usize,
    moment: Moment,
    calls: Arc<AtomicUsize>,
    struck: Arc<Notify>,
}

impl<S> Layer<S> for Fault {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, fault: self.clone() }
    }
}

#[derive(Clone)]
struct Faulty<S> {
    inner: S,
    fault: Fault,
}

impl<S, R> TowerService<http::Request<Body>> for Faulty<S>
where
    S: TowerService<http::Request<Body>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Events are told to nobody in particular: they are no state.
        let counts = !request.uri().path().contains("/events");
        let number = if counts { self.fault.calls.fetch_add(1, Ordering::SeqCst) } else { 0 };
        let fault = self.fault.clone();
        let strikes = counts && number >= fault.at;
        if strikes && (fault.moment == Moment::Before || number > fault.at) {
            return Box::pin(async move {
                fault.struck.notify_one();
                std::future::pending().await
            });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if strikes {
                fault.struck.notify_one();
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

/// One life: what people and clients do, and what has to come of it. Answers whether the fault struck, and the final state.
async fn live(at: usize, moment: Moment) -> (bool, usize, String) {
    let bed = Bed::new("faults").await;
    let broker = bed.broker("hub").await;
    let new = NewTopic {
        name: "there".into(),
        settings: TopicSettings::default(),
        bound: None,
        management: tidegate_journal::entry::Management::Catalog,
    };
    let there = broker.hub().create_topic(new, &Caller::Client).await.unwrap().uid;
    bed.hub("hub").await;
    bed.topic("here", json!({"partitions": 2, "deletionPolicy": "Delete"})).await;
    bed.topic("stays", json!({})).await;
    let fault = Fault { at, moment, calls: Arc::default(), struck: Arc::default() };
    let client: Client = ClientBuilder::try_from(config().await).unwrap().with_layer(&fault).build();
    let mut running =
        Running { bed: &bed, fault: fault.clone(), operator: Some(bed.operator_with(client, Arc::default())), struck: false };
    running
        .step(async { tokio::join!(bed.until("here", "Serving"), bed.until("there", "Serving"), bed.until("stays", "Serving")) })
        .await;
    running.step(hub_is_known(&bed)).await;
    bed.topic("here", json!({"partitions": 4, "deletionPolicy": "Delete"})).await;
    running.step(bed.until("here", "Serving")).await;
    broker.hub().delete_topic(there, None, &Caller::Client).await.unwrap();
    running.step(bed.gone("there")).await;
    bed.delete("here").await;
    running.step(bed.gone("here")).await;
    running.step(counted(&bed)).await;
    let (struck, calls) = (running.struck, fault.calls.load(Ordering::SeqCst));
    if let Some(operator) = running.operator.take() {
        operator.kill().await;
    }
    let state = state(&bed, &broker).await;
    broker.shutdown().await;
    (struck, calls, state)
}

/// The whole set of the hub's objects is there and its identity is on the volume.
async fn hub_is_known(bed: &Bed) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(bed.client.clone(), &bed.namespace);
    eventually("the volume says whose it is", || async {
        claims.get_opt("hub-broker-1").await.unwrap()?.labels().contains_key("tidegate.dev/hub-id").then_some(())
    })
    .await;
    let hubs = bed.hubs();
    eventually("the hub's status is written", || async { hubs.get("hub").await.unwrap().status?.hub_id.map(drop) }).await;
}

async fn counted(bed: &Bed) {
    let hubs = bed.hubs();
    eventually("the hub counts its topics", || async {
        (hubs.get("hub").await.unwrap().status?.topics == Some(1)).then_some(())
    })
    .await;
}

struct Running<'a> {
    bed: &'a Bed,
    fault: Fault,
    operator: Option<Operator>,
    struck: bool,
}

impl Running<'_> {
    /// Waits for an outcome; a fault on the way kills the operator, and a sound one takes over.
    async fn step<T>(&mut self, outcome: impl Future<Output = T>) {
        tokio::pin!(outcome);
        if !self.struck {
            tokio::select! {
                biased;
                _ = &mut outcome => return,
                () = self.fault.struck.notified() => {}
            }
            self.struck = true;
            if let Some(operator) = self.operator.take() {
                operator.kill().await;
            }
            self.operator = Some(self.bed.operator());
        }
        outcome.await;
    }
}

/// Everything that is, without what differs from life to life.
async fn state(bed: &Bed, broker: &RunningBroker) -> String {
    let mut lines = Vec::new();
    lines.extend(described::<ConfigMap>(bed).await);
    lines.extend(described::<Service>(bed).await);
    lines.extend(described::<ServiceAccount>(bed).await);
    lines.extend(described::<StatefulSet>(bed).await);
    lines.extend(described::<PersistentVolumeClaim>(bed).await);
    lines.extend(described::<PodDisruptionBudget>(bed).await);
    lines.extend(described::<NetworkPolicy>(bed).await);
    for topic in bed.topics().list(&ListParams::default()).await.unwrap() {
        let reason = topic.status.as_ref().and_then(|status| status.conditions.first()).map(|ready| ready.reason.clone());
        lines.push(format!("Topic {} {:?} {:?} {:?}", topic.name_any(), topic.spec, reason, topic.finalizers()));
    }
    let hub = bed.hubs().get("hub").await.unwrap().status.unwrap();
    lines.push(format!("Hub topics {:?} detached {:?} wishes {:?}", hub.topics, hub.detached_topics, hub.pending_deletions));
    for topic in broker.hub().list_topics("", "", 100, Listing::WithDeleted) {
        let bound = topic.bound.map(|bound| bound.name);
        lines.push(format!("entry {} {:?} {bound:?} deleted {}", topic.name, topic.settings, topic.deleted.is_some()));
    }
    lines.join("\n")
}

async fn described<K>(bed: &Bed) -> Vec<String>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let mut lines = Vec::new();
    for object in api.list(&ListParams::default()).await.unwrap() {
        let mut labels: BTreeMap<String, String> = object.labels().clone();
        for random in ["tidegate.dev/hub-id", "tidegate.dev/hub-uid"] {
            labels.entry(random.to_owned()).and_modify(|value| *value = "set".to_owned());
        }
        let owners: Vec<&str> = object.owner_references().iter().map(|owner| owner.name.as_str()).collect();
        lines.push(format!("{} {} {labels:?} {owners:?}", K::kind(&()), object.name_any()));
    }
    lines
}

/// Lives at a time.
const AT_A_TIME: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_call_it_ends_in_the_same_state() {
    let (struck, calls, wanted) = live(usize::MAX, Moment::Before).await;
    assert!(!struck);
    println!("{calls} calls in a life without a fault; it ends so:\n{wanted}");
    let lives = (0..calls).flat_map(|at| [(at, Moment::Before), (at, Moment::After)]);
    let mut outcomes = futures::stream::iter(lives)
        .map(|(at, moment)| async move { (at, moment, tokio::spawn(live(at, moment)).await) })
        .buffer_unordered(AT_A_TIME);
    let mut struck_lives = 0;
    while let Some((at, moment, outcome)) = outcomes.next().await {
        let (struck, _, state) = outcome.unwrap_or_else(|error| panic!("stopped at call {at} ({moment:?}): {error}"));
        assert_eq!(state, wanted, "stopped at call {at} ({moment:?})");
        struck_lives += usize::from(struck);
    }
    println!("{struck_lives} lives were cut");
    assert!(struck_lives >= calls, "of {calls} calls and two moments each, only {struck_lives} were struck");
}
