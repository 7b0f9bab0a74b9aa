//! Operations to and from their protobuf shape. Every missing or impossible field is an error that names it.

use bytes::Bytes;
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use super::codec::DecodeError;
use super::sealed::{sealed_in, sealed_out};
use super::wire::{self, OperationKind, PreconditionKind};
use super::{
    BoundObject, BrokerState, Management, ManifestRef, ObjectInfo, OffsetCommit, Operation, Precondition, ProducerLimits,
    RangeKey, Replacement, StoredRange, TierRange, TopicConfig,
};

fn halves(uuid: Uuid) -> (u64, u64) {
    uuid.as_u64_pair()
}

pub(crate) fn uid_out(uuid: Uuid) -> wire::Uid {
    let (high, low) = halves(uuid);
    wire::Uid { high, low }
}

pub(crate) fn uid_in(uid: &wire::Uid) -> Uuid {
    Uuid::from_u64_pair(uid.high, uid.low)
}

pub(crate) fn at_out(at: TopicPartition) -> wire::At {
    let (high, low) = halves(at.topic.0);
    wire::At { high, low, partition: at.partition.0 }
}

pub(crate) fn at_in(at: &wire::At) -> TopicPartition {
    TopicPartition { topic: TopicUid(Uuid::from_u64_pair(at.high, at.low)), partition: PartitionId(at.partition) }
}

pub(crate) fn object_out(object: &ObjectInfo) -> wire::Object {
    wire::Object { key: object.key.to_string(), bytes: object.bytes, crc32c: object.crc32c }
}

pub(crate) fn object_in(object: wire::Object) -> ObjectInfo {
    ObjectInfo { key: object.key.into(), bytes: object.bytes, crc32c: object.crc32c }
}

pub(crate) fn stored_out(range: &StoredRange) -> wire::StoredRange {
    wire::StoredRange {
        object: object_out(&range.object),
        base: range.base.0,
        end: range.end.0,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp.0,
        max_timestamp: range.max_timestamp.0,
    }
}

pub(crate) fn stored_in(range: wire::StoredRange) -> StoredRange {
    StoredRange {
        object: object_in(range.object),
        base: Offset(range.base),
        end: Offset(range.end),
        position: range.position,
        bytes: range.bytes,
        min_timestamp: TimestampMs(range.min_timestamp),
        max_timestamp: TimestampMs(range.max_timestamp),
    }
}

pub(crate) fn manifest_out(manifest: &ManifestRef) -> wire::Manifest {
    wire::Manifest {
        object: object_out(&manifest.object),
        base: manifest.base.0,
        end: manifest.end.0,
        ranges: manifest.ranges,
        data_bytes: manifest.data_bytes,
        min_timestamp: manifest.min_timestamp.0,
        max_timestamp: manifest.max_timestamp.0,
    }
}

pub(crate) fn manifest_in(manifest: wire::Manifest) -> ManifestRef {
    ManifestRef {
        object: object_in(manifest.object),
        base: Offset(manifest.base),
        end: Offset(manifest.end),
        ranges: manifest.ranges,
        data_bytes: manifest.data_bytes,
        min_timestamp: TimestampMs(manifest.min_timestamp),
        max_timestamp: TimestampMs(manifest.max_timestamp),
    }
}

pub(crate) fn bound_out(bound: &BoundObject) -> wire::Bound {
    wire::Bound { namespace: bound.namespace.clone(), name: bound.name.clone(), uid: bound.uid.clone() }
}

pub(crate) fn bound_in(bound: wire::Bound) -> BoundObject {
    BoundObject { namespace: bound.namespace, name: bound.name, uid: bound.uid }
}

pub(crate) fn config_out(config: &TopicConfig) -> wire::Config {
    wire::Config {
        partitions: config.partitions,
        placement_group: config.placement_group.clone(),
        settings: config.settings.clone(),
    }
}

pub(crate) fn config_in(config: wire::Config) -> TopicConfig {
    TopicConfig { partitions: config.partitions, placement_group: config.placement_group, settings: config.settings }
}

