//! Reads: from the tail where it reaches, else from the tier; long polls woken by apply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use parking_lot::Mutex;
use tidegate_env::watch;
use tidegate_journal::entry::{ManifestRef, StoredRange};
use tidegate_journal::raft::ReadError;
use tidegate_journal::state::TierPiece;
use tidegate_model::{Offset, TopicPartition};
use tidegate_tier::{ObjectRef, RangeRef, TierReadError};

use super::routes::Route;
use super::{Error, Fetch, FetchPart, Fetched, Hub, Marks, PartitionRef};
use crate::metrics::SourceLabels;

/// Manifests kept in memory: each lists some hundred ranges, about 100 bytes each.
const MANIFESTS: usize = 256;

/// The newest-used manifests, by key.
#[derive(Debug, Default)]
pub(crate) struct ManifestCache {
    entries: Mutex<VecDeque<Cached>>,
}

/// A manifest's key and the ranges it lists.
type Cached = (Arc<str>, Arc<Vec<StoredRange>>);

impl ManifestCache {
    fn get(&self, key: &str) -> Option<Arc<Vec<StoredRange>>> {
        let mut entries = self.entries.lock();
        let place = entries.iter().position(|(held, _)| &**held == key)?;
        let entry = entries.remove(place)?;
        let ranges = Arc::clone(&entry.1);
        entries.push_back(entry);
        Some(ranges)
    }

    fn put(&self, key: Arc<str>, ranges: Arc<Vec<StoredRange>>) {
        let mut entries = self.entries.lock();
        entries.push_back((key, ranges));
        if entries.len() > MANIFESTS {
            entries.pop_front();
        }
    }
}

/// Why nothing came from one source.
enum Missed {
    /// Look again: the other source has it by now.
    Moved,
    /// It failed.
    Failed(Error),
}

/// Why a wait ended.
enum Woken {
    /// There may be more, or the time is over.
    Look,
    /// Partitions moved: others are to be watched.
    Moved,
    /// The broker stops, or a replica is closed.
    Over,
}

impl Hub {
    /// Reads several partitions. Answers when `min_bytes` are there, when a part failed, or when the wait is over.
    pub async fn fetch(&self, fetch: &Fetch) -> Vec<Result<Fetched, Error>> {
        let deadline = self.inner.env.clock.monotonic() + fetch.max_wait;
        let mut moves = self.inner.routes.moves();
        let mut watches = self.watches(fetch);
        loop {
            // Before the read: what is appended after it wakes the wait.
            for watch in &mut watches {
                watch.mark_unchanged();
            }
            let answer = self.fetch_once(fetch).await;
            let bytes: usize = answer.iter().flatten().map(|fetched| fetched.bytes).sum();
            let now = self.inner.env.clock.monotonic();
            if bytes >= fetch.min_bytes || answer.iter().any(Result::is_err) || now >= deadline || watches.is_empty() {
                return answer;
            }
            match self.wait_for_any(&mut watches, &mut moves, deadline - now).await {
                Woken::Over => return answer,
                Woken::Moved => watches = self.watches(fetch),
                Woken::Look => {}
            }
        }
    }

    /// One for each partition, and kept while the fetch waits: one of a partition that is elsewhere begins with a change.
    fn watches(&self, fetch: &Fetch) -> Vec<watch::Receiver<Offset>> {
        let watched = if fetch.max_wait.is_zero() { &[] } else { fetch.parts.as_slice() };
        watched.iter().filter_map(|part| self.watch(&part.at).ok()).collect()
    }

    async fn fetch_once(&self, fetch: &Fetch) -> Vec<Result<Fetched, Error>> {
        let mut left = fetch.max_bytes;
        let mut answer = Vec::with_capacity(fetch.parts.len());
        for part in &fetch.parts {
            // The first batch of an answer is whole however large it is; later parts only get what is left.
            let first = left == fetch.max_bytes;
            let fetched = if left == 0 { self.glance(part).await } else { self.read_part(part, left, first).await };
            if let Ok(fetched) = &fetched {
                left = left.saturating_sub(fetched.bytes);
            }
            answer.push(fetched);
        }
        answer
    }

    async fn read_part(&self, part: &FetchPart, left: usize, first: bool) -> Result<Fetched, Error> {
        let fetched = self.read(&part.at, part.offset, part.max_bytes.min(left)).await?;
        if !first && fetched.bytes > left {
            return Ok(Fetched { chunks: Vec::new(), bytes: 0, next: part.offset, marks: fetched.marks });
        }
        Ok(fetched)
    }

