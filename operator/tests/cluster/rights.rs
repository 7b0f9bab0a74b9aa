//! The operator under exactly the rights that the chart gives it, in both modes: a right that is missing fails what it does, and one that nothing
//! ever uses is named.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Service};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_broker::RunningBroker;
use tidegate_broker::hub::Caller;
use tidegate_model::TopicSettings;
use tidegate_operator::lease::Election;
use tidegate_operator::settings::Settings;
use tidegate_operator::{key, release};

use crate::bed::{Bed, create, eventually, expendable};
use crate::calls::{Watched, Watcher};

/// Who the operator is in these tests.
const USER: &str = "tidegate-test-operator";

/// A right: API group, resource with its subresource, verb.
type Right = (String, String, String);

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// What was asked for, and what was refused.
#[derive(Clone, Default)]
struct Record {
    used: Arc<Mutex<BTreeSet<Right>>>,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Watcher for Record {
    type Asked = (Option<Right>, String);

    fn asked(&self, method: &http::Method, uri: &http::Uri) -> Option<Self::Asked> {
        Some((asked(method, uri), format!("{method} {uri}")))
    }

    fn answered(&self, (right, what): Self::Asked, status: http::StatusCode) -> bool {
        if status == http::StatusCode::FORBIDDEN {
            self.refused.lock().push(what);
        }
        // A server-side apply that finds nothing asks for two rights.
        if let Some((group, resource, "patch")) = right.as_ref().map(|(group, resource, verb)| (group, resource, verb.as_str()))
            && status == http::StatusCode::CREATED
        {
            self.used.lock().insert((group.clone(), resource.clone(), "create".to_owned()));
        }
        self.used.lock().extend(right);
        true
    }
}

/// The right that a request needs, as the API server's authorizer reads it: `/api/v1/…` or `/apis/GROUP/VERSION/…`.
fn asked(method: &http::Method, uri: &http::Uri) -> Option<Right> {
    let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (resource, name, below) = match rest {
        ["namespaces", name] => ("namespaces", Some(*name), None),
        ["namespaces", _, resource] | [resource] => (*resource, None, None),
        ["namespaces", _, resource, name] | [resource, name] => (*resource, Some(*name), None),
        ["namespaces", _, resource, name, below, ..] => (*resource, Some(*name), Some(*below)),
        _ => return None,
    };
    let watches = uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    let verb = match (method.as_str(), name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if watches => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        _ => "deletecollection",
    };
    let resource = below.map_or_else(|| resource.to_owned(), |below| format!("{resource}/{below}"));
    Some((group.to_owned(), resource, verb.to_owned()))
}

/// What the chart renders in a mode: its objects of these kinds.
fn rendered(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kubernetes/chart").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
}

/// All rights of the rules of objects.
fn granted<'a>(roles: impl Iterator<Item = &'a Value>) -> BTreeSet<Right> {
    let texts =
        |value: &Value| value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut all = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                all.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    all
}

/// Binds rules of the chart to a user of this test, where the chart binds them to its ServiceAccount.
async fn bind(bed: &Bed, role: &Value, namespace: Option<&str>, user: &str) {
    let name = format!("{}-{user}", role["metadata"]["name"].as_str().unwrap());
    let kind = role["kind"].as_str().unwrap();
    let binding = format!("{kind}Binding");
    let of = |kind: &str| ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind));
    for (kind, object) in [
        (kind, json!({"metadata": {"name": name}, "rules": role["rules"]})),
        (
            &binding,
            json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]}),
        ),
    ] {
        let resource = of(kind);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(bed.client.clone(), namespace, &resource),
            None => Api::all_with(bed.client.clone(), &resource),
        };
        let mut object = object;
        object["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
        object["kind"] = json!(kind);
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }
}

/// A client that may what this user may, and writes down what it asks.
fn client(config: &Config, user: &str, record: &Record) -> Client {
    let mut config = config.clone();
    config.headers.push(("impersonate-user".parse().unwrap(), user.parse().unwrap()));
    ClientBuilder::try_from(config).unwrap().with_layer(&Watched(record.clone())).build()
}

/// Everything that an operator does at all, as far as it asks the API server for something.
async fn whole_life(bed: &Bed, settings: &Settings, client: Client) {
    let acting = client.clone();
    let mut election = Election::new(acting.clone(), settings, "first");
    election.attempt().await.expect("the Lease is made");
    election.attempt().await.expect("the Lease is renewed");
    key::load_or_make(&acting, settings).await.expect("the key is made");
    key::load_or_make(&acting, settings).await.expect("the key is read");
    let broker = bed.broker("hub").await;
    let operator = bed.operator_as(settings.clone(), client, Arc::default());
    bed.apply(hub(
        json!([{"name": "grpc", "port": 7171, "plaintext": true}, {"name": "public", "port": 9000, "plaintext": true}]),
    ))
    .await
    .unwrap();
    topics_come_and_go(bed, &broker).await;
    let broker = deleted_while_away(bed, broker).await;
    bed.apply(hub(json!([{"name": "grpc", "port": 7171, "plaintext": true}]))).await.unwrap();
    let services: Api<Service> = Api::namespaced(bed.client.clone(), &bed.namespace);
    eventually("the Service of a listener that went is deleted", || async {
        services.get_opt("hub-public").await.unwrap().is_none().then_some(())
    })
    .await;
    outdated_pod_is_replaced(bed).await;
    what_is_left_of_a_broker_goes(bed).await;
    operator.stop().await;
    Election::release(acting, settings, "first").await;
    broker.shutdown().await;
}

