//! What each operation does, one story a test.
#![allow(clippy::disallowed_methods, reason = "golden files are real files")]

use bytes::Bytes;
use tidegate_model::{
    BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition,
    TopicUid,
};
use uuid::Uuid;

use super::*;
use crate::entry::*;

/// A batch of `records` records from nobody in particular; only its header is real.
pub(crate) fn batch(records: i32, body: usize) -> Bytes {
    idempotent(records, body, -1, -1, -1)
}

/// A batch of an idempotent producer.
pub(crate) fn idempotent(records: i32, body: usize, producer: i64, epoch: i16, first: i32) -> Bytes {
    let mut bytes = vec![0_u8; 61 + body];
    bytes[8..12].copy_from_slice(&(49 + body as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[17..21].copy_from_slice(&(records as u32 ^ 0xabcd_0000).to_be_bytes());
    bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&5_000_i64.to_be_bytes());
    bytes[35..43].copy_from_slice(&(5_000 + i64::from(records)).to_be_bytes());
    bytes[43..51].copy_from_slice(&producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&first.to_be_bytes());
    bytes[57..61].copy_from_slice(&records.to_be_bytes());
    Bytes::from(bytes)
}

const P: TopicPartition = TopicPartition { topic: TopicUid(Uuid::from_u128(1)), partition: PartitionId(0) };
const Q: TopicPartition = TopicPartition { topic: TopicUid(Uuid::from_u128(1)), partition: PartitionId(1) };

/// A journal that applies units one entry each.
struct Bench {
    state: State,
    at: Position,
    time: i64,
}

impl Bench {
    fn new() -> Bench {
        Bench { state: State::new(), at: Position { term: 1, index: 0 }, time: 1_000 }
    }

    fn with_partitions() -> Bench {
        let mut bench = Bench::new();
        bench.done(open(P, 0, 0));
        bench.done(open(Q, 0, 0));
        bench
    }

    fn entry(&mut self, units: Vec<Unit>) -> Applied {
        self.at.index += 1;
        let (payload, order) = EntryPayload::encode(Entry { time: TimestampMs(self.time), units }).unwrap();
        assert!(order.len() == payload.units());
        let applied = self.state.apply(self.at, &payload);
        self.state.check().unwrap();
        applied
    }

    fn unit(&mut self, unit: Unit) -> UnitOutcome {
        self.entry(vec![unit]).outcomes.remove(0)
    }

    fn run(&mut self, operation: Operation) -> Result<Outcome, Refusal> {
        match self.unit(Unit::of(operation)) {
            UnitOutcome::Applied(outcomes) => Ok(outcomes[0].clone()),
            UnitOutcome::Refused { refusal, .. } => Err(*refusal),
        }
    }

    fn done(&mut self, operation: Operation) -> Outcome {
        self.run(operation).unwrap()
    }

    fn refused(&mut self, operation: Operation) -> Refusal {
        let before = self.state.encode_without_position();
        let refusal = self.run(operation).unwrap_err();
        assert_eq!(before, self.state.encode_without_position(), "a refused unit changes nothing");
        assert!(!refusal.to_string().is_empty());
        refusal
    }

    /// Base offset of an append, or its refusal.
    fn append(&mut self, at: TopicPartition, batch: Bytes) -> Result<(i64, bool), Refusal> {
        match self.run(Operation::Append { at, batch, window: 0 })? {
            Outcome::Appended(appended) => Ok((appended.base.0, appended.duplicate)),
            other => panic!("{other:?}"),
        }
    }

    fn tier(&mut self, key: &str, ranges: &[(TopicPartition, i64, i64)]) -> Result<Outcome, Refusal> {
        let mut position = 0;
        let range = |(at, base, end): &(TopicPartition, i64, i64)| {
            position += 10;
            let (base, end) = (Offset(*base), Offset(*end));
            let (min_timestamp, max_timestamp) = (TimestampMs(1), TimestampMs(9));
            TierRange { at: *at, base, end, position: position - 10, bytes: 10, min_timestamp, max_timestamp }
        };
        let ranges: Vec<_> = ranges.iter().map(range).collect();
        self.run(Operation::Tier { object: ObjectInfo { key: key.into(), bytes: position, crc32c: 7 }, ranges })
    }

    fn intend(&mut self, key: &str) {
        self.done(Operation::Intend { key: key.into() });
    }

    fn partition(&self) -> &PartitionState {
        self.state.partition(P).unwrap()
    }

    fn condemned(&self) -> Vec<&str> {
        self.state.objects().condemned().map(|(key, _)| &**key).collect()
    }
}

impl State {
    /// Everything but the position, time and digest that each entry moves.
    fn encode_without_position(&self) -> Vec<u8> {
        let mut still = self.clone();
        (still.applied, still.time, still.digest) = (Position::default(), TimestampMs(0), 0);
        still.encode()
    }
}

fn open(at: TopicPartition, generation: u32, first: i64) -> Operation {
    let limits = ProducerLimits { producers: 2, expire_ms: 100 };
    Operation::OpenPartition { at, generation, first_offset: Offset(first), first_epoch: LeaderEpoch(4), limits }
}

fn trim(log_start: i64) -> Operation {
    Operation::Trim { at: P, log_start: Offset(log_start) }
}

#[test]
fn offsets_are_dense_and_a_partition_has_one_tail_item_for_an_entry() {
    let mut bench = Bench::with_partitions();
    let big = batch(3, 9_000);
    let units =
        vec![Unit::append(P, batch(2, 10)), Unit::append(Q, batch(1, 10)), Unit::append(P, big), Unit::append(P, batch(1, 5))];
    let applied = bench.entry(units);
    let bases: Vec<_> = applied.outcomes.iter().map(|outcome| format!("{outcome:?}").contains("Refused")).collect();
    assert_eq!(bases, [false; 4]);
    assert_eq!(applied.high_watermarks, [(P, Offset(6)), (Q, Offset(1))]);
    let items: Vec<_> = bench.partition().tail().items().copied().collect();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].base, items[0].end, items[0].bytes), (Offset(0), Offset(6), 3 * 61 + 10 + 9_000 + 5));
    assert_eq!(items[0].max_timestamp, TimestampMs(5_003));
}

