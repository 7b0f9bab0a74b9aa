//! Names and settings of topics, validated alike whichever door they come through.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::batch::Compression;

/// Partitions that one topic may have.
pub const MAX_PARTITIONS: u32 = 100_000;
/// Longest topic name, in bytes.
pub const MAX_NAME_BYTES: usize = 249;
/// Greatest `max_message_bytes`: what the largest request leaves room for.
pub const MAX_MESSAGE_BYTES: u32 = 15 * 1024 * 1024;
const LEAST_MESSAGE_BYTES: u32 = 1024;
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 256;

/// A name or setting that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {limit}; {hint}")]
pub struct SettingError {
    /// The field, in the spelling of [`TopicSettings`].
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What is accepted.
    pub limit: String,
    /// The way out.
    pub hint: &'static str,
}

impl SettingError {
    fn new(field: &'static str, value: impl fmt::Display, limit: impl Into<String>, hint: &'static str) -> Self {
        SettingError { field, value: value.to_string(), limit: limit.into(), hint }
    }
}

/// A topic's name: 1 to 249 of `a-z A-Z 0-9 . _ -`, neither `.` nor `..`, as Kafka's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(String);

impl TopicName {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, SettingError> {
        let name = name.into();
        let hint = "choose a name of letters, digits, '.', '_' and '-'";
        let bad = |limit: &str| {
            // A refusal must not carry a megabyte back.
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            Err(SettingError::new("topic name", format!("{shown:?}"), limit, hint))
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return bad("a name has 1 to 249 characters");
        }
        if name == "." || name == ".." {
            return bad("'.' and '..' are not names");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return bad("only a-z, A-Z, 0-9, '.', '_' and '-' are allowed");
        }
        Ok(TopicName(name))
    }

    /// Checks a name that a client wants to create: as [`new`](Self::new), and not internal.
    pub fn for_client(name: impl Into<String>) -> Result<Self, SettingError> {
        let name = Self::new(name)?;
        if name.is_internal() {
            return Err(SettingError::new(
                "topic name",
                format!("{:?}", name.0),
                "names that begin with '__' belong to the hub",
                "choose another beginning",
            ));
        }
        Ok(name)
    }

    /// Whether the topic belongs to the hub itself: its name begins with `__`.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = SettingError;

    fn from_str(name: &str) -> Result<Self, SettingError> {
        Self::new(name)
    }
}

impl TryFrom<String> for TopicName {
    type Error = SettingError;

    fn try_from(name: String) -> Result<Self, SettingError> {
        Self::new(name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> String {
        name.0
    }
}

/// What becomes of old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPolicy {
    /// They are dropped when retention says so.
    #[default]
    Delete,
    /// The newest of each key is kept. Known, and refused for now.
    Compact,
}

/// Whose time a record carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// That of its append, by the broker's clock.
    LogAppendTime,
}

/// Settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Number of partitions: 1 to [`MAX_PARTITIONS`]; may grow, never shrink. Default 1.
    pub partitions: u32,
    /// Milliseconds that records are kept, at least 1; absent: without limit (the default).
    pub retention_ms: Option<i64>,
    /// Bytes that are kept for each partition, tier included, at least 1; absent: without limit (the default).
    pub retention_bytes_per_partition: Option<u64>,
    /// What becomes of old records. Default: delete.
    pub cleanup_policy: CleanupPolicy,
    /// The codec of batches that the hub makes of plain records; producers' own batches keep theirs. Absent: none (the default).
    pub compression: Option<Compression>,
    /// Greatest batch as stored, in bytes: 1 KiB to [`MAX_MESSAGE_BYTES`]. Default 1 MiB.
    pub max_message_bytes: u32,
    /// Whose time records carry. Default: the producer's.
    pub timestamp_type: TimestampType,
    /// Bytes after which a partition's data is sealed for the tier, at least 1; absent: the hub's setting.
    pub seal_bytes: Option<u64>,
    /// Milliseconds after which a partition's data is sealed for the tier, at least 1; absent: the hub's setting.
    pub seal_age_ms: Option<u64>,
    /// Topics of one group share a journal, so that they can be written atomically. Same characters as a topic name.
    pub placement_group: Option<String>,
    /// For people and tools; at most 64, keys of 1 to 256 bytes, values up to 256.
    pub labels: BTreeMap<String, String>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        TopicSettings {
            partitions: 1,
            retention_ms: None,
            retention_bytes_per_partition: None,
            cleanup_policy: CleanupPolicy::Delete,
            compression: None,
            max_message_bytes: 1024 * 1024,
            timestamp_type: TimestampType::CreateTime,
            seal_bytes: None,
            seal_age_ms: None,
            placement_group: None,
            labels: BTreeMap::new(),
        }
    }
}

