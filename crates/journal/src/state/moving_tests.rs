//! A partition moves between journals, step by step, each step done once or more often: every record is stored once, in order, and producers are known.
#![allow(clippy::disallowed_methods, reason = "golden files are real files")]

use bytes::Bytes;
use tidegate_model::{
    BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition,
    TopicUid,
};
use uuid::Uuid;

use super::catalog::MOST_HOMES;
use super::tests::{batch, idempotent};
use super::*;
use crate::entry::*;

const P: TopicPartition = TopicPartition { topic: TopicUid(Uuid::from_u128(1)), partition: PartitionId(0) };

/// Journal 0 is the catalog.
struct Hub {
    journals: Vec<State>,
    indexes: Vec<u64>,
    time: i64,
}

impl Hub {
    fn new(journals: usize) -> Hub {
        let mut hub = Hub { journals: vec![State::new(); journals + 1], indexes: vec![0; journals + 1], time: 1_000 };
        let register = Operation::RegisterBroker {
            broker: BrokerId(1),
            incarnation: Uuid::from_u128(9),
            replaces: None,
            addresses: Vec::new(),
            zone: String::new(),
            node: String::new(),
        };
        hub.run(0, register).unwrap();
        hub.run(0, Operation::AddJournals { count: journals as u32, replicas: vec![BrokerId(1)] }).unwrap();
        let config = TopicConfig { partitions: 1, ..TopicConfig::default() };
        let (name, journals) = ("t".to_owned(), vec![JournalId(1)]);
        let (bound, management) = (None, Management::Catalog);
        hub.run(0, Operation::CreateTopic { uid: P.topic, name, config, journals, bound, management }).unwrap();
        let limits = ProducerLimits { producers: 10, expire_ms: 1_000_000 };
        let first =
            Operation::OpenPartition { at: P, generation: 0, first_offset: Offset(0), first_epoch: LeaderEpoch(0), limits };
        hub.run(1, first).unwrap();
        hub
    }

    fn run(&mut self, journal: usize, operation: Operation) -> Result<Outcome, Refusal> {
        self.time += 1;
        self.indexes[journal] += 1;
        let entry = Entry { time: TimestampMs(self.time), units: vec![Unit::of(operation)] };
        let at = Position { term: 1, index: self.indexes[journal] };
        let (payload, _) = EntryPayload::encode(entry).unwrap();
        let outcome = self.journals[journal].apply(at, &payload).outcomes.remove(0);
        self.journals[journal].check().unwrap();
        // Whatever is stored can be read back.
        let again = State::decode(&self.journals[journal].encode()).unwrap();
        assert!(again == self.journals[journal]);
        match outcome {
            UnitOutcome::Applied(outcomes) => Ok(outcomes[0].clone()),
            UnitOutcome::Refused { refusal, .. } => Err(*refusal),
        }
    }

    fn homes(&self) -> Vec<Home> {
        self.journals[0].catalog().topic(P.topic).unwrap().homes[0].clone()
    }

    fn home(&self) -> Home {
        *self.journals[0].catalog().topic(P.topic).unwrap().home(P.partition).unwrap()
    }

    fn append(&mut self, journal: usize, batch: Bytes) -> Result<(i64, bool), Refusal> {
        match self.run(journal, Operation::Append { at: P, batch, window: 5 })? {
            Outcome::Appended(appended) => Ok((appended.base.0, appended.duplicate)),
            other => panic!("{other:?}"),
        }
    }

    fn seal(&mut self, journal: usize, generation: u32) -> Box<Sealed> {
        match self.run(journal, Operation::SealPartition { at: P, generation }).unwrap() {
            Outcome::Sealed(sealed) => sealed,
            other => panic!("{other:?}"),
        }
    }

    /// One step of a move that is under way, as whoever finds it would do it.
    fn step(&mut self) {
        let homes = self.homes();
        let Some((pending, from)) = homes.last().filter(|home| home.is_pending()).zip(homes.iter().rev().nth(1)) else { return };
        let sealed = self.seal(from.journal.0 as usize, from.generation);
        let end = sealed.end;
        let generation = pending.generation;
        self.run(pending.journal.0 as usize, Operation::AdoptPartition { at: P, generation, sealed }).unwrap();
        self.run(0, Operation::FinishMove { at: P, generation, first_offset: end }).unwrap();
    }
}

