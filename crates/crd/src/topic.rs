//! The `Topic` object: what a person writes, and its translation to the settings brokers keep.

use serde::{Deserialize, Serialize};

use crate::fields::Shape;
use crate::manifest::ObjectMeta;
use crate::quantity::{parse_bytes, parse_duration_ms};

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicSpec {
    /// The hub, in the same namespace. The command line passes over it: it talks to one hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_ref: Option<HubRef>,
    /// The topic's name in the hub when it differs from the object's; 1 to 249 of `[a-zA-Z0-9._-]`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Who decides settings: the object (default) or the hub's catalog.
    #[serde(default)]
    pub management: Management,
    /// How many partitions, 1 to 10,000; may grow, never shrink. Default 1.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
    /// How long and how much is kept. Default: everything.
    #[serde(default)]
    pub retention: Retention,
    /// What happens to old records. Default `Delete`: those beyond the retention go.
    #[serde(default)]
    pub cleanup_policy: CleanupPolicy,
    /// The largest record batch that is taken, as a size of 1Ki to 16Mi. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<String>,
    /// Whose clock stamps records. Default `CreateTime`: the producer's.
    #[serde(default)]
    pub timestamp_type: TimestampType,
    /// When data goes to the object store, where that should differ from the hub's setting.
    #[serde(default)]
    pub sealing: Sealing,
    /// Topics of one placement group share a journal, so that writes to several of them can be one atomic step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_group: Option<String>,
    /// What deleting the object does to the topic. Default `Retain`: nothing.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// The hub a topic belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRef {
    /// Name of the `Hub` object.
    pub name: String,
}

/// Who decides a topic's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Management {
    /// The `Topic` object; clients that alter or delete the topic are refused.
    #[default]
    Object,
    /// The hub's catalog; the object follows it.
    Catalog,
}

/// What is kept of a partition; whichever bound is met first applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// How long, such as `7d`. Default `unlimited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How much in each partition, such as `10Gi`. Default `unlimited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_partition: Option<String>,
}

/// When a partition's data is sealed and uploaded; absent fields take the hub's setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    /// As soon as so much is waiting, such as `8Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// As soon as the oldest waiting record is so old, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
}

/// What happens to old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CleanupPolicy {
    /// Those beyond the retention are deleted.
    #[default]
    Delete,
}

/// Whose clock stamps records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when it takes the record in.
    LogAppendTime,
}

/// What deleting the object does to the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
const MAX_MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=16 << 20;

impl TopicManifest {
    /// The topic's name in the hub.
    pub fn topic_name(&self) -> &str {
        self.spec.topic_name.as_deref().unwrap_or(&self.metadata.name)
    }

    /// Reads units and checks every bound. The error is (path of the field, what is wrong and what is accepted).
    pub fn resolve(&self) -> Result<ResolvedTopic, (String, String)> {
        let spec = &self.spec;
        if !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
            return refused("spec.partitions", format!("{} is out of range: 1 to {MAX_PARTITIONS}", spec.partitions));
        }
        let max_message_bytes = size("spec.maxMessageBytes", spec.max_message_bytes.as_deref())?;
        if let Some(bytes) = max_message_bytes
            && !MAX_MESSAGE_BYTES.contains(&bytes)
        {
            return refused("spec.maxMessageBytes", format!("{bytes} bytes is out of range: 1Ki to 16Mi"));
        }
        let resolved = ResolvedTopic {
            name: self.topic_name().to_owned(),
            partitions: spec.partitions,
            retention_ms: duration("spec.retention.duration", spec.retention.duration.as_deref())?,
            retention_bytes: size("spec.retention.bytesPerPartition", spec.retention.bytes_per_partition.as_deref())?,
            max_message_bytes: max_message_bytes.and_then(|bytes| u32::try_from(bytes).ok()),
            timestamp_type: spec.timestamp_type,
            seal_bytes: size("spec.sealing.bytes", spec.sealing.bytes.as_deref())?,
            seal_age_ms: duration("spec.sealing.age", spec.sealing.age.as_deref())?,
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