#[test]
fn a_refused_batch_splits_the_tail_item_and_costs_its_neighbours_nothing() {
    let mut bench = Bench::with_partitions();
    let gap = Unit::append(P, idempotent(1, 7, 9, 0, 5));
    let applied = bench.entry(vec![Unit::append(P, batch(2, 10)), gap, Unit::append(P, batch(1, 5))]);
    assert!(matches!(&applied.outcomes[1], UnitOutcome::Refused { operation: 0, refusal }
        if matches!(**refusal, Refusal::OutOfSequence { expected: Sequence(0), got: Sequence(5), .. })));
    let items: Vec<_> = bench.partition().tail().items().map(|item| (item.base.0, item.end.0)).collect();
    assert_eq!(items, [(0, 2), (2, 3)]);
    let unknown = TopicPartition { partition: PartitionId(9), ..P };
    assert_eq!(bench.append(unknown, batch(1, 1)), Err(Refusal::UnknownPartition { at: unknown }));
    assert!(matches!(bench.append(P, Bytes::from_static(b"no batch")), Err(Refusal::BadBatch { .. })));
}

#[test]
fn duplicates_are_answered_with_their_offset_older_ones_with_minus_one_gaps_refused() {
    let mut bench = Bench::with_partitions();
    for number in 0..8 {
        assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, number * 2)), Ok((i64::from(number) * 2, false)));
    }
    assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, 14)), Ok((14, true)));
    assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, 6)), Ok((6, true)), "the oldest of five");
    assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, 4)), Ok((-1, true)), "older than the window");
    assert_eq!(bench.partition().high_watermark(), Offset(16));
    let expected = |got| Refusal::OutOfSequence { at: P, producer: ProducerId(9), expected: Sequence(16), got: Sequence(got) };
    for (first, records) in [(17, 1), (15, 1), (14, 3), (5, 2), (100, 1)] {
        assert_eq!(bench.append(P, idempotent(records, 1, 9, 0, first)), Err(expected(first)), "{first}+{records}");
    }
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 0, 16)), Ok((16, false)));
}

#[test]
fn a_wider_window_remembers_more() {
    let mut bench = Bench::with_partitions();
    for number in 0..70 {
        bench.done(Operation::Append { at: P, batch: idempotent(1, 1, 9, 0, number), window: 64 });
    }
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 0, 6)), Ok((6, true)));
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 0, 5)), Ok((-1, true)));
}

#[test]
fn sequences_wrap_after_the_greatest() {
    let mut bench = Bench::new();
    bench.done(open(P, 0, 10));
    let last = i32::MAX;
    assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, last - 1)), Ok((10, false)), "moved here: may have been known before");
    assert_eq!(bench.append(P, idempotent(3, 1, 9, 0, 0)), Ok((12, false)));
    assert_eq!(bench.append(P, idempotent(2, 1, 9, 0, last - 1)), Ok((10, true)));
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 0, last - 2)), Ok((-1, true)));
    let mut crossing = Bench::new();
    crossing.done(open(P, 0, 10));
    crossing.append(P, idempotent(4, 1, 9, 0, last - 1)).unwrap();
    assert_eq!(crossing.append(P, idempotent(1, 1, 9, 0, 2)), Ok((14, false)));
}

#[test]
fn epochs_fence_and_a_new_one_starts_at_zero() {
    let mut bench = Bench::with_partitions();
    bench.append(P, idempotent(2, 1, 9, 3, 0)).unwrap();
    assert!(matches!(bench.append(P, idempotent(1, 1, 9, 4, 2)), Err(Refusal::OutOfSequence { expected: Sequence(0), .. })));
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 4, 0)), Ok((2, false)));
    let fenced = Refusal::ProducerFenced { at: P, producer: ProducerId(9), current: ProducerEpoch(4) };
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 3, 2)), Err(fenced));
}

#[test]
fn a_producer_never_heard_of_starts_at_zero_a_forgotten_one_goes_on() {
    let mut bench = Bench::with_partitions();
    assert!(matches!(bench.append(P, idempotent(1, 1, 9, 0, 1)), Err(Refusal::OutOfSequence { .. })));
    bench.append(P, idempotent(5, 1, 9, 0, 0)).unwrap();
    bench.time += 101;
    bench.done(open(Q, 0, 0));
    assert!(bench.partition().producer(ProducerId(9)).is_none(), "expired by entry time");
    assert_eq!(bench.append(P, idempotent(1, 1, 9, 0, 5)), Ok((5, false)));
    assert!(bench.append(P, idempotent(1, 1, 10, 0, 5)).is_err(), "a greater id was never forgotten");
}

