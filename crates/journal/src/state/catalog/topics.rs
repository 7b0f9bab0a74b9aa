//! Topics: making, changing, deleting, binding, and the placing of their partitions.

use std::collections::BTreeSet;

use tidegate_model::{JournalId, Offset, PartitionId, TimestampMs, TopicUid};

use super::{Catalog, Home, Tombstone, Topic};
use crate::entry::{BoundObject, Management, Outcome, Refusal, TopicConfig};

/// Most partitions of a topic.
pub const MOST_PARTITIONS: u32 = 10_000;
/// Most bytes of a topic's name: Kafka's.
const NAME_BYTES: usize = 249;
/// Most bytes of a topic's settings.
const SETTINGS_BYTES: usize = 64 * 1024;

/// What a topic is made of.
#[derive(Clone, Copy)]
pub(crate) struct NewTopic<'a> {
    pub(crate) uid: TopicUid,
    pub(crate) name: &'a str,
    pub(crate) config: &'a TopicConfig,
    pub(crate) journals: &'a [JournalId],
    pub(crate) bound: Option<&'a BoundObject>,
    pub(crate) management: Management,
}

/// Metrics know no difference between `.` and `_`, so two names that differ only there collide.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('.', "_")
}

impl Catalog {
    /// The topic if it is live.
    pub(crate) fn live(&self, uid: TopicUid) -> Result<&Topic, Refusal> {
        self.topics.get(&uid).filter(|topic| !topic.is_deleted()).ok_or(Refusal::UnknownTopic { uid })
    }

    pub(crate) fn check_revision(&self, uid: TopicUid, expected: Option<u64>) -> Result<&Topic, Refusal> {
        let topic = self.live(uid)?;
        match expected {
            Some(expected) if expected != topic.revision => {
                Err(Refusal::RevisionMismatch { uid, expected, current: topic.revision })
            }
            _ => Ok(topic),
        }
    }

    fn check_name_free(&self, name: &str) -> Result<(), Refusal> {
        match self.names.get(&canonical(name)).and_then(|uid| self.topics.get(uid)) {
            Some(other) if other.name == name => Err(Refusal::TopicExists { name: name.to_owned(), uid: other.uid }),
            Some(other) => Err(Refusal::NameCollides { existing: other.name.clone() }),
            None => Ok(()),
        }
    }

    fn check_config(config: &TopicConfig) -> Result<(), Refusal> {
        if config.partitions == 0 || config.partitions > MOST_PARTITIONS {
            let problem = format!("is {}; give 1 to {MOST_PARTITIONS}", config.partitions);
            return Err(Refusal::Invalid { field: "partitions", problem });
        }
        if config.settings.len() > SETTINGS_BYTES {
            let problem = format!("has {} bytes; give at most {SETTINGS_BYTES}", config.settings.len());
            return Err(Refusal::Invalid { field: "settings", problem });
        }
        Ok(())
    }

    /// Journals for partitions `from ..` of a topic: either as given, or to be chosen.
    fn check_placement(&self, group: Option<&str>, journals: &[JournalId], from: u32, to: u32) -> Result<(), Refusal> {
        if from == to && journals.is_empty() {
            return Ok(());
        }
        if !self.fleet.has_data_journals() {
            return Err(Refusal::NoJournals);
        }
        if !journals.is_empty() && journals.len() != (to - from) as usize {
            let problem = format!("has {} elements for {} new partitions; give one for each, or none", journals.len(), to - from);
            return Err(Refusal::Invalid { field: "journals", problem });
        }
        let placed = group.and_then(|group| self.placement.get(group));
        for (partition, journal) in (from as usize..).zip(journals) {
            if self.fleet.data_journal(*journal).is_none() {
                return Err(Refusal::UnknownJournal { journal: *journal });
            }
            if let Some(fixed) = placed.and_then(|placed| placed.get(partition)).filter(|fixed| *fixed != journal) {
                return Err(Refusal::PlacementMismatch { partition: PartitionId(partition as i32), journal: *fixed });
            }
        }
        Ok(())
    }

