//! All that is kept of one partition: sends by value, sights by offset, marks, full reads. About 80 bytes for each record.
//!
//! The first sight of an offset is what later ones are compared with, so that any number of reads costs no more than one.

use std::collections::{BTreeMap, HashMap};

use tidegate_model::TopicPartition;

use crate::event::{Outcome, Seen, Sent, Source, Value};
use crate::rule::{Rule, Verdict};

/// Offsets of a page of sights.
const PAGE: i64 = 1024;
const NONE: i64 = -1;
/// Acknowledged as a duplicate too old for its offset to be known.
const SOMEWHERE: i64 = -2;

/// What is known of a value that was sent.
#[derive(Clone, Copy, Debug)]
struct Known {
    hash: u64,
    acknowledged: i64,
    seen: i64,
    /// The how-many-th acknowledgement of the partition; 0 for none.
    acknowledgement: u32,
    /// The how-many-th value of the partition.
    order: u32,
    process: u32,
    tries: u16,
    failures: u16,
}

/// What was seen at an offset first.
#[derive(Clone, Copy, Debug)]
struct Sight {
    value: Value,
    epoch: i32,
    is_set: bool,
}

const UNSEEN: Sight = Sight { value: 0, epoch: 0, is_set: false };

/// A full read.
#[derive(Clone, Debug)]
struct Read {
    source: Source,
    log_start: i64,
    /// What the read must have: all that was acknowledged and all that was seen before it began.
    acknowledgements: u32,
    seen_end: i64,
    first: i64,
    next: i64,
    holes: Vec<(i64, i64)>,
    ended: bool,
}

impl Read {
    fn has(&self, offset: i64) -> bool {
        (self.first..self.next).contains(&offset) && !self.holes.iter().any(|(from, to)| (*from..*to).contains(&offset))
    }
}

/// The state of one partition's judgement.
#[derive(Debug)]
pub(crate) struct Partition {
    at: TopicPartition,
    known: HashMap<Value, Known>,
    pages: BTreeMap<i64, Vec<Sight>>,
    seen_end: i64,
    acknowledgements: u32,
    /// The greatest log start and high watermark that each client was told by each process. Answers to different clients may cross, and so may
    /// those of different processes.
    marks: HashMap<(u32, u64), (i64, i64)>,
    reads: BTreeMap<u64, Read>,
    may_trim: bool,
    gone: bool,
}

impl Partition {
    pub(crate) fn new(at: TopicPartition) -> Partition {
        Partition {
            at,
            known: HashMap::new(),
            pages: BTreeMap::new(),
            seen_end: 0,
            acknowledgements: 0,
            marks: HashMap::new(),
            reads: BTreeMap::new(),
            may_trim: false,
            gone: false,
        }
    }

    pub(crate) fn may_trim(&mut self) {
        self.may_trim = true;
    }

    pub(crate) fn gone(&mut self) {
        self.gone = true;
    }

    pub(crate) fn send(&mut self, process: u32, records: &[Sent], verdict: &mut Verdict) {
        for record in records {
            let order = self.known.len() as u32;
            let fresh = Known {
                hash: record.hash,
                acknowledged: NONE,
                seen: NONE,
                acknowledgement: 0,
                order,
                process,
                tries: 0,
                failures: 0,
            };
            let known = self.known.entry(record.value).or_insert(fresh);
            known.tries += 1;
            if known.hash != record.hash {
                let (at, value) = (self.at, record.value);
                verdict.add(Rule::Content, || format!("{at}: the workload sent value {value} twice with different content"));
            }
        }
    }

    pub(crate) fn sent(&mut self, values: &[Value], outcome: Outcome<Option<i64>>, verdict: &mut Verdict) {
        if let Outcome::Ok(_) = outcome {
            self.acknowledgements += 1;
        }
        for (index, value) in values.iter().enumerate() {
            let Some(known) = self.known.get_mut(value) else { continue };
            match outcome {
                Outcome::Fail => known.failures += 1,
                Outcome::Info => {}
                Outcome::Ok(base) => {
                    let offset = base.map_or(SOMEWHERE, |base| base + index as i64);
                    let before = known.acknowledged;
                    if before >= 0 && offset >= 0 && before != offset {
                        let at = self.at;
                        let detail = || format!("{at}: value {value} was acknowledged at {before} and at {offset}");
                        verdict.add(Rule::AcknowledgedElsewhere, detail);
                    }
                    if before < 0 {
                        known.acknowledged = offset;
                    }
                    if known.acknowledgement == 0 {
                        known.acknowledgement = self.acknowledgements;
                    }
                }
            }
        }
    }

