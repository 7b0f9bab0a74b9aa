//! Between the wire and the words of `tidegate-model`. Conversions from the wire say which field they could not take, by its path;
//! what a value may be is the model's to judge (`TopicSettings::validate`).

use bytes::Bytes;
use tidegate_model::TopicUid;
use tidegate_model::batch::{self, Compression};
use tidegate_model::topic::{CleanupPolicy, SettingError, TimestampType, TopicSettings};

use crate::errors::{FIELD, Failure, HINT, LIMIT, Reason};
use crate::v1;

/// Bytes of a uid on the wire.
const UID_BYTES: usize = 16;

/// A uid as it stands on the wire.
pub fn uid_to_wire(uid: TopicUid) -> Bytes {
    Bytes::copy_from_slice(uid.0.as_bytes())
}

/// A uid from the wire; `None` if the field is empty.
///
/// # Errors
/// `INVALID_ARGUMENT` with the field if it is neither empty nor 16 bytes long.
pub fn uid_from_wire(field: &str, bytes: &[u8]) -> Result<Option<TopicUid>, Failure> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes: [u8; UID_BYTES] = bytes.try_into().map_err(|_| {
        let found = bytes.len();
        Failure::invalid(field, format!("`{field}` has {found} bytes; a uid has {UID_BYTES}, and none means any"))
            .with(LIMIT, UID_BYTES)
    })?;
    Ok(Some(TopicUid(uuid::Uuid::from_bytes(bytes))))
}

/// The codec of a request's `compression`; `None` if it is unspecified.
///
/// # Errors
/// `INVALID_ARGUMENT` if this version does not know the number.
pub fn compression_from_wire(number: i32) -> Result<Option<Compression>, Failure> {
    Ok(match v1::Compression::try_from(number) {
        Ok(v1::Compression::Unspecified) => None,
        Ok(v1::Compression::None) => Some(Compression::None),
        Ok(v1::Compression::Gzip) => Some(Compression::Gzip),
        Ok(v1::Compression::Snappy) => Some(Compression::Snappy),
        Ok(v1::Compression::Lz4) => Some(Compression::Lz4),
        Ok(v1::Compression::Zstd) => Some(Compression::Zstd),
        Err(_) => return Err(unknown("compression", number)),
    })
}

/// Settings as they stand in a response: each that is in force.
pub fn settings_to_wire(settings: &TopicSettings) -> v1::TopicSettings {
    let cleanup_policy = match settings.cleanup_policy {
        CleanupPolicy::Delete => v1::CleanupPolicy::Delete,
        CleanupPolicy::Compact => v1::CleanupPolicy::Compact,
    };
    let timestamp_type = match settings.timestamp_type {
        TimestampType::CreateTime => v1::TimestampType::CreateTime,
        TimestampType::LogAppendTime => v1::TimestampType::LogAppendTime,
    };
    let compression = match settings.compression {
        None => v1::TopicCompression::Producer,
        Some(Compression::None) => v1::TopicCompression::None,
        Some(Compression::Gzip) => v1::TopicCompression::Gzip,
        Some(Compression::Snappy) => v1::TopicCompression::Snappy,
        Some(Compression::Lz4) => v1::TopicCompression::Lz4,
        Some(Compression::Zstd) => v1::TopicCompression::Zstd,
    };
    v1::TopicSettings {
        partitions: Some(settings.partitions),
        retention_ms: settings.retention_ms,
        retention_bytes_per_partition: settings.retention_bytes_per_partition,
        cleanup_policy: cleanup_policy.into(),
        compression: compression.into(),
        max_message_bytes: Some(settings.max_message_bytes),
        timestamp_type: timestamp_type.into(),
        seal_bytes: settings.seal_bytes,
        seal_age_ms: settings.seal_age_ms,
        placement_group: settings.placement_group.clone(),
        labels: settings.labels.clone().into_iter().collect(),
    }
}

/// Settings from a request: what is absent is the default. Not validated yet.
///
/// # Errors
/// `INVALID_ARGUMENT` if an enum has a number that this version does not know.
pub fn settings_from_wire(wire: &v1::TopicSettings) -> Result<TopicSettings, Failure> {
    let defaults = TopicSettings::default();
    Ok(TopicSettings {
        partitions: wire.partitions.unwrap_or(defaults.partitions),
        retention_ms: wire.retention_ms,
        retention_bytes_per_partition: wire.retention_bytes_per_partition,
        cleanup_policy: cleanup_policy(wire.cleanup_policy)?,
        compression: topic_compression(wire.compression)?,
        max_message_bytes: wire.max_message_bytes.unwrap_or(defaults.max_message_bytes),
        timestamp_type: timestamp_type(wire.timestamp_type)?,
        seal_bytes: wire.seal_bytes,
        seal_age_ms: wire.seal_age_ms,
        placement_group: wire.placement_group.clone(),
        labels: wire.labels.clone().into_iter().collect(),
    })
}

