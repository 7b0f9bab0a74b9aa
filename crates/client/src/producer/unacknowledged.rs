//! What is sent without acknowledgement: decided once a connection has it, told of only if the hub refuses it.

use std::sync::atomic::Ordering;

use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tokio::time::Instant;

use super::Shared;
use super::delivery::Appended;
use super::lane::Lane;
use super::links::{Event, Links};
use crate::Result;

/// A connection has a batch.
pub(super) fn handed_over(shared: &Shared, lane: &mut Lane, request_id: u64, now: Instant) {
    let unknown = Appended { base_offset: -1, log_append_time_ms: None, duplicate: false };
    for (batch, result) in lane.answered(request_id, Ok(unknown), now, &shared.client.settings().backoff).decided {
        shared.decide(batch, result);
    }
}

/// Counts a batch that the hub did not take, and says why it did not.
pub(super) fn note_refusal(shared: &Shared, ack: v1::ProduceAck) -> Option<Reason> {
    let failure = ack.error.map(Failure::from)?;
    if shared.refused_batches.fetch_add(1, Ordering::Relaxed) == 0 {
        tracing::warn!("the hub refuses what is sent without acknowledgement, which is lost: {failure}");
    }
    Some(failure.reason)
}

/// Sends what the connections still have, and waits until the hub has dealt with all of it.
///
/// # Errors
/// A connection broke, or the hub did not end it within the delivery timeout.
pub(super) async fn finish(shared: &Shared, links: &mut Links) -> Result<()> {
    let limit = shared.settings.delivery_timeout;
    links.half_close();
    let over = async {
        let mut result = Ok(());
        while links.any_open() {
            match links.event().await {
                (_, Event::Answer(Some(message))) => {
                    for ack in message.acks {
                        note_refusal(shared, ack);
                    }
                }
                (link, Event::Answer(None)) => links.ended(link),
                (link, Event::Failed(error)) => {
                    links.ended(link);
                    result = result.and(Err(error));
                }
            }
        }
        result
    };
    tokio::time::timeout(limit, over).await.unwrap_or_else(|_| {
        let message = format!("the hub did not say within {limit:?} that it has all that was sent without acknowledgement");
        Err(Failure::new(Reason::TimedOut, message).into())
    })
}
