//! The hub is stopped (SIGSTOP) and goes on late (SIGCONT): under load, and at each step of tiering: when an object is about to be uploaded, when it is
//! read back to be verified, when one is about to be deleted. Pauses of a deposed leader need a second broker; the simulation has them.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rustix::process::Signal;

use crate::hub::HubSetup;
use crate::minio::{self, MinIo};
use crate::proxy::{Proxy, Step};
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 30;
/// Seals come several times a second, deletes with the retention of a second topic.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the campaign; `None`, with the reason printed, without MinIO.
///
/// # Errors
/// If the hub does not go on.
pub async fn run(options: &Options) -> Result<Option<Summary>> {
    if !minio::is_there("pause") {
        return Ok(None);
    }
    let mut run = Run::new("pause", options, ROUNDS)?;
    let minio = MinIo::start(&run.folder.join("minio")).await?;
    let proxy = Proxy::start(minio.address).await?;
    let mut setup = HubSetup::new(&run.binary, &run.folder, &run.folder)?;
    minio::tier_to(&mut setup, proxy.address);
    setup.set("hub.object_grace_ms", 100);
    // Replaced checkpoints in the store are what is deleted.
    setup.set("hub.tier.checkpoint_interval_ms", 1000);
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(100).await.with_context(|| place.clone())?;
        let step = [None, Some(Step::Put), Some(Step::Get), Some(Step::Delete)][run.done as usize % 4];
        let held = match step {
            None => None,
            Some(step) => Some(proxy.catch(step, STEP_LIMIT).await.with_context(|| place.clone())?),
        };
        load.recorder.note(format!("paused at {step:?}"));
        hub.signal(Signal::STOP)?;
        drop(held);
        let pause = Duration::from_millis(run.random.random_range(500..4000));
        load.pause(pause).await?;
        let mut what = step.map_or("paused under load".to_owned(), |step| format!("paused at a {step:?} to the store"));
        if run.random.random_range(0..3) == 0 {
            // What was under way in the store is done, and the hub never hears of it.
            hub.kill();
            (hub, _) = setup.start(&[]).await.with_context(|| place.clone())?;
            what.push_str(" and killed");
            run.count("kills", 1);
        } else {
            hub.signal(Signal::CONT)?;
        }
        load.progress(20).await.with_context(|| format!("{place}: after the pause"))?;
        run.round_done(&format!("{what} for {} ms", pause.as_millis()), load.workload.counts());
    }
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}