/// What `AlterTopic` makes of the current settings. With a mask, exactly the named fields are taken from `wire`, absent ones as
/// defaults; with an empty one, those that are present. Not validated yet.
///
/// # Errors
/// `INVALID_ARGUMENT` with `update_mask` for a name that is no field of TopicSettings.
pub fn settings_altered(current: &TopicSettings, wire: &v1::TopicSettings, mask: &[String]) -> Result<TopicSettings, Failure> {
    let given = settings_from_wire(wire)?;
    let mut next = current.clone();
    let names: Vec<&str> = if mask.is_empty() {
        present_fields(wire)
    } else {
        mask.iter().map(|name| name.strip_prefix("settings.").unwrap_or(name)).collect()
    };
    for name in names {
        match name {
            "partitions" => next.partitions = given.partitions,
            "retention_ms" => next.retention_ms = given.retention_ms,
            "retention_bytes_per_partition" => {
                next.retention_bytes_per_partition = given.retention_bytes_per_partition;
            }
            "cleanup_policy" => next.cleanup_policy = given.cleanup_policy,
            "compression" => next.compression = given.compression,
            "max_message_bytes" => next.max_message_bytes = given.max_message_bytes,
            "timestamp_type" => next.timestamp_type = given.timestamp_type,
            "seal_bytes" => next.seal_bytes = given.seal_bytes,
            "seal_age_ms" => next.seal_age_ms = given.seal_age_ms,
            "placement_group" => next.placement_group.clone_from(&given.placement_group),
            "labels" => next.labels.clone_from(&given.labels),
            other => {
                let message = format!("`update_mask` names `{other}`, which is no field of TopicSettings");
                return Err(Failure::invalid("update_mask", message).with(HINT, "name fields as in the .proto file"));
            }
        }
    }
    Ok(next)
}

fn present_fields(wire: &v1::TopicSettings) -> Vec<&'static str> {
    let fields = [
        ("partitions", wire.partitions.is_some()),
        ("retention_ms", wire.retention_ms.is_some()),
        ("retention_bytes_per_partition", wire.retention_bytes_per_partition.is_some()),
        ("cleanup_policy", wire.cleanup_policy != 0),
        ("compression", wire.compression != 0),
        ("max_message_bytes", wire.max_message_bytes.is_some()),
        ("timestamp_type", wire.timestamp_type != 0),
        ("seal_bytes", wire.seal_bytes.is_some()),
        ("seal_age_ms", wire.seal_age_ms.is_some()),
        ("placement_group", wire.placement_group.is_some()),
        ("labels", !wire.labels.is_empty()),
    ];
    fields.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

fn cleanup_policy(number: i32) -> Result<CleanupPolicy, Failure> {
    match v1::CleanupPolicy::try_from(number) {
        Ok(v1::CleanupPolicy::Unspecified | v1::CleanupPolicy::Delete) => Ok(CleanupPolicy::Delete),
        Ok(v1::CleanupPolicy::Compact) => Ok(CleanupPolicy::Compact),
        Err(_) => Err(unknown("settings.cleanup_policy", number)),
    }
}

fn timestamp_type(number: i32) -> Result<TimestampType, Failure> {
    match v1::TimestampType::try_from(number) {
        Ok(v1::TimestampType::Unspecified | v1::TimestampType::CreateTime) => Ok(TimestampType::CreateTime),
        Ok(v1::TimestampType::LogAppendTime) => Ok(TimestampType::LogAppendTime),
        Err(_) => Err(unknown("settings.timestamp_type", number)),
    }
}

fn topic_compression(number: i32) -> Result<Option<Compression>, Failure> {
    Ok(match v1::TopicCompression::try_from(number) {
        Ok(v1::TopicCompression::Unspecified | v1::TopicCompression::Producer) => None,
        Ok(v1::TopicCompression::None) => Some(Compression::None),
        Ok(v1::TopicCompression::Gzip) => Some(Compression::Gzip),
        Ok(v1::TopicCompression::Snappy) => Some(Compression::Snappy),
        Ok(v1::TopicCompression::Lz4) => Some(Compression::Lz4),
        Ok(v1::TopicCompression::Zstd) => Some(Compression::Zstd),
        Err(_) => return Err(unknown("settings.compression", number)),
    })
}

fn unknown(field: &str, number: i32) -> Failure {
    Failure::invalid(field, format!("`{field}` is {number}, which this version of the hub does not know"))
        .with(HINT, "use a value of the hub's own .proto files")
}

/// A name or setting that the model refuses. (`settings.` is put before the names of settings.)
impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        let field = match error.field {
            "topic name" => "name".to_owned(),
            setting => format!("settings.{setting}"),
        };
        Failure::invalid(field, error.to_string()).with(LIMIT, &error.limit).with(HINT, error.hint)
    }
}

