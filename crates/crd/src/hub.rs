//! The `Hub` object: a fleet of brokers with its object store and listeners.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{Size, Span};

/// What is wanted of a hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tidegate.dev",
    version = "v1alpha1",
    kind = "Hub",
    namespaced,
    status = "crate::status::HubStatus",
    derive = "PartialEq",
    shortname = "tgh",
    category = "tidegate",
    doc = "An event hub: brokers, an object store for everything older, and listeners for clients.",
    scale(
        spec_replicas_path = ".spec.brokers.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether all is as the object says."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is so."),
    printcolumn(name = "Brokers", type_ = "string", json_path = ".status.brokersReady", description = "How many brokers serve, of how many there shall be."),
    printcolumn(name = "Under-Replicated", type_ = "integer", json_path = ".status.underReplicatedJournals", description = "Journals with fewer copies in sync than there shall be."),
    printcolumn(name = "Leaders", type_ = "string", json_path = ".status.leaders", description = "How many journals each broker leads, by the brokers' numbers."),
    printcolumn(name = "Topics", type_ = "integer", json_path = ".status.topics", description = "How many topics it has."),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", description = "Where clients in the cluster reach it."),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.objectStore.s3.bucket", description = "Where everything older is kept.", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "How old the object is."),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("a hub's name begins names of pods and services: at most 40 of a-z, 0-9 and '-', beginning with a letter")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.journals) == has(oldSelf.journals) && (!has(self.journals) || self.journals == oldSelf.journals)")
        .message("spec.journals is fixed when the hub first starts: make a new Hub and copy the topics"),
    validation = Rule::new("has(self.objectStore.s3) == has(oldSelf.objectStore.s3)")
        .message("spec.objectStore keeps its kind: make a new Hub for another store"),
    validation = Rule::new("!has(self.replicationFactor) || (has(self.brokers.autoscaling) ? self.brokers.autoscaling.minReplicas : (has(self.brokers.replicas) ? self.brokers.replicas : 1)) >= self.replicationFactor")
        .message("spec.brokers.replicas (or autoscaling.minReplicas) is below spec.replicationFactor: keep as many brokers as there are copies of each record, or ask for fewer copies first"),
    validation = Rule::new("has(self.replicationFactor) || (has(oldSelf.brokers.autoscaling) ? oldSelf.brokers.autoscaling.minReplicas : (has(oldSelf.brokers.replicas) ? oldSelf.brokers.replicas : 1)) < 3 || (has(self.brokers.autoscaling) ? self.brokers.autoscaling.minReplicas : (has(self.brokers.replicas) ? self.brokers.replicas : 1)) >= 3")
        .message("fewer than 3 brokers cannot hold 3 copies of each record: keep 3, or say spec.replicationFactor: 1 with it, and each record is on one broker only")
)]
pub struct HubSpec {
    /// The brokers.
    #[serde(default)]
    pub brokers: Brokers,
    /// How many data journals share the appends of all partitions, 1 to 64. Default 4. Fixed at the first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub journals: Option<u32>,
    /// How many brokers hold each record before it is acknowledged: 1, 3 or 5, and no more than there are brokers. Default: 3 with three brokers or
    /// more, else 1. Fewer copies than before have to be asked for here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in [1, 3, 5]").message("must be 1, 3 or 5: an even number of copies survives no more losses than one less"))]
    pub replication_factor: Option<i32>,
    /// Where everything older goes. One kind has to be given.
    pub object_store: ObjectStore,
    /// Where clients connect. Default: one gRPC listener named `grpc` on port 7171, reached from within the cluster.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("self.all(a, self.exists_one(b, a.port == b.port))").message("two listeners have the same port: give each its own"))]
    pub listeners: Vec<Listener>,
    /// Bounds of what clients may send and hold.
    #[serde(default)]
    pub limits: HubLimits,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub observability: Observability,
    /// How changes reach the brokers.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Which topics that were made through gRPC get a Topic object.
    #[serde(default)]
    pub adoption: Adoption,
    /// Take up the volumes, or the bucket, of a hub that was here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// True keeps the operator's hand off this hub's pods, services and topics; a deletion is carried out all the same.
    #[serde(default)]
    pub paused: bool,
}

/// The brokers of a hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Brokers {
    /// How many, 1 to 100. Default 1. Up and down by `kubectl scale hub`; a broker that goes is drained first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: Option<i32>,
    /// Sets the number of brokers by their load; `replicas` counts no more then. Only the status shows how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Each broker's volume, which holds what is not yet in the object store.
    #[serde(default)]
    pub storage: Storage,
    /// Changes to the brokers' pods.
    #[serde(default)]
    pub template: PodTemplate,
}

