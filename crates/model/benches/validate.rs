//! What the check of a client's batch costs beside what no check can be cheaper than: its CRC alone, and a copy of its bytes.
//!
//! `cargo bench -p tidegate-model`. Ratios are what to look at: they hardly depend on the machine, and a step in them is a change of ours.
#![allow(clippy::disallowed_methods, missing_docs, reason = "it measures the machine's own time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_model::TimestampMs;
use tidegate_model::batch::{BatchBuilder, BatchLimits, Compression, RecordBatch, verify_crc};

/// One measurement takes the best of so many tries of so long.
const TRIES: u32 = 7;
const TRY: Duration = Duration::from_millis(30);

fn batch(record_bytes: usize, batch_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![0xa5; record_bytes - 8];
    while builder.estimated_bytes() + record_bytes < batch_bytes {
        builder.push(TimestampMs(1_700_000_000_000), Some(b"some key"), Some(&value), &[]);
    }
    builder.build().expect("a batch with records").into_bytes()
}

/// Nanoseconds of one call.
fn time(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let (start, mut calls) = (Instant::now(), 0u32);
        while start.elapsed() < TRY {
            for _ in 0..16 {
                call();
            }
            calls += 16;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    best
}

fn main() {
    // `cargo test --benches` runs this too: one small size then, to show that it works.
    let sizes: &[(usize, usize)] = match std::env::args().any(|argument| argument == "--bench") {
        true => &[(100, 16 << 10), (100, 256 << 10), (1024, 256 << 10), (16 << 10, 1 << 20)],
        false => &[(100, 16 << 10)],
    };
    let limits = BatchLimits::default();
    println!("records  batch        check  CRC alone  copy   GB/s  check ÷ CRC  check ÷ copy  ns/record");
    for (record_bytes, batch_bytes) in sizes.iter().copied() {
        let bytes = batch(record_bytes, batch_bytes);
        let records = RecordBatch::trusted(bytes.clone()).expect("just built").header().record_count;
        let check = time(|| drop(black_box(RecordBatch::parse(black_box(bytes.clone()), &limits).expect("a good batch"))));
        let crc = time(|| verify_crc(black_box(&bytes)).expect("a good batch"));
        let mut copy = vec![0; bytes.len()];
        let copied = time(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
        println!(
            "{record_bytes:>5} B {:>7} B {check:>7.0} ns {crc:>7.0} ns {copied:>6.0} ns {:>5.1} {:>10.2} {:>12.2} {:>10.1}",
            bytes.len(),
            bytes.len() as f64 / check,
            check / crc,
            check / copied,
            (check - crc) / f64::from(records),
        );
    }
}
