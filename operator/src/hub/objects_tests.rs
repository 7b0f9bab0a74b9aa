//! What is emitted for a hub: whole, as committed snapshots, and rule by rule what must hold of each.
//!
//! `TIDEGATE_BLESS=1 cargo test -p tidegate-operator objects` writes the snapshots anew. The settings files among them are read by the broker's own
//! code here, and by the command in `cli/tests/operator_settings.rs`.
#![allow(clippy::disallowed_methods, reason = "tests use real files")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};
use tidegate_broker::settings::{BrokerSettings, ObjectStoreSettings};

use super::*;

const PLAIN: &str = r#"{"objectStore": {"s3": {"bucket": "events"}}}"#;
const WEB_IDENTITY: &str = r#"{"objectStore": {"s3": {"bucket": "events", "region": "eu-central-1", "addressing": "VirtualHost",
    "credentials": {"webIdentity": {"roleArn": "arn:aws:iam::123456789012:role/tidegate"}}}}}"#;
const FULL: &str = r#"{
    "brokers": {
        "replicas": 1, "storage": {"size": "100Gi", "className": "fast"},
        "template": {
            "image": "registry.example.com/tidegate:1.2.3", "imagePullSecrets": [{"name": "pull"}], "labels": {"team": "data"},
            "annotations": {"example.com/note": "a"}, "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
            "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "broker", "operator": "Exists"}],
            "priorityClassName": "high", "terminationGracePeriodSeconds": 120
        }
    },
    "journals": 8,
    "objectStore": {"s3": {"bucket": "events", "prefix": "prod/a", "endpoint": "http://minio.storage.svc:9000", "region": "local",
        "credentials": {"secret": {"name": "s3", "accessKeyId": "id", "secretAccessKey": "key"}}}},
    "listeners": [
        {"name": "grpc", "port": 7171, "plaintext": true},
        {"name": "outside", "port": 9094, "plaintext": true, "exposure": "NodePort", "nodePort": 30094},
        {"name": "lb", "port": 9095, "plaintext": true, "exposure": "LoadBalancer", "annotations": {"example.com/lb": "internal"}}
    ],
    "limits": {"maxMessageBytes": "2Mi", "maxConnections": 500, "maxPartitions": 1000},
    "observability": {"logFilter": "debug", "logFormat": "Text", "otlpEndpoint": "http://otel.observability.svc:4317"},
    "restoreFrom": {"hubId": "4f2c3f6e-6f3a-4a51-9b0d-0f4f6f1a2b3c"}
}"#;
const CASES: [(&str, &str); 3] = [("plain", PLAIN), ("web-identity", WEB_IDENTITY), ("full", FULL)];
const KEY: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=\n-----END PUBLIC KEY-----\n";

fn hub(spec: &str) -> Hub {
    let mut hub = Hub::new("orders", serde_json::from_str(spec).unwrap());
    hub.metadata.namespace = Some("shop".into());
    hub.metadata.uid = Some("00000000-0000-0000-0000-000000000001".into());
    hub
}

fn operator() -> Settings {
    Settings {
        namespace: None,
        broker_image: "tidegate:test".into(),
        metrics_listen: "127.0.0.1:0".parse().unwrap(),
        lease_namespace: "tidegate-system".into(),
        lease_name: "tidegate-operator".into(),
        identity: String::new(),
        measure_seconds: 30,
        status_writes_per_second: 5,
        api_calls_per_second: 100,
        deletion_patience: None,
    }
}

fn emitted(spec: &str) -> Objects {
    plan(&hub(spec), &operator(), KEY, &Crew::alone()).unwrap()
}

fn all(objects: &Objects) -> Vec<Value> {
    let mut all = vec![json!(objects.service_account), json!(objects.config), json!(objects.headless), json!(objects.peers)];
    all.extend(objects.services.iter().map(|service| json!(service)));
    all.extend([json!(objects.budget), json!(objects.network_policy)]);
    all.extend(objects.claims.iter().map(|claim| json!(claim)));
    all.extend(objects.workloads.iter().map(|workload| json!(workload)));
    all
}

