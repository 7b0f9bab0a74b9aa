//! What framing an entry for the log costs beside its CRC alone and a copy of its bytes.
//!
//! `cargo bench -p tidegate-wal`. Ratios are what to look at: they hardly depend on the machine, and a step in them is a change of ours.
#![allow(clippy::disallowed_methods, missing_docs, reason = "it measures the machine's own time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_wal::benchmark::frame;

/// One measurement takes the best of so many tries of so long.
const TRIES: u32 = 7;
const TRY: Duration = Duration::from_millis(30);

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
        true => &[(1, 200), (16, 200), (16, 16 << 10), (1, 256 << 10), (4, 256 << 10)],
        false => &[(16, 200)],
    };
    println!("chunks × bytes        frame  CRC alone     copy   GB/s  frame ÷ CRC  frame ÷ copy");
    for (count, chunk_bytes) in sizes.iter().copied() {
        let chunks: Vec<Bytes> = (0..count).map(|number| Bytes::from(vec![number as u8; chunk_bytes])).collect();
        let whole = chunks.concat();
        let framed = time(|| drop(black_box(frame(black_box(&chunks)))));
        let crc = time(|| {
            black_box(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, black_box(&whole)));
        });
        let mut copy = vec![0; whole.len()];
        let copied = time(|| black_box(&mut copy).copy_from_slice(black_box(&whole)));
        println!(
            "{count:>2} × {chunk_bytes:>7} B {framed:>9.0} ns {crc:>7.0} ns {copied:>6.0} ns {:>6.1} {:>10.2} {:>12.2}",
            whole.len() as f64 / framed,
            framed / crc,
            framed / copied,
        );
    }
}
