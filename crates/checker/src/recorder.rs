//! The one writer of a history: numbers operations, stamps times, and passes each event to memory, to a file, to a checker, or to several.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::TopicPartition;

use crate::checker::Checker;
use crate::event::{Entry, Event, Outcome, Seen, Sent, Source};
use crate::history::{self, Error, History};
use crate::rule::Verdict;

/// Microseconds on a clock that never falls.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where events go.
#[derive(Default)]
struct Inner {
    next_id: u64,
    memory: Option<History>,
    lines: Option<Box<dyn Write + Send>>,
    failed: Option<Error>,
    checker: Option<Checker>,
}

/// A handle to a history that is being written. Clones write to the same one; the order of calls is the order of events.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    now: Now,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

/// What a recorder has at the end.
#[derive(Debug)]
pub struct Recorded {
    /// The events, if they were kept in memory.
    pub history: Option<History>,
    /// The verdict, if events were judged as they came.
    pub verdict: Option<Verdict>,
}

impl Recorder {
    /// Records nothing yet: add where events go.
    pub fn new(now: Now) -> Recorder {
        Recorder { inner: Arc::new(Mutex::new(Inner::default())), now }
    }

    /// Keeps all events in memory too.
    #[must_use]
    pub fn in_memory(self) -> Recorder {
        self.inner.lock().memory = Some(History::default());
        self
    }

    /// Writes each event as a line of JSON too, for [`crate::check_lines`]. Give a buffered writer; it is flushed at the end.
    #[must_use]
    pub fn to_lines(self, lines: impl Write + Send + 'static) -> Recorder {
        self.inner.lock().lines = Some(Box::new(lines));
        self
    }

    /// Judges events as they come too, which needs no memory for the events themselves.
    #[must_use]
    pub fn checking(self) -> Recorder {
        self.inner.lock().checker = Some(Checker::default());
        self
    }

    /// Adds an event.
    pub fn add(&self, event: Event) {
        // Taken under the lock, so that times never fall along the history.
        let mut inner = self.inner.lock();
        let entry = Entry { at_us: (self.now)(), event };
        inner.add(entry);
    }

    fn numbered(&self, event: impl FnOnce(u64) -> Event) -> u64 {
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        let entry = Entry { at_us: (self.now)(), event: event(id) };
        inner.add(entry);
        id
    }

    /// A batch is about to be handed over. Gives the number for [`Recorder::sent`].
    pub fn send(&self, process: u32, at: TopicPartition, records: Vec<Sent>) -> u64 {
        self.numbered(|id| Event::Send { id, process, at, records })
    }

    /// What became of a batch: the offset of its first record, `None` for a duplicate too old to be remembered.
    pub fn sent(&self, id: u64, outcome: Outcome<Option<i64>>) {
        self.add(Event::SendResult { id, outcome });
    }

    /// A commit is about to be made. Gives the number for [`Recorder::committed`].
    pub fn commit(&self, group: u32, at: TopicPartition, offset: i64) -> u64 {
        self.numbered(|id| Event::Commit { id, group, at, offset })
    }

    /// What became of a commit.
    pub fn committed(&self, id: u64, outcome: Outcome<()>) {
        self.add(Event::CommitResult { id, outcome });
    }

    /// A full read begins. Gives the number for the other two calls.
    pub fn read_begins(&self, at: TopicPartition, source: Source, log_start: i64) -> u64 {
        self.numbered(|read| Event::ReadBegin { read, at, source, log_start })
    }

    /// More of a full read came.
    pub fn read_part(&self, read: u64, records: Vec<Seen>) {
        self.add(Event::ReadPart { read, records });
    }

    /// A full read got to the high watermark.
    pub fn read_ends(&self, read: u64, high_watermark: i64) {
        self.add(Event::ReadEnd { read, high_watermark });
    }

    /// Something that never may happen did.
    pub fn alarm(&self, what: impl Into<String>) {
        self.add(Event::Alarm { what: what.into() });
    }

    /// Something worth knowing for whoever reads the history.
    pub fn note(&self, what: impl Into<String>) {
        self.add(Event::Note { what: what.into() });
    }

    /// A copy of the history so far, if it is kept in memory.
    pub fn history(&self) -> Option<History> {
        self.inner.lock().memory.clone()
    }

    /// Ends the history. Later events of other handles are dropped.
    ///
    /// # Errors
    /// The first error of the writer of lines.
    pub fn finish(&self) -> Result<Recorded, Error> {
        let mut inner = std::mem::take(&mut *self.inner.lock());
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        if let Some(lines) = &mut inner.lines {
            lines.flush()?;
        }
        Ok(Recorded { history: inner.memory, verdict: inner.checker.map(Checker::finish) })
    }
}

impl Inner {
    fn add(&mut self, entry: Entry) {
        if let Some(checker) = &mut self.checker {
            checker.observe(&entry.event);
        }
        if let (Some(lines), None) = (&mut self.lines, &self.failed) {
            self.failed = history::write_line(&entry, lines).err();
        }
        if let Some(memory) = &mut self.memory {
            memory.entries.push(entry);
        }
    }
}