impl TopicSettings {
    /// Checks all fields by themselves.
    pub fn validate(&self) -> Result<(), SettingError> {
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            let limit = format!("a topic has 1 to {MAX_PARTITIONS} partitions");
            return Err(SettingError::new("partitions", self.partitions, limit, "choose a number in that range"));
        }
        if let Some(ms) = self.retention_ms.filter(|ms| *ms < 1) {
            let hint = "leave it out to keep records without limit";
            return Err(SettingError::new("retention_ms", ms, "it is at least 1", hint));
        }
        at_least_one(
            "retention_bytes_per_partition",
            self.retention_bytes_per_partition,
            "leave it out to keep records without limit",
        )?;
        at_least_one("seal_bytes", self.seal_bytes, "leave it out for the hub's setting")?;
        at_least_one("seal_age_ms", self.seal_age_ms, "leave it out for the hub's setting")?;
        if self.cleanup_policy == CleanupPolicy::Compact {
            let hint = "use delete with a retention";
            return Err(SettingError::new("cleanup_policy", "compact", "this version does not compact", hint));
        }
        if !(LEAST_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&self.max_message_bytes) {
            let limit = format!("it is from {LEAST_MESSAGE_BYTES} to {MAX_MESSAGE_BYTES}");
            let hint = "split larger payloads, or store them elsewhere and send a reference";
            return Err(SettingError::new("max_message_bytes", self.max_message_bytes, limit, hint));
        }
        if let Some(group) = &self.placement_group {
            TopicName::new(group.clone()).map_err(|e| SettingError { field: "placement_group", ..e })?;
        }
        self.validate_labels()
    }

    fn validate_labels(&self) -> Result<(), SettingError> {
        if self.labels.len() > MAX_LABELS {
            let limit = format!("a topic has at most {MAX_LABELS}");
            return Err(SettingError::new("labels", format!("{} labels", self.labels.len()), limit, "drop some"));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
                let found = format!("a key of {} and a value of {} bytes", key.len(), value.len());
                let limit = format!("keys have 1 to {MAX_LABEL_BYTES} bytes, values up to {MAX_LABEL_BYTES}");
                return Err(SettingError::new("labels", found, limit, "shorten them"));
            }
        }
        Ok(())
    }

    /// Checks a change from `self` to `next`: `next` by itself, and what may not change.
    pub fn validate_change(&self, next: &TopicSettings) -> Result<(), SettingError> {
        next.validate()?;
        if next.partitions < self.partitions {
            let limit = format!("the topic has {}, and they never become fewer", self.partitions);
            return Err(SettingError::new("partitions", next.partitions, limit, "make a new topic and copy the records"));
        }
        if next.placement_group != self.placement_group {
            let shown = next.placement_group.as_deref().unwrap_or("absent");
            return Err(SettingError::new("placement_group", shown, "it is fixed when the topic is made", "make a new topic"));
        }
        Ok(())
    }
}

fn at_least_one(field: &'static str, value: Option<u64>, hint: &'static str) -> Result<(), SettingError> {
    match value {
        Some(0) => Err(SettingError::new(field, 0, "it is at least 1", hint)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_that_kafka_accepts() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for good in ["a", "A.b_c-9", "...", "__consumer_offsets", &longest] {
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", ".", "..", "a b", "a/b", "ü", "a\n", &too_long] {
            let error = TopicName::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("topic name is "), "{error}");
        }
        assert!(TopicName::for_client("__x").unwrap_err().to_string().contains("belong to the hub"));
        assert!(TopicName::for_client("_x").is_ok());
    }

    #[test]
    fn each_bad_setting_is_named() {
        type Spoil = fn(&mut TopicSettings);
        let cases: Vec<(&str, Spoil)> = vec![
            ("partitions", |s| s.partitions = 0),
            ("partitions", |s| s.partitions = MAX_PARTITIONS + 1),
            ("retention_ms", |s| s.retention_ms = Some(0)),
            ("retention_bytes_per_partition", |s| s.retention_bytes_per_partition = Some(0)),
            ("seal_bytes", |s| s.seal_bytes = Some(0)),
            ("seal_age_ms", |s| s.seal_age_ms = Some(0)),
            ("cleanup_policy", |s| s.cleanup_policy = CleanupPolicy::Compact),
            ("max_message_bytes", |s| s.max_message_bytes = 1),
            ("max_message_bytes", |s| s.max_message_bytes = u32::MAX),
            ("placement_group", |s| s.placement_group = Some("a b".into())),
            ("labels", |s| drop(s.labels.insert(String::new(), String::new()))),
        ];
        TopicSettings::default().validate().unwrap();
        for (field, spoil) in cases {
            let mut settings = TopicSettings::default();
            spoil(&mut settings);
            assert_eq!(settings.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn partitions_grow_and_never_shrink() {
        let four = TopicSettings { partitions: 4, ..Default::default() };
        let five = TopicSettings { partitions: 5, ..Default::default() };
        four.validate_change(&five).unwrap();
        assert_eq!(five.validate_change(&four).unwrap_err().field, "partitions");
    }
}
