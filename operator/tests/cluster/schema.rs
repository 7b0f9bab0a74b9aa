//! What the API server refuses at apply, and what it says then.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::bed::Bed;

fn topic(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec})
}

fn hub(spec: Value) -> Value {
    json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"}, "spec": spec})
}

async fn refused(bed: &Bed, object: Value, expected: &str) {
    match bed.apply(object.clone()).await {
        Err(kube::Error::Api(status)) if status.message.contains(expected) => {}
        other => panic!("{object}\nexpected: {expected}\ngot: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_and_dangerous_topics_are_refused_with_the_alternative() {
    let bed = Bed::new("schema").await;
    let with = |field: &str, value: Value| {
        let mut spec = json!({"hubRef": {"name": "hub"}});
        spec[field] = value;
        topic("clicks", spec)
    };
    for (object, expected) in [
        (topic("clicks", json!({})), "name the Hub of this namespace"),
        (with("topicName", json!("a b")), "letters, digits"),
        (with("topicName", json!("__offsets")), "does not begin with '__'"),
        (with("partitions", json!(0)), "greater than or equal to 1"),
        (with("retention", json!({"duration": "-7d"})), "must not be negative"),
        (with("retention", json!({"duration": "7 days"})), "such as 90s, 7d, 1d12h"),
        (with("retention", json!({"bytesPerPartition": "10GB"})), "such as 512Mi"),
        (with("cleanupPolicy", json!("Compact")), "supported values: \"Delete\""),
        (with("deletionPolicy", json!("Keep")), "supported values: \"Retain\", \"Delete\""),
    ] {
        refused(&bed, object, expected).await;
    }
    let good =
        json!({"hubRef": {"name": "hub"}, "partitions": 4, "retention": {"duration": "1d12h", "bytesPerPartition": 1_000_000}});
    bed.apply(topic("clicks", good.clone())).await.unwrap();
    let mut edits = Vec::new();
    for (field, value, expected) in [
        ("partitions", json!(3), "partitions never become fewer: keep the number, or make a new Topic"),
        ("hubRef", json!({"name": "other"}), "make a Topic for the other hub"),
        ("topicName", json!("other"), "make a new Topic with the other name"),
        ("placementGroup", json!("group"), "fixed when the topic is made"),
    ] {
        let mut spec = good.clone();
        spec[field] = value;
        edits.push((topic("clicks", spec), expected));
    }
    for (object, expected) in edits {
        refused(&bed, object, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_and_dangerous_hubs_are_refused_with_the_alternative() {
    let bed = Bed::new("schema").await;
    let store = json!({"s3": {"bucket": "events", "prefix": "a/b"}});
    let with = |field: &str, value: Value| {
        let mut spec = json!({"objectStore": store});
        spec[field] = value;
        hub(spec)
    };
    let scaling =
        |least: u32, most: u32| json!({"minReplicas": least, "maxReplicas": most, "targets": {"bytesInPerSecond": "20Mi"}});
    let target = |target: Value| json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 3, "targets": target}});
    let both = json!({"s3": {"bucket": "events", "credentials": {"secret": {"name": "a"}, "webIdentity": {"roleArn": "b"}}}});
    let neither = json!({"s3": {"bucket": "events", "credentials": {}}});
    for (object, expected) in [
        (hub(json!({"objectStore": {}})), "name an object store: spec.objectStore.s3"),
        (hub(json!({"objectStore": both})), "exactly one source of credentials"),
        (hub(json!({"objectStore": neither})), "exactly one source of credentials"),
        (hub(json!({"objectStore": {"s3": {"bucket": "Events!"}}})), "a bucket's name consists of"),
        (with("brokers", json!({"replicas": 0})), "greater than or equal to 1"),
        (with("replicationFactor", json!(2)), "must be 1, 3 or 5"),
        (with("replicationFactor", json!(3)), "keep as many brokers as there are copies of each record"),
        (with("brokers", json!({"autoscaling": scaling(5, 3)})), "minReplicas is above maxReplicas"),
        (
            with("brokers", json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 3, "targets": {}}})),
            "name at least one target: bytesInPerSecond, bytesOutPerSecond, cpu or diskPercent",
        ),
        (with("brokers", target(json!({"bytesOutPerSecond": "1"}))), "must be at least 1Ki"),
        (with("brokers", target(json!({"cpu": "5m"}))), "is a number of cores such as 1500m or 2, at least 10m"),
        (with("brokers", target(json!({"cpu": "much"}))), "is a number of cores such as 1500m or 2, at least 10m"),
        (with("brokers", target(json!({"diskPercent": 95}))), "less than or equal to 90"),
        (with("brokers", json!({"storage": {"size": "100Mi"}})), "at least 1Gi"),
        (with("listeners", json!([{"name": "grpc", "port": 7171}])), "say so with plaintext: true"),
        (
            with(
                "listeners",
                json!([{"name": "a", "port": 7171, "plaintext": true}, {"name": "b", "port": 7171, "plaintext": true}]),
            ),
            "two listeners have the same port",
        ),
        (
            with("listeners", json!([{"name": "a", "port": 7171, "plaintext": true, "nodePort": 30000}])),
            "nodePort needs exposure",
        ),
        (with("restoreFrom", json!({"hubId": "yesterday"})), "hubId"),
    ] {
        refused(&bed, object, expected).await;
    }
    bed.apply(hub(json!({"objectStore": store, "brokers": {"storage": {"size": "10Gi"}}}))).await.unwrap();
    for (spec, expected) in [
        (json!({"objectStore": {"s3": {"bucket": "others", "prefix": "a/b"}}}), "make a new Hub for another bucket"),
        (json!({"objectStore": {"s3": {"bucket": "events", "prefix": "c"}}}), "make a new Hub for another prefix"),
        (json!({"objectStore": store, "brokers": {"storage": {"size": "5Gi"}}}), "volumes never shrink"),
        (
            json!({"objectStore": store, "brokers": {"storage": {"size": "10Gi", "className": "fast"}}}),
            "volumes do not change their class",
        ),
        (
            json!({"objectStore": store, "journals": 8, "brokers": {"storage": {"size": "10Gi"}}}),
            "fixed when the hub first starts",
        ),
    ] {
        refused(&bed, hub(spec), expected).await;
    }
    // Growing is fine, and the scale subresource knows the number.
    bed.apply(hub(json!({"objectStore": store, "brokers": {"replicas": 1, "storage": {"size": "20Gi"}}}))).await.unwrap();
    assert_eq!(bed.hubs().get_scale("hub").await.unwrap().spec.unwrap().replicas, Some(1));
    // Up by the scale subresource; down below three copies only with a word about it.
    let scale = |replicas: u32| {
        let hubs = bed.hubs();
        async move { hubs.patch_scale("hub", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": replicas}}))).await }
    };
    assert_eq!(scale(5).await.unwrap().spec.unwrap().replicas, Some(5));
    scale(3).await.unwrap();
    for few in [2, 1] {
        let refused = scale(few).await.unwrap_err().to_string();
        assert!(refused.contains("say spec.replicationFactor: 1 with it"), "{refused}");
    }
    let one = json!({"replicas": 1, "storage": {"size": "20Gi"}});
    refused(&bed, hub(json!({"objectStore": store, "brokers": one})), "fewer than 3 brokers cannot hold 3 copies").await;
    bed.apply(hub(json!({"objectStore": store, "brokers": one, "replicationFactor": 1}))).await.unwrap();
    let all = json!({"bytesInPerSecond": "20Mi", "bytesOutPerSecond": "60Mi", "cpu": "1500m", "diskPercent": 60});
    let scaling_by_all =
        json!({"minReplicas": 3, "maxReplicas": 9, "targets": all, "scaleUpAfter": "1m", "scaleDownAfter": "1h"});
    let many = json!({"autoscaling": scaling_by_all, "storage": {"size": "20Gi"}});
    bed.apply(hub(json!({"objectStore": store, "brokers": many, "replicationFactor": 3}))).await.unwrap();
    let few = json!({"autoscaling": scaling(2, 9), "storage": {"size": "20Gi"}});
    refused(&bed, hub(json!({"objectStore": store, "brokers": few, "replicationFactor": 3})), "autoscaling.minReplicas").await;
}