/// How many brokers there are by their load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas is above maxReplicas"))]
pub struct Autoscaling {
    /// Never fewer, 1 to 100. Without `spec.replicationFactor`, three or more mean three copies of each record.
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,
    /// Never more, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,
    /// What one broker shall take: at least one target. The one that asks for most brokers counts.
    pub targets: ScalingTargets,
    /// Brokers come only when more were needed for so long, such as `1m`. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_after: Option<Span>,
    /// Brokers go only when fewer were enough for so long, such as `10m`. Default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_after: Option<Span>,
}

/// What one broker shall take. Measured by the brokers, averaged over about ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.bytesInPerSecond) || has(self.bytesOutPerSecond) || has(self.cpu) || has(self.diskPercent)")
    .message("name at least one target: bytesInPerSecond, bytesOutPerSecond, cpu or diskPercent"))]
pub struct ScalingTargets {
    /// Bytes that clients append per second, before they are copied, such as `20Mi`; at least 1Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self != 'unlimited' && !quantity(string(self)).isLessThan(quantity('1Ki'))").message("must be at least 1Ki"))]
    pub bytes_in_per_second: Option<Size>,
    /// Bytes that are read per second, such as `60Mi`; at least 1Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self != 'unlimited' && !quantity(string(self)).isLessThan(quantity('1Ki'))").message("must be at least 1Ki"))]
    pub bytes_out_per_second: Option<Size>,
    /// Processor cores that a broker uses, such as `1500m` or `2`; at least 10m. Below the limit of `template.resources`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(m|[.][0-9]+)?$') && !quantity(self).isLessThan(quantity('10m'))")
        .message("is a number of cores such as 1500m or 2, at least 10m"))]
    pub cpu: Option<String>,
    /// How full a broker's log is with records that are not yet in the object store, in percent of what it may hold; 1 to 90. Does not count
    /// while the object store is away: more brokers would not help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 90))]
    pub disk_percent: Option<i32>,
}

/// A broker's volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)")
        .message("spec.brokers.storage.className is fixed: volumes do not change their class"))]
pub struct Storage {
    /// Its size, at least 1Gi. It may grow, if the storage class allows that; volumes never shrink. Default 10Gi.
    #[serde(default = "default_storage")]
    #[x_kube(
        validation = Rule::new("self != 'unlimited' && !quantity(string(self)).isLessThan(quantity('1Gi'))").message("must be at least 1Gi"),
        validation = Rule::new("!quantity(string(self)).isLessThan(quantity(string(oldSelf)))").message("volumes never shrink: keep the size or give a larger one")
    )]
    pub size: Size,
    /// The storage class. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { size: default_storage(), class_name: None }
    }
}

fn default_storage() -> Size {
    Size("10Gi".to_owned())
}

/// Changes to the brokers' pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// The broker's image. Default: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels for the pods, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// CPU and memory of a broker. Default: requests of 250m and 512Mi, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Only nodes with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Rules for nodes and neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods are spread. Default: over nodes and zones, as far as possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// How long a broker may take to drain and stop, in seconds, 5 to 600. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 600))]
    pub termination_grace_period_seconds: Option<i64>,
}

/// Where everything older goes: exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.s3)").message("name an object store: spec.objectStore.s3 with its bucket"))]
pub struct ObjectStore {
    /// A bucket of an S3-compatible service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
}

/// A bucket of an S3-compatible service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
    .message("spec.objectStore.s3.prefix is fixed: the hub's data is there; make a new Hub for another prefix"))]
pub struct S3 {
    /// The bucket; it must exist. Fixed.
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is fixed: the hub's data is there; make a new Hub for another bucket"),
        validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$')").message("a bucket's name consists of a-z, 0-9, '.' and '-'"))]
    pub bucket: String,
    /// All keys of this hub begin so; each hub needs its own. Default: `NAMESPACE/NAME` of the Hub. Fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$')")
        .message("a prefix consists of letters, digits, '.', '_' and '-', in parts divided by '/'"))]
    pub prefix: Option<String>,
    /// URL of the service, such as `http://minio.storage.svc:9000`. Default: AWS's for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("must begin with http:// or https://"))]
    pub endpoint: Option<String>,
    /// The region. Default `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// Where the bucket's name goes in URLs. Default `Path`, which all services but AWS understand.
    #[serde(default)]
    pub addressing: Addressing,
    /// How brokers prove who they are. Exactly one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Where the bucket's name goes in URLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Addressing {
    /// In the path.
    #[default]
    Path,
    /// In the host's name.
    VirtualHost,
}

