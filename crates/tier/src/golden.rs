//! Objects that version 1 wrote: still written so, still read; and what damage to them comes to. Rules: docs/formats/README.md.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "golden files are real files")]

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_model::{
    BatchBuilder, Compression, HubId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid,
};
use uuid::Uuid;

use crate::checkpoint::Envelope;
use crate::manifest::{ManifestObject, ManifestRange};
use crate::object::{Footer, RangeHeader, TierObjectBuilder};

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicUid(Uuid::from_u128(0xabcd)), partition: PartitionId(partition) }
}

/// Gives a golden file's bytes. `TIDEGATE_WRITE_GOLDEN=1` writes one that is missing; one that exists is never written again.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// The content of an envelope: what another version of zstd compresses differently is the same file.
fn plain(sealed: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(&sealed[24..]).unwrap()
}

fn batch(base: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(1_700_000_000_000 + base), Some(b"key"), Some(b"value"), &[]);
    builder.push(TimestampMs(1_700_000_000_007 + base), None, Some(b"another value"), &[]);
    let built = builder.build().unwrap();
    let prefix = tidegate_model::batch::served_prefix(built.header(), Offset(base), LeaderEpoch(3));
    Bytes::from([&prefix[..], &built.bytes()[16..]].concat())
}

fn tier_object() -> Vec<u8> {
    let mut builder = TierObjectBuilder::new(HubId(Uuid::from_u128(1)), JournalId(2), "hub/journals/0000000002/objects/x");
    for (partition, base) in [(0, 10), (7, 0)] {
        let header = RangeHeader {
            at: at(partition),
            topic_name: "orders".to_owned(),
            base: Offset(base),
            end: Offset(base + 4),
            epoch_starts: vec![(LeaderEpoch(2), Offset(0)), (LeaderEpoch(3), Offset(base + 2))],
        };
        builder.add_range(header, vec![batch(base), batch(base + 2)]).unwrap();
    }
    builder.finish().unwrap().chunks.concat()
}

fn manifest() -> ManifestObject {
    let range = |number: i64| ManifestRange {
        key: format!("hub/journals/0000000002/objects/{number}"),
        object_bytes: 1_000 + number as u64,
        object_crc32c: 0xdead_beef,
        base: Offset(number * 10),
        end: Offset(number * 10 + 10),
        position: 64 * number as u64,
        bytes: 500,
        min_timestamp: TimestampMs(-1),
        max_timestamp: TimestampMs(1_700_000_000_000 + number),
    };
    ManifestObject { at: at(3), ranges: (1..=3).map(range).collect() }
}

fn checkpoint() -> Envelope {
    Envelope {
        hub: HubId(Uuid::from_u128(1)),
        journal: JournalId(2),
        index: 99,
        term: 4,
        time: TimestampMs(1_700_000_000_123),
        state: Bytes::from_static(b"TGST\x01\x00the state as the journal writes it"),
    }
}

#[test]
fn a_tier_object_of_version_1_stays_readable_and_is_still_written_so() {
    let written = tier_object();
    let kept = golden("tier-object-v1.bin", &written);
    assert!(kept == written, "the format of tier objects changed under its version");
    let footer = Footer::of(&kept).unwrap();
    assert_eq!((footer.hub, footer.journal, footer.ranges.len()), (HubId(Uuid::from_u128(1)), JournalId(2), 2));
    let range = &footer.ranges[1];
    assert_eq!((range.placement.at, range.placement.base, range.placement.end), (at(7), Offset(0), Offset(4)));
    assert_eq!((range.header.topic_name.as_str(), range.header.epoch_starts.len(), range.index.len()), ("orders", 2, 1));
    assert_eq!(range.placement.min_timestamp, TimestampMs(1_700_000_000_000));
    footer.verify_blocks(0, &kept[..footer.data_bytes as usize]).unwrap();
}

#[test]
fn a_manifest_object_of_version_1_stays_readable_and_is_still_written_so() {
    let written = manifest().encode();
    let kept = golden("manifest-v1.bin", &written);
    assert_eq!(ManifestObject::decode(&kept), Ok(manifest()));
    assert_eq!((&kept[..12], plain(&kept)), (&written[..12], plain(&written)), "the format changed under its version");
}

#[test]
fn a_checkpoint_object_of_version_1_stays_readable_and_is_still_written_so() {
    let written = checkpoint().encode().unwrap();
    let kept = golden("checkpoint-v1.bin", &written);
    assert_eq!(Envelope::decode(&kept), Ok(checkpoint()));
    assert_eq!((&kept[..12], plain(&kept)), (&written[..12], plain(&written)), "the format changed under its version");
}

