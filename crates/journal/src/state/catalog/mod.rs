//! The catalog: topics and their homes, brokers, journals, producer ids. Only journal 0 fills it.

use std::collections::BTreeMap;

use tidegate_model::{BrokerId, JournalId, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicUid};
use uuid::Uuid;

use crate::entry::{BoundObject, Management, TopicConfig};

/// Where a partition lives, or lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The journal.
    pub journal: JournalId,
    /// Counts the homes of the partition, from 0.
    pub generation: u32,
    /// Offset of the first record there.
    pub first_offset: Offset,
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
    /// The homes of each partition, oldest first; the last is the current one.
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
        usize::try_from(partition.0).ok().and_then(|partition| self.homes.get(partition)).and_then(|homes| homes.last())
    }
}

/// A broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Written on its volume once.
    pub incarnation: Uuid,
    /// Listener name and `host:port`.
    pub addresses: Vec<(String, String)>,
    /// When it last registered, in entry time.
    pub registered: TimestampMs,
}

/// A data journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalInfo {
    /// Brokers that hold it.
    pub replicas: Vec<BrokerId>,
    /// How many partitions live in it.
    pub partitions: u32,
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
    topics: BTreeMap<TopicUid, Topic>,
    brokers: BTreeMap<BrokerId, Broker>,
    journals: BTreeMap<JournalId, JournalInfo>,
    revision: u64,
    operator_epoch: u64,
}

impl Catalog {
    /// A topic or tombstone by uid.
    pub fn topic(&self, uid: TopicUid) -> Option<&Topic> {
        self.topics.get(&uid)
    }
    /// A live topic by name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Topic> {
        self.topics.values().find(|topic| topic.name == name)
    }
    /// All topics and tombstones, by uid.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }
    /// What changed after a revision.
    pub fn changes_since(&self, revision: u64) -> Changes<'_> {
        Changes::Since(self.topics.values().filter(|topic| topic.revision > revision).collect())
    }
    /// Revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    /// All brokers.
    pub fn brokers(&self) -> impl Iterator<Item = (BrokerId, &Broker)> {
        self.brokers.iter().map(|(id, broker)| (*id, broker))
    }
    /// All data journals.
    pub fn journals(&self) -> impl Iterator<Item = (JournalId, &JournalInfo)> {
        self.journals.iter().map(|(id, journal)| (*id, journal))
    }
    /// The epoch below which operators are fenced.
    pub fn operator_epoch(&self) -> u64 {
        self.operator_epoch
    }
}
