//! The invariants of DESIGN section 6 that can be read off a state. Looks at everything: for tests, checkpoints and inspection.

use std::collections::BTreeMap;

use tidegate_model::{Offset, TopicPartition};

use super::index::Index;
use super::{Catalog, PartitionState, State, TierPiece};
use crate::entry::ObjectKey;

impl State {
    /// Checks all invariants; the error names the first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let mut references: BTreeMap<&ObjectKey, u32> = BTreeMap::new();
        for (at, partition) in &self.partitions {
            check_partition(partition).map_err(|problem| format!("{at}: {problem}"))?;
            for piece in &partition.pieces {
                match piece {
                    TierPiece::Range(range) => *references.entry(&range.object.key).or_insert(0) += 1,
                    TierPiece::Manifest(manifest) => self.check_unlisted(&manifest.object.key, *at)?,
                }
            }
        }
        self.check_objects(&references)?;
        check_catalog(&self.catalog)?;
        if self.index != Index::build(&self.partitions) {
            return Err("an index differs from what it is derived from".to_owned());
        }
        Ok(())
    }

    fn check_unlisted(&self, key: &ObjectKey, at: TopicPartition) -> Result<(), String> {
        let objects = &self.objects;
        let is_listed =
            objects.intended.contains_key(key) || objects.drained.contains_key(key) || objects.condemned.contains_key(key);
        if is_listed { Err(format!("I9: {at} uses manifest {key}, which is up for deletion")) } else { Ok(()) }
    }

    fn check_objects(&self, references: &BTreeMap<&ObjectKey, u32>) -> Result<(), String> {
        let objects = &self.objects;
        for (key, count) in references {
            // More may be counted: ranges in manifest objects.
            if objects.live.get(*key).copied().unwrap_or(0) < *count {
                return Err(format!("I9: {key} has {count} ranges, more than are counted"));
            }
        }
        for key in objects.live.keys().chain(objects.intended.keys()).chain(objects.drained.keys()) {
            let lists = [
                objects.live.contains_key(key),
                objects.intended.contains_key(key),
                objects.drained.contains_key(key),
                objects.condemned.contains_key(key),
            ];
            if lists.iter().filter(|is_listed| **is_listed).count() > 1 {
                return Err(format!("I9: {key} stands in two lists"));
            }
        }
        Ok(())
    }
}

fn ensure(holds: bool, problem: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem.to_owned()) }
}

fn check_partition(partition: &PartitionState) -> Result<(), String> {
    ensure(partition.log_start <= partition.high_watermark, "I1: log start above high watermark")?;
    ensure(partition.tiered_end <= partition.high_watermark, "I1: tiered end above high watermark")?;
    ensure(partition.log_start.0 >= 0, "I5: negative log start")?;
    let mut cursor: Option<Offset> = None;
    for piece in &partition.pieces {
        ensure(piece.end() > piece.base(), "I1: an empty piece in the tier")?;
        ensure(cursor.is_none_or(|cursor| cursor == piece.base()), "I1: a gap or overlap in the tier")?;
        ensure(piece.end() > partition.log_start, "a trimmed piece in the tier")?;
        cursor = Some(piece.end());
    }
    let tier_start = partition.pieces.front().map(TierPiece::base);
    if partition.tiered_end > partition.log_start {
        ensure(cursor == Some(partition.tiered_end), "I1: the tier does not reach its end")?;
        ensure(tier_start.is_some_and(|base| base <= partition.log_start), "I1: the tier begins above the log start")?;
    } else {
        ensure(cursor.is_none(), "pieces in a tier below the log start")?;
    }
    check_tail(partition)?;
    let starts: Vec<_> = partition.epoch_starts.iter().collect();
    let rises = starts.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start);
    ensure(rises, "epoch starts do not rise")?;
    ensure(starts.last().is_none_or(|last| last.epoch <= partition.epoch), "an epoch start above the epoch")
}

fn check_tail(partition: &PartitionState) -> Result<(), String> {
    let (mut next, mut place) = (partition.tail.start(), (0, 0));
    for item in partition.tail.items() {
        ensure(next == Some(item.base) && item.end > item.base, "I5: a gap or overlap in the tail")?;
        ensure((item.index, item.position) >= place, "the tail is out of order")?;
        (next, place) = (Some(item.end), (item.index, item.position.saturating_add(item.bytes)));
    }
    ensure(next.is_none_or(|next| next == partition.high_watermark), "I1: the tail ends below the high watermark")?;
    if partition.covered_end() < partition.high_watermark {
        let start = partition.tail.start().is_some_and(|start| start <= partition.covered_end());
        ensure(start, "I1: offsets between tier and tail are missing")?;
    }
    let untiered: u64 = partition.tail.untiered().map(|item| u64::from(item.bytes)).sum();
    ensure(untiered == partition.tail.untiered_bytes(), "untiered bytes are counted wrong")?;
    let all: u64 = partition.tail.items().map(|item| u64::from(item.bytes)).sum();
    ensure(all == partition.tail.bytes(), "tail bytes are counted wrong")?;
    let data: u64 = partition.pieces.iter().map(TierPiece::data_bytes).fold(0, u64::wrapping_add);
    ensure(data == partition.tiered_bytes, "tiered bytes are counted wrong")
}

fn check_catalog(catalog: &Catalog) -> Result<(), String> {
    let mut derived = Catalog { topics: catalog.topics.clone(), named: catalog.named.clone(), ..Catalog::default() };
    derived.index();
    ensure(derived.names == catalog.names, "two topics of one name, or a name without topic")?;
    ensure(derived.changes == catalog.changes, "the change feed differs from the topics")?;
    ensure(derived.bound == catalog.bound, "an object is bound to two topics, or a binding is left over")?;
    ensure(derived.expiries == catalog.expiries, "the queue of producer names differs from them")?;
    let live = catalog.topics.values().filter(|topic| !topic.is_deleted());
    ensure(live.clone().count() == catalog.names.len(), "two topics of one name")?;
    let bound = catalog.topics.values().filter(|topic| topic.bound.is_some()).count();
    ensure(bound == catalog.bound.len(), "an object is bound to two topics")?;
    catalog.fleet.check()?;
    for topic in catalog.topics.values() {
        ensure(topic.homes.len() == topic.config.partitions as usize, "a topic's homes are not one for each partition")?;
        ensure(topic.revision <= catalog.revision, "a revision from the future")?;
    }
    Ok(())
}
