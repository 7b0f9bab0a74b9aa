//! What each fuzz target does with arbitrary bytes: read them by one of our decoders and hold what comes out against what must be true of it.
//!
//! Ordinary functions, so that libFuzzer and `cargo test` on a stable compiler run the same code. A function here panics only for a bug: bytes
//! that a decoder refuses are the common case. Knows no files and no randomness.

use bytes::Bytes;
use prost::Message;
use tidegate_broker::settings::BrokerSettings;
use tidegate_journal::entry::EntryPayload;
use tidegate_journal::raft::inspect_checkpoint;
use tidegate_journal::state::State;
use tidegate_model::batch::{self, batches};
use tidegate_model::{BatchLimits, BatchSource, RecordBatch, RecordValidation};
use tidegate_proto::convert::{settings_altered, settings_from_wire, settings_to_wire};
use tidegate_proto::framing::Messages;
use tidegate_proto::v1;
use tidegate_tier::checkpoint::Envelope;
use tidegate_tier::manifest::ManifestObject;
use tidegate_tier::object::Footer;

/// A target: its name, which is that of its corpus folder, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("record_batch", record_batch),
    ("wal_file", wal_file),
    ("wal_mark", wal_mark),
    ("tier_object", tier_object),
    ("manifest_object", manifest_object),
    ("checkpoint_object", checkpoint_object),
    ("local_checkpoint", local_checkpoint),
    ("journal_state", journal_state),
    ("journal_entry", journal_entry),
    ("produce_frames", produce_frames),
    ("topic_manifest", topic_manifest),
    ("topic_settings", topic_settings),
    ("broker_settings", broker_settings),
];

/// What may come out of one batch here: small, so that a bomb shows as a slow input or a large allocation.
const MOST_DECOMPRESSED_BYTES: u64 = 1 << 20;

/// Kafka's record batches: as from a client, as from the log, and with a right checksum over whatever the bytes are.
pub fn record_batch(bytes: &[u8]) {
    batch_as_given(bytes);
    if let Err(batch::Error::Crc { computed, .. }) = batch::verify_crc(bytes) {
        let mut repaired = bytes.to_vec();
        repaired[17..21].copy_from_slice(&computed.to_be_bytes());
        batch_as_given(&repaired);
    }
}

fn batch_as_given(bytes: &[u8]) {
    batches(bytes).for_each(drop);
    for source in [BatchSource::Client, BatchSource::Log] {
        let limits = BatchLimits { source, max_decompressed_bytes: MOST_DECOMPRESSED_BYTES, ..Default::default() };
        for batch in RecordBatch::parse_all(Bytes::copy_from_slice(bytes), &limits).unwrap_or_default() {
            let records = batch.records().expect("what was validated can be iterated");
            let records: Result<Vec<_>, _> = records.collect();
            let count = records.expect("a validated batch has valid records").len();
            assert_eq!(count, usize::try_from(batch.header().record_count).unwrap_or(0), "as many records as the header says");
            let again = RecordBatch::parse_all(batch.bytes().clone(), &limits).expect("what was accepted is accepted again");
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].bytes(), batch.bytes(), "a batch that was put right stays as it is");
        }
        let lax = BatchLimits { validate_records: RecordValidation::HeaderOnly, ..limits };
        for batch in RecordBatch::parse_all(Bytes::copy_from_slice(bytes), &lax).unwrap_or_default() {
            if let Ok(records) = batch.records() {
                // Unvalidated records may be anything, a bomb too: only that many are looked at.
                records.take(10_000).take_while(Result::is_ok).for_each(drop);
            }
        }
    }
}

/// Puts the CRC32C of a part of the bytes at a place in them, if both are there: so that damage reaches what the checksum guards.
fn with_crc(bytes: &mut [u8], covered: std::ops::Range<usize>, place: usize) {
    if let Some(crc) = bytes.get(covered).map(tidegate_tier::crc32c)
        && let Some(stored) = bytes.get_mut(place..place + 4)
    {
        stored.copy_from_slice(&crc.to_le_bytes());
    }
}

