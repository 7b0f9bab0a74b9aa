//! Reading a partition's tail: from the cache without a copy, else from the WAL, where every batch is verified before it is served.

use bytes::Bytes;
use tidegate_model::batch::{BatchHeader, batches, served_prefix, verify_crc};
use tidegate_model::{LeaderEpoch, Offset, TopicPartition};

use super::error::ReadError;
use super::journal::Journal;
use super::types::RaftPayload;
use crate::state::TailItem;

/// Bytes at a batch's start that are patched when it is served: base offset, length and leader epoch.
pub const PREFIX_BYTES: usize = 16;

/// One batch as it is served: the patched start and the untouched rest, which shares the log's memory.
#[derive(Clone, Debug)]
pub struct ServedBatch {
    /// The header with the base offset and leader epoch that are served.
    pub header: BatchHeader,
    /// The first bytes.
    pub prefix: [u8; PREFIX_BYTES],
    /// All bytes after the first 16.
    pub body: Bytes,
}

impl ServedBatch {
    /// Bytes of the whole batch.
    pub fn bytes(&self) -> usize {
        PREFIX_BYTES + self.body.len()
    }

    /// Offset of its last record.
    pub fn last_offset(&self) -> Offset {
        self.header.last_offset()
    }

    /// The batch in two chunks that follow each other.
    pub fn chunks(&self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.prefix), self.body.clone()]
    }
}

/// Batches of one partition, in order and without gaps, from the one that holds the offset asked for.
#[derive(Clone, Debug)]
pub struct TailRead {
    /// The batches; the first may begin below the offset asked for.
    pub batches: Vec<ServedBatch>,
    /// Sum of their bytes.
    pub bytes: usize,
    /// The offset to read from next.
    pub next: Offset,
    /// One past the partition's last offset at the time of the read.
    pub high_watermark: Offset,
    /// The partition's first offset at the time of the read.
    pub log_start: Offset,
}

/// How far an item was read.
enum ItemRead {
    /// To its end.
    Whole,
    /// The next batch would have gone over the limit.
    Full,
}

/// What is to be read, as the state said.
struct Plan {
    items: Vec<(TailItem, LeaderEpoch)>,
    high_watermark: Offset,
    log_start: Offset,
}

impl Journal {
    /// Reads committed batches from `from` on, about `max_bytes` of them but at least one if there is any. At the high watermark the
    /// result is empty.
    ///
    /// # Errors
    /// [`ReadError::BelowTail`] if the log no longer holds `from`: read the tier.
    pub async fn read_tail(&self, at: TopicPartition, from: Offset, max_bytes: usize) -> Result<TailRead, ReadError> {
        let plan = self.plan(at, from, max_bytes)?;
        let mut read = TailRead {
            batches: Vec::new(),
            bytes: 0,
            next: from,
            high_watermark: plan.high_watermark,
            log_start: plan.log_start,
        };
        for (item, epoch) in plan.items {
            if !read.batches.is_empty() && read.bytes >= max_bytes {
                break;
            }
            match self.read_item(at, &item, epoch, max_bytes, &mut read).await {
                Ok(ItemRead::Whole) => {}
                // What follows may be small enough to fit, but not without what was left out before it.
                Ok(ItemRead::Full) => break,
                Err(_) if !read.batches.is_empty() => break,
                // A snapshot's state may know items that this replica's log never held; they are all tiered.
                Err(_) if item.index < self.first_held() => return Err(self.below_what_is_held(at, from)),
                // The log may have been purged since the state was asked.
                Err(error) => return Err(self.plan(at, from, max_bytes).err().unwrap_or(error)),
            }
        }
        Ok(read)
    }

    fn plan(&self, at: TopicPartition, from: Offset, max_bytes: usize) -> Result<Plan, ReadError> {
        self.read_state(|state| {
            let partition = state.partition(at).ok_or(ReadError::UnknownPartition { at })?;
            let (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
            if from < log_start || from > high_watermark {
                return Err(ReadError::OutOfRange { at, offset: from, log_start, high_watermark });
            }
            if from == high_watermark {
                return Ok(Plan { items: Vec::new(), high_watermark, log_start });
            }
            let tail_start = partition.tail().start().unwrap_or(high_watermark);
            if from < tail_start {
                return Err(ReadError::BelowTail { at, offset: from, tail_start });
            }
            // The first item may lie mostly below `from`, so it does not count.
            let (mut items, mut bytes) = (Vec::new(), 0);
            for (place, item) in partition.tail().from(from).enumerate() {
                if place > 0 && bytes >= max_bytes {
                    break;
                }
                bytes += if place > 0 { item.bytes as usize } else { 0 };
                items.push((*item, partition.epoch_of(item.base)));
            }
            Ok(Plan { items, high_watermark, log_start })
        })
    }

    fn below_what_is_held(&self, at: TopicPartition, from: Offset) -> ReadError {
        let first = self.first_held();
        self.read_state(|state| {
            let Some(partition) = state.partition(at) else { return ReadError::UnknownPartition { at } };
            let held = partition.tail().from(from).find(|item| item.index >= first);
            let tail_start = held.map_or(partition.high_watermark(), |item| item.base);
            ReadError::BelowTail { at, offset: from, tail_start }
        })
    }

    /// Adds an item's batches to what was read, from the one that holds `read.next` on.
    async fn read_item(
        &self,
        at: TopicPartition,
        item: &TailItem,
        epoch: LeaderEpoch,
        max_bytes: usize,
        read: &mut TailRead,
    ) -> Result<ItemRead, ReadError> {
        let damaged = |reason: String| ReadError::Damaged { at, index: item.index, reason };
        let range = item.position..item.position.saturating_add(item.bytes);
        let (chunks, trusted) = match self.cached(item.index) {
            Some(RaftPayload::Normal(data)) => (data.0.slice(range), true),
            Some(_) => return Err(damaged("it holds no batches".into())),
            None => (vec![self.read_wal(item.index, range).await.map_err(|error| of_wal(at, item.index, &error))?], false),
        };
        let mut base = item.base;
        for chunk in chunks {
            for next in batches(&chunk) {
                let (mut header, place) = next.map_err(|error| damaged(error.to_string()))?;
                let end = Offset(base.0 + i64::from(header.last_offset_delta) + 1);
                if end > read.next {
                    if !read.batches.is_empty() && read.bytes + place.len() > max_bytes {
                        return Ok(ItemRead::Full);
                    }
                    if !trusted {
                        verify_crc(&chunk[place.clone()]).map_err(|error| damaged(error.to_string()))?;
                    }
                    let prefix = served_prefix(&header, base, epoch);
                    (header.base_offset, header.leader_epoch) = (base, epoch);
                    read.bytes += place.len();
                    read.next = end;
                    read.batches.push(ServedBatch { header, prefix, body: chunk.slice(place.start + PREFIX_BYTES..place.end) });
                }
                base = end;
            }
        }
        if base != item.end {
            return Err(damaged(format!("its batches end at offset {base}, not at {}", item.end)));
        }
        Ok(ItemRead::Whole)
    }
}

/// A disk that refuses to read says nothing about the bytes; a file that ends before them does.
fn of_wal(at: TopicPartition, index: u64, error: &tidegate_wal::ReadError) -> ReadError {
    match error {
        tidegate_wal::ReadError::Io { source, .. } if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            ReadError::Unavailable { at, index, reason: format!("{error}: {source}") }
        }
        tidegate_wal::ReadError::NotWritten { .. } => ReadError::Unavailable { at, index, reason: error.to_string() },
        other => ReadError::Damaged { at, index, reason: other.to_string() },
    }
}
