//! The rules by name, and the verdict on a history.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a history may not do. The first ten are those of Jepsen's Kafka workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Two values at one offset.
    InconsistentOffset,
    /// One value at two offsets.
    Duplicate,
    /// An acknowledged value that a later full read does not have.
    LostWrite,
    /// A value that a consumer was given and a later full read does not reach.
    LostRead,
    /// A value read whose send certainly had no effect.
    AbortedRead,
    /// A value read that nobody had sent there.
    Phantom,
    /// A consumer's poll went back.
    NonmonotonicPoll,
    /// A consumer's poll left something out.
    SkippedPoll,
    /// One process's values in another order than sent.
    NonmonotonicSend,
    /// The offset in an acknowledgement is not the one where the value is read.
    AcknowledgedElsewhere,
    /// A hole between two offsets of one read.
    Hole,
    /// The leader epoch falls along offsets.
    EpochFalls,
    /// The high watermark falls for a client.
    WatermarkFalls,
    /// A record was served at or above the high watermark.
    Uncommitted,
    /// The log start falls for a client, or rises where nothing is ever dropped.
    LogStartMoves,
    /// Key, value, headers or time differ from what was sent.
    Content,
    /// Two reads of one offset differ in their leader epoch.
    ReadsDiffer,
    /// A full read does not reach from the log start to the high watermark.
    NotCovered,
    /// A partition with acknowledged values was never read in full: nothing is proven of it.
    NeverRead,
    /// A committed position fell by itself, or was never committed.
    Position,
    /// Two leaders of one journal in one term.
    TwoLeaders,
    /// The hub did what it never may.
    Alarm,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Rule::InconsistentOffset => "inconsistent offset",
            Rule::Duplicate => "duplicate",
            Rule::LostWrite => "lost write",
            Rule::LostRead => "lost read",
            Rule::AbortedRead => "aborted read",
            Rule::Phantom => "phantom",
            Rule::NonmonotonicPoll => "nonmonotonic poll",
            Rule::SkippedPoll => "skipped poll",
            Rule::NonmonotonicSend => "nonmonotonic send",
            Rule::AcknowledgedElsewhere => "acknowledged elsewhere",
            Rule::Hole => "hole",
            Rule::EpochFalls => "epoch falls",
            Rule::WatermarkFalls => "high watermark falls",
            Rule::Uncommitted => "uncommitted read",
            Rule::LogStartMoves => "log start moves",
            Rule::Content => "content differs",
            Rule::ReadsDiffer => "reads differ",
            Rule::NotCovered => "not covered",
            Rule::NeverRead => "never read",
            Rule::Position => "committed position",
            Rule::TwoLeaders => "two leaders",
            Rule::Alarm => "alarm",
        };
        f.write_str(words)
    }
}

/// A rule that was broken, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// Where and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What is to be said of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The first few violations of each rule, in the order in which they were found.
    pub violations: Vec<Violation>,
    /// How often each rule was broken.
    pub broken: BTreeMap<Rule, u64>,
    /// How much of each kind was judged, for a person to see that the run did something: `acknowledged`, `refused`, `unknown`, `polled`,
    /// `read at the end` (records); `full reads`, `commits`, `positions read`, `partitions` (events).
    pub counts: BTreeMap<String, u64>,
}

impl Verdict {
    /// True if no rule was broken.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    /// How much of a kind was judged; 0 for kinds that did not occur.
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        let counts: Vec<String> = self.counts.iter().map(|(kind, many)| format!("{many} {kind}")).collect();
        if self.holds() {
            write!(f, "no rule is broken ({})", counts.join(", "))
        } else {
            let rules: Vec<String> = self.broken.iter().map(|(rule, times)| format!("{rule} {times} times")).collect();
            write!(f, "broken: {} ({})", rules.join(", "), counts.join(", "))
        }
    }
}

/// Enough of each rule to see what happened.
const MOST_OF_A_RULE: u64 = 5;

impl Verdict {
    /// Notes a violation; the words are only made if they are kept.
    pub(crate) fn add(&mut self, rule: Rule, detail: impl FnOnce() -> String) {
        let times = self.broken.entry(rule).or_default();
        *times += 1;
        if *times <= MOST_OF_A_RULE {
            self.violations.push(Violation { rule, detail: detail() });
        }
    }

    pub(crate) fn tally(&mut self, kind: &str, many: usize) {
        match self.counts.get_mut(kind) {
            Some(count) => *count += many as u64,
            None => drop(self.counts.insert(kind.to_owned(), many as u64)),
        }
    }
}
