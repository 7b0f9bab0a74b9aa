//! Reading ranges back: verified spans of tier objects through a bounded memory and disk cache, with read-ahead.
//!
//! A span is [`SPAN_BYTES`] of an object's data. It is fetched once however many readers wait for it, checked against the footer's block CRCs, and
//! kept in memory and on disk within budgets. A reader that goes through an object in order is given the following spans ahead of time.
//! Invariant: nothing is handed on, from store or disk, whose CRC was not right.

mod cache;
mod fetches;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::try_join_all;
use parking_lot::Mutex;
use tidegate_env::Env;
use tidegate_model::batch::{BatchHeader, HEADER_BYTES};
use tidegate_model::{Offset, TopicPartition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::envelope::DecodeError;
use crate::object::{BLOCK_BYTES, Footer, FooterRange, TRAILER_BYTES};
use crate::store::{ObjectStore, StoreError};
use cache::{DiskCache, MemoryCache, Recency};
use fetches::{Fetch, Fetched, Fetches, Flight};

/// Bytes that are fetched, verified and cached together: four blocks.
const SPAN_BYTES: u64 = 4 * BLOCK_BYTES;
/// What is read of an object's end at first; most footers fit.
const TAIL_BYTES: u64 = 64 << 10;
/// Memory for footers. One of a full object takes some 30 KiB, and 200 bytes more for each partition in it.
const FOOTERS_BYTES: u64 = 32 << 20;
/// Objects whose reading in sequence is followed.
const FOLLOWED: u64 = 1_024;
/// Spans fetched ahead at the most for one reader.
const AHEAD: u64 = 8;
/// Spans fetched ahead at the most for all readers together; what is more is not fetched ahead.
const MOST_AHEAD: usize = 32;
/// Data read in one go at the most, unless a single batch is larger.
const MOST_WINDOW_BYTES: u64 = 32 * SPAN_BYTES;

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

/// Reads ranges. Cheap to clone. A read whose future is dropped leaves nothing behind: what is already being fetched goes into the caches,
/// what only waits for its turn ends.
#[derive(Clone)]
pub struct TierReader {
    inner: Arc<Inner>,
    /// Apart from `inner`, which the tasks themselves hold: the last reader to go ends them.
    fetches: Arc<Fetches>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    env: Env,
    memory: Mutex<MemoryCache>,
    disk: Option<DiskCache>,
    footers: Mutex<Recency<Arc<str>, Arc<Footer>>>,
    /// Requests to the store, each for a span at the most.
    requests: Semaphore,
    /// Spans on their way from or to the disk cache. Apart from `requests`: a slow store does not hold back what is on disk.
    disk_spans: Semaphore,
    ahead: Arc<Semaphore>,
    statistics: Mutex<CacheStatistics>,
    /// Where each object was read last, and how many spans were fetched ahead then.
    sequential: Mutex<Recency<Arc<str>, (u64, u64)>>,
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
            footers: Mutex::new(Recency::new(FOOTERS_BYTES)),
            requests: Semaphore::new(settings.requests.max(1)),
            disk_spans: Semaphore::new(settings.requests.max(1)),
            ahead: Arc::new(Semaphore::new(MOST_AHEAD)),
            statistics: Mutex::default(),
            sequential: Mutex::new(Recency::new(FOLLOWED)),
        };
        Ok(TierReader { inner: Arc::new(inner), fetches: Arc::default() })
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
        let start = start_position(&footer, range, from).map_err(|problem| TierReadError::Corrupt {
            key: object.key.clone(),
            position: range.position,
            problem,
        })?;
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
        if let Some(footer) = self.inner.footers.lock().get(key) {
            return Ok(footer);
        }
        let footer = match self.inner.fetch_footer(key, object_bytes).await {
            // The way from the store may have damaged it: look once more.
            Err(TierReadError::Corrupt { .. }) => self.inner.fetch_footer(key, object_bytes).await?,
            other => other?,
        };
        let footer = Arc::new(footer);
        self.inner.footers.lock().put(Arc::clone(key), footer.memory_bytes(), Arc::clone(&footer));
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
        self.fetch(id, footer, None)
    }

    /// Begins the fetch of a span, or joins it. One ahead of time holds a place for it and goes on though nobody waits.
    fn fetch(&self, id: SpanId, footer: &Arc<Footer>, ahead: Option<OwnedSemaphorePermit>) -> Fetch {
        let ended = StoreError::Unavailable {
            key: id.0.to_string(),
            operation: "get",
            message: "the reader was closed while it fetched".to_owned(),
        };
        let (inner, footer) = (Arc::clone(&self.inner), Arc::clone(footer));
        self.fetches.join(&*self.inner.env.threads, &id, TierReadError::Store(ended), ahead, move |mut flight| {
            async move {
                if let Some(result) = inner.load_span(&mut flight, &footer).await {
                    flight.finish(result);
                }
            }
            .boxed()
        })
    }

    /// Fetches the spans that a reader in sequence will want next.
    fn read_ahead(&self, key: &Arc<str>, footer: &Arc<Footer>, start: u64, end: u64, range_end: u64) {
        let ahead = {
            let mut sequential = self.inner.sequential.lock();
            let (last, before) = sequential.get(key).unwrap_or((u64::MAX, 0));
            let goes_on = start <= last && last < start + SPAN_BYTES;
            let ahead = if goes_on { (before * 2).clamp(1, AHEAD) } else { 0 };
            sequential.put(Arc::clone(key), 1, (end, ahead));
            ahead
        };
        let next = end / SPAN_BYTES + 1;
        let last = range_end.saturating_sub(1) / SPAN_BYTES;
        for number in (next..next + ahead).take_while(|number| *number <= last) {
            let id: SpanId = (Arc::clone(key), number);
            if self.inner.memory.lock().holds(&id) {
                continue;
            }
            let Ok(place) = Arc::clone(&self.inner.ahead).try_acquire_owned() else { break };
            // It is carried to its end by its task. An error is met again by whoever really reads it.
            drop(self.fetch(id, footer, Some(place)));
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
        let footer = Footer::decode(&footer, &trailer).map_err(corrupt)?;
        if footer.key != key {
            // Every checksum is right, and yet it is another object's content.
            return Err(corrupt(DecodeError::structure("tier object", format!("it is the object {}", footer.key))));
        }
        Ok(footer)
    }

    async fn get_range(&self, key: &str, start: u64, end: u64) -> Result<Bytes, TierReadError> {
        let _permit = self.requests.acquire().await.expect("the semaphore is never closed");
        self.request(key, start..end).await
    }

    /// A span from disk or store, verified, and put into the caches; `None` if nobody wants it any more before its turn comes.
    async fn load_span(&self, flight: &mut Flight, footer: &Footer) -> Option<Fetched> {
        let id = flight.id.clone();
        let start = id.1 * SPAN_BYTES;
        let end = (start + SPAN_BYTES).min(footer.data_bytes);
        if start >= end {
            return Some(Ok(Bytes::new()));
        }
        if let Some(disk) = &self.disk {
            let _turn = flight.turn(&self.disk_spans).await?;
            if let Some(span) = disk.get(&self.env, &id).await
                && span.len() as u64 == end - start
                && footer.verify_blocks(start, &span).is_ok()
            {
                self.statistics.lock().disk_hits += 1;
                self.memory.lock().put(id, span.clone());
                return Some(Ok(span));
            }
        }
        // Held until the span is on disk too, so that no more spans than there are requests lie outside of the caches.
        let _turn = flight.turn(&self.requests).await?;
        let span = match self.fetch_span(&id, footer, start..end).await {
            Ok(span) => span,
            Err(error) => return Some(Err(error)),
        };
        self.memory.lock().put(id.clone(), span.clone());
        if let Some(disk) = &self.disk {
            disk.put(&self.env, &id, span.clone()).await;
        }
        Some(Ok(span))
    }

    /// Verified bytes from the store. The caller holds a request's place.
    async fn fetch_span(&self, id: &SpanId, footer: &Footer, range: std::ops::Range<u64>) -> Fetched {
        let span = self.request(&id.0, range.clone()).await?;
        if footer.verify_blocks(range.start, &span).is_ok() && span.len() as u64 == range.end - range.start {
            return Ok(span);
        }
        tracing::warn!(key = %id.0, position = range.start, "a tier object's block is damaged and is fetched once more");
        let span = self.request(&id.0, range.clone()).await?;
        let corrupt = |problem| TierReadError::Corrupt { key: id.0.to_string(), position: range.start, problem };
        footer.verify_blocks(range.start, &span).map_err(corrupt)?;
        if span.len() as u64 != range.end - range.start {
            return Err(corrupt(DecodeError::structure(
                "tier object",
                "the store gave another number of bytes than was asked for",
            )));
        }
        Ok(span)
    }

    async fn request(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, TierReadError> {
        self.statistics.lock().fetches += 1;
        Ok(self.store.get_range(key, range).await?)
    }
}

/// Where to begin so that the batch with `from` is met: the last indexed batch at or before it. The object must hold the very range.
fn start_position(footer: &Footer, range: &RangeRef, from: Offset) -> Result<u64, DecodeError> {
    let is_it = |found: &&FooterRange| {
        let place = &found.placement;
        (place.at, place.base, place.end, place.position, place.bytes)
            == (range.at, range.base, range.end, range.position, range.bytes)
    };
    let found = footer.ranges.iter().find(is_it).ok_or_else(|| {
        DecodeError::structure("tier object", format!("it does not hold offsets {}..{} of {}", range.base, range.end, range.at))
    })?;
    let before = found.index.partition_point(|entry| entry.offset <= from);
    Ok(before.checked_sub(1).map_or(range.position, |last| found.index[last].position))
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
        let end = header.base_offset.0.checked_add(i64::from(header.last_offset_delta)).and_then(|last| last.checked_add(1));
        let end = Offset(end.ok_or_else(|| DecodeError::structure("a batch of a tier object", "its last offset overflows"))?);
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
