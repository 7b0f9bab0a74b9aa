//! Tier objects: sealed batches of one or many partitions back to back, then a footer that says where what is. Format: docs/formats/tier-object.md.
//!
//! Data is covered by a CRC for each block of [`BLOCK_BYTES`], so that a ranged read can be verified; the footer has its own. The footer is a
//! list of tagged sections: an unknown one is passed over unless it is marked as required.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tidegate_model::batch::batches;
use tidegate_model::{HubId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use uuid::Uuid;

use crate::codec::{Crc, Cursor, crc32c, crc32c_of};
use crate::envelope::DecodeError;

/// Bytes that one block CRC covers; the last block of an object's data may be shorter.
pub const BLOCK_BYTES: u64 = 256 << 10;
/// Bytes of a partition's batches between two entries of its sparse index, about.
const INDEX_BYTES: u64 = 64 << 10;
/// Bytes at the end of an object that never change their meaning.
pub const TRAILER_BYTES: u64 = 32;
const MAGIC: [u8; 8] = *b"TGTIER\0\x01";
const VERSION: u32 = 1;
const WHAT: &str = "tier object";
/// A footer larger than this is taken for damage, before it is read.
const MOST_FOOTER_BYTES: u64 = 64 << 20;

const SECTION_RANGES: u16 = 1;
const SECTION_BLOCKS: u16 = 2;
const REQUIRED: u16 = 1;

/// What a range is, before its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHeader {
    /// The partition.
    pub at: TopicPartition,
    /// The topic's name at the time, for people and for recovery.
    pub topic_name: String,
    /// First offset.
    pub base: Offset,
    /// Offset after the last.
    pub end: Offset,
    /// Leader epochs that begin in the range, and the one in force at its beginning, with their first offsets.
    pub epoch_starts: Vec<(LeaderEpoch, Offset)>,
}

/// Where a range lies in a built object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangePlacement {
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
    /// Least timestamp of a batch's first record; -1 if unknown. Records within a batch may be older.
    pub min_timestamp: TimestampMs,
    /// Greatest timestamp.
    pub max_timestamp: TimestampMs,
}

/// An object ready to be uploaded.
#[derive(Clone, Debug)]
pub struct BuiltObject {
    /// Its bytes.
    pub chunks: Vec<Bytes>,
    /// How many.
    pub bytes: u64,
    /// CRC-32C of all of them.
    pub crc32c: u32,
    /// Its ranges, in order.
    pub ranges: Vec<RangePlacement>,
}

/// A place in a range where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of the batch.
    pub offset: Offset,
    /// Its first byte in the object.
    pub position: u64,
    /// Greatest timestamp of the batches from here to the next entry.
    pub max_timestamp: TimestampMs,
}

/// A range as the footer describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterRange {
    /// What it is.
    pub header: RangeHeader,
    /// Where it lies.
    pub placement: RangePlacement,
    /// Where batches begin, about every 64 KiB.
    pub index: Vec<IndexEntry>,
}

/// What the end of an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The hub.
    pub hub: HubId,
    /// The journal whose leader wrote it.
    pub journal: JournalId,
    /// Its own key.
    pub key: String,
    /// Its ranges.
    pub ranges: Vec<FooterRange>,
    /// CRC-32C of each block of data.
    pub blocks: Vec<u32>,
    /// Bytes of data before the footer.
    pub data_bytes: u64,
}

/// Gathers ranges into an object.
pub struct TierObjectBuilder {
    hub: HubId,
    journal: JournalId,
    key: String,
    chunks: Vec<Bytes>,
    data_bytes: u64,
    ranges: Vec<FooterRange>,
    blocks: Vec<u32>,
    block: Crc,
    block_bytes: u64,
}

impl TierObjectBuilder {
    /// An empty object.
    pub fn new(hub: HubId, journal: JournalId, key: &str) -> TierObjectBuilder {
        TierObjectBuilder {
            hub,
            journal,
            key: key.to_owned(),
            chunks: Vec::new(),
            data_bytes: 0,
            ranges: Vec::new(),
            blocks: Vec::new(),
            block: Crc::new(),
            block_bytes: 0,
        }
    }

