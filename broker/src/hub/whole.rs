//! Answers for the whole hub by any broker: groups and partitions' numbers from the replicas at hand, and from the leaders of the journals that have none
//! here. What did not answer is named, and the rest is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_model::{JournalId, PartitionId, TimestampMs, TopicPartition, TopicUid};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;

use super::remote::{marks_in, marks_out};
use super::{Error, GroupListing, Hub, PartitionNumbers, TopicStatistics};
use crate::fleet::{uuid_in, uuid_out};

/// Numbers of partitions by where they are.
pub(crate) type Numbers = BTreeMap<TopicPartition, PartitionNumbers>;

impl Hub {
    /// All groups of the hub by name, from a name on (exclusive); whether there are more; and the journals that did not answer, whose groups are missing.
    pub async fn list_all_groups(&self, after: &str, limit: usize) -> (Vec<GroupListing>, bool, Vec<JournalId>) {
        let (mut groups, mut more) = self.list_groups(after, limit);
        let keeping: Vec<JournalId> = self.inner.catalog.read_state(|state| state.catalog().fleet().group_journals().collect());
        let mut missing = Vec::new();
        let elsewhere = keeping.into_iter().filter(|journal| self.inner.hosted.get(*journal).is_none());
        let asked = elsewhere.map(async |journal| {
            let limit = u32::try_from(limit.saturating_add(1)).unwrap_or(u32::MAX);
            let ask = Ask::Groups(wired::AskGroups { journal: journal.0, after: after.to_owned(), limit });
            (journal, self.inner.ask_leader(journal, ask).await)
        });
        for (journal, told) in futures::future::join_all(asked).await {
            match told {
                Ok(Told::Groups(told)) => groups.extend(told.groups.into_iter().map(|group| GroupListing {
                    name: group.name,
                    partitions: usize::try_from(group.partitions).unwrap_or(usize::MAX),
                })),
                _ => missing.push(journal),
            }
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        more |= groups.len() > limit;
        groups.truncate(limit);
        (groups, more, missing)
    }

    /// Answers another broker which groups a journal keeps.
    pub(crate) fn serve_groups(&self, ask: &wired::AskGroups) -> Result<wired::Groups, Error> {
        let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
        let groups = self.journal(JournalId(ask.journal))?.read_state(|state| {
            let names = state.groups().filter(|(name, _)| *name > ask.after.as_str()).take(limit);
            let size = |(name, group): (&str, &tidegate_journal::state::Group)| wired::GroupSize {
                name: name.to_owned(),
                partitions: group.offsets().count() as u64,
            };
            names.map(size).collect()
        });
        Ok(wired::Groups { groups })
    }

    /// Numbers of topics over the whole hub: of those named (unknown ones are left out), or of all, by name. Partitions whose leader did not answer
    /// are left out.
    pub async fn all_topic_statistics(&self, uids: &[TopicUid]) -> Vec<TopicStatistics> {
        let elsewhere = self.numbers_elsewhere(uids).await.0;
        self.topic_statistics(uids, &elsewhere)
    }

    /// Numbers of a topic's partitions, in order, wherever they are.
    pub async fn all_partition_numbers(&self, uid: TopicUid) -> Result<Vec<PartitionNumbers>, Error> {
        let topic = self.topic_by_uid(uid)?;
        let (elsewhere, missing) = self.numbers_elsewhere(&[uid]).await;
        let numbers = |(at, journal)| match elsewhere.get(&at) {
            Some(numbers) => Ok(*numbers),
            None if missing.contains(&journal) => {
                Err(Error::unavailable(format!("journal {journal}, which holds partition {at}, did not answer")))
            }
            None => self.numbers(at, journal),
        };
        topic.partitions().map(numbers).collect()
    }

    /// Numbers of partitions that this broker holds no replica of, and the journals that did not answer.
    async fn numbers_elsewhere(&self, uids: &[TopicUid]) -> (Numbers, Vec<JournalId>) {
        let view = self.inner.routes.view();
        let mut wanted: BTreeMap<JournalId, Vec<TopicUid>> = BTreeMap::new();
        for topic in view.by_uid.values().filter(|topic| uids.is_empty() || uids.contains(&topic.uid)) {
            for (_, journal) in topic.partitions().filter(|(_, journal)| self.inner.hosted.get(*journal).is_none()) {
                let topics = wanted.entry(journal).or_default();
                if topics.last() != Some(&topic.uid) {
                    topics.push(topic.uid);
                }
            }
        }
        let asked = wanted.into_iter().map(async |(journal, topics)| {
            let topic_uids = topics.iter().map(|uid| uuid_out(uid.0)).collect();
            let ask = Ask::Numbers(wired::AskNumbers { journal: journal.0, topic_uids });
            (journal, self.inner.ask_leader(journal, ask).await)
        });
        let (mut numbers, mut missing) = (Numbers::new(), Vec::new());
        for (journal, told) in futures::future::join_all(asked).await {
            match told {
                Ok(Told::Numbers(told)) => {
                    numbers.extend(told.partitions.iter().filter_map(|partition| numbers_in(journal, partition)));
                }
                _ => missing.push(journal),
            }
        }
        (numbers, missing)
    }

    /// Answers another broker how the partitions of a journal are.
    pub(crate) fn serve_numbers(&self, ask: &wired::AskNumbers) -> Result<wired::Numbers, Error> {
        let journal = JournalId(ask.journal);
        self.journal(journal)?;
        let view = self.inner.routes.view();
        let mut partitions = Vec::new();
        for uid in &ask.topic_uids {
            let uid = TopicUid(uuid_in("topic_uids", uid)?);
            let Some(topic) = view.by_uid.get(&uid) else { continue };
            for (at, _) in topic.partitions().filter(|(_, home)| *home == journal) {
                let Ok(numbers) = self.numbers(at, journal) else { continue };
                partitions.push(wired::PartitionNumbers {
                    topic_uid: uuid_out(uid.0),
                    partition: at.partition.0,
                    marks: Some(marks_out(&numbers.marks)),
                    local_bytes: numbers.local_bytes,
                    tiered_bytes: numbers.tiered_bytes,
                    oldest_local_ms: numbers.oldest_local.map(|time| time.0),
                });
            }
        }
        Ok(wired::Numbers { partitions })
    }
}

fn numbers_in(journal: JournalId, told: &wired::PartitionNumbers) -> Option<(TopicPartition, PartitionNumbers)> {
    let topic = TopicUid(uuid_in("topic_uid", &told.topic_uid).ok()?);
    let at = TopicPartition { topic, partition: PartitionId(told.partition) };
    let numbers = PartitionNumbers {
        partition: at.partition,
        journal,
        marks: marks_in(told.marks.as_ref()),
        local_bytes: told.local_bytes,
        tiered_bytes: told.tiered_bytes,
        oldest_local: told.oldest_local_ms.map(TimestampMs),
    };
    Some((at, numbers))
}

/// Which journals a partial answer lacks, for people.
pub(crate) fn named(missing: &[JournalId]) -> Vec<String> {
    missing.iter().map(|journal| format!("journal {journal} did not answer")).collect()
}

impl Hub {
    /// A hub's handle for what another broker asks.
    pub(crate) fn of(inner: &Arc<super::Inner>) -> Hub {
        Hub { inner: Arc::clone(inner) }
    }
}
