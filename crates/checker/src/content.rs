//! Records of a workload: what they are known by, and the hash of all that a client handed over.

use crate::Value;

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// A part of a record: absent and empty are different.
fn part(hash: u64, bytes: Option<&[u8]>) -> u64 {
    match bytes {
        None => mix(hash, &[0]),
        Some(bytes) => mix(mix(mix(hash, &[1]), &(bytes.len() as u64).to_le_bytes()), bytes),
    }
}

/// FNV-1a (64 bits) over key, value, headers and time of a record, each with its length: equal for equal records on every machine.
pub fn content_hash<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    timestamp_ms: i64,
) -> u64 {
    let mut hash = part(part(OFFSET_BASIS, key), value);
    for (name, value) in headers {
        hash = part(part(hash, Some(name)), value);
    }
    mix(hash, &timestamp_ms.to_le_bytes())
}

/// The bytes of a record's value of `bytes` bytes (at least 17) that carries `value` and is otherwise filled by it: 16 hexadecimal digits,
/// a space, and filling that differs from value to value.
pub fn payload(value: Value, bytes: usize) -> Vec<u8> {
    let mut text = format!("{value:016x} ").into_bytes();
    let mut state = value | 1;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(b'a' + (state >> 59) as u8 % 26);
    }
    text
}

/// The value that [`payload`] put in, `None` for bytes that are no payload.
pub fn value_of(payload: &[u8]) -> Option<Value> {
    let digits = payload.get(..16).filter(|_| payload.get(16) == Some(&b' '))?;
    Value::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_carries_its_value_and_anything_else_carries_none() {
        for value in [0, 1, 77, u64::MAX] {
            let bytes = payload(value, 100);
            assert_eq!((value_of(&bytes), bytes.len()), (Some(value), 100));
        }
        assert_eq!(payload(5, 0).len(), 17);
        assert_eq!(value_of(b"hello"), None);
        assert_eq!(value_of(b"0000000000000001-x"), None);
    }

    #[test]
    fn the_hash_tells_records_apart_by_each_of_their_parts() {
        let one = content_hash(Some(b"k"), Some(b"v"), [(&b"h"[..], Some(&b"x"[..]))], 7);
        assert_ne!(one, content_hash(Some(b"kv"), Some(b""), [(&b"h"[..], Some(&b"x"[..]))], 7));
        assert_ne!(one, content_hash(Some(b"k"), Some(b"v"), [(&b"h"[..], None)], 7));
        assert_ne!(one, content_hash(Some(b"k"), Some(b"v"), [], 7));
        assert_ne!(one, content_hash(Some(b"k"), Some(b"v"), [(&b"h"[..], Some(&b"x"[..]))], 8));
        assert_ne!(content_hash(None, Some(b"v"), [], 7), content_hash(Some(b""), Some(b"v"), [], 7));
    }
}