    /// Adds a range: whole batches as they are served (base offset and epoch final), in chunks of any cut, covering `base..end` without a gap.
    ///
    /// # Errors
    /// If the chunks are not that.
    pub fn add_range(&mut self, header: RangeHeader, chunks: Vec<Bytes>) -> Result<(), DecodeError> {
        let position = self.data_bytes;
        let mut walk = Walk { next: header.base, position, max_timestamp: TimestampMs(i64::MIN), ..Walk::default() };
        for chunk in &chunks {
            walk.take(chunk)?;
            self.count(chunk);
        }
        if !walk.partial.is_empty() || walk.next != header.end {
            let reason = format!("its batches end at {} where {} was expected", walk.next, header.end);
            return Err(DecodeError::structure(WHAT, reason));
        }
        let placement = RangePlacement {
            at: header.at,
            base: header.base,
            end: header.end,
            position,
            bytes: self.data_bytes - position,
            min_timestamp: walk.min_timestamp.unwrap_or(TimestampMs(-1)),
            max_timestamp: walk.max_timestamp,
        };
        self.chunks.extend(chunks);
        self.ranges.push(FooterRange { header, placement, index: walk.index });
        Ok(())
    }

    /// Counts bytes into block CRCs.
    fn count(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        self.data_bytes += chunk.len() as u64;
        while !rest.is_empty() {
            let fits = usize::try_from(BLOCK_BYTES - self.block_bytes).unwrap_or(usize::MAX).min(rest.len());
            self.block.update(&rest[..fits]);
            self.block_bytes += fits as u64;
            rest = &rest[fits..];
            if self.block_bytes == BLOCK_BYTES {
                self.blocks.push(std::mem::replace(&mut self.block, Crc::new()).value());
                self.block_bytes = 0;
            }
        }
    }

    /// Writes the footer.
    ///
    /// # Errors
    /// If there is no range.
    pub fn finish(mut self) -> Result<BuiltObject, DecodeError> {
        if self.ranges.is_empty() {
            return Err(DecodeError::structure(WHAT, "it would hold nothing"));
        }
        if self.block_bytes > 0 {
            self.blocks.push(self.block.value());
        }
        let footer = Footer {
            hub: self.hub,
            journal: self.journal,
            key: self.key,
            ranges: self.ranges,
            blocks: self.blocks,
            data_bytes: self.data_bytes,
        };
        self.chunks.push(footer.encode());
        let ranges = footer.ranges.iter().map(|range| range.placement).collect();
        let bytes = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Ok(BuiltObject { crc32c: crc32c_of(&self.chunks), bytes, ranges, chunks: self.chunks })
    }
}

/// Follows batches through chunks that may be cut anywhere.
#[derive(Default)]
struct Walk {
    partial: BytesMut,
    next: Offset,
    position: u64,
    indexed: Option<u64>,
    index: Vec<IndexEntry>,
    min_timestamp: Option<TimestampMs>,
    max_timestamp: TimestampMs,
}

