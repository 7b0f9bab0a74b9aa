//! Units, whole or not at all: everything is checked first, then everything is done.
//!
//! Operations are checked against the state before the unit; only appends see the earlier appends of their unit. So two other
//! operations must not concern the same thing, and `perform` cannot fail after `check` passed.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_model::{LeaderEpoch, Offset, ProducerId, TopicPartition, TopicUid};

use super::batch::Batch;
use super::catalog::{NewTopic, is_of_fleet};
use super::groups::{check_commit, check_name};
use super::partition::PartitionState;
use super::producers::{ProducerState, Verdict};
use super::replace;
use super::tail::Firsts;
use super::{Applied, FEATURE_LEVEL, State, TierPiece};
use crate::entry::{
    ObjectInfo, ObjectKey, Operation, Outcome, Outcomes, Precondition, ProducerLimits, Refusal, Replacement, StoredRange,
    TierRange, Unit, UnitOutcome,
};

/// What an operation must have for itself within its unit.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Subject<'a> {
    Partition(TopicPartition),
    Key(&'a str),
    Group(&'a str),
    Topic(TopicUid),
    Placement(&'a str),
    TopicName(String),
    ProducerName(&'a str),
    Registry,
}

impl Subject<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Subject::Partition(_) => "partition",
            Subject::Key(_) => "object key",
            Subject::Group(_) => "group",
            Subject::Topic(_) => "topic",
            Subject::Placement(_) => "placement group",
            Subject::TopicName(_) => "topic name",
            Subject::ProducerName(_) => "producer name",
            Subject::Registry => "setting",
        }
    }
}

/// What the earlier appends of a unit did to producers.
#[derive(Default)]
struct Overlay {
    producers: BTreeMap<(TopicPartition, ProducerId), ProducerState>,
}

impl State {
    /// Applies a unit. `position` is where its first batch lies in the entry.
    pub(crate) fn apply_unit(&mut self, unit: &Unit, position: u32, applied: &mut Applied) -> UnitOutcome {
        if let Err((operation, refusal)) = self.check_unit(unit) {
            return UnitOutcome::Refused { operation, refusal: Box::new(refusal) };
        }
        let mut position = position;
        let mut outcomes = Vec::with_capacity(unit.operations.len());
        for operation in &unit.operations {
            outcomes.push(match operation {
                Operation::Append { at, batch, window } => {
                    let outcome = self.append_one(*at, batch, position, *window, applied);
                    position += batch.len() as u32;
                    outcome.expect("an append that was checked against the same state is not refused")
                }
                operation => self.perform(operation, applied),
            });
        }
        match outcomes.pop() {
            Some(only) if outcomes.is_empty() => UnitOutcome::Applied(Outcomes::One(only)),
            last => {
                outcomes.extend(last);
                UnitOutcome::Applied(Outcomes::Many(outcomes))
            }
        }
    }

    fn check_unit(&self, unit: &Unit) -> Result<(), (u32, Refusal)> {
        let beyond = unit.operations.len() as u32;
        for precondition in &unit.preconditions {
            self.check_precondition(precondition).map_err(|refusal| (beyond, refusal))?;
        }
        let mut overlay = Overlay::default();
        for (number, operation) in unit.operations.iter().enumerate() {
            let checked = match operation {
                Operation::Append { at, batch, window } => self.check_append(*at, batch, *window, &mut overlay),
                operation => self.check_operation(operation),
            };
            checked.map_err(|refusal| (number as u32, refusal))?;
        }
        if unit.operations.len() > 1 { check_conflicts(unit) } else { Ok(()) }
    }

    fn check_precondition(&self, precondition: &Precondition) -> Result<(), Refusal> {
        match precondition {
            Precondition::TopicRevision { topic, revision } => self.catalog.check_revision(*topic, Some(*revision)).map(|_| ()),
            Precondition::PartitionExists { at } => self.open(*at).map(|_| ()),
            Precondition::HighWatermark { at, equals } => {
                let current = self.open(*at)?.high_watermark;
                let mismatch = Refusal::HighWatermarkMismatch { at: *at, expected: *equals, current };
                if current == *equals { Ok(()) } else { Err(mismatch) }
            }
            Precondition::OperatorEpoch { epoch } => self.catalog.check_operator_epoch(*epoch),
        }
    }

