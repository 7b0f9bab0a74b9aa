//! Where partitions live: a shared, immutable view of the catalog's living topics, made anew when the catalog changes. The hot path
//! takes one read lock for a moment and no lock of a journal's state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tidegate_env::watch;
use tidegate_journal::Journal;
use tidegate_journal::entry::{BoundObject, Management};
use tidegate_journal::state::{self, Catalog};
use tidegate_model::{JournalId, Offset, PartitionId, TimestampMs, TopicPartition, TopicSettings, TopicUid};

use super::types::{Deleted, TopicDescription};
use super::{Error, PartitionRef};

/// A journal that holds older records of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OlderHome {
    pub(crate) journal: JournalId,
    pub(crate) first: Offset,
    /// One past its last offset.
    pub(crate) end: Offset,
}

/// A living topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) uid: TopicUid,
    pub(crate) name: Arc<str>,
    pub(crate) revision: u64,
    pub(crate) settings: TopicSettings,
    pub(crate) management: Management,
    pub(crate) bound: Option<BoundObject>,
    pub(crate) detached: bool,
    pub(crate) created: TimestampMs,
    /// The present journal of each partition.
    pub(crate) journals: Vec<JournalId>,
    /// Where the older records of partitions are that have moved, oldest first.
    pub(crate) older: BTreeMap<PartitionId, Vec<OlderHome>>,
}

impl Topic {
    pub(crate) fn describe(&self) -> TopicDescription {
        TopicDescription {
            name: self.name.to_string(),
            uid: self.uid,
            revision: self.revision,
            settings: self.settings.clone(),
            management: self.management,
            bound: self.bound.clone(),
            detached: self.detached,
            created: self.created,
            deleted: None,
        }
    }

    /// The partitions with their journals.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (TopicPartition, JournalId)> {
        self.journals
            .iter()
            .zip(0..)
            .map(|(journal, partition)| (TopicPartition { topic: self.uid, partition: PartitionId(partition) }, *journal))
    }
}

/// A partition found.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) topic: Arc<Topic>,
    pub(crate) at: TopicPartition,
    pub(crate) journal: JournalId,
}

impl Route {
    /// Where the partition's older records are, oldest first.
    pub(crate) fn older(&self) -> &[OlderHome] {
        self.topic.older.get(&self.at.partition).map_or(&[], Vec::as_slice)
    }

    /// The home that holds an offset, where it is an older one.
    pub(crate) fn older_home(&self, offset: Offset) -> Option<Route> {
        self.older().iter().find(|home| offset < home.end).map(|home| self.in_home(home))
    }

    /// The same partition in an older home.
    pub(crate) fn in_home(&self, home: &OlderHome) -> Route {
        Route { journal: home.journal, ..self.clone() }
    }
}

/// The living topics at one revision of the catalog.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) revision: u64,
    pub(crate) by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(crate) by_uid: HashMap<TopicUid, Arc<Topic>>,
}

/// The present view, shared.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    view: RwLock<Arc<View>>,
    /// The catalog of a broker among others, which may lag behind what they have acknowledged.
    catalog: OnceLock<Journal>,
    /// Counts the times that partitions moved.
    moved: watch::Sender<u64>,
}

impl Routes {
    /// Says that there are other brokers: what this one's catalog lacks counts as missing only while it is caught up.
    pub(crate) fn among_others(&self, catalog: &Journal) {
        let _ = self.catalog.set(catalog.clone());
    }

