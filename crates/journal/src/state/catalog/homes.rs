//! The homes of partitions: which journal a partition lives in, which held its older records, and where it is moving to.
//!
//! A move is begun (a home without a first offset is added, so that whoever drives moves finds it), and finished (the home gets its first offset
//! and is the current one from then on). What stands before the first offset of the current home is read from the homes before it, until they
//! hold nothing any more and are dropped, oldest first.

use tidegate_model::{JournalId, Offset, PartitionId, TimestampMs, TopicUid};

use super::{Catalog, Home, Topic};
use crate::entry::{Outcome, Refusal};

/// Most homes of one partition: those that still hold records, and the current one.
pub const MOST_HOMES: usize = 16;
/// The first offset of a home that a partition is moving to.
pub(super) const PENDING: Offset = Offset(-1);

impl Home {
    /// Whether the partition is still on its way there.
    pub fn is_pending(&self) -> bool {
        self.first_offset == PENDING
    }
}

fn homes_of(topic: &Topic, partition: PartitionId) -> Result<&Vec<Home>, Refusal> {
    let homes = usize::try_from(partition.0).ok().and_then(|partition| topic.homes.get(partition));
    homes.ok_or_else(|| Refusal::Invalid {
        field: "partition",
        problem: format!("{partition} is none of the {} partitions of `{}`", topic.homes.len(), topic.name),
    })
}

impl Catalog {
    fn topic_of_move(&self, uid: TopicUid) -> Result<&Topic, Refusal> {
        self.topics.get(&uid).ok_or(Refusal::UnknownTopic { uid })
    }

    pub(crate) fn check_begin_move(&self, uid: TopicUid, partition: PartitionId, to: JournalId) -> Result<(), Refusal> {
        let invalid = |field, problem: String| Err(Refusal::Invalid { field, problem });
        let topic = self.live(uid)?;
        let homes = homes_of(topic, partition)?;
        if self.fleet.data_journal(to).is_none() {
            return Err(Refusal::UnknownJournal { journal: to });
        }
        if let Some(pending) = homes.last().filter(|home| home.is_pending()) {
            let problem = format!("is on its way to journal {}: wait until it is there", pending.journal);
            return if pending.journal == to { Ok(()) } else { invalid("partition", problem) };
        }
        if let Some(group) = &topic.config.placement_group {
            return invalid("partition", format!("belongs to placement group `{group}`, whose partitions stay together"));
        }
        if homes.iter().any(|home| home.journal == to) {
            return invalid("to", format!("journal {to} holds the partition, or older records of it"));
        }
        if homes.len() >= MOST_HOMES {
            return invalid("partition", format!("has records in {MOST_HOMES} journals; move it when older ones have gone"));
        }
        Ok(())
    }

    pub(crate) fn begin_move(&mut self, uid: TopicUid, partition: PartitionId, to: JournalId) -> Outcome {
        let homes = self.topics.get_mut(&uid).and_then(|topic| topic.homes.get_mut(partition.0 as usize));
        let Some(last) = homes.as_ref().and_then(|homes| homes.last()).copied().filter(|last| !last.is_pending()) else {
            return Outcome::Done;
        };
        if let Some(homes) = homes {
            homes.push(Home { journal: to, generation: last.generation + 1, first_offset: PENDING });
        }
        if let Some(from) = self.fleet.journals.get_mut(&last.journal) {
            from.partitions = from.partitions.saturating_sub(1);
        }
        if let Some(to) = self.fleet.journals.get_mut(&to) {
            to.partitions += 1;
        }
        Outcome::Done
    }

    pub(crate) fn check_finish_move(
        &self,
        uid: TopicUid,
        partition: PartitionId,
        generation: u32,
        first_offset: Offset,
    ) -> Result<(), Refusal> {
        let invalid = |field, problem: &str| Err(Refusal::Invalid { field, problem: problem.to_owned() });
        let homes = homes_of(self.topic_of_move(uid)?, partition)?;
        let Some(home) = homes.iter().find(|home| home.generation == generation) else {
            return invalid("generation", "is that of no home of the partition: look it up in the catalog again");
        };
        let before =
            homes.iter().rev().find(|before| before.generation < generation).map_or(Offset(0), |before| before.first_offset);
        if first_offset < before || (!home.is_pending() && home.first_offset != first_offset) {
            return invalid("first_offset", "is not that of the home");
        }
        Ok(())
    }

    pub(crate) fn finish_move(
        &mut self,
        uid: TopicUid,
        partition: PartitionId,
        generation: u32,
        first_offset: Offset,
        now: TimestampMs,
    ) -> Outcome {
        let homes = self.topics.get_mut(&uid).and_then(|topic| topic.homes.get_mut(partition.0 as usize));
        let pending = homes.and_then(|homes| homes.last_mut()).filter(|home| home.generation == generation && home.is_pending());
        let Some(home) = pending else { return Outcome::Done };
        home.first_offset = first_offset;
        self.note_homes(uid, now)
    }

    pub(crate) fn check_drop_home(&self, uid: TopicUid, partition: PartitionId, generation: u32) -> Result<(), Refusal> {
        let homes = homes_of(self.topic_of_move(uid)?, partition)?;
        let is_oldest = homes.first().is_some_and(|home| home.generation == generation);
        let is_followed = homes.get(1).is_some_and(|next| !next.is_pending());
        let is_known = homes.iter().any(|home| home.generation == generation);
        if !is_known || (is_oldest && is_followed) {
            return Ok(());
        }
        let problem = "is not the oldest of several homes: only what holds nothing any more is dropped, oldest first".to_owned();
        Err(Refusal::Invalid { field: "generation", problem })
    }

    pub(crate) fn drop_home(&mut self, uid: TopicUid, partition: PartitionId, generation: u32, now: TimestampMs) -> Outcome {
        let homes = self.topics.get_mut(&uid).and_then(|topic| topic.homes.get_mut(partition.0 as usize));
        let Some(homes) = homes.filter(|homes| homes.first().is_some_and(|home| home.generation == generation)) else {
            return Outcome::Done;
        };
        homes.remove(0);
        self.note_homes(uid, now)
    }

    /// A new revision, by which brokers see it. Nobody changed the topic's settings, so the time of their last change stays.
    fn note_homes(&mut self, uid: TopicUid, now: TimestampMs) -> Outcome {
        let changed = self.topics.get(&uid).map_or(now, |topic| topic.changed);
        let outcome = self.revise(uid, now);
        if let Some(topic) = self.topics.get_mut(&uid) {
            topic.changed = changed;
        }
        outcome
    }
}