#[test]
fn a_sealed_partition_takes_nothing_and_the_next_home_knows_its_producers() {
    let mut hub = Hub::new(2);
    assert_eq!(hub.append(1, idempotent(3, 10, 7, 0, 0)), Ok((0, false)));
    assert_eq!(hub.append(1, idempotent(2, 10, 7, 0, 3)), Ok((3, false)));
    assert_eq!(hub.append(1, batch(1, 10)), Ok((5, false)));
    hub.run(0, Operation::BeginMove { at: P, to: JournalId(2) }).unwrap();
    hub.run(0, Operation::BeginMove { at: P, to: JournalId(2) }).unwrap();
    assert_eq!(hub.home().journal, JournalId(1), "until the move is finished");
    assert_eq!(hub.homes().len(), 2);
    let sealed = hub.seal(1, 0);
    assert_eq!((sealed.end, sealed.producers.len()), (Offset(6), 1));
    assert_eq!(Sealed::decode(&sealed.encode()).unwrap(), *sealed);
    assert_eq!(hub.append(1, batch(1, 10)), Err(Refusal::PartitionSealed { at: P }));
    assert_eq!(hub.append(1, idempotent(2, 10, 7, 0, 3)), Err(Refusal::PartitionSealed { at: P }));
    assert_eq!(hub.seal(1, 0), sealed, "sealing again answers the same");
    let adopt = Operation::AdoptPartition { at: P, generation: 1, sealed: sealed.clone() };
    hub.run(2, adopt.clone()).unwrap();
    assert_eq!(hub.append(2, idempotent(2, 10, 7, 0, 3)), Ok((3, true)), "a batch sent again is known by its offset");
    assert_eq!(hub.append(2, idempotent(1, 10, 7, 0, 5)), Ok((6, false)));
    hub.run(2, adopt).unwrap();
    assert_eq!(hub.append(2, idempotent(1, 10, 7, 0, 5)), Ok((6, true)), "adopting again forgets nothing");
    let stale = Operation::AdoptPartition { at: P, generation: 0, sealed: sealed.clone() };
    assert!(matches!(hub.run(2, stale), Err(Refusal::StaleGeneration { .. })));
    let finish = Operation::FinishMove { at: P, generation: 1, first_offset: sealed.end };
    hub.run(0, finish.clone()).unwrap();
    hub.run(0, finish).unwrap();
    assert_eq!(hub.home(), Home { journal: JournalId(2), generation: 1, first_offset: Offset(6) });
    let (old, new) = (hub.journals[1].partition(P).unwrap(), hub.journals[2].partition(P).unwrap());
    assert!(old.is_sealed() && old.epoch() < new.epoch() && old.high_watermark() == new.log_start());
}

#[test]
fn a_sealed_partitions_epoch_stays_when_its_journals_leader_changes() {
    let mut hub = Hub::new(2);
    hub.append(1, batch(1, 10)).unwrap();
    let sealed = hub.seal(1, 0);
    hub.journals[1].advance(Position { term: 9, index: 1000 });
    assert_eq!(hub.journals[1].partition(P).unwrap().epoch(), sealed.epoch);
}

#[test]
fn moves_that_cannot_be_are_refused_and_old_homes_go_oldest_first() {
    let mut hub = Hub::new(3);
    let begin = |to| Operation::BeginMove { at: P, to: JournalId(to) };
    assert!(matches!(hub.run(0, begin(9)), Err(Refusal::UnknownJournal { .. })));
    assert!(matches!(hub.run(0, begin(1)), Err(Refusal::Invalid { field: "to", .. })));
    hub.run(0, begin(2)).unwrap();
    assert!(matches!(hub.run(0, begin(3)), Err(Refusal::Invalid { field: "partition", .. })), "one move at a time");
    let drop_home = |generation| Operation::DropHome { at: P, generation };
    assert!(hub.run(0, drop_home(0)).is_err(), "the partition still lives there");
    hub.step();
    hub.run(0, begin(3)).unwrap();
    hub.step();
    assert!(hub.run(0, begin(1)).is_err(), "older records are there");
    assert!(hub.run(0, drop_home(1)).is_err(), "not the oldest");
    let partitions = |hub: &Hub| -> Vec<u32> { hub.journals[0].catalog().journals().map(|(_, info)| info.partitions).collect() };
    assert_eq!(partitions(&hub), [0, 0, 1]);
    for generation in [0, 0, 1] {
        hub.run(0, drop_home(generation)).unwrap();
    }
    assert_eq!(hub.homes().len(), 1);
    hub.run(1, Operation::ClosePartition { at: P, generation: 0 }).unwrap();
    hub.run(0, begin(1)).unwrap();
    hub.step();
    assert_eq!(hub.home().journal, JournalId(1), "it may come back once nothing is there");
    const { assert!(MOST_HOMES >= 3) };
}

#[test]
fn groups_stay_in_their_journals_when_journals_are_added() {
    let mut hub = Hub::new(3);
    let keeping = |hub: &Hub| -> Vec<JournalId> { hub.journals[0].catalog().fleet().group_journals().collect() };
    assert_eq!(keeping(&hub).len(), 3);
    let before = keeping(&hub);
    for _ in 0..2 {
        hub.run(0, Operation::AddJournals { count: 4, replicas: vec![BrokerId(1)] }).unwrap();
        assert_eq!(keeping(&hub), before);
    }
}