#[test]
fn a_clock_that_leaps_ahead_forgets_no_producer_and_the_lag_survives_a_checkpoint() {
    let day = ProducerLimits::default();
    let mut bench = Bench::new();
    bench.time = 1_700_000_000_000;
    let limits = |generation| Operation::OpenPartition {
        at: P,
        generation,
        first_offset: Offset(0),
        first_epoch: LeaderEpoch(1),
        limits: day,
    };
    bench.done(limits(0));
    bench.append(P, idempotent(5, 1, 9, 0, 0)).unwrap();
    // Ten days in one step; then the clock goes on as ever, and the batch is sent again.
    bench.time += 10 * 24 * 60 * 60 * 1000;
    bench.append(Q, batch(1, 1)).unwrap_err();
    bench.state = State::decode(&bench.state.encode()).unwrap();
    assert_eq!(bench.append(P, idempotent(5, 1, 9, 0, 0)), Ok((0, true)), "it is remembered, and not stored twice");
    // A day in steps that a clock makes which is right.
    for _ in 0..49 {
        bench.time += 30 * 60 * 1000;
        bench.append(Q, batch(1, 1)).unwrap_err();
    }
    assert!(bench.partition().producer(ProducerId(9)).is_none(), "after a day without a word it is forgotten");
}

#[test]
fn the_producer_unheard_of_for_longest_gives_way() {
    let mut bench = Bench::with_partitions();
    for (time, producer) in [(1, 1), (2, 2), (3, 1), (4, 3)] {
        bench.time += time;
        let first = if time == 3 { 1 } else { 0 };
        bench.append(P, idempotent(1, 1, producer, 0, first)).unwrap();
    }
    let known: Vec<_> = bench.partition().producers().map(|(id, _)| id.0).collect();
    assert_eq!(known, [1, 3]);
}

#[test]
fn a_producer_that_stays_in_touch_is_not_forgotten() {
    let mut bench = Bench::with_partitions();
    for number in 0..6 {
        bench.append(P, idempotent(1, 1, 9, 0, number)).unwrap();
        bench.time += 60;
    }
    assert!(bench.partition().producer(ProducerId(9)).is_some());
}

#[test]
fn each_leader_raises_the_epoch_and_lookups_find_where_epochs_end() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(3, 1)).unwrap();
    bench.at.term = 3;
    bench.append(P, batch(2, 1)).unwrap();
    bench.at = Position { term: 4, index: bench.at.index + 1 };
    bench.state.advance(bench.at);
    bench.at.term = 5;
    bench.append(P, batch(1, 1)).unwrap();
    let partition = bench.partition();
    assert_eq!(partition.epoch(), LeaderEpoch(7));
    let end = |epoch| partition.end_offset_for_epoch(LeaderEpoch(epoch)).map(|(epoch, end)| (epoch.0, end.0));
    let table = [(3, None), (4, Some((4, 3))), (5, Some((5, 5))), (6, Some((5, 5))), (7, Some((7, 6))), (8, None)];
    for (epoch, expected) in table {
        assert_eq!(end(epoch), expected, "epoch {epoch}");
    }
    assert_eq!([0, 2, 3, 5].map(|offset| partition.epoch_of(Offset(offset)).0), [4, 4, 5, 7]);
    bench.done(trim(5));
    assert_eq!(bench.partition().epoch_starts().count(), 1);
}

#[test]
fn a_unit_is_done_whole_or_not_at_all() {
    let mut bench = Bench::with_partitions();
    let append = |first| Operation::Append { at: P, batch: idempotent(1, 1, 9, 0, first), window: 0 };
    let commit = |offset| Operation::CommitOffsets {
        group: "g".to_owned(),
        offsets: vec![OffsetCommit { at: Q, offset: Offset(offset), leader_epoch: LeaderEpoch(0), metadata: String::new() }],
    };
    let good = Unit { preconditions: vec![], operations: vec![append(0), append(1), commit(5)] };
    assert!(matches!(bench.unit(good.clone()), UnitOutcome::Applied(outcomes) if outcomes.len() == 3));
    let again = bench.unit(good);
    assert!(matches!(again, UnitOutcome::Applied(outcomes)
        if matches!(outcomes[1], Outcome::Appended(Appended { base: Offset(1), duplicate: true, .. }))));
    let before = bench.state.encode_without_position();
    for operations in [vec![append(2), append(4)], vec![append(2), commit(-1)], vec![append(2), commit(6), commit(7)]] {
        let last = operations.len() as u32 - 1;
        let outcome = bench.unit(Unit { preconditions: vec![], operations });
        assert!(matches!(outcome, UnitOutcome::Refused { operation, .. } if operation == last));
        assert_eq!(bench.state.encode_without_position(), before);
    }
    assert_eq!(bench.state.group("g").unwrap().offset(Q).unwrap().offset, Offset(5));
}