/// Calls `check` with every cut and every flipped bit of `good`.
fn every_damage(good: &[u8], check: impl Fn(&[u8], &str)) {
    for length in 0..good.len() {
        check(&good[..length], &format!("cut to {length}"));
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(&bytes, &format!("bit {bit}"));
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    every_damage(&manifest().encode(), |bytes, what| assert!(ManifestObject::decode(bytes).is_err(), "{what}"));
    every_damage(&checkpoint().encode().unwrap(), |bytes, what| assert!(Envelope::decode(bytes).is_err(), "{what}"));
    every_damage(&tier_object(), |bytes, what| {
        let whole = Footer::of(bytes).and_then(|footer| footer.verify_blocks(0, &bytes[..footer.data_bytes as usize]));
        assert!(whole.is_err(), "{what}");
    });
}

#[test]
fn a_claim_of_gigabytes_allocates_nothing_and_is_refused() {
    for claimed in [100_u64, 200 << 20, 5 << 30, u64::MAX] {
        let mut sealed = manifest().encode();
        sealed[16..24].copy_from_slice(&claimed.to_le_bytes());
        let crc = crate::crc32c(&sealed[16..]);
        sealed[12..16].copy_from_slice(&crc.to_le_bytes());
        let error = ManifestObject::decode(&sealed).unwrap_err().to_string();
        assert!(error.contains(&claimed.to_string()), "{error}");
    }
    let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 3).unwrap();
    let body = [&100_u64.to_le_bytes()[..], &bomb].concat();
    let sealed = [&b"TGMANIF1"[..], &1_u32.to_le_bytes(), &crate::crc32c(&body).to_le_bytes(), &body].concat();
    assert!(ManifestObject::decode(&sealed).unwrap_err().to_string().contains("does not decompress to the 100 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_manifest_and_checkpoint_reads_back(
        partition in any::<i32>(),
        base in 0_i64..1 << 50,
        lengths in proptest::collection::vec((1_i64..1 << 20, any::<u64>(), any::<u32>(), any::<i64>(), "[a-z/0-9]{0,40}"), 0..50),
        state in proptest::collection::vec(any::<u8>(), 0..5_000),
    ) {
        let mut next = base;
        let ranges = lengths.into_iter().map(|(length, size, crc, time, key)| {
            let first = next;
            next += length;
            ManifestRange {
                key, object_bytes: size, object_crc32c: crc, base: Offset(first), end: Offset(next), position: size / 2, bytes: size / 3,
                min_timestamp: TimestampMs(time), max_timestamp: TimestampMs(time.saturating_add(1)),
            }
        });
        let manifest = ManifestObject { at: at(partition), ranges: ranges.collect() };
        prop_assert_eq!(ManifestObject::decode(&manifest.encode()), Ok(manifest));
        let envelope = Envelope { index: base as u64, state: Bytes::from(state), ..checkpoint() };
        prop_assert_eq!(Envelope::decode(&envelope.encode().unwrap()), Ok(envelope));
    }

    #[test]
    fn any_tier_object_reads_back(batches in proptest::collection::vec((0_usize..70_000, 1_i64..4), 1..12), base in 0_i64..1 << 40) {
        let mut builder = TierObjectBuilder::new(HubId(Uuid::from_u128(1)), JournalId(2), "k");
        let (mut next, mut chunks) = (base, Vec::new());
        for (bytes, records) in batches {
            let mut batch = BatchBuilder::new(Compression::None);
            (0..records).for_each(|number| batch.push(TimestampMs(5 + number), None, Some(&vec![7; bytes]), &[]));
            let built = batch.build().unwrap();
            let prefix = tidegate_model::batch::served_prefix(built.header(), Offset(next), LeaderEpoch(1));
            chunks.push(Bytes::from([&prefix[..], &built.bytes()[16..]].concat()));
            next += records;
        }
        let header = RangeHeader {
            at: at(0), topic_name: "t".to_owned(), base: Offset(base), end: Offset(next), epoch_starts: vec![(LeaderEpoch(1), Offset(base))],
        };
        builder.add_range(header.clone(), chunks).unwrap();
        let built = builder.finish().unwrap();
        let bytes = built.chunks.concat();
        let footer = Footer::of(&bytes).unwrap();
        prop_assert_eq!(&footer.ranges[0].header, &header);
        prop_assert_eq!(footer.ranges[0].placement, built.ranges[0]);
        prop_assert!(footer.verify_blocks(0, &bytes[..footer.data_bytes as usize]).is_ok());
    }
}
