//! Reading ranges back: verified spans of tier objects through a bounded memory and disk cache, with read-ahead.
//!
//! A span is [`SPAN_BYTES`] of an object's data. It is fetched once however many readers wait for it, checked against the footer's block CRCs, and
//! kept in memory and on disk within budgets. A reader that goes through an object in order is given the following spans ahead of time.
//! Invariant: nothing is handed on, from store or disk, whose CRC was not right.

mod cache;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};
use parking_lot::Mutex;
use tidegate_env::{Env, Joined};
use tidegate_model::batch::{BatchHeader, HEADER_BYTES};
use tidegate_model::{Offset, TopicPartition};
use tokio::sync::{Semaphore, oneshot};

use crate::envelope::DecodeError;
use crate::object::{BLOCK_BYTES, Footer, TRAILER_BYTES};
use crate::store::{ObjectStore, StoreError};
use cache::{DiskCache, MemoryCache};

/// Bytes that are fetched, verified and cached together: four blocks.
const SPAN_BYTES: u64 = 4 * BLOCK_BYTES;
/// What is read of an object's end at first; most footers fit.
const TAIL_BYTES: u64 = 64 << 10;
/// Footers kept in memory.
const FOOTERS: usize = 256;
/// Spans fetched ahead at the most.
const AHEAD: u64 = 8;
/// Data read in one go at the most, unless a single batch is larger.
const MOST_WINDOW_BYTES: u64 = 32 * SPAN_BYTES;
/// Fetches remembered, so that they end with the reader.
const TASKS: usize = 64;

/// An object in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
}

/// A range in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRef {
    /// The partition.
    pub at: TopicPartition,
    /// First offset.
    pub base: Offset,
    /// Offset after the last.
    pub end: Offset,
    /// First byte in the object.
    pub position: u64,
    /// Bytes of its batches.
    pub bytes: u64,
}

/// Bounds of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Memory for spans. At least one span is kept.
    pub memory_bytes: u64,
    /// Disk for spans; 0 keeps none there.
    pub disk_bytes: u64,
    /// Where they are kept. Emptied when the reader is made: a cache that outlives its process would have to be trusted.
    pub disk_dir: Option<PathBuf>,
    /// Requests to the store at a time.
    pub requests: usize,
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings { memory_bytes: 128 << 20, disk_bytes: 1 << 30, disk_dir: None, requests: 8 }
    }
}

/// How often the caches helped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// Spans found in memory.
    pub memory_hits: u64,
    /// Spans found on disk.
    pub disk_hits: u64,
    /// Spans fetched from the store.
    pub fetches: u64,
}

/// Why a range could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TierReadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is not what was written, and a second look did not help.
    #[error("object {key} is damaged at byte {position}: {problem}")]
    Corrupt {
        /// The object.
        key: String,
        /// Where in it.
        position: u64,
        /// What is wrong.
        problem: DecodeError,
    },
    /// The offset is not in the range.
    #[error("offset {offset} is not in {base}..{end} of object {key}")]
    OutOfRange {
        /// The object.
        key: String,
        /// The offset asked for.
        offset: Offset,
        /// First offset of the range.
        base: Offset,
        /// Offset after its last.
        end: Offset,
    },
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierRead {
    /// Whole batches, in order; the first may begin before the offset asked for.
    pub batches: Vec<Bytes>,
    /// Offset after the last.
    pub next: Offset,
}

type SpanId = (Arc<str>, u64);
type Fetch = Shared<BoxFuture<'static, Result<Bytes, TierReadError>>>;

/// Reads ranges. Cheap to clone. A read whose future is dropped leaves nothing behind: what it had begun to fetch goes into the caches.
#[derive(Clone)]
pub struct TierReader {
    inner: Arc<Inner>,
    /// Apart from `inner`, which the tasks themselves hold: the last reader to go ends them.
    tasks: Arc<Tasks>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    env: Env,
    memory: Mutex<MemoryCache>,
    disk: Option<DiskCache>,
    footers: Mutex<Footers>,
    fetches: Mutex<BTreeMap<SpanId, Fetch>>,
    requests: Semaphore,
    statistics: Mutex<CacheStatistics>,
    /// Where each object was read last, and how many spans were fetched ahead then.
    sequential: Mutex<BTreeMap<Arc<str>, (u64, u64)>>,
}