#[test]
fn preconditions_guard_a_unit() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(3, 1)).unwrap();
    let guarded = |precondition| Unit { preconditions: vec![precondition], operations: vec![trim(1)] };
    let table = [
        (Precondition::HighWatermark { at: P, equals: Offset(2) }, false),
        (Precondition::PartitionExists { at: TopicPartition { partition: PartitionId(5), ..P } }, false),
        (Precondition::TopicRevision { topic: P.topic, revision: 1 }, false),
        (Precondition::HighWatermark { at: P, equals: Offset(3) }, true),
        (Precondition::PartitionExists { at: P }, true),
        (Precondition::OperatorEpoch { epoch: 0 }, true),
    ];
    for (precondition, holds) in table {
        let outcome = bench.unit(guarded(precondition.clone()));
        assert_eq!(matches!(outcome, UnitOutcome::Applied(_)), holds, "{precondition:?}");
    }
}

#[test]
fn bytes_may_go_only_when_they_are_tiered_or_trimmed() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(3, 1)).unwrap();
    bench.append(Q, batch(2, 1)).unwrap();
    bench.append(P, batch(1, 1)).unwrap();
    assert_eq!((bench.state.releasable(), bench.at.index), (2, 5));
    bench.intend("a");
    bench.tier("a", &[(P, 0, 3), (Q, 0, 2)]).unwrap();
    assert_eq!(bench.state.releasable(), 4);
    assert!(matches!(bench.refused(Operation::Release { upto: 5 }), Refusal::NotReleasable { given: 5, releasable: 4 }));
    assert_eq!(bench.partition().tail().items().count(), 2, "tiered items stay readable until they are released");
    assert_eq!(bench.state.first_retained(), Some(3));
    bench.done(Operation::Release { upto: 4 });
    assert_eq!(bench.partition().tail().start(), Some(Offset(3)));
    assert_eq!(bench.state.first_retained(), Some(5));
    bench.done(trim(4));
    assert_eq!(bench.state.releasable(), bench.at.index);
    assert_eq!(bench.partition().tail().items().count(), 0);
}

#[test]
fn only_an_intended_object_that_fits_comes_into_the_tier() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(10, 1)).unwrap();
    assert!(matches!(bench.tier("a", &[(P, 0, 5)]), Err(Refusal::NotIntended { .. })));
    bench.intend("a");
    for ranges in [[(P, 1, 5)].as_slice(), &[(P, 0, 0)], &[(P, 0, 2), (P, 3, 5)], &[(P, 0, 3), (P, 2, 5)]] {
        assert!(matches!(bench.tier("a", ranges), Err(Refusal::RangeMismatch { .. })), "{ranges:?}");
    }
    assert!(matches!(bench.tier("a", &[(P, 0, 11)]), Err(Refusal::AboveHighWatermark { .. })));
    bench.tier("a", &[(P, 0, 5)]).unwrap();
    assert!(matches!(bench.tier("a", &[(P, 5, 6)]), Err(Refusal::NotIntended { .. })), "not twice");
    assert!(matches!(bench.refused(Operation::Intend { key: "a".into() }), Refusal::KeyUsed { .. }));
    bench.intend("b");
    bench.done(Operation::Abandon { key: "b".into() });
    bench.done(Operation::Abandon { key: "b".into() });
    assert_eq!(bench.tier("b", &[(P, 5, 6)]), Err(Refusal::Abandoned { key: "b".into() }));
    assert!(matches!(bench.refused(Operation::Abandon { key: "a".into() }), Refusal::NotIntended { .. }), "live ones stay");
    assert_eq!(bench.condemned(), ["b"]);
    bench.done(Operation::Forget { keys: vec!["b".into(), "unknown".into()] });
    assert!(bench.condemned().is_empty());
}

#[test]
fn a_trim_while_an_object_is_uploaded_does_not_lose_the_upload() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(10, 1)).unwrap();
    bench.append(Q, batch(4, 1)).unwrap();
    bench.intend("a");
    bench.intend("b");
    bench.done(trim(3));
    bench.tier("a", &[(P, 0, 5)]).unwrap();
    bench.done(trim(8));
    assert_eq!(bench.condemned(), ["a"]);
    bench.tier("b", &[(P, 5, 7)]).unwrap();
    assert_eq!(bench.condemned(), ["a", "b"], "trimmed as a whole meanwhile");
    bench.intend("c");
    bench.done(Operation::ClosePartition { at: P, generation: 0 });
    bench.tier("c", &[(P, 7, 9), (Q, 0, 4)]).unwrap();
    assert_eq!(bench.state.partition(Q).unwrap().tiered_end(), Offset(4), "a closed neighbour costs nothing");
    assert_eq!(bench.state.objects().references("c"), Some(1));
}

#[test]
fn the_log_start_never_passes_the_high_watermark_and_never_falls() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(4, 1)).unwrap();
    assert!(matches!(bench.refused(trim(5)), Refusal::AboveHighWatermark { high_watermark: Offset(4), .. }));
    assert_eq!(bench.done(trim(3)), Outcome::Trimmed { log_start: Offset(3) });
    assert_eq!(bench.done(trim(1)), Outcome::Trimmed { log_start: Offset(3) });
}

