//! The broker's StatefulSet: one pod that satisfies the `restricted` Pod Security level, on the volume that the operator made. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tidegate_crd::Hub;
use tidegate_crd::hub::Credentials;

use super::config::{CLIENT_PORT, DATA, FILE, FOLDER, HTTP_PORT};
use super::labels::{BROKER, BROKER_ID, Names, labels, owned, selector};
use super::objects::typed;
use crate::catalog::network::OPERATOR_PORT;
use crate::error::Error;
use crate::settings::Settings;

/// On pods: changes with the settings file, so that a change of it replaces them.
const CONFIG_HASH: &str = "tidegate.dev/config-hash";
/// Any user but root; volumes are made its own.
const USER: i64 = 65532;

/// The broker's StatefulSet.
pub fn stateful_set(hub: &Hub, settings: &Settings, config: &ConfigMap) -> Result<StatefulSet, Error> {
    let names = Names::of(hub);
    typed(json!({
        "metadata": owned(hub, names.workload()),
        "spec": {
            "replicas": 1,
            "serviceName": names.brokers(),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": with_broker(selector(hub))},
            "template": {"metadata": pod_metadata(hub, config), "spec": pod_spec(hub, settings)},
        },
    }))
}

fn with_broker(mut labels: std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
    labels.insert(BROKER.to_owned(), BROKER_ID.to_string());
    labels
}

fn pod_metadata(hub: &Hub, config: &ConfigMap) -> Value {
    let template = &hub.spec.brokers.template;
    let mut annotations = template.annotations.clone();
    annotations.insert(CONFIG_HASH.to_owned(), hash(config));
    let mut all = template.labels.clone();
    all.extend(with_broker(labels(hub)));
    json!({"labels": all, "annotations": annotations})
}

fn hash(config: &ConfigMap) -> String {
    let mut hasher = DefaultHasher::new();
    config.data.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn pod_spec(hub: &Hub, settings: &Settings) -> Value {
    let template = &hub.spec.brokers.template;
    let names = Names::of(hub);
    let mut spec = json!({
        "serviceAccountName": names.brokers(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds.unwrap_or(60),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": spread(hub),
        "containers": [broker(hub, settings)],
        "volumes": volumes(hub),
    });
    if let Some(from) = &hub.spec.restore_from {
        spec["initContainers"] = json!([restore(hub, settings, &from.hub_id)]);
    }
    let mut set = |field: &str, value: Value| {
        let is_empty = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty {
            spec[field] = value;
        }
    };
    set("imagePullSecrets", json!(template.image_pull_secrets));
    set("nodeSelector", json!(template.node_selector));
    set("tolerations", json!(template.tolerations));
    set("affinity", json!(template.affinity));
    set("priorityClassName", json!(template.priority_class_name));
    spec
}

/// As the Hub says; else over nodes and zones, as far as possible.
fn spread(hub: &Hub) -> Value {
    let own = &hub.spec.brokers.template.topology_spread_constraints;
    if !own.is_empty() {
        return json!(own);
    }
    let over = |key: &str| json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": selector(hub)}});
    json!([over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")])
}

fn image(hub: &Hub, settings: &Settings) -> String {
    hub.spec.brokers.template.image.clone().unwrap_or_else(|| settings.broker_image.clone())
}

fn broker(hub: &Hub, settings: &Settings) -> Value {
    let template = &hub.spec.brokers.template;
    let default_resources = json!({"requests": {"cpu": "250m", "memory": "512Mi"}});
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3});
    json!({
        "name": "broker",
        "image": image(hub, settings),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/tidegate"],
        "args": ["broker", "--config", format!("{FOLDER}/{FILE}")],
        "env": environment(hub),
        "ports": [
            {"name": "client", "containerPort": CLIENT_PORT},
            {"name": "operator", "containerPort": OPERATOR_PORT},
            {"name": "http", "containerPort": HTTP_PORT},
        ],
        "resources": template.resources.as_ref().map_or(default_resources, |resources| json!(resources)),
        // A start replays the log: it may take long, and must not be taken for a hang.
        "startupProbe": probe("/livez", 1, 600),
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 2, 3),
        // Endpoints forget the pod before it stops taking connections; then the broker drains by itself at SIGTERM.
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": confined(),
        "volumeMounts": mounts(hub),
    })
}

/// Rebuilds the hub from its bucket into an empty volume; a volume that holds a hub is left as it is.
fn restore(hub: &Hub, settings: &Settings, from: &str) -> Value {
    json!({
        "name": "restore",
        "image": image(hub, settings),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/tidegate"],
        "args": ["recover", "--config", format!("{FOLDER}/{FILE}"), "--unless-present", "--from", from],
        "env": environment(hub),
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": confined(),
        "volumeMounts": mounts(hub),
    })
}

fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn credentials(hub: &Hub) -> Option<&Credentials> {
    hub.spec.object_store.s3.as_ref()?.credentials.as_ref()
}

const TOKEN_FOLDER: &str = "/var/run/secrets/tidegate.dev";

/// Credentials come as variables: a Secret or key that is missing then shows in the container's state, by name.
fn environment(hub: &Hub) -> Value {
    let mut variables = Vec::new();
    let given = credentials(hub);
    if let Some(secret) = given.and_then(|given| given.secret.as_ref()) {
        let from =
            |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}});
        variables.push(from("AWS_ACCESS_KEY_ID", &secret.access_key_id));
        variables.push(from("AWS_SECRET_ACCESS_KEY", &secret.secret_access_key));
    }
    if let Some(web) = given.and_then(|given| given.web_identity.as_ref()) {
        variables.push(json!({"name": "AWS_ROLE_ARN", "value": web.role_arn}));
        variables.push(json!({"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": format!("{TOKEN_FOLDER}/token")}));
    }
    json!(variables)
}

fn mounts(hub: &Hub) -> Value {
    let mut mounts = vec![
        json!({"name": "data", "mountPath": DATA}),
        json!({"name": "settings", "mountPath": FOLDER, "readOnly": true}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ];
    if credentials(hub).is_some_and(|given| given.web_identity.is_some()) {
        mounts.push(json!({"name": "identity", "mountPath": TOKEN_FOLDER, "readOnly": true}));
    }
    json!(mounts)
}

fn volumes(hub: &Hub) -> Value {
    let names = Names::of(hub);
    let mut volumes = vec![
        json!({"name": "data", "persistentVolumeClaim": {"claimName": names.workload()}}),
        json!({"name": "settings", "configMap": {"name": names.brokers()}}),
        json!({"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}),
    ];
    if let Some(web) = credentials(hub).and_then(|given| given.web_identity.as_ref()) {
        let audience = web.audience.as_deref().unwrap_or("sts.amazonaws.com");
        let token = json!({"serviceAccountToken": {"path": "token", "audience": audience, "expirationSeconds": 3600}});
        volumes.push(json!({"name": "identity", "projected": {"sources": [token]}}));
    }
    json!(volumes)
}
