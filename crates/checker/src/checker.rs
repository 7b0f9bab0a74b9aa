//! Judges a history event by event, so that histories need not fit into memory.

use std::collections::{BTreeMap, HashMap};

use tidegate_model::TopicPartition;

use crate::event::{Event, Outcome, Value};
use crate::partition::Partition;
use crate::positions::Positions;
use crate::rule::{Rule, Verdict};

/// A judgement that is under way. Takes events in their order by [`Checker::observe`], gives the verdict by [`Checker::finish`].
///
/// Memory: about 80 bytes for each record that was sent and read, whatever the number of reads; nothing for polls.
#[derive(Debug, Default)]
pub struct Checker {
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Sends without a result.
    pending: HashMap<u64, (TopicPartition, Vec<Value>)>,
    consumers: HashMap<(u32, TopicPartition), i64>,
    reads: HashMap<u64, TopicPartition>,
    positions: Positions,
    leaders: BTreeMap<(u32, u64), u64>,
    verdict: Verdict,
}

impl Checker {
    /// Takes the next event.
    pub fn observe(&mut self, event: &Event) {
        let verdict = &mut self.verdict;
        match event {
            Event::Send { id, process, at, records } => {
                partition(&mut self.partitions, *at).send(*process, records, verdict);
                self.pending.insert(*id, (*at, records.iter().map(|record| record.value).collect()));
            }
            Event::SendResult { id, outcome } => self.sent(*id, *outcome),
            Event::Poll { .. } => self.poll(event),
            Event::ReadBegin { read, at, source, log_start } => {
                self.reads.insert(*read, *at);
                let partition = partition(&mut self.partitions, *at);
                partition.starts_at(*log_start, verdict);
                partition.read_begins(*read, *source, *log_start);
            }
            Event::ReadPart { read, records } => {
                if let Some(at) = self.reads.get(read) {
                    verdict.tally("read at the end", records.len());
                    partition(&mut self.partitions, *at).read_goes_on(*read, records, verdict);
                }
            }
            Event::ReadEnd { read, high_watermark } => {
                if let Some(at) = self.reads.remove(read) {
                    verdict.tally("full reads", 1);
                    let partition = partition(&mut self.partitions, at);
                    partition.read_ends(*read, *high_watermark, verdict);
                }
            }
            Event::Commit { id, group, at, offset } => self.positions.commit(*id, (*group, *at), *offset),
            Event::CommitResult { id, outcome } => {
                verdict.tally("commits", 1);
                self.positions.committed(*id, *outcome);
            }
            Event::Position { group, at, offset } => {
                verdict.tally("positions read", 1);
                self.positions.read((*group, *at), *offset, verdict);
            }
            Event::MayTrim { at } => partition(&mut self.partitions, *at).may_trim(),
            Event::Gone { at } => partition(&mut self.partitions, *at).gone(),
            Event::Leads { journal, term, replica } => {
                let leader = *self.leaders.entry((*journal, *term)).or_insert(*replica);
                if leader != *replica {
                    let detail = || format!("journal {journal} in term {term}: replicas {leader} and {replica}");
                    verdict.add(Rule::TwoLeaders, detail);
                }
            }
            Event::Alarm { what } => verdict.add(Rule::Alarm, || what.clone()),
            Event::Note { .. } => {}
        }
    }

    fn sent(&mut self, id: u64, outcome: Outcome<Option<i64>>) {
        // A second result of one send would be the recorder's mistake; the first stands.
        let Some((at, values)) = self.pending.remove(&id) else { return };
        let kind = match outcome {
            Outcome::Ok(_) => "acknowledged",
            Outcome::Fail => "refused",
            Outcome::Info => "unknown",
        };
        self.verdict.tally(kind, values.len());
        partition(&mut self.partitions, at).sent(&values, outcome, &mut self.verdict);
    }

    fn poll(&mut self, event: &Event) {
        let Event::Poll { process, at, from, moved, records, log_start, high_watermark, via } = event else { return };
        let verdict = &mut self.verdict;
        verdict.tally("polled", records.len());
        let end = self.consumers.get(&(*process, *at)).copied().filter(|_| !moved);
        if let (Some(end), Some(first)) = (end, records.first().map(|record| record.offset)) {
            // What was trimmed meanwhile may be left out.
            if first < end {
                verdict.add(Rule::NonmonotonicPoll, || format!("{at}: consumer {process} had read up to {end} and got {first}"));
            } else if first > end.max(*log_start) {
                verdict.add(Rule::SkippedPoll, || format!("{at}: consumer {process} had read up to {end} and got {first}"));
            }
        } else if let Some(first) = records.first().map(|record| record.offset)
            && first > (*from).max(*log_start)
        {
            verdict.add(Rule::SkippedPoll, || format!("{at}: consumer {process} asked for {from} and got {first}"));
        }
        let next = records.last().map_or(*from, |record| record.offset.saturating_add(1));
        self.consumers.insert((*process, *at), next);
        let partition = partition(&mut self.partitions, *at);
        partition.told((*process, *via), *log_start, *high_watermark, verdict);
        partition.see(records, Some(*high_watermark), verdict);
    }

    /// What is to be said of all events so far. Sends without a result count as unknown.
    pub fn finish(mut self) -> Verdict {
        let unknown = self.pending.values().map(|(_, values)| values.len()).sum();
        if unknown > 0 {
            self.verdict.tally("unknown", unknown);
        }
        self.verdict.tally("partitions", self.partitions.len());
        for partition in self.partitions.values() {
            partition.finish(&mut self.verdict);
        }
        self.verdict
    }
}

fn partition(partitions: &mut BTreeMap<TopicPartition, Partition>, at: TopicPartition) -> &mut Partition {
    partitions.entry(at).or_insert_with(|| Partition::new(at))
}
