//! Topics: made, changed, deleted, restored, described. The catalog decides; partitions are opened in their journals before a call
//! returns, so that the topic can be used at once.

use tidegate_env::bugs::{self, Bug};
use tidegate_env::watch;
use tidegate_journal::entry::{BoundObject, Management, Operation, Outcome, Precondition, ProducerLimits, TopicConfig, Unit};
use tidegate_journal::state::Changes;
use tidegate_model::{JournalId, Offset, TimestampMs, TopicName, TopicSettings, TopicUid};

use super::routes::{self, Topic};
use super::types::TopicDescription;
use super::{Error, Hub};

/// How long a change may take to come to the broker that asked for it.
const FOLLOW: std::time::Duration = std::time::Duration::from_secs(5);

/// Who asks for a change of a topic.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// A client: may not touch topics that an object manages.
    Client,
    /// The operator, with its epoch and the object that the topic must be bound to.
    Operator {
        /// Its epoch.
        epoch: u64,
        /// The object.
        object: Option<BoundObject>,
    },
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: TopicSettings,
    /// The object it is bound to.
    pub bound: Option<BoundObject>,
    /// Who decides over its settings.
    pub management: Management,
}

/// Changes of the catalog's topics.
#[derive(Clone, Debug)]
pub enum TopicChanges {
    /// Topics and tombstones with a greater revision than asked for, by revision.
    Since(Vec<TopicDescription>),
    /// The asker missed forgotten tombstones: it must begin anew.
    Restart,
}

impl Hub {
    /// Makes a topic, durably; it can be used when this returns, but for partitions whose journal lost its leader meanwhile: those are opened as soon
    /// as there is one again, and until then they refuse with an error that says to try again.
    pub async fn create_topic(&self, new: NewTopic, caller: &Caller) -> Result<TopicDescription, Error> {
        self.check_new_topic(&new)?;
        let uid = if bugs::on(Bug::ReuseTopicUid) {
            TopicUid(uuid::Uuid::from_u128(u128::from(tidegate_model::murmur2(new.name.as_bytes()) as u32)))
        } else {
            TopicUid(self.inner.env.random.uuid())
        };
        let journals = self.inner.laid_on(new.settings.placement_group.as_deref(), new.settings.partitions);
        let operation = Operation::CreateTopic {
            uid,
            name: new.name,
            config: config(&new.settings)?,
            journals,
            bound: new.bound,
            management: new.management,
        };
        let outcome = self.change_catalog(operation, caller).await?;
        self.settled(outcome).await
    }

    /// Checks a topic to be made; makes nothing.
    pub fn check_new_topic(&self, new: &NewTopic) -> Result<(), Error> {
        TopicName::for_client(new.name.as_str()).map_err(|error| Error::invalid("name", error.to_string()))?;
        self.check_settings(&new.settings)?;
        self.check_partition_total(new.settings.partitions)?;
        let view = self.inner.routes.view();
        match view.by_name.get(new.name.as_str()) {
            Some(topic) => Err(Error::TopicExists { topic: new.name.clone(), uid: topic.uid }),
            None => Ok(()),
        }
    }

    /// Checks settings against their own bounds and the hub's.
    pub fn check_settings(&self, settings: &TopicSettings) -> Result<(), Error> {
        settings.validate().map_err(|error| Error::invalid(format!("settings.{}", error.field), error.to_string()))?;
        let limit = self.inner.max_message_bytes;
        if settings.max_message_bytes > limit {
            return Err(Error::invalid(
                "settings.max_message_bytes",
                format!("{} is above limits.max_message_bytes, {limit}", settings.max_message_bytes),
            ));
        }
        Ok(())
    }

    /// Checks a change of settings; changes nothing.
    pub fn check_change(&self, present: &TopicSettings, next: &TopicSettings) -> Result<(), Error> {
        present.validate_change(next).map_err(|error| Error::invalid(format!("settings.{}", error.field), error.to_string()))?;
        self.check_settings(next)
    }