/// The latest fetches.
#[derive(Default)]
struct Tasks(Mutex<VecDeque<Box<dyn Joined>>>);

impl Tasks {
    fn keep(&self, task: Box<dyn Joined>) {
        let mut tasks = self.0.lock();
        tasks.push_back(task);
        if tasks.len() > TASKS {
            tasks.pop_front();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.get_mut().iter().for_each(|task| task.abort());
    }
}

/// A fetch on its way: whatever ends it, the next reader of the span begins anew or finds it in memory.
struct Flight {
    inner: Arc<Inner>,
    id: SpanId,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.inner.fetches.lock().remove(&self.id);
    }
}

#[derive(Default)]
struct Footers {
    by_key: BTreeMap<Arc<str>, Arc<Footer>>,
    order: VecDeque<Arc<str>>,
}

impl TierReader {
    /// A reader with empty caches.
    ///
    /// # Errors
    /// If the folder of the disk cache cannot be made or emptied.
    pub fn new(store: Arc<dyn ObjectStore>, settings: CacheSettings, env: Env) -> std::io::Result<TierReader> {
        let disk = match &settings.disk_dir {
            Some(folder) if settings.disk_bytes > 0 => Some(DiskCache::open(&env, folder.clone(), settings.disk_bytes)?),
            _ => None,
        };
        let inner = Inner {
            store,
            env,
            memory: Mutex::new(MemoryCache::new(settings.memory_bytes)),
            disk,
            footers: Mutex::default(),
            fetches: Mutex::default(),
            requests: Semaphore::new(settings.requests.max(1)),
            statistics: Mutex::default(),
            sequential: Mutex::default(),
        };
        Ok(TierReader { inner: Arc::new(inner), tasks: Arc::default() })
    }

    /// How often the caches helped.
    pub fn statistics(&self) -> CacheStatistics {
        *self.inner.statistics.lock()
    }

    /// Reads whole batches of a range from the one that holds `from` on: about `max_bytes`, at least one batch.
    ///
    /// # Errors
    /// [`TierReadError`]; damage is reported only after a second fetch.
    pub async fn read(
        &self,
        object: &ObjectRef,
        range: &RangeRef,
        from: Offset,
        max_bytes: usize,
    ) -> Result<TierRead, TierReadError> {
        if from < range.base || from >= range.end {
            let key = object.key.clone();
            return Err(TierReadError::OutOfRange { key, offset: from, base: range.base, end: range.end });
        }
        let key: Arc<str> = Arc::from(object.key.as_str());
        let footer = self.footer(&key, object.bytes).await?;
        let range_end = range.position + range.bytes;
        let start = start_position(&footer, range, from);
        let mut position = start;
        let mut window = (max_bytes as u64).clamp(BLOCK_BYTES, MOST_WINDOW_BYTES);
        let mut read = TierRead { batches: Vec::new(), next: from };
        loop {
            let end = position.saturating_add(window).next_multiple_of(SPAN_BYTES).min(range_end);
            let data = self.data(&key, &footer, position, end).await?;
            let walked = walk(&data, from, max_bytes, &mut read);
            let walked = walked.map_err(|problem| TierReadError::Corrupt { key: key.to_string(), position, problem })?;
            position += walked.used;
            if !read.batches.is_empty() {
                break;
            }
            if end == range_end {
                let problem = DecodeError::structure("tier object", format!("the range ends before offset {from}"));
                return Err(TierReadError::Corrupt { key: key.to_string(), position, problem });
            }
            // Nothing fits: either only older batches were there, or one that is larger than what was read.
            window = window.max(walked.needed);
        }
        self.read_ahead(&key, &footer, start, position, range_end);
        Ok(read)
    }

    /// The footer of an object, from memory or the store.
    async fn footer(&self, key: &Arc<str>, object_bytes: u64) -> Result<Arc<Footer>, TierReadError> {
        if let Some(footer) = self.inner.footers.lock().by_key.get(key) {
            return Ok(Arc::clone(footer));
        }
        let footer = match self.inner.fetch_footer(key, object_bytes).await {
            // The way from the store may have damaged it: look once more.
            Err(TierReadError::Corrupt { .. }) => self.inner.fetch_footer(key, object_bytes).await?,
            other => other?,
        };
        let footer = Arc::new(footer);
        let mut footers = self.inner.footers.lock();
        if footers.by_key.insert(Arc::clone(key), Arc::clone(&footer)).is_none() {
            footers.order.push_back(Arc::clone(key));
        }
        while footers.order.len() > FOOTERS {
            if let Some(oldest) = footers.order.pop_front() {
                footers.by_key.remove(&oldest);
            }
        }
        Ok(footer)
    }

