//! The `Topic` object: what a person writes, and its translation to the settings brokers keep.

use serde::{Deserialize, Serialize};

use crate::fields::Shape;
use crate::manifest::ObjectMeta;
use crate::quantity::{Size, Span, parse_bytes, parse_duration_ms};

/// A `Topic` of `tidegate.dev/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicManifest {
    /// `tidegate.dev/v1alpha1`.
    pub api_version: String,
    /// `Topic`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: TopicSpec,
}

/// What is wanted of a topic. Absent fields take the default that their documentation names.
//
// Unknown fields are not refused here: an operator that is older than the installed schema has to read objects with newer fields. Manifests are
// checked by `SPEC_SHAPE`, objects by the API server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(kube::CustomResource, kube::KubeSchema))]
#[cfg_attr(feature = "kubernetes", kube(
    group = "tidegate.dev",
    version = "v1alpha1",
    kind = "Topic",
    namespaced,
    status = "crate::status::TopicStatus",
    derive = "PartialEq",
    shortname = "tgt",
    category = "tidegate",
    doc = "A named, ordered log of events in a hub, divided into partitions.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the topic takes and gives records as the object says."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is so."),
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.hubRef.name", description = "The hub that it belongs to."),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions", description = "How many partitions it has."),
    printcolumn(name = "Retention", type_ = "string", json_path = ".spec.retention.duration", description = "How long records are kept; nothing here means for ever."),
    printcolumn(name = "Records", type_ = "integer", json_path = ".status.endOffsetTotal", description = "Records ever appended: the sum of the partitions' end offsets."),
    printcolumn(name = "Local", type_ = "string", json_path = ".status.bytes.local", description = "What is not yet in the object store.", priority = "1"),
    printcolumn(name = "Tiered", type_ = "string", json_path = ".status.bytes.tiered", description = "What is in the object store.", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "How old the object is."),
    validation = Rule::new("has(self.spec.topicName) || (self.metadata.name.size() <= 249 && !self.metadata.name.startsWith('__'))")
        .message("the object's name is too long for a topic (249 characters): set spec.topicName"),
))]
#[cfg_attr(feature = "kubernetes", x_kube(
    validation = Rule::new("has(self.hubRef)")
        .message("is required: name the Hub of this namespace that the topic belongs to").field_path(".hubRef"),
    validation = Rule::new("!has(oldSelf.hubRef) || !has(self.hubRef) || self.hubRef.name == oldSelf.hubRef.name")
        .message("is fixed: make a Topic for the other hub and copy the records").field_path(".hubRef.name"),
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("spec.topicName is fixed: make a new Topic with the other name and copy the records"),
    validation = Rule::new("self.partitions >= oldSelf.partitions")
        .message("partitions never become fewer: keep the number, or make a new Topic and copy the records").field_path(".partitions"),
    validation = Rule::new("has(self.placementGroup) == has(oldSelf.placementGroup) && (!has(self.placementGroup) || self.placementGroup == oldSelf.placementGroup)")
        .message("spec.placementGroup is fixed when the topic is made: make a new Topic and copy the records"),
))]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// The hub, in the same namespace. The command line passes over it: it talks to one hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_ref: Option<HubRef>,
    /// The topic's name in the hub when it differs from the object's; 1 to 249 of `[a-zA-Z0-9._-]`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kubernetes", schemars(length(min = 1, max = 249)))]
    #[cfg_attr(feature = "kubernetes", x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..' && !self.startsWith('__')")
        .message("a topic's name consists of letters, digits, '.', '_' and '-', is not '.' or '..', and does not begin with '__'")))]
    pub topic_name: Option<String>,
    /// Who decides settings: the object (default) or the hub's catalog.
    #[serde(default)]
    pub management: Management,
    /// How many partitions, 1 to 10,000; may grow, never shrink. Default 1.
    #[serde(default = "default_partitions")]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 1, max = 10_000)))]
    pub partitions: u32,
    /// How long and how much is kept. Default: everything.
    #[serde(default)]
    pub retention: Retention,
    /// What happens to old records. Default `Delete`: those beyond the retention go.
    #[serde(default)]
    pub cleanup_policy: CleanupPolicy,
    /// The largest record batch that is taken, as a size of 1Ki to 15Mi. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<Size>,
    /// Whose clock stamps records. Default `CreateTime`: the producer's.
    #[serde(default)]
    pub timestamp_type: TimestampType,
    /// When data goes to the object store, where that should differ from the hub's setting.
    #[serde(default)]
    pub sealing: Sealing,
    /// Topics of one placement group share a journal, so that writes to several of them can be one atomic step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kubernetes", schemars(length(min = 1, max = 249)))]
    #[cfg_attr(feature = "kubernetes", x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("the group's name consists of letters, digits, '.', '_' and '-' and is not '.' or '..'")))]
    pub placement_group: Option<String>,
    /// What deleting the object does to the topic. Default `Retain`: nothing.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// The hub a topic belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(kube::KubeSchema))]
