//! Manifest objects: lists of a partition's old ranges, moved out of the journal's state. Format: docs/formats/manifest.md.

use prost::Message;
use tidegate_model::{Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use crate::envelope::{DecodeError, Envelope};

const ENVELOPE: Envelope = Envelope { what: "manifest object", magic: *b"TGMANIF1", version: 1 };
const MOST_BYTES: u64 = 256 << 20;

/// A list of a partition's ranges, contiguous and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestObject {
    /// The partition.
    pub at: TopicPartition,
    /// Its ranges.
    pub ranges: Vec<ManifestRange>,
}

/// Where a range of a partition lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRange {
    /// The tier object.
    pub key: String,
    /// Its bytes.
    pub object_bytes: u64,
    /// Its CRC-32C.
    pub object_crc32c: u32,
    /// First offset.
    pub base: Offset,
    /// Offset after the last.
    pub end: Offset,
    /// Where the range's batches begin in the object.
    pub position: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Least timestamp, -1 if unknown.
    pub min_timestamp: TimestampMs,
    /// Greatest timestamp.
    pub max_timestamp: TimestampMs,
}

#[derive(Clone, PartialEq, Message)]
struct WireManifest {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(message, repeated, tag = "3")]
    ranges: Vec<WireRange>,
}

#[derive(Clone, PartialEq, Message)]
struct WireRange {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint64, tag = "2")]
    object_bytes: u64,
    #[prost(fixed32, tag = "3")]
    object_crc32c: u32,
    #[prost(int64, tag = "4")]
    base: i64,
    #[prost(int64, tag = "5")]
    end: i64,
    #[prost(uint64, tag = "6")]
    position: u64,
    #[prost(uint64, tag = "7")]
    bytes: u64,
    #[prost(sint64, tag = "8")]
    min_timestamp: i64,
    #[prost(sint64, tag = "9")]
    max_timestamp: i64,
}

impl ManifestObject {
    /// Writes the object.
    pub fn encode(&self) -> Vec<u8> {
        let ranges = self.ranges.iter().map(|range| WireRange {
            key: range.key.clone(),
            object_bytes: range.object_bytes,
            object_crc32c: range.object_crc32c,
            base: range.base.0,
            end: range.end.0,
            position: range.position,
            bytes: range.bytes,
            min_timestamp: range.min_timestamp.0,
            max_timestamp: range.max_timestamp.0,
        });
        let wire =
            WireManifest { topic: self.at.topic.0.as_bytes().to_vec(), partition: self.at.partition.0, ranges: ranges.collect() };
        ENVELOPE.seal(&wire.encode_to_vec())
    }

    /// Reads an object; checks its checksum and that its ranges are contiguous.
    pub fn decode(bytes: &[u8]) -> Result<ManifestObject, DecodeError> {
        let wrong = |reason: &dyn std::fmt::Display| DecodeError::structure(ENVELOPE.what, reason);
        let wire = WireManifest::decode(&ENVELOPE.open(bytes, MOST_BYTES)?[..]).map_err(|error| wrong(&error))?;
        let topic = Uuid::from_slice(&wire.topic).map_err(|error| wrong(&error))?;
        let at = TopicPartition { topic: TopicUid(topic), partition: PartitionId(wire.partition) };
        let ranges: Vec<ManifestRange> = wire
            .ranges
            .into_iter()
            .map(|range| ManifestRange {
                key: range.key,
                object_bytes: range.object_bytes,
                object_crc32c: range.object_crc32c,
                base: Offset(range.base),
                end: Offset(range.end),
                position: range.position,
                bytes: range.bytes,
                min_timestamp: TimestampMs(range.min_timestamp),
                max_timestamp: TimestampMs(range.max_timestamp),
            })
            .collect();
        if ranges.windows(2).any(|pair| pair[0].end != pair[1].base) || ranges.iter().any(|range| range.base >= range.end) {
            return Err(wrong(&"its ranges are not contiguous"));
        }
        Ok(ManifestObject { at, ranges })
    }
}