    /// Verified bytes `start..end` of an object's data; one span is not copied.
    async fn data(&self, key: &Arc<str>, footer: &Arc<Footer>, start: u64, end: u64) -> Result<Bytes, TierReadError> {
        let (first, last) = (start / SPAN_BYTES, end.saturating_sub(1).max(start) / SPAN_BYTES);
        let spans = try_join_all((first..=last).map(|number| self.span(key, footer, number))).await?;
        let cut = |number: u64, span: &Bytes| {
            let span_start = number * SPAN_BYTES;
            let from = usize::try_from(start.saturating_sub(span_start)).unwrap_or(usize::MAX).min(span.len());
            let to = usize::try_from(end - span_start).unwrap_or(usize::MAX).min(span.len());
            span.slice(from..to)
        };
        if let [only] = spans.as_slice() {
            return Ok(cut(first, only));
        }
        let mut joined = BytesMut::with_capacity(usize::try_from(end - start).unwrap_or(0));
        for (index, span) in spans.iter().enumerate() {
            joined.extend_from_slice(&cut(first + index as u64, span));
        }
        Ok(joined.freeze())
    }

    /// One verified span; several readers of it wait for one fetch.
    fn span(&self, key: &Arc<str>, footer: &Arc<Footer>, number: u64) -> Fetch {
        let id: SpanId = (Arc::clone(key), number);
        if let Some(span) = self.inner.memory.lock().get(&id) {
            self.inner.statistics.lock().memory_hits += 1;
            return futures::future::ready(Ok(span)).boxed().shared();
        }
        let mut fetches = self.inner.fetches.lock();
        if let Some(fetch) = fetches.get(&id) {
            return fetch.clone();
        }
        // A task of its own carries the fetch to its end: if those who wait went on with it themselves, the last to give up would leave it
        // half done, with its place among the requests taken for ever.
        let (done, result) = oneshot::channel();
        let ended = StoreError::Unavailable {
            key: key.to_string(),
            operation: "get",
            message: "the reader was closed while it fetched".to_owned(),
        };
        let fetch = result.map(|result| result.unwrap_or(Err(TierReadError::Store(ended)))).boxed().shared();
        fetches.insert(id.clone(), fetch.clone());
        drop(fetches);
        let (flight, footer) = (Flight { inner: Arc::clone(&self.inner), id }, Arc::clone(footer));
        let carry = async move {
            let result = flight.inner.load_span(&flight.id, &footer).await;
            drop(flight);
            let _ = done.send(result);
        };
        self.tasks.keep(self.inner.env.threads.task("tier-fetch", carry.boxed()));
        fetch
    }

    /// Fetches the spans that a reader in sequence will want next.
    fn read_ahead(&self, key: &Arc<str>, footer: &Arc<Footer>, start: u64, end: u64, range_end: u64) {
        let ahead = {
            let mut sequential = self.inner.sequential.lock();
            let goes_on = sequential.get(key).is_some_and(|(last, _)| start <= *last && *last < start + SPAN_BYTES);
            let before = sequential.get(key).map_or(0, |(_, ahead)| *ahead);
            let ahead = if goes_on { (before * 2).clamp(1, AHEAD) } else { 0 };
            if sequential.len() >= FOOTERS {
                sequential.pop_first();
            }
            sequential.insert(Arc::clone(key), (end, ahead));
            ahead
        };
        let next = end / SPAN_BYTES + 1;
        let last = range_end.saturating_sub(1) / SPAN_BYTES;
        for number in (next..next + ahead).take_while(|number| *number <= last) {
            if self.inner.memory.lock().holds(&(Arc::clone(key), number)) {
                continue;
            }
            // It is carried to its end by its task. An error is met again by whoever really reads it.
            drop(self.span(key, footer, number));
        }
    }
}