impl Walk {
    fn take(&mut self, chunk: &Bytes) -> Result<(), DecodeError> {
        if self.partial.is_empty() {
            let used = self.walk(chunk)?;
            self.partial.extend_from_slice(&chunk[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(chunk);
        let gathered = std::mem::take(&mut self.partial).freeze();
        let used = self.walk(&gathered)?;
        self.partial.extend_from_slice(&gathered[used..]);
        Ok(())
    }

    /// Walks the whole batches of `bytes`; gives how many bytes they take.
    fn walk(&mut self, bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut used = 0;
        for item in batches(bytes) {
            // A batch that is cut here goes on in the next chunk.
            let Ok((header, place)) = item else { break };
            if header.base_offset != self.next {
                let reason = format!("a batch begins at {} where {} was expected", header.base_offset, self.next);
                return Err(DecodeError::structure(WHAT, reason));
            }
            let position = self.position + place.start as u64;
            if self.indexed.is_none_or(|last| position - last >= INDEX_BYTES) {
                self.indexed = Some(position);
                self.index.push(IndexEntry { offset: header.base_offset, position, max_timestamp: header.max_timestamp });
            }
            if let Some(entry) = self.index.last_mut() {
                entry.max_timestamp = entry.max_timestamp.max(header.max_timestamp);
            }
            let least = header.base_timestamp.min(header.max_timestamp);
            self.min_timestamp = Some(self.min_timestamp.map_or(least, |before| before.min(least)));
            self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
            self.next = Offset(header.base_offset.0 + i64::from(header.last_offset_delta) + 1);
            used = place.end;
        }
        self.position += used as u64;
        Ok(used)
    }
}

#[derive(Clone, PartialEq, Message)]
struct WireRanges {
    #[prost(bytes = "vec", tag = "1")]
    hub: Vec<u8>,
    #[prost(uint32, tag = "2")]
    journal: u32,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(message, repeated, tag = "4")]
    ranges: Vec<WireRange>,
}

#[derive(Clone, PartialEq, Message)]
struct WireRange {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(string, tag = "2")]
    topic_name: String,
    #[prost(int32, tag = "3")]
    partition: i32,
    #[prost(int64, tag = "4")]
    base: i64,
    #[prost(int64, tag = "5")]
    end: i64,
    #[prost(uint64, tag = "6")]
    position: u64,
    #[prost(uint64, tag = "7")]
    bytes: u64,
    #[prost(sint64, tag = "8")]
    min_timestamp: i64,
    #[prost(sint64, tag = "9")]
    max_timestamp: i64,
    #[prost(message, repeated, tag = "10")]
    epoch_starts: Vec<WireEpochStart>,
    #[prost(message, repeated, tag = "11")]
    index: Vec<WireIndexEntry>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WireEpochStart {
    #[prost(int32, tag = "1")]
    epoch: i32,
    #[prost(int64, tag = "2")]
    start: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WireIndexEntry {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(uint64, tag = "2")]
    position: u64,
    #[prost(sint64, tag = "3")]
    max_timestamp: i64,
}

impl Footer {
    fn encode(&self) -> Bytes {
        let ranges = WireRanges {
            hub: self.hub.0.as_bytes().to_vec(),
            journal: self.journal.0,
            key: self.key.clone(),
            ranges: self.ranges.iter().map(wire_range).collect(),
        };
        let mut blocks = Vec::with_capacity(self.blocks.len() * 4 + 8);
        blocks.put_u64_le(BLOCK_BYTES);
        self.blocks.iter().for_each(|crc| blocks.put_u32_le(*crc));
        let mut out = BytesMut::new();
        for (tag, section) in [(SECTION_RANGES, ranges.encode_to_vec()), (SECTION_BLOCKS, blocks)] {
            out.put_u16_le(tag);
            out.put_u16_le(REQUIRED);
            out.put_u32_le(section.len() as u32);
            out.put_slice(&section);
        }
        let (footer_bytes, footer_crc) = (out.len() as u32, crc32c(&out));
        let trailer_start = out.len();
        out.put_u64_le(self.data_bytes);
        out.put_u32_le(footer_bytes);
        out.put_u32_le(footer_crc);
        out.put_u32_le(VERSION);
        let trailer_crc = crc32c(&out[trailer_start..]);
        out.put_u32_le(trailer_crc);
        out.put_slice(&MAGIC);
        out.freeze()
    }

    /// Reads the trailer, the last [`TRAILER_BYTES`] of an object of `object_bytes`: where the footer begins.
    pub(crate) fn trailer(trailer: &[u8], object_bytes: u64) -> Result<Trailer, DecodeError> {
        let mut cursor = Cursor::new(trailer);
        let data_bytes = cursor.u64("data_bytes")?;
        let footer_bytes = u64::from(cursor.u32("footer_bytes")?);
        let footer_crc = cursor.u32("footer_crc")?;
        let version = cursor.u32("version")?;
        let stored = cursor.u32("trailer_crc")?;
        if cursor.take("magic", 8)? != MAGIC {
            return Err(DecodeError::Magic { expected: WHAT });
        }
        let computed = crc32c(&trailer[..20]);
        if stored != computed {
            return Err(DecodeError::Crc { what: WHAT, stored, computed });
        }
        if version > VERSION {
            return Err(DecodeError::Version { what: WHAT, found: version, newest: VERSION });
        }
        if footer_bytes > MOST_FOOTER_BYTES || data_bytes.checked_add(footer_bytes + TRAILER_BYTES) != Some(object_bytes) {
            return Err(DecodeError::structure(WHAT, format!("data and footer do not add up to its {object_bytes} bytes")));
        }
        Ok(Trailer { data_bytes, footer_bytes, footer_crc })
    }

    /// Reads the footer that the trailer describes.
    pub(crate) fn decode(footer: &[u8], trailer: &Trailer) -> Result<Footer, DecodeError> {
        let computed = crc32c(footer);
        if computed != trailer.footer_crc {
            return Err(DecodeError::Crc { what: WHAT, stored: trailer.footer_crc, computed });
        }
        let (mut ranges, mut blocks) = (None, None);
        let mut cursor = Cursor::new(footer);
        while cursor.left() > 0 {
            let (tag, flags) = (cursor.u16("section.tag")?, cursor.u16("section.flags")?);
            let length = cursor.u32("section.length")? as usize;
            let section = cursor.take("section", length)?;
            match tag {
                SECTION_RANGES => {
                    ranges = Some(WireRanges::decode(section).map_err(|error| DecodeError::structure(WHAT, error))?)
                }
                SECTION_BLOCKS => blocks = Some(decode_blocks(section, trailer.data_bytes)?),
                _ if flags & REQUIRED == 0 => {}
                _ => return Err(DecodeError::Version { what: WHAT, found: u32::from(tag), newest: u32::from(SECTION_BLOCKS) }),
            }
        }
        let (Some(wire), Some(blocks)) = (ranges, blocks) else {
            return Err(DecodeError::structure(WHAT, "its footer lacks a section"));
        };
        let hub = HubId(Uuid::from_slice(&wire.hub).map_err(|error| DecodeError::structure(WHAT, error))?);
        let ranges: Result<Vec<FooterRange>, DecodeError> =
            wire.ranges.into_iter().map(|range| footer_range(range, trailer.data_bytes)).collect();
        Ok(Footer {
            hub,
            journal: JournalId(wire.journal),
            key: wire.key,
            ranges: ranges?,
            blocks,
            data_bytes: trailer.data_bytes,
        })
    }

    /// About what it takes in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let of_range = |range: &FooterRange| 256 + range.index.len() * 24 + range.header.epoch_starts.len() * 16;
        (512 + self.blocks.len() * 4 + self.ranges.iter().map(of_range).sum::<usize>()) as u64
    }

    /// Reads the footer of a whole object that is in memory.
    pub fn of(object: &[u8]) -> Result<Footer, DecodeError> {
        let start =
            object.len().checked_sub(TRAILER_BYTES as usize).ok_or_else(|| DecodeError::structure(WHAT, "it is too short"))?;
        let trailer = Footer::trailer(&object[start..], object.len() as u64)?;
        let footer_start = usize::try_from(trailer.data_bytes).map_err(|error| DecodeError::structure(WHAT, error))?;
        Footer::decode(&object[footer_start..start], &trailer)
    }

    /// Checks blocks read from the object's data; `position` is that of a block.
    pub fn verify_blocks(&self, position: u64, data: &[u8]) -> Result<(), DecodeError> {
        let first = usize::try_from(position / BLOCK_BYTES).unwrap_or(usize::MAX);
        for (index, block) in data.chunks(BLOCK_BYTES as usize).enumerate() {
            let number = first.saturating_add(index);
            let stored =
                *self.blocks.get(number).ok_or_else(|| DecodeError::structure(WHAT, format!("it has no block {number}")))?;
            let computed = crc32c(block);
            if stored != computed {
                return Err(DecodeError::Crc { what: "a block of a tier object", stored, computed });
            }
        }
        Ok(())
    }
}

/// What an object's last bytes say.
pub(crate) struct Trailer {
    pub(crate) data_bytes: u64,
    pub(crate) footer_bytes: u64,
    footer_crc: u32,
}

fn decode_blocks(section: &[u8], data_bytes: u64) -> Result<Vec<u32>, DecodeError> {
    let mut cursor = Cursor::new(section);
    if cursor.u64("block_bytes")? != BLOCK_BYTES {
        return Err(DecodeError::structure(WHAT, "its blocks have a size that this program does not know"));
    }
    if (cursor.left() as u64) != data_bytes.div_ceil(BLOCK_BYTES) * 4 {
        return Err(DecodeError::structure(WHAT, "it does not have a checksum for each block"));
    }
    let mut blocks = Vec::with_capacity(cursor.left() / 4);
    while cursor.left() > 0 {
        blocks.push(cursor.u32("block_crc")?);
    }
    Ok(blocks)
}

fn wire_range(range: &FooterRange) -> WireRange {
    let place = &range.placement;
    WireRange {
        topic: place.at.topic.0.as_bytes().to_vec(),
        topic_name: range.header.topic_name.clone(),
        partition: place.at.partition.0,
        base: place.base.0,
        end: place.end.0,
        position: place.position,
        bytes: place.bytes,
        min_timestamp: place.min_timestamp.0,
        max_timestamp: place.max_timestamp.0,
        epoch_starts: range
            .header
            .epoch_starts
            .iter()
            .map(|(epoch, start)| WireEpochStart { epoch: epoch.0, start: start.0 })
            .collect(),
        index: range
            .index
            .iter()
            .map(|entry| WireIndexEntry {
                offset: entry.offset.0,
                position: entry.position,
                max_timestamp: entry.max_timestamp.0,
            })
            .collect(),
    }
}

fn footer_range(wire: WireRange, data_bytes: u64) -> Result<FooterRange, DecodeError> {
    let topic = TopicUid(Uuid::from_slice(&wire.topic).map_err(|error| DecodeError::structure(WHAT, error))?);
    let at = TopicPartition { topic, partition: PartitionId(wire.partition) };
    let (base, end) = (Offset(wire.base), Offset(wire.end));
    let inside = wire.position.checked_add(wire.bytes).is_some_and(|last| last <= data_bytes);
    if base >= end || !inside {
        return Err(DecodeError::structure(WHAT, "a range lies outside of its data"));
    }
    let in_range = wire.position..wire.position + wire.bytes;
    let rises = wire.index.windows(2).all(|pair| pair[0].position < pair[1].position && pair[0].offset < pair[1].offset);
    if !rises || wire.index.iter().any(|entry| !in_range.contains(&entry.position) || entry.offset < wire.base) {
        return Err(DecodeError::structure(WHAT, "the index of a range points outside of it or falls"));
    }
    Ok(FooterRange {
        header: RangeHeader {
            at,
            topic_name: wire.topic_name,
            base,
            end,
            epoch_starts: wire.epoch_starts.iter().map(|start| (LeaderEpoch(start.epoch), Offset(start.start))).collect(),
        },
        placement: RangePlacement {
            at,
            base,
            end,
            position: wire.position,
            bytes: wire.bytes,
            min_timestamp: TimestampMs(wire.min_timestamp),
            max_timestamp: TimestampMs(wire.max_timestamp),
        },
        index: wire
            .index
            .iter()
            .map(|entry| IndexEntry {
                offset: Offset(entry.offset),
                position: entry.position,
                max_timestamp: TimestampMs(entry.max_timestamp),
            })
            .collect(),
    })
}
