//! Disks that fail: an fsync that reports EIO (injected by strace into the unmodified binary), and a loop device whose backing store runs out, so that
//! writeback fails, one fsync says so and the next would lie. The hub must end by itself with a failure, and a new start must have all that was
//! acknowledged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;

use crate::disks::{self, LoopDisk, MemoryDisk};
use crate::hub::{HubSetup, fill};
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 30;
/// Under load a hub syncs many times a second in each of its threads that write.
const END_LIMIT: Duration = Duration::from_secs(60);
/// A file system of this size on a memory disk of less.
const APPARENT_BYTES: u64 = 512 << 20;
const REAL_BYTES: u64 = 192 << 20;
/// What the log may take stays below that, so that there is room when the filler is gone.
const LOG_BYTES: u64 = 64 << 20;

/// Why fsync errors cannot be injected here, or `None` if they can.
pub fn missing() -> Option<String> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "-e", "inject=fsync:error=EIO:when=9", "true"]).output();
    match works {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("strace may not trace: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("strace: {error}")),
    }
}

/// Runs the campaign by strace; `None`, with the reason printed, where that does not work.
///
/// # Errors
/// If the hub goes on after the error, ends with success, or does not start again.
pub async fn run(options: &Options) -> Result<Option<Summary>> {
    if let Some(reason) = missing() {
        println!("fsync-error: NOT RUN: {reason}");
        return Ok(None);
    }
    let mut run = Run::new("fsync-error", options, ROUNDS)?;
    let mut setup = HubSetup::new(&run.binary, &run.folder, &run.folder)?;
    // Errors of the block cache's disk are no errors of the log; without it every fsync counts.
    setup.set("hub.tier.cache_disk_bytes", 0);
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(50).await.with_context(|| place.clone())?;
        hub.kill();
        let nth = run.random.random_range(1..120);
        load.recorder.note(format!("the {nth}th fsync of each thread fails"));
        let mut failing = setup.spawn(&strace(nth))?;
        let status = load.while_ending(&mut failing, END_LIMIT).await.with_context(|| format!("{place}: fsync {nth} failed"))?;
        ensure!(!status.success(), "{place}: the hub ended with success although fsync {nth} had failed");
        failing.kill();
        (hub, _) = setup.start(&[]).await.with_context(|| place.clone())?;
        run.round_done(&format!("fsync {nth} failed, the hub ended with {status}"), load.workload.counts());
    }
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}

fn strace(nth: u32) -> Vec<String> {
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={nth}");
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject].map(str::to_owned).into()
}

/// Runs the campaign of failing writeback; `None`, with the reason printed, where such disks cannot be made.
///
/// # Errors
/// As [`run`].
pub async fn run_writeback(options: &Options) -> Result<Option<Summary>> {
    if let Some(reason) = disks::missing() {
        println!("writeback-error: NOT RUN: {reason}");
        return Ok(None);
    }
    let mut run = Run::new("writeback-error", options, ROUNDS / 3)?;
    let below = MemoryDisk::make(&run.folder.join("below"), REAL_BYTES)?;
    let mut disk = LoopDisk::make(&below.path().join("disk.img"), APPARENT_BYTES, &run.folder.join("disk"))?;
    let mut setup = HubSetup::new(&run.binary, &run.folder, disk.path())?;
    setup.set("object_store.directory.path", run.folder.join("store").display());
    setup.set("hub.tier.cache_disk_bytes", 0);
    setup.set("hub.wal.budget_bytes", LOG_BYTES);
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(50).await.with_context(|| place.clone())?;
        load.recorder.note("the disk below has no room: writeback fails");
        let filler = below.path().join("filler");
        let status = fill_until_it_ends(&mut load, &mut hub, &filler).await.with_context(|| place.clone())?;
        ensure!(!status.success(), "{place}: the hub ended with success although writeback had failed");
        std::fs::remove_file(&filler)?;
        disk.power_on().with_context(|| place.clone())?;
        (hub, _) = setup.start(&[]).await.with_context(|| place.clone())?;
        run.round_done(&format!("writeback failed, the hub ended with {status}"), load.workload.counts());
    }
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}

/// Keeps the disk below full: new blocks of the log find no room there, which only fsync says.
async fn fill_until_it_ends(load: &mut Load, hub: &mut crate::hub::Hub, filler: &Path) -> Result<std::process::ExitStatus> {
    let begin = std::time::Instant::now();
    loop {
        fill(filler)?;
        if let Some(status) = hub.has_ended()? {
            hub.kill();
            return Ok(status);
        }
        if begin.elapsed() > END_LIMIT {
            bail!("the hub still runs {END_LIMIT:?} after its disk has run out; {:?}", load.workload.counts());
        }
        load.pause(Duration::from_millis(50)).await?;
    }
}
