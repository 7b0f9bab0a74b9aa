//! Replacing a stretch of a partition's tiered part: folding into manifests, unfolding, rewriting (merge and compaction).

use std::collections::BTreeMap;

use tidegate_model::{Offset, TimestampMs, TopicPartition};

use super::partition::{PartitionState, TierPiece};
use super::tiering::Objects;
use crate::entry::{ManifestRef, ObjectKey, RangeKey, Refusal, Replacement, StoredRange};

/// Checks a replacement.
pub(crate) fn check(
    at: TopicPartition,
    partition: &PartitionState,
    objects: &Objects,
    old: &[RangeKey],
    new: &Replacement,
) -> Result<(), Refusal> {
    let mismatch = |expected, problem| Refusal::RangeMismatch { at, expected, problem };
    let (Some(first), Some(last)) = (old.first(), old.last()) else {
        return Err(mismatch(partition.log_start, "nothing is to be replaced"));
    };
    let start = partition.pieces.partition_point(|piece| piece.base() < first.base);
    for (offset, key) in old.iter().enumerate() {
        let piece = partition.pieces.get(start + offset);
        if !piece.is_some_and(|piece| piece.base() == key.base && *piece.key() == key.key) {
            return Err(mismatch(key.base, "what is to be replaced is not there any more"));
        }
    }
    let end = partition.pieces.get(start + old.len() - 1).map_or(last.base, TierPiece::end);
    let mut stretch = partition.pieces.range(start..start + old.len());
    match new {
        Replacement::Folded(manifest) => {
            objects.check_intended(&manifest.object.key)?;
            if (manifest.base, manifest.end) != (first.base, end) || manifest.ranges == 0 {
                return Err(mismatch(first.base, "the manifest does not cover what it replaces"));
            }
        }
        Replacement::Unfolded(ranges) => {
            let (Some(TierPiece::Manifest(manifest)), None) = (stretch.next(), stretch.next()) else {
                return Err(mismatch(first.base, "only one manifest can be unfolded at a time"));
            };
            check_coverage(at, ranges, first.base, end)?;
            check_unfolded(at, objects, manifest, ranges)?;
        }
        Replacement::Rewritten(ranges) => {
            if stretch.any(|piece| matches!(piece, TierPiece::Manifest(_))) {
                return Err(mismatch(first.base, "a manifest must be unfolded before its ranges are rewritten"));
            }
            check_coverage(at, ranges, first.base, end)?;
            let object = &ranges[0].object;
            if ranges.iter().any(|range| range.object != *object) {
                return Err(mismatch(first.base, "rewritten ranges must lie in one object"));
            }
            if !objects.live.contains_key(&object.key) || old.iter().any(|range| range.key == object.key) {
                objects.check_intended(&object.key)?;
            }
        }
    }
    Ok(())
}

/// Ranges follow each other from `base` to `end` and lie within their objects.
fn check_coverage(at: TopicPartition, ranges: &[StoredRange], base: Offset, end: Offset) -> Result<(), Refusal> {
    let mut cursor = base;
    for range in ranges {
        if range.base != cursor || range.end <= range.base {
            return Err(Refusal::RangeMismatch { at, expected: cursor, problem: "the new ranges have a gap or an overlap" });
        }
        check_within(at, range.base, range.position, range.bytes, range.object.bytes)?;
        cursor = range.end;
    }
    if cursor == end && !ranges.is_empty() {
        return Ok(());
    }
    Err(Refusal::RangeMismatch { at, expected: cursor, problem: "the new ranges do not cover what they replace" })
}

/// A range lies within its object.
pub(crate) fn check_within(
    at: TopicPartition,
    base: Offset,
    position: u64,
    bytes: u64,
    object_bytes: u64,
) -> Result<(), Refusal> {
    match position.checked_add(bytes) {
        Some(end) if end <= object_bytes && bytes > 0 => Ok(()),
        _ => Err(Refusal::RangeMismatch { at, expected: base, problem: "a range is empty or lies outside of its object" }),
    }
}

/// The ranges are as many as the manifest lists, and their keys can be counted: a key that comes back more than once was
/// counted all the time, one that is not counted was referred to once.
fn check_unfolded(at: TopicPartition, objects: &Objects, manifest: &ManifestRef, ranges: &[StoredRange]) -> Result<(), Refusal> {
    let bytes: u64 = ranges.iter().fold(0, |sum, range| sum.saturating_add(range.bytes));
    if ranges.len() != manifest.ranges as usize || bytes != manifest.data_bytes {
        let problem = "the ranges are not those that the manifest lists";
        return Err(Refusal::RangeMismatch { at, expected: manifest.base, problem });
    }
    let mut uses: BTreeMap<&ObjectKey, u32> = BTreeMap::new();
    for range in ranges {
        *uses.entry(&range.object.key).or_insert(0) += 1;
    }
    for (key, uses) in uses {
        if objects.intended.contains_key(key) || objects.condemned.contains_key(key) || objects.drained.contains_key(key) {
            return Err(Refusal::KeyUsed { key: key.clone() });
        }
        if uses > objects.live.get(key).copied().unwrap_or(1) {
            let problem = "an object has more ranges than are counted";
            return Err(Refusal::RangeMismatch { at, expected: manifest.base, problem });
        }
    }
    Ok(())
}

/// Replaces what `check` found.
pub(crate) fn perform(
    partition: &mut PartitionState,
    objects: &mut Objects,
    old: &[RangeKey],
    new: &Replacement,
    time: TimestampMs,
) {
    let Some(first) = old.first() else { return };
    let start = partition.pieces.partition_point(|piece| piece.base() < first.base);
    let tail = partition.pieces.split_off(start + old.len());
    let old = partition.pieces.split_off(start);
    let fresh: Vec<TierPiece> = match new {
        Replacement::Folded(manifest) => {
            objects.intended.remove(&manifest.object.key);
            vec![TierPiece::Manifest(manifest.clone())]
        }
        Replacement::Unfolded(ranges) => {
            ranges.iter().for_each(|range| objects.unfold(&range.object.key));
            ranges.iter().cloned().map(TierPiece::Range).collect()
        }
        Replacement::Rewritten(ranges) => {
            ranges.iter().for_each(|range| objects.refer(&range.object.key));
            ranges.iter().cloned().map(TierPiece::Range).collect()
        }
    };
    for piece in &old {
        partition.uncount(piece);
        match (piece, new) {
            (TierPiece::Manifest(manifest), _) => objects.condemn(&manifest.object.key, time),
            (TierPiece::Range(range), Replacement::Folded(_)) => objects.fold(&range.object.key),
            (TierPiece::Range(range), _) => objects.release(&range.object.key, time),
        }
    }
    fresh.iter().for_each(|piece| partition.count(piece));
    partition.pieces.extend(fresh);
    partition.pieces.extend(tail);
    let log_start = partition.log_start;
    for piece in partition.trim(log_start) {
        // Only an unfolded manifest can hold ranges that a trim would have dropped.
        if let TierPiece::Range(range) = &piece {
            objects.release(&range.object.key, time);
        }
    }
}
