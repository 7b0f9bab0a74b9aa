//! The batches that every broker is given: built once for each partition, and stamped for each send.
//!
//! Tidegate and Kafka store the same format, so they get the same bytes from the same code. A stamp stands at the beginning of the first
//! record's value: the batch's number on its connection and when it was meant to be sent. Records hold noise, so that nothing compresses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use tidegate_model::TimestampMs;
use tidegate_model::batch::{BatchBuilder, BatchHeader, Compression};
use tidegate_model::partitioner::partition_for_key;

/// Bytes of a stamp: number and time, and what it is found by.
const STAMP_BYTES: usize = 24;
const MARKER: [u8; STAMP_BYTES] = *b"a stamp of the benchmark";
/// Keys of each partition; its records take them in turn.
const KEYS: usize = 16;
/// Where a batch's CRC lies and from where on it covers.
const CRC: std::ops::Range<usize> = 17..21;

/// What the records look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of key and value together; at least 32 with a key, 24 without.
    pub(crate) record_bytes: usize,
    /// Whether records have a key (8 bytes) that leads to their partition.
    pub(crate) keyed: bool,
    /// Bytes of a batch at most, but always one record.
    pub(crate) batch_bytes: usize,
}

/// A stamp read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The batch's number on its connection; rises for each partition.
    pub(crate) number: u64,
    /// When it was meant to be sent, since the cell's start.
    pub(crate) intended: Duration,
}

/// The batches of one topic, one for each partition.
#[derive(Debug)]
pub(crate) struct Templates {
    partitions: Vec<Bytes>,
    stamp_at: usize,
    records: u64,
}

impl Templates {
    /// Builds them; the same arguments give the same bytes but for the time.
    pub(crate) fn build(shape: Shape, partitions: u32) -> Result<Templates> {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let built: Vec<_> = if shape.keyed {
            let keys = keys_of(partitions, &mut noise);
            keys.iter().map(|keys| build(shape, keys, &mut noise)).collect::<Result<_>>()?
        } else {
            // They are all alike: one in memory is enough for thousands of partitions.
            vec![build(shape, &[], &mut noise)?; partitions as usize]
        };
        let (first, records) = built.first().context("a topic has at least one partition")?;
        let stamp_at = first.windows(STAMP_BYTES).position(|bytes| bytes == MARKER).context("the stamp's place is gone")?;
        let records = *records;
        Ok(Templates { partitions: built.into_iter().map(|(bytes, _)| bytes).collect(), stamp_at, records })
    }

    /// Bytes of a partition's batch.
    pub(crate) fn bytes_of(&self, partition: i32) -> usize {
        self.partitions[partition as usize].len()
    }

    /// Partitions that there are batches for.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// Bytes of the longest batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.partitions.iter().map(Bytes::len).max().unwrap_or(0)
    }

    /// Records of one batch.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Appends a partition's batch with this stamp to `out`.
    pub(crate) fn put(&self, out: &mut BytesMut, partition: i32, stamp: Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.partitions[partition as usize]);
        let batch = &mut out[start..];
        let mut place = &mut batch[self.stamp_at..self.stamp_at + STAMP_BYTES];
        place.put_u64(stamp.number);
        place.put_u64(u64::try_from(stamp.intended.as_nanos()).unwrap_or(u64::MAX));
        let crc = crc32c(&batch[CRC.end..]);
        batch[CRC].copy_from_slice(&crc.to_be_bytes());
    }

    /// Checks a batch that came back, and reads its stamp.
    pub(crate) fn check(&self, header: &BatchHeader, batch: &[u8]) -> Result<Stamp> {
        ensure!(u64::try_from(header.record_count)? == self.records, "a batch of {} records came back", header.record_count);
        ensure!(crc32c(&batch[CRC.end..]) == header.crc, "the CRC of the batch at offset {} is wrong", header.base_offset.0);
        let number = batch[self.stamp_at..].first_chunk().context("no stamp")?;
        let nanos = batch[self.stamp_at + 8..].first_chunk().context("no stamp")?;
        Ok(Stamp { number: u64::from_be_bytes(*number), intended: Duration::from_nanos(u64::from_be_bytes(*nanos)) })
    }
}

fn build(shape: Shape, keys: &[[u8; 8]], noise: &mut Noise) -> Result<(Bytes, u64)> {
    let value_bytes = if shape.keyed { shape.record_bytes.saturating_sub(8) } else { shape.record_bytes };
    ensure!(value_bytes >= STAMP_BYTES, "records of {} bytes have no room for a stamp", shape.record_bytes);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = TimestampMs(i64::try_from(now.as_millis())?);
    let mut builder = BatchBuilder::new(Compression::None);
    let mut value = vec![0; value_bytes];
    let mut keys = keys.iter().cycle();
    while builder.is_empty() || builder.estimated_bytes() + shape.record_bytes + 16 <= shape.batch_bytes {
        let key = keys.next();
        noise.fill(&mut value);
        if builder.is_empty() {
            value[..STAMP_BYTES].copy_from_slice(&MARKER);
        }
        builder.push(now, key.map(<[u8; 8]>::as_slice), Some(&value), &[]);
    }
    let records = u64::try_from(builder.record_count())?;
    Ok((builder.build()?.into_bytes(), records))
}

/// Keys that Kafka's Java client and ours send to each partition, some for each.
fn keys_of(partitions: u32, noise: &mut Noise) -> Vec<Vec<[u8; 8]>> {
    let mut keys = vec![Vec::with_capacity(KEYS); partitions as usize];
    let mut missing = keys.len() * KEYS;
    while missing > 0 {
        let key = noise.next().to_be_bytes();
        let of = &mut keys[partition_for_key(&key, partitions).0 as usize];
        if of.len() < KEYS {
            of.push(key);
            missing -= 1;
        }
    }
    keys
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Bytes without pattern, the same in each run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::batch::{BatchLimits, RecordBatch};

    use super::*;

    #[test]
    fn a_stamped_batch_is_valid_and_gives_its_stamp_back() {
        let shape = Shape { record_bytes: 100, keyed: true, batch_bytes: 16 << 10 };
        let templates = Templates::build(shape, 16).unwrap();
        let stamp = Stamp { number: 7, intended: Duration::from_micros(12_345) };
        let mut out = BytesMut::from(&b"head"[..]);
        templates.put(&mut out, 3, stamp);
        let batch = RecordBatch::parse(out.freeze().slice(4..), &BatchLimits::default()).unwrap();
        assert!(batch.bytes().len() <= 16 << 10 && batch.bytes().len() > 15 << 10);
        assert_eq!(batch.header().record_count as u64, templates.records());
        for record in batch.records().unwrap() {
            let record = record.unwrap();
            let (key, value) = (record.key.unwrap(), record.value.unwrap());
            assert_eq!(key.len() + value.len(), 100);
            assert_eq!(partition_for_key(&key, 16).0, 3);
        }
        assert_eq!(templates.check(batch.header(), batch.bytes()).unwrap(), stamp);
        let mut damaged = batch.bytes().to_vec();
        damaged[5000] ^= 1;
        assert!(templates.check(batch.header(), &damaged).is_err());
    }

    #[test]
    fn a_batch_holds_one_record_even_if_that_is_too_large() {
        let shape = Shape { record_bytes: 1024, keyed: false, batch_bytes: 1 };
        let templates = Templates::build(shape, 1).unwrap();
        assert_eq!(templates.records(), 1);
    }
}