pub(crate) fn management_out(management: Management) -> u32 {
    u32::from(management == Management::Object)
}

pub(crate) fn management_in(value: u32) -> Result<Management, DecodeError> {
    match value {
        0 => Ok(Management::Catalog),
        1 => Ok(Management::Object),
        _ => Err(DecodeError::Field { field: "managed_by_object", problem: "is neither 0 nor 1" }),
    }
}

pub(crate) fn window_in(value: u32) -> Result<u8, DecodeError> {
    u8::try_from(value).map_err(|_| DecodeError::Field { field: "window", problem: "is above 255" })
}

fn tier_out(range: &TierRange) -> wire::TierRange {
    wire::TierRange {
        at: at_out(range.at),
        base: range.base.0,
        end: range.end.0,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp.0,
        max_timestamp: range.max_timestamp.0,
    }
}

fn tier_in(range: &wire::TierRange) -> TierRange {
    TierRange {
        at: at_in(&range.at),
        base: Offset(range.base),
        end: Offset(range.end),
        position: range.position,
        bytes: range.bytes,
        min_timestamp: TimestampMs(range.min_timestamp),
        max_timestamp: TimestampMs(range.max_timestamp),
    }
}

pub(crate) fn broker_state_out(state: BrokerState) -> u32 {
    match state {
        BrokerState::Active => 0,
        BrokerState::Draining => 1,
        BrokerState::Retired => 2,
    }
}

pub(crate) fn broker_state_in(state: u32) -> Result<BrokerState, DecodeError> {
    match state {
        0 => Ok(BrokerState::Active),
        1 => Ok(BrokerState::Draining),
        2 => Ok(BrokerState::Retired),
        _ => Err(DecodeError::Field { field: "state", problem: "is none of a broker's" }),
    }
}

fn journals_out(journals: &[JournalId]) -> Vec<u32> {
    journals.iter().map(|journal| journal.0).collect()
}

fn journals_in(journals: Vec<u32>) -> Vec<JournalId> {
    journals.into_iter().map(JournalId).collect()
}

fn keys_out(keys: &[super::ObjectKey]) -> Vec<String> {
    keys.iter().map(|key| key.to_string()).collect()
}

fn keys_in(keys: Vec<String>) -> Vec<super::ObjectKey> {
    keys.into_iter().map(Into::into).collect()
}

pub(crate) fn precondition_out(precondition: &Precondition) -> wire::Precondition {
    let kind = match precondition {
        Precondition::TopicRevision { topic, revision } => {
            PreconditionKind::TopicRevision(wire::TopicRevision { topic: uid_out(topic.0), revision: *revision })
        }
        Precondition::PartitionExists { at } => PreconditionKind::PartitionExists(wire::PartitionExists { at: at_out(*at) }),
        Precondition::HighWatermark { at, equals } => {
            PreconditionKind::HighWatermark(wire::HighWatermark { at: at_out(*at), equals: equals.0 })
        }
        Precondition::OperatorEpoch { epoch } => PreconditionKind::OperatorEpoch(wire::OperatorEpoch { epoch: *epoch }),
    };
    wire::Precondition { kind: Some(kind) }
}

pub(crate) fn precondition_in(precondition: wire::Precondition) -> Result<Precondition, DecodeError> {
    Ok(match precondition.kind.ok_or(DecodeError::Unknown { what: "precondition" })? {
        PreconditionKind::TopicRevision(wire) => {
            Precondition::TopicRevision { topic: TopicUid(uid_in(&wire.topic)), revision: wire.revision }
        }
        PreconditionKind::PartitionExists(wire) => Precondition::PartitionExists { at: at_in(&wire.at) },
        PreconditionKind::HighWatermark(wire) => Precondition::HighWatermark { at: at_in(&wire.at), equals: Offset(wire.equals) },
        PreconditionKind::OperatorEpoch(wire) => Precondition::OperatorEpoch { epoch: wire.epoch },
    })
}

pub(crate) fn operation_out(operation: &Operation) -> wire::Operation {
    let kind = data_out(operation).or_else(|| catalog_out(operation)).or_else(|| fleet_out(operation));
    wire::Operation { kind: Some(kind.expect("each operation belongs to the data journals or to the catalog")) }
}

