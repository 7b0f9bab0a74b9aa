//! The codec: what is written reads back, damage is named, old files stay readable.
#![allow(clippy::disallowed_methods, reason = "golden files are real files")]

use bytes::Bytes;
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use super::*;

fn at(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicUid(Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00)),
        partition: PartitionId(partition),
    }
}

fn body(fill: u8, length: usize) -> Bytes {
    Bytes::from(vec![fill; length])
}

fn stored(key: &str, base: i64, end: i64) -> StoredRange {
    StoredRange {
        object: ObjectInfo { key: key.into(), bytes: 1000, crc32c: 0xdead_beef },
        base: Offset(base),
        end: Offset(end),
        position: 64,
        bytes: 128,
        min_timestamp: TimestampMs(1),
        max_timestamp: TimestampMs(i64::MAX),
    }
}

fn manifest() -> ManifestRef {
    let range = stored("m", 5, 9);
    let (min_timestamp, max_timestamp) = (TimestampMs(-1), TimestampMs(4));
    ManifestRef { object: range.object, base: Offset(5), end: Offset(9), ranges: 3, data_bytes: 77, min_timestamp, max_timestamp }
}

/// One of each operation, with values that are not the defaults.
fn every_operation() -> Vec<Operation> {
    let uid = at(0).topic;
    let key = |key: &str| ObjectKey::from(key);
    let bound = BoundObject { namespace: "ns".to_owned(), name: "orders".to_owned(), uid: "k8s-uid".to_owned() };
    let config = TopicConfig { partitions: 3, placement_group: Some("g".to_owned()), settings: "{\"a\":1}".to_owned() };
    let limits = ProducerLimits { producers: 9, expire_ms: 1000 };
    let old = vec![RangeKey { base: Offset(5), key: key("o") }];
    let range = TierRange {
        at: at(2),
        base: Offset(3),
        end: Offset(8),
        position: 10,
        bytes: 20,
        min_timestamp: TimestampMs(-1),
        max_timestamp: TimestampMs(50),
    };
    let commit = OffsetCommit { at: at(1), offset: Offset(44), leader_epoch: LeaderEpoch(-1), metadata: "m".to_owned() };
    let journals = vec![JournalId(1), JournalId(300)];
    vec![
        Operation::OpenPartition { at: at(0), generation: 2, first_offset: Offset(7), first_epoch: LeaderEpoch(3), limits },
        Operation::ClosePartition { at: at(0), generation: 2 },
        Operation::Append { at: at(0), batch: body(1, 70), window: 7 },
        Operation::CommitOffsets { group: "g".to_owned(), offsets: vec![commit] },
        Operation::DeleteOffsets { group: "g".to_owned(), partitions: vec![at(-1)], committed_before: Some(TimestampMs(0)) },
        Operation::DeleteGroup { group: "g".to_owned() },
        Operation::Intend { key: key("k") },
        Operation::Tier { object: stored("t", 0, 1).object, ranges: vec![range] },
        Operation::Abandon { key: key("k") },
        Operation::Forget { keys: vec![key("k"), key("l")] },
        Operation::Trim { at: at(0), log_start: Offset(1 << 40) },
        Operation::Replace { at: at(0), old: old.clone(), new: Replacement::Folded(manifest()) },
        Operation::Replace { at: at(0), old: old.clone(), new: Replacement::Unfolded(vec![stored("u", 5, 9)]) },
        Operation::Replace { at: at(0), old, new: Replacement::Rewritten(vec![stored("r", 5, 9)]) },
        Operation::Unravel { manifest: key("m"), objects: vec![key("o"), key("o")] },
        Operation::Release { upto: 99 },
        Operation::SetFeatureLevel { level: 1 },
        Operation::CreateTopic {
            uid,
            name: "orders".to_owned(),
            config: config.clone(),
            journals: journals.clone(),
            bound: Some(bound.clone()),
            management: Management::Object,
        },
        Operation::AlterTopic { uid, expected_revision: Some(0), config, journals },
        Operation::DeleteTopic { uid, undo_until: TimestampMs(123) },
        Operation::UndeleteTopic { uid },
        Operation::ForgetTopic { uid },
        Operation::BindTopic { uid, expected: Some(bound), object: None, management: Management::Catalog },
        Operation::RegisterBroker {
            broker: BrokerId(4),
            incarnation: Uuid::from_u128(5),
            replaces: Some(Uuid::from_u128(6)),
            addresses: vec![("grpc".to_owned(), "127.0.0.1:9644".to_owned())],
            zone: "z1".to_owned(),
            node: "n1".to_owned(),
        },
        Operation::AddJournals { count: 2, replicas: vec![BrokerId(1), BrokerId(2)] },
        Operation::AllocateProducerIds { count: 1000 },
        Operation::InitNamedProducer { name: "p".to_owned(), window: 64, expire_ms: 5 },
        Operation::SetOperatorEpoch { epoch: 8 },
        Operation::SetBrokerState { broker: BrokerId(4), incarnation: Uuid::from_u128(5), state: BrokerState::Draining },
        Operation::AddReplica { journal: JournalId(0), broker: BrokerId(4), incarnation: Uuid::from_u128(5) },
        Operation::RemoveReplica { journal: JournalId(3), replica: (1 << 32) | 4 },
        Operation::SetReplicationFactor { factor: 3 },
    ]
}