fn hub(listeners: Value) -> Value {
    json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"},
        "spec": {"objectStore": {"s3": {"bucket": "events"}}, "listeners": listeners}})
}

async fn topics_come_and_go(bed: &Bed, broker: &RunningBroker) {
    bed.topic("here", json!({"deletionPolicy": "Delete"})).await;
    bed.until("here", "Serving").await;
    // The same Event twice is one that is counted.
    for partitions in [2, 3] {
        bed.topic("here", json!({"deletionPolicy": "Delete", "partitions": partitions})).await;
        bed.until("here", "Serving").await;
    }
    let there = create(broker, "there", TopicSettings::default()).await;
    bed.until("there", "Serving").await;
    broker.hub().delete_topic(there, None, &Caller::Client).await.unwrap();
    bed.gone("there").await;
    bed.delete("here").await;
    bed.gone("here").await;
    assert!(broker.hub().topic("here").is_err(), "the topic went with its object");
    bed.event("here", "Deleted").await;
}

/// The wish is noted on the Hub, and carried out later.
async fn deleted_while_away(bed: &Bed, broker: RunningBroker) -> RunningBroker {
    bed.topic("later", json!({"deletionPolicy": "Delete"})).await;
    bed.until("later", "Serving").await;
    broker.shutdown().await;
    bed.delete("later").await;
    bed.gone("later").await;
    let broker = bed.broker("hub").await;
    eventually("the topic goes when its hub is back", || async { broker.hub().topic("later").is_err().then_some(()) }).await;
    broker
}