    /// How batches that the hub builds for a topic are compressed; `None`: as the producer asks.
    pub fn topic_compression(&self, name: &str) -> Result<Option<tidegate_model::Compression>, Error> {
        Ok(self.inner.routes.topic(name, None)?.settings.compression)
    }

    fn check_partition_total(&self, added: u32) -> Result<(), Error> {
        let present: usize = self.inner.routes.view().by_uid.values().map(|topic| topic.journals.len()).sum();
        let limit = self.inner.settings.max_partitions;
        if present as u64 + u64::from(added) > u64::from(limit) {
            let field = "settings.partitions".to_owned();
            return Err(Error::LimitExceeded { field, limit: limit.into(), setting: "hub.max_partitions" });
        }
        Ok(())
    }

    /// Changes settings: all of them are replaced.
    pub async fn alter_topic(
        &self,
        uid: TopicUid,
        expected_revision: Option<u64>,
        settings: TopicSettings,
        caller: &Caller,
    ) -> Result<TopicDescription, Error> {
        let topic = self.topic_by_uid(uid)?;
        may_change(&topic, caller)?;
        self.check_change(&topic.settings, &settings)?;
        self.check_partition_total(settings.partitions.saturating_sub(topic.journals.len() as u32))?;
        let added = settings.partitions.saturating_sub(topic.journals.len() as u32);
        let journals = self.inner.laid_on(settings.placement_group.as_deref(), added);
        let config = config(&settings)?;
        let operation = Operation::AlterTopic { uid, expected_revision, config, journals };
        let outcome = self.change_catalog(operation, caller).await?;
        self.settled(outcome).await
    }

    /// Deletes a topic: gone for clients at once, its data after the time in which it can be restored.
    pub async fn delete_topic(
        &self,
        uid: TopicUid,
        expected_revision: Option<u64>,
        caller: &Caller,
    ) -> Result<TopicDescription, Error> {
        let topic = self.topic_by_uid(uid)?;
        may_change(&topic, caller)?;
        let undo_until = TimestampMs(self.now().0.saturating_add(self.inner.settings.undelete_ms as i64));
        let mut unit = Unit::of(Operation::DeleteTopic { uid, undo_until });
        unit.preconditions.extend(expected_revision.map(|revision| Precondition::TopicRevision { topic: uid, revision }));
        fence(&mut unit, caller);
        let outcome = self.catalog_unit(unit).await?;
        self.settled(outcome).await
    }

    /// Restores a deleted topic with its data.
    pub async fn undelete_topic(&self, uid: TopicUid, caller: &Caller) -> Result<TopicDescription, Error> {
        let outcome = self.change_catalog(Operation::UndeleteTopic { uid }, caller).await?;
        self.settled(outcome).await
    }

    /// The deleted topics of a name that can be restored.
    pub fn deleted_topics(&self, name: &str) -> Vec<TopicDescription> {
        self.inner.catalog.read_state(|state| {
            let topics = state.catalog().topics().filter(|topic| topic.tombstone.is_some() && topic.name == name);
            topics.map(routes::describe).collect()
        })
    }

    /// Binds a topic to an object, or releases it.
    pub async fn bind_topic(
        &self,
        uid: TopicUid,
        expected: Option<BoundObject>,
        object: Option<BoundObject>,
        management: Option<Management>,
        caller: &Caller,
    ) -> Result<TopicDescription, Error> {
        let topic = self.topic_by_uid(uid)?;
        let management = management.unwrap_or(topic.management);
        let outcome = self.change_catalog(Operation::BindTopic { uid, expected, object, management }, caller).await?;
        self.settled(outcome).await
    }

    /// Raises the operator's epoch by one and answers it.
    pub async fn claim_operator(&self) -> Result<u64, Error> {
        let epoch = self.operator_epoch() + 1;
        self.catalog_unit(Unit::of(Operation::SetOperatorEpoch { epoch })).await?;
        Ok(epoch)
    }

