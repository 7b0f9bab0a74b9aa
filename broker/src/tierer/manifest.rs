//! Manifest objects: old ranges move out of the journal's state into them, and drained ones are read a last time.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_journal::entry::{ManifestRef, ObjectInfo, ObjectKey, Operation, RangeKey, Replacement, StoredRange};
use tidegate_journal::state::{PartitionState, TierPiece};
use tidegate_model::{TimestampMs, TopicPartition};
use tidegate_tier::StoreError;
use tidegate_tier::manifest::{ManifestObject, ManifestRange};

use super::{TierError, Tierer};
use crate::hub::{Error, Inner};

/// Newest ranges that stay in the state when older ones are folded.
const KEPT_RANGES: usize = 128;

impl Tierer {
    /// Folds the oldest ranges of partitions that have too many in the state.
    pub(super) async fn fold_manifests(&self) -> Result<(), TierError> {
        let crowded: Vec<TopicPartition> = self.journal()?.read_state(|state| state.wants_manifest().collect());
        for at in crowded {
            self.fold(at).await?;
        }
        Ok(())
    }

    async fn fold(&self, at: TopicPartition) -> Result<(), TierError> {
        let ranges: Vec<StoredRange> = self.journal()?.read_state(|state| {
            let Some(partition) = state.partition(at) else { return Vec::new() };
            let ranges = partition.tier().filter_map(|piece| match piece {
                TierPiece::Range(range) => Some(range.clone()),
                TierPiece::Manifest(_) => None,
            });
            let mut ranges: Vec<_> = ranges.collect();
            ranges.truncate(ranges.len().saturating_sub(KEPT_RANGES));
            ranges
        });
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(()) };
        let (base, end) = (first.base, last.end);
        let old = ranges.iter().map(|range| RangeKey { base: range.base, key: Arc::clone(&range.object.key) }).collect();
        let summary = summary(&ranges);
        let encoded = ManifestObject { at, ranges: ranges.iter().map(manifest_range).collect() }.encode();
        let key: ObjectKey = Arc::from(self.hub.keys.manifest(at, self.hub.env.random.uuid()).as_str());
        let (bytes, crc32c) = (encoded.len() as u64, tidegate_tier::crc32c(&encoded));
        let object = self.put_bytes(Arc::clone(&key), vec![Bytes::from(encoded)], bytes, crc32c).await?;
        let manifest = ManifestRef { object, base, end, ranges: ranges.len() as u32, ..summary };
        let folded = self.propose(Operation::Replace { at, old, new: Replacement::Folded(manifest) }).await;
        self.working.lock().remove(&key);
        folded?;
        Ok(())
    }

    /// Reads manifests that a trim or a deletion left, so that what only they referred to is condemned.
    pub(super) async fn unravel_drained(&self) -> Result<(), TierError> {
        let drained: Vec<(ObjectKey, TopicPartition)> =
            self.journal()?.read_state(|state| state.objects().drained().map(|(key, at)| (Arc::clone(key), at)).collect());
        for (manifest, at) in drained {
            let bytes = self.hub.store.get(&manifest).await?;
            let listed = ManifestObject::decode(&bytes).map_err(|error| TierError::Wrong(error.to_string()))?;
            // What it lists is deleted next. Another manifest's content under this key would list objects that are in use.
            let log_start = self.journal()?.read_state(|state| state.partition(at).map(PartitionState::log_start));
            let in_use = |end| log_start.is_some_and(|log_start| end > log_start);
            if listed.at != at || listed.ranges.last().is_some_and(|range| in_use(range.end)) {
                return Err(TierError::Wrong(format!("manifest `{manifest}` lists what is still in use or belongs elsewhere")));
            }
            let objects = listed.ranges.iter().map(|range| Arc::from(range.key.as_str())).collect();
            self.propose(Operation::Unravel { manifest, objects }).await?;
        }
        Ok(())
    }
}

impl Inner {
    /// Reads and verifies a manifest object.
    pub(crate) async fn read_manifest(&self, manifest: &ManifestRef) -> Result<Vec<StoredRange>, Error> {
        let key = &manifest.object.key;
        let bytes = self.store.get(key).await.map_err(|error| match error {
            StoreError::NotFound { .. } => Error::Corrupt { problem: format!("manifest `{key}` is missing from the store") },
            other => Error::TierUnavailable { problem: other.to_string() },
        })?;
        if bytes.len() as u64 != manifest.object.bytes || tidegate_tier::crc32c(&bytes) != manifest.object.crc32c {
            return Err(Error::Corrupt { problem: format!("manifest `{key}` is not what was written") });
        }
        let listed = ManifestObject::decode(&bytes).map_err(|error| Error::Corrupt { problem: error.to_string() })?;
        Ok(listed.ranges.iter().map(stored_range).collect())
    }
}

fn manifest_range(range: &StoredRange) -> ManifestRange {
    ManifestRange {
        key: range.object.key.to_string(),
        object_bytes: range.object.bytes,
        object_crc32c: range.object.crc32c,
        base: range.base,
        end: range.end,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp,
        max_timestamp: range.max_timestamp,
    }
}

fn stored_range(range: &ManifestRange) -> StoredRange {
    StoredRange {
        object: ObjectInfo { key: Arc::from(range.key.as_str()), bytes: range.object_bytes, crc32c: range.object_crc32c },
        base: range.base,
        end: range.end,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp,
        max_timestamp: range.max_timestamp,
    }
}

/// Sums and extremes of ranges; the rest of the reference is filled in by the caller.
fn summary(ranges: &[StoredRange]) -> ManifestRef {
    let unknown = TimestampMs(-1);
    let known = |times: Vec<TimestampMs>| if times.contains(&unknown) { Vec::new() } else { times };
    ManifestRef {
        object: ObjectInfo { key: Arc::from(""), bytes: 0, crc32c: 0 },
        base: Default::default(),
        end: Default::default(),
        ranges: 0,
        data_bytes: ranges.iter().map(|range| range.bytes).sum(),
        min_timestamp: known(ranges.iter().map(|range| range.min_timestamp).collect()).into_iter().min().unwrap_or(unknown),
        max_timestamp: known(ranges.iter().map(|range| range.max_timestamp).collect()).into_iter().max().unwrap_or(unknown),
    }
}
