//! What to do next about one Topic: a pure function of the object, its hub's catalog and the little else that matters.
//!
//! docs/topic-matrix.md has the whole table of object × entry; each of its cells is a test here or against a real API server. A plan is one
//! step: after it the object is looked at again, so being killed between two steps is nothing special. Absence never deletes: an entry is
//! deleted only by its uid, for an object that asks for it and is bound to it.

use tidegate_crd::{DeletionPolicy, Management, Topic, TopicSpec};
use tidegate_model::TopicUid;
use tidegate_proto::v1;
use uuid::Uuid;

use super::settings;
use crate::catalog::{Entry, Mirror, ObjectId};

/// On objects whose deletion deletes the topic.
pub const FINALIZER: &str = "tidegate.dev/topic";
/// On an object: its value, the uid of a topic that is gone, asks for a new topic in its place.
pub const RECREATE: &str = "tidegate.dev/recreate";
/// On an object that the operator made: the topic that it was made for.
pub const ADOPTED: &str = "tidegate.dev/adopted-topic";

/// The hub as far as a plan needs it.
#[derive(Clone, Copy, Debug)]
pub enum HubView<'a> {
    /// There is no such Hub.
    Missing,
    /// It is being deleted.
    Going,
    /// Another installation acts on it, and on its topics.
    Elsewhere,
    /// Its catalog is not known now.
    Unknown {
        /// Why.
        why: &'a str,
        /// Whether that has lasted so long that it should be said.
        is_long: bool,
    },
    /// Its catalog.
    Known(&'a Mirror),
}

/// Something that has to be looked up freshly before a plan may rest on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fact {
    /// Not looked up.
    #[default]
    Unknown,
    /// It is so.
    Yes,
    /// It is not so.
    No,
}

/// All that a plan rests on.
pub struct Seen<'a> {
    /// The object.
    pub object: &'a Topic,
    /// Its hub.
    pub hub: HubView<'a>,
    /// Whether the hub is paused.
    pub is_paused: bool,
    /// Whether a broker of the hub has served clients yet: the catalog is known a little before.
    pub is_served: bool,
    /// Whether the namespace, or the whole kind, is being deleted.
    pub namespace_going: Fact,
    /// Whether the other object that the topic is bound to is gone.
    pub other_gone: Fact,
    /// Whether a deletion has waited long enough for the hub.
    pub waited: bool,
}

/// A wish to delete a topic of a hub that is out of reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The topic.
    pub uid: TopicUid,
    /// Its name.
    pub name: String,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Look whether the namespace is being deleted.
    CheckNamespace,
    /// Look whether another object is gone.
    CheckOther(ObjectId),
    /// Put our finalizer on the object.
    AddFinalizer,
    /// Take our finalizer off; the text says why nothing is deleted, where that could surprise.
    Release(Option<String>),
    /// Write the wish down at the Hub.
    Note(Wish),
    /// Make the topic.
    Create(v1::TopicSettings),
    /// Write down that the object is about to be bound to a topic that exists.
    MarkAdopted(TopicUid),
    /// Bind the topic to the object.
    Bind {
        /// The topic.
        uid: TopicUid,
        /// The object that it is bound to now.
        expected: Option<ObjectId>,
    },
    /// Change the topic's settings.
    Alter {
        /// The topic.
        uid: TopicUid,
        /// The revision that was looked at.
        revision: u64,
        /// All settings.
        settings: v1::TopicSettings,
    },
    /// Make the object's spec follow the catalog.
    Follow(Box<TopicSpec>),
    /// Delete the topic.
    Delete(TopicUid),
    /// Delete the object, whose topic was deleted where its management is.
    DeleteObject,
    /// Nothing more; this is how it stands.
    Rest(Report),
    /// Nothing now, and nothing new to say.
    Wait,
}

/// Whether the topic is as the object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// It is not.
    NotReady,
    /// Nobody knows.
    Unknown,
}

/// How a topic stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whether it is as the object says.
    pub readiness: Readiness,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people, with the way out.
    pub message: String,
    /// Whether somebody has to decide something.
    pub degraded: bool,
    /// Settings that differ while the catalog's values stand.
    pub drift: Vec<String>,
    /// The topic.
    pub entry: Option<Entry>,
}

impl Report {
    /// A problem that waits for somebody.
    pub fn problem(reason: &'static str, message: String) -> Report {
        Report { readiness: Readiness::NotReady, reason, message, degraded: true, drift: Vec::new(), entry: None }
    }
}