fn golden_entry() -> Entry {
    let preconditions = vec![
        Precondition::TopicRevision { topic: at(0).topic, revision: 4 },
        Precondition::PartitionExists { at: at(1) },
        Precondition::HighWatermark { at: at(1), equals: Offset(9) },
        Precondition::OperatorEpoch { epoch: 2 },
    ];
    let mut units = vec![
        Unit::append(at(1), body(11, 61)),
        Unit::append(at(0), body(10, 5000)),
        Unit::append(at(1), body(12, 62)),
        Unit { preconditions, operations: every_operation() },
    ];
    units.push(Unit::append(at(0), body(13, 63)));
    Entry { time: TimestampMs(1_700_000_000_123), units }
}

#[test]
fn every_operation_reads_back_and_batches_of_a_partition_lie_together() {
    let (payload, order) = EntryPayload::encode(golden_entry()).unwrap();
    assert_eq!(order, [1, 0, 2, 3, 4]);
    let Piece::Run(second) = &payload.pieces()[1] else { panic!("{:?}", payload.pieces()[1]) };
    assert_eq!((second.at, second.lengths.as_slice()), (at(1), [61, 62].as_slice()));
    let stretch = payload.slice(second.position..second.position + 123);
    assert_eq!(stretch.concat(), [body(11, 61), body(12, 62)].concat());
    let Piece::Unit { unit, .. } = &payload.pieces()[2] else { panic!("{:?}", payload.pieces()[2]) };
    assert_eq!(unit.operations, every_operation());
    let read = EntryPayload::decode(payload.to_bytes()).unwrap();
    assert_eq!((read.pieces(), read.time(), read.units()), (payload.pieces(), payload.time(), 5));
    let units = golden_entry().units;
    let expected: Vec<Unit> = order.iter().map(|index| units[*index as usize].clone()).collect();
    assert_eq!((payload.to_units(), read.to_units()), (expected.clone(), expected));
    assert_eq!(payload.bytes(), payload.to_bytes().len());
}

#[test]
fn large_batches_are_not_copied_and_no_batch_crosses_a_chunk() {
    let large = body(1, 5000);
    let units = vec![Unit::append(at(0), body(2, 100)), Unit::append(at(0), large.clone()), Unit::append(at(0), body(3, 100))];
    let (payload, _) = EntryPayload::encode(Entry { time: TimestampMs(1), units }).unwrap();
    assert_eq!(payload.chunks().len(), 3);
    assert_eq!(payload.chunks()[1].as_ptr(), large.as_ptr());
    let mut bodies = payload.bodies();
    let lengths: Vec<_> = [100, 5000, 100].iter().map(|length| bodies.next(*length).unwrap().len()).collect();
    assert_eq!(lengths, [100, 5000, 100]);
    assert!(bodies.next(1).is_none());
}

#[test]
fn other_units_are_never_overtaken() {
    let trim = Unit::of(Operation::Trim { at: at(5), log_start: Offset(0) });
    let append = |partition| Unit::append(at(partition), body(1, 61));
    let units = vec![append(3), append(1), trim, append(2), append(0), append(2)];
    let (_, order) = EntryPayload::encode(Entry { time: TimestampMs(1), units }).unwrap();
    assert_eq!(order, [1, 0, 2, 4, 3, 5]);
}

#[test]
fn damage_is_named() {
    let (payload, _) = EntryPayload::encode(golden_entry()).unwrap();
    let good = payload.to_bytes();
    let decode = |bytes: &[u8]| EntryPayload::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
    assert_eq!(decode(b""), DecodeError::Short { needed: 14, given: 0 });
    let mut newer = good.to_vec();
    newer[0] = 2;
    assert_eq!(decode(&newer), DecodeError::Version { given: 2 });
    assert!(matches!(decode(&good[..40]), DecodeError::Short { .. }));
    assert!(matches!(decode(&good[..good.len() - 1]), DecodeError::Short { .. }));
    assert_eq!(decode(&[&good[..], b"x"].concat()), DecodeError::Trailing { extra: 1 });
    // A unit with an operation of a number that this version does not know.
    let meta = [0x0a, 0x07, 0x12, 0x05, 0x12, 0x03, 0xba, 0x3e, 0x00];
    let unknown = [&[1, 0, 9, 0, 0, 0][..], &[0; 8], &meta].concat();
    assert_eq!(decode(&unknown), DecodeError::Unknown { what: "operation" });
}

fn golden_path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn an_entry_of_version_1_stays_readable_and_is_still_written_so() {
    let path = golden_path("entry-v1-fleet.bin");
    let (payload, _) = EntryPayload::encode(golden_entry()).unwrap();
    crate::state::tests::golden(&path, &payload.to_bytes());
    let golden = EntryPayload::decode(Bytes::from(std::fs::read(&path).unwrap())).unwrap();
    assert_eq!(golden.pieces(), payload.pieces());
}

#[test]
fn an_entry_from_before_there_were_many_brokers_stays_readable() {
    let old = EntryPayload::decode(Bytes::from(std::fs::read(golden_path("entry-v1.bin")).unwrap())).unwrap();
    let Piece::Unit { unit, .. } = &old.pieces()[2] else { panic!("{:?}", old.pieces()[2]) };
    let nowhere = |operation: Operation| match operation {
        Operation::RegisterBroker { broker, incarnation, replaces, addresses, .. } => {
            let (zone, node) = (String::new(), String::new());
            Operation::RegisterBroker { broker, incarnation, replaces, addresses, zone, node }
        }
        operation => operation,
    };
    let of_then: Vec<_> = every_operation().into_iter().map(nowhere).take(unit.operations.len()).collect();
    assert_eq!((unit.operations.len(), &unit.operations), (28, &of_then));
}
