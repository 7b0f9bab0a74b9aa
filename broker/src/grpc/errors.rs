//! The one table from the hub's errors to those of the gRPC interface.

use tidegate_proto::errors::{FIELD, Failure, LIMIT, Reason};

use crate::hub::Error;

/// The hub's error as clients see it.
pub(crate) fn failure(error: Error) -> Failure {
    let message = error.to_string();
    let of = |reason| Failure::new(reason, message.clone());
    match error {
        Error::UnknownTopic { topic } => of(Reason::UnknownTopic).with("topic", topic),
        Error::UnknownPartition { partition, partitions, .. } => {
            of(Reason::UnknownPartition).with("partition", partition).with(LIMIT, partitions)
        }
        Error::TopicUidMismatch { topic, actual, .. } => {
            of(Reason::TopicUidMismatch).with("topic", topic).with("topic_uid", actual)
        }
        Error::TopicExists { topic, uid } => of(Reason::TopicExists).with("topic", topic).with("topic_uid", uid),
        Error::TopicManaged { object, .. } => of(Reason::TopicManaged).with("object", object),
        Error::TopicNotRestorable { topic, .. } => of(Reason::TopicNotRestorable).with("topic", topic),
        Error::Invalid { field, .. } => of(Reason::InvalidArgument).with(FIELD, field),
        Error::InvalidBatch { field, .. } => of(Reason::InvalidBatch).with(FIELD, field),
        Error::TooLarge { field, limit, setting, .. } => {
            of(Reason::MessageTooLarge).with(FIELD, field).with(LIMIT, limit).with("setting", setting)
        }
        Error::LimitExceeded { field, limit, setting } => {
            of(Reason::LimitExceeded).with(FIELD, field).with(LIMIT, limit).with("setting", setting)
        }
        Error::OffsetOutOfRange { log_start, high_watermark, .. } => {
            of(Reason::OffsetOutOfRange).with("log_start_offset", log_start).with("high_watermark", high_watermark)
        }
        Error::FencedLeaderEpoch { current, .. } => of(Reason::FencedLeaderEpoch).with("leader_epoch", current),
        Error::UnknownLeaderEpoch { current, .. } => of(Reason::UnknownLeaderEpoch).with("leader_epoch", current),
        Error::OutOfSequence { expected, got } => of(Reason::OutOfSequence).with("expected", expected).with("got", got),
        Error::ProducerFenced { current } => of(Reason::ProducerFenced).with("producer_epoch", current),
        Error::UnknownProducer { .. } => of(Reason::UnknownProducer),
        Error::StorageFull { retry_after, .. } => of(Reason::StorageFull).retry_after(retry_after),
        Error::Throttled { retry_after, .. } => of(Reason::Throttled).retry_after(retry_after),
        Error::ShuttingDown => of(Reason::ShuttingDown),
        Error::Unavailable { .. } => of(Reason::Unavailable),
        Error::NotLeader { endpoint, retry_after, .. } => match endpoint {
            Some(endpoint) => of(Reason::NotLeader).with("leader_endpoint", endpoint),
            None => of(Reason::NotLeader).retry_after(retry_after),
        },
        Error::Told(failure) => *failure,
        Error::TierUnavailable { .. } => of(Reason::TierUnavailable),
        Error::TimedOut { .. } => of(Reason::TimedOut),
        Error::Corrupt { .. } => of(Reason::CorruptData),
        Error::UnknownGroup { group } => of(Reason::UnknownGroup).with("group", group),
        Error::RevisionMismatch { revision } => of(Reason::RevisionMismatch).with("revision", revision),
        Error::BindingMismatch { .. } => of(Reason::BindingMismatch),
        Error::OperatorFenced { current, .. } => of(Reason::OperatorFenced).with("operator_epoch", current),
        Error::Unsupported { field, .. } => of(Reason::Unsupported).with(FIELD, field),
        Error::Internal { .. } => {
            tracing::error!(%message, "defect");
            of(Reason::Internal)
        }
    }
}