/// A whole WAL file, as recovery and `tidegate inspect` walk it; with a right checksum of its header, too.
pub fn wal_file(bytes: &[u8]) {
    wal_as_given(bytes);
    let mut repaired = bytes.to_vec();
    with_crc(&mut repaired, 0..60, 60);
    wal_as_given(&repaired);
}

fn wal_as_given(bytes: &[u8]) {
    let Ok(found) = tidegate_wal::inspect::inspect_bytes(std::path::Path::new("fuzzed.wal"), bytes) else { return };
    for pair in found.frames.windows(2) {
        assert!(pair[0].offset < pair[1].offset && pair[0].header.sequence + 1 == pair[1].header.sequence, "an unbroken run");
    }
    let all = found.frames.iter().chain(&found.seal).chain(&found.beyond);
    for frame in all {
        assert!(frame.offset + u64::from(frame.header.length) <= bytes.len() as u64, "a frame lies within its file");
        assert_eq!(frame.header.generation, found.generation);
    }
}

/// The log's durable mark; with right checksums of its slots, too.
pub fn wal_mark(bytes: &[u8]) {
    tidegate_wal::mark::slots(bytes);
    let mut repaired = bytes.to_vec();
    for slot in [0, 4096] {
        with_crc(&mut repaired, slot..slot + 60, slot + 60);
    }
    for (start, slot) in [0, 4096].into_iter().zip(tidegate_wal::mark::slots(&repaired)) {
        let is_whole = matches!(slot, tidegate_wal::mark::Slot::Whole { .. });
        assert!(!is_whole || repaired[start..].starts_with(b"TIDEMRK\n"), "{slot:?}");
    }
}

/// A tier object: trailer, footer and blocks; with right checksums of footer and trailer, too.
pub fn tier_object(bytes: &[u8]) {
    tier_as_given(bytes);
    let Some(trailer) = bytes.len().checked_sub(32) else { return };
    let mut repaired = bytes.to_vec();
    let data = u64::from_le_bytes(std::array::from_fn(|at| repaired[trailer + at]));
    if let Some(data) = usize::try_from(data).ok().filter(|data| *data <= trailer) {
        with_crc(&mut repaired, data..trailer, trailer + 12);
    }
    with_crc(&mut repaired, trailer..trailer + 20, trailer + 20);
    tier_as_given(&repaired);
}

fn tier_as_given(bytes: &[u8]) {
    let Ok(footer) = Footer::of(bytes) else { return };
    let data = usize::try_from(footer.data_bytes).expect("data lies within the object");
    for range in &footer.ranges {
        let place = &range.placement;
        assert!(place.base < place.end && place.position + place.bytes <= footer.data_bytes, "a range lies in the data");
        assert!(
            range.index.iter().all(|entry| entry.position >= place.position && entry.position < place.position + place.bytes)
        );
    }
    if footer.verify_blocks(0, &bytes[..data]).is_ok() {
        batches(&bytes[..data]).for_each(drop);
    }
}

/// The common envelope with a right checksum.
fn enveloped(bytes: &[u8]) -> Vec<u8> {
    let mut repaired = bytes.to_vec();
    with_crc(&mut repaired, 16..bytes.len().max(16), 12);
    repaired
}

/// A manifest object; with a right checksum, too.
pub fn manifest_object(bytes: &[u8]) {
    manifest_as_given(bytes);
    manifest_as_given(&enveloped(bytes));
}

fn manifest_as_given(bytes: &[u8]) {
    let Ok(manifest) = ManifestObject::decode(bytes) else { return };
    assert!(manifest.ranges.windows(2).all(|pair| pair[0].end == pair[1].base), "ranges are contiguous");
    assert_eq!(ManifestObject::decode(&manifest.encode()), Ok(manifest));
}

/// A checkpoint object: the envelope, and the state within; with a right checksum, too.
pub fn checkpoint_object(bytes: &[u8]) {
    checkpoint_as_given(bytes);
    checkpoint_as_given(&enveloped(bytes));
}