fn manifest(key: &str, base: i64, end: i64, ranges: u32) -> ManifestRef {
    let object = ObjectInfo { key: key.into(), bytes: 1, crc32c: 0 };
    let (min_timestamp, max_timestamp) = (TimestampMs(1), TimestampMs(9));
    let data_bytes = u64::from(ranges) * 10;
    ManifestRef { object, base: Offset(base), end: Offset(end), ranges, data_bytes, min_timestamp, max_timestamp }
}

#[test]
fn ranges_fold_into_a_manifest_come_back_and_are_merged() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(9, 1)).unwrap();
    bench.append(Q, batch(3, 1)).unwrap();
    ["a", "b", "m", "n", "w"].iter().for_each(|key| bench.intend(key));
    bench.tier("a", &[(P, 0, 3), (Q, 0, 3)]).unwrap();
    bench.tier("b", &[(P, 3, 9)]).unwrap();
    let ranges: Vec<StoredRange> = bench
        .partition()
        .tier()
        .map(|piece| match piece {
            TierPiece::Range(range) => range.clone(),
            TierPiece::Manifest(_) => panic!("not yet"),
        })
        .collect();
    let old =
        |keys: &[(i64, &str)]| keys.iter().map(|(base, key)| RangeKey { base: Offset(*base), key: (*key).into() }).collect();
    let replace = |old, new| Operation::Replace { at: P, old, new };
    let both = || old(&[(0, "a"), (3, "b")]);
    assert!(matches!(bench.refused(replace(both(), Replacement::Folded(manifest("x", 0, 9, 2)))), Refusal::NotIntended { .. }));
    let mismatched = [
        (old(&[(3, "b")]), Replacement::Folded(manifest("m", 0, 9, 2))),
        (old(&[(0, "b")]), Replacement::Folded(manifest("m", 0, 3, 1))),
        (both(), Replacement::Unfolded(ranges.clone())),
        (old(&[]), Replacement::Folded(manifest("m", 0, 9, 2))),
    ];
    for (old, new) in mismatched {
        assert!(matches!(bench.refused(replace(old, new)), Refusal::RangeMismatch { .. }));
    }
    bench.done(replace(both(), Replacement::Folded(manifest("m", 0, 9, 2))));
    assert_eq!((bench.partition().inline_ranges(), bench.partition().tiered_bytes()), (0, 20));
    assert_eq!((bench.state.objects().references("a"), bench.state.objects().references("b")), (Some(2), None));
    assert!(matches!(
        bench.refused(replace(old(&[(0, "m")]), Replacement::Rewritten(ranges.clone()))),
        Refusal::RangeMismatch { .. }
    ));
    bench.done(replace(old(&[(0, "m")]), Replacement::Unfolded(ranges.clone())));
    assert_eq!(bench.condemned(), ["m"]);
    assert_eq!(bench.state.objects().references("b"), Some(1));
    let mut whole = ranges[1].clone();
    (whole.object.key, whole.base) = ("w".into(), Offset(0));
    bench.done(replace(both(), Replacement::Rewritten(vec![whole])));
    assert_eq!(bench.condemned(), ["b", "m"], "the other partition still needs a");
    bench.done(replace(old(&[(0, "w")]), Replacement::Folded(manifest("n", 0, 9, 1))));
    bench.done(trim(9));
    assert_eq!(bench.state.objects().drained().map(|(key, _)| &**key).collect::<Vec<_>>(), ["n"]);
    bench.done(Operation::Unravel { manifest: "n".into(), objects: vec!["w".into()] });
    assert_eq!(bench.condemned(), ["b", "m", "n", "w"]);
    assert!(matches!(bench.refused(Operation::Unravel { manifest: "n".into(), objects: vec![] }), Refusal::NotDrained { .. }));
}

#[test]
fn many_ranges_ask_for_a_manifest() {
    let mut bench = Bench::with_partitions();
    for number in 0..=i64::from(FOLD_ABOVE) {
        assert_eq!(bench.state.wants_manifest().count(), 0);
        bench.append(P, batch(1, 1)).unwrap();
        let key = format!("k{number}");
        bench.intend(&key);
        bench.tier(&key, &[(P, number, number + 1)]).unwrap();
    }
    assert_eq!(bench.state.wants_manifest().collect::<Vec<_>>(), [P]);
}

#[test]
fn partitions_open_and_close_by_generation() {
    let mut bench = Bench::with_partitions();
    bench.append(P, batch(2, 1)).unwrap();
    bench.done(open(P, 0, 0));
    assert_eq!(bench.partition().high_watermark(), Offset(2), "opened already");
    bench.done(Operation::ClosePartition { at: P, generation: 0 });
    bench.done(Operation::ClosePartition { at: P, generation: 0 });
    bench.done(open(P, 2, 50));
    assert!(matches!(bench.refused(open(P, 1, 0)), Refusal::StaleGeneration { given: 1, current: 2, .. }));
    bench.done(Operation::ClosePartition { at: P, generation: 1 });
    assert_eq!(bench.partition().log_start(), Offset(50), "an old close does not reach a new home");
}