    pub(crate) fn check_create(&self, new: NewTopic<'_>) -> Result<(), Refusal> {
        if let Some(existing) = self.topics.get(&new.uid) {
            let is_same = existing.name == new.name && !existing.is_deleted();
            return if is_same { Ok(()) } else { Err(Refusal::UidUsed { uid: new.uid }) };
        }
        if new.name.is_empty() || new.name.len() > NAME_BYTES {
            let problem = format!("has {} bytes; give 1 to {NAME_BYTES}", new.name.len());
            return Err(Refusal::Invalid { field: "name", problem });
        }
        self.check_name_free(new.name)?;
        self.check_object_free(new.bound, new.uid)?;
        Self::check_config(new.config)?;
        self.check_placement(new.config.placement_group.as_deref(), new.journals, 0, new.config.partitions)
    }

    pub(crate) fn create(&mut self, new: NewTopic<'_>, now: TimestampMs) -> Outcome {
        if let Some(existing) = self.topics.get(&new.uid) {
            return Outcome::Topic { uid: new.uid, revision: existing.revision };
        }
        let homes = self.place(new.config.placement_group.as_deref(), new.journals, 0, new.config.partitions);
        let topic = Topic {
            uid: new.uid,
            name: new.name.to_owned(),
            config: new.config.clone(),
            revision: 0,
            created: now,
            changed: now,
            homes,
            bound: new.bound.cloned(),
            was_bound: new.bound.is_some(),
            management: new.management,
            tombstone: None,
        };
        self.names.insert(canonical(new.name), new.uid);
        self.bound.extend(new.bound.map(|object| (object.uid.clone(), new.uid)));
        self.topics.insert(new.uid, topic);
        self.revise(new.uid, now)
    }

    pub(crate) fn check_alter(
        &self,
        uid: TopicUid,
        expected: Option<u64>,
        config: &TopicConfig,
        journals: &[JournalId],
    ) -> Result<(), Refusal> {
        let topic = self.check_revision(uid, expected)?;
        Self::check_config(config)?;
        if topic.config.placement_group != config.placement_group {
            return Err(Refusal::PlacementGroupChanged { uid });
        }
        let (current, asked) = (topic.config.partitions, config.partitions);
        if asked < current {
            return Err(Refusal::PartitionsShrink { uid, current, asked });
        }
        self.check_placement(config.placement_group.as_deref(), journals, current, asked)
    }

    pub(crate) fn alter(&mut self, uid: TopicUid, config: &TopicConfig, journals: &[JournalId], now: TimestampMs) -> Outcome {
        let current = self.topics.get(&uid).map_or(0, |topic| topic.config.partitions);
        let homes = self.place(config.placement_group.as_deref(), journals, current, config.partitions);
        if let Some(topic) = self.topics.get_mut(&uid) {
            topic.homes.extend(homes);
            topic.config = config.clone();
        }
        self.revise(uid, now)
    }

    pub(crate) fn delete(&mut self, uid: TopicUid, undo_until: TimestampMs, now: TimestampMs) -> Outcome {
        if let Some(topic) = self.topics.get_mut(&uid) {
            topic.tombstone = Some(Tombstone { deleted: now, undo_until });
            self.names.remove(&canonical(&topic.name));
            if let Some(object) = topic.bound.take() {
                self.bound.remove(&object.uid);
            }
        }
        self.revise(uid, now)
    }

    pub(crate) fn check_undelete(&self, uid: TopicUid, now: TimestampMs) -> Result<(), Refusal> {
        let topic = self.topics.get(&uid).ok_or(Refusal::UnknownTopic { uid })?;
        let tombstone = topic.tombstone.ok_or(Refusal::NotDeleted { uid })?;
        if now > tombstone.undo_until {
            return Err(Refusal::UndoTime { uid, undo_until: tombstone.undo_until, now });
        }
        self.check_name_free(&topic.name)
    }

    pub(crate) fn undelete(&mut self, uid: TopicUid, now: TimestampMs) -> Outcome {
        if let Some(topic) = self.topics.get_mut(&uid) {
            topic.tombstone = None;
            self.names.insert(canonical(&topic.name), uid);
        }
        self.revise(uid, now)
    }

