//! Real power cuts: ext4 on a loop device is shut down under the hub, which loses everything that was not fsynced; also chained with
//! kills. Data and object store lie on the same disk, so both lose power at once. Needs root and loop devices.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;

use crate::disks::{self, LoopDisk};
use crate::hub::HubSetup;
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 50;
const DISK_BYTES: u64 = 2 << 30;
/// A hub whose disk fails notices with the next write.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Runs the campaign; `None`, with the reason printed, where such disks cannot be made.
///
/// # Errors
/// If the hub does not start again, or does not take records.
pub async fn run(options: &Options) -> Result<Option<Summary>> {
    if let Some(reason) = disks::missing() {
        println!("power-cut: NOT RUN: {reason}");
        return Ok(None);
    }
    let mut run = Run::new("power-cut", options, ROUNDS)?;
    let mut disk = LoopDisk::make(&run.folder.join("disk.img"), DISK_BYTES, &run.folder.join("disk"))?;
    let setup = HubSetup::new(&run.binary, &run.folder, disk.path())?;
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(100).await.with_context(|| place.clone())?;
        load.pause(Duration::from_millis(run.random.random_range(0..400))).await?;
        let what = match run.random.random_range(0..3) {
            0 => {
                load.recorder.note("kill -9, then a power cut");
                hub.kill();
                disk.cut()?;
                "killed, then cut"
            }
            1 => {
                load.recorder.note("a power cut under a running hub");
                disk.cut()?;
                let status = hub.ends(END_LIMIT).await.with_context(|| format!("{place}: after the cut"))?;
                if status.success() {
                    bail!("{place}: the hub ended with success although its disk had failed");
                }
                run.count("ended by itself", 1);
                "cut while it served"
            }
            _ => {
                load.recorder.note("kill -9, restart, and a power cut during or soon after it");
                hub.kill();
                let mut starting = setup.spawn(&[])?;
                tokio::time::sleep(Duration::from_millis(run.random.random_range(0..600))).await;
                disk.cut()?;
                tokio::time::sleep(Duration::from_millis(run.random.random_range(0..50))).await;
                starting.kill();
                run.count("chained", 1);
                "killed, and cut while it recovered"
            }
        };
        hub.kill();
        disk.power_on().with_context(|| place.clone())?;
        let took;
        (hub, took) = setup.start(&[]).await.with_context(|| place.clone())?;
        run.round_done(&format!("{what}, served again after {} ms", took.as_millis()), load.workload.counts());
    }
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}