#[test]
fn group_offsets_are_bounded_expire_by_choice_and_go_with_their_group() {
    let mut bench = Bench::new();
    let commit = |at, offset, metadata: String| Operation::CommitOffsets {
        group: "g".to_owned(),
        offsets: vec![OffsetCommit { at, offset: Offset(offset), leader_epoch: LeaderEpoch(2), metadata }],
    };
    bench.done(commit(P, 5, "note".to_owned()));
    bench.time += 50;
    bench.done(commit(Q, 6, String::new()));
    assert!(matches!(bench.refused(commit(P, 5, "x".repeat(4097))), Refusal::Invalid { field: "metadata", .. }));
    assert!(matches!(bench.refused(Operation::DeleteGroup { group: String::new() }), Refusal::Invalid { field: "group", .. }));
    let expire = |before| Operation::DeleteOffsets { group: "g".to_owned(), partitions: vec![P, Q], committed_before: before };
    bench.done(expire(Some(TimestampMs(1_050))));
    assert_eq!(bench.state.group("g").unwrap().offsets().map(|(at, _)| at).collect::<Vec<_>>(), [Q]);
    bench.done(expire(None));
    assert!(bench.state.group("g").is_none());
    bench.done(commit(P, 1, String::new()));
    bench.done(Operation::DeleteGroup { group: "g".to_owned() });
    assert_eq!(bench.state.groups().count(), 0);
}

fn create(number: u128, name: &str, partitions: u32, group: Option<&str>) -> Operation {
    let config = TopicConfig { partitions, placement_group: group.map(str::to_owned), settings: "{}".to_owned() };
    let (uid, name) = (TopicUid(Uuid::from_u128(number)), name.to_owned());
    Operation::CreateTopic { uid, name, config, journals: vec![], bound: None, management: Management::Catalog }
}

pub(super) fn register(broker: u32, incarnation: u128) -> Operation {
    Operation::RegisterBroker {
        broker: BrokerId(broker),
        incarnation: Uuid::from_u128(incarnation),
        replaces: None,
        addresses: vec![("grpc".to_owned(), format!("127.0.0.1:{broker}"))],
        zone: format!("z{}", broker % 3),
        node: String::new(),
    }
}

fn catalog() -> Bench {
    let mut bench = Bench::new();
    assert_eq!(bench.refused(create(1, "early", 1, None)), Refusal::NoJournals);
    bench.done(register(1, 3));
    bench.done(Operation::AddJournals { count: 2, replicas: vec![BrokerId(1)] });
    bench
}

#[test]
fn topics_have_unique_names_revisions_and_a_feed() {
    let mut bench = catalog();
    let uid = |number| TopicUid(Uuid::from_u128(number));
    assert_eq!(bench.done(create(1, "a.b", 2, None)), Outcome::Topic { uid: uid(1), revision: 1 });
    assert_eq!(bench.done(create(1, "a.b", 2, None)), Outcome::Topic { uid: uid(1), revision: 1 }, "said again");
    assert!(matches!(bench.refused(create(2, "a.b", 1, None)), Refusal::TopicExists { .. }));
    assert!(matches!(bench.refused(create(2, "a_b", 1, None)), Refusal::NameCollides { .. }));
    assert!(matches!(bench.refused(create(1, "other", 1, None)), Refusal::UidUsed { .. }));
    assert!(matches!(bench.refused(create(2, "c", 0, None)), Refusal::Invalid { field: "partitions", .. }));
    bench.done(create(2, "c", 1, None));
    let alter = |partitions, expected_revision| Operation::AlterTopic {
        uid: uid(1),
        expected_revision,
        config: TopicConfig { partitions, placement_group: None, settings: "{1}".to_owned() },
        journals: vec![],
    };
    assert!(matches!(bench.refused(alter(1, None)), Refusal::PartitionsShrink { current: 2, asked: 1, .. }));
    assert!(matches!(bench.refused(alter(3, Some(9))), Refusal::RevisionMismatch { expected: 9, current: 1, .. }));
    bench.done(alter(3, Some(1)));
    let catalog = bench.state.catalog();
    assert_eq!(catalog.topic_by_name("a.b").unwrap().homes.len(), 3);
    assert!(catalog.topic_by_name("a_b").is_none());
    let names = |changes: Changes<'_>| match changes {
        Changes::Since(topics) => topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>(),
        Changes::Restart => vec!["restart".to_owned()],
    };
    assert_eq!(names(catalog.changes_since(0)), ["c", "a.b"]);
    assert_eq!(names(catalog.changes_since(2)), ["a.b"]);
    assert!(names(catalog.changes_since(3)).is_empty());
    assert_eq!(names(catalog.changes_since(4)), ["restart"], "from another catalog");
    let loads: Vec<_> = catalog.journals().map(|(_, info)| info.partitions).collect();
    assert_eq!(loads, [2, 2]);
}