    fn open(&self, at: TopicPartition) -> Result<&PartitionState, Refusal> {
        self.partitions.get(&at).ok_or(Refusal::UnknownPartition { at })
    }

    fn check_append(&self, at: TopicPartition, bytes: &[u8], window: u8, overlay: &mut Overlay) -> Result<(), Refusal> {
        let partition = self.open(at)?;
        let batch = Batch::read(bytes).map_err(|problem| Refusal::BadBatch { at, problem })?;
        let Some(sender) = &batch.sender else {
            return partition.judge(at, &batch).map(|_| ());
        };
        let key = (at, sender.producer);
        let verdict = match overlay.producers.get(&key) {
            Some(known) => known.judge(at, sender)?,
            None => partition.judge(at, &batch)?,
        };
        if verdict == Verdict::Append {
            let known = || partition.producers.get(&sender.producer).cloned();
            let fresh = || ProducerState::new(sender.epoch, window, self.time);
            let producer = overlay.producers.entry(key).or_insert_with(|| known().unwrap_or_else(fresh));
            producer.record(sender, partition.high_watermark, window);
        }
        Ok(())
    }

    fn check_operation(&self, operation: &Operation) -> Result<(), Refusal> {
        let needed = operation.feature_level();
        if needed > self.feature_level {
            return Err(Refusal::FeatureLevel { needed, committed: self.feature_level });
        }
        match operation {
            Operation::OpenPartition { at, generation, first_offset, first_epoch, limits } => {
                self.check_open(*at, *generation, *first_offset, *first_epoch, limits)
            }
            Operation::SealPartition { at, generation } => self.check_seal(*at, *generation),
            Operation::AdoptPartition { at, generation, sealed } => self.check_adopt(*at, *generation, sealed),
            Operation::CommitOffsets { group, offsets } => check_commit(group, offsets),
            Operation::DeleteOffsets { group, .. } | Operation::DeleteGroup { group } => check_name("group", group),
            Operation::Intend { key } => self.objects.check_fresh(key),
            Operation::Tier { object, ranges } => self.check_tier(object, ranges),
            Operation::Abandon { key } if self.objects.condemned.contains_key(key) => Ok(()),
            Operation::Abandon { key } => self.objects.check_intended(key),
            Operation::Trim { at, log_start } => {
                let high_watermark = self.open(*at)?.high_watermark;
                let above = Refusal::AboveHighWatermark { at: *at, given: *log_start, high_watermark };
                if *log_start <= high_watermark { Ok(()) } else { Err(above) }
            }
            Operation::Replace { at, old, new } => replace::check(*at, self.open(*at)?, &self.objects, old, new),
            Operation::Unravel { manifest, .. } => {
                let unknown = || Refusal::NotDrained { key: manifest.clone() };
                self.objects.drained.get(manifest).map(|_| ()).ok_or_else(unknown)
            }
            Operation::Release { upto } => {
                // Never its own entry, to which an earlier append of this unit may belong.
                let releasable = self.releasable().min(self.applied.index.saturating_sub(1));
                if *upto <= releasable { Ok(()) } else { Err(Refusal::NotReleasable { given: *upto, releasable }) }
            }
            Operation::SetFeatureLevel { level } => {
                let (given, committed, known) = (*level, self.feature_level, FEATURE_LEVEL);
                let is_fit = (committed..=known).contains(&given);
                if is_fit { Ok(()) } else { Err(Refusal::FeatureLevelUnfit { given, committed, known }) }
            }
            Operation::Append { .. } | Operation::ClosePartition { .. } | Operation::Forget { .. } => Ok(()),
            operation => self.check_catalog(operation),
        }
    }

