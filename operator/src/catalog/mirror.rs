//! What a hub's catalog says of its topics, as far as its watch has told. Pure: events in, look-ups out.
//!
//! An entry is replaced only by one of a greater revision, so answers of calls and events of the watch may come in any order.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_model::TopicUid;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::v1;
use uuid::Uuid;

/// The Kubernetes object that a topic is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A topic of the catalog, or what is left of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its identity.
    pub uid: TopicUid,
    /// Its name.
    pub name: String,
    /// Revision of its last change.
    pub revision: u64,
    /// Its settings; the default for a tombstone.
    pub settings: v1::TopicSettings,
    /// Whether the catalog decides over its settings, and not an object.
    pub catalog_managed: bool,
    /// The object it is bound to.
    pub bound: Option<ObjectId>,
    /// Whether an object managed it and has gone.
    pub detached: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Whether the hub keeps it for itself.
    pub internal: bool,
}

impl Entry {
    /// A topic as the wire has it; `None` if it has no uid.
    pub fn from_topic(topic: v1::Topic) -> Option<Entry> {
        Some(Entry {
            uid: uid(&topic.topic_uid)?,
            name: topic.name,
            revision: topic.revision,
            catalog_managed: topic.management == i32::from(v1::TopicManagement::Catalog),
            settings: topic.settings.unwrap_or_default(),
            bound: topic.bound_object.map(ObjectId::from),
            detached: topic.detached,
            deleted: topic.delete_time_ms.is_some(),
            internal: topic.internal,
        })
    }

    /// A tombstone as the wire has it; `None` if it has no uid.
    pub fn from_tombstone(tombstone: wire::TopicTombstone, revision: u64) -> Option<Entry> {
        Some(Entry {
            uid: uid(&tombstone.topic_uid)?,
            name: tombstone.name,
            revision,
            settings: v1::TopicSettings::default(),
            catalog_managed: false,
            bound: tombstone.bound_object.map(ObjectId::from),
            detached: false,
            deleted: true,
            internal: false,
        })
    }
}

impl From<v1::BoundObject> for ObjectId {
    fn from(object: v1::BoundObject) -> Self {
        ObjectId { namespace: object.namespace, name: object.name, uid: object.uid }
    }
}

impl From<ObjectId> for v1::BoundObject {
    fn from(object: ObjectId) -> Self {
        v1::BoundObject { namespace: object.namespace, name: object.name, uid: object.uid }
    }
}

fn uid(bytes: &[u8]) -> Option<TopicUid> {
    Uuid::from_slice(bytes).ok().map(TopicUid)
}

/// Measured numbers of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Partitions with a leader.
    pub ready_partitions: u32,
    /// Sum of the high watermarks.
    pub end_offset_total: u64,
    /// Bytes not in the object store.
    pub local_bytes: u64,
    /// Bytes in the object store.
    pub tiered_bytes: u64,
    /// Age of the oldest untiered record.
    pub tiering_lag: Duration,
}

/// The catalog as known here.
#[derive(Debug, Default)]
pub struct Mirror {
    entries: HashMap<TopicUid, Entry>,
    names: HashMap<String, TopicUid>,
    objects: HashMap<String, TopicUid>,
    numbers: HashMap<TopicUid, Numbers>,
}

impl Mirror {
    /// Takes an entry in, unless a later one is known. Answers whether anything changed.
    pub fn put(&mut self, entry: Entry) -> bool {
        if self.entries.get(&entry.uid).is_some_and(|known| known.revision > entry.revision || *known == entry) {
            return false;
        }
        self.unindex(entry.uid);
        if !entry.deleted {
            self.names.insert(entry.name.clone(), entry.uid);
            if let Some(object) = &entry.bound {
                self.objects.insert(object.uid.clone(), entry.uid);
            }
        }
        self.entries.insert(entry.uid, entry);
        true
    }

    /// After a watch from the beginning: what it did not name is gone. Answers what went.
    pub fn retain(&mut self, named: &std::collections::HashSet<TopicUid>) -> Vec<Entry> {
        let gone: Vec<TopicUid> = self.entries.keys().filter(|uid| !named.contains(uid)).copied().collect();
        gone.into_iter().filter_map(|uid| self.forget(uid)).collect()
    }

