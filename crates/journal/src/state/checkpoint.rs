//! The bytes of a state: magic, version, then protobuf (docs/formats/checkpoint.md). The same state gives the same bytes.
//!
//! Compression and checksum are the envelope's. What is derived is not written but built again.

use prost::Message;
use tidegate_env::bugs::{self, Bug};
use tidegate_model::{
    BrokerId, JournalId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition, TopicUid,
};

use super::index::Index;
use super::producers::Remembered;
use super::{
    Broker, Catalog, Committed, EpochStart, Fleet, Group, Home, JournalInfo, NamedProducer, Objects, PartitionState, Position,
    ProducerState, Replica, State, TailIndex, TailItem, TierPiece, Tombstone, Topic, wire,
};
use crate::entry::convert::{
    at_in, at_out, bound_in, bound_out, broker_state_in, broker_state_out, config_in, config_out, management_in, management_out,
    manifest_in, manifest_out, stored_in, stored_out, uid_in, uid_out,
};
use crate::entry::wire::{Address, Uid};
use crate::entry::{ObjectKey, ProducerLimits};

/// The checkpoint format version that this build writes; it reads all from 1.
pub const CHECKPOINT_VERSION: u16 = 2;

const MAGIC: [u8; 4] = *b"TGST";
const HEAD_BYTES: usize = 6;

/// Why bytes are not a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateDecodeError {
    /// Not a checkpoint at all, or damaged.
    #[error("these bytes are no journal checkpoint: {0}")]
    Malformed(String),
    /// Written by a newer build.
    #[error("checkpoint format version {given} is newer than {known}: run a newer build")]
    Version {
        /// The version given.
        given: u16,
        /// The greatest known.
        known: u16,
    },
}

impl State {
    /// The checkpoint of this state (docs/formats/checkpoint.md): the same bytes for the same state. Not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let state = self.wire();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + state.encoded_len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&CHECKPOINT_VERSION.to_le_bytes());
        state.encode(&mut bytes).expect("a vector grows as needed");
        bytes
    }

    /// A hash of what this state says, whatever entries led to it and when: two states that differ in their position and time only have the
    /// same. Intended and condemned objects whose keys are `housekeeping` do not count. Costs an encoding of the state.
    pub fn content_hash(&self, housekeeping: impl Fn(&str) -> bool) -> u64 {
        let mut state = wire::State { term: 0, index: 0, time: 0, producer_lag: 0, digest: 0, ..self.wire() };
        for keys in [&mut state.objects.intended, &mut state.objects.condemned] {
            keys.retain(|timed| !housekeeping(&timed.key));
        }
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &state.encode_to_vec())
    }

    fn wire(&self) -> wire::State {
        wire::State {
            term: self.applied.term,
            index: self.applied.index,
            time: self.time.0,
            feature_level: self.feature_level,
            digest: self.digest,
            partitions: self.partitions.iter().map(|(at, partition)| partition_out(*at, partition)).collect(),
            groups: self.groups.iter().map(|(name, group)| group_out(name, group)).collect(),
            objects: objects_out(&self.objects),
            catalog: catalog_out(&self.catalog),
            producer_lag: self.producer_lag_ms,
        }
    }

    /// Reads a checkpoint back. One that breaks an invariant is refused.
    pub fn decode(bytes: &[u8]) -> Result<State, StateDecodeError> {
        let malformed = |problem: String| StateDecodeError::Malformed(problem);
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(malformed(format!("{} bytes are too few", bytes.len())));
        };
        if head[..4] != MAGIC {
            return Err(malformed("they do not begin with TGST".to_owned()));
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version == 0 || version > CHECKPOINT_VERSION {
            return Err(StateDecodeError::Version { given: version, known: CHECKPOINT_VERSION });
        }
        let mut wire = wire::State::decode(body).map_err(|error| malformed(error.to_string()))?;
        if version == 1 {
            from_version_1(&mut wire.catalog);
        }
        let partitions = wire.partitions.into_iter().map(partition_in).collect::<Result<_, _>>()?;
        let index = Index::build(&partitions);
        let state = State {
            applied: Position { term: wire.term, index: wire.index },
            time: TimestampMs(wire.time),
            producer_lag_ms: wire.producer_lag.max(0),
            feature_level: wire.feature_level,
            digest: wire.digest,
            partitions,
            groups: wire.groups.into_iter().filter(|_| !bugs::on(Bug::ForgetPositions)).map(group_in).collect(),
            objects: objects_in(wire.objects),
            catalog: catalog_in(wire.catalog)?,
            index,
        };
        state.check().map_err(malformed)?;
        Ok(state)
    }
}

