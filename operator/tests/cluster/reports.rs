//! What people read when something is wrong around a hub: conditions and Events with the words of whoever knows.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde_json::{Value, json};
use tidegate_broker::RunningBroker;

use crate::bed::{Bed, eventually, say};

async fn pod(bed: &Bed, status: Value) {
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let labels = json!({"tidegate.dev/hub": "hub", "app.kubernetes.io/managed-by": "tidegate-operator"});
    let spec = json!({"containers": [{"name": "broker", "image": "none"}]});
    if pods.get_opt("hub-broker-1-0").await.unwrap().is_none() {
        let pod = json!({"metadata": {"name": "hub-broker-1-0", "labels": labels}, "spec": spec});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let patch = Patch::Merge(json!({"status": status}));
    pods.patch_status("hub-broker-1-0", &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_pod_from_serving_is_said_in_the_words_of_who_knows() {
    let bed = Bed::new("pods").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    let waiting = |reason: &str, message: &str| {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({"containerStatuses": [{"name": "broker", "image": "tidegate:9", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    };
    let mut crashed = waiting("CrashLoopBackOff", "back-off 10s restarting failed container");
    crashed["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 1, "message":
        "starting\nError: the object store refuses: put of object shop/hub/hub.json was refused by the store: NoSuchBucket: The specified bucket does not exist"}});
    let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient memory"}]});
    for (status, reason, words) in [
        (unscheduled, "Unschedulable", "3 Insufficient memory"),
        (waiting("CreateContainerConfigError", "secret \"s3\" not found"), "ConfigurationMissing", "secret \"s3\" not found"),
        (waiting("ErrImagePull", "manifest unknown"), "ImageNotPulled", "image tidegate:9 cannot be pulled: manifest unknown"),
        (crashed, "BrokerFails", "NoSuchBucket: The specified bucket does not exist"),
    ] {
        let mut status = status;
        if status.get("conditions").is_none() {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        }
        pod(&bed, status).await;
        let message = bed.hub_says("Degraded", "True", reason).await;
        assert!(message.contains(words), "{message}");
        assert!(bed.event("hub", reason).await.contains(words));
        bed.hub_says("Available", "False", "NoBroker").await;
    }
    pod(&bed, json!({"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": []})).await;
    bed.hub_says("Degraded", "False", "AsExpected").await;
    operator.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_refuses_is_told_in_its_own_words_while_clients_are_served() {
    let bed = Bed::new("store").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    pod(&bed, json!({"conditions": [{"type": "Ready", "status": "True"}]})).await;
    bed.topic("clicks", json!({"sealing": {"age": "100ms"}})).await;
    bed.until("clicks", "Serving").await;
    bed.hub_says("TierAvailable", "True", "Reached").await;
    let (store, aside) = (bed.folder.path().join("hub/store"), bed.folder.path().join("hub/aside"));
    std::fs::rename(&store, &aside).unwrap();
    std::fs::write(&store, "in the way").unwrap();
    say(&broker, "clicks", "while the store is away").await;
    let message = bed.hub_says("TierAvailable", "False", "Unreachable").await;
    assert!(message.contains("Not a directory"), "{message}");
    assert!(bed.hub_says("Degraded", "True", "ObjectStoreUnavailable").await.contains("Not a directory"));
    bed.hub_says("Available", "True", "BrokerReady").await;
    assert!(bed.event("hub", "ObjectStoreUnavailable").await.contains("records stay on the brokers' disks"));
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&aside, &store).unwrap();
    bed.hub_says("TierAvailable", "True", "Reached").await;
    bed.hub_says("Degraded", "False", "AsExpected").await;
    operator.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_another_manager_takes_are_set_back_and_a_fight_is_reported() {
    let bed = Bed::new("managers").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    bed.hub_says("TierAvailable", "True", "Reached").await;
    let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let ours = maps.get("hub-brokers").await.unwrap().data.unwrap()["settings.toml"].clone();
    let theirs =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hub-brokers"}, "data": {"settings.toml": "mine"}});
    let take = || async {
        let params = PatchParams::apply("somebody").force();
        maps.patch("hub-brokers", &params, &Patch::Apply(&theirs)).await.unwrap();
    };
    let is = |wanted: &str| {
        let (maps, wanted) = (maps.clone(), wanted.to_owned());
        async move {
            eventually(&format!("the file is {wanted:.10}"), || async {
                (maps.get("hub-brokers").await.unwrap().data.unwrap()["settings.toml"] == wanted).then_some(())
            })
            .await;
        }
    };
    take().await;
    is(&ours).await;
    let said = bed.event("hub", "FieldsSetBack").await;
    assert!(
        said.contains("ConfigMap hub-brokers") && said.contains("\"somebody\"") && said.contains(".data.settings.toml"),
        "{said}"
    );
    // Once more at once: two that insist do not fight as fast as they can.
    take().await;
    let message = bed.hub_says("Degraded", "True", "FieldsContested").await;
    assert!(message.contains("\"somebody\"") && message.contains("ConfigMap hub-brokers"), "{message}");
    // The other one gives up: ours again, and nothing is wrong any more.
    is(&ours).await;
    bed.hub_says("Degraded", "False", "AsExpected").await;
    operator.stop().await;
    broker.shutdown().await;
}

/// Deletes all objects of a kind, as the controller of namespaces does; answers how many there were.
async fn sweep<K>(bed: &Bed) -> usize
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let found = api.list(&ListParams::default()).await.unwrap().items.len();
    if found > 0 {
        for object in api.list(&ListParams::default()).await.unwrap() {
            let _ = api.delete(object.meta().name.as_deref().unwrap(), &DeleteParams::default()).await;
        }
    }
    found
}

async fn sweep_all(bed: &Bed) -> usize {
    sweep::<ConfigMap>(bed).await
        + sweep::<Service>(bed).await
        + sweep::<ServiceAccount>(bed).await
        + sweep::<StatefulSet>(bed).await
        + sweep::<PodDisruptionBudget>(bed).await
        + sweep::<NetworkPolicy>(bed).await
        + sweep::<tidegate_crd::Topic>(bed).await
}

fn names(broker: &RunningBroker) -> Vec<String> {
    let topics = broker.hub().list_topics("", "", 10, tidegate_broker::hub::Listing::Living);
    topics.into_iter().map(|topic| topic.name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_with_everything_in_it_traps_nothing_and_deletes_no_data() {
    let bed = Bed::new("terminating").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    bed.topic("dropped", json!({"deletionPolicy": "Delete"})).await;
    bed.topic("kept", json!({})).await;
    bed.until("dropped", "Serving").await;
    bed.until("kept", "Serving").await;
    let namespaces: Api<Namespace> = Api::all(bed.client.clone());
    namespaces.delete(&bed.namespace, &DeleteParams::default()).await.unwrap();
    // In whatever order things go, a while with the Hub there and a while without.
    for round in 0.. {
        let left = sweep_all(&bed).await;
        if round == 2 {
            bed.hubs().delete("hub", &DeleteParams::default()).await.unwrap();
        }
        if left == 0 && round > 4 {
            break;
        }
        assert!(round < 100, "{left} objects stay or come again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    bed.gone("dropped").await;
    assert!(bed.hubs().get_opt("hub").await.unwrap().is_none());
    assert_eq!(names(&broker), ["dropped", "kept"], "data outlives the namespace");
    operator.stop().await;
    assert_eq!(sweep_all(&bed).await, 0, "nothing was made");
    broker.shutdown().await;
}
