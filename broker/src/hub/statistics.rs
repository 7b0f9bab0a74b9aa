//! Measured numbers: of the hub, of topics, of partitions.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_journal::entry::BrokerState;
use tidegate_model::{BrokerId, JournalId, TimestampMs, TopicPartition, TopicUid};
use tidegate_wal::Pressure;

use super::{Error, Hub, Marks, PartitionNumbers};
use crate::fleet::CLIENT;
use crate::metrics::Readings;

/// Numbers of a hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubStatistics {
    /// Revision of the catalog.
    pub revision: u64,
    /// Bytes of the write-ahead log in use.
    pub wal_used_bytes: u64,
    /// Bytes that it may use.
    pub wal_budget_bytes: u64,
    /// Whether the object store cannot be reached or refuses.
    pub tier_unavailable: bool,
    /// What it said then, for people.
    pub tier_problem: Option<String>,
    /// Age of the oldest record not tiered, in milliseconds.
    pub tiering_lag_ms: u64,
    /// Bytes appended since the start.
    pub appended_bytes: u64,
    /// Bytes read since the start.
    pub fetched_bytes: u64,
    /// Connections of clients.
    pub connections: u32,
    /// When it was measured.
    pub time: TimestampMs,
}

/// Numbers of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicStatistics {
    /// Its uid.
    pub uid: TopicUid,
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<PartitionNumbers>,
    /// Those with a leader.
    pub ready: u32,
    /// Age of the oldest record not tiered, in milliseconds.
    pub tiering_lag_ms: u64,
}

/// Who holds a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionHome {
    /// The broker that leads it, if known.
    pub leader: Option<BrokerId>,
    /// The brokers that hold a replica.
    pub replicas: Vec<BrokerId>,
}

impl Hub {
    /// Where clients reach the hub's brokers that take part; this one at `own`.
    pub fn endpoints(&self, own: &str) -> Vec<(BrokerId, String)> {
        let mut endpoints: BTreeMap<BrokerId, String> = self.inner.catalog.read_state(|state| {
            let taking_part = state.catalog().fleet().brokers().filter(|(_, broker)| broker.state != BrokerState::Retired);
            taking_part.filter_map(|(id, broker)| Some((id, broker.address(CLIENT)?.to_owned()))).collect()
        });
        endpoints.insert(self.broker(), own.to_owned());
        endpoints.into_iter().collect()
    }

    /// Who holds a topic's partitions, by partition. A partition that is not open yet has no leader.
    pub fn homes_of(&self, topic: TopicUid) -> Vec<PartitionHome> {
        let Some(topic) = self.inner.routes.view().by_uid.get(&topic).cloned() else { return Vec::new() };
        let journals: BTreeSet<JournalId> = topic.journals.iter().copied().collect();
        let home = |id: JournalId| {
            let replicas = self.inner.catalog.read_state(|state| {
                let info = state.catalog().fleet().journal(id);
                info.map(|info| info.replicas.iter().map(|replica| replica.broker).collect()).unwrap_or_default()
            });
            PartitionHome { leader: self.inner.leader_of(id), replicas }
        };
        let homes: BTreeMap<JournalId, PartitionHome> = journals.into_iter().map(|id| (id, home(id))).collect();
        let partitions = topic.partitions().map(|(at, journal)| {
            let home = homes.get(&journal).cloned().unwrap_or_default();
            let hosted = self.inner.hosted.get(journal);
            let is_open = hosted.is_none_or(|journal| journal.read_state(|state| state.partition(at).is_some()));
            PartitionHome { leader: home.leader.filter(|_| is_open), ..home }
        });
        partitions.collect()
    }

    /// Numbers of the hub. Looks at every open partition: some microseconds for each.
    pub fn statistics(&self) -> HubStatistics {
        let wal = self.inner.wal.status();
        let metrics = &self.inner.metrics;
        let now = self.now();
        let tier_problem = self.inner.tier_health.problem();
        HubStatistics {
            revision: self.inner.routes.view().revision,
            wal_used_bytes: wal.used_bytes,
            wal_budget_bytes: wal.budget_bytes,
            tier_unavailable: tier_problem.is_some(),
            tier_problem,
            tiering_lag_ms: self.inner.hosted.all().values().map(|journal| lag(oldest(journal), now)).max().unwrap_or(0),
            appended_bytes: metrics.appended.get(),
            fetched_bytes: metrics.fetched_bytes(),
            connections: u32::try_from(metrics.connections.get()).unwrap_or(0),
            time: now,
        }
    }

