//! Random histories: invariants hold after each entry, a replica that reads the stored bytes and one that starts from a
//! checkpoint end up the same, offsets are dense, and no object that anything refers to is ever condemned or forgotten.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use super::tests::{batch, idempotent};
use super::*;
use crate::entry::*;

/// A small generator, so that one printed seed tells the whole history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }
}

struct World {
    dice: Dice,
    state: State,
    at: Position,
    time: i64,
    keys: u64,
    generation: BTreeMap<TopicPartition, u32>,
    sequences: BTreeMap<(TopicPartition, i64), i32>,
    /// What the manifest objects in the store list.
    manifests: BTreeMap<ObjectKey, Vec<StoredRange>>,
    /// Keys that the present entry folds into: a second attempt would blur what the manifest lists.
    folding: BTreeSet<ObjectKey>,
    applied: u32,
    refused: u32,
}

fn partition_of(number: u64) -> TopicPartition {
    TopicPartition { topic: TopicUid(Uuid::from_u128(7 + u128::from(number / 3))), partition: PartitionId(number as i32 % 3) }
}

impl World {
    fn new(seed: u64) -> World {
        World {
            dice: Dice(seed),
            state: State::new(),
            at: Position { term: 1, index: 0 },
            time: 1_000,
            keys: 0,
            generation: BTreeMap::new(),
            sequences: BTreeMap::new(),
            manifests: BTreeMap::new(),
            folding: BTreeSet::new(),
            applied: 0,
            refused: 0,
        }
    }

    fn any_partition(&mut self) -> TopicPartition {
        partition_of(self.dice.roll(6))
    }

    fn fresh_key(&mut self) -> ObjectKey {
        self.keys += 1;
        format!("object-{}", self.keys).into()
    }

    fn intended_key(&mut self) -> ObjectKey {
        let intended: Vec<ObjectKey> = self.state.objects().intended().map(|(key, _)| key.clone()).collect();
        if intended.is_empty() {
            "never-intended".into()
        } else {
            intended[self.dice.roll(intended.len() as u64) as usize].clone()
        }
    }

    fn append(&mut self) -> Operation {
        let at = self.any_partition();
        let records = 1 + self.dice.roll(5) as i32;
        if self.dice.roll(3) == 0 {
            return Operation::Append { at, batch: batch(records, 40), window: 0 };
        }
        let producer = self.dice.roll(5) as i64;
        let next = self.sequences.entry((at, producer)).or_insert(0);
        // Mostly what follows, sometimes a repetition or a gap.
        let first = match self.dice.roll(8) {
            0 => (*next - 3).max(0),
            1 => *next + 1,
            _ => *next,
        };
        if first == *next {
            *next += records;
        }
        let epoch = i16::from(self.dice.roll(40) == 0);
        Operation::Append { at, batch: idempotent(records, 20, producer, epoch, first), window: self.dice.roll(4) as u8 }
    }

    fn tier(&mut self) -> Operation {
        let mut position = 0;
        let mut ranges = Vec::new();
        for number in 0..6 {
            let at = partition_of(number);
            let Some(partition) = self.state.partition(at).filter(|_| self.dice.roll(2) == 0) else { continue };
            let Some(first) = partition.tail().untiered().next() else { continue };
            let base = first.base.max(partition.tiered_end());
            let items: Vec<_> = partition.tail().untiered().collect();
            let end = items[self.dice.roll(items.len() as u64) as usize].end;
            let (min_timestamp, max_timestamp) = (TimestampMs(1), TimestampMs(2));
            ranges.push(TierRange { at, base, end, position, bytes: 10, min_timestamp, max_timestamp });
            position += 10;
        }
        let key = self.intended_key();
        Operation::Tier { object: ObjectInfo { key, bytes: position, crc32c: 1 }, ranges }
    }