fn data_out(operation: &Operation) -> Option<OperationKind> {
    Some(match operation {
        Operation::OpenPartition { at, generation, first_offset, first_epoch, limits } => {
            OperationKind::OpenPartition(wire::OpenPartition {
                at: at_out(*at),
                generation: *generation,
                first_offset: first_offset.0,
                first_epoch: first_epoch.0,
                producers: limits.producers,
                expire_ms: limits.expire_ms,
            })
        }
        Operation::ClosePartition { at, generation } => {
            OperationKind::ClosePartition(wire::ClosePartition { at: at_out(*at), generation: *generation })
        }
        Operation::SealPartition { at, generation } => {
            OperationKind::SealPartition(wire::ClosePartition { at: at_out(*at), generation: *generation })
        }
        Operation::AdoptPartition { at, generation, sealed } => OperationKind::AdoptPartition(wire::AdoptPartition {
            at: at_out(*at),
            generation: *generation,
            sealed: sealed_out(sealed),
        }),
        Operation::Append { at, batch, window } => {
            let length = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            OperationKind::Append(wire::Append { at: at_out(*at), length, window: u32::from(*window) })
        }
        Operation::CommitOffsets { group, offsets } => {
            OperationKind::CommitOffsets(wire::CommitOffsets { group: group.clone(), offsets: commits_out(offsets) })
        }
        Operation::DeleteOffsets { group, partitions, committed_before } => OperationKind::DeleteOffsets(wire::DeleteOffsets {
            group: group.clone(),
            partitions: partitions.iter().map(|at| at_out(*at)).collect(),
            committed_before: committed_before.map(|time| time.0),
        }),
        Operation::DeleteGroup { group } => OperationKind::DeleteGroup(wire::DeleteGroup { group: group.clone() }),
        Operation::Intend { key } => OperationKind::Intend(wire::Intend { key: key.to_string() }),
        Operation::Tier { object, ranges } => {
            OperationKind::Tier(wire::Tier { object: object_out(object), ranges: ranges.iter().map(tier_out).collect() })
        }
        Operation::Abandon { key } => OperationKind::Abandon(wire::Abandon { key: key.to_string() }),
        Operation::Forget { keys } => OperationKind::Forget(wire::Forget { keys: keys_out(keys) }),
        Operation::Trim { at, log_start } => OperationKind::Trim(wire::Trim { at: at_out(*at), log_start: log_start.0 }),
        Operation::Replace { at, old, new } => OperationKind::Replace(replace_out(*at, old, new)),
        Operation::Unravel { manifest, objects } => {
            OperationKind::Unravel(wire::Unravel { manifest: manifest.to_string(), objects: keys_out(objects) })
        }
        Operation::Release { upto } => OperationKind::Release(wire::Release { upto: *upto }),
        Operation::SetFeatureLevel { level } => OperationKind::SetFeatureLevel(wire::SetFeatureLevel { level: *level }),
        _ => return None,
    })
}

fn catalog_out(operation: &Operation) -> Option<OperationKind> {
    Some(match operation {
        Operation::CreateTopic { uid, name, config, journals, bound, management } => {
            OperationKind::CreateTopic(wire::CreateTopic {
                uid: uid_out(uid.0),
                name: name.clone(),
                config: config_out(config),
                journals: journals_out(journals),
                bound: bound.as_ref().map(bound_out),
                managed_by_object: management_out(*management),
            })
        }
        Operation::AlterTopic { uid, expected_revision, config, journals } => OperationKind::AlterTopic(wire::AlterTopic {
            uid: uid_out(uid.0),
            expected_revision: *expected_revision,
            config: config_out(config),
            journals: journals_out(journals),
        }),
        Operation::DeleteTopic { uid, undo_until } => {
            OperationKind::DeleteTopic(wire::DeleteTopic { uid: uid_out(uid.0), undo_until: undo_until.0 })
        }
        Operation::UndeleteTopic { uid } => OperationKind::UndeleteTopic(wire::UndeleteTopic { uid: uid_out(uid.0) }),
        Operation::ForgetTopic { uid } => OperationKind::ForgetTopic(wire::ForgetTopic { uid: uid_out(uid.0) }),
        Operation::BindTopic { uid, expected, object, management } => OperationKind::BindTopic(wire::BindTopic {
            uid: uid_out(uid.0),
            expected: expected.as_ref().map(bound_out),
            object: object.as_ref().map(bound_out),
            managed_by_object: management_out(*management),
        }),
        Operation::AllocateProducerIds { count } => {
            OperationKind::AllocateProducerIds(wire::AllocateProducerIds { count: *count })
        }
        Operation::InitNamedProducer { name, window, expire_ms } => OperationKind::InitNamedProducer(wire::InitNamedProducer {
            name: name.clone(),
            window: u32::from(*window),
            expire_ms: *expire_ms,
        }),
        Operation::SetOperatorEpoch { epoch } => OperationKind::SetOperatorEpoch(wire::SetOperatorEpoch { epoch: *epoch }),
        _ => return None,
    })
}