    /// Marks without data.
    async fn glance(&self, part: &FetchPart) -> Result<Fetched, Error> {
        let route = self.inner.routes.route(&part.at)?;
        let marks = self.marks_anywhere(&route).await?;
        if marks.leaderless.is_some() && part.offset > marks.high_watermark {
            return Err(self.inner.not_leader(route.journal));
        }
        within_log(part.offset, &marks)?;
        Ok(Fetched { chunks: Vec::new(), bytes: 0, next: part.offset, marks })
    }

    /// Waits until there may be more to read. Waiting is over for good when the broker stops or a replica here is closed; who went on to look would
    /// spin.
    async fn wait_for_any(
        &self,
        watches: &mut [watch::Receiver<Offset>],
        moves: &mut watch::Receiver<u64>,
        left: Duration,
    ) -> Woken {
        let changes = select_all(watches.iter_mut().map(|watch| watch.changed().boxed()));
        tokio::select! {
            biased;
            () = self.inner.intake.cancelled() => Woken::Over,
            moved = moves.changed() => if moved.is_ok() { Woken::Moved } else { Woken::Over },
            (changed, ..) = changes => if changed.is_ok() { Woken::Look } else { Woken::Over },
            () = self.inner.env.clock.sleep(left) => Woken::Look,
        }
    }

    /// Wakes when the partition's high watermark rises.
    pub fn watch(&self, at: &PartitionRef) -> Result<watch::Receiver<Offset>, Error> {
        let route = self.inner.routes.route(at)?;
        if self.is_elsewhere(&route) {
            return Ok(self.watch_elsewhere(&route));
        }
        let journal = self.journal(route.journal)?;
        journal.high_watermark(route.at).ok_or_else(|| Error::unavailable("the partition is not open yet"))
    }

    /// Reads one partition from `from` on, at most `max_bytes` but at least one batch if there is any. Does not wait for new data. The
    /// first batch may begin before `from`.
    pub async fn read(&self, at: &PartitionRef, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        let route = self.inner.routes.route(at)?;
        self.check_epoch(&route, at.leader_epoch)?;
        let home = route.older_home(from);
        let fetched = self.read_home(home.as_ref().unwrap_or(&route), from, max_bytes).await?;
        if route.older().is_empty() {
            return Ok(fetched);
        }
        let marks = match &home {
            // What an older home says of its end is not where the partition ends.
            Some(_) => self.marks_anywhere(&route).await?,
            None => self.with_older_here(&route, fetched.marks),
        };
        Ok(Fetched { marks: marks.reaching(fetched.next), ..fetched })
    }

    async fn read_home(&self, route: &Route, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        if self.is_elsewhere(route) {
            return self.read_elsewhere(route, from, max_bytes).await;
        }
        self.read_standing(route, from, max_bytes).await
    }

