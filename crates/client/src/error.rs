//! What can go wrong for a user of the client. Cloneable, because one batch's fate is told to each of its records.

use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::errors::{Failure, Reason};
use tonic::Status;

/// Why a call of the client failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The hub, or the way to it, refused. `failure.reason` says which; [`Failure::is_retryable`] whether to try again.
    #[error(transparent)]
    Hub(Failure),
    /// A setting of the client is not allowed.
    #[error("setting `{field}`: {message}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// What is allowed.
        message: String,
    },
    /// A record cannot be sent.
    #[error("record field `{field}`: {message}")]
    Record {
        /// The field of the record.
        field: &'static str,
        /// What is allowed.
        message: String,
    },
    /// The delivery timeout passed. If `may_be_stored`, a try was under way and its answer was lost.
    #[error(
        "not acknowledged within {} ms ({}); raise `delivery_timeout` or look why the hub is slow: {last}",
        after.as_millis(),
        if *may_be_stored { "it may have been stored" } else { "it was not sent" }
    )]
    DeliveryTimeout {
        /// The producer's delivery timeout.
        after: Duration,
        /// Whether a try was sent, so that the record may be stored nevertheless.
        may_be_stored: bool,
        /// The last failure, for people.
        last: String,
    },
    /// The answer to one try was lost and another try was refused, so that nobody knows whether the record is stored. The client does not send it
    /// again under another name, by which it could be stored twice.
    #[error("it is not known whether the record was stored: an answer was lost, and a later try was refused: {last}")]
    UnknownOutcome {
        /// The refusal, for people.
        last: String,
    },
    /// The producer was closed, or ended by an error that no retry cures, before the record was acknowledged.
    #[error("the producer is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// Bytes that the hub answered are damaged.
    #[error("{topic}/{partition} at offset {offset}: batch damaged on the way or in storage")]
    Corrupt {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The position of the reader.
        offset: i64,
        /// What is wrong with the batch.
        #[source]
        source: Arc<tidegate_model::batch::Error>,
    },
}

impl Error {
    /// The hub's reason, if it is the hub that refused.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Error::Hub(failure) => Some(failure.reason),
            _ => None,
        }
    }

    /// True if the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Hub(failure) if failure.is_retryable())
    }

    /// True if another broker may answer where this one did not.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self.reason(), Some(Reason::Unavailable | Reason::ShuttingDown | Reason::NotLeader))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Hub(failure)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Hub(Failure::from_status(&status))
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        use std::error::Error as _;
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Error::Hub(Failure::new(Reason::Unavailable, message))
    }
}