/// A producer in a loop of sends, lost answers and moves, against the model of one list.
#[test]
fn random_moves_store_every_record_once_and_in_order() {
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % sides
        };
        let mut hub = Hub::new(6);
        // Sequence and offset of each batch that was acknowledged.
        let mut stored: Vec<(i32, i64)> = Vec::new();
        let (mut sequence, mut end) = (0, 0_i64);
        for _ in 0..120 {
            match roll(8) {
                0 => {
                    let to = JournalId(1 + roll(6) as u32);
                    let _refused_if_it_was_there = hub.run(0, Operation::BeginMove { at: P, to });
                }
                // Whoever drives the move may stop after any part of it, and it is begun again from the start.
                1 => hub.step(),
                2 => {
                    let homes = hub.homes();
                    if homes.last().is_some_and(Home::is_pending) {
                        let from = homes[homes.len() - 2];
                        hub.seal(from.journal.0 as usize, from.generation);
                    }
                }
                3 => {
                    let homes = hub.homes();
                    if let Some(pending) = homes.last().filter(|home| home.is_pending()) {
                        let (from, generation) = (homes[homes.len() - 2], pending.generation);
                        let sealed = hub.seal(from.journal.0 as usize, from.generation);
                        hub.run(pending.journal.0 as usize, Operation::AdoptPartition { at: P, generation, sealed }).unwrap();
                    }
                }
                4 if !stored.is_empty() => {
                    // A stale broker sends to an old home what was stored long ago.
                    let old = hub.homes()[0].journal.0 as usize;
                    let (first, base) = stored[stored.len() - 1];
                    match hub.append(old, idempotent(1, 10, 7, 0, first)) {
                        Ok((given, duplicate)) => assert!(duplicate && given == base, "seed {seed}"),
                        Err(refusal) => assert!(matches!(refusal, Refusal::PartitionSealed { .. }), "seed {seed}: {refusal}"),
                    }
                }
                _ => {
                    let journal = hub.home().journal.0 as usize;
                    match hub.append(journal, idempotent(1, 10, 7, 0, sequence)) {
                        Ok((base, false)) => {
                            assert_eq!(base, end, "seed {seed}");
                            stored.push((sequence, base));
                            (sequence, end) = (sequence + 1, end + 1);
                        }
                        Ok((_, true)) => panic!("seed {seed}: sequence {sequence} was never sent"),
                        Err(refusal) => assert!(matches!(refusal, Refusal::PartitionSealed { .. }), "seed {seed}: {refusal}"),
                    }
                }
            }
        }
        // Homes follow each other without gaps, and each journal holds its part.
        let homes: Vec<Home> = hub.homes().into_iter().filter(|home| !home.is_pending()).collect();
        for (place, home) in homes.iter().enumerate() {
            let partition = hub.journals[home.journal.0 as usize].partition(P).unwrap();
            assert_eq!(partition.generation(), home.generation, "seed {seed}");
            let next = homes.get(place + 1).map_or(Offset(end), |next| next.first_offset);
            assert_eq!((partition.log_start(), partition.high_watermark()), (home.first_offset, next), "seed {seed}");
        }
        let last = hub.journals[hub.home().journal.0 as usize].partition(P).unwrap();
        assert!(stored.is_empty() || last.producer(ProducerId(7)).is_some(), "seed {seed}");
    }
}

fn golden_path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn moves_stay_readable_and_are_still_written_so() {
    let producer = CarriedProducer {
        id: ProducerId(7),
        epoch: ProducerEpoch(2),
        window: 16,
        batches: vec![CarriedBatch { first: Sequence(3), last: Sequence(4), base: Offset(40) }],
    };
    let limits = ProducerLimits { producers: 9, expire_ms: 60_000 };
    let sealed = Sealed { end: Offset(42), epoch: LeaderEpoch(5), limits, forgotten: ProducerId(-1), producers: vec![producer] };
    let operations = vec![
        Operation::SealPartition { at: P, generation: 3 },
        Operation::AdoptPartition { at: P, generation: 4, sealed: Box::new(sealed) },
        Operation::BeginMove { at: P, to: JournalId(2) },
        Operation::FinishMove { at: P, generation: 4, first_offset: Offset(42) },
        Operation::DropHome { at: P, generation: 3 },
    ];
    let units = vec![Unit { preconditions: Vec::new(), operations: operations.clone() }];
    let (payload, _) = EntryPayload::encode(Entry { time: TimestampMs(1_700_000_000_123), units }).unwrap();
    let path = golden_path("entry-v1-moves.bin");
    super::tests::golden(&path, &payload.to_bytes());
    let read = EntryPayload::decode(Bytes::from(std::fs::read(&path).unwrap())).unwrap();
    assert_eq!(read.to_units()[0].operations, operations);

    // A sealed home, the home that goes on, and a catalog with a home that is on its way.
    let mut hub = Hub::new(2);
    hub.append(1, idempotent(3, 10, 7, 0, 0)).unwrap();
    hub.run(0, Operation::BeginMove { at: P, to: JournalId(2) }).unwrap();
    hub.run(0, Operation::AddJournals { count: 1, replicas: vec![BrokerId(1)] }).unwrap();
    let sealed = hub.seal(1, 0);
    hub.run(2, Operation::AdoptPartition { at: P, generation: 1, sealed }).unwrap();
    for (journal, state) in hub.journals.iter().enumerate() {
        let path = golden_path(&format!("checkpoint-v2-moves-{journal}.bin"));
        super::tests::golden(&path, &state.encode());
        assert_eq!(State::decode(&std::fs::read(&path).unwrap()).unwrap(), *state);
    }
}
