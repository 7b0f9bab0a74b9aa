//! Refusals of the transport library, put into our words: the library knows no reasons, fields and ways out.
//!
//! It sees only statuses that come instead of an answer; what the services say themselves carries its details already.

use http::Response;
use tidegate_proto::errors::{Failure, HINT, Reason};
use tonic::body::Body;
use tonic::{Code, Status};

/// The same answer, with an ErrorInfo if it is a refusal without one.
pub(super) fn explained(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return response;
    }
    let failure = Failure::from_status(&status);
    let (reason, hint) = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            (Reason::MessageTooLarge, "send less at a time, or raise limits.max_request_bytes")
        }
        Code::Unimplemented if status.message().contains("ncod") || status.message().contains("ompress") => {
            (Reason::Unsupported, "send gRPC messages uncompressed, and compress the batches instead")
        }
        Code::Unimplemented => (Reason::Unsupported, "ask for a method that this port has: reflection lists them"),
        Code::DeadlineExceeded | Code::Cancelled => (Reason::TimedOut, "give the call more time"),
        Code::Internal => (Reason::InvalidArgument, "send a message of the type that the method takes"),
        _ => return response,
    };
    let message = format!("{}: {hint}", failure.message.trim_end_matches('.'));
    Failure { reason, message, ..failure }.with(HINT, hint).into_status().into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_without_details_are_put_into_our_words() {
        let plain =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 5 bytes").into_http();
        let status = Status::from_header_map(explained(plain).headers()).expect("a status");
        let failure = Failure::from_status(&status);
        assert_eq!((failure.reason, status.code()), (Reason::MessageTooLarge, Code::InvalidArgument));
        assert!(failure.message.contains("limits.max_request_bytes"), "{failure}");
        let ours = Failure::new(Reason::UnknownTopic, "no such topic").into_status();
        let same = Status::from_header_map(explained(ours.clone().into_http()).headers()).expect("a status");
        assert_eq!((same.code(), same.details()), (ours.code(), ours.details()));
        let answer = explained(Response::new(Body::empty()));
        assert!(answer.headers().get("grpc-status").is_none());
    }
}