    /// Marks that a client was told by a process.
    pub(crate) fn told(&mut self, between: (u32, u64), log_start: i64, high_watermark: i64, verdict: &mut Verdict) {
        let (process, _) = between;
        let (at, marks) = (self.at, self.marks.entry(between).or_default());
        let before = marks.0;
        if log_start < before {
            verdict.add(Rule::LogStartMoves, || format!("{at}: for client {process} from {before} to {log_start}"));
        }
        let known = marks.1;
        if high_watermark < known {
            verdict.add(Rule::WatermarkFalls, || format!("{at}: for client {process} from {known} to {high_watermark}"));
        }
        *marks = (before.max(log_start), known.max(high_watermark));
        self.starts_at(log_start, verdict);
    }

    /// The log start rises only where something may drop the oldest records.
    pub(crate) fn starts_at(&self, log_start: i64, verdict: &mut Verdict) {
        if log_start > 0 && !self.may_trim {
            verdict.add(Rule::LogStartMoves, || format!("{}: to {log_start}, though nothing may be dropped", self.at));
        }
    }

    /// Records of one answer, which were told to end below `high_watermark`.
    pub(crate) fn see(&mut self, records: &[Seen], high_watermark: Option<i64>, verdict: &mut Verdict) {
        let at = self.at;
        for (place, record) in records.iter().enumerate() {
            if let Some(before) = place.checked_sub(1).map(|before| records[before].offset)
                && record.offset != before + 1
            {
                verdict.add(Rule::Hole, || format!("{at}: {} follows {before}", record.offset));
            }
            self.note(record, verdict);
        }
        if let (Some(last), Some(end)) = (records.last(), high_watermark)
            && last.offset >= end
        {
            verdict.add(Rule::Uncommitted, || format!("{at}: {} was served, the high watermark is {end}", last.offset));
        }
    }

    fn note(&mut self, record: &Seen, verdict: &mut Verdict) {
        let (at, Seen { offset, value, hash, epoch }) = (self.at, *record);
        self.seen_end = self.seen_end.max(offset.saturating_add(1));
        let page = self.pages.entry(offset.div_euclid(PAGE)).or_insert_with(|| vec![UNSEEN; PAGE as usize]);
        let sight = &mut page[offset.rem_euclid(PAGE) as usize];
        if !sight.is_set {
            *sight = Sight { value, epoch, is_set: true };
        }
        let first = *sight;
        if first.value != value {
            verdict.add(Rule::InconsistentOffset, || format!("{at} at {offset}: read as {} and as {value}", first.value));
        } else if first.epoch != epoch {
            verdict.add(Rule::ReadsDiffer, || format!("{at} at {offset}: epoch {} and {epoch}", first.epoch));
        }
        let Some(known) = self.known.get_mut(&value) else {
            verdict.add(Rule::Phantom, || format!("{at} at {offset}: value {value} was never sent there"));
            return;
        };
        if known.seen == NONE {
            known.seen = offset;
        }
        let place = known.seen;
        if place != offset {
            verdict.add(Rule::Duplicate, || format!("{at}: value {value} at {place} and at {offset}"));
        }
        if known.hash != hash {
            verdict.add(Rule::Content, || format!("{at} at {offset}: value {value} is not what was sent"));
        }
    }

    pub(crate) fn read_begins(&mut self, read: u64, source: Source, log_start: i64) {
        let read_state = Read {
            source,
            log_start,
            acknowledgements: self.acknowledgements,
            seen_end: self.seen_end,
            first: NONE,
            next: NONE,
            holes: Vec::new(),
            ended: false,
        };
        self.reads.insert(read, read_state);
    }

    pub(crate) fn read_goes_on(&mut self, read: u64, records: &[Seen], verdict: &mut Verdict) {
        let at = self.at;
        if let Some(read) = self.reads.get_mut(&read) {
            if let (Some(first), true) = (records.first(), read.first >= 0)
                && first.offset != read.next
            {
                verdict.add(Rule::Hole, || format!("{at}: {} follows {} in a full read", first.offset, read.next - 1));
            }
            for record in records {
                if read.first < 0 {
                    read.first = record.offset;
                } else if record.offset > read.next {
                    read.holes.push((read.next, record.offset));
                }
                read.next = read.next.max(record.offset + 1);
            }
        }
        self.see(records, None, verdict);
    }

