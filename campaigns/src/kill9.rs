//! kill -9 under load: while it serves, while it recovers, twice in a row. Clients live through all of it.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;

use crate::hub::HubSetup;
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 200;

/// Runs the campaign.
///
/// # Errors
/// If the hub does not start again, or does not take records.
pub async fn run(options: &Options) -> Result<Summary> {
    let mut run = Run::new("kill9", options, ROUNDS)?;
    let setup = HubSetup::new(&run.binary, &run.folder, &run.folder)?;
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    let mut slowest = Duration::ZERO;
    while run.goes_on() {
        load.progress(100).await.with_context(|| format!("round {} (seed {})", run.done + 1, run.seed))?;
        load.pause(Duration::from_millis(run.random.random_range(0..500))).await?;
        load.recorder.note("kill -9");
        hub.kill();
        let mut what = "killed while it served".to_owned();
        let mut kills = 1;
        while run.random.random_range(0..4) == 0 {
            // Killed again while it recovers.
            let starting = setup.spawn(&[])?;
            tokio::time::sleep(Duration::from_millis(run.random.random_range(0..250))).await;
            drop(starting);
            kills += 1;
            what = format!("killed, and {} times more while it started", kills - 1);
        }
        run.count("kills", kills);
        let took;
        (hub, took) = setup.start(&[]).await.with_context(|| format!("round {} (seed {})", run.done + 1, run.seed))?;
        slowest = slowest.max(took);
        run.round_done(&format!("{what}, served again after {} ms", took.as_millis()), load.workload.counts());
    }
    run.count("slowest start in ms", slowest.as_millis() as u64);
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Summary::of(&run, &verdict, counts))
}