/// How brokers prove who they are to the object store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.webIdentity)")
    .message("give exactly one source of credentials: either secret or webIdentity"))]
pub struct Credentials {
    /// Keys in a Secret of this namespace. The operator never reads it; only the brokers' pods do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKeys>,
    /// A role that the brokers' ServiceAccount may take on (IAM roles for service accounts and the like).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_identity: Option<WebIdentity>,
}

/// Keys in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeys {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key that holds the access key id. Default `AWS_ACCESS_KEY_ID`.
    #[serde(default = "access_key_id")]
    pub access_key_id: String,
    /// Its key that holds the secret access key. Default `AWS_SECRET_ACCESS_KEY`.
    #[serde(default = "secret_access_key")]
    pub secret_access_key: String,
}

fn access_key_id() -> String {
    "AWS_ACCESS_KEY_ID".to_owned()
}

fn secret_access_key() -> String {
    "AWS_SECRET_ACCESS_KEY".to_owned()
}

/// A role for the brokers' ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// The role, such as `arn:aws:iam::123456789012:role/tidegate`.
    #[schemars(length(min = 1, max = 2048))]
    pub role_arn: String,
    /// Whom the token is for. Default `sts.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.plaintext").message("nothing is encrypted in this version: say so with plaintext: true"),
    validation = Rule::new("!has(self.nodePort) || self.exposure == 'NodePort'").message("nodePort needs exposure: NodePort")
)]
pub struct Listener {
    /// Its name.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("a listener's name consists of a-z, 0-9 and '-', and begins with a letter"),
        validation = Rule::new("!(self in ['brokers', 'peers'])").message("is the name of a Service of the brokers: give another"))]
    pub name: String,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its port, 1024 to 65535.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
    /// From where it is reached.
    #[serde(default)]
    pub exposure: Exposure,
    /// The port on each node, with exposure `NodePort`. Default: the cluster chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Must be true: clients' traffic is not encrypted in this version.
    #[serde(default)]
    pub plaintext: bool,
    /// Annotations of the listener's Service, as load balancers need them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
}

/// From where a listener is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// From within the cluster.
    #[default]
    ClusterIP,
    /// On a port of each node.
    NodePort,
    /// Through a load balancer.
    LoadBalancer,
}

impl Exposure {
    /// The Service's type.
    pub fn service_type(self) -> &'static str {
        match self {
            Exposure::ClusterIP => "ClusterIP",
            Exposure::NodePort => "NodePort",
            Exposure::LoadBalancer => "LoadBalancer",
        }
    }
}

fn default_listeners() -> Vec<Listener> {
    vec![Listener {
        name: "grpc".to_owned(),
        protocol: Protocol::Grpc,
        port: 7171,
        exposure: Exposure::ClusterIP,
        node_port: None,
        plaintext: true,
        annotations: BTreeMap::new(),
    }]
}

/// Bounds of what clients may send and hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubLimits {
    /// The largest record batch, 1Ki to 15Mi. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<Size>,
    /// Connections of clients to one broker, 1 to 100,000. Default 2,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: Option<u32>,
    /// Partitions of all topics together, 1 to 100,000. Default 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_partitions: Option<u32>,
}

/// Logs, traces and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// Which log lines are written, in tracing's filter syntax. Default `info,openraft=warn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub log_filter: Option<String>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// OTLP gRPC endpoint for traces and metrics, such as `http://otel-collector.observability.svc:4317`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// How changes reach the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Who replaces pods that are outdated.
    #[serde(default, rename = "type")]
    pub kind: UpdateType,
}

/// Who replaces pods that are outdated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateType {
    /// The operator, one at a time, each only when the last one is serving.
    #[default]
    Rolling,
    /// You, by deleting them.
    OnDelete,
}

/// Which topics get an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// Which topics that were made through gRPC get a Topic object.
    #[serde(default)]
    pub topics: AdoptedTopics,
}

/// Which topics get an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptedTopics {
    /// All of them.
    #[default]
    All,
    /// None.
    None,
}

/// A hub that was here before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// Its identity, as its status said and its volumes are labelled.
    #[schemars(length(min = 36, max = 36))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f-]{36}$')").message("is a hub's identity, such as 3f2a7c1e-9d1b-4c55-8f1e-0a6b1c2d3e4f"))]
    pub hub_id: String,
}