    pub(crate) fn read_ends(&mut self, read: u64, high_watermark: i64, verdict: &mut Verdict) {
        let at = self.at;
        let Some(read) = self.reads.get_mut(&read) else { return };
        read.ended = true;
        let (source, log_start, first, next) = (read.source, read.log_start, read.first, read.next);
        let covered = if first < 0 { log_start == high_watermark } else { first <= log_start && next >= high_watermark };
        if !covered {
            let detail = || format!("{at}: {log_start}..{high_watermark} was to be read, {first}..{next} came ({source:?})");
            verdict.add(Rule::NotCovered, detail);
        }
        let seen_end = read.seen_end;
        if seen_end > high_watermark.max(next) {
            let detail =
                || format!("{at}: {} was given to a consumer, now all ends at {high_watermark} ({source:?})", seen_end - 1);
            verdict.add(Rule::LostRead, detail);
        }
    }

    /// What can only be said once everything is known.
    pub(crate) fn finish(&self, verdict: &mut Verdict) {
        self.judge_order(verdict);
        self.judge_sends(verdict);
        let at = self.at;
        if !self.gone && self.acknowledgements > 0 && !self.reads.values().any(|read| read.ended) {
            verdict.add(Rule::NeverRead, || format!("{at}: {} sends were acknowledged", self.acknowledgements));
        }
    }

    /// Along offsets, epochs don't fall and each process's values come in the order in which they were sent.
    fn judge_order(&self, verdict: &mut Verdict) {
        let at = self.at;
        let mut epoch_before = i32::MIN;
        let mut last: HashMap<u32, (u32, Value, i64)> = HashMap::new();
        for (page, sights) in &self.pages {
            for (place, sight) in sights.iter().enumerate().filter(|(_, sight)| sight.is_set) {
                let offset = page * PAGE + place as i64;
                if sight.epoch < epoch_before {
                    let epoch = sight.epoch;
                    verdict.add(Rule::EpochFalls, || format!("{at} at {offset}: from {epoch_before} to {epoch}"));
                }
                epoch_before = epoch_before.max(sight.epoch);
                let Some(known) = self.known.get(&sight.value) else { continue };
                let before = last.insert(known.process, (known.order, sight.value, offset));
                if let Some((_, later, earlier_place)) = before.filter(|(order, ..)| *order > known.order) {
                    let (process, value) = (known.process, sight.value);
                    let detail = || {
                        format!("{at}: process {process} sent {value} before {later}, which lie at {offset} and {earlier_place}")
                    };
                    verdict.add(Rule::NonmonotonicSend, detail);
                }
            }
        }
    }

    fn judge_sends(&self, verdict: &mut Verdict) {
        let at = self.at;
        let mut values: Vec<(&Value, &Known)> = self.known.iter().collect();
        values.sort_unstable_by_key(|(_, known)| known.order);
        for (value, known) in values {
            if known.seen >= 0 && known.failures == known.tries {
                verdict.add(Rule::AbortedRead, || format!("{at} at {}: the send of value {value} had failed", known.seen));
            }
            if known.acknowledged >= 0 && known.seen >= 0 && known.acknowledged != known.seen {
                let (told, seen) = (known.acknowledged, known.seen);
                let detail = || format!("{at}: value {value} was acknowledged at {told} and is read at {seen}");
                verdict.add(Rule::AcknowledgedElsewhere, detail);
            }
            if known.acknowledgement > 0 && !self.gone {
                self.judge_acknowledged(*value, known, verdict);
            }
        }
    }

    /// Each full read must have every value that was acknowledged before it began and does not lie below its log start.
    fn judge_acknowledged(&self, value: Value, known: &Known, verdict: &mut Verdict) {
        let at = self.at;
        let place = if known.seen >= 0 { known.seen } else { known.acknowledged };
        for read in self.reads.values().filter(|read| read.ended && known.acknowledgement <= read.acknowledgements) {
            let source = read.source;
            let is_there = known.seen >= 0 && read.has(place);
            if place >= read.log_start && !is_there {
                let detail = || format!("{at}: value {value}, acknowledged at {place}, is gone ({source:?})");
                verdict.add(Rule::LostWrite, detail);
            } else if place == SOMEWHERE && read.log_start == 0 {
                verdict
                    .add(Rule::LostWrite, || format!("{at}: value {value}, acknowledged as a duplicate, is gone ({source:?})"));
            }
        }
    }
}
