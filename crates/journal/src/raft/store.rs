//! Raft's log over the shared WAL: appends, votes, truncations and purges go through one queue, in order.
//!
//! An append publishes its entries to the tail cache, hands them to the WAL and returns; Raft hears from the WAL thread once they are
//! synced. Reads come from the cache, else from the WAL. What is committed is noted lazily: a start does not need it. Nor does it need to know that the
//! vote that this replica gave won its election: that goes out with the next write, so that an election costs no sync for it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use futures::stream::{self, Stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tidegate_env::bugs::{self, Bug};
use tidegate_model::JournalId;
use tidegate_wal::{JournalLog, ReadError, Wal, Write};
use tokio::sync::oneshot;

use super::append_signal::AppendSignal;
use super::cache::TailCache;
use super::own_vote::OwnVote;
use super::types::{
    CodecError, LogId, RaftEntry, RaftPayload, TypeConfig, Vote, decode_payload, decode_vote, encode_payload, encode_vote,
    log_id, position,
};

/// What one limited read of the log gives at most, though always one entry.
const LIMITED_READ_BYTES: u64 = 4 << 20;

/// How far the committed index may run ahead of the note of it.
const COMMITTED_STRIDE: u64 = 256;

/// The log of one journal. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    journal: JournalId,
    replica: u64,
    wal: Wal,
    cache: TailCache,
    marks: Arc<Mutex<Marks>>,
    own_vote: OwnVote,
    /// How many appends are on their way to the disk.
    unsynced: Arc<AtomicUsize>,
    append_signal: AppendSignal,
    /// The first entry that was found damaged.
    damage: Arc<OnceLock<String>>,
}

/// What is known without reading the log.
#[derive(Default)]
struct Marks {
    vote: Option<Vote>,
    /// The same, as it goes out before the next write.
    to_write: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    committed_noted: u64,
}

impl LogStore {
    pub(super) fn new(
        journal: JournalId,
        replica: u64,
        wal: Wal,
        cache: TailCache,
        recovered: Option<&JournalLog>,
    ) -> Result<Self, CodecError> {
        let mut marks = Marks::default();
        if let Some(log) = recovered {
            marks.vote = log.vote.as_deref().filter(|_| !bugs::on(Bug::ForgetVote)).map(decode_vote).transpose()?;
            marks.purged = log.purged.and_then(log_id);
            marks.committed = log.committed.and_then(log_id);
            marks.last = log.last.and_then(log_id).max(marks.purged);
        }
        cache.durable(journal, marks.last.map_or(0, |id| position(&id).index));
        let (marks, own_vote, append_signal) = (Arc::new(Mutex::new(marks)), OwnVote::default(), AppendSignal::default());
        let (unsynced, damage) = (Arc::default(), Arc::default());
        Ok(LogStore { journal, replica, wal, cache, marks, own_vote, unsynced, append_signal, damage })
    }

    /// What a leader waits for before it sends anything.
    pub(super) fn own_vote(&self) -> OwnVote {
        self.own_vote.clone()
    }

    /// What tells of each entry that Raft gives to this log.
    pub(super) fn append_signal(&self) -> AppendSignal {
        self.append_signal.clone()
    }