fn fleet_out(operation: &Operation) -> Option<OperationKind> {
    Some(match operation {
        Operation::BeginMove { at, to } => OperationKind::BeginMove(wire::BeginMove { at: at_out(*at), to: to.0 }),
        Operation::FinishMove { at, generation, first_offset } => {
            OperationKind::FinishMove(wire::FinishMove { at: at_out(*at), generation: *generation, first_offset: first_offset.0 })
        }
        Operation::DropHome { at, generation } => {
            OperationKind::DropHome(wire::ClosePartition { at: at_out(*at), generation: *generation })
        }
        Operation::RegisterBroker { broker, incarnation, replaces, addresses, zone, node } => {
            let address =
                |(listener, address): &(String, String)| wire::Address { listener: listener.clone(), address: address.clone() };
            OperationKind::RegisterBroker(wire::RegisterBroker {
                broker: broker.0,
                incarnation: uid_out(*incarnation),
                replaces: replaces.map(uid_out),
                addresses: addresses.iter().map(address).collect(),
                zone: zone.clone(),
                node: node.clone(),
            })
        }
        Operation::SetBrokerState { broker, incarnation, state } => OperationKind::SetBrokerState(wire::SetBrokerState {
            broker: broker.0,
            incarnation: uid_out(*incarnation),
            state: broker_state_out(*state),
        }),
        Operation::AddReplica { journal, broker, incarnation } => OperationKind::AddReplica(wire::AddReplica {
            journal: journal.0,
            broker: broker.0,
            incarnation: uid_out(*incarnation),
        }),
        Operation::RemoveReplica { journal, replica } => {
            OperationKind::RemoveReplica(wire::RemoveReplica { journal: journal.0, replica: *replica })
        }
        Operation::SetReplicationFactor { factor } => {
            OperationKind::SetReplicationFactor(wire::SetReplicationFactor { factor: *factor })
        }
        Operation::AddJournals { count, replicas } => OperationKind::AddJournals(wire::AddJournals {
            count: *count,
            replicas: replicas.iter().map(|broker| broker.0).collect(),
        }),
        _ => return None,
    })
}

fn commits_out(offsets: &[OffsetCommit]) -> Vec<wire::OffsetCommit> {
    let commit = |commit: &OffsetCommit| wire::OffsetCommit {
        at: at_out(commit.at),
        offset: commit.offset.0,
        leader_epoch: commit.leader_epoch.0,
        metadata: commit.metadata.clone(),
    };
    offsets.iter().map(commit).collect()
}

fn replace_out(at: TopicPartition, old: &[RangeKey], new: &Replacement) -> wire::Replace {
    let old = old.iter().map(|range| wire::RangeKey { base: range.base.0, key: range.key.to_string() }).collect();
    let mut replace = wire::Replace { at: at_out(at), old, ..Default::default() };
    match new {
        Replacement::Folded(manifest) => replace.folded = Some(manifest_out(manifest)),
        Replacement::Unfolded(ranges) => replace.unfolded = ranges.iter().map(stored_out).collect(),
        Replacement::Rewritten(ranges) => replace.rewritten = ranges.iter().map(stored_out).collect(),
    }
    replace
}