#[test]
fn a_deleted_topic_can_be_undeleted_until_its_time_is_over() {
    let mut bench = catalog();
    let uid = TopicUid(Uuid::from_u128(1));
    let delete = Operation::DeleteTopic { uid, undo_until: TimestampMs(bench.time + 10) };
    bench.done(create(1, "a", 2, None));
    assert!(matches!(bench.refused(Operation::ForgetTopic { uid }), Refusal::NotDeleted { .. }));
    bench.done(delete.clone());
    assert!(bench.state.catalog().topic_by_name("a").is_none());
    assert!(bench.state.catalog().topic(uid).unwrap().is_deleted());
    assert!(matches!(bench.refused(delete.clone()), Refusal::UnknownTopic { .. }));
    assert!(matches!(bench.refused(Operation::ForgetTopic { uid }), Refusal::UndoTime { .. }));
    bench.done(create(2, "a", 1, None));
    assert!(matches!(bench.refused(Operation::UndeleteTopic { uid }), Refusal::TopicExists { .. }), "the name was taken");
    bench.done(Operation::DeleteTopic { uid: TopicUid(Uuid::from_u128(2)), undo_until: TimestampMs(0) });
    bench.done(Operation::UndeleteTopic { uid });
    assert!(bench.state.catalog().topic_by_name("a").is_some());
    bench.done(delete);
    let seen = bench.state.catalog().revision();
    bench.time += 11;
    assert!(matches!(bench.refused(Operation::UndeleteTopic { uid }), Refusal::UndoTime { .. }));
    bench.done(Operation::ForgetTopic { uid });
    bench.done(Operation::ForgetTopic { uid });
    assert!(matches!(bench.state.catalog().changes_since(seen - 1), Changes::Restart), "a tombstone was missed");
    assert!(matches!(bench.state.catalog().changes_since(seen), Changes::Since(topics) if topics.is_empty()));
    assert_eq!(bench.state.catalog().journals().map(|(_, info)| info.partitions).sum::<u32>(), 1);
}

#[test]
fn topics_of_a_placement_group_share_their_journals() {
    let mut bench = catalog();
    bench.done(create(1, "a", 3, Some("g")));
    bench.done(create(2, "b", 5, Some("g")));
    bench.done(create(3, "c", 4, Some("g")));
    let homes = |number| -> Vec<JournalId> {
        let topic = bench.state.catalog().topic(TopicUid(Uuid::from_u128(number))).unwrap();
        topic.current_homes().map(|(_, home)| home.journal).collect()
    };
    assert_eq!(homes(2)[..3], homes(1)[..]);
    assert_eq!(homes(3)[..], homes(2)[..4]);
    let other = if homes(1)[0] == JournalId(1) { JournalId(2) } else { JournalId(1) };
    let mut operation = create(4, "d", 1, Some("g"));
    if let Operation::CreateTopic { journals, .. } = &mut operation {
        *journals = vec![other];
    }
    assert!(matches!(bench.refused(operation), Refusal::PlacementMismatch { partition: PartitionId(0), .. }));
}

#[test]
fn binding_is_compare_and_set() {
    let mut bench = catalog();
    let uid = |number| TopicUid(Uuid::from_u128(number));
    let object = |name: &str| BoundObject { namespace: "n".to_owned(), name: name.to_owned(), uid: name.to_owned() };
    let bind = |number, expected: Option<&str>, to: Option<&str>| {
        let (expected, object) = (expected.map(object), to.map(object));
        Operation::BindTopic { uid: uid(number), expected, object, management: Management::Object }
    };
    bench.done(create(1, "a", 1, None));
    bench.done(create(2, "b", 1, None));
    bench.done(bind(1, None, Some("x")));
    assert!(matches!(bench.refused(bind(1, None, Some("y"))), Refusal::BindMismatch { current: Some(_), .. }));
    assert!(matches!(bench.refused(bind(2, None, Some("x"))), Refusal::ObjectBound { .. }));
    bench.done(bind(1, Some("x"), None));
    assert!(bench.state.catalog().topic(uid(1)).unwrap().is_detached());
    assert!(!bench.state.catalog().topic(uid(2)).unwrap().is_detached());
    bench.done(bind(2, None, Some("x")));
    assert_eq!(bench.state.catalog().topic_by_object("x").unwrap().uid, uid(2));
}

#[test]
fn ids_names_brokers_and_epochs_of_the_registry() {
    let mut bench = catalog();
    let named = |name: &str| Operation::InitNamedProducer { name: name.to_owned(), window: 0, expire_ms: 10 };
    assert_eq!(
        bench.done(Operation::AllocateProducerIds { count: 100 }),
        Outcome::ProducerIds { first: ProducerId(0), count: 100 }
    );
    let identity = |epoch| Outcome::NamedProducer { id: ProducerId(100), epoch: ProducerEpoch(epoch), window: 5 };
    assert_eq!(bench.done(named("n")), identity(0));
    assert_eq!(bench.done(named("n")), identity(1));
    bench.state.catalog.named.get_mut("n").unwrap().epoch = ProducerEpoch(i16::MAX - 1);
    let renewed = Outcome::NamedProducer { id: ProducerId(101), epoch: ProducerEpoch(0), window: 5 };
    assert_eq!(bench.done(named("n")), renewed, "epochs are used up");
    assert_eq!(
        bench.done(Operation::AllocateProducerIds { count: 1 }),
        Outcome::ProducerIds { first: ProducerId(102), count: 1 }
    );
    bench.done(Operation::SetOperatorEpoch { epoch: 4 });
    assert_eq!(bench.refused(Operation::SetOperatorEpoch { epoch: 3 }), Refusal::StaleOperator { given: 3, current: 4 });
    assert!(matches!(bench.refused(Operation::SetFeatureLevel { level: FEATURE_LEVEL + 1 }), Refusal::FeatureLevelUnfit { .. }));
    bench.done(Operation::SetFeatureLevel { level: FEATURE_LEVEL });
}