    /// Numbers of topics: of those named (unknown ones are left out), or of all, by name. Of partitions that are not at hand, those given.
    pub(crate) fn topic_statistics(&self, uids: &[TopicUid], elsewhere: &super::whole::Numbers) -> Vec<TopicStatistics> {
        let view = self.inner.routes.view();
        let now = self.now();
        let wanted = view.by_name.values().filter(|topic| uids.is_empty() || uids.contains(&topic.uid));
        wanted
            .map(|topic| {
                let known = |(at, journal)| elsewhere.get(&at).copied().or_else(|| self.numbers(at, journal).ok());
                let partitions: Vec<_> = topic.partitions().filter_map(known).collect();
                TopicStatistics {
                    uid: topic.uid,
                    name: topic.name.to_string(),
                    ready: partitions.len() as u32,
                    tiering_lag_ms: partitions.iter().map(|numbers| lag(numbers.oldest_local, now)).max().unwrap_or(0),
                    partitions,
                }
            })
            .collect()
    }

    pub(crate) fn numbers(&self, at: TopicPartition, journal: JournalId) -> Result<PartitionNumbers, Error> {
        let numbers = self.journal(journal)?.read_state(|state| {
            state.partition(at).map(|partition| PartitionNumbers {
                partition: at.partition,
                journal,
                marks: Marks {
                    high_watermark: partition.high_watermark(),
                    log_start: partition.log_start(),
                    tiered_end: partition.tiered_end(),
                    epoch: partition.epoch(),
                    leaderless: None,
                },
                local_bytes: partition.untiered_bytes(),
                tiered_bytes: partition.tiered_bytes(),
                oldest_local: partition.tail().untiered().next().map(|item| item.appended),
            })
        });
        let mut numbers = numbers.ok_or_else(|| Error::unavailable(format!("partition {at} is not open yet")))?;
        self.add_older(at, &mut numbers);
        Ok(numbers)
    }

    /// Tier objects that the journals' states refer to (those that manifests list apart), and those being uploaded or deleted.
    pub fn tier_objects(&self) -> u64 {
        let count = |journal: &tidegate_journal::Journal| {
            journal.read_state(|state| {
                let mut keys = std::collections::BTreeSet::new();
                for (_, partition) in state.partitions() {
                    keys.extend(partition.tier().map(|piece| piece.key().clone()));
                }
                let objects = state.objects();
                keys.extend(
                    objects.intended().map(|(key, _)| key.clone()).filter(|key| self.inner.keys.parse_checkpoint(key).is_none()),
                );
                keys.extend(
                    objects.condemned().map(|(key, _)| key.clone()).filter(|key| self.inner.keys.parse_checkpoint(key).is_none()),
                );
                keys.len() as u64
            })
        };
        self.inner.hosted.all().values().map(count).sum()
    }

    /// Sets the gauges from the present state and answers all numbers as text.
    pub fn metrics_text(&self) -> String {
        let statistics = self.statistics();
        let view = self.inner.routes.view();
        let hosted = self.inner.hosted.all();
        let journals = hosted.iter().chain([(&JournalId::CATALOG, &self.inner.catalog)]);
        let readings = Readings {
            wal_used_bytes: statistics.wal_used_bytes,
            wal_budget_bytes: statistics.wal_budget_bytes,
            wal_pressure: match self.inner.wal.status().pressure {
                Pressure::Normal => 0,
                Pressure::Soft => 1,
                Pressure::Hard => 2,
            },
            tier_unavailable: statistics.tier_unavailable,
            tiering_lag_ms: statistics.tiering_lag_ms,
            copied_bytes: self.inner.pacer.copied_bytes(),
            copies_waited: self.inner.pacer.waited(),
            copy_limit: self.inner.pacer.bytes_per_second(),
            write_wait_ms: self.inner.catalog.slowness().wait_ms,
            slow: self.inner.catalog.slowness().is_slow,
            turnover: self.inner.catalog.turnover(),
            journals: journals
                .map(|(id, journal)| (id.0, journal.applied().borrow().index, journal.leadership().borrow().is_self))
                .collect(),
            topics: view.by_uid.len(),
            partitions: view.by_uid.values().map(|topic| topic.journals.len()).sum(),
            tasks: tokio::runtime::Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
        };
        self.inner.metrics.set(&readings);
        self.inner.metrics.text()
    }

    /// Why the hub is not ready to serve; `None` if it is. Needs no object store.
    pub fn not_ready(&self) -> Option<String> {
        if self.inner.intake.is_cancelled() {
            return Some("the broker is shutting down".to_owned());
        }
        None
    }
}

fn oldest(journal: &tidegate_journal::Journal) -> Option<TimestampMs> {
    journal.read_state(|state| {
        state.partitions().filter_map(|(_, partition)| partition.tail().untiered().next().map(|item| item.appended)).min()
    })
}

fn lag(oldest: Option<TimestampMs>, now: TimestampMs) -> u64 {
    oldest.map_or(0, |oldest| u64::try_from(now.0 - oldest.0).unwrap_or(0))
}