fn partition_out(at: TopicPartition, partition: &PartitionState) -> wire::Partition {
    let epoch_start = |start: &EpochStart| wire::EpochStart { epoch: start.epoch.0, start: start.start.0 };
    let piece = |piece: &TierPiece| match piece {
        TierPiece::Range(range) => wire::Piece { range: Some(stored_out(range)), manifest: None },
        TierPiece::Manifest(manifest) => wire::Piece { range: None, manifest: Some(manifest_out(manifest)) },
    };
    let tail_item = |item: &TailItem| wire::TailItem {
        base: item.base.0,
        end: item.end.0,
        index: item.index,
        position: item.position,
        bytes: item.bytes,
        max_timestamp: item.max_timestamp.0,
        appended: item.appended.0,
    };
    wire::Partition {
        at: at_out(at),
        generation: partition.generation,
        most_producers: partition.limits.producers,
        expire_ms: partition.limits.expire_ms,
        log_start: partition.log_start.0,
        high_watermark: partition.high_watermark.0,
        tiered_end: partition.tiered_end.0,
        epoch: partition.epoch.0,
        epoch_starts: partition.epoch_starts.iter().map(epoch_start).collect(),
        producers: partition.producers.iter().map(|(id, producer)| producer_out(*id, producer)).collect(),
        forgotten: partition.forgotten.0,
        pieces: partition.pieces.iter().map(piece).collect(),
        tail: partition.tail.items().map(tail_item).collect(),
        sealed: partition.sealed,
    }
}

fn partition_in(wire: wire::Partition) -> Result<(TopicPartition, PartitionState), StateDecodeError> {
    let limits = ProducerLimits { producers: wire.most_producers, expire_ms: wire.expire_ms };
    let log_start = Offset(if bugs::on(Bug::ResetLogStart) { 0 } else { wire.log_start });
    let mut partition = PartitionState::new(wire.generation, log_start, LeaderEpoch(wire.epoch), limits);
    partition.sealed = wire.sealed;
    partition.high_watermark = Offset(wire.high_watermark);
    partition.tiered_end = Offset(wire.tiered_end);
    partition.forgotten = ProducerId(wire.forgotten);
    let epoch_start = |start: wire::EpochStart| EpochStart { epoch: LeaderEpoch(start.epoch), start: Offset(start.start) };
    partition.epoch_starts = wire.epoch_starts.into_iter().map(epoch_start).collect();
    let known = wire.producers.into_iter().filter(|_| !bugs::on(Bug::ForgetProducers));
    partition.producers = known.map(producer_in).collect::<Result<_, _>>()?;
    for piece in wire.pieces {
        let piece = match (piece.range, piece.manifest) {
            (Some(range), None) => TierPiece::Range(stored_in(range)),
            (None, Some(manifest)) => TierPiece::Manifest(manifest_in(manifest)),
            _ => return Err(StateDecodeError::Malformed("a piece is not one of range and manifest".to_owned())),
        };
        partition.count(&piece);
        partition.pieces.push_back(piece);
    }
    partition.tail = tail_in(&wire.tail);
    let covered = partition.covered_end();
    partition.tail.cover(covered);
    Ok((at_in(&wire.at), partition))
}

