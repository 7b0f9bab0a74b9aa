//! Units, their outcomes and errors between brokers.

use bytes::Bytes;
use tidegate_journal::entry::{Appended, Entry, EntryPayload, Outcome, Outcomes, Sealed, Unit, UnitOutcome};
use tidegate_model::{JournalId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicUid};
use tidegate_proto::errors::Failure;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::outcome::Kind;
use tidegate_proto::v1;
use uuid::Uuid;

use crate::grpc::failure;
use crate::hub::{Error, refused};

/// A unit as it is sent; copies its batches.
pub(crate) fn unit_out(unit: Unit) -> Result<Bytes, Error> {
    let entry = Entry { time: TimestampMs(0), units: vec![unit] };
    let (payload, _) = EntryPayload::encode(entry).map_err(Error::internal)?;
    Ok(payload.to_bytes())
}

pub(crate) fn unit_in(bytes: Bytes) -> Result<Unit, Error> {
    let payload = EntryPayload::decode(bytes).map_err(|error| Error::invalid("units", error.to_string()))?;
    let mut units = payload.to_units();
    match (units.pop(), units.is_empty()) {
        (Some(unit), true) => Ok(unit),
        _ => Err(Error::invalid("units", "holds an entry that is not of one unit")),
    }
}

pub(crate) fn error_out(error: Error) -> v1::Error {
    failure(error).into_message()
}

pub(crate) fn error_in(error: v1::Error) -> Error {
    Error::Told(Box::new(Failure::from(error)))
}

pub(crate) fn result_out(result: Result<UnitOutcome, Error>) -> wired::UnitResult {
    match result {
        Ok(UnitOutcome::Applied(outcomes)) => {
            wired::UnitResult { error: None, outcomes: outcomes.iter().map(outcome_out).collect() }
        }
        Ok(UnitOutcome::Refused { refusal, .. }) => result_out(Err(refused(*refusal))),
        Err(error) => wired::UnitResult { error: Some(error_out(error)), outcomes: Vec::new() },
    }
}

pub(crate) fn result_in(result: wired::UnitResult) -> Result<UnitOutcome, Error> {
    if let Some(error) = result.error {
        return Err(error_in(error));
    }
    let outcomes: Vec<Outcome> = result.outcomes.into_iter().map(outcome_in).collect::<Result<_, _>>()?;
    Ok(UnitOutcome::Applied(match <[Outcome; 1]>::try_from(outcomes) {
        Ok([only]) => Outcomes::One(only),
        Err(many) => Outcomes::Many(many),
    }))
}

fn outcome_out(outcome: &Outcome) -> wired::Outcome {
    let kind = match outcome {
        Outcome::Done => None,
        Outcome::Appended(appended) => Some(Kind::Appended(wired::Appended {
            base: appended.base.0,
            epoch: appended.epoch.0,
            log_start: appended.log_start.0,
            duplicate: appended.duplicate,
            time_ms: appended.time.0,
        })),
        Outcome::Topic { uid, revision } => Some(Kind::Topic(wired::Revised { topic_uid: uuid_out(uid.0), revision: *revision })),
        Outcome::ProducerIds { first, count } => Some(Kind::ProducerIds(wired::ProducerIds { first: first.0, count: *count })),
        Outcome::NamedProducer { id, epoch, window } => {
            let (epoch, window) = (i32::from(epoch.0), u32::from(*window));
            Some(Kind::NamedProducer(wired::NamedProducer { id: id.0, epoch, window }))
        }
        Outcome::JournalsAdded { first, count } => {
            Some(Kind::JournalsAdded(wired::JournalsAdded { first: first.0, count: *count }))
        }
        Outcome::Replica { id } => Some(Kind::Replica(*id)),
        Outcome::Trimmed { log_start } => Some(Kind::Trimmed(log_start.0)),
        Outcome::Sealed(sealed) => Some(Kind::Sealed(sealed.encode())),
    };
    wired::Outcome { kind }
}

fn outcome_in(outcome: wired::Outcome) -> Result<Outcome, Error> {
    Ok(match outcome.kind {
        None => Outcome::Done,
        Some(Kind::Appended(appended)) => Outcome::Appended(Appended {
            base: Offset(appended.base),
            epoch: LeaderEpoch(appended.epoch),
            log_start: Offset(appended.log_start),
            duplicate: appended.duplicate,
            time: TimestampMs(appended.time_ms),
        }),
        Some(Kind::Topic(topic)) => {
            Outcome::Topic { uid: TopicUid(uuid_in("topic_uid", &topic.topic_uid)?), revision: topic.revision }
        }
        Some(Kind::ProducerIds(ids)) => Outcome::ProducerIds { first: ProducerId(ids.first), count: ids.count },
        Some(Kind::NamedProducer(named)) => Outcome::NamedProducer {
            id: ProducerId(named.id),
            epoch: ProducerEpoch(i16::try_from(named.epoch).map_err(Error::internal)?),
            window: u8::try_from(named.window).map_err(Error::internal)?,
        },
        Some(Kind::JournalsAdded(added)) => Outcome::JournalsAdded { first: JournalId(added.first), count: added.count },
        Some(Kind::Replica(id)) => Outcome::Replica { id },
        Some(Kind::Trimmed(log_start)) => Outcome::Trimmed { log_start: Offset(log_start) },
        Some(Kind::Sealed(sealed)) => Outcome::Sealed(Box::new(Sealed::decode(&sealed).map_err(Error::internal)?)),
    })
}

pub(crate) fn uuid_out(uuid: Uuid) -> Bytes {
    Bytes::copy_from_slice(uuid.as_bytes())
}

pub(crate) fn uuid_in(field: &str, bytes: &[u8]) -> Result<Uuid, Error> {
    Uuid::from_slice(bytes).map_err(|_| Error::invalid(field, format!("has {} bytes; a uuid has 16", bytes.len())))
}
