//! The few fields of a batch's header that decide how it is applied, at their fixed places in Kafka's RecordBatch v2.

use tidegate_model::{ProducerEpoch, ProducerId, Sequence, TimestampMs};

use super::producers::Sender;

/// Length of the header.
const HEADER_BYTES: usize = 61;

/// What `apply` needs of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) records: u32,
    pub(crate) crc: u32,
    pub(crate) max_timestamp: TimestampMs,
    /// `None` for a producer that is not idempotent.
    pub(crate) sender: Option<Sender>,
}

impl Batch {
    /// Reads the header of exactly one batch. The edge has validated it; what would break offsets is checked again.
    pub(crate) fn read(bytes: &[u8]) -> Result<Batch, &'static str> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("it is shorter than a header")?;
        if header[16] != 2 {
            return Err("its magic is not 2");
        }
        if i64::from(i32_at(header, 8)) + 12 != bytes.len() as i64 {
            return Err("its length field is not its length");
        }
        let last_delta = u32::try_from(i32_at(header, 23)).map_err(|_| "its last offset delta is negative")?;
        let records = last_delta.checked_add(1).filter(|records| *records < i32::MAX as u32);
        let records = records.ok_or("its last offset delta is too large")?;
        let producer = ProducerId(i64_at(header, 43));
        let epoch = ProducerEpoch(i16::from_be_bytes([header[51], header[52]]));
        let first = Sequence(i32_at(header, 53));
        if producer.0 >= 0 && (epoch.0 < 0 || first.0 < 0) {
            return Err("it has a producer id without epoch or sequence");
        }
        let sender = (producer.0 >= 0).then_some(Sender { producer, epoch, first, records });
        let crc = i32_at(header, 17) as u32;
        Ok(Batch { records, crc, max_timestamp: TimestampMs(i64_at(header, 35)), sender })
    }
}

fn i32_at(header: &[u8; HEADER_BYTES], at: usize) -> i32 {
    i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn i64_at(header: &[u8; HEADER_BYTES], at: usize) -> i64 {
    i64::from(i32_at(header, at)) << 32 | i64::from(i32_at(header, at + 4) as u32)
}