fn tail_in(items: &[wire::TailItem]) -> TailIndex {
    let mut tail = TailIndex::default();
    for item in items {
        tail.push(TailItem {
            base: Offset(item.base),
            end: Offset(item.end),
            index: item.index,
            position: item.position,
            bytes: item.bytes,
            max_timestamp: TimestampMs(item.max_timestamp),
            appended: TimestampMs(item.appended),
        });
    }
    tail
}

fn producer_out(id: ProducerId, producer: &ProducerState) -> wire::Producer {
    let remembered = |batch: &Remembered| wire::Remembered { first: batch.first.0, last: batch.last.0, base: batch.base.0 };
    wire::Producer {
        id: id.0,
        epoch: i32::from(producer.epoch.0),
        window: u32::from(producer.window),
        last_time: producer.last_time.0,
        deadline: producer.deadline.0,
        batches: producer.batches.iter().map(remembered).collect(),
    }
}

fn epoch_in(epoch: i32) -> Result<ProducerEpoch, StateDecodeError> {
    let epoch = i16::try_from(epoch).map_err(|_| StateDecodeError::Malformed(format!("producer epoch {epoch}")))?;
    Ok(ProducerEpoch(epoch))
}

fn window_in(window: u32) -> Result<u8, StateDecodeError> {
    u8::try_from(window).map_err(|_| StateDecodeError::Malformed(format!("producer window {window}")))
}

fn producer_in(wire: wire::Producer) -> Result<(ProducerId, ProducerState), StateDecodeError> {
    let mut producer = ProducerState::new(epoch_in(wire.epoch)?, window_in(wire.window)?, TimestampMs(wire.deadline));
    producer.last_time = TimestampMs(wire.last_time);
    producer.batches.extend(wire.batches.iter().map(|batch| Remembered {
        first: Sequence(batch.first),
        last: Sequence(batch.last),
        base: Offset(batch.base),
    }));
    Ok((ProducerId(wire.id), producer))
}

fn group_out(name: &str, group: &Group) -> wire::Group {
    let committed = |(at, committed): (TopicPartition, &Committed)| wire::Committed {
        at: at_out(at),
        offset: committed.offset.0,
        leader_epoch: committed.leader_epoch.0,
        metadata: committed.metadata.clone(),
        time: committed.time.0,
    };
    wire::Group { name: name.to_owned(), offsets: group.offsets().map(committed).collect() }
}

fn group_in(wire: wire::Group) -> (String, Group) {
    let committed = |wire: wire::Committed| {
        let committed = Committed {
            offset: Offset(wire.offset),
            leader_epoch: LeaderEpoch(wire.leader_epoch),
            metadata: wire.metadata,
            time: TimestampMs(wire.time),
        };
        (at_in(&wire.at), committed)
    };
    (wire.name, Group { offsets: wire.offsets.into_iter().map(committed).collect() })
}

fn objects_out(objects: &Objects) -> wire::Objects {
    let timed = |(key, time): (&ObjectKey, &TimestampMs)| wire::TimedKey { key: key.to_string(), time: time.0 };
    let counted = |(key, count): (&ObjectKey, &u32)| wire::CountedKey { key: key.to_string(), count: *count };
    let drained = |(key, at): (&ObjectKey, &TopicPartition)| wire::DrainedKey { key: key.to_string(), at: at_out(*at) };
    wire::Objects {
        intended: objects.intended.iter().map(timed).collect(),
        live: objects.live.iter().map(counted).collect(),
        drained: objects.drained.iter().map(drained).collect(),
        condemned: objects.condemned.iter().map(timed).collect(),
    }
}

fn objects_in(wire: wire::Objects) -> Objects {
    let timed = |wire: wire::TimedKey| (wire.key.into(), TimestampMs(wire.time));
    Objects {
        intended: wire.intended.into_iter().map(timed).collect(),
        live: wire.live.into_iter().map(|wire| (wire.key.into(), wire.count)).collect(),
        drained: wire.drained.into_iter().map(|wire| (wire.key.into(), at_in(&wire.at))).collect(),
        condemned: wire.condemned.into_iter().map(timed).collect(),
    }
}