/// `batch` gives the next bytes of the entry's bodies.
pub(crate) fn operation_in(
    operation: wire::Operation,
    batch: &mut dyn FnMut(u32) -> Result<Bytes, DecodeError>,
) -> Result<Operation, DecodeError> {
    let kind = operation.kind.ok_or(DecodeError::Unknown { what: "operation" })?;
    match kind {
        OperationKind::Append(wire) => {
            Ok(Operation::Append { at: at_in(&wire.at), batch: batch(wire.length)?, window: window_in(wire.window)? })
        }
        kind => match data_in(kind)? {
            Ok(operation) => Ok(operation),
            Err(kind) => catalog_in(kind),
        },
    }
}

type Undecided = Result<Operation, OperationKind>;

fn data_in(kind: OperationKind) -> Result<Undecided, DecodeError> {
    Ok(Ok(match kind {
        OperationKind::OpenPartition(wire) => Operation::OpenPartition {
            at: at_in(&wire.at),
            generation: wire.generation,
            first_offset: Offset(wire.first_offset),
            first_epoch: LeaderEpoch(wire.first_epoch),
            limits: ProducerLimits { producers: wire.producers, expire_ms: wire.expire_ms },
        },
        OperationKind::ClosePartition(wire) => Operation::ClosePartition { at: at_in(&wire.at), generation: wire.generation },
        OperationKind::SealPartition(wire) => Operation::SealPartition { at: at_in(&wire.at), generation: wire.generation },
        OperationKind::AdoptPartition(wire) => Operation::AdoptPartition {
            at: at_in(&wire.at),
            generation: wire.generation,
            sealed: Box::new(sealed_in(wire.sealed)?),
        },
        OperationKind::CommitOffsets(wire) => {
            Operation::CommitOffsets { group: wire.group, offsets: wire.offsets.into_iter().map(commit_in).collect() }
        }
        OperationKind::DeleteOffsets(wire) => Operation::DeleteOffsets {
            group: wire.group,
            partitions: wire.partitions.iter().map(at_in).collect(),
            committed_before: wire.committed_before.map(TimestampMs),
        },
        OperationKind::DeleteGroup(wire) => Operation::DeleteGroup { group: wire.group },
        OperationKind::Intend(wire) => Operation::Intend { key: wire.key.into() },
        OperationKind::Tier(wire) => {
            Operation::Tier { object: object_in(wire.object), ranges: wire.ranges.iter().map(tier_in).collect() }
        }
        OperationKind::Abandon(wire) => Operation::Abandon { key: wire.key.into() },
        OperationKind::Forget(wire) => Operation::Forget { keys: keys_in(wire.keys) },
        OperationKind::Trim(wire) => Operation::Trim { at: at_in(&wire.at), log_start: Offset(wire.log_start) },
        OperationKind::Replace(wire) => replace_in(wire)?,
        OperationKind::Unravel(wire) => Operation::Unravel { manifest: wire.manifest.into(), objects: keys_in(wire.objects) },
        OperationKind::Release(wire) => Operation::Release { upto: wire.upto },
        OperationKind::SetFeatureLevel(wire) => Operation::SetFeatureLevel { level: wire.level },
        kind => return Ok(Err(kind)),
    }))
}