/// The next step for an object.
pub fn plan(seen: &Seen<'_>) -> Next {
    if seen.object.metadata.deletion_timestamp.is_some() { farewell(seen) } else { keep(seen) }
}

fn has_finalizer(object: &Topic) -> bool {
    object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The identity of an object in the catalog's words.
pub fn identity(object: &Topic) -> ObjectId {
    ObjectId {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The topic that an object belongs to, as its status (or, for one that the operator made, its annotation) says.
pub fn recorded(object: &Topic) -> Option<TopicUid> {
    Uuid::parse_str(recorded_text(object)?).ok().map(TopicUid)
}

/// The same as it is written.
pub fn recorded_text(object: &Topic) -> Option<&str> {
    let status = object.status.as_ref().and_then(|status| status.topic_uid.as_deref());
    status.or_else(|| annotation(object, ADOPTED))
}

fn annotation<'a>(object: &'a Topic, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// An object that is being deleted.
fn farewell(seen: &Seen<'_>) -> Next {
    let object = seen.object;
    if !has_finalizer(object) {
        return Next::Wait;
    }
    match seen.namespace_going {
        Fact::Unknown => return Next::CheckNamespace,
        Fact::Yes => {
            return Next::Release(Some(
                "its namespace (or its kind) is being deleted: the topic's data stays in the object store".to_owned(),
            ));
        }
        Fact::No => {}
    }
    if object.spec.deletion_policy == DeletionPolicy::Retain {
        return Next::Release(None);
    }
    let mine = identity(object);
    match seen.hub {
        HubView::Missing | HubView::Going => {
            Next::Release(Some("its hub is gone or going: the topic's data stays in the object store".to_owned()))
        }
        HubView::Elsewhere if seen.waited => Next::Release(Some(
            "the operator that acts on its hub does not answer: the topic's data stays in the object store".to_owned(),
        )),
        HubView::Elsewhere => Next::Wait,
        HubView::Unknown { .. } if !seen.waited => Next::Wait,
        HubView::Unknown { .. } => match recorded(object) {
            Some(uid) => Next::Note(Wish { uid, name: object.spec.topic_name(&mine.name).to_owned() }),
            None => Next::Release(None),
        },
        HubView::Known(mirror) => match mirror.by_object(&mine.uid) {
            Some(entry) => Next::Delete(entry.uid),
            None => Next::Release(None),
        },
    }
}

/// An object that stays.
fn keep(seen: &Seen<'_>) -> Next {
    let object = seen.object;
    let mirror = match seen.hub {
        HubView::Missing => {
            let hub = object.spec.hub_ref.as_ref().map_or("", |hub| hub.name.as_str());
            let message = format!("there is no Hub `{hub}` in this namespace: make it, or make a Topic for another hub");
            return Next::Rest(Report { degraded: false, ..Report::problem("HubNotFound", message) });
        }
        HubView::Going => {
            let message = "the hub is being deleted: nothing is done for its topics".to_owned();
            return Next::Rest(Report { degraded: false, ..Report::problem("HubGoing", message) });
        }
        // Its status is the other's to write: the Hub's condition says who that is.
        HubView::Elsewhere => return Next::Wait,
        HubView::Unknown { is_long: false, .. } => return Next::Wait,
        HubView::Unknown { why, .. } => {
            let report = Report::problem("HubUnreachable", format!("the hub's catalog is not known now: {why}"));
            return Next::Rest(Report { readiness: Readiness::Unknown, degraded: false, ..report });
        }
        HubView::Known(mirror) => mirror,
    };
    if seen.is_paused {
        return Next::Wait;
    }
    let wants_finalizer = object.spec.deletion_policy == DeletionPolicy::Delete;
    match (wants_finalizer, has_finalizer(object)) {
        (true, false) => return Next::AddFinalizer,
        (false, true) => return Next::Release(None),
        _ => {}
    }
    if let Some(entry) = mirror.by_object(&identity(object).uid) {
        return converge(seen, entry);
    }
    match recorded(object) {
        None => named(seen, mirror),
        Some(uid) => match mirror.by_uid(uid) {
            Some(entry) if !entry.deleted => take_up(seen, entry),
            gone => lost(seen, mirror, uid, gone),
        },
    }
}

/// An object that is bound to nothing and remembers nothing: by name.
fn named(seen: &Seen<'_>, mirror: &Mirror) -> Next {
    let object = seen.object;
    let name = object.metadata.name.clone().unwrap_or_default();
    match object.spec.resolve(&name) {
        Err((field, message)) => Next::Rest(Report::problem("Invalid", format!("{field}: {message}"))),
        Ok(spec) => match mirror.by_name(&spec.name) {
            Some(entry) => take_up(seen, entry),
            None => Next::Create(settings::fresh(&spec)),
        },
    }
}

/// A living topic that the object is not bound to and should be.
fn take_up(seen: &Seen<'_>, entry: &Entry) -> Next {
    let object = seen.object;
    if let Some(other) = &entry.bound {
        let mine = identity(object);
        // The same name under another uid: the object that was bound is surely gone.
        let replaced = other.namespace == mine.namespace && other.name == mine.name;
        match seen.other_gone {
            _ if replaced => {}
            Fact::Yes => {}
            Fact::Unknown => return Next::CheckOther(other.clone()),
            Fact::No => {
                let message = format!(
                    "topic `{}` belongs to Topic {}/{}: give this object another spec.topicName by making it anew, or delete the other",
                    entry.name, other.namespace, other.name
                );
                return Next::Rest(Report::problem("NameConflict", message));
            }
        }
    }
    let status = object.status.as_ref();
    let marked = status.and_then(|status| status.topic_uid.as_deref()) == Some(entry.uid.to_string().as_str())
        && status.and_then(|status| status.adopted_generation) == object.metadata.generation;
    if !marked {
        return Next::MarkAdopted(entry.uid);
    }
    Next::Bind { uid: entry.uid, expected: entry.bound.clone() }
}

/// The recorded topic is deleted or unknown.
fn lost(seen: &Seen<'_>, mirror: &Mirror, uid: TopicUid, tombstone: Option<&Entry>) -> Next {
    let object = seen.object;
    if annotation(object, RECREATE) == Some(uid.to_string().as_str()) {
        return named(seen, mirror);
    }
    let ask = format!("kubectl annotate topic {} {RECREATE}={uid}", object.metadata.name.as_deref().unwrap_or_default());
    match tombstone {
        Some(_) if object.spec.management == Management::Catalog => Next::DeleteObject,
        Some(_) => Next::Rest(Report::problem(
            "TopicDeletedElsewhere",
            format!(
                "topic {uid} was deleted, and not through this object: restore it within 24 h (`tidegate topic undelete`), delete this object, or ask for a new, empty topic: {ask}"
            ),
        )),
        None => Next::Rest(Report::problem(
            "TopicMissing",
            format!("the hub knows no topic {uid} and of no deletion: recover it, or ask for a new, empty topic: {ask}"),
        )),
    }
}

/// A bound topic: make it as the object says, or the object as the catalog says.
fn converge(seen: &Seen<'_>, entry: &Entry) -> Next {
    let object = seen.object;
    let follows = object.spec.management == Management::Catalog;
    if follows != entry.catalog_managed {
        return Next::Bind { uid: entry.uid, expected: entry.bound.clone() };
    }
    if follows {
        let spec = settings::following(&object.spec, &entry.settings);
        return if spec == object.spec { Next::Rest(serving(seen, entry, Vec::new())) } else { Next::Follow(Box::new(spec)) };
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    let spec = match object.spec.resolve(&name) {
        Ok(spec) => spec,
        Err((field, message)) => return Next::Rest(Report::problem("Invalid", format!("{field}: {message}"))),
    };
    let wanted = settings::wanted(&spec, &entry.settings);
    let adopted = object.status.as_ref().and_then(|status| status.adopted_generation);
    if wanted == entry.settings || (adopted.is_some() && adopted == object.metadata.generation) {
        return Next::Rest(serving(seen, entry, settings::differences(&spec, &entry.settings)));
    }
    Next::Alter { uid: entry.uid, revision: entry.revision, settings: wanted }
}

fn serving(seen: &Seen<'_>, entry: &Entry, drift: Vec<String>) -> Report {
    // Ready means that clients can use it, so not before the Hub is Available. What is Ready stays so: brokers come and go.
    if !seen.is_served && !is_ready(seen.object) {
        let message = format!("topic `{}` is made; no broker of the hub is ready for clients yet", entry.name);
        let report = Report::problem("HubNotAvailable", message);
        return Report { degraded: false, entry: Some(entry.clone()), ..report };
    }
    Report {
        readiness: Readiness::Ready,
        reason: "Serving",
        message: format!("topic `{}` takes and gives records", entry.name),
        degraded: false,
        drift,
        entry: Some(entry.clone()),
    }
}

fn is_ready(object: &Topic) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
