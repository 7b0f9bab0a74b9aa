//! A full disk: the hub's data lies on a small file system that fills up. Produce is refused with an error that says so and may be tried again, reads go
//! on, and when there is room again the same process takes records again by itself. Needs root.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use tidegate_client::{Failure, Reason};

use crate::disks::{self, MemoryDisk};
use crate::hub::{HubSetup, PATIENCE, fill};
use crate::probe::Probe;
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 20;
const DISK_BYTES: u64 = 192 << 20;

/// Runs the campaign; `None`, with the reason printed, where such disks cannot be made.
///
/// # Errors
/// If anything is not as the first paragraph says.
pub async fn run(options: &Options) -> Result<Option<Summary>> {
    if let Some(reason) = disks::missing() {
        println!("full-disk: NOT RUN: {reason}");
        return Ok(None);
    }
    let mut run = Run::new("full-disk", options, ROUNDS)?;
    let disk = MemoryDisk::make(&run.folder.join("disk"), DISK_BYTES)?;
    let mut setup = HubSetup::new(&run.binary, &run.folder, disk.path())?;
    // The store has room: what is to be seen is a full local disk.
    setup.set("object_store.directory.path", run.folder.join("store").display());
    // Larger than the disk, so that the disk is what ends first.
    setup.set("hub.wal.budget_bytes", 1 << 30);
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    let probe = Probe::make(&load.client, "full-disk-probe").await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(100).await.with_context(|| place.clone())?;
        load.recorder.note("the disk fills up");
        let filler = disk.path().join("filler");
        let refusal = refused(&mut load, &probe, &filler).await.with_context(|| place.clone())?;
        ensure!(refusal.is_retryable(), "{place}: refused for good: {:?} {refusal}", refusal.reason);
        ensure!(
            refusal.reason == Reason::StorageFull,
            "{place}: refused as {:?}, not as STORAGE_FULL: {refusal}",
            refusal.reason
        );
        probe.read().await.with_context(|| format!("{place}: reading while the disk is full"))?;
        load.pause(Duration::from_millis(run.random.random_range(0..1500))).await?;
        if let Some(status) = hub.has_ended()? {
            bail!("{place}: the hub ended with {status} because its disk was full:\n{}", setup.log_tail());
        }
        std::fs::remove_file(&filler)?;
        let begin = Instant::now();
        load.progress(20).await.with_context(|| format!("{place}: with room again"))?;
        let took = begin.elapsed().as_millis();
        run.round_done(&format!("refused ({refusal}), resumed by itself after {took} ms"), load.workload.counts());
    }
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}

/// Keeps the disk full until a record is refused.
async fn refused(load: &mut Load, probe: &Probe, filler: &Path) -> Result<Failure> {
    let begin = Instant::now();
    loop {
        fill(filler)?;
        if let Err(failure) = probe.append(1000).await {
            return Ok(failure);
        }
        ensure!(begin.elapsed() < PATIENCE, "nothing is refused although the disk has been full for {PATIENCE:?}");
        load.pause(Duration::from_millis(10)).await?;
    }
}
