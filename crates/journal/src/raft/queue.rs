//! Units that wait for the proposer. Bounded in bytes by permits that are held until a unit's fate is known.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tidegate_model::JournalId;
use tidegate_wal::{Admission, Class};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::error::JournalError;
use crate::entry::{Operation, Unit, UnitOutcome};

/// Memory that requests of one replica hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Counted anew: units that wait to be proposed.
    pub waiting: usize,
    /// What those were charged.
    pub charged_waiting: usize,
    /// What all units that were submitted and not answered are charged.
    pub charged: usize,
    /// What the broker's tail cache holds above its budget that is not on its way; 0 if it keeps its bound.
    pub cache_excess: u64,
}

/// What a unit costs beside its batches: the queue, the answer's channel, protobuf.
const UNIT_OVERHEAD: usize = 512;

/// The answer to a unit that was submitted.
#[derive(Debug)]
pub struct Ticket {
    journal: JournalId,
    answer: oneshot::Receiver<Result<UnitOutcome, JournalError>>,
}

impl Future for Ticket {
    type Output = Result<UnitOutcome, JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let journal = self.journal;
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(JournalError::Closed { journal })))
    }
}

/// A unit with everything that goes with it until it is answered.
pub(super) struct Waiting {
    pub(super) unit: Unit,
    pub(super) claim: Claim,
}

/// Who waits for a unit, and the bytes that it holds.
pub(super) struct Claim {
    pub(super) bytes: usize,
    answer: oneshot::Sender<Result<UnitOutcome, JournalError>>,
    _room: Room,
}

/// Memory and room in the log, held until a unit is answered.
pub(super) struct Room {
    pub(super) _memory: OwnedSemaphorePermit,
    pub(super) _log: Option<Admission>,
}

impl Claim {
    pub(super) fn answer(self, result: Result<UnitOutcome, JournalError>) {
        let _ = self.answer.send(result);
    }
}

/// Bytes that a unit is charged with. Batches count in full; the rest is small and estimated.
pub(super) fn cost(unit: &Unit) -> usize {
    let operations = unit.operations.iter().map(|operation| match operation {
        Operation::Append { batch, .. } => batch.len(),
        Operation::Tier { ranges, .. } => 128 * ranges.len(),
        Operation::CommitOffsets { offsets, .. } => offsets.iter().map(|offset| 64 + offset.metadata.len()).sum(),
        Operation::CreateTopic { config, .. } | Operation::AlterTopic { config, .. } => 128 + config.settings.len(),
        Operation::AdoptPartition { sealed, .. } => {
            64 + sealed.producers.iter().map(|producer| 64 + 32 * producer.batches.len()).sum::<usize>()
        }
        Operation::Replace { old, .. } => 256 * (1 + old.len()),
        _ => 64,
    });
    UNIT_OVERHEAD + operations.sum::<usize>()
}

/// Units that append nothing have room of their own, in memory and in the WAL, so that space can always be freed.
pub(super) fn class(unit: &Unit) -> Class {
    let mut class = Class::Space;
    for operation in &unit.operations {
        match operation {
            Operation::Append { .. } => return Class::Data,
            Operation::Intend { .. }
            | Operation::Tier { .. }
            | Operation::Abandon { .. }
            | Operation::Forget { .. }
            | Operation::Trim { .. }
            | Operation::Replace { .. }
            | Operation::Unravel { .. }
            | Operation::Release { .. }
            | Operation::ClosePartition { .. }
            | Operation::DeleteTopic { .. }
            | Operation::ForgetTopic { .. } => {}
            _ => class = Class::Control,
        }
    }
    class
}

/// The queue.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    arrived: Notify,
}

struct Inner {
    units: VecDeque<Waiting>,
    bytes: usize,
    /// The proposer is woken once this many bytes wait.
    wake_at: usize,
    closed: Option<JournalError>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        let inner = Inner { units: VecDeque::new(), bytes: 0, wake_at: 1, closed: None };
        Queue { inner: Mutex::new(inner), arrived: Notify::new() }
    }

    /// Puts a unit at the end and gives its ticket.
    pub(super) fn push(&self, journal: JournalId, unit: Unit, bytes: usize, room: Room) -> Result<Ticket, JournalError> {
        let (answer, ticket) = oneshot::channel();
        let mut inner = self.inner.lock();
        if let Some(error) = &inner.closed {
            return Err(error.clone());
        }
        inner.bytes += bytes;
        inner.units.push_back(Waiting { unit, claim: Claim { bytes, answer, _room: room } });
        let wake = inner.bytes >= inner.wake_at;
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        Ok(Ticket { journal, answer: ticket })
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Bytes of the units that wait, counted anew, and what they are charged.
    pub(super) fn held(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let counted = inner.units.iter().map(|waiting| cost(&waiting.unit)).sum();
        (counted, inner.units.iter().map(|waiting| waiting.claim.bytes).sum())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }

    /// Takes units until `target` bytes are reached, never above `limit` but for a single one that is larger.
    pub(super) fn take(&self, target: usize, limit: usize) -> Vec<Waiting> {
        let mut inner = self.inner.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = inner.units.front() {
            if bytes >= target || (bytes > 0 && bytes + next.claim.bytes > limit) {
                break;
            }
            bytes += next.claim.bytes;
            taken.extend(inner.units.pop_front());
        }
        inner.bytes -= bytes;
        taken
    }

    /// Ends once at least `bytes` wait, or the queue is closed.
    pub(super) async fn reaches(&self, bytes: usize) {
        loop {
            {
                let mut inner = self.inner.lock();
                inner.wake_at = bytes;
                if inner.bytes >= bytes || (inner.closed.is_some() && inner.units.is_empty()) {
                    return;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Takes no more units; those that wait are still proposed.
    pub(super) fn close(&self, reason: JournalError) {
        self.inner.lock().closed.get_or_insert(reason);
        self.arrived.notify_one();
    }

    /// Takes no more units and answers those that wait.
    pub(super) fn fail(&self, reason: JournalError) {
        let units = {
            let mut inner = self.inner.lock();
            inner.closed.get_or_insert(reason.clone());
            inner.bytes = 0;
            std::mem::take(&mut inner.units)
        };
        units.into_iter().for_each(|waiting| waiting.claim.answer(Err(reason.clone())));
        self.arrived.notify_one();
    }
}