/// What the StatefulSet's controller and the kubelet would say of a pod of an older template.
async fn outdated_pod_is_replaced(bed: &Bed) {
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let labels = json!({"tidegate.dev/hub": "hub", "tidegate.dev/broker": "1", "app.kubernetes.io/name": "tidegate-broker",
        "app.kubernetes.io/managed-by": "tidegate-operator", "controller-revision-hash": "old"});
    let spec = json!({"containers": [{"name": "broker", "image": "none"}], "terminationGracePeriodSeconds": 0});
    let pod = json!({"metadata": {"name": "hub-broker-1-0", "labels": labels}, "spec": spec});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let workloads: Api<StatefulSet> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let workload = workloads.get("hub-broker-1").await.unwrap();
    let status = json!({"replicas": 1, "updateRevision": "new", "observedGeneration": workload.metadata.generation});
    workloads.patch_status("hub-broker-1", &Default::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
    eventually("the outdated pod is deleted", || async { pods.get_opt("hub-broker-1-0").await.unwrap().is_none().then_some(()) })
        .await;
}

/// One that never came into its hub, and whose volume lies on a node that has gone.
async fn what_is_left_of_a_broker_goes(bed: &Bed) {
    let uid = bed.hubs().get("hub").await.unwrap().metadata.uid.unwrap();
    let volume = format!("volume-of-{}", bed.namespace);
    let volumes: Api<PersistentVolume> = Api::all(bed.client.clone());
    let on_node = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gone"]}]});
    let object = json!({"metadata": {"name": volume}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/nowhere"}, "storageClassName": "local", "nodeAffinity": {"required": {"nodeSelectorTerms": [on_node]}}}});
    volumes.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let labels =
        json!({"tidegate.dev/hub": "hub", "tidegate.dev/hub-uid": uid, "app.kubernetes.io/managed-by": "tidegate-operator"});
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let claim = json!({"metadata": {"name": "hub-broker-2", "labels": labels}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}});
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    let workloads: Api<StatefulSet> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "broker", "image": "none"}]}});
    let workload = json!({"metadata": {"name": "hub-broker-2", "labels": labels},
        "spec": {"serviceName": "none", "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    workloads.create(&PostParams::default(), &serde_json::from_value(workload).unwrap()).await.unwrap();
    eventually("both are deleted", || async {
        let workload = workloads.get_opt("hub-broker-2").await.unwrap();
        let claim = claims.get_opt("hub-broker-2").await.unwrap();
        let goes = claim.is_none_or(|claim| claim.metadata.deletion_timestamp.is_some());
        (goes && workload.is_none_or(|workload| workload.metadata.deletion_timestamp.is_some())).then_some(())
    })
    .await;
    bed.event("hub", "BrokerRemoved").await;
    assert!(claims.get("hub-broker-1").await.unwrap().metadata.deletion_timestamp.is_none());
}

/// Rights that no request of ours asks for, with who asks instead.
fn asked_by_others(right: &Right) -> bool {
    // The API server, for the operator, when an object names a Hub as its owner.
    *right == ("tidegate.dev".to_owned(), "hubs/finalizers".to_owned(), "update".to_owned())
}

/// Runs everything under the rights of one rendering.
async fn live_under(file: &str, cluster: bool) {
    let (server, _alone) = expendable().await;
    let bed = Bed::on(server, "rights").await;
    let user = format!("{USER}-{}", bed.namespace);
    let objects = rendered(file);
    let roles: Vec<&Value> = objects
        .iter()
        .filter(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            ["tidegate-operator", "tidegate-operator-own", "tidegate-operator-tidegate-system"].contains(&name)
                && ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(roles.len(), 2, "what the operator may do where it acts, and in its own namespace");
    for role in &roles {
        let is_cluster = role["kind"] == "ClusterRole";
        assert!(!is_cluster || cluster);
        bind(&bed, role, (!is_cluster).then_some(bed.namespace.as_str()), &user).await;
    }
    let record = Record::default();
    let client = client(&crate::bed::config_of(server).await, &user, &record);
    let settings = Settings {
        namespace: (!cluster).then(|| bed.namespace.clone()),
        lease_name: "tidegate-operator".into(),
        deletion_patience: Some(Duration::from_millis(500)),
        ..bed.settings()
    };
    let started = Instant::now();
    whole_life(&bed, &settings, client).await;
    let refused = record.refused.lock().clone();
    // In one namespace, what belongs to the cluster cannot be read: what can be done with Topics is asked for instead, and no volume is taken for lost.
    let is_expected = |what: &String| {
        !cluster && (what.contains("/customresourcedefinitions/topics.tidegate.dev") || what.contains("/persistentvolumes/"))
    };
    let refused: Vec<&String> = refused.iter().filter(|what| !is_expected(what)).collect();
    assert!(refused.is_empty(), "the chart gives no right for {refused:#?}");
    let used = record.used.lock().clone();
    let granted = granted(roles.into_iter());
    let unused: Vec<&Right> = granted.iter().filter(|right| !used.contains(*right) && !asked_by_others(right)).collect();
    assert!(unused.is_empty(), "{file} gives rights that nothing uses: {unused:#?}");
    println!("{file}: {} rights, all used, in {:.1?}", granted.len(), started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charts_rights_for_a_cluster_are_what_the_operator_needs_and_no_more() {
    live_under("default.rendered.yaml", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charts_rights_for_one_namespace_are_what_the_operator_needs_and_no_more() {
    live_under("one-namespace.rendered.yaml", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_rights_are_enough_to_release_objects_and_to_bring_definitions_up_to_date() {
    let (server, _alone) = expendable().await;
    let bed = Bed::on(server, "hooks").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    bed.topic("goes", json!({"deletionPolicy": "Delete"})).await;
    bed.until("goes", "Serving").await;
    operator.stop().await;
    let objects = rendered("default.rendered.yaml");
    let find =
        |name: &str| objects.iter().find(|object| object["metadata"]["name"] == name && object["kind"] == "ClusterRole").unwrap();
    let record = Record::default();
    for (role, user) in [("tidegate-release-tidegate-system", "release"), ("tidegate-crds-tidegate-system", "crds")] {
        let user = format!("{USER}-{user}-{}", bed.namespace);
        bind(&bed, find(role), None, &user).await;
        let client = client(&crate::bed::config_of(server).await, &user, &record);
        if role.contains("crds") {
            tidegate_operator::install::apply_definitions(&client).await.unwrap();
        } else {
            assert!(release::release(&client, None).await.unwrap() >= 2, "the Topic's finalizer and the Hub's claim");
        }
    }
    assert!(bed.topics().get("goes").await.unwrap().metadata.finalizers.is_none_or(|left| left.is_empty()));
    assert!(record.refused.lock().is_empty());
    broker.shutdown().await;
}

#[test]
fn requests_are_read_as_the_authorizer_does() {
    for (method, uri, expected) in [
        ("GET", "/api/v1/namespaces/a", right("", "namespaces", "get")),
        ("GET", "/api/v1/namespaces/a/pods?labelSelector=x", right("", "pods", "list")),
        ("GET", "/apis/tidegate.dev/v1alpha1/hubs?watch=true&x=1", right("tidegate.dev", "hubs", "watch")),
        ("PATCH", "/apis/tidegate.dev/v1alpha1/namespaces/a/hubs/h/status?", right("tidegate.dev", "hubs/status", "patch")),
        ("DELETE", "/api/v1/namespaces/a/services/s", right("", "services", "delete")),
        ("POST", "/apis/events.k8s.io/v1/namespaces/a/events", right("events.k8s.io", "events", "create")),
    ] {
        assert_eq!(asked(&method.parse().unwrap(), &uri.parse().unwrap()), Some(expected), "{uri}");
    }
    assert_eq!(asked(&http::Method::GET, &"/readyz".parse().unwrap()), None);
}
