//! What clients of a hub did and saw, and the rules that must hold of it: the one judge of simulation, fault campaigns and `tidegate verify`.
//!
//! The rules are those of Jepsen's Kafka workload (lost write, duplicate, inconsistent offset, aborted read, nonmonotonic and skipping polls,
//! nonmonotonic send …) and ours (dense offsets, epochs that never fall, content equal by hash, committed positions …): see [`Rule`].
//! Knows no hub, no network and no clock. Invariant: each rule has a bad history in the tests, and a good history passes.
//!
//! A workload gives each record a value that is unique within its partition ([`payload`] puts it into the record's bytes, [`value_of`] gets it
//! out), notes each batch before it is handed over and what became of it after, notes what consumers got, and at the end, when all faults are
//! healed, reads every partition in full by a fresh consumer, once for each [`Source`] that matters.
//!
//! ```
//! use std::sync::Arc;
//! use tidegate_checker::{Event, Outcome, Recorder, Rule, Seen, Sent, Source, content_hash, payload, value_of};
//! use tidegate_model::{PartitionId, TopicPartition, TopicUid};
//!
//! # fn main() -> Result<(), tidegate_checker::Error> {
//! let at = TopicPartition { topic: TopicUid::default(), partition: PartitionId(0) };
//! // A real one gives microseconds of its monotonic clock. `.to_lines(file)` would write JSON lines, for `check_lines`.
//! let recorder = Recorder::new(Arc::new(|| 0)).in_memory().checking();
//!
//! // Two batches: one acknowledged at offset 0, one whose answer was lost.
//! let record = |value| Sent { value, hash: content_hash(None, Some(&payload(value, 100)), [], 5) };
//! let first = recorder.send(1, at, vec![record(10), record(11)]);
//! recorder.sent(first, Outcome::Ok(Some(0)));
//! let second = recorder.send(1, at, vec![record(12)]);
//! recorder.sent(second, Outcome::Info);
//!
//! // At the end: a fresh consumer reads everything. It finds 10 and misses 11.
//! let bytes = payload(10, 100);
//! let hash = content_hash(None, Some(&bytes), [], 5);
//! let read = recorder.read_begins(at, Source::Anywhere, 0);
//! recorder.read_part(read, vec![Seen { offset: 0, value: value_of(&bytes).unwrap(), hash, epoch: 0 }]);
//! recorder.read_ends(read, 1);
//!
//! let recorded = recorder.finish()?;
//! let verdict = recorded.verdict.unwrap();
//! assert_eq!(verdict.broken.keys().copied().collect::<Vec<_>>(), [Rule::LostWrite]);
//! assert_eq!(verdict, tidegate_checker::check(&recorded.history.unwrap()));
//! println!("{verdict}");
//! # Ok(())
//! # }
//! ```

mod checker;
mod content;
mod event;
mod history;
mod partition;
mod positions;
mod recorder;
mod rule;
#[cfg(test)]
mod tests;

pub use checker::Checker;
pub use content::{content_hash, payload, value_of};
pub use event::{Entry, Event, Outcome, Seen, Sent, Source, Value};
pub use history::{Error, History, check, check_lines};
pub use recorder::{Now, Recorded, Recorder};
pub use rule::{Rule, Verdict, Violation};
