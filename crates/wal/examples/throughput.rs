//! How many bytes, entries and syncs a second the log does on this disk, for several lengths of entries.
//!
//! `cargo run --release -p tidegate-wal --example throughput -- FOLDER [SECONDS]`. The folder should be empty and on the disk in question;
//! a page cache without a disk behind it (tmpfs) measures nothing but memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_env::Env;
use tidegate_model::JournalId;
use tidegate_wal::{Payload, Position, Settings, Wal, Write};
use tokio::sync::Semaphore;

/// Bytes that are submitted and not yet durable at most.
const IN_FLIGHT_BYTES: usize = 32 << 20;
const JOURNALS: u32 = 4;

#[allow(clippy::disallowed_methods, reason = "it measures the machine's own time")]
async fn measure(wal: &Wal, entry_bytes: usize, next: &mut [u64], time: Duration) {
    let body = Bytes::from(vec![0xa5; entry_bytes]);
    let permits = (IN_FLIGHT_BYTES / entry_bytes).clamp(1, 4096);
    let flight = Arc::new(Semaphore::new(permits));
    let (before, start) = (wal.status(), Instant::now());
    let mut entries = 0u64;
    while start.elapsed() < time {
        let permit = Arc::clone(&flight).acquire_owned().await.expect("the semaphore is never closed");
        let journal = JournalId((entries % u64::from(JOURNALS)) as u32);
        let index = next[journal.0 as usize];
        next[journal.0 as usize] += 1;
        let at = Position { term: 1, leader: 1, index };
        let mut writes = vec![Write::Entry { journal, at, payload: Payload::from(body.clone()) }];
        if index.is_multiple_of(64) {
            let purged = index.saturating_sub((256 << 20) / (entry_bytes as u64 * u64::from(JOURNALS)));
            writes.push(Write::Purge { journal, at: Position { index: purged, ..at } });
        }
        let done = move |result: Result<(), _>| {
            result.expect("the disk works");
            drop(permit);
        };
        wal.submit(writes, Some(Box::new(done)));
        entries += 1;
    }
    let all = u32::try_from(permits).expect("at most 4096");
    drop(flight.acquire_many(all).await.expect("the semaphore is never closed"));
    let (after, took) = (wal.status(), start.elapsed().as_secs_f64());
    println!(
        "{entry_bytes:>8} B  {:>8.1} MB/s  {:>9.0} entries/s  {:>7.0} syncs/s  {:>6} KiB a sync",
        entries as f64 * entry_bytes as f64 / took / 1e6,
        entries as f64 / took,
        (after.syncs - before.syncs) as f64 / took,
        (after.written_bytes - before.written_bytes) / 1024 / (after.syncs - before.syncs).max(1),
    );
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: throughput FOLDER [SECONDS]")?;
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    let (wal, _) = Wal::open(Settings::new(folder), &Env::real()).await?;
    // A folder that was used before goes on where it ended.
    let mut next: Vec<u64> = (0..JOURNALS).map(|journal| wal.last(JournalId(journal)).map_or(1, |last| last.index + 1)).collect();
    for entry_bytes in [128, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        measure(&wal, entry_bytes, &mut next, Duration::from_secs(seconds)).await;
    }
    wal.close().await;
    Ok(())
}