/// A batch that the model refuses, as an error of the field `batches`.
impl From<batch::Error> for Failure {
    fn from(error: batch::Error) -> Self {
        let message = error.to_string();
        match error {
            batch::Error::TooLarge { limit, hint, .. } => {
                Failure::new(Reason::MessageTooLarge, message).with(LIMIT, limit).with(HINT, hint)
            }
            _ => Failure::new(Reason::InvalidBatch, message),
        }
        .with(FIELD, "batches")
    }
}

/// The model's record as a message.
impl From<batch::Record> for v1::Record {
    fn from(record: batch::Record) -> Self {
        let headers = record.headers.into_iter().map(|header| v1::Header {
            // Kafka's header names are UTF-8 by convention only; a message's string must be.
            key: String::from_utf8_lossy(&header.key).into_owned(),
            value: header.value,
        });
        v1::Record {
            key: record.key,
            value: record.value,
            headers: headers.collect(),
            timestamp_ms: Some(record.timestamp.0),
            offset: record.offset.0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tidegate_model::TimestampMs;
    use tidegate_model::batch::BatchBuilder;

    use super::*;

    fn unusual() -> TopicSettings {
        TopicSettings {
            partitions: 7,
            retention_ms: Some(1),
            retention_bytes_per_partition: Some(2),
            cleanup_policy: CleanupPolicy::Compact,
            compression: Some(Compression::Lz4),
            max_message_bytes: 4096,
            timestamp_type: TimestampType::LogAppendTime,
            seal_bytes: Some(3),
            seal_age_ms: Some(4),
            placement_group: Some("g".to_owned()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn settings_survive_the_wire() {
        for settings in [TopicSettings::default(), unusual()] {
            assert_eq!(settings_from_wire(&settings_to_wire(&settings)).unwrap(), settings);
        }
        assert_eq!(settings_from_wire(&v1::TopicSettings::default()).unwrap(), TopicSettings::default());
    }

    #[test]
    fn an_alteration_changes_what_is_present_or_what_the_mask_names() {
        let wire = v1::TopicSettings { partitions: Some(9), ..Default::default() };
        let present = settings_altered(&unusual(), &wire, &[]).unwrap();
        assert_eq!(present, TopicSettings { partitions: 9, ..unusual() });
        let mask = ["retention_ms".to_owned(), "settings.labels".to_owned()];
        let masked = settings_altered(&unusual(), &wire, &mask).unwrap();
        assert_eq!(masked, TopicSettings { retention_ms: None, labels: Default::default(), ..unusual() });
        let error = settings_altered(&unusual(), &wire, &["colour".to_owned()]).unwrap_err();
        assert_eq!(error.metadata[FIELD], "update_mask");
        // Each field can be named: all of them together make the given settings.
        let all = present_fields(&settings_to_wire(&unusual())).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(all.len(), 11);
        let everything = settings_altered(&TopicSettings::default(), &settings_to_wire(&unusual()), &all).unwrap();
        assert_eq!(everything, unusual());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let wire = v1::TopicSettings { compression: 99, ..Default::default() };
        assert_eq!(settings_from_wire(&wire).unwrap_err().metadata[FIELD], "settings.compression");
        assert!(compression_from_wire(42).is_err());
        assert_eq!(compression_from_wire(0).unwrap(), None);
        assert_eq!(uid_from_wire("topic_uid", &[]).unwrap(), None);
        assert_eq!(uid_from_wire("topic_uid", &[1, 2]).unwrap_err().metadata[FIELD], "topic_uid");
        let uid = TopicUid(uuid::Uuid::from_bytes([7; 16]));
        assert_eq!(uid_from_wire("topic_uid", &uid_to_wire(uid)).unwrap(), Some(uid));
    }

    #[test]
    fn refusals_of_the_model_name_the_field_of_the_wire() {
        let bad = TopicSettings { partitions: 0, ..Default::default() };
        let failure = Failure::from(bad.validate().unwrap_err());
        assert_eq!((failure.reason, failure.metadata[FIELD].as_str()), (Reason::InvalidArgument, "settings.partitions"));
        let failure = Failure::from(tidegate_model::topic::TopicName::new("a b").unwrap_err());
        assert_eq!(failure.metadata[FIELD], "name");
        let failure = Failure::from(BatchBuilder::new(Compression::None).build().unwrap_err());
        assert_eq!((failure.reason, failure.metadata[FIELD].as_str()), (Reason::InvalidBatch, "batches"));
    }

    #[test]
    fn a_record_becomes_a_message() {
        let mut builder = BatchBuilder::new(Compression::Gzip);
        let headers = [batch::Header { key: Bytes::from_static(b"h"), value: None }];
        builder.push(TimestampMs(5), None, Some(b"v"), &headers);
        let record = builder.build().unwrap().records().unwrap().next().unwrap().unwrap();
        let message = v1::Record::from(record);
        assert_eq!(message.timestamp_ms, Some(5));
        assert_eq!((message.key, message.value), (None, Some(Bytes::from_static(b"v"))));
        assert_eq!(message.headers, [v1::Header { key: "h".to_owned(), value: None }]);
    }
}