    /// The epoch below which operators are fenced.
    pub fn operator_epoch(&self) -> u64 {
        self.inner.catalog.read_state(|state| state.catalog().operator_epoch())
    }

    /// A living topic.
    pub fn topic(&self, name: &str) -> Result<TopicDescription, Error> {
        Ok(self.inner.routes.topic(name, None)?.describe())
    }

    /// A topic or tombstone by uid.
    pub fn topic_described(&self, uid: TopicUid) -> Result<TopicDescription, Error> {
        self.inner
            .catalog
            .read_state(|state| state.catalog().topic(uid).map(routes::describe))
            .ok_or_else(|| self.inner.routes.unknown(uid.to_string()))
    }

    pub(super) fn topic_by_uid(&self, uid: TopicUid) -> Result<std::sync::Arc<Topic>, Error> {
        let view = self.inner.routes.view();
        view.by_uid.get(&uid).cloned().ok_or_else(|| self.inner.routes.unknown(uid.to_string()))
    }

    /// Topics by name, from a name on (exclusive); with tombstones if asked to.
    pub fn list_topics(&self, prefix: &str, after: &str, limit: usize, deleted: Listing) -> Vec<TopicDescription> {
        let mut topics: Vec<_> = self.inner.catalog.read_state(|state| {
            let wanted = state.catalog().topics().filter(|topic| {
                (deleted == Listing::WithDeleted || topic.tombstone.is_none())
                    && topic.name.starts_with(prefix)
                    && topic.name.as_str() > after
            });
            wanted.map(routes::describe).collect()
        });
        topics.sort_by(|a, b| (&a.name, a.revision).cmp(&(&b.name, b.revision)));
        // A page never parts topics of one name, or the next page would leave some out.
        while topics.len() > limit {
            let last = topics.len() - 1;
            if limit > 0 && topics[last].name == topics[limit - 1].name {
                break;
            }
            topics.pop();
        }
        topics
    }

    /// Changes after a revision of the catalog, and the revision up to which they go.
    pub fn topic_changes(&self, after: u64) -> (u64, TopicChanges) {
        self.inner.catalog.read_state(|state| {
            let catalog = state.catalog();
            let changes = match catalog.changes_since(after) {
                Changes::Since(topics) => TopicChanges::Since(topics.into_iter().map(routes::describe).collect()),
                Changes::Restart => TopicChanges::Restart,
            };
            (catalog.revision(), changes)
        })
    }

    /// Wakes when the catalog may have changed.
    pub fn catalog_changes(&self) -> watch::Receiver<u64> {
        self.inner.catalog.catalog_changes()
    }

    async fn change_catalog(&self, operation: Operation, caller: &Caller) -> Result<Outcome, Error> {
        let mut unit = Unit::of(operation);
        fence(&mut unit, caller);
        self.catalog_unit(unit).await
    }

    async fn catalog_unit(&self, unit: Unit) -> Result<Outcome, Error> {
        let outcome = self.propose(JournalId::CATALOG, unit).await?;
        if let Outcome::Topic { revision, .. } = outcome {
            self.follow_to(revision).await?;
        }
        self.inner.catalog.read_state(|state| self.inner.routes.refresh(state.catalog()));
        Ok(outcome)
    }

    /// Waits until this broker's catalog shows a change that was made, maybe on another broker.
    async fn follow_to(&self, revision: u64) -> Result<(), Error> {
        let catalog = &self.inner.catalog;
        let mut changes = catalog.catalog_changes();
        let deadline = self.inner.env.clock.sleep(FOLLOW);
        tokio::pin!(deadline);
        while catalog.read_state(|state| state.catalog().revision()) < revision {
            tokio::select! {
                biased;
                changed = changes.changed() => changed.map_err(|_| Error::ShuttingDown)?,
                () = &mut deadline => {
                    return Err(Error::unavailable("the change was made, but this broker does not show it yet"));
                }
            }
        }
        Ok(())
    }

