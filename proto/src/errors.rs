//! Errors on the wire, in one table: each [`Reason`] has one gRPC code, one spelling in `google.rpc.ErrorInfo`, and goes
//! into a status ([`Failure::into_status`]) or an in-band `Error` message ([`Failure::into_message`]) and back.
//!
//! It does not know what the errors of the hub are: the edge maps those to a [`Failure`] once.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;
pub use crate::v1::ErrorReason as Reason;

/// The `domain` of every ErrorInfo.
pub const DOMAIN: &str = "tidegate.dev";

/// Metadata key: the path of the offending field, as `partitions[0].offset`.
pub const FIELD: &str = "field";
/// Metadata key: the limit that was broken.
pub const LIMIT: &str = "limit";
/// Metadata key: what to do instead.
pub const HINT: &str = "hint";

/// The gRPC code that goes with a reason.
pub const fn code(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::Internal => Code::Internal,
        Reason::InvalidArgument | Reason::MessageTooLarge | Reason::InvalidBatch => Code::InvalidArgument,
        Reason::Unsupported => Code::Unimplemented,
        Reason::UnknownTopic | Reason::UnknownPartition | Reason::UnknownGroup => Code::NotFound,
        Reason::TopicExists => Code::AlreadyExists,
        Reason::TopicUidMismatch
        | Reason::TopicManaged
        | Reason::TopicNotRestorable
        | Reason::OutOfSequence
        | Reason::ProducerFenced
        | Reason::UnknownProducer
        | Reason::FencedLeaderEpoch
        | Reason::GroupNotEmpty
        | Reason::BindingMismatch
        | Reason::OperatorFenced => Code::FailedPrecondition,
        Reason::OffsetOutOfRange | Reason::RevisionCompacted => Code::OutOfRange,
        Reason::NotLeader | Reason::UnknownLeaderEpoch | Reason::ShuttingDown | Reason::Unavailable | Reason::TierUnavailable => {
            Code::Unavailable
        }
        Reason::Throttled | Reason::StorageFull | Reason::LimitExceeded => Code::ResourceExhausted,
        Reason::TimedOut => Code::DeadlineExceeded,
        Reason::CorruptData => Code::DataLoss,
        Reason::RevisionMismatch => Code::Aborted,
        Reason::Unauthenticated => Code::Unauthenticated,
    }
}

/// The reason's spelling in ErrorInfo: its name without the prefix of the enum.
pub fn reason_name(reason: Reason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The reason spelt so, if there is one.
pub fn reason_from_name(name: &str) -> Option<Reason> {
    Reason::from_str_name(&format!("ERROR_REASON_{name}")).filter(|reason| *reason != Reason::Unspecified)
}

/// An error on its way over the wire: reason, text for people, facts for programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What went wrong, for programs.
    pub reason: Reason,
    /// What went wrong, for people: names the field, the limit and the way out.
    pub message: String,
    /// Facts that go with the reason; the keys are in the comments of `ErrorReason`.
    pub metadata: HashMap<String, String>,
    /// Earliest time for another try; `None` when waiting alone does not help.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without facts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), metadata: HashMap::new(), retry_after: None }
    }

    /// A field with a value that is not allowed.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Failure::new(Reason::InvalidArgument, message).with(FIELD, field.into())
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The gRPC code that goes with it.
    pub fn code(&self) -> Code {
        code(self.reason)
    }

    /// True if the same request may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.reason,
            Reason::NotLeader
                | Reason::UnknownLeaderEpoch
                | Reason::Throttled
                | Reason::StorageFull
                | Reason::ShuttingDown
                | Reason::Unavailable
                | Reason::TierUnavailable
                | Reason::TimedOut
        )
    }

    /// As a status that ends a call: with ErrorInfo, and RetryInfo if there is a time for another try.
    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(reason_name(self.reason), DOMAIN, self.metadata);
        if let Some(after) = self.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(code(self.reason), self.message, details)
    }

    /// As a message within a response.
    pub fn into_message(self) -> v1::Error {
        v1::Error {
            reason: self.reason.into(),
            message: self.message,
            metadata: self.metadata,
            retry_after_ms: self.retry_after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
        }
    }

    /// Reads a status. One without our ErrorInfo (from a proxy, say, or from the transport) gets the reason that its code
    /// suggests.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|info| reason_from_name(&info.reason)).unwrap_or_else(|| reason_for_code(status.code()));
        Failure {
            reason,
            message: status.message().to_owned(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

impl From<v1::Error> for Failure {
    fn from(error: v1::Error) -> Self {
        Failure {
            // A reason that a newer hub knows and we don't is treated as its defect would be: not retried.
            reason: Reason::try_from(error.reason).unwrap_or(Reason::Internal),
            message: error.message,
            metadata: error.metadata,
            retry_after: error.retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

impl From<Failure> for v1::Error {
    fn from(failure: Failure) -> Self {
        failure.into_message()
    }
}

/// What a status without ErrorInfo most likely means.
fn reason_for_code(code: Code) -> Reason {
    match code {
        Code::InvalidArgument => Reason::InvalidArgument,
        Code::DeadlineExceeded => Reason::TimedOut,
        // The transport's own: a message above its size limit.
        Code::OutOfRange => Reason::MessageTooLarge,
        Code::Unimplemented => Reason::Unsupported,
        // A connection that was cut shows as any of these; the hub's own INTERNAL errors carry ErrorInfo.
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => Reason::Unavailable,
        Code::ResourceExhausted => Reason::Throttled,
        Code::DataLoss => Reason::CorruptData,
        Code::Unauthenticated => Reason::Unauthenticated,
        _ => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all_reasons() -> impl Iterator<Item = Reason> {
        (1..).map_while(|number| Reason::try_from(number).ok())
    }

    #[test]
    fn every_reason_survives_a_status_and_a_message() {
        let mut seen = 0;
        for reason in all_reasons() {
            let failure = Failure::new(reason, "`offset` is 7; the log starts at 9")
                .with(FIELD, "offset")
                .with(LIMIT, 9)
                .retry_after(Duration::from_millis(250));
            let status = failure.clone().into_status();
            assert_eq!(status.code(), code(reason));
            assert_eq!(Failure::from_status(&status), failure);
            assert_eq!(Failure::from(failure.clone().into_message()), failure);
            assert_eq!(reason_from_name(reason_name(reason)), Some(reason));
            seen += 1;
        }
        assert_eq!(seen, 33, "a new reason needs a look at `code` and `is_retryable`");
    }

    #[test]
    fn what_is_retryable_has_a_code_that_generic_clients_retry_too() {
        for reason in all_reasons().filter(|reason| Failure::new(*reason, "").is_retryable()) {
            assert!(matches!(code(reason), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded), "{reason:?}");
        }
    }

    #[test]
    fn a_foreign_status_gets_a_reason_from_its_code() {
        let failure = Failure::from_status(&Status::unavailable("connection refused"));
        assert_eq!(failure.reason, Reason::Unavailable);
        assert!(failure.is_retryable());
        let foreign = Status::with_error_details(
            Code::NotFound,
            "x",
            ErrorDetails::with_error_info("UNKNOWN_TOPIC", "example.com", HashMap::new()),
        );
        assert_eq!(Failure::from_status(&foreign).reason, Reason::Internal);
    }
}
