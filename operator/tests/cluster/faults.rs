//! The operator is stopped at every call of the API server in turn, before the call arrives and after it was done without an answer, and a new
//! one takes over; every call of the broker fails in turn, before and after; all that the operator knows is old. The final state is always the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tidegate_broker::RunningBroker;
use tidegate_broker::hub::{Caller, Listing};
use tidegate_model::TopicSettings;
use tokio::sync::Notify;

use crate::bed::{Bed, Operator, config, create, eventually};
use crate::between::{Between, Late};
use crate::calls::{Watched, Watcher};

/// Where the operator is stopped, or a call cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
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

impl Watcher for Fault {
    /// Whether the answer gets lost.
    type Asked = bool;

    fn asked(&self, _method: &http::Method, uri: &http::Uri) -> Option<bool> {
        // Events are told to nobody in particular: they are no state.
        if uri.path().contains("/events") {
            return Some(false);
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if number > self.at || (number == self.at && self.moment == Moment::Before) {
            self.struck.notify_one();
            return None;
        }
        Some(number == self.at)
    }

    fn answered(&self, is_lost: bool, _status: http::StatusCode) -> bool {
        if is_lost {
            self.struck.notify_one();
        }
        !is_lost
    }
}

/// What happens in a life beside what people do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disturbance {
    /// Nothing.
    None,
    /// The operator is stopped at this call of the API server, and a new one begins.
    Stopped(usize, Moment),
    /// This call of the broker fails, once.
    Cut(usize, Moment),
    /// What the operator knows of these kinds (a part of the path; all if empty) is always old.
    Stale(&'static str),
}

/// What came of a life.
pub(crate) struct Life {
    /// How often the disturbance struck.
    pub(crate) struck: usize,
    /// Calls of the API server, and of the broker.
    pub(crate) calls: (usize, usize),
    /// Everything that is at the end.
    pub(crate) state: String,
}

/// One life: what people and clients do, and what has to come of it.
pub(crate) async fn live(disturbance: Disturbance) -> Life {
    let bed = Bed::new("faults").await;
    let broker = bed.broker("hub").await;
    let (at_broker, broker_moment) = match disturbance {
        Disturbance::Cut(at, moment) => (at, moment),
        _ => (usize::MAX, Moment::Before),
    };
    let between = Between::start(broker.operator_addr, at_broker, broker_moment).await;
    bed.network.point("hub", between.url());
    let there = create(&broker, "there", TopicSettings::default()).await;
    bed.hub("hub").await;
    bed.topic("here", json!({"partitions": 2, "deletionPolicy": "Delete"})).await;
    bed.topic("stays", json!({})).await;
    let (at, moment) = match disturbance {
        Disturbance::Stopped(at, moment) => (at, moment),
        _ => (usize::MAX, Moment::Before),
    };
    let fault = Fault { at, moment, calls: Arc::default(), struck: Arc::default() };
    let late = Late::new(if let Disturbance::Stale(kinds) = disturbance { Some(kinds) } else { None });
    let client: Client =
        ClientBuilder::try_from(config().await).unwrap().with_layer(&late).with_layer(&Watched(fault.clone())).build();
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
    let struck = usize::from(running.struck) + between.cuts() + late.delayed();
    let calls = (fault.calls.load(Ordering::SeqCst), between.calls());
    if let Some(operator) = running.operator.take() {
        operator.kill().await;
    }
    let state = state(&bed, &broker).await;
    broker.shutdown().await;
    Life { struck, calls, state }
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
async fn whatever_disturbs_it_it_ends_in_the_same_state() {
    let life = live(Disturbance::None).await;
    assert_eq!(life.struck, 0);
    let ((calls, calls_of_broker), wanted) = (life.calls, life.state);
    println!("{calls} calls of the API server, {calls_of_broker} of the broker in a life without a fault; it ends so:\n{wanted}");
    assert!(calls > 50 && calls_of_broker > 4);
    let moments = [Moment::Before, Moment::After];
    let stopped = (0..calls).flat_map(|at| moments.map(|moment| Disturbance::Stopped(at, moment)));
    let cut = (0..calls_of_broker).flat_map(|at| moments.map(|moment| Disturbance::Cut(at, moment)));
    let stale = ["/topics", "/hubs", ""].map(Disturbance::Stale);
    let mut outcomes = futures::stream::iter(stale.into_iter().chain(cut).chain(stopped))
        .map(|disturbance| async move { (disturbance, tokio::spawn(live(disturbance)).await) })
        .buffer_unordered(AT_A_TIME);
    let (mut lives, mut stopped, mut cut) = (0, 0, 0);
    while let Some((disturbance, outcome)) = outcomes.next().await {
        let life = outcome.unwrap_or_else(|error| panic!("{disturbance:?}: {error}"));
        assert_eq!(life.state, wanted, "{disturbance:?}");
        lives += 1;
        match disturbance {
            Disturbance::Stopped(..) => stopped += life.struck,
            Disturbance::Cut(..) => cut += life.struck,
            _ => assert!(life.struck > 1, "{disturbance:?}: only {} parts of watches were late", life.struck),
        }
    }
    println!("{lives} lives: {stopped} operators were stopped, {cut} calls of the broker cut");
    assert!(stopped >= calls, "of {calls} calls and two moments each, only {stopped} were struck");
    assert!(cut >= calls_of_broker, "of {calls_of_broker} calls and two moments each, only {cut} were cut");
}
