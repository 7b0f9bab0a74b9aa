//! One partition's batches, as a pure state machine: no I/O, no clock of its own.
//!
//! ```text
//!   pending ──send──> in flight ──ack──> decided
//!      ^                  │ refused          ^
//!      │                  v                  │
//!      └──settle── refused (kept in order) ──┘ what no retry cures
//! ```
//!
//! Why order holds: the hub takes an idempotent producer's batches in sequence only, so after one refusal it refuses all that are in
//! flight behind it. The lane keeps them in order, sends nothing while answers are outstanding, and then begins again with
//! the first. When a batch has to be given up, its sequence numbers are burned (the hub may have stored it, its answer
//! lost): the rest goes on under a new epoch, from sequence 0.
//!
//! A batch that may be stored never goes out under another epoch: the hub could not tell that it is the same. Nor does a refusal prove that it is
//! not stored, for a hub that is slow may hold its first try behind the refusal of the second. So the hub is asked again, by the same
//! batch under the same numbers, for at most [`ASK_FOR`]; what is not acknowledged by then is told to be unknown.
//!
//! Invariants: sequences of `refused + in_flight + stamped pending` are consecutive in that order; `in_flight` holds at most
//! `window` batches.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tidegate_model::Sequence;
use tidegate_proto::errors::{Failure, Reason};
use tokio::time::Instant;

use super::batch::{Batch, Identity, Stamp};
use super::delivery::Appended;
use crate::{Backoff, Error, Result};

/// How long a hub that refuses a sequence is asked whether it has stored what lies behind the gap.
pub(super) const ASK_FOR: Duration = Duration::from_secs(5);

/// Refusals in a row after which a hub's word that another broker leads soon is not taken for quick any more.
const QUICK_TRIES: u32 = 8;

/// A batch and its fate.
pub(super) type Decided = (Batch, Result<Appended>);

/// What a refusal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The same again, later.
    Retry,
    /// The same batches under a new epoch: the hub doesn't know this sequence (any more).
    NewSequence,
    /// Give this batch up.
    GiveUp,
    /// Give all up: a newer incarnation of this producer exists.
    Fenced,
}

/// What the sender has to do after an answer.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Batches that are decided.
    pub(super) decided: Vec<Decided>,
    /// A newer incarnation exists: end the producer with this.
    pub(super) fenced: Option<Failure>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    idempotent: bool,
    pending: VecDeque<Batch>,
    in_flight: VecDeque<Batch>,
    refused: VecDeque<Batch>,
    /// Why the first of `refused` was refused.
    first_refusal: Option<Failure>,
    identity: Option<Identity>,
    next_sequence: i32,
    /// The sequence is broken: nothing is sent until `adopt`.
    wants_identity: bool,
    /// Nothing is sent before this time.
    ready_at: Option<Instant>,
    refusals_in_a_row: u32,
    /// When what may be stored behind a broken sequence is given up as unknown.
    ask_until: Option<Instant>,
}

impl Lane {
    pub(super) fn new(idempotent: bool) -> Self {
        Lane { idempotent, ..Lane::default() }
    }

    /// Takes a batch behind all others.
    pub(super) fn push(&mut self, batch: Batch) {
        self.pending.push_back(batch);
    }

