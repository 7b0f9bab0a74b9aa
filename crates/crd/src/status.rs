//! What the operator reports on objects: measured by the brokers or seen in the cluster, never wished.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What is known of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the object that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The topic's identity in its hub. An object keeps to it: it never turns to another topic of the same name by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_uid: Option<String>,
    /// The generation at which the object was bound to a topic that was there before. Until the spec is edited, the topic keeps its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_generation: Option<i64>,
    /// How many partitions the topic has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// How many of them have a leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_partitions: Option<u32>,
    /// The sum of the partitions' end offsets: records ever appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_offset_total: Option<i64>,
    /// Bytes stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<TopicBytes>,
    /// Age of the oldest record that is not yet in the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering_lag: Option<String>,
    /// `Ready`: the topic is as the object says. `Drifted`: the topic's settings differ from the object's, and why. `Degraded`: something is
    /// wrong that somebody has to decide.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Bytes of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicBytes {
    /// Not yet in the object store, as a size.
    #[serde(default)]
    pub local: String,
    /// In the object store, as a size.
    #[serde(default)]
    pub tiered: String,
}

/// What is known of a hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubStatus {
    /// The generation of the object that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The hub's identity: minted at its first start, kept on its volumes and in its bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_id: Option<String>,
    /// How many brokers there are.
    #[serde(default)]
    pub replicas: i32,
    /// How many of them serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// How many brokers serve, of how many there shall be: `3/3`.
    #[serde(default)]
    pub brokers_ready: String,
    /// How many brokers hold each record before it is acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,
    /// Journals with fewer copies in sync than there shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_replicated_journals: Option<i32>,
    /// How many journals each broker leads, by the brokers' numbers: `2/2/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaders: Option<String>,
    /// Selects the brokers' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients reach the hub from within the cluster: `host:port` of the first listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Each listener's address.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// Each broker.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    #[serde(default)]
    pub brokers: Vec<BrokerStatus>,
    /// How many topics the hub has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<u32>,
    /// Topics whose object has gone (the first hundred by name). A new Topic that names one takes it up with its data.
    #[serde(default)]
    pub detached_topics: Vec<String>,
    /// Deletions of topics that were asked for while the hub was out of reach. They are carried out when it is back.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["topicUid".to_owned()]))]
    #[serde(default)]
    pub pending_deletions: Vec<PendingDeletion>,
    /// What the last recovery from the bucket found and lost. It stays, so that nobody has to have read the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// `Ready`: all is as the object says. `Available`: clients are served. `Progressing`: something is being changed. `Degraded`: something is
    /// wrong that somebody has to look at. `TierAvailable`: the object store is reached.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A recovery from the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovered {
    /// The hub whose bucket it was.
    pub from_hub_id: String,
    /// When it ran, as `2026-11-21T16:00:00Z`.
    pub time: String,
    /// What was acknowledged after this time and had not been uploaded is lost: when the oldest state was written that was found of a journal.
    #[serde(default)]
    pub state_time: Option<String>,
    /// Records that are known to have been acknowledged and are lost.
    #[serde(default)]
    pub lost_records: i64,
    /// Partitions that these were in.
    #[serde(default)]
    pub lost_partitions: i64,
    /// All of it in a sentence, with the first of those partitions.
    pub message: String,
}

/// A listener's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// A broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Its number, never used twice in a hub.
    pub id: i32,
    /// Its pod.
    pub pod: String,
    /// Its volume claim.
    pub volume_claim: String,
    /// `Ready`, `NotReady`, `Missing`, `Draining` (its copies go elsewhere), `Lost` (its node or volume has gone) or `Retired` (its pod and volume
    /// are being deleted).
    pub state: String,
    /// Journals of which it has a copy.
    #[serde(default)]
    pub replicas: i32,
    /// Journals that it leads.
    #[serde(default)]
    pub leads: i32,
    /// Why it is not ready, as far as the cluster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A wish to delete a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingDeletion {
    /// The topic.
    pub topic_uid: String,
    /// Its name, for people.
    pub topic_name: String,
    /// The object that was bound to it.
    pub object_name: String,
    /// The object's uid.
    pub object_uid: String,
}
