//! What is checked of the replicas while everything runs: the invariants of DESIGN section 6 that can be read off states, leaders and volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_checker::Event;
use tidegate_journal::Journal;
use tidegate_model::{JournalId, Offset, TopicPartition};

use super::cluster::Cluster;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// Hash of each journal's state after each index that was looked at (I3).
    hashes: BTreeMap<(JournalId, u64), u64>,
    /// Each replica's index at the last look.
    looked: BTreeMap<(JournalId, u64), u64>,
    /// Who led each term (I6).
    leaders: BTreeMap<(JournalId, u64), u64>,
    /// What was committed and let go of, as far as any replica showed it (I1, I4).
    marks: BTreeMap<TopicPartition, Marks>,
    trace: u64,
}

#[derive(Clone, Copy, Default)]
struct Marks {
    tiered_end: Offset,
    log_start: Offset,
}

/// The looker.
#[derive(Clone, Default)]
pub(super) struct Look {
    seen: Arc<Mutex<Seen>>,
}

impl Look {
    /// Looks at all replicas.
    ///
    /// # Errors
    /// What does not hold.
    pub(super) fn look(&self, cluster: &Cluster) -> Result<(), String> {
        let mut seen = self.seen.lock();
        let replicas = cluster.replicas();
        let shown = replicas.iter().filter(|(_, journal)| shows_all(journal, &replicas));
        let known: BTreeSet<JournalId> = shown.map(|(_, journal)| journal.id()).collect();
        for (broker, journal) in &replicas {
            seen.leader(cluster, journal)?;
            memory(*broker, journal)?;
            let (id, replica) = (journal.id(), journal.replica());
            let index = journal.read_state(|state| state.applied().index);
            if seen.looked.insert((id, replica), index) != Some(index) {
                let place = |problem| format!("journal {id}, replica {replica} on broker {broker}: {problem}");
                seen.state(journal).map_err(place)?;
            }
        }
        // Behind the marks of all, those of who leads among them. After all lost their power nobody shows what was committed last until one leads.
        replicas
            .iter()
            .filter(|(_, journal)| known.contains(&journal.id()))
            .try_for_each(|(broker, journal)| seen.holdings(*broker, journal))
    }

    /// Hash of all that was seen.
    pub(super) fn trace(&self) -> u64 {
        self.seen.lock().trace
    }

    /// Terms that had a leader.
    pub(super) fn terms(&self) -> u64 {
        self.seen.lock().leaders.len() as u64
    }
}

/// Whether this replica leads for certain, a majority of voters being in its term, and has applied an entry of that term: then its state shows all that was
/// ever committed.
fn shows_all(journal: &Journal, all: &[(u32, Journal)]) -> bool {
    let leads = *journal.leadership().borrow();
    if !leads.is_self || journal.read_state(|state| state.applied().term) != leads.term {
        return false;
    }
    let voters = journal.members().voters;
    let replicas = all.iter().filter(|(_, other)| other.id() == journal.id() && voters.contains(&other.replica()));
    let in_term = replicas.filter(|(_, other)| other.leadership().borrow().term == leads.term);
    in_term.count() * 2 > voters.len()
}

/// What requests hold is charged before it is held, and within budgets (I8).
fn memory(broker: u32, journal: &Journal) -> Result<(), String> {
    let memory = journal.memory();
    let is_charged = memory.waiting <= memory.charged_waiting && memory.charged_waiting <= memory.charged;
    if is_charged && memory.cache_excess == 0 {
        return Ok(());
    }
    Err(format!("I8: journal {} on broker {broker} holds more than it was charged or may: {memory:?}", journal.id()))
}

impl Seen {
    fn leader(&mut self, cluster: &Cluster, journal: &Journal) -> Result<(), String> {
        let now = *journal.leadership().borrow();
        if !now.is_self {
            return Ok(());
        }
        let (id, replica, term) = (journal.id(), journal.replica(), now.term);
        if let Some(known) = self.leaders.insert((id, term), replica) {
            return if known == replica {
                Ok(())
            } else {
                Err(format!("I6: term {term} of journal {id} is led by replicas {known} and {replica}"))
            };
        }
        cluster.world.lock().recorder.add(Event::Leads { journal: id.0, term, replica });
        Ok(())
    }

    /// A replica's own log holds all that it applied and that is not tiered: a snapshot never hides what lives in the log alone.
    fn holdings(&self, broker: u32, journal: &Journal) -> Result<(), String> {
        let first = journal.first_held();
        let lacks = journal.read_state(|state| {
            state.partitions().find_map(|(at, partition)| {
                let known = self.marks.get(&at).copied().unwrap_or_default();
                let gone = known.tiered_end.max(known.log_start);
                let item = partition.tail().untiered().find(|item| item.end > gone)?;
                (item.index < first).then_some((at, item.base, item.index))
            })
        });
        let (id, replica) = (journal.id(), journal.replica());
        let Some((at, base, index)) = lacks else { return Ok(()) };
        Err(format!(
            "I2: the log of journal {id}, replica {replica} on broker {broker}, begins at entry {first}; offset {base} of {at} is in entry {index} \
             and not tiered"
        ))
    }

    fn state(&mut self, journal: &Journal) -> Result<(), String> {
        let id = journal.id();
        journal.read_state(|state| {
            state.check()?;
            let (index, hash) = (state.applied().index, state.hash());
            self.trace = (self.trace ^ hash ^ index).wrapping_mul(0x0100_0000_01b3);
            let known = *self.hashes.entry((id, index)).or_insert(hash);
            if known != hash {
                return Err(format!("I3: its state after entry {index} differs from another replica's"));
            }
            for (at, partition) in state.partitions() {
                let (log_start, tiered_end, end) = (partition.log_start(), partition.tiered_end(), partition.high_watermark());
                if tiered_end > end || log_start > end {
                    return Err(format!("I1: {at} has log start {log_start}, tiered end {tiered_end}, high watermark {end}"));
                }
                let kept = self.marks.entry(at).or_default();
                *kept = Marks { tiered_end: kept.tiered_end.max(tiered_end), log_start: kept.log_start.max(log_start) };
                // A local byte goes only after what any replica has seen committed as tiered or trimmed.
                let tail = partition.tail().start().unwrap_or(end);
                let gone = tail.max(log_start);
                if gone > kept.tiered_end.max(kept.log_start) {
                    return Err(format!(
                        "I4: the tail of {at} begins at {tail}, tiered is up to {}, trimmed up to {}",
                        kept.tiered_end, kept.log_start
                    ));
                }
            }
            Ok(())
        })
    }
}