    /// True if it holds no batch.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty() && self.refused.is_empty()
    }

    /// True while answers are outstanding.
    pub(super) fn is_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// True while it waits for a time or for an identity.
    pub(super) fn is_troubled(&self) -> bool {
        self.wants_identity || self.ready_at.is_some()
    }

    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.ready_at.filter(|_| !self.pending.is_empty())
    }

    /// Puts the next batch in flight as frame `request_id`, if one may go: its bytes, and the batch.
    ///
    /// # Errors
    /// The batch cannot be encoded; it is decided so.
    pub(super) fn next_frame(
        &mut self,
        request_id: u64,
        window: usize,
        identity: Option<Identity>,
        now: Instant,
    ) -> Option<Result<(Bytes, &Batch), Box<Decided>>> {
        let waits = self.ready_at.is_some_and(|at| at > now);
        // Under a broken sequence, one batch that may be stored goes out again to learn whether it is.
        let window = if self.wants_identity { usize::from(self.front_may_be_stored()) } else { window };
        if waits || self.first_refusal.is_some() || self.in_flight.len() >= window {
            return None;
        }
        let mut batch = self.pending.pop_front()?;
        self.ready_at = None;
        let first_time = batch.stamp.is_none();
        let stamp = self.idempotent.then(|| self.stamp(&batch, identity)).flatten();
        let bytes = match batch.encode(stamp) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Its sequence numbers were not used: the next batch takes them.
                let message = format!("the records do not make a valid batch: {error}");
                return Some(Err(Box::new((batch, Err(Error::Record { field: "value", message })))));
            }
        };
        // A batch that is sent again keeps its numbers, and those behind it may be stored already: the count doesn't go back.
        if let (Some(stamp), true) = (stamp, first_time) {
            self.next_sequence = advance(stamp.base_sequence.0, batch.records);
        }
        batch.request_id = request_id;
        batch.attempts += 1;
        self.in_flight.push_back(batch);
        self.in_flight.back().map(|batch| Ok((bytes, batch)))
    }

    fn stamp(&mut self, batch: &Batch, identity: Option<Identity>) -> Option<Stamp> {
        if self.identity.is_none() {
            self.identity = identity;
        }
        let fresh = self.identity.map(|identity| Stamp { identity, base_sequence: Sequence(self.next_sequence) });
        batch.stamp.or(fresh)
    }

    /// Takes the answer to the oldest frame in flight.
    pub(super) fn answered(
        &mut self,
        request_id: u64,
        answer: Result<Appended, Failure>,
        now: Instant,
        backoff: &Backoff,
    ) -> Answered {
        let mut result = Answered::default();
        let Some(position) = self.in_flight.iter().position(|batch| batch.request_id == request_id) else {
            return result;
        };
        // Answers come in order; should a hub break that, the batch is still the right one.
        let Some(mut batch) = self.in_flight.remove(position) else { return result };
        match answer {
            Ok(appended) => {
                self.refusals_in_a_row = 0;
                self.ask_until = None;
                result.decided.push((batch, Ok(appended)));
            }
            Err(failure) => {
                if is_unknown(failure.reason) {
                    batch.may_be_stored = true;
                }
                batch.last_failure = Some(failure.clone());
                self.first_refusal.get_or_insert(failure);
                self.refused.push_back(batch);
            }
        }
        if self.in_flight.is_empty() {
            self.settle(now, backoff, &mut result);
        }
        result
    }

    /// Decides what to do about the first refusal, once nothing is in flight.
    fn settle(&mut self, now: Instant, backoff: &Backoff, result: &mut Answered) {
        let Some(failure) = self.first_refusal.take() else { return };
        while let Some(batch) = self.refused.pop_back() {
            self.pending.push_front(batch);
        }
        self.refusals_in_a_row = self.refusals_in_a_row.saturating_add(1);
        let delay = match failure.retry_after {
            // A partition that moves, or has just moved: the hub knows how long that takes.
            Some(after) if failure.reason == Reason::NotLeader && self.refusals_in_a_row <= QUICK_TRIES => {
                after.max(Duration::from_millis(1))
            }
            after => after.unwrap_or_default().max(backoff.delay(self.refusals_in_a_row)),
        };
        match remedy(&failure, self.idempotent) {
            Remedy::Retry => self.ready_at = Some(now + delay),
            Remedy::NewSequence => {
                self.wants_identity = true;
                // The first time is the ordinary case of a hub that has forgotten an idle producer.
                self.ready_at = (self.refusals_in_a_row > 1).then_some(now + delay);
                self.ask_no_longer(now, &failure, result);
            }
            Remedy::GiveUp => {
                self.wants_identity = self.idempotent;
                self.refusals_in_a_row = 0;
                let decided = self.pending.pop_front().map(|batch| {
                    let error = if batch.may_be_stored { unknown(&failure) } else { failure.into() };
                    (batch, Err(error))
                });
                result.decided.extend(decided);
            }
            Remedy::Fenced => {
                self.ready_at = Some(now + delay);
                self.ask_no_longer(now, &failure, result);
                result.fenced = Some(failure);
            }
        }
    }

    /// Gives up what may be stored once it has been asked for long enough. What was never sent, or certainly refused, lies behind it and goes on.
    fn ask_no_longer(&mut self, now: Instant, failure: &Failure, result: &mut Answered) {
        if now < *self.ask_until.get_or_insert(now + ASK_FOR) || !self.front_may_be_stored() {
            return;
        }
        while self.front_may_be_stored() {
            result.decided.extend(self.pending.pop_front().map(|batch| (batch, Err(unknown(failure)))));
        }
        self.ready_at = None;
        self.refusals_in_a_row = 0;
    }

    /// The stream broke: what is in flight is undecided and will be sent again, first and in order.
    pub(super) fn stream_broke(&mut self) {
        while let Some(mut batch) = self.in_flight.pop_back() {
            batch.may_be_stored = true;
            self.pending.push_front(batch);
        }
        while let Some(batch) = self.refused.pop_back() {
            self.pending.push_front(batch);
        }
        self.first_refusal = None;
    }

    /// True if a frame in flight is past its deadline: the hub doesn't answer, so the stream has to be given up.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.in_flight.front().is_some_and(|batch| batch.deadline <= now)
    }

    /// Gives up what waits past its deadline.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration) -> Vec<Decided> {
        let mut decided = Vec::new();
        while self.pending.front().is_some_and(|batch| batch.deadline <= now) {
            let Some(batch) = self.pending.pop_front() else { break };
            self.wants_identity |= batch.stamp.is_some();
            let last = batch.last_failure.as_ref().map_or("no answer", |failure| &failure.message).to_owned();
            let error = Error::DeliveryTimeout { after: timeout, may_be_stored: batch.may_be_stored, last };
            decided.push((batch, Err(error)));
        }
        decided
    }

    /// Gives everything up.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Batch> {
        self.stream_broke();
        std::mem::take(&mut self.pending).into_iter()
    }

    /// True if the oldest batch that waits may be stored, an answer having been lost. If it isn't, none behind it is.
    fn front_may_be_stored(&self) -> bool {
        self.pending.front().is_some_and(|batch| batch.may_be_stored && batch.stamp.is_some())
    }

    /// The identity to be replaced, if the lane needs a new one now; `adopt` ends the need. Not while a batch may be stored under
    /// the old one: under a new one it would be stored twice.
    pub(super) fn wants_other_than(&self) -> Option<Option<Identity>> {
        let now = self.wants_identity && self.in_flight.is_empty() && !self.front_may_be_stored();
        now.then_some(self.identity)
    }

    /// After this lane's identity was fenced: true if the producer has a newer one, which the lane will adopt.
    pub(super) fn take_newer(&mut self, newest: Option<Identity>) -> bool {
        self.wants_identity |= newest.is_some() && newest != self.identity;
        self.wants_identity
    }

    /// Begins a new sequence under this identity.
    pub(super) fn adopt(&mut self, identity: Identity) {
        debug_assert!(self.in_flight.is_empty(), "two sequences would be in flight at once");
        debug_assert!(!self.front_may_be_stored(), "what may be stored would go out under a second name");
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.wants_identity = false;
        self.ask_until = None;
        for batch in &mut self.pending {
            batch.stamp = None;
        }
    }
}

