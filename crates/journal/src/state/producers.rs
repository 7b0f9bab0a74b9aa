//! What a partition remembers of idempotent producers, and what it makes of their next batch.
//!
//! Rules (Kafka's, KIP-98 and KIP-360, where not said otherwise):
//! - The next batch starts where the last one ended; after `i32::MAX` comes 0.
//! - A batch that is remembered is answered with its offset; an older one succeeds with offset -1 (ours); anything else is a gap.
//! - A new epoch starts at sequence 0 and forgets the batches of the one before; a lower epoch is fenced.
//! - A producer that was never heard of starts at 0, too. Kafka takes any sequence then, and so loses sight of a lost first
//!   batch. We take one only if this producer may have been forgotten: its id is not above the greatest forgotten one.

use std::collections::VecDeque;

use tidegate_env::bugs::{self, Bug};
use tidegate_model::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition};

use crate::entry::Refusal;

/// Batches remembered where nothing else was agreed on: Kafka's five.
pub const DEFAULT_WINDOW: u8 = 5;
/// Most batches that may be agreed on.
pub const GREATEST_WINDOW: u8 = 64;

/// Sequences count modulo this.
const WRAP: i64 = 1 << 31;

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) base: Offset,
}

/// What a partition remembers of one producer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerState {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) window: u8,
    pub(crate) batches: VecDeque<Remembered>,
    pub(crate) last_time: TimestampMs,
    /// Where it stands in the journal's queue of those that may be forgotten; put right when its turn comes.
    pub(crate) deadline: TimestampMs,
}

/// Who sent a batch, and as which of its batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) first: Sequence,
    pub(crate) records: u32,
}

impl Sender {
    /// The sequence of its last record.
    pub(crate) fn last(&self) -> Sequence {
        advance(self.first, i64::from(self.records) - 1)
    }
}

/// What is to be done with a batch that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It follows.
    Append,
    /// It was appended at this offset; -1 if that is not remembered any more.
    Duplicate(Offset),
}

impl ProducerState {
    /// Its present epoch.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// When it was last heard of, in entry time without its leaps (see [`super::MOST_RISE_MS`]).
    pub fn last_time(&self) -> TimestampMs {
        self.last_time
    }

    /// The sequence of the last record it appended.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.batches.back().map(|batch| batch.last)
    }

    pub(crate) fn new(epoch: ProducerEpoch, window: u8, deadline: TimestampMs) -> Self {
        let window = effective_window(window);
        let batches = VecDeque::with_capacity(usize::from(window));
        ProducerState { epoch, window, batches, last_time: TimestampMs(i64::MIN), deadline }
    }

    /// What to do with the sender's batch.
    pub(crate) fn judge(&self, at: TopicPartition, sender: &Sender) -> Result<Verdict, Refusal> {
        let producer = sender.producer;
        if sender.epoch < self.epoch {
            return Err(Refusal::ProducerFenced { at, producer, current: self.epoch });
        }
        let gap = |expected| Refusal::OutOfSequence { at, producer, expected, got: sender.first };
        if sender.epoch > self.epoch {
            return if sender.first == Sequence(0) { Ok(Verdict::Append) } else { Err(gap(Sequence(0))) };
        }
        let Some(last) = self.batches.back() else {
            return Ok(Verdict::Append);
        };
        let expected = advance(last.last, 1);
        let is_gap = behind(sender.first, expected) < WRAP / 2;
        if sender.first == expected || (bugs::on(Bug::AcceptGaps) && is_gap) {
            return Ok(Verdict::Append);
        }
        if let Some(same) = self.batches.iter().find(|batch| batch.first == sender.first) {
            return if same.last == sender.last() { Ok(Verdict::Duplicate(same.base)) } else { Err(gap(expected)) };
        }
        let remembered = self.batches.front().map_or(0, |oldest| behind(expected, oldest.first));
        let back = behind(expected, sender.first);
        let is_older = back < WRAP / 2 && back - i64::from(sender.records) >= remembered;
        if is_older { Ok(Verdict::Duplicate(Offset(-1))) } else { Err(gap(expected)) }
    }

    /// Takes note of a batch that was appended at `base`.
    pub(crate) fn record(&mut self, sender: &Sender, base: Offset, window: u8) {
        if sender.epoch > self.epoch {
            self.epoch = sender.epoch;
            self.batches.clear();
        }
        self.window = effective_window(window);
        while self.batches.len() >= usize::from(self.window) {
            self.batches.pop_front();
        }
        self.batches.push_back(Remembered { first: sender.first, last: sender.last(), base });
    }
}

/// What to do with the first batch of a producer that is not remembered. `forgotten` is the greatest id that was forgotten.
pub(crate) fn judge_first(at: TopicPartition, sender: &Sender, forgotten: ProducerId) -> Result<Verdict, Refusal> {
    if sender.first == Sequence(0) || sender.producer <= forgotten {
        return Ok(Verdict::Append);
    }
    Err(Refusal::OutOfSequence { at, producer: sender.producer, expected: Sequence(0), got: sender.first })
}

fn effective_window(window: u8) -> u8 {
    if window == 0 { DEFAULT_WINDOW } else { window.min(GREATEST_WINDOW) }
}

/// The sequence `by` records later.
fn advance(from: Sequence, by: i64) -> Sequence {
    let next = (i64::from(from.0) + by).rem_euclid(WRAP);
    Sequence(i32::try_from(next).expect("a remainder of 2^31 fits 31 bits"))
}

/// How far `earlier` lies before `later`, going back around the wrap.
fn behind(later: Sequence, earlier: Sequence) -> i64 {
    (i64::from(later.0) - i64::from(earlier.0)).rem_euclid(WRAP)
}