    pub(crate) fn check_forget(&self, uid: TopicUid, now: TimestampMs) -> Result<(), Refusal> {
        let Some(topic) = self.topics.get(&uid) else {
            return Ok(());
        };
        let tombstone = topic.tombstone.ok_or(Refusal::NotDeleted { uid })?;
        if now <= tombstone.undo_until {
            return Err(Refusal::UndoTime { uid, undo_until: tombstone.undo_until, now });
        }
        Ok(())
    }

    pub(crate) fn forget(&mut self, uid: TopicUid) -> Outcome {
        if let Some(topic) = self.topics.remove(&uid) {
            self.changes.remove(&topic.revision);
            self.revision += 1;
            self.forgotten_revision = self.forgotten_revision.max(topic.revision);
            for home in topic.homes.iter().filter_map(|homes| homes.last()) {
                if let Some(journal) = self.fleet.journals.get_mut(&home.journal) {
                    journal.partitions = journal.partitions.saturating_sub(1);
                }
            }
        }
        Outcome::Done
    }

    fn check_object_free(&self, object: Option<&BoundObject>, uid: TopicUid) -> Result<(), Refusal> {
        match object.and_then(|object| self.bound.get(&object.uid)) {
            Some(topic) if *topic != uid => Err(Refusal::ObjectBound { topic: *topic }),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_bind(
        &self,
        uid: TopicUid,
        expected: Option<&BoundObject>,
        object: Option<&BoundObject>,
    ) -> Result<(), Refusal> {
        let topic = self.live(uid)?;
        if topic.bound.as_ref() != expected {
            return Err(Refusal::BindMismatch { uid, current: topic.bound.clone().map(Box::new) });
        }
        self.check_object_free(object, uid)
    }

    pub(crate) fn bind(
        &mut self,
        uid: TopicUid,
        object: Option<&BoundObject>,
        management: Management,
        now: TimestampMs,
    ) -> Outcome {
        if let Some(topic) = self.topics.get_mut(&uid) {
            if let Some(before) = topic.bound.take() {
                self.bound.remove(&before.uid);
            }
            self.bound.extend(object.map(|object| (object.uid.clone(), uid)));
            topic.was_bound |= object.is_some();
            topic.bound = object.cloned();
            topic.management = management;
        }
        self.revise(uid, now)
    }

    /// Gives the topic the next revision and moves it to the end of the feed.
    pub(super) fn revise(&mut self, uid: TopicUid, now: TimestampMs) -> Outcome {
        self.revision += 1;
        if let Some(topic) = self.topics.get_mut(&uid) {
            self.changes.remove(&topic.revision);
            topic.revision = self.revision;
            topic.changed = now;
            self.changes.insert(self.revision, uid);
        }
        Outcome::Topic { uid, revision: self.revision }
    }

    /// First homes of partitions `from .. to`: as given, as the placement group has it, or in the emptiest journals.
    fn place(&mut self, group: Option<&str>, journals: &[JournalId], from: u32, to: u32) -> Vec<Vec<Home>> {
        let mut loads: BTreeSet<(u32, JournalId)> = self.fleet.data_journals().map(|(id, info)| (info.partitions, id)).collect();
        let mut placed = group.map(|group| self.placement.get(group).cloned().unwrap_or_default());
        let mut homes = Vec::new();
        for partition in from as usize..to as usize {
            let fixed = placed.as_ref().and_then(|placed| placed.get(partition)).or(journals.get(partition - from as usize));
            let emptiest = loads.first().map_or(JournalId::CATALOG, |(_, journal)| *journal);
            let journal = fixed.copied().unwrap_or(emptiest);
            if let Some(info) = self.fleet.journals.get_mut(&journal) {
                loads.remove(&(info.partitions, journal));
                info.partitions += 1;
                loads.insert((info.partitions, journal));
            }
            if let Some(placed) = placed.as_mut().filter(|placed| placed.len() == partition) {
                placed.push(journal);
            }
            homes.push(vec![Home { journal, generation: 0, first_offset: Offset(0) }]);
        }
        if let (Some(group), Some(placed)) = (group, placed) {
            self.placement.insert(group.to_owned(), placed);
        }
        homes
    }
}