    /// Opens what a change of a topic added, and describes the topic.
    async fn settled(&self, outcome: Outcome) -> Result<TopicDescription, Error> {
        let Outcome::Topic { uid, .. } = outcome else {
            return Err(Error::internal(format!("a change of a topic came to {outcome:?}")));
        };
        match self.open_partitions(Some(uid)).await {
            // The change is committed, and whoever leads the journal next opens what is missing: an error would only have it tried again in vain.
            Err(error) if error.passes() => {
                tracing::warn!(topic = %uid, %error, "some partitions of a topic are opened as soon as their journal has a leader");
            }
            other => other?,
        }
        self.topic_described(uid)
    }

    /// Opens the partitions that the catalog has and their journals have not: of one topic wherever they are, or of all journals that are led here.
    pub(crate) async fn open_partitions(&self, only: Option<TopicUid>) -> Result<(), Error> {
        let homes: Vec<_> = self.inner.catalog.read_state(|state| {
            let topics = state.catalog().topics().filter(|topic| only.is_none_or(|uid| topic.uid == uid));
            topics.flat_map(|topic| topic.current_homes().map(move |(number, home)| (topic.uid, number, *home))).collect()
        });
        let (mut waiting, mut refused) = (Vec::new(), Ok(()));
        for (topic, number, home) in homes {
            let at = tidegate_model::TopicPartition { topic, partition: number };
            // What is held elsewhere is opened again: that changes nothing.
            let hosted = self.journal(home.journal);
            let led = hosted.as_ref().is_ok_and(|journal| journal.leadership().borrow().is_self);
            if only.is_none() && !led && !self.inner.is_alone() {
                continue;
            }
            let open = hosted.is_ok_and(|journal| {
                journal.read_state(|state| state.partition(at).is_some_and(|open| open.generation() >= home.generation))
            });
            if !open {
                let operation = Operation::OpenPartition {
                    at,
                    generation: home.generation,
                    first_offset: if home.generation == 0 { Offset(0) } else { home.first_offset },
                    first_epoch: tidegate_model::LeaderEpoch(0),
                    limits: ProducerLimits::default(),
                };
                waiting.push(self.submit_unit(home.journal, Unit::of(operation)).await);
            }
        }
        // One that cannot be opened now keeps no other from it.
        for ticket in waiting {
            let opened = match ticket {
                Ok(ticket) => super::applied(ticket.await).map(|_| ()),
                Err(error) => Err(error),
            };
            refused = refused.and(opened);
        }
        refused
    }
}

/// Whether deleted topics are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Living topics only.
    Living,
    /// Those that can be restored, too.
    WithDeleted,
}

fn config(settings: &TopicSettings) -> Result<TopicConfig, Error> {
    Ok(TopicConfig {
        partitions: settings.partitions,
        placement_group: settings.placement_group.clone(),
        settings: serde_json::to_string(settings).map_err(Error::internal)?,
    })
}

fn fence(unit: &mut Unit, caller: &Caller) {
    if let Caller::Operator { epoch, .. } = caller {
        unit.preconditions.push(Precondition::OperatorEpoch { epoch: *epoch });
    }
}

/// A client may not change what an object manages; the operator only what is bound to the object it speaks for.
fn may_change(topic: &Topic, caller: &Caller) -> Result<(), Error> {
    match caller {
        Caller::Client if topic.management == Management::Object => {
            let object = topic.bound.as_ref().map_or_else(String::new, |object| format!("{}/{}", object.namespace, object.name));
            Err(Error::TopicManaged { topic: topic.name.to_string(), object })
        }
        Caller::Operator { object: Some(object), .. } if topic.bound.as_ref() != Some(object) => {
            let bound = topic
                .bound
                .as_ref()
                .map_or_else(|| "no object".to_owned(), |object| format!("{}/{}", object.namespace, object.name));
            Err(Error::BindingMismatch {
                problem: format!("topic `{}` is bound to {bound}, not to {}/{}", topic.name, object.namespace, object.name),
            })
        }
        _ => Ok(()),
    }
}