pub struct HubRef {
    /// Name of the `Hub` object.
    #[cfg_attr(feature = "kubernetes", schemars(length(min = 1, max = 253)))]
    pub name: String,
}

/// Who decides a topic's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Management {
    /// The `Topic` object; clients that alter or delete the topic are refused.
    #[default]
    Object,
    /// The hub's catalog; the object follows it.
    Catalog,
}

/// What is kept of a partition; whichever bound is met first applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// How long, such as `7d`. Default `unlimited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// How much in each partition, such as `10Gi`. Default `unlimited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_partition: Option<Size>,
}

/// When a partition's data is sealed and uploaded; absent fields take the hub's setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(kube::KubeSchema))]
pub struct Sealing {
    /// As soon as so much is waiting, such as `8Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// As soon as the oldest waiting record is so old, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
}

/// What happens to old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum CleanupPolicy {
    /// Those beyond the retention are deleted.
    #[default]
    Delete,
}

/// Whose clock stamps records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when it takes the record in.
    LogAppendTime,
}

/// What deleting the object does to the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// Nothing: the topic and its data stay.
    #[default]
    Retain,
    /// The topic is deleted; that can be undone for 24 hours.
    Delete,
}

fn default_partitions() -> u32 {
    1
}

impl Default for TopicSpec {
    fn default() -> Self {
        TopicSpec {
            hub_ref: None,
            topic_name: None,
            management: Management::default(),
            partitions: default_partitions(),
            retention: Retention::default(),
            cleanup_policy: CleanupPolicy::default(),
            max_message_bytes: None,
            timestamp_type: TimestampType::default(),
            sealing: Sealing::default(),
            placement_group: None,
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

pub(crate) const SPEC_SHAPE: Shape = Shape(&[
    ("hubRef", Some(Shape(&[("name", None)]))),
    ("topicName", None),
    ("management", None),
    ("partitions", None),
    ("retention", Some(Shape(&[("duration", None), ("bytesPerPartition", None)]))),
    ("cleanupPolicy", None),
    ("maxMessageBytes", None),
    ("timestampType", None),
    ("sealing", Some(Shape(&[("bytes", None), ("age", None)]))),
    ("placementGroup", None),
    ("deletionPolicy", None),
]);

/// A spec with its units read: what a request to the hub is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTopic {
    /// The topic's name in the hub.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// How long records are kept, in milliseconds; `None` is for ever.
    pub retention_ms: Option<u64>,
    /// How many bytes of a partition are kept; `None` is all.
    pub retention_bytes: Option<u64>,
    /// The largest record batch in bytes; `None` is the hub's default.
    pub max_message_bytes: Option<u32>,
    /// Whose clock stamps records.
    pub timestamp_type: TimestampType,
    /// Bytes waiting that make a partition go to the object store; `None` is the hub's setting.
    pub seal_bytes: Option<u64>,
    /// Age in milliseconds that does; `None` is the hub's setting.
    pub seal_age_ms: Option<u64>,
    /// Topics of one group share a journal.
    pub placement_group: Option<String>,
}

const MAX_PARTITIONS: u32 = 10_000;
const MAX_MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=15 << 20;

impl TopicManifest {
    /// The topic's name in the hub.
    pub fn topic_name(&self) -> &str {
        self.spec.topic_name(&self.metadata.name)
    }

    /// Reads units and checks every bound. The error is (path of the field, what is wrong and what is accepted).
    pub fn resolve(&self) -> Result<ResolvedTopic, (String, String)> {
        self.spec.resolve(&self.metadata.name)
    }
}

impl TopicSpec {
    /// The topic's name in the hub, for an object of this name.
    pub fn topic_name<'a>(&'a self, object: &'a str) -> &'a str {
        self.topic_name.as_deref().unwrap_or(object)
    }

    /// Reads units and checks every bound. The error is (path of the field, what is wrong and what is accepted).
    pub fn resolve(&self, object: &str) -> Result<ResolvedTopic, (String, String)> {
        let spec = self;
        if !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
            return refused("spec.partitions", format!("{} is out of range: 1 to {MAX_PARTITIONS}", spec.partitions));
        }
        let max_message_bytes = size("spec.maxMessageBytes", spec.max_message_bytes.as_ref().map(AsRef::as_ref))?;
        if let Some(bytes) = max_message_bytes
            && !MAX_MESSAGE_BYTES.contains(&bytes)
        {
            return refused("spec.maxMessageBytes", format!("{bytes} bytes is out of range: 1Ki to 15Mi"));
        }
        let resolved = ResolvedTopic {
            name: self.topic_name(object).to_owned(),
            partitions: spec.partitions,
            retention_ms: duration("spec.retention.duration", spec.retention.duration.as_ref().map(AsRef::as_ref))?,
            retention_bytes: size(
                "spec.retention.bytesPerPartition",
                spec.retention.bytes_per_partition.as_ref().map(AsRef::as_ref),
            )?,
            max_message_bytes: max_message_bytes.and_then(|bytes| u32::try_from(bytes).ok()),
            timestamp_type: spec.timestamp_type,
            seal_bytes: size("spec.sealing.bytes", spec.sealing.bytes.as_ref().map(AsRef::as_ref))?,
            seal_age_ms: duration("spec.sealing.age", spec.sealing.age.as_ref().map(AsRef::as_ref))?,
            placement_group: spec.placement_group.clone(),
        };
        let name_field = if spec.topic_name.is_some() { "spec.topicName" } else { "metadata.name" };
        match tidegate_model::TopicName::new(&resolved.name) {
            Ok(_) => Ok(resolved),
            Err(error) => refused(name_field, error.to_string()),
        }
    }
}

fn refused<T>(field: &str, message: String) -> Result<T, (String, String)> {
    Err((field.to_owned(), message))
}

fn size(field: &str, text: Option<&str>) -> Result<Option<u64>, (String, String)> {
    let Some(text) = text else { return Ok(None) };
    parse_bytes(text).or_else(|error| refused(field, error.to_string()))
}

fn duration(field: &str, text: Option<&str>) -> Result<Option<u64>, (String, String)> {
    let Some(text) = text else { return Ok(None) };
    parse_duration_ms(text).or_else(|error| refused(field, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, parse_manifests};

    fn resolve(spec: &str) -> Result<ResolvedTopic, String> {
        let text = format!("apiVersion: tidegate.dev/v1alpha1\nkind: Topic\nmetadata: {{name: clicks}}\nspec: {{{spec}}}\n");
        let mut manifests = parse_manifests(&text).map_err(|error| error.to_string())?;
        let Some(Manifest::Topic(topic)) = manifests.pop() else { return Err("no manifest".to_owned()) };
        topic.resolve().map_err(|(field, message)| format!("{field}: {message}"))
    }

    #[test]
    fn defaults_keep_everything_in_one_partition() {
        let topic = resolve("").unwrap();
        assert_eq!((topic.name.as_str(), topic.partitions, topic.retention_ms, topic.retention_bytes), ("clicks", 1, None, None));
    }

    #[test]
    fn units_are_read() {
        let topic = resolve(
            "partitions: 6, retention: {duration: 7d, bytesPerPartition: 1Gi}, maxMessageBytes: 2Mi, sealing: {age: 10m}",
        );
        let topic = topic.unwrap();
        assert_eq!((topic.retention_ms, topic.retention_bytes), (Some(604_800_000), Some(1 << 30)));
        assert_eq!((topic.max_message_bytes, topic.seal_age_ms), (Some(2 << 20), Some(600_000)));
    }

    #[test]
    fn each_bad_value_is_refused_with_its_field_and_range() {
        for (spec, expected) in [
            ("partitions: 0", "spec.partitions: 0 is out of range: 1 to 10000"),
            ("partitions: -1", "spec"),
            ("maxMessageBytes: 1Gi", "spec.maxMessageBytes: 1073741824 bytes is out of range"),
            ("retention: {duration: 7}", "spec"),
            ("retention: {duration: '7 days'}", "spec.retention.duration: `7 days` is not a duration"),
            ("topicName: a/b", "spec.topicName"),
            ("cleanupPolicy: Compact", "Compact"),
        ] {
            let error = resolve(spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