fn pod(objects: &Objects) -> Value {
    json!(objects.workloads[0].spec.template.spec)
}

fn containers(pod: &Value) -> Vec<Value> {
    let of = |field: &str| pod[field].as_array().cloned().unwrap_or_default();
    [of("initContainers"), of("containers")].concat()
}

fn file(objects: &Objects) -> &str {
    &objects.config.data.as_ref().unwrap()[config::FILE]
}

fn committed(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{name} is not what is emitted now: look at the difference, then TIDEGATE_BLESS=1. Emitted:\n{text}");
}

#[test]
fn what_is_emitted_is_what_was_committed() {
    for (name, spec) in CASES {
        let objects = emitted(spec);
        let documents: Vec<String> = all(&objects).iter().map(|object| serde_yaml_ng::to_string(object).unwrap()).collect();
        committed(&format!("{name}.yaml"), &documents.join("---\n"));
        committed(&format!("{name}.settings.toml"), file(&objects));
    }
}

#[test]
fn the_settings_file_is_read_and_accepted_by_the_brokers_own_code() {
    for (name, spec) in CASES {
        let mut table: toml::Table = file(&emitted(spec)).parse().unwrap();
        assert!(table.remove("telemetry").is_some());
        let settings: BrokerSettings = toml::Value::Table(table).try_into().unwrap_or_else(|error| panic!("{name}: {error}"));
        settings.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        let ObjectStoreSettings::S3(s3) = &settings.object_store else { panic!("{name} names a bucket") };
        assert_eq!(s3.bucket, "events");
        assert_eq!(settings.hub.data_dir.to_str(), Some(config::DATA));
        assert_eq!(settings.listeners.operator.port(), OPERATOR_PORT);
        if name == "full" {
            assert_eq!(
                (settings.hub.journals, settings.limits.max_connections, settings.limits.max_message_bytes),
                (8, 500, 2 << 20)
            );
            assert_eq!((settings.hub.wal.budget_bytes, settings.hub.max_partitions), (50 << 30, 1000));
            assert_eq!(settings.hub.store_prefix, "prod/a");
        }
    }
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, field by field.
#[test]
fn pods_satisfy_the_restricted_level_with_a_root_that_is_read_only() {
    let volumes_allowed = ["configMap", "emptyDir", "persistentVolumeClaim", "projected"];
    for (name, spec) in CASES {
        let pod = pod(&emitted(spec));
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[field].is_null(), "{name}: {field}");
        }
        let whole = &pod["securityContext"];
        assert_eq!(
            (&whole["runAsNonRoot"], &whole["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault")),
            "{name}"
        );
        assert!(whole["runAsUser"].as_i64().unwrap() > 0, "{name}");
        for container in containers(&pod) {
            let own = &container["securityContext"];
            assert_eq!(own["readOnlyRootFilesystem"], json!(true), "{name}");
            assert_eq!(own["allowPrivilegeEscalation"], json!(false), "{name}");
            assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            assert!(own["privileged"].is_null(), "{name}");
            assert!(container["ports"].as_array().into_iter().flatten().all(|port| port["hostPort"].is_null()), "{name}");
        }
        for volume in pod["volumes"].as_array().unwrap() {
            let kinds: Vec<&String> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
            assert!(kinds.iter().all(|kind| volumes_allowed.contains(&kind.as_str())), "{name}: {kinds:?}");
        }
    }
}

