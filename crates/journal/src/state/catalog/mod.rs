//! The catalog: topics and their homes, brokers, journals, producer ids. Only journal 0 fills it.
//!
//! Every change of a topic has a revision of its own, greater than all before; each topic or tombstone stands in the change
//! feed once, at its latest revision.

mod fleet;
mod homes;
mod registry;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use tidegate_model::{JournalId, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicUid};

use crate::entry::{BoundObject, Management, TopicConfig};

pub(crate) use fleet::is_of_fleet;
pub use fleet::{Broker, Fleet, GREATEST_REPLICATION_FACTOR, JournalInfo, Replica};
pub use homes::MOST_HOMES;
pub use registry::{MOST_NAMED_PRODUCERS, MOST_PRODUCER_IDS};
pub use topics::MOST_PARTITIONS;
pub(crate) use topics::{NewTopic, canonical};

/// Where a partition lives, or lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The journal.
    pub journal: JournalId,
    /// Counts the homes of the partition, from 0.
    pub generation: u32,
    /// Offset of the first record there; -1 while the partition is on its way there.
    pub first_offset: Offset,
}

/// The home that a partition lives in.
fn current(homes: &[Home]) -> Option<&Home> {
    homes.iter().rev().find(|home| !home.is_pending())
}

/// What is left of a deleted topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// When it was deleted, in entry time.
    pub deleted: TimestampMs,
    /// Until when it can be undeleted.
    pub undo_until: TimestampMs,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its identity.
    pub uid: TopicUid,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: TopicConfig,
    /// Revision of its last change.
    pub revision: u64,
    /// When it was made, in entry time.
    pub created: TimestampMs,
    /// When it was last changed, in entry time.
    pub changed: TimestampMs,
    /// The homes of each partition, oldest first; the last that is not pending is the current one.
    pub homes: Vec<Vec<Home>>,
    /// The object that manages it.
    pub bound: Option<BoundObject>,
    /// Whether it ever was bound; one that was and is not now is detached.
    pub was_bound: bool,
    /// Who may change it.
    pub management: Management,
    /// Set when it is deleted.
    pub tombstone: Option<Tombstone>,
}

impl Topic {
    /// The current home of a partition.
    pub fn home(&self, partition: PartitionId) -> Option<&Home> {
        usize::try_from(partition.0).ok().and_then(|partition| self.homes.get(partition)).and_then(|homes| current(homes))
    }

    /// The current homes, by partition.
    pub fn current_homes(&self) -> impl Iterator<Item = (PartitionId, &Home)> {
        (0..).map(PartitionId).zip(&self.homes).filter_map(|(partition, homes)| Some((partition, current(homes)?)))
    }

    /// Whether the object that managed it has gone.
    pub fn is_detached(&self) -> bool {
        self.was_bound && self.bound.is_none()
    }

    /// Whether it is a tombstone.
    pub fn is_deleted(&self) -> bool {
        self.tombstone.is_some()
    }
}

/// A producer that keeps its id over restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its present epoch.
    pub epoch: ProducerEpoch,
    /// How many of its batches are remembered.
    pub window: u8,
    /// When it can be forgotten, in entry time.
    pub expires: TimestampMs,
}

/// What changed in the catalog's topics.
#[derive(Clone, Debug, PartialEq)]
pub enum Changes<'a> {
    /// The topics (tombstones too) with a greater revision, by revision.
    Since(Vec<&'a Topic>),
    /// Tombstones that the asker cannot have seen are forgotten: list all topics anew.
    Restart,
}

/// The catalog.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    pub(crate) topics: BTreeMap<TopicUid, Topic>,
    pub(crate) placement: BTreeMap<String, Vec<JournalId>>,
    pub(crate) fleet: Fleet,
    pub(crate) named: BTreeMap<String, NamedProducer>,
    pub(crate) next_producer_id: i64,
    pub(crate) revision: u64,
    pub(crate) forgotten_revision: u64,
    pub(crate) operator_epoch: u64,
    // Derived from the above.
    pub(crate) names: BTreeMap<String, TopicUid>,
    pub(crate) changes: BTreeMap<u64, TopicUid>,
    pub(crate) bound: BTreeMap<String, TopicUid>,
    pub(crate) expiries: BTreeSet<(TimestampMs, String)>,
}

impl Catalog {
    /// A topic or tombstone by uid.
    pub fn topic(&self, uid: TopicUid) -> Option<&Topic> {
        self.topics.get(&uid)
    }

    /// A live topic by name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Topic> {
        let topic = self.topics.get(self.names.get(&topics::canonical(name))?)?;
        (topic.name == name).then_some(topic)
    }

    /// The live topic that an object (by its uid) manages.
    pub fn topic_by_object(&self, object_uid: &str) -> Option<&Topic> {
        self.topics.get(self.bound.get(object_uid)?)
    }

    /// All topics and tombstones, by uid.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// All live topics, by name (where `.` counts as `_`).
    pub fn live_topics(&self) -> impl Iterator<Item = &Topic> {
        self.names.values().filter_map(|uid| self.topics.get(uid))
    }

    /// What changed after a revision; after 0, all that there is. Costs what it gives.
    pub fn changes_since(&self, revision: u64) -> Changes<'_> {
        // Who knows nothing misses nothing that was forgotten.
        let misses = revision != 0 && revision < self.forgotten_revision;
        if misses || revision > self.revision {
            return Changes::Restart;
        }
        let later = self.changes.range(revision + 1..).filter_map(|(_, uid)| self.topics.get(uid));
        Changes::Since(later.collect())
    }

    /// Revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The journals of a placement group's partitions.
    pub fn placement(&self, group: &str) -> Option<&[JournalId]> {
        self.placement.get(group).map(Vec::as_slice)
    }

    /// Brokers, journals and which broker holds which journal.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// All data journals.
    pub fn journals(&self) -> impl Iterator<Item = (JournalId, &JournalInfo)> {
        self.fleet.data_journals()
    }

    /// A named producer.
    pub fn named_producer(&self, name: &str) -> Option<&NamedProducer> {
        self.named.get(name)
    }

    /// The epoch below which operators are fenced.
    pub fn operator_epoch(&self) -> u64 {
        self.operator_epoch
    }

    /// Fills what is derived.
    pub(crate) fn index(&mut self) {
        for topic in self.topics.values() {
            self.changes.insert(topic.revision, topic.uid);
            if !topic.is_deleted() {
                self.names.insert(topics::canonical(&topic.name), topic.uid);
            }
            if let Some(object) = &topic.bound {
                self.bound.insert(object.uid.clone(), topic.uid);
            }
        }
        self.expiries = self.named.iter().map(|(name, producer)| (producer.expires, name.clone())).collect();
    }
}