    fn check_catalog(&self, operation: &Operation) -> Result<(), Refusal> {
        let catalog = &self.catalog;
        match operation {
            Operation::CreateTopic { uid, name, config, journals, bound, management } => {
                let (bound, management) = (bound.as_ref(), *management);
                catalog.check_create(NewTopic { uid: *uid, name, config, journals, bound, management })
            }
            Operation::AlterTopic { uid, expected_revision, config, journals } => {
                catalog.check_alter(*uid, *expected_revision, config, journals)
            }
            Operation::DeleteTopic { uid, .. } => catalog.live(*uid).map(|_| ()),
            Operation::UndeleteTopic { uid } => catalog.check_undelete(*uid, self.time),
            Operation::ForgetTopic { uid } => catalog.check_forget(*uid, self.time),
            Operation::BindTopic { uid, expected, object, .. } => catalog.check_bind(*uid, expected.as_ref(), object.as_ref()),
            operation if is_of_fleet(operation) => catalog.fleet.check_operation(operation),
            Operation::AllocateProducerIds { count } => catalog.check_producer_ids(*count),
            Operation::InitNamedProducer { name, window, expire_ms } => {
                catalog.check_named_producer(name, *window, *expire_ms, self.time)
            }
            Operation::SetOperatorEpoch { epoch } => catalog.check_operator_epoch(*epoch),
            Operation::BeginMove { at, to } => catalog.check_begin_move(at.topic, at.partition, *to),
            Operation::FinishMove { at, generation, first_offset } => {
                catalog.check_finish_move(at.topic, at.partition, *generation, *first_offset)
            }
            Operation::DropHome { at, generation } => catalog.check_drop_home(at.topic, at.partition, *generation),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_open(
        &self,
        at: TopicPartition,
        given: u32,
        first_offset: Offset,
        first_epoch: LeaderEpoch,
        limits: &ProducerLimits,
    ) -> Result<(), Refusal> {
        let invalid = |field, problem: &str| Err(Refusal::Invalid { field, problem: problem.to_owned() });
        if limits.producers == 0 || limits.producers as usize > super::MOST_PRODUCERS {
            return invalid("limits.producers", "is out of bounds; give 1 to 200,000");
        }
        if limits.expire_ms <= 0 {
            return invalid("limits.expire_ms", "is below 1; give at least 1 ms");
        }
        if !(0..=i64::MAX / 2).contains(&first_offset.0) || first_epoch.0 < 0 {
            return invalid("first_offset or first_epoch", "is out of bounds; give 0 or more, offsets up to 2^62");
        }
        match self.partitions.get(&at).map(|partition| partition.generation) {
            Some(current) if current > given => Err(Refusal::StaleGeneration { at, given, current }),
            Some(current) if current < given => invalid("generation", "is above the open one; close that first"),
            _ => Ok(()),
        }
    }

    fn check_tier(&self, object: &ObjectInfo, ranges: &[TierRange]) -> Result<(), Refusal> {
        self.objects.check_intended(&object.key)?;
        let mut cursors: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        for range in ranges {
            let (at, base) = (range.at, range.base);
            // A partition that was closed meanwhile costs the others nothing: its bytes are left unreferenced.
            let Some(partition) = self.partitions.get(&at) else { continue };
            let mismatch = |expected, problem| Err(Refusal::RangeMismatch { at, expected, problem });
            match cursors.get(&at) {
                Some(cursor) if *cursor != base => return mismatch(*cursor, "a range does not start where the last one ended"),
                None if base < partition.tiered_end => return mismatch(partition.tiered_end, "a range was tiered before"),
                None if base > partition.covered_end() => {
                    return mismatch(partition.covered_end(), "a range leaves out records before it");
                }
                _ => {}
            }
            if range.end <= base {
                return mismatch(base, "a range ends where it starts");
            }
            if range.end > partition.high_watermark {
                return Err(Refusal::AboveHighWatermark { at, given: range.end, high_watermark: partition.high_watermark });
            }
            replace::check_within(at, base, range.position, range.bytes, object.bytes)?;
            cursors.insert(at, range.end);
        }
        Ok(())
    }

    /// Does what was checked.
    fn perform(&mut self, operation: &Operation, applied: &mut Applied) -> Outcome {
        match operation {
            Operation::OpenPartition { at, generation, first_offset, first_epoch, limits } => {
                let fresh = || PartitionState::new(*generation, *first_offset, *first_epoch, *limits);
                self.partitions.entry(*at).or_insert_with(fresh).limits = *limits;
                applied.changed.push(*at);
            }
            Operation::ClosePartition { at, generation } => self.close(*at, *generation, applied),
            Operation::SealPartition { at, .. } => return self.seal(*at, applied),
            Operation::AdoptPartition { at, generation, sealed } => self.adopt(*at, *generation, sealed, applied),
            Operation::CommitOffsets { group, offsets } => {
                self.groups.entry(group.clone()).or_default().commit(offsets, self.time);
            }
            Operation::DeleteOffsets { group, partitions, committed_before } => {
                if let Some(known) = self.groups.get_mut(group) {
                    known.forget(partitions, *committed_before);
                    if known.offsets.is_empty() {
                        self.groups.remove(group);
                    }
                }
            }
            Operation::DeleteGroup { group } => {
                self.groups.remove(group);
            }
            Operation::Intend { key } => {
                self.objects.intended.insert(key.clone(), self.time);
            }
            Operation::Tier { object, ranges } => self.tier(object, ranges, applied),
            Operation::Abandon { key } => {
                if !self.objects.condemned.contains_key(key) {
                    self.objects.condemn(key, self.time);
                }
            }
            Operation::Forget { keys } => keys.iter().for_each(|key| {
                self.objects.condemned.remove(key);
            }),
            Operation::Trim { at, log_start } => return self.trim(*at, *log_start, applied),
            Operation::Replace { at, .. } => {
                applied.changed.push(*at);
                self.replace(operation);
            }
            Operation::Unravel { manifest, objects } => self.unravel(manifest, objects),
            Operation::Release { upto } => self.release(*upto),
            Operation::SetFeatureLevel { level } => self.feature_level = *level,
            operation => {
                applied.catalog_changed = true;
                return self.perform_catalog(operation);
            }
        }
        Outcome::Done
    }

    fn perform_catalog(&mut self, operation: &Operation) -> Outcome {
        let (catalog, now) = (&mut self.catalog, self.time);
        match operation {
            Operation::CreateTopic { uid, name, config, journals, bound, management } => {
                let (bound, management) = (bound.as_ref(), *management);
                catalog.create(NewTopic { uid: *uid, name, config, journals, bound, management }, now)
            }
            Operation::AlterTopic { uid, config, journals, .. } => catalog.alter(*uid, config, journals, now),
            Operation::DeleteTopic { uid, undo_until } => catalog.delete(*uid, *undo_until, now),
            Operation::UndeleteTopic { uid } => catalog.undelete(*uid, now),
            Operation::ForgetTopic { uid } => catalog.forget(*uid),
            Operation::BindTopic { uid, object, management, .. } => catalog.bind(*uid, object.as_ref(), *management, now),
            Operation::BeginMove { at, to } => catalog.begin_move(at.topic, at.partition, *to),
            Operation::FinishMove { at, generation, first_offset } => {
                catalog.finish_move(at.topic, at.partition, *generation, *first_offset, now)
            }
            Operation::DropHome { at, generation } => catalog.drop_home(at.topic, at.partition, *generation, now),
            operation if is_of_fleet(operation) => catalog.fleet.perform(operation, now),
            Operation::AllocateProducerIds { count } => catalog.allocate_producer_ids(*count),
            Operation::InitNamedProducer { name, window, expire_ms } => {
                catalog.init_named_producer(name, *window, *expire_ms, now)
            }
            Operation::SetOperatorEpoch { epoch } => {
                catalog.operator_epoch = *epoch;
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    }

    fn close(&mut self, at: TopicPartition, generation: u32, applied: &mut Applied) {
        if self.partitions.get(&at).is_none_or(|partition| partition.generation > generation) {
            return;
        }
        if let Some(partition) = self.partitions.remove(&at) {
            self.index.remove(at, &partition);
            partition.pieces.iter().for_each(|piece| self.objects.drop_piece(at, piece, self.time));
            applied.changed.push(at);
        }
    }

    fn tier(&mut self, object: &ObjectInfo, ranges: &[TierRange], applied: &mut Applied) {
        for range in ranges {
            let Some(partition) = self.partitions.get_mut(&range.at) else { continue };
            let before = partition.tail.firsts();
            partition.tiered_end = range.end;
            if range.end > partition.log_start {
                self.objects.refer(&object.key);
                let piece = TierPiece::Range(stored(object, range));
                partition.count(&piece);
                partition.pieces.push_back(piece);
            }
            let covered = partition.covered_end();
            partition.tail.cover(covered);
            self.index.update(range.at, before, partition);
            applied.changed.push(range.at);
        }
        // Everything in it was trimmed or closed while it was uploaded.
        if self.objects.references(&object.key).is_none() {
            self.objects.condemn(&object.key, self.time);
        }
    }

    fn trim(&mut self, at: TopicPartition, log_start: Offset, applied: &mut Applied) -> Outcome {
        let Some(partition) = self.partitions.get_mut(&at) else {
            return Outcome::Done;
        };
        let before: Firsts = partition.tail.firsts();
        for piece in partition.trim(log_start) {
            self.objects.drop_piece(at, &piece, self.time);
        }
        self.index.update(at, before, partition);
        applied.changed.push(at);
        Outcome::Trimmed { log_start: partition.log_start }
    }

    fn replace(&mut self, operation: &Operation) {
        let Operation::Replace { at, old, new } = operation else { return };
        let Some(partition) = self.partitions.get_mut(at) else { return };
        let before = partition.tail.firsts();
        replace::perform(partition, &mut self.objects, old, new, self.time);
        self.index.update(*at, before, partition);
    }

    fn unravel(&mut self, manifest: &ObjectKey, objects: &[ObjectKey]) {
        self.objects.drained.remove(manifest);
        self.objects.condemn(manifest, self.time);
        objects.iter().for_each(|key| self.objects.release(key, self.time));
    }

    fn release(&mut self, upto: u64) {
        while let Some((index, at)) = self.index.retained.first().copied().filter(|(index, _)| *index <= upto) {
            let Some(partition) = self.partitions.get_mut(&at) else { return };
            let before = partition.tail.firsts();
            partition.tail.release(upto);
            let after = partition.tail.firsts();
            assert!(after.retained != Some(index), "what is releasable is covered: {at} at {index}");
            self.index.move_tail(at, before, after);
        }
    }
}

fn stored(object: &ObjectInfo, range: &TierRange) -> StoredRange {
    StoredRange {
        object: object.clone(),
        base: range.base,
        end: range.end,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp,
        max_timestamp: range.max_timestamp,
    }
}

/// No two operations concern the same thing; nothing is appended to a partition that is opened or closed; the key of a
/// rewritten object (which several partitions may share) is nobody else's subject; names come back in a unit of their own.
fn check_conflicts(unit: &Unit) -> Result<(), (u32, Refusal)> {
    let mut taken = BTreeSet::new();
    let mut appended = BTreeSet::new();
    for (number, operation) in unit.operations.iter().enumerate() {
        for subject in subjects(operation) {
            let conflict = Refusal::Conflicting { subject: subject.kind() };
            if !taken.insert(subject) {
                return Err((number as u32, conflict));
            }
        }
        if let Operation::Append { at, .. } = operation {
            appended.insert(*at);
        }
    }
    let makes_topic = unit.operations.iter().any(|operation| matches!(operation, Operation::CreateTopic { .. }));
    for (number, operation) in unit.operations.iter().enumerate() {
        let conflict = match operation {
            Operation::OpenPartition { at, .. }
            | Operation::ClosePartition { at, .. }
            | Operation::SealPartition { at, .. }
            | Operation::AdoptPartition { at, .. }
                if appended.contains(at) =>
            {
                "partition"
            }
            Operation::UndeleteTopic { .. } if makes_topic => "topic name",
            Operation::Replace { new: Replacement::Rewritten(ranges), .. }
                if ranges.first().is_some_and(|range| taken.contains(&Subject::Key(&range.object.key))) =>
            {
                "object key"
            }
            _ => continue,
        };
        return Err((number as u32, Refusal::Conflicting { subject: conflict }));
    }
    Ok(())
}

fn subjects(operation: &Operation) -> Vec<Subject<'_>> {
    match operation {
        Operation::Append { .. } => vec![],
        Operation::OpenPartition { at, .. }
        | Operation::ClosePartition { at, .. }
        | Operation::SealPartition { at, .. }
        | Operation::AdoptPartition { at, .. }
        | Operation::Trim { at, .. } => vec![Subject::Partition(*at)],
        Operation::BeginMove { at, .. } | Operation::FinishMove { at, .. } | Operation::DropHome { at, .. } => {
            vec![Subject::Topic(at.topic)]
        }
        Operation::CommitOffsets { group, .. } | Operation::DeleteOffsets { group, .. } | Operation::DeleteGroup { group } => {
            vec![Subject::Group(group)]
        }
        Operation::Intend { key } | Operation::Abandon { key } => vec![Subject::Key(key)],
        Operation::Tier { object, ranges } => {
            let partitions: BTreeSet<_> = ranges.iter().map(|range| range.at).collect();
            partitions.into_iter().map(Subject::Partition).chain([Subject::Key(&object.key)]).collect()
        }
        Operation::Replace { at, new, .. } => {
            let key = match new {
                Replacement::Folded(manifest) => Some(Subject::Key(&manifest.object.key)),
                _ => None,
            };
            key.into_iter().chain([Subject::Partition(*at)]).collect()
        }
        Operation::Unravel { manifest, .. } => vec![Subject::Key(manifest)],
        Operation::Forget { keys } => keys.iter().collect::<BTreeSet<_>>().into_iter().map(|key| Subject::Key(key)).collect(),
        Operation::CreateTopic { uid, name, config, bound, .. } => {
            let mut subjects = vec![Subject::Topic(*uid), Subject::TopicName(super::catalog::canonical(name))];
            subjects.extend(config.placement_group.as_deref().map(Subject::Placement));
            subjects.extend(bound.as_ref().map(|object| Subject::Key(&object.uid)));
            subjects
        }
        Operation::AlterTopic { uid, config, .. } => {
            let placement = config.placement_group.as_deref().map(Subject::Placement);
            placement.into_iter().chain([Subject::Topic(*uid)]).collect()
        }
        Operation::BindTopic { uid, object, .. } => {
            let key = object.as_ref().map(|object| Subject::Key(&object.uid));
            key.into_iter().chain([Subject::Topic(*uid)]).collect()
        }
        Operation::DeleteTopic { uid, .. } | Operation::UndeleteTopic { uid } | Operation::ForgetTopic { uid } => {
            vec![Subject::Topic(*uid)]
        }
        Operation::InitNamedProducer { name, .. } => vec![Subject::ProducerName(name)],
        Operation::Release { .. }
        | Operation::SetFeatureLevel { .. }
        | Operation::RegisterBroker { .. }
        | Operation::SetBrokerState { .. }
        | Operation::AddJournals { .. }
        | Operation::AddReplica { .. }
        | Operation::RemoveReplica { .. }
        | Operation::SetReplicationFactor { .. }
        | Operation::AllocateProducerIds { .. }
        | Operation::SetOperatorEpoch { .. } => vec![Subject::Registry],
    }
}