#[test]
fn entry_time_never_falls() {
    let mut bench = Bench::with_partitions();
    bench.time = 500;
    bench.append(P, batch(1, 1)).unwrap();
    assert_eq!(bench.state.time(), TimestampMs(1_000));
}

#[test]
fn a_checkpoint_from_the_future_or_of_another_kind_is_refused() {
    let mut bytes = Bench::with_partitions().state.encode();
    assert_eq!(bytes[..4], *b"TGST");
    bytes[4] = 3;
    assert_eq!(State::decode(&bytes), Err(StateDecodeError::Version { given: 3, known: CHECKPOINT_VERSION }));
    assert!(matches!(State::decode(b"nonsense"), Err(StateDecodeError::Malformed(_))));
    assert!(matches!(State::decode(b""), Err(StateDecodeError::Malformed(_))));
}

/// Compares with a golden file. `TIDEGATE_WRITE_GOLDEN=1` writes one that is missing; one that exists is never written again.
pub(crate) fn golden(path: &std::path::Path, bytes: &[u8]) {
    if !path.exists() && std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    assert!(std::fs::read(path).unwrap() == bytes, "{} differs: a persisted format changed under its version", path.display());
}

/// A state with something in each of its parts.
pub(crate) fn golden_state() -> State {
    let mut bench = catalog();
    bench.done(create(1, "orders", 2, Some("g")));
    bench.done(create(2, "clicks", 1, None));
    bench.done(Operation::DeleteTopic { uid: TopicUid(Uuid::from_u128(2)), undo_until: TimestampMs(9_000) });
    let object = BoundObject { namespace: "n".to_owned(), name: "o".to_owned(), uid: "u".to_owned() };
    let uid = TopicUid(Uuid::from_u128(1));
    bench.done(Operation::BindTopic { uid, expected: None, object: Some(object), management: Management::Object });
    bench.done(Operation::InitNamedProducer { name: "p".to_owned(), window: 8, expire_ms: 1_000 });
    bench.done(register(4, 7));
    bench.done(Operation::AddReplica { journal: JournalId(2), broker: BrokerId(4), incarnation: Uuid::from_u128(7) });
    bench.done(Operation::SetBrokerState { broker: BrokerId(4), incarnation: Uuid::from_u128(7), state: BrokerState::Draining });
    bench.done(Operation::SetReplicationFactor { factor: 3 });
    bench.done(open(P, 0, 0));
    bench.done(open(Q, 1, 5));
    bench.append(P, idempotent(3, 9, 4, 1, 0)).unwrap();
    bench.at.term = 2;
    bench.append(P, idempotent(2, 9, 4, 1, 3)).unwrap();
    bench.append(Q, batch(4, 5_000)).unwrap();
    ["a", "b", "c", "m", "n"].iter().for_each(|key| bench.intend(key));
    bench.tier("a", &[(P, 0, 3), (Q, 5, 9)]).unwrap();
    bench.tier("b", &[(P, 3, 5)]).unwrap();
    let fold = |key: &str, at: TopicPartition, base: i64, end: i64| Operation::Replace {
        at,
        old: vec![RangeKey { base: Offset(base), key: "a".into() }],
        new: Replacement::Folded(manifest(key, base, end, 1)),
    };
    bench.done(fold("m", P, 0, 3));
    bench.done(fold("n", Q, 5, 9));
    bench.done(trim(4));
    bench.done(Operation::Abandon { key: "c".into() });
    bench.intend("later");
    bench.append(P, batch(1, 1)).unwrap();
    let commit = OffsetCommit { at: P, offset: Offset(2), leader_epoch: LeaderEpoch(4), metadata: "note".to_owned() };
    bench.done(Operation::CommitOffsets { group: "readers".to_owned(), offsets: vec![commit] });
    bench.done(Operation::SetOperatorEpoch { epoch: 6 });
    bench.state
}

fn golden_path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn a_checkpoint_of_version_2_stays_readable_and_is_still_written_so() {
    let path = golden_path("checkpoint-v2.bin");
    let state = golden_state();
    golden(&path, &state.encode());
    assert_eq!(State::decode(&std::fs::read(&path).unwrap()).unwrap(), state);
}

#[test]
fn a_checkpoint_of_version_1_is_read_as_a_hub_of_one_broker() {
    let state = State::decode(&std::fs::read(golden_path("checkpoint-v1.bin")).unwrap()).unwrap();
    let fleet = state.catalog().fleet();
    let replica = Replica { id: 1, broker: BrokerId(1), incarnation: Uuid::from_u128(3) };
    let journals: Vec<_> = fleet.journals().map(|(id, info)| (id.0, info.replicas.clone(), info.founder)).collect();
    assert_eq!(journals, [(0, vec![replica], 1), (1, vec![replica], 1), (2, vec![replica], 1)]);
    assert_eq!((fleet.replication_factor(), fleet.broker(BrokerId(1)).unwrap().state), (1, BrokerState::Active));
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
    // The next replica of that broker gets an id of its own.
    assert_eq!(fleet.journal(JournalId(1)).unwrap().given[&BrokerId(1)], 1);
}
