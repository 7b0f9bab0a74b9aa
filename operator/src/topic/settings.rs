//! A Topic's spec and a topic's settings, in both directions. Pure.

use tidegate_crd::quantity::{Size, Span, format_bytes, format_duration_ms};
use tidegate_crd::{ResolvedTopic, Retention, Sealing, TimestampType, TopicSpec};
use tidegate_proto::v1;

/// Largest batch of a topic whose object does not say.
const DEFAULT_MESSAGE_BYTES: u32 = 1 << 20;

/// The settings that an object asks for, given those in force: what objects cannot say (compression, labels) stays, and partitions never
/// become fewer.
pub fn wanted(spec: &ResolvedTopic, present: &v1::TopicSettings) -> v1::TopicSettings {
    let mut settings = v1::TopicSettings {
        partitions: Some(spec.partitions.max(present.partitions.unwrap_or(1))),
        retention_ms: spec.retention_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        retention_bytes_per_partition: spec.retention_bytes,
        max_message_bytes: Some(spec.max_message_bytes.unwrap_or(DEFAULT_MESSAGE_BYTES)),
        seal_bytes: spec.seal_bytes,
        seal_age_ms: spec.seal_age_ms,
        placement_group: present.placement_group.clone(),
        ..present.clone()
    };
    settings.set_timestamp_type(timestamp_type(spec.timestamp_type));
    settings
}

/// The settings of a topic to be made.
pub fn fresh(spec: &ResolvedTopic) -> v1::TopicSettings {
    v1::TopicSettings { placement_group: spec.placement_group.clone(), ..wanted(spec, &v1::TopicSettings::default()) }
}

/// In which fields the settings in force differ from those an object asks for; partitions that are more than asked for count.
pub fn differences(spec: &ResolvedTopic, present: &v1::TopicSettings) -> Vec<String> {
    let wanted = wanted(spec, present);
    let mut fields = Vec::new();
    let mut compare = |field: &str, asked: String, is: String| {
        if asked != is {
            fields.push(format!("{field}: the object says {asked}, the topic has {is}"));
        }
    };
    compare("partitions", spec.partitions.to_string(), present.partitions.unwrap_or(1).to_string());
    compare("retention.duration", time(wanted.retention_ms), time(present.retention_ms));
    compare(
        "retention.bytesPerPartition",
        format_bytes(wanted.retention_bytes_per_partition),
        format_bytes(present.retention_bytes_per_partition),
    );
    let message = |settings: &v1::TopicSettings| format_bytes(settings.max_message_bytes.map(u64::from));
    compare("maxMessageBytes", message(&wanted), message(present));
    compare("timestampType", stamp(&wanted).to_owned(), stamp(present).to_owned());
    compare("sealing.bytes", bytes_or_hub(wanted.seal_bytes), bytes_or_hub(present.seal_bytes));
    compare("sealing.age", age_or_hub(wanted.seal_age_ms), age_or_hub(present.seal_age_ms));
    let group = |group: &Option<String>| group.clone().unwrap_or_else(|| "none".to_owned());
    compare("placementGroup", group(&spec.placement_group), group(&present.placement_group));
    fields
}

/// A spec that follows a topic's settings; the rest of `spec` stays.
pub fn following(spec: &TopicSpec, settings: &v1::TopicSettings) -> TopicSpec {
    TopicSpec {
        partitions: settings.partitions.unwrap_or(1),
        retention: Retention {
            duration: settings.retention_ms.map(|ms| Span(time(Some(ms)))),
            bytes_per_partition: settings.retention_bytes_per_partition.map(|bytes| Size(format_bytes(Some(bytes)))),
        },
        max_message_bytes: settings
            .max_message_bytes
            .filter(|bytes| *bytes != DEFAULT_MESSAGE_BYTES)
            .map(|bytes| Size(format_bytes(Some(bytes.into())))),
        timestamp_type: match settings.timestamp_type() {
            v1::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        },
        sealing: Sealing {
            bytes: settings.seal_bytes.map(|bytes| Size(format_bytes(Some(bytes)))),
            age: settings.seal_age_ms.map(|ms| Span(format_duration_ms(Some(ms)))),
        },
        ..spec.clone()
    }
}

fn timestamp_type(kind: TimestampType) -> v1::TimestampType {
    match kind {
        TimestampType::CreateTime => v1::TimestampType::CreateTime,
        TimestampType::LogAppendTime => v1::TimestampType::LogAppendTime,
    }
}

fn time(ms: Option<i64>) -> String {
    format_duration_ms(ms.map(|ms| u64::try_from(ms).unwrap_or(0)))
}

fn stamp(settings: &v1::TopicSettings) -> &'static str {
    match settings.timestamp_type() {
        v1::TimestampType::LogAppendTime => "LogAppendTime",
        _ => "CreateTime",
    }
}

fn bytes_or_hub(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "the hub's setting".to_owned(), |bytes| format_bytes(Some(bytes)))
}

fn age_or_hub(ms: Option<u64>) -> String {
    ms.map_or_else(|| "the hub's setting".to_owned(), |ms| format_duration_ms(Some(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> TopicSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_followed_topic_resolves_to_its_own_settings() {
        let mut settings = v1::TopicSettings {
            partitions: Some(7),
            retention_ms: Some(90_061_001),
            retention_bytes_per_partition: Some(123_456_789),
            max_message_bytes: Some(5 << 20),
            seal_bytes: Some(1 << 20),
            seal_age_ms: Some(1500),
            ..Default::default()
        };
        settings.set_timestamp_type(v1::TimestampType::LogAppendTime);
        let followed = following(&TopicSpec::default(), &settings).resolve("a").unwrap();
        assert_eq!(wanted(&followed, &settings), settings);
        assert!(differences(&followed, &settings).is_empty());
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let asked = spec(r#"{"partitions": 2, "retention": {"duration": "7d"}}"#).resolve("a").unwrap();
        let present = v1::TopicSettings { partitions: Some(3), ..fresh(&spec("{}").resolve("a").unwrap()) };
        let differences = differences(&asked, &present);
        assert_eq!(
            differences,
            ["partitions: the object says 2, the topic has 3", "retention.duration: the object says 7d, the topic has unlimited",]
        );
        assert_eq!(wanted(&asked, &present).partitions, Some(3), "partitions never become fewer");
    }

    #[test]
    fn what_an_object_cannot_say_stays() {
        let mut present = v1::TopicSettings { partitions: Some(1), ..Default::default() };
        present.labels.insert("team".into(), "a".into());
        present.set_compression(v1::TopicCompression::Zstd);
        let wanted = wanted(&spec("{}").resolve("a").unwrap(), &present);
        assert_eq!((wanted.labels.len(), wanted.compression()), (1, v1::TopicCompression::Zstd));
    }
}