    fn replace(&mut self) -> Operation {
        let at = self.any_partition();
        let pieces: Vec<TierPiece> = self.state.partition(at).into_iter().flat_map(|p| p.tier().cloned()).collect();
        let key = self.intended_key();
        if pieces.is_empty() {
            return Operation::Replace { at, old: vec![], new: Replacement::Rewritten(vec![]) };
        }
        let from = self.dice.roll(pieces.len() as u64) as usize;
        let to = from + 1 + self.dice.roll((pieces.len() - from) as u64) as usize;
        let chosen = &pieces[from..to];
        let old = chosen.iter().map(|piece| RangeKey { base: piece.base(), key: piece.key().clone() }).collect();
        if let [TierPiece::Manifest(manifest)] = chosen {
            let ranges = self.manifests[&manifest.object.key].clone();
            return Operation::Replace { at, old, new: Replacement::Unfolded(ranges) };
        }
        let (base, end) = (chosen[0].base(), chosen[chosen.len() - 1].end());
        let (min_timestamp, max_timestamp) = (TimestampMs(1), TimestampMs(2));
        if self.dice.roll(2) == 0 {
            let object = ObjectInfo { key, bytes: 100, crc32c: 2 };
            let range = StoredRange { object, base, end, position: 3, bytes: 50, min_timestamp, max_timestamp };
            return Operation::Replace { at, old, new: Replacement::Rewritten(vec![range]) };
        }
        let mut listed = Vec::new();
        for piece in chosen {
            match piece {
                TierPiece::Range(range) => listed.push(range.clone()),
                TierPiece::Manifest(manifest) => listed.extend(self.manifests[&manifest.object.key].iter().cloned()),
            }
        }
        let manifest = ManifestRef {
            object: ObjectInfo { key: key.clone(), bytes: 9, crc32c: 3 },
            base,
            end,
            ranges: listed.len() as u32,
            data_bytes: listed.iter().map(|range| range.bytes).sum(),
            min_timestamp,
            max_timestamp,
        };
        // A refused attempt must not overwrite what a manifest in use lists.
        let is_intended = self.state.objects().intended().any(|(intended, _)| *intended == key);
        if !is_intended || !self.folding.insert(key.clone()) {
            return Operation::Abandon { key: "never-intended".into() };
        }
        self.manifests.insert(key, listed);
        Operation::Replace { at, old, new: Replacement::Folded(manifest) }
    }

    fn catalog(&mut self) -> Operation {
        let uid = TopicUid(Uuid::from_u128(u128::from(self.dice.roll(12))));
        let name = format!("t{}{}x", self.dice.roll(4), if self.dice.roll(3) == 0 { "." } else { "_" });
        let group = (self.dice.roll(3) == 0).then(|| format!("g{}", self.dice.roll(2)));
        let partitions = 1 + self.dice.roll(5) as u32;
        let config = TopicConfig { partitions, placement_group: group, settings: "{}".to_owned() };
        let number = self.dice.roll(3);
        let object = |number: u64| BoundObject { namespace: "n".to_owned(), name: "o".to_owned(), uid: number.to_string() };
        let bound = (self.dice.roll(2) == 0).then(|| object(number));
        let known = self.state.catalog().topic(uid);
        match self.dice.roll(11) {
            0 => Operation::AddJournals { count: 1 + self.dice.roll(2) as u32, replicas: vec![BrokerId(1 + number as u32)] },
            9 | 10 => self.fleet(),
            1 | 2 => Operation::CreateTopic { uid, name, config, journals: vec![], bound, management: Management::Catalog },
            3 => {
                let placement_group = known.and_then(|topic| topic.config.placement_group.clone());
                let config = TopicConfig { placement_group, ..config };
                Operation::AlterTopic { uid, expected_revision: None, config, journals: vec![] }
            }
            4 => Operation::DeleteTopic { uid, undo_until: TimestampMs(self.time + 30) },
            5 => Operation::UndeleteTopic { uid },
            6 => Operation::ForgetTopic { uid },
            7 => {
                let expected = known.and_then(|topic| topic.bound.clone());
                Operation::BindTopic { uid, expected, object: bound, management: Management::Object }
            }
            _ => Operation::InitNamedProducer { name, window: 5, expire_ms: 100 },
        }
    }