#[test]
fn brokers_hold_no_right_in_the_cluster() {
    for (name, spec) in CASES {
        let objects = emitted(spec);
        assert_eq!(objects.service_account.automount_service_account_token, Some(false), "{name}");
        assert_eq!(pod(&objects)["automountServiceAccountToken"], json!(false), "{name}");
        // A token for the cloud's own service is the only one, and not for the API server.
        let tokens: Vec<Value> = pod(&objects)["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|volume| volume["projected"]["sources"].as_array().cloned().unwrap_or_default())
            .collect();
        let audiences: Vec<&str> = tokens.iter().filter_map(|token| token["serviceAccountToken"]["audience"].as_str()).collect();
        assert_eq!(audiences, if name == "web-identity" { vec!["sts.amazonaws.com"] } else { vec![] }, "{name}");
        let kinds: BTreeSet<String> = all(&objects).iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
        let expected = [
            "ConfigMap",
            "NetworkPolicy",
            "PersistentVolumeClaim",
            "PodDisruptionBudget",
            "Service",
            "ServiceAccount",
            "StatefulSet",
        ];
        assert_eq!(kinds, expected.into_iter().map(str::to_owned).collect(), "{name}: no Role, no RoleBinding");
    }
}

#[test]
fn the_network_is_as_narrow_as_the_hubs_settings_allow() {
    for (name, spec, outward) in
        [("plain", PLAIN, vec![443]), ("web-identity", WEB_IDENTITY, vec![443]), ("full", FULL, vec![4317, 9000])]
    {
        let policy = json!(emitted(spec).network_policy)["spec"].clone();
        assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]), "{name}");
        assert_eq!(policy["podSelector"]["matchLabels"], json!(selector(&hub(spec))), "{name}");
        let ports = |rule: &Value| -> Vec<i64> {
            rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_i64().unwrap()).collect()
        };
        let inward = policy["ingress"].as_array().unwrap();
        let open: BTreeMap<i64, Value> = inward.iter().map(|rule| (ports(rule)[0], rule["from"].clone())).collect();
        assert_eq!(open.keys().copied().collect::<Vec<_>>(), [7171, 7172, 7173, 7174], "{name}: nothing else is open");
        assert!(open[&7171].is_null(), "{name}: clients come from anywhere");
        assert_eq!(open[&7173], json!([{"namespaceSelector": {}}]), "{name}: metrics are for the cluster");
        let of_operator = json!([{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tidegate-system"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "tidegate-operator"}},
        }]);
        assert_eq!(open[&7172], of_operator, "{name}: only the operator's pods in the operator's namespace");
        let brokers = json!([{"podSelector": {"matchLabels": selector(&hub(spec))}}]);
        assert_eq!(open[&7174], brokers, "{name}: only brokers of this hub");
        let egress = policy["egress"].as_array().unwrap();
        let reached: Vec<Vec<i64>> = egress.iter().map(ports).collect();
        assert_eq!((reached, &egress[1]["to"]), (vec![vec![53, 53], vec![7174], outward], &brokers), "{name}");
    }
}

#[test]
fn a_drain_takes_one_pod_at_a_time_and_pods_spread_over_nodes_and_zones() {
    for (name, spec) in CASES {
        let objects = emitted(spec);
        let budget = json!(objects.budget)["spec"].clone();
        assert_eq!(budget, json!({"maxUnavailable": 1, "selector": {"matchLabels": selector(&hub(spec))}}), "{name}");
        let spread = pod(&objects)["topologySpreadConstraints"].as_array().unwrap().clone();
        let over: Vec<&str> = spread.iter().map(|rule| rule["topologyKey"].as_str().unwrap()).collect();
        assert_eq!(over, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"], "{name}");
    }
    let own = json!([{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]);
    let spec = json!({"objectStore": {"s3": {"bucket": "events"}}, "brokers": {"template": {"topologySpreadConstraints": own}}});
    assert_eq!(pod(&emitted(&spec.to_string()))["topologySpreadConstraints"], own, "a Hub's own rules replace ours");
}

#[test]
fn a_pod_is_given_time_to_leave_endpoints_and_to_drain() {
    for (spec, grace) in [(PLAIN, 60), (FULL, 120)] {
        let objects = emitted(spec);
        let pod = pod(&objects);
        assert_eq!(pod["terminationGracePeriodSeconds"], json!(grace));
        let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
        let table: toml::Table = file(&objects).parse().unwrap();
        let drain = table["shutdown_deadline_ms"].as_integer().unwrap();
        assert!(pause * 1000 + drain < grace * 1000, "the kubelet kills only what did not end by itself");
    }
}

#[test]
fn credentials_come_from_the_named_secret_or_from_a_role_and_never_through_the_operator() {
    let environment = |spec: &str| -> Vec<Value> {
        let pods = containers(&pod(&emitted(spec)));
        assert!(pods.windows(2).all(|pair| pair[0]["env"] == pair[1]["env"]), "a restore needs the same");
        // Without what tells brokers apart.
        let is_own = |variable: &&Value| variable["name"].as_str().unwrap().starts_with("TIDEGATE_");
        pods[0]["env"].as_array().unwrap().iter().filter(|variable| !is_own(variable)).cloned().collect()
    };
    assert_eq!(environment(PLAIN), Vec::<Value>::new());
    let from = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "s3", "key": key}}});
    assert_eq!(environment(FULL), [from("AWS_ACCESS_KEY_ID", "id"), from("AWS_SECRET_ACCESS_KEY", "key")]);
    assert_eq!(
        environment(WEB_IDENTITY),
        [
            json!({"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::123456789012:role/tidegate"}),
            json!({"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/var/run/secrets/tidegate.dev/token"}),
        ]
    );
}