fn catalog_out(catalog: &Catalog) -> wire::Catalog {
    let placement = |(group, journals): (&String, &Vec<JournalId>)| wire::Placement {
        group: group.clone(),
        journals: journals.iter().map(|journal| journal.0).collect(),
    };
    let named = |(name, producer): (&String, &NamedProducer)| wire::Named {
        name: name.clone(),
        id: producer.id.0,
        epoch: i32::from(producer.epoch.0),
        window: u32::from(producer.window),
        expires: producer.expires.0,
    };
    wire::Catalog {
        topics: catalog.topics.values().map(topic_out).collect(),
        placement: catalog.placement.iter().map(placement).collect(),
        brokers: catalog.fleet.brokers.iter().map(broker_out).collect(),
        journals: catalog.fleet.journals.iter().map(journal_out).collect(),
        named: catalog.named.iter().map(named).collect(),
        next_producer_id: catalog.next_producer_id,
        revision: catalog.revision,
        forgotten_revision: catalog.forgotten_revision,
        operator_epoch: catalog.operator_epoch,
        replication_factor: catalog.fleet.replication_factor,
        fleet_revision: catalog.fleet.revision,
        group_journals: catalog.fleet.group_journals,
    }
}

fn broker_out((id, broker): (&BrokerId, &Broker)) -> wire::Broker {
    wire::Broker {
        id: id.0,
        incarnation: uid_out(broker.incarnation),
        addresses: broker.addresses.iter().cloned().map(|(listener, address)| Address { listener, address }).collect(),
        registered: broker.registered.0,
        zone: broker.zone.clone(),
        node: broker.node.clone(),
        state: broker_state_out(broker.state),
    }
}

fn broker_in(wire: wire::Broker) -> Result<(BrokerId, Broker), StateDecodeError> {
    let broker = Broker {
        incarnation: uid_in(&wire.incarnation),
        addresses: wire.addresses.into_iter().map(|address| (address.listener, address.address)).collect(),
        zone: wire.zone,
        node: wire.node,
        state: broker_state_in(wire.state).map_err(|error| StateDecodeError::Malformed(error.to_string()))?,
        registered: TimestampMs(wire.registered),
    };
    Ok((BrokerId(wire.id), broker))
}

fn journal_out((id, journal): (&JournalId, &JournalInfo)) -> wire::Journal {
    let replica = |replica: &Replica| wire::Replica { id: replica.id, incarnation: uid_out(replica.incarnation) };
    let given = |(broker, count): (&BrokerId, &u32)| wire::Given { broker: broker.0, count: *count };
    wire::Journal {
        id: id.0,
        brokers: Vec::new(),
        partitions: journal.partitions,
        replicas: journal.replicas.iter().map(replica).collect(),
        founder: journal.founder,
        given: journal.given.iter().map(given).collect(),
    }
}

fn journal_in(wire: wire::Journal) -> (JournalId, JournalInfo) {
    let replica =
        |wire: wire::Replica| Replica { id: wire.id, broker: BrokerId(wire.id as u32), incarnation: uid_in(&wire.incarnation) };
    let journal = JournalInfo {
        replicas: wire.replicas.into_iter().map(replica).collect(),
        founder: wire.founder,
        partitions: wire.partitions,
        given: wire.given.into_iter().map(|given| (BrokerId(given.broker), given.count)).collect(),
    };
    (JournalId(wire.id), journal)
}