    /// A topic that the view does not have.
    pub(crate) fn unknown(&self, topic: impl Into<String>) -> Error {
        if self.catalog.get().is_some_and(|catalog| !catalog.is_caught_up()) {
            return Error::unavailable(
                "this broker has not heard yet which topics there are: the catalog has no leader, or it was just started",
            );
        }
        Error::UnknownTopic { topic: topic.into() }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Takes the catalog's topics over if they changed. Topics that did not change are shared with the view before.
    pub(crate) fn refresh(&self, catalog: &Catalog) {
        let before = self.view();
        if before.revision >= catalog.revision() && catalog.revision() > 0 {
            return;
        }
        let mut view = View { revision: catalog.revision(), ..View::default() };
        let mut moved = false;
        for topic in catalog.topics().filter(|topic| topic.tombstone.is_none()) {
            let known = before.by_uid.get(&topic.uid).filter(|known| known.revision == topic.revision);
            let shared = known.map_or_else(|| Arc::new(read(topic)), Arc::clone);
            moved |= before.by_uid.get(&topic.uid).is_some_and(|known| !shared.journals.starts_with(&known.journals));
            view.by_name.insert(Arc::clone(&shared.name), Arc::clone(&shared));
            view.by_uid.insert(topic.uid, shared);
        }
        let mut place = self.view.write();
        if place.revision < view.revision {
            *place = Arc::new(view);
        }
        drop(place);
        if moved {
            self.moved.send_modify(|count| *count += 1);
        }
    }

    /// Wakes when partitions have moved to other journals: whoever waits for records of them looks at the new ones.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// A living topic by name, checked against the uid that the caller expects.
    pub(crate) fn topic(&self, name: &str, uid: Option<TopicUid>) -> Result<Arc<Topic>, Error> {
        let view = self.view();
        let topic = view.by_name.get(name).ok_or_else(|| self.unknown(name))?;
        match uid {
            Some(expected) if expected != topic.uid => {
                Err(Error::TopicUidMismatch { topic: name.to_owned(), expected, actual: topic.uid })
            }
            _ => Ok(Arc::clone(topic)),
        }
    }

    /// Where a partition lives.
    pub(crate) fn route(&self, at: &PartitionRef) -> Result<Route, Error> {
        let topic = self.topic(&at.topic, at.topic_uid)?;
        let journal = usize::try_from(at.partition.0).ok().and_then(|partition| topic.journals.get(partition)).copied();
        let Some(journal) = journal else {
            return Err(Error::UnknownPartition {
                topic: at.topic.to_string(),
                partition: at.partition.0,
                partitions: topic.journals.len() as u32,
            });
        };
        let at = TopicPartition { topic: topic.uid, partition: at.partition };
        Ok(Route { topic, at, journal })
    }
}

fn read(topic: &state::Topic) -> Topic {
    Topic {
        uid: topic.uid,
        name: Arc::from(topic.name.as_str()),
        revision: topic.revision,
        settings: settings_of(topic),
        management: topic.management,
        bound: topic.bound.clone(),
        detached: topic.is_detached(),
        created: topic.created,
        journals: topic.current_homes().map(|(_, home)| home.journal).collect(),
        older: topic.homes.iter().zip(0..).filter_map(|(homes, number)| Some((PartitionId(number), older(homes)?))).collect(),
    }
}

fn older(homes: &[state::Home]) -> Option<Vec<OlderHome>> {
    let homes = || homes.iter().filter(|home| !home.is_pending());
    let pairs = homes().zip(homes().skip(1));
    let older = |(home, next): (&state::Home, &state::Home)| OlderHome {
        journal: home.journal,
        first: home.first_offset,
        end: next.first_offset,
    };
    Some(pairs.map(older).collect::<Vec<_>>()).filter(|older| !older.is_empty())
}

/// The settings that the catalog keeps as text. What a newer build wrote and this one cannot read counts as the defaults with the right
/// number of partitions: such a topic stays readable and unlimited in time.
pub(crate) fn settings_of(topic: &state::Topic) -> TopicSettings {
    match serde_json::from_str::<TopicSettings>(&topic.config.settings) {
        Ok(settings) => TopicSettings { partitions: topic.config.partitions, ..settings },
        Err(error) => {
            tracing::error!(topic = %topic.name, %error, "settings in the catalog cannot be read; taking the defaults");
            TopicSettings { partitions: topic.config.partitions, ..TopicSettings::default() }
        }
    }
}

/// A topic or tombstone as callers see it.
pub(crate) fn describe(topic: &state::Topic) -> TopicDescription {
    TopicDescription {
        name: topic.name.clone(),
        uid: topic.uid,
        revision: topic.revision,
        settings: settings_of(topic),
        management: topic.management,
        bound: topic.bound.clone(),
        detached: topic.is_detached(),
        created: topic.created,
        deleted: topic.tombstone.map(|tombstone| Deleted { at: tombstone.deleted, restorable_until: tombstone.undo_until }),
    }
}