#[test]
fn a_volume_follows_the_hubs_size_and_stays_when_the_hub_goes() {
    let sized = |size: &str| {
        format!(r#"{{"objectStore": {{"s3": {{"bucket": "events"}}}}, "brokers": {{"storage": {{"size": "{size}"}}}}}}"#)
    };
    for size in ["10Gi", "20Gi"] {
        let claim = json!(emitted(&sized(size)).claims[0]);
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], json!(size));
        assert!(claim["metadata"]["ownerReferences"].is_null(), "a deleted Hub leaves its volume");
    }
    let owned = [json!(emitted(PLAIN).workloads[0]), json!(emitted(PLAIN).config), json!(emitted(PLAIN).network_policy)];
    assert!(owned.iter().all(|object| object["metadata"]["ownerReferences"][0]["kind"] == json!("Hub")));
}

#[test]
fn a_changed_setting_changes_the_pods_template_and_the_same_hub_gives_the_same_bytes() {
    let template = |spec: &str| json!(emitted(spec).workloads[0])["spec"]["template"].clone();
    assert_eq!(template(FULL), template(FULL));
    assert_ne!(
        template(FULL)["metadata"],
        template(&FULL.replace("\"maxConnections\": 500", "\"maxConnections\": 501"))["metadata"]
    );
}

#[test]
fn brokers_differ_in_their_names_and_only_the_founder_may_make_or_rebuild_a_hub() {
    let crew = Crew { brokers: vec![2, 5], founder: 2, may_leave: 0 };
    let objects = plan(&hub(FULL), &operator(), KEY, &crew).unwrap();
    assert_eq!(json!(objects.budget)["spec"]["maxUnavailable"], json!(0));
    let variable = |index: usize, name: &str| -> Option<String> {
        let pod = json!(objects.workloads[index].spec.template.spec);
        let all = pod["containers"][0]["env"].as_array().unwrap().clone();
        all.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].as_str().unwrap().to_owned())
    };
    for (index, id) in [(0, 2), (1, 5)] {
        assert_eq!(objects.claims[index].metadata.name, Some(format!("orders-broker-{id}")));
        assert_eq!(variable(index, "TIDEGATE_SET_hub__broker_id"), Some(id.to_string()));
        let here = format!("orders-broker-{id}-0.orders-brokers.shop.svc");
        assert_eq!(variable(index, "TIDEGATE_SET_listeners__advertised_peer"), Some(format!("{here}:7174")));
        assert_eq!(variable(index, "TIDEGATE_SET_listeners__advertised"), Some(format!("{here}:7171")));
    }
    assert_eq!(variable(0, "TIDEGATE_SET_hub__fleet__join"), None);
    assert_eq!(variable(1, "TIDEGATE_SET_hub__fleet__join").unwrap(), "[\"orders-peers.shop.svc:7174\"]");
    let restores = |index: usize| !json!(objects.workloads[index].spec.template.spec)["initContainers"].is_null();
    assert_eq!((restores(0), restores(1)), (true, false));
}