impl Inner {
    async fn fetch_footer(&self, key: &str, object_bytes: u64) -> Result<Footer, TierReadError> {
        let corrupt = |problem: DecodeError| TierReadError::Corrupt { key: key.to_owned(), position: object_bytes, problem };
        let tail_start = object_bytes.saturating_sub(TAIL_BYTES);
        let tail = self.get_range(key, tail_start, object_bytes).await?;
        let cut = tail.len().checked_sub(TRAILER_BYTES as usize);
        let cut = cut.ok_or_else(|| corrupt(DecodeError::structure("tier object", "it is too short")))?;
        let trailer = Footer::trailer(&tail[cut..], object_bytes).map_err(corrupt)?;
        let footer_bytes = usize::try_from(trailer.footer_bytes).unwrap_or(usize::MAX);
        let footer = match cut.checked_sub(footer_bytes) {
            Some(start) => tail.slice(start..cut),
            None => self.get_range(key, trailer.data_bytes, trailer.data_bytes + trailer.footer_bytes).await?,
        };
        Footer::decode(&footer, &trailer).map_err(corrupt)
    }

    async fn get_range(&self, key: &str, start: u64, end: u64) -> Result<Bytes, TierReadError> {
        let _permit = self.requests.acquire().await.expect("the semaphore is never closed");
        self.statistics.lock().fetches += 1;
        Ok(self.store.get_range(key, start..end).await?)
    }

    /// A span from disk or store, verified, and put into the caches.
    async fn load_span(&self, id: &SpanId, footer: &Footer) -> Result<Bytes, TierReadError> {
        let start = id.1 * SPAN_BYTES;
        let end = (start + SPAN_BYTES).min(footer.data_bytes);
        if start >= end {
            return Ok(Bytes::new());
        }
        if let Some(disk) = &self.disk
            && let Some(span) = disk.get(&self.env, id).await
            && span.len() as u64 == end - start
            && footer.verify_blocks(start, &span).is_ok()
        {
            self.statistics.lock().disk_hits += 1;
            self.memory.lock().put(id.clone(), span.clone());
            return Ok(span);
        }
        let mut span = self.get_range(&id.0, start, end).await?;
        if footer.verify_blocks(start, &span).is_err() {
            tracing::warn!(key = %id.0, position = start, "a tier object's block is damaged and is fetched once more");
            span = self.get_range(&id.0, start, end).await?;
            let corrupt = |problem| TierReadError::Corrupt { key: id.0.to_string(), position: start, problem };
            footer.verify_blocks(start, &span).map_err(corrupt)?;
        }
        self.memory.lock().put(id.clone(), span.clone());
        if let Some(disk) = &self.disk {
            disk.put(&self.env, id, span.clone()).await;
        }
        Ok(span)
    }
}

/// Where to begin so that the batch with `from` is met: the last indexed batch at or before it.
fn start_position(footer: &Footer, range: &RangeRef, from: Offset) -> u64 {
    let found = footer.ranges.iter().find(|found| found.placement.at == range.at && found.placement.position == range.position);
    let index = found.map(|found| found.index.as_slice()).unwrap_or_default();
    let before = index.partition_point(|entry| entry.offset <= from);
    before.checked_sub(1).map_or(range.position, |last| index[last].position)
}

struct Walked {
    /// Bytes of the batches that were walked over, taken or not.
    used: u64,
    /// Bytes that the batch behind them needs.
    needed: u64,
}

/// Takes the batches that end behind `from`, until `max_bytes` are taken.
fn walk(data: &Bytes, from: Offset, max_bytes: usize, read: &mut TierRead) -> Result<Walked, DecodeError> {
    let (mut at, mut taken) = (0, 0);
    while at < data.len() {
        let rest = &data[at..];
        if rest.len() < HEADER_BYTES {
            return Ok(Walked { used: at as u64, needed: HEADER_BYTES as u64 });
        }
        let header = BatchHeader::read(rest).map_err(|error| DecodeError::structure("a batch of a tier object", error))?;
        let total = header.total_bytes();
        if total > rest.len() {
            return Ok(Walked { used: at as u64, needed: total as u64 });
        }
        let end = Offset(header.base_offset.0 + i64::from(header.last_offset_delta) + 1);
        if end > from {
            if taken > 0 && taken + total > max_bytes {
                break;
            }
            read.batches.push(data.slice(at..at + total));
            read.next = end;
            taken += total;
        }
        at += total;
    }
    Ok(Walked { used: at as u64, needed: 0 })
}