/// Version 1 knew one broker, which was the only replica of all journals under its own number.
fn from_version_1(catalog: &mut wire::Catalog) {
    catalog.replication_factor = 1;
    let incarnations: Vec<(u32, Uid)> = catalog.brokers.iter().map(|broker| (broker.id, broker.incarnation.clone())).collect();
    let own = incarnations.first().map(|(id, _)| wire::Journal { brokers: vec![*id], ..wire::Journal::default() });
    catalog.journals.splice(0..0, own);
    for journal in &mut catalog.journals {
        let known = |broker: u32| incarnations.iter().find(|(id, _)| *id == broker);
        let replica = |(id, incarnation): &(u32, Uid)| wire::Replica { id: u64::from(*id), incarnation: incarnation.clone() };
        journal.replicas = std::mem::take(&mut journal.brokers).into_iter().filter_map(known).map(replica).collect();
        journal.given = journal.replicas.iter().map(|replica| wire::Given { broker: replica.id as u32, count: 1 }).collect();
        journal.founder = journal.replicas.first().map_or(0, |replica| replica.id);
    }
}

fn catalog_in(wire: wire::Catalog) -> Result<Catalog, StateDecodeError> {
    let named = |wire: wire::Named| {
        let (id, epoch, window) = (ProducerId(wire.id), epoch_in(wire.epoch)?, window_in(wire.window)?);
        Ok((wire.name, NamedProducer { id, epoch, window, expires: TimestampMs(wire.expires) }))
    };
    let mut catalog = Catalog {
        topics: wire.topics.into_iter().map(topic_in).collect::<Result<_, _>>()?,
        placement: wire
            .placement
            .into_iter()
            .map(|wire| (wire.group, wire.journals.into_iter().map(JournalId).collect()))
            .collect(),
        fleet: Fleet {
            brokers: wire.brokers.into_iter().map(broker_in).collect::<Result<_, _>>()?,
            journals: wire.journals.into_iter().map(journal_in).collect(),
            replication_factor: wire.replication_factor,
            revision: wire.fleet_revision,
            group_journals: wire.group_journals,
        },
        named: wire.named.into_iter().map(named).collect::<Result<_, _>>()?,
        next_producer_id: wire.next_producer_id,
        revision: wire.revision,
        forgotten_revision: wire.forgotten_revision,
        operator_epoch: wire.operator_epoch,
        ..Catalog::default()
    };
    catalog.index();
    Ok(catalog)
}

fn topic_out(topic: &Topic) -> wire::Topic {
    let home =
        |home: &Home| wire::Home { journal: home.journal.0, generation: home.generation, first_offset: home.first_offset.0 };
    let tombstone = |tombstone: Tombstone| wire::Tombstone { deleted: tombstone.deleted.0, undo_until: tombstone.undo_until.0 };
    wire::Topic {
        uid: uid_out(topic.uid.0),
        name: topic.name.clone(),
        config: config_out(&topic.config),
        revision: topic.revision,
        created: topic.created.0,
        changed: topic.changed.0,
        partitions: topic.homes.iter().map(|homes| wire::Homes { homes: homes.iter().map(home).collect() }).collect(),
        bound: topic.bound.as_ref().map(bound_out),
        was_bound: topic.was_bound,
        managed_by_object: management_out(topic.management),
        tombstone: topic.tombstone.map(tombstone),
    }
}

fn topic_in(wire: wire::Topic) -> Result<(TopicUid, Topic), StateDecodeError> {
    let home = |wire: wire::Home| Home {
        journal: JournalId(wire.journal),
        generation: wire.generation,
        first_offset: Offset(wire.first_offset),
    };
    let tombstone =
        |wire: wire::Tombstone| Tombstone { deleted: TimestampMs(wire.deleted), undo_until: TimestampMs(wire.undo_until) };
    let uid = TopicUid(uid_in(&wire.uid));
    let management = management_in(wire.managed_by_object).map_err(|error| StateDecodeError::Malformed(error.to_string()))?;
    let topic = Topic {
        uid,
        name: wire.name,
        config: config_in(wire.config),
        revision: wire.revision,
        created: TimestampMs(wire.created),
        changed: TimestampMs(wire.changed),
        homes: wire.partitions.into_iter().map(|wire| wire.homes.into_iter().map(home).collect()).collect(),
        bound: wire.bound.map(bound_in),
        was_bound: wire.was_bound,
        management,
        tombstone: wire.tombstone.map(tombstone),
    };
    Ok((uid, topic))
}
