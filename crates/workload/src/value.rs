//! Records whose whole content follows from a number that is unique within the topic, so that an altered one can be told from a good one.

use bytes::Bytes;
use tidegate_checker::{Sent, Value, content_hash, payload};
use tidegate_client::Record;

/// Longest value in bytes; the length follows from the number, so batches of all sizes come about.
const MOST_BYTES: u64 = 600;
/// How many different keys there are.
const KEYS: u64 = 97;

/// The number of the `number`-th record of a process.
pub(crate) fn value_of(process: u32, number: u32) -> Value {
    u64::from(process) << 32 | u64::from(number)
}

/// A record to send, and what the history says of it.
pub(crate) fn record(topic: &str, partition: i32, value: Value, timestamp_ms: i64) -> (Record, Sent) {
    let key = Bytes::from(format!("k{}", value % KEYS));
    let body = Bytes::from(payload(value, (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % MOST_BYTES as usize));
    let header = Bytes::from(value.to_string());
    let hash = content_hash(Some(&key), Some(&body), [(&b"value"[..], Some(&header[..]))], timestamp_ms);
    let record = Record::new(topic).partition(partition).key(key).value(body).header("value", header).timestamp_ms(timestamp_ms);
    (record, Sent { value, hash })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_record_carries_its_number_and_its_hash_covers_all_of_it() {
        let (record, sent) = record("t", 0, value_of(7, 3), 1234);
        assert_eq!(tidegate_checker::value_of(&record.value.clone().unwrap()), Some(value_of(7, 3)));
        let header = record.headers[0].1.clone().unwrap();
        let hash = |time| {
            let headers = [(&b"value"[..], Some(&header[..]))];
            content_hash(record.key.as_deref(), record.value.as_deref(), headers, time)
        };
        assert_eq!((hash(1234), hash(1235) == sent.hash), (sent.hash, false));
    }
}
