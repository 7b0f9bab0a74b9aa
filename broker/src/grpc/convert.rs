//! From the wire's words to the hub's and back, with the field named where something is wrong. (Those of the model are in
//! `tidegate_proto::convert`.)

use std::sync::Arc;

use bytes::Bytes;
use tidegate_journal::entry::{BoundObject, Management};
use tidegate_model::{LeaderEpoch, Offset, TimestampMs, TopicSettings, TopicUid};
use tidegate_proto::convert::{settings_from_wire, settings_to_wire, uid_from_wire, uid_to_wire};
use tidegate_proto::errors::{FIELD, Failure};
use tidegate_proto::v1;

use crate::hub::{Error, PartitionNumbers, PartitionRef, Position, TopicDescription};
use crate::settings::Limits;

/// A field that the wire's conversions refuse.
pub(crate) fn refused(failure: Failure) -> Error {
    let field = failure.metadata.get(FIELD).cloned().unwrap_or_default();
    Error::Invalid { field, problem: failure.message }
}

/// Settings of a new topic. What is not said is the default, as far as this hub allows it: the default message size is that of a hub with default
/// limits.
pub(crate) fn new_topic_settings(given: &v1::TopicSettings, limits: &Limits) -> Result<TopicSettings, Error> {
    let mut settings = settings_from_wire(given).map_err(refused)?;
    if given.max_message_bytes.is_none() {
        settings.max_message_bytes = settings.max_message_bytes.min(limits.max_message_bytes);
    }
    Ok(settings)
}

/// An optional uid of 16 bytes.
pub(crate) fn uid(field: &str, bytes: &Bytes) -> Result<Option<TopicUid>, Error> {
    uid_from_wire(field, bytes).map_err(refused)
}

/// A uid that must be there.
pub(crate) fn needed_uid(field: &str, bytes: &Bytes) -> Result<TopicUid, Error> {
    uid(field, bytes)?.ok_or_else(|| Error::invalid(field, "is empty: give the topic's uid"))
}

/// A partition with what the client believes to know.
pub(crate) fn partition(
    topic: &str,
    partition: i32,
    uid_field: &str,
    topic_uid: &Bytes,
    leader_epoch: Option<i32>,
) -> Result<PartitionRef, Error> {
    if topic.is_empty() {
        return Err(Error::invalid("topic", "is empty: name a topic"));
    }
    Ok(PartitionRef {
        topic: Arc::from(topic),
        topic_uid: uid(uid_field, topic_uid)?,
        partition: tidegate_model::PartitionId(partition),
        leader_epoch: leader_epoch.map(LeaderEpoch),
    })
}

/// A position that must be said.
pub(crate) fn position(field: &str, position: Option<&v1::Position>) -> Result<Position, Error> {
    let unset = || Error::invalid(field, "has nothing set: give a named position, an offset or a timestamp");
    match position.and_then(|position| position.position.as_ref()).ok_or_else(unset)? {
        v1::position::Position::Named(named) => match v1::NamedPosition::try_from(*named) {
            Ok(v1::NamedPosition::Earliest) => Ok(Position::Earliest),
            Ok(v1::NamedPosition::Latest) => Ok(Position::Latest),
            _ => Err(Error::invalid(format!("{field}.named"), format!("{named} is no position: EARLIEST (1) or LATEST (2)"))),
        },
        v1::position::Position::Offset(offset) if *offset < 0 => {
            Err(Error::invalid(format!("{field}.offset"), format!("{offset} is below 0")))
        }
        v1::position::Position::Offset(offset) => Ok(Position::Offset(Offset(*offset))),
        v1::position::Position::TimestampMs(time) if *time < 0 => {
            Err(Error::invalid(format!("{field}.timestamp_ms"), format!("{time} is below 0")))
        }
        v1::position::Position::TimestampMs(time) => Ok(Position::Timestamp(TimestampMs(*time))),
    }
}

/// An object from the wire.
pub(crate) fn object_in(object: v1::BoundObject) -> BoundObject {
    BoundObject { namespace: object.namespace, name: object.name, uid: object.uid }
}

/// An object for the wire.
pub(crate) fn object_out(object: &BoundObject) -> v1::BoundObject {
    v1::BoundObject { namespace: object.namespace.clone(), name: object.name.clone(), uid: object.uid.clone() }
}

/// Who decides, from the wire; `None` if unsaid.
pub(crate) fn management_in(given: i32) -> Result<Option<Management>, Error> {
    match v1::TopicManagement::try_from(given) {
        Ok(v1::TopicManagement::Unspecified) => Ok(None),
        Ok(v1::TopicManagement::Catalog) => Ok(Some(Management::Catalog)),
        Ok(v1::TopicManagement::Object) => Ok(Some(Management::Object)),
        Err(_) => Err(Error::invalid("management", format!("{given} is unknown"))),
    }
}

/// A topic for the wire.
pub(crate) fn topic_out(topic: &TopicDescription) -> v1::Topic {
    v1::Topic {
        name: topic.name.clone(),
        topic_uid: uid_to_wire(topic.uid),
        revision: topic.revision,
        settings: Some(settings_to_wire(&topic.settings)),
        management: match topic.management {
            Management::Catalog => v1::TopicManagement::Catalog.into(),
            Management::Object => v1::TopicManagement::Object.into(),
        },
        bound_object: topic.bound.as_ref().map(object_out),
        internal: topic.name.starts_with("__"),
        create_time_ms: topic.created.0,
        delete_time_ms: topic.deleted.map(|deleted| deleted.at.0),
        restorable_until_ms: topic.deleted.map(|deleted| deleted.restorable_until.0),
        detached: topic.detached,
    }
}

/// A partition's numbers for the wire.
pub(crate) fn numbers_out(numbers: &PartitionNumbers, leader: u32) -> v1::PartitionStatus {
    v1::PartitionStatus {
        partition: numbers.partition.0,
        log_start_offset: numbers.marks.log_start.0,
        high_watermark: numbers.marks.high_watermark.0,
        tiered_end_offset: numbers.marks.tiered_end.max(numbers.marks.log_start).0,
        leader_epoch: numbers.marks.epoch.0,
        leader: Some(leader),
        local_bytes: numbers.local_bytes,
        tiered_bytes: numbers.tiered_bytes,
        journal: numbers.journal.0,
    }
}
