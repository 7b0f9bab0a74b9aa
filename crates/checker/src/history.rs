//! A history in memory, and as JSON lines.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, Write};

use crate::checker::Checker;
use crate::event::Entry;
use crate::rule::Verdict;

/// Why a history can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line is no event.
    #[error("line {line} of the history is no event: {source}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The reader or writer failed.
    #[error("the history can't be read or written: {0}")]
    Io(#[from] std::io::Error),
}

/// Events in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The events.
    pub entries: Vec<Entry>,
}

impl History {
    /// Writes one JSON object a line.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_lines(&self, mut to: impl Write) -> Result<(), Error> {
        for entry in &self.entries {
            write_line(entry, &mut to)?;
        }
        Ok(to.flush()?)
    }

    /// Reads what [`History::write_lines`] or a recorder wrote.
    ///
    /// # Errors
    /// The reader's, or the first line that is no event.
    pub fn read_lines(from: impl BufRead) -> Result<History, Error> {
        let mut entries = Vec::new();
        each_line(from, |entry| entries.push(entry))?;
        Ok(History { entries })
    }

    /// A hash of all events and their times: equal for equal histories of one build.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.entries.hash(&mut hasher);
        hasher.finish()
    }
}

/// Judges a history by all rules.
pub fn check(history: &History) -> Verdict {
    let mut checker = Checker::default();
    for entry in &history.entries {
        checker.observe(&entry.event);
    }
    checker.finish()
}

/// Judges a history that is read line by line and never held as a whole.
///
/// # Errors
/// The reader's, or the first line that is no event. An unfinished last line, as a killed recorder leaves, is left out.
pub fn check_lines(from: impl BufRead) -> Result<Verdict, Error> {
    let mut checker = Checker::default();
    each_line(from, |entry| checker.observe(&entry.event))?;
    Ok(checker.finish())
}

pub(crate) fn write_line(entry: &Entry, to: &mut impl Write) -> Result<(), Error> {
    serde_json::to_writer(&mut *to, entry).map_err(std::io::Error::from)?;
    to.write_all(b"\n")?;
    Ok(())
}

fn each_line(mut from: impl BufRead, mut take: impl FnMut(Entry)) -> Result<(), Error> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if from.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        match serde_json::from_slice(&text) {
            Ok(entry) => take(entry),
            Err(_) if text.last() != Some(&b'\n') => break,
            Err(source) => return Err(Error::Line { line, source }),
        }
    }
    Ok(())
}