    /// What was found damaged, if anything was read that is not what was written.
    pub(super) fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }

    /// The last entry's place, as the WAL numbers it; 0 for an empty log.
    pub(super) fn last_index(&self) -> u64 {
        self.marks.lock().last.map_or(0, |id| position(&id).index)
    }

    /// The last entry that is no longer there; 0 if none was purged.
    pub(super) fn purged_index(&self) -> u64 {
        self.marks.lock().purged.map_or(0, |id| position(&id).index)
    }

    /// What is still to be written before anything else.
    fn owed(&self) -> Option<Write> {
        let owed = self.marks.lock().to_write.take();
        owed.map(|vote| Write::Vote { journal: self.journal, bytes: encode_vote(&vote) })
    }

    /// Writes through the queue and waits until it is durable.
    async fn write(&self, write: Write) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        let writes = self.owed().into_iter().chain([write]).collect();
        self.wal.submit(writes, Some(Box::new(move |written| drop(done.send(written)))));
        match result.await {
            Ok(written) => written.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the WAL is closed")),
        }
    }

    /// One entry by the index that Raft gives it.
    async fn entry(&self, index: u64) -> io::Result<RaftEntry> {
        if let Some(entry) = self.cache.get(self.journal, index + 1) {
            return Ok(entry);
        }
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("journal {} has no entry {}", self.journal, index + 1));
        let at = self.wal.entry(self.journal, index + 1).ok_or_else(missing)?.at;
        let bytes = self.wal.read(self.journal, index + 1).await.map_err(|error| {
            if matches!(error, ReadError::Corrupt { .. }) {
                self.damage.get_or_init(|| error.to_string());
            }
            io::Error::other(error)
        })?;
        let payload = decode_payload(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(RaftEntry { log_id: log_id(at).ok_or_else(missing)?, payload })
    }

    /// The part of a range that the log holds.
    fn held(&self, range: impl RangeBounds<u64>) -> std::ops::Range<u64> {
        let marks = self.marks.lock();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        start.max(marks.purged.map_or(0, |id| id.index + 1))..end.min(marks.last.map_or(0, |id| id.index + 1))
    }

    fn bytes_of(&self, index: u64) -> u64 {
        self.wal.entry(self.journal, index + 1).map_or(0, |entry| u64::from(entry.len))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let mut entries = Vec::new();
        for index in self.held(range) {
            entries.push(self.entry(index).await?);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let held = self.held(start..end);
        // A run that begins later would leave a gap in the follower's log: rather none, and Raft looks again.
        if held.start != start {
            return Ok(entries);
        }
        for index in held {
            bytes += self.bytes_of(index);
            if !entries.is_empty() && bytes > LIMITED_READ_BYTES {
                break;
            }
            entries.push(self.entry(index).await?);
        }
        Ok(entries)
    }

    /// Entry by entry, so that a long replay holds one in memory and not the whole log.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<RaftEntry>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let store = self.clone();
        stream::unfold((store, self.held(range)), |(store, mut range)| async move {
            let entry = store.entry(range.next()?).await;
            Some((entry, (store, range)))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.marks.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let marks = self.marks.lock();
        Ok(LogState { last_purged_log_id: marks.purged, last_log_id: marks.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let write = Write::Vote { journal: self.journal, bytes: encode_vote(vote) };
        let is_given = self.marks.lock().vote.is_some_and(|given| given.leader_id == vote.leader_id);
        if vote.committed && is_given {
            // The vote is durable, or will be now; that its candidate won binds nobody to anything. Lost in a crash, it is told again by that leader.
            self.own_vote.settled().await?;
            let mut marks = self.marks.lock();
            (marks.vote, marks.to_write) = (Some(*vote), Some(*vote));
            return Ok(());
        }
        // It takes the place of one that is still to be written.
        self.marks.lock().to_write = None;
        if !vote.committed && vote.leader_id.voted_for == self.replica {
            let (own, number) = (self.own_vote.clone(), self.own_vote.begin());
            self.wal.submit(vec![write], Some(Box::new(move |written| own.end(number, written.is_ok()))));
            // Raft takes all that it gave to the log before a vote as durable once the vote is saved, and would answer an older leader that those entries are.
            if self.unsynced.load(Ordering::Acquire) > 0 {
                self.own_vote.settled().await?;
            }
        } else {
            self.write(write).await?;
        }
        self.marks.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(id) = committed else { return Ok(()) };
        let at = position(&id);
        let mut marks = self.marks.lock();
        marks.committed = Some(id);
        if at.index >= marks.committed_noted + COMMITTED_STRIDE {
            marks.committed_noted = at.index;
            self.wal.submit(vec![Write::Committed { journal: self.journal, at }], None);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.marks.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let mut writes: Vec<Write> = self.owed().into_iter().collect();
        let mut last = None;
        for entry in entries {
            let payload = encode_payload(&entry.payload);
            let bytes = payload.iter().map(|chunk| chunk.len() as u64).sum();
            let at = position(&entry.log_id);
            last = Some(entry.log_id);
            if let RaftPayload::Normal(data) = &entry.payload {
                self.append_signal.signal(&data.0);
            }
            self.cache.insert(self.journal, at.index, entry, bytes);
            writes.push(Write::Entry { journal: self.journal, at, payload: payload.into() });
        }
        let Some(last) = last else {
            flushed.io_completed(Ok(()));
            return Ok(());
        };
        self.marks.lock().last = Some(last);
        if bugs::on(Bug::RaftAheadOfDisk) {
            self.wal.submit(writes, None);
            self.cache.durable(self.journal, last.index + 1);
            flushed.io_completed(Ok(()));
            return Ok(());
        }
        let (cache, journal, unsynced) = (self.cache.clone(), self.journal, self.unsynced.clone());
        unsynced.fetch_add(1, Ordering::AcqRel);
        let done = move |written: Result<(), _>| {
            if written.is_ok() {
                cache.durable(journal, last.index + 1);
            }
            flushed.io_completed(written.map_err(io::Error::other));
            unsynced.fetch_sub(1, Ordering::AcqRel);
        };
        self.wal.submit(writes, Some(Box::new(done)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        if bugs::on(Bug::KeepDivergedTail) {
            return Ok(());
        }
        let index = last.map_or(0, |id| id.index + 1);
        self.marks.lock().last = last;
        self.cache.truncate_after(self.journal, index);
        let written = self.write(Write::TruncateAfter { journal: self.journal, index }).await;
        // Appends before it may have been called durable while it was on its way.
        self.cache.truncate_after(self.journal, index);
        written
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let at = position(&upto);
        {
            let mut marks = self.marks.lock();
            marks.purged = marks.purged.max(Some(upto));
            marks.last = marks.last.max(Some(upto));
        }
        self.cache.purge(self.journal, at.index);
        self.write(Write::Purge { journal: self.journal, at }).await
    }
}
