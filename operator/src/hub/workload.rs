//! A broker's StatefulSet: one pod that satisfies the `restricted` Pod Security level, on the volume that the operator made. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Toleration};
use kube::ResourceExt;
use serde_json::{Value, json};
use tidegate_crd::Hub;
use tidegate_crd::hub::Credentials;

use super::config::{CLIENT_PORT, DATA, FILE, FOLDER, HTTP_PORT, PEER_PORT};
use super::labels::{BROKER, Names, labels, owned, selector};
use super::objects::typed;
use crate::catalog::network::OPERATOR_PORT;
use crate::error::Error;
use crate::settings::Settings;

/// On pods: changes with the settings file, so that a change of it replaces them.
const CONFIG_HASH: &str = "tidegate.dev/config-hash";
/// Any user but root; volumes are made its own.
const USER: i64 = 65532;

/// Node failures that pods wait out: longer than a restart takes, shorter than anybody wants to be without a copy.
const NODE_PATIENCE_SECONDS: i64 = 60;

/// A broker's StatefulSet. The founder makes the hub, or rebuilds it, where its volume is empty; others come into it.
pub fn stateful_set(
    hub: &Hub,
    settings: &Settings,
    config: &ConfigMap,
    broker: u32,
    founder: bool,
) -> Result<StatefulSet, Error> {
    let names = Names::of(hub);
    let pod = Pod { hub, settings, broker, founder };
    typed(json!({
        "metadata": owned(hub, names.workload(broker)),
        "spec": {
            "replicas": 1,
            "serviceName": names.brokers(),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": pod.with_broker(selector(hub))},
            "template": {"metadata": pod.metadata(config), "spec": pod.spec()},
        },
    }))
}

/// One broker's pod.
struct Pod<'a> {
    hub: &'a Hub,
    settings: &'a Settings,
    broker: u32,
    founder: bool,
}

fn hash(config: &ConfigMap) -> String {
    let mut hasher = DefaultHasher::new();
    config.data.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl Pod<'_> {
    fn with_broker(&self, mut labels: std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
        labels.insert(BROKER.to_owned(), self.broker.to_string());
        labels
    }

    fn metadata(&self, config: &ConfigMap) -> Value {
        let template = &self.hub.spec.brokers.template;
        let mut annotations = template.annotations.clone();
        annotations.insert(CONFIG_HASH.to_owned(), hash(config));
        let mut all = template.labels.clone();
        all.extend(self.with_broker(labels(self.hub)));
        json!({"labels": all, "annotations": annotations})
    }

    fn spec(&self) -> Value {
        let hub = self.hub;
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
            "containers": [self.broker()],
            "volumes": volumes(hub, self.broker),
        });
        if let Some(from) = hub.spec.restore_from.as_ref().filter(|_| self.founder) {
            spec["initContainers"] = json!([self.restore(&from.hub_id)]);
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
        set("tolerations", tolerations(&template.tolerations));
        set("affinity", json!(template.affinity));
        set("priorityClassName", json!(template.priority_class_name));
        spec
    }

    fn broker(&self) -> Value {
        let Pod { hub, settings, .. } = *self;
        let template = &hub.spec.brokers.template;
        let default_resources = json!({"requests": {"cpu": "250m", "memory": "512Mi"}});
        let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3});
        json!({
            "name": "broker",
            "image": image(hub, settings),
            "imagePullPolicy": "IfNotPresent",
            "command": ["/tidegate"],
            "args": ["broker", "--config", format!("{FOLDER}/{FILE}")],
            "env": self.environment(),
            "ports": [
                {"name": "client", "containerPort": CLIENT_PORT},
                {"name": "operator", "containerPort": OPERATOR_PORT},
                {"name": "http", "containerPort": HTTP_PORT},
                {"name": "peer", "containerPort": PEER_PORT},
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
    fn restore(&self, from: &str) -> Value {
        let Pod { hub, settings, .. } = *self;
        json!({
            "name": "restore",
            "image": image(hub, settings),
            "imagePullPolicy": "IfNotPresent",
            "command": ["/tidegate"],
            "args": ["recover", "--config", format!("{FOLDER}/{FILE}"), "--unless-present", "--from", from],
            "env": self.environment(),
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": confined(),
            "volumeMounts": mounts(hub),
        })
    }

    /// What is this broker's alone, as settings (`TIDEGATE_SET_hub__broker_id` is `hub.broker_id`; values are TOML), and credentials: a Secret or key
    /// that is missing then shows in the container's state, by name.
    fn environment(&self) -> Value {
        let mut variables = self.own_settings();
        credentials_of(self.hub, &mut variables);
        json!(variables)
    }

    fn own_settings(&self) -> Vec<Value> {
        let names = Names::of(self.hub);
        let namespace = self.hub.namespace().unwrap_or_default();
        let here = format!("{}.{}.{namespace}.svc", names.pod(self.broker), names.brokers());
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let set = |name: &str, value: String| json!({"name": format!("TIDEGATE_SET_{name}"), "value": value});
        let mut variables = vec![
            field("TIDEGATE_NODE", "spec.nodeName"),
            // Newer clusters copy it from the node; elsewhere it is empty, and zones are not told apart.
            field("TIDEGATE_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
            set("hub__broker_id", self.broker.to_string()),
            set("hub__fleet__node", "\"$(TIDEGATE_NODE)\"".to_owned()),
            set("hub__fleet__zone", "\"$(TIDEGATE_ZONE)\"".to_owned()),
            set("listeners__advertised", format!("{here}:{CLIENT_PORT}")),
            set("listeners__advertised_operator", format!("{here}:{OPERATOR_PORT}")),
            set("listeners__advertised_peer", format!("{here}:{PEER_PORT}")),
        ];
        if !self.founder {
            variables.push(set("hub__fleet__join", format!("[\"{}.{namespace}.svc:{PEER_PORT}\"]", names.peers())));
        }
        variables
    }
}

/// As the Hub says, and an end to the wait for a node that is not heard of, unless the Hub says something about that.
fn tolerations(own: &[Toleration]) -> Value {
    let mut all = own.to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !own.iter().any(|toleration| toleration.key.as_deref().is_none_or(|known| known == key)) {
            all.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(NODE_PATIENCE_SECONDS),
                ..Toleration::default()
            });
        }
    }
    json!(all)
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

fn credentials_of(hub: &Hub, variables: &mut Vec<Value>) {
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

fn volumes(hub: &Hub, broker: u32) -> Value {
    let names = Names::of(hub);
    let mut volumes = vec![
        json!({"name": "data", "persistentVolumeClaim": {"claimName": names.workload(broker)}}),
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