    /// Forgets an entry that the catalog no longer has.
    fn forget(&mut self, uid: TopicUid) -> Option<Entry> {
        self.unindex(uid);
        self.numbers.remove(&uid);
        self.entries.remove(&uid)
    }

    fn unindex(&mut self, uid: TopicUid) {
        let Some(known) = self.entries.get(&uid) else { return };
        if self.names.get(&known.name) == Some(&uid) {
            self.names.remove(&known.name);
        }
        if let Some(object) = &known.bound
            && self.objects.get(&object.uid) == Some(&uid)
        {
            self.objects.remove(&object.uid);
        }
    }

    /// A topic or tombstone by identity.
    pub fn by_uid(&self, uid: TopicUid) -> Option<&Entry> {
        self.entries.get(&uid)
    }

    /// A living topic by name.
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.entries.get(self.names.get(name)?)
    }

    /// The living topic bound to an object.
    pub fn by_object(&self, object_uid: &str) -> Option<&Entry> {
        self.entries.get(self.objects.get(object_uid)?)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Living topics that are not internal.
    pub fn living(&self) -> usize {
        self.entries.values().filter(|entry| !entry.deleted && !entry.internal).count()
    }

    /// Names of living topics whose object has gone: the first `limit`.
    pub fn detached(&self, limit: usize) -> Vec<String> {
        let mut names: Vec<&str> =
            self.entries.values().filter(|entry| entry.detached && !entry.deleted).map(|entry| entry.name.as_str()).collect();
        names.sort_unstable();
        names.into_iter().take(limit).map(str::to_owned).collect()
    }

    /// Takes measured numbers in. Answers whether they differ from those known.
    pub fn measure(&mut self, uid: TopicUid, numbers: Numbers) -> bool {
        self.numbers.insert(uid, numbers) != Some(numbers)
    }

    /// Measured numbers of a topic.
    pub fn numbers(&self, uid: TopicUid) -> Option<Numbers> {
        self.numbers.get(&uid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: u128, name: &str, revision: u64) -> Entry {
        Entry {
            uid: TopicUid(Uuid::from_u128(uid)),
            name: name.to_owned(),
            revision,
            settings: v1::TopicSettings::default(),
            catalog_managed: false,
            bound: None,
            detached: false,
            deleted: false,
            internal: false,
        }
    }

    #[test]
    fn an_older_revision_never_replaces_a_newer_one() {
        let mut mirror = Mirror::default();
        assert!(mirror.put(entry(1, "a", 5)));
        assert!(!mirror.put(Entry { detached: true, ..entry(1, "a", 4) }));
        assert!(!mirror.by_name("a").unwrap().detached);
    }

    #[test]
    fn a_tombstone_frees_its_name_and_stays_by_uid() {
        let mut mirror = Mirror::default();
        mirror.put(entry(1, "a", 1));
        mirror.put(Entry { deleted: true, ..entry(1, "a", 2) });
        assert!(mirror.by_name("a").is_none());
        assert!(mirror.by_uid(TopicUid(Uuid::from_u128(1))).unwrap().deleted);
        mirror.put(entry(2, "a", 3));
        // A late tombstone of the first does not take the second's name away.
        mirror.put(Entry { deleted: true, ..entry(1, "a", 4) });
        assert_eq!(mirror.by_name("a").unwrap().revision, 3);
    }

    #[test]
    fn a_binding_is_found_by_its_object_until_it_changes() {
        let object = ObjectId { namespace: "n".into(), name: "a".into(), uid: "u".into() };
        let mut mirror = Mirror::default();
        mirror.put(Entry { bound: Some(object), ..entry(1, "a", 1) });
        assert!(mirror.by_object("u").is_some());
        mirror.put(Entry { detached: true, ..entry(1, "a", 2) });
        assert!(mirror.by_object("u").is_none());
        assert_eq!(mirror.detached(10), ["a"]);
    }
}
