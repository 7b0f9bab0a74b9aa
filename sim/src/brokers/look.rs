//! What is checked of the replicas while everything runs: the invariants of DESIGN section 6 that can be read off states, leaders and volumes.

use std::collections::BTreeMap;
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
    /// Replicas whose own log lacks records that no replica showed as tiered, and at how many looks in a row (I2).
    lacking: BTreeMap<(JournalId, u64), u32>,
    trace: u64,
}

/// Looks in a row after which a log that lacks records is believed: what another replica knows as tiered may be seen a little later.
const BELIEVED: u32 = 6;

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
        for (broker, journal) in cluster.replicas() {
            seen.leader(cluster, &journal)?;
            seen.holdings(broker, &journal)?;
            let (id, replica) = (journal.id(), journal.replica());
            let index = journal.read_state(|state| state.applied().index);
            if seen.looked.insert((id, replica), index) == Some(index) {
                continue;
            }
            seen.state(&journal).map_err(|problem| format!("journal {id}, replica {replica} on broker {broker}: {problem}"))?;
        }
        Ok(())
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
    fn holdings(&mut self, broker: u32, journal: &Journal) -> Result<(), String> {
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
        let Some((at, base, index)) = lacks else {
            self.lacking.remove(&(id, replica));
            return Ok(());
        };
        let times = self.lacking.entry((id, replica)).or_default();
        *times += 1;
        if *times < BELIEVED {
            return Ok(());
        }
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
