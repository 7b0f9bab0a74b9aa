//! The object store misbehaves: a proxy of ours before a real MinIO is down, slow, busy, loses answers, refuses, cuts bodies short, returns wrong
//! bytes. Producing goes on up to the log's budget, then is refused with an error that may be tried again; when the store is well, tiering catches
//! up by itself; and nothing was let go of locally that the store does not have: in the end everything is read from the store alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use crate::hub::{Hub, HubSetup, PATIENCE};
use crate::minio::{self, MinIo};
use crate::probe::Probe;
use crate::proxy::{Mood, Proxy};
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 48;
/// One round in so many goes on until the log's budget is used up.
const EXHAUSTING: u32 = 8;
const BUDGET_BYTES: u64 = 48 << 20;
/// After this long with a good store everything must be tiered but what just came.
const CAUGHT_UP: f64 = 3.0;

/// Runs the campaign; `None`, with the reason printed, without MinIO.
///
/// # Errors
/// If anything is not as the first paragraph says.
pub async fn run(options: &Options) -> Result<Option<Summary>> {
    if !minio::is_there("store") {
        return Ok(None);
    }
    let mut run = Run::new("store", options, ROUNDS)?;
    let minio = MinIo::start(&run.folder.join("minio")).await?;
    let proxy = Proxy::start(minio.address).await?;
    let mut setup = HubSetup::new(&run.binary, &run.folder, &run.folder)?;
    minio::tier_to(&mut setup, proxy.address);
    setup.set("hub.wal.budget_bytes", BUDGET_BYTES);
    // Nothing is read from the block cache what the proxy should have hurt.
    setup.set("hub.tier.cache_disk_bytes", 0);
    setup.set("hub.tier.cache_memory_bytes", 1 << 20);
    let (mut hub, _) = setup.start(&[]).await?;
    let mut load = Load::start(&run, &setup).await?;
    let probe = Probe::make(&load.client, "store-probe").await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        let mood = Mood::BAD[run.random.random_range(0..Mood::BAD.len())];
        load.recorder.note(format!("the store is {mood:?}"));
        proxy.set(mood);
        let mut what = format!("{mood:?}");
        load.progress(200).await.with_context(|| format!("{place}: producing while the store is {mood:?}"))?;
        if run.done % EXHAUSTING == EXHAUSTING - 1 {
            proxy.set(Mood::Down);
            what = exhaust(&mut load, &probe).await.with_context(|| place.clone())?;
            run.count("budgets used up", 1);
        }
        load.pause(Duration::from_millis(run.random.random_range(100..2000))).await?;
        if run.random.random_range(0..4) == 0 {
            load.recorder.note("kill -9");
            hub.kill();
            // A hub starts without its store.
            (hub, _) = setup.start(&[]).await.with_context(|| format!("{place}: starting while the store is {mood:?}"))?;
            what.push_str(", killed meanwhile");
            run.count("kills", 1);
        }
        proxy.set(Mood::Good);
        let took = caught_up(&mut load, &hub).await.with_context(|| format!("{place}: after {what}"))?;
        load.progress(20).await.with_context(|| place.clone())?;
        run.round_done(&format!("{what}, tiering caught up after {} ms", took.as_millis()), load.workload.counts());
    }
    let (requests, hurt) = proxy.counts();
    run.count("requests to the store", requests);
    run.count("hurt", hurt);
    let (verdict, counts) = load.judge(&setup, hub).await?;
    Ok(Some(Summary::of(&run, &verdict, counts)))
}

/// With the store away, appends until the log's budget is used up, and looks at the refusal and at reads.
async fn exhaust(load: &mut Load, probe: &Probe) -> Result<String> {
    let begin = Instant::now();
    let failure = loop {
        match probe.append(900_000).await {
            Err(failure) => break failure,
            Ok(()) => ensure!(begin.elapsed() < PATIENCE, "nothing is refused although the store has been away for {PATIENCE:?}"),
        }
        load.pause(Duration::from_millis(1)).await?;
    };
    ensure!(failure.is_retryable(), "refused for good: {:?} {failure}", failure.reason);
    probe.read().await.context("reading while the log is full")?;
    Ok(format!("down until the log was full ({:?}: {failure})", failure.reason))
}

/// Waits until the oldest record that is not tiered is young.
async fn caught_up(load: &mut Load, hub: &Hub) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let metrics = hub.metrics().await?;
        let number = |name: &str| metrics.get(name).copied().unwrap_or(f64::NAN);
        if number("tidegate_tiering_lag_seconds") < CAUGHT_UP && number("tidegate_tier_unavailable") == 0.0 {
            return Ok(begin.elapsed());
        }
        let lag = number("tidegate_tiering_lag_seconds");
        ensure!(begin.elapsed() < PATIENCE, "{PATIENCE:?} after the store is well the oldest record not tiered is {lag} s old");
        load.pause(Duration::from_millis(50)).await?;
    }
}
