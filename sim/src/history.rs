//! What clients did and were told, and the rules that must hold of it (after Jepsen's Kafka workload).
//!
//! Values are unique within a partition. An append that was acknowledged must be read, once, where the acknowledgement said, behind what its producer
//! had acknowledged before; one that was refused for certain must never be read; one whose outcome is unknown may be read once or never.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Stored at this offset.
    Acknowledged(i64),
    /// Certainly not stored.
    Refused,
    /// Not known.
    Unknown,
}

/// All appends of a run, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct History {
    appends: Vec<(i32, String, Outcome)>,
}

impl History {
    /// Notes an append as sent; until it is settled its outcome is unknown. Gives its number.
    pub fn sent(&mut self, partition: i32, value: String) -> usize {
        self.appends.push((partition, value, Outcome::Unknown));
        self.appends.len() - 1
    }

    /// Notes what became of it.
    pub fn settle(&mut self, number: usize, outcome: Outcome) {
        self.appends[number].2 = outcome;
    }

    /// How many appends were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.appends.iter().filter(|(.., outcome)| matches!(outcome, Outcome::Acknowledged(_))).count()
    }

    /// A hash of everything.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.appends.hash(&mut hasher);
        hasher.finish()
    }

    /// Compares with a full read of a partition: offsets and values in the order in which they were read.
    ///
    /// # Errors
    /// The first rule that is broken, with the values concerned.
    pub fn check(&self, partition: i32, read: &[(i64, String)]) -> Result<(), String> {
        let mut places: BTreeMap<&str, i64> = BTreeMap::new();
        for (index, (offset, value)) in read.iter().enumerate() {
            if *offset != index as i64 {
                return Err(format!("offset gap: partition {partition} has {offset} where {index} was expected"));
            }
            if let Some(before) = places.insert(value, *offset) {
                return Err(format!("duplicate: `{value}` stands at {before} and {offset} of partition {partition}"));
            }
        }
        let sent: BTreeSet<&str> = self.of(partition).map(|(value, _)| value).collect();
        if let Some((value, offset)) = places.iter().find(|(value, _)| !sent.contains(**value)) {
            return Err(format!("phantom: `{value}` at {offset} of partition {partition} was never sent"));
        }
        let mut last = -1;
        for (value, outcome) in self.of(partition) {
            match (outcome, places.get(value)) {
                (Outcome::Acknowledged(offset), None) => {
                    return Err(format!(
                        "lost write: `{value}` was acknowledged at {offset} of partition {partition} and is gone"
                    ));
                }
                (Outcome::Acknowledged(offset), Some(found)) if offset != *found => {
                    return Err(format!("inconsistent offset: `{value}` was acknowledged at {offset} and is read at {found}"));
                }
                (Outcome::Refused, Some(found)) => {
                    return Err(format!("aborted read: `{value}` was refused and is read at {found}"));
                }
                (Outcome::Acknowledged(offset), Some(_)) => {
                    if offset < last {
                        return Err(format!("reordered: `{value}` at {offset} was sent behind what is at {last}"));
                    }
                    last = offset;
                }
                (Outcome::Refused | Outcome::Unknown, _) => {}
            }
        }
        Ok(())
    }

    fn of(&self, partition: i32) -> impl Iterator<Item = (&str, Outcome)> {
        self.appends.iter().filter(move |(at, ..)| *at == partition).map(|(_, value, outcome)| (value.as_str(), *outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(appends: &[(&str, Outcome)]) -> History {
        let mut history = History::default();
        for (value, outcome) in appends {
            let number = history.sent(0, (*value).to_owned());
            history.settle(number, *outcome);
        }
        history
    }

    fn read(values: &[(i64, &str)]) -> Vec<(i64, String)> {
        values.iter().map(|(offset, value)| (*offset, (*value).to_owned())).collect()
    }

    #[test]
    fn a_history_that_holds_is_accepted() {
        let history = history(&[
            ("a", Outcome::Acknowledged(0)),
            ("b", Outcome::Unknown),
            ("c", Outcome::Refused),
            ("d", Outcome::Unknown),
        ]);
        history.check(0, &read(&[(0, "a"), (1, "d")])).unwrap();
    }

    #[test]
    fn each_bad_history_is_found() {
        use Outcome::{Acknowledged, Refused, Unknown};
        type Case = (&'static [(&'static str, Outcome)], &'static [(i64, &'static str)], &'static str);
        let cases: [Case; 7] = [
            (&[("a", Acknowledged(0))], &[], "lost write"),
            (&[("a", Acknowledged(0))], &[(0, "a"), (1, "a")], "duplicate"),
            (&[("a", Acknowledged(1)), ("b", Unknown)], &[(0, "a"), (1, "b")], "inconsistent offset"),
            (&[("a", Refused)], &[(0, "a")], "aborted read"),
            (&[("a", Acknowledged(0)), ("b", Acknowledged(2))], &[(0, "a"), (2, "b")], "offset gap"),
            (&[("a", Acknowledged(1)), ("b", Acknowledged(0))], &[(0, "b"), (1, "a")], "reordered"),
            (&[], &[(0, "x")], "phantom"),
        ];
        for (appends, values, expected) in cases {
            let error = history(appends).check(0, &read(values)).unwrap_err();
            assert!(error.starts_with(expected), "{expected}: {error}");
        }
    }
}