    fn fleet(&mut self) -> Operation {
        let broker = 1 + self.dice.roll(4) as u32;
        let known = self.state.catalog().fleet().broker(BrokerId(broker)).map(|broker| broker.incarnation);
        let incarnation = known.unwrap_or(Uuid::from_u128(9));
        let journal = JournalId(self.dice.roll(3) as u32);
        match self.dice.roll(7) {
            0 | 1 => {
                let mut register = super::tests::register(broker, u128::from(self.dice.roll(50)));
                if let (Operation::RegisterBroker { replaces, .. }, 0) = (&mut register, self.dice.roll(2)) {
                    *replaces = known;
                }
                register
            }
            2 => {
                let state = [BrokerState::Active, BrokerState::Draining, BrokerState::Retired][self.dice.roll(3) as usize];
                Operation::SetBrokerState { broker: BrokerId(broker), incarnation, state }
            }
            3 | 4 => Operation::AddReplica { journal, broker: BrokerId(broker), incarnation },
            5 => {
                let info = self.state.catalog().fleet().journal(journal);
                let replica = info.and_then(|info| info.replicas.first()).map_or(0, |replica| replica.id);
                Operation::RemoveReplica { journal, replica }
            }
            _ => Operation::SetReplicationFactor { factor: self.dice.roll(6) as u32 },
        }
    }

    fn operation(&mut self) -> Operation {
        let at = self.any_partition();
        match self.dice.roll(36) {
            0..=11 => self.append(),
            12 | 13 => Operation::Intend { key: self.fresh_key() },
            14..=16 => self.tier(),
            17 | 18 => {
                let high_watermark = self.state.partition(at).map_or(0, |partition| partition.high_watermark().0);
                let log_start = Offset(self.dice.roll(high_watermark as u64 + 2) as i64 / (1 + self.dice.roll(3) as i64));
                Operation::Trim { at, log_start }
            }
            19..=22 => self.replace(),
            23 => Operation::Abandon { key: self.intended_key() },
            24 => Operation::Release { upto: self.state.releasable() + u64::from(self.dice.roll(9) == 0) },
            25 => {
                let drained = self.state.objects().drained().next().map(|(key, _)| key.clone());
                let manifest: ObjectKey = drained.unwrap_or_else(|| "not-drained".into());
                let listed = self.manifests.get(&manifest).into_iter().flatten();
                Operation::Unravel { manifest: manifest.clone(), objects: listed.map(|range| range.object.key.clone()).collect() }
            }
            26 => Operation::Forget { keys: self.state.objects().condemned().map(|(key, _)| key.clone()).take(2).collect() },
            27 => {
                let generation = *self.generation.get(&at).unwrap_or(&0);
                self.generation.insert(at, generation + 1);
                self.sequences.retain(|(partition, _), _| *partition != at);
                Operation::ClosePartition { at, generation }
            }
            28 => {
                let offset = Offset(self.dice.roll(50) as i64);
                let commit = OffsetCommit { at, offset, leader_epoch: LeaderEpoch(1), metadata: "m".to_owned() };
                Operation::CommitOffsets { group: format!("group-{}", self.dice.roll(3)), offsets: vec![commit] }
            }
            30 => Operation::SealPartition { at, generation: *self.generation.get(&at).unwrap_or(&0) },
            29 => Operation::DeleteOffsets {
                group: format!("group-{}", self.dice.roll(3)),
                partitions: vec![at],
                committed_before: Some(TimestampMs(self.time - 20)),
            },
            _ if self.dice.roll(2) == 0 => self.catalog(),
            _ => Operation::OpenPartition {
                at,
                generation: *self.generation.get(&at).unwrap_or(&0),
                first_offset: Offset(self.dice.roll(2) as i64 * 100),
                first_epoch: LeaderEpoch(3),
                limits: ProducerLimits { producers: 3, expire_ms: 60 },
            },
        }
    }

    fn entry(&mut self) -> Entry {
        self.time += self.dice.roll(9) as i64 - 1;
        let mut units = Vec::new();
        self.folding.clear();
        for _ in 0..1 + self.dice.roll(4) {
            let count = if self.dice.roll(6) == 0 { 2 } else { 1 };
            units.push(Unit { preconditions: vec![], operations: (0..count).map(|_| self.operation()).collect() });
        }
        Entry { time: TimestampMs(self.time), units }
    }