/// What is told of a batch whose one try was refused while the answer to another was lost.
fn unknown(failure: &Failure) -> Error {
    Error::UnknownOutcome { last: failure.message.clone() }
}

fn remedy(failure: &Failure, idempotent: bool) -> Remedy {
    match failure.reason {
        Reason::OutOfSequence | Reason::UnknownProducer if idempotent => Remedy::NewSequence,
        Reason::ProducerFenced if idempotent => Remedy::Fenced,
        _ if failure.is_retryable() => Remedy::Retry,
        _ => Remedy::GiveUp,
    }
}

/// True for answers that prove nothing: a hub whose log fails or that ends gives them also to batches that it has written, and a new start may
/// find those.
fn is_unknown(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unspecified
            | Reason::Internal
            | Reason::ShuttingDown
            | Reason::Unavailable
            | Reason::TimedOut
            | Reason::NotLeader
            | Reason::UnknownLeaderEpoch
            | Reason::CorruptData
    )
}

/// The sequence after `records` more; wraps after `i32::MAX` to 0, as Kafka's.
fn advance(sequence: i32, records: u32) -> i32 {
    let next = (i64::from(sequence) + i64::from(records)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).unwrap_or(0)
}

#[cfg(test)]
mod advance_tests {
    use super::advance;

    #[test]
    fn sequences_wrap_after_the_greatest() {
        assert_eq!(advance(0, 10), 10);
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 1, 3), 1);
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