fn checkpoint_as_given(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let encoded = envelope.encode().expect("what was decoded is within the limit");
    assert_eq!(Envelope::decode(&encoded).as_ref(), Ok(&envelope));
    journal_state(&envelope.state);
}

/// A local checkpoint file of a journal; with a right checksum, too.
pub fn local_checkpoint(bytes: &[u8]) {
    local_as_given(bytes);
    let mut repaired = bytes.to_vec();
    let content = bytes.len().saturating_sub(4);
    with_crc(&mut repaired, 0..content, content);
    local_as_given(&repaired);
}

fn local_as_given(bytes: &[u8]) {
    if let Ok(found) = inspect_checkpoint(bytes) {
        same_again(&found.state);
    }
}

/// A journal's state without any checksum around it.
pub fn journal_state(bytes: &[u8]) {
    if let Ok(state) = State::decode(bytes) {
        same_again(&state);
    }
}

fn same_again(state: &State) {
    let decoded = State::decode(&state.encode()).expect("what was decoded and written is decoded again");
    assert!(decoded == *state, "the same state");
}

/// The payload of a journal's entry.
pub fn journal_entry(bytes: &[u8]) {
    let Ok(payload) = EntryPayload::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(payload.bytes(), bytes.len());
    let again = EntryPayload::decode(payload.to_bytes()).expect("the same bytes are decoded again");
    assert_eq!((again.pieces(), again.units()), (payload.pieces(), payload.units()));
}

/// Frames of the produce stream, cut into chunks by the first byte.
pub fn produce_frames(bytes: &[u8]) {
    const MOST_MESSAGE_BYTES: usize = 4_096;
    let Some((cut, rest)) = bytes.split_first() else { return };
    let mut messages = Messages::<v1::ProduceStreamRequest>::new(MOST_MESSAGE_BYTES);
    for chunk in rest.chunks(usize::from(*cut).max(1)) {
        messages.push(Bytes::copy_from_slice(chunk));
        loop {
            match messages.next_message() {
                Ok(Some((_, taken))) => assert!(taken <= MOST_MESSAGE_BYTES + tidegate_proto::framing::PREFIX_BYTES),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(messages.buffered_bytes() < MOST_MESSAGE_BYTES + tidegate_proto::framing::PREFIX_BYTES, "bytes kept are bounded");
    }
}

/// A file of `Topic` manifests, YAML or JSON.
pub fn topic_manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for manifest in tidegate_crd::parse_manifests(text).unwrap_or_default() {
        let tidegate_crd::Manifest::Topic(topic) = manifest;
        if let Ok(resolved) = topic.resolve() {
            tidegate_model::TopicName::new(resolved.name).expect("a manifest that is accepted has a valid name");
            assert!(resolved.partitions > 0, "a topic has partitions");
        }
    }
}

/// Settings of a topic as a request carries them: what is accepted is the same after a way over the wire, and when it is altered to itself.
pub fn topic_settings(bytes: &[u8]) {
    let Ok(wire) = v1::TopicSettings::decode(bytes) else { return };
    let Ok(settings) = settings_from_wire(&wire) else { return };
    if let Err(error) = settings.validate() {
        assert!(!error.field.is_empty(), "a refusal names the field: {error}");
        return;
    }
    assert_eq!(settings_from_wire(&settings_to_wire(&settings)).as_ref(), Ok(&settings));
    let altered = settings_altered(&settings, &settings_to_wire(&settings), &[]).expect("what was accepted is accepted again");
    assert_eq!(altered, settings);
    settings.validate_change(&altered).expect("nothing changes");
}

/// A settings file of a broker: what is accepted can be written out and read again, and is accepted again.
pub fn broker_settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(settings) = toml::from_str::<BrokerSettings>(text) else { return };
    if let Err(error) = settings.validate() {
        assert!(!error.field.is_empty(), "a refusal names the field: {error}");
        return;
    }
    let written = toml::to_string(&settings).expect("what was accepted can be written");
    let again: BrokerSettings = toml::from_str(&written).expect("what was written can be read");
    assert_eq!(again, settings);
    again.validate().expect("what was accepted is accepted again");
}