fn catalog_in(kind: OperationKind) -> Result<Operation, DecodeError> {
    Ok(match kind {
        OperationKind::CreateTopic(wire) => Operation::CreateTopic {
            uid: TopicUid(uid_in(&wire.uid)),
            name: wire.name,
            config: config_in(wire.config),
            journals: journals_in(wire.journals),
            bound: wire.bound.map(bound_in),
            management: management_in(wire.managed_by_object)?,
        },
        OperationKind::AlterTopic(wire) => Operation::AlterTopic {
            uid: TopicUid(uid_in(&wire.uid)),
            expected_revision: wire.expected_revision,
            config: config_in(wire.config),
            journals: journals_in(wire.journals),
        },
        OperationKind::DeleteTopic(wire) => {
            Operation::DeleteTopic { uid: TopicUid(uid_in(&wire.uid)), undo_until: TimestampMs(wire.undo_until) }
        }
        OperationKind::UndeleteTopic(wire) => Operation::UndeleteTopic { uid: TopicUid(uid_in(&wire.uid)) },
        OperationKind::ForgetTopic(wire) => Operation::ForgetTopic { uid: TopicUid(uid_in(&wire.uid)) },
        OperationKind::BindTopic(wire) => Operation::BindTopic {
            uid: TopicUid(uid_in(&wire.uid)),
            expected: wire.expected.map(bound_in),
            object: wire.object.map(bound_in),
            management: management_in(wire.managed_by_object)?,
        },
        OperationKind::RegisterBroker(wire) => Operation::RegisterBroker {
            broker: BrokerId(wire.broker),
            incarnation: uid_in(&wire.incarnation),
            replaces: wire.replaces.as_ref().map(uid_in),
            addresses: wire.addresses.into_iter().map(|address| (address.listener, address.address)).collect(),
            zone: wire.zone,
            node: wire.node,
        },
        OperationKind::SetBrokerState(wire) => Operation::SetBrokerState {
            broker: BrokerId(wire.broker),
            incarnation: uid_in(&wire.incarnation),
            state: broker_state_in(wire.state)?,
        },
        OperationKind::AddReplica(wire) => Operation::AddReplica {
            journal: JournalId(wire.journal),
            broker: BrokerId(wire.broker),
            incarnation: uid_in(&wire.incarnation),
        },
        OperationKind::RemoveReplica(wire) => {
            Operation::RemoveReplica { journal: JournalId(wire.journal), replica: wire.replica }
        }
        OperationKind::SetReplicationFactor(wire) => Operation::SetReplicationFactor { factor: wire.factor },
        OperationKind::AddJournals(wire) => {
            Operation::AddJournals { count: wire.count, replicas: wire.replicas.into_iter().map(BrokerId).collect() }
        }
        OperationKind::AllocateProducerIds(wire) => Operation::AllocateProducerIds { count: wire.count },
        OperationKind::InitNamedProducer(wire) => {
            Operation::InitNamedProducer { name: wire.name, window: window_in(wire.window)?, expire_ms: wire.expire_ms }
        }
        OperationKind::BeginMove(wire) => Operation::BeginMove { at: at_in(&wire.at), to: JournalId(wire.to) },
        OperationKind::FinishMove(wire) => {
            Operation::FinishMove { at: at_in(&wire.at), generation: wire.generation, first_offset: Offset(wire.first_offset) }
        }
        OperationKind::DropHome(wire) => Operation::DropHome { at: at_in(&wire.at), generation: wire.generation },
        OperationKind::SetOperatorEpoch(wire) => Operation::SetOperatorEpoch { epoch: wire.epoch },
        _ => return Err(DecodeError::Unknown { what: "operation" }),
    })
}

fn commit_in(commit: wire::OffsetCommit) -> OffsetCommit {
    OffsetCommit {
        at: at_in(&commit.at),
        offset: Offset(commit.offset),
        leader_epoch: LeaderEpoch(commit.leader_epoch),
        metadata: commit.metadata,
    }
}

fn replace_in(replace: wire::Replace) -> Result<Operation, DecodeError> {
    let key = |range: wire::RangeKey| RangeKey { base: Offset(range.base), key: range.key.into() };
    let new = match (replace.folded, replace.unfolded.is_empty(), replace.rewritten.is_empty()) {
        (Some(manifest), true, true) => Replacement::Folded(manifest_in(manifest)),
        (None, false, true) => Replacement::Unfolded(replace.unfolded.into_iter().map(stored_in).collect()),
        (None, true, _) => Replacement::Rewritten(replace.rewritten.into_iter().map(stored_in).collect()),
        _ => return Err(DecodeError::Field { field: "replace", problem: "has more than one replacement" }),
    };
    Ok(Operation::Replace { at: at_in(&replace.at), old: replace.old.into_iter().map(key).collect(), new })
}