    fn next(&mut self) -> Position {
        self.at.index += 1 + u64::from(self.dice.roll(10) == 0);
        self.at.term += u64::from(self.dice.roll(15) == 0);
        self.at
    }

    /// Every key that a range refers to, in the state or in a manifest that is in use or drained.
    fn referred(&self) -> BTreeSet<ObjectKey> {
        let mut keys = BTreeSet::new();
        let mut manifests: Vec<ObjectKey> = self.state.objects().drained().map(|(key, _)| key.clone()).collect();
        for (_, partition) in self.state.partitions() {
            for piece in partition.tier() {
                keys.insert(piece.key().clone());
                if let TierPiece::Manifest(manifest) = piece {
                    manifests.push(manifest.object.key.clone());
                }
            }
        }
        keys.extend(manifests.iter().flat_map(|key| &self.manifests[key]).map(|range| range.object.key.clone()));
        keys
    }

    fn check_objects(&self) {
        let referred = self.referred();
        for (key, _) in self.state.objects().condemned() {
            assert!(!referred.contains(key), "{key} is condemned and referred to");
        }
    }
}

fn check_dense(before: &BTreeMap<TopicPartition, i64>, entry: &EntryPayload, applied: &Applied, state: &State) {
    let mut next = before.clone();
    let mut outcomes = applied.outcomes.iter();
    let mut advance = |at: TopicPartition, bytes: &[u8], outcome: &Outcome| {
        if let Outcome::Appended(appended) = outcome
            && !appended.duplicate
        {
            let expected = next.get(&at).copied();
            assert_eq!(expected.unwrap_or(appended.base.0), appended.base.0, "I5: {at}");
            next.insert(at, appended.base.0 + 1 + i64::from(i32::from_be_bytes(bytes[23..27].try_into().unwrap())));
        }
    };
    let whole = entry.to_bytes();
    let mut closed = BTreeSet::new();
    for piece in entry.pieces() {
        match piece {
            Piece::Run(run) => {
                let mut position = run.position as usize;
                for length in &run.lengths {
                    if let Some(UnitOutcome::Applied(done)) = outcomes.next() {
                        advance(run.at, &whole[position..], &done[0]);
                    }
                    position += *length as usize;
                }
            }
            Piece::Unit { unit, .. } => {
                if let Some(UnitOutcome::Applied(done)) = outcomes.next() {
                    for (operation, outcome) in unit.operations.iter().zip(done.iter()) {
                        match operation {
                            Operation::Append { at, batch, .. } => advance(*at, batch, outcome),
                            Operation::OpenPartition { at, .. } | Operation::ClosePartition { at, .. } => {
                                closed.insert(*at);
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }
    assert!(outcomes.next().is_none(), "as many outcomes as units");
    for (at, partition) in state.partitions().filter(|(at, _)| !closed.contains(at)) {
        assert_eq!(next.get(&at), Some(&partition.high_watermark().0), "I5: {at}");
    }
}

fn live_history(seed: u64) -> (u32, u32) {
    let mut world = World::new(seed);
    let mut replica = State::new();
    for step in 0..150 {
        let entry = world.entry();
        let (payload, _) = EntryPayload::encode(entry).unwrap();
        let stored = EntryPayload::decode(payload.to_bytes()).unwrap();
        assert_eq!(stored.pieces(), payload.pieces(), "what is decoded is what was encoded");
        let at = world.next();
        let before = world.state.partitions().map(|(at, partition)| (at, partition.high_watermark().0)).collect();
        let touches = |unit: &Unit| {
            unit.operations.iter().any(|op| matches!(op, Operation::OpenPartition { .. } | Operation::ClosePartition { .. }))
        };
        let reopens = payload.pieces().iter().any(|piece| matches!(piece, Piece::Unit { unit, .. } if touches(unit)));
        let applied = world.state.apply(at, &payload);
        assert_eq!(replica.apply(at, &stored), applied, "I3: replicas answer the same");
        if !reopens {
            check_dense(&before, &payload, &applied, &world.state);
        }
        if let Err(problem) = world.state.check() {
            panic!("seed {seed}, step {step}: {problem}\n{:#?}", payload.pieces());
        }
        world.check_objects();
        for outcome in &applied.outcomes {
            match outcome {
                UnitOutcome::Applied(_) => world.applied += 1,
                UnitOutcome::Refused { .. } => world.refused += 1,
            }
        }
        if step % 20 == 19 {
            replica = State::decode(&world.state.encode()).unwrap();
        }
        assert_eq!(replica, world.state, "I3: replicas and checkpoints agree");
    }
    assert_eq!(replica.hash(), world.state.hash(), "I3");
    drain(&mut world);
    (world.applied, world.refused)
}

/// Closes everything and unravels what is left: no object may stay live.
fn drain(world: &mut World) {
    let open: Vec<_> = world.state.partitions().map(|(at, partition)| (at, partition.generation())).collect();
    let close = |(at, generation)| Unit::of(Operation::ClosePartition { at, generation });
    let mut units: Vec<Unit> = open.into_iter().map(close).collect();
    // Nothing may be open any more and manifests be drained all the same.
    while !units.is_empty() || world.state.objects().drained().len() > 0 {
        let (payload, _) = EntryPayload::encode(Entry { time: TimestampMs(world.time), units }).unwrap();
        let at = world.next();
        world.state.apply(at, &payload);
        world.state.check().unwrap();
        let unravel = |(manifest, _): (&ObjectKey, _)| {
            let objects = world.manifests[manifest].iter().map(|range| range.object.key.clone()).collect();
            Unit::of(Operation::Unravel { manifest: manifest.clone(), objects })
        };
        units = world.state.objects().drained().map(unravel).collect();
    }
    assert!(world.state.objects.live.is_empty(), "live objects are left: {:?}", world.state.objects.live);
    assert_eq!(world.state.releasable(), world.state.applied().index);
    assert_eq!(world.state.first_retained(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_the_invariants(seed in any::<u64>()) {
        let (applied, refused) = live_history(seed);
        // A history where nothing works would prove nothing.
        prop_assert!(applied > 50 && refused > 20, "{applied} applied, {refused} refused");
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<u16>()) {
        let _ = EntryPayload::decode(Bytes::from(bytes.clone()));
        let _ = State::decode(&bytes);
        let mut world = World::new(u64::from(flip));
        let (payload, _) = EntryPayload::encode(world.entry()).unwrap();
        let mut damaged = payload.to_bytes().to_vec();
        let at = usize::from(flip) % damaged.len();
        damaged[at] ^= 1 << (flip % 8);
        if let Ok(entry) = EntryPayload::decode(Bytes::from(damaged)) {
            let mut state = State::new();
            state.apply(Position { term: 1, index: 1 }, &entry);
            state.check().unwrap();
        }
    }
}

#[test]
fn seeds_that_once_failed_hold() {
    // A release in the unit of an append to the same entry.
    live_history(18_233_767_200_154_411_166);
}

#[test]
fn journals_are_chosen_by_load() {
    let mut state = State::new();
    let broker = Unit::of(super::tests::register(1, 1));
    let add = Unit::of(Operation::AddJournals { count: 3, replicas: vec![BrokerId(1)] });
    let create = |number: u128| {
        let config = TopicConfig { partitions: 7, placement_group: None, settings: String::new() };
        let (uid, name) = (TopicUid(Uuid::from_u128(number)), format!("topic{number}"));
        Unit::of(Operation::CreateTopic { uid, name, config, journals: vec![], bound: None, management: Management::Catalog })
    };
    let (payload, _) =
        EntryPayload::encode(Entry { time: TimestampMs(1), units: vec![broker, add, create(1), create(2)] }).unwrap();
    state.apply(Position { term: 1, index: 1 }, &payload);
    let loads: Vec<_> = state.catalog().journals().map(|(id, info)| (id, info.partitions)).collect();
    assert_eq!(loads, [(JournalId(1), 5), (JournalId(2), 5), (JournalId(3), 4)]);
}