    pub(crate) async fn read_route(&self, route: &Route, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        // Between the two looks the tierer may move data from the tail to the tier, or retention drop it: look again then.
        for _ in 0..4 {
            let marks = self.marks(route)?;
            within_log(from, &marks)?;
            if from == marks.high_watermark {
                return Ok(Fetched { chunks: Vec::new(), bytes: 0, next: from, marks });
            }
            match self.read_tail(route, from, max_bytes, marks).await {
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Moved) => {}
                Ok(fetched) => return Ok(fetched.with_covering_marks()),
            }
            match self.read_tier(route, from, max_bytes, marks).await {
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Moved) => {}
                Ok(fetched) => return Ok(fetched),
            }
        }
        Err(Error::unavailable(format!("offset {from} of {} moved between log and tier while it was read", route.at)))
    }

    /// The marks of a partition, by the broker that leads it: what was acknowledged before is there. Where nobody leads, those of the replica here, which may
    /// lag: see [`Marks::leaderless`].
    pub async fn marks_at(&self, at: &PartitionRef) -> Result<Marks, Error> {
        let route = self.inner.routes.route(at)?;
        self.marks_anywhere(&route).await
    }

    /// The marks of a partition that this broker holds a replica of.
    pub fn marks_of(&self, at: &PartitionRef) -> Result<Marks, Error> {
        let route = self.inner.routes.route(at)?;
        Ok(self.with_older_here(&route, self.marks(&route)?))
    }

    /// The marks of one home of a partition.
    pub(crate) fn marks(&self, route: &Route) -> Result<Marks, Error> {
        let journal = self.journal(route.journal)?;
        let marks = journal.read_state(|state| {
            state.partition(route.at).map(|partition| Marks {
                high_watermark: partition.high_watermark(),
                log_start: partition.log_start(),
                tiered_end: partition.tiered_end(),
                epoch: partition.epoch(),
                leaderless: None,
            })
        });
        marks.ok_or_else(|| {
            Error::unavailable(format!("partition {} of `{}` is not open yet", route.at.partition, route.topic.name))
        })
    }

    async fn read_tail(&self, route: &Route, from: Offset, max_bytes: usize, marks: Marks) -> Result<Fetched, Missed> {
        let journal = self.journal(route.journal).map_err(Missed::Failed)?;
        match journal.read_tail(route.at, from, max_bytes).await {
            Ok(tail) => {
                let chunks: Vec<Bytes> = tail.batches.iter().flat_map(|batch| batch.chunks()).collect();
                self.inner.metrics.fetched.get_or_create(&SourceLabels { source: "tail" }).inc_by(tail.bytes as u64);
                Ok(Fetched { chunks, bytes: tail.bytes, next: tail.next, marks: marks.reaching(tail.next) })
            }
            // Below the tail it is in the tier; out of range means that the marks moved since they were read.
            Err(ReadError::BelowTail { .. } | ReadError::OutOfRange { .. }) => Err(Missed::Moved),
            Err(error) => Err(Missed::Failed(read_error(error))),
        }
    }

    async fn read_tier(&self, route: &Route, from: Offset, max_bytes: usize, marks: Marks) -> Result<Fetched, Missed> {
        let Some(range) = self.range_at(route, from).await? else { return Err(Missed::Moved) };
        let (object, place) = references(route.at, &range);
        let read =
            self.inner.reader.read(&object, &place, from, max_bytes).await.map_err(|error| Missed::Failed(tier_error(error)))?;
        let bytes = read.batches.iter().map(Bytes::len).sum();
        self.inner.metrics.fetched.get_or_create(&SourceLabels { source: "tier" }).inc_by(bytes as u64);
        Ok(Fetched { chunks: read.batches, bytes, next: read.next, marks: marks.reaching(read.next) })
    }

    /// The range in the tier that holds an offset.
    async fn range_at(&self, route: &Route, from: Offset) -> Result<Option<StoredRange>, Missed> {
        let journal = self.journal(route.journal).map_err(Missed::Failed)?;
        let piece =
            journal.read_state(|state| state.partition(route.at).and_then(|partition| partition.tier_from(from).next().cloned()));
        let range = match piece {
            None => return Ok(None),
            Some(TierPiece::Range(range)) => Some(range),
            Some(TierPiece::Manifest(manifest)) => {
                let ranges = self.manifest(&manifest).await.map_err(Missed::Failed)?;
                ranges.iter().find(|range| range.end > from).cloned()
            }
        };
        Ok(range.filter(|range| range.base <= from && from < range.end))
    }

    /// The ranges that a manifest object lists, verified.
    pub(crate) async fn manifest(&self, manifest: &ManifestRef) -> Result<Arc<Vec<StoredRange>>, Error> {
        if let Some(ranges) = self.inner.manifests.get(&manifest.object.key) {
            return Ok(ranges);
        }
        let ranges = Arc::new(self.inner.read_manifest(manifest).await?);
        self.inner.manifests.put(Arc::clone(&manifest.object.key), Arc::clone(&ranges));
        Ok(ranges)
    }
}

/// An offset must lie in the log or at its end.
pub(crate) fn within_log(offset: Offset, marks: &Marks) -> Result<(), Error> {
    if offset < marks.log_start || offset > marks.high_watermark {
        return Err(Error::OffsetOutOfRange { offset, log_start: marks.log_start, high_watermark: marks.high_watermark });
    }
    Ok(())
}

/// How the tier's reader names a range.
pub(crate) fn references(at: TopicPartition, range: &StoredRange) -> (ObjectRef, RangeRef) {
    let object = ObjectRef { key: range.object.key.to_string(), bytes: range.object.bytes };
    let place = RangeRef { at, base: range.base, end: range.end, position: range.position, bytes: range.bytes };
    (object, place)
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Damaged { .. } => Error::Corrupt { problem: error.to_string() },
        other => Error::unavailable(other),
    }
}

pub(crate) fn tier_error(error: TierReadError) -> Error {
    match error {
        TierReadError::Corrupt { .. } => Error::Corrupt { problem: error.to_string() },
        other => Error::TierUnavailable { problem: other.to_string() },
    }
}
