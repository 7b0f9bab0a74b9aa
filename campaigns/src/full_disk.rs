//! A full disk: the hub's data lies on a small file system that fills up. Produce is refused with an error that says so and may be tried again, reads go
//! on, and when there is room again the same process takes records again by itself. Needs root.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_client::{Client, Failure, Reason, Start};

use crate::disks::{self, MemoryDisk};
use crate::hub::{HubSetup, PATIENCE, fill};
use crate::run::{Load, Options, Run, Summary};

/// Rounds of a full run.
const ROUNDS: u32 = 20;
const DISK_BYTES: u64 = 192 << 20;
const PROBE: &str = "full-disk-probe";

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
    make_probe(&load.client).await?;
    while run.goes_on() {
        let place = format!("round {} (seed {})", run.done + 1, run.seed);
        load.progress(100).await.with_context(|| place.clone())?;
        load.recorder.note("the disk fills up");
        let filler = disk.path().join("filler");
        let refusal = refused(&mut load, &filler).await.with_context(|| place.clone())?;
        ensure!(refusal.is_retryable(), "{place}: refused for good: {:?} {refusal}", refusal.reason);
        ensure!(
            refusal.reason == Reason::StorageFull,
            "{place}: refused as {:?}, not as STORAGE_FULL: {refusal}",
            refusal.reason
        );
        reads_go_on(&load).await.with_context(|| format!("{place}: reading while the disk is full"))?;
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

async fn make_probe(client: &Client) -> Result<()> {
    client.admin().create_topic(v1::CreateTopicRequest { name: PROBE.to_owned(), ..Default::default() }).await?;
    Ok(())
}

/// Keeps the disk full until a record is refused.
async fn refused(load: &mut Load, filler: &Path) -> Result<Failure> {
    let begin = Instant::now();
    loop {
        fill(filler)?;
        if let Err(failure) = probe(&load.client).await {
            return Ok(failure);
        }
        ensure!(begin.elapsed() < PATIENCE, "nothing is refused although the disk has been full for {PATIENCE:?}");
        load.pause(Duration::from_millis(10)).await?;
    }
}

/// One record without a client library that tries again.
async fn probe(client: &Client) -> Result<(), Failure> {
    let record = v1::Record { value: Some(vec![b'p'; 1000].into()), ..Default::default() };
    let records = v1::RecordList { records: vec![record] };
    let request = v1::ProduceRequest {
        topic: PROBE.to_owned(),
        partition: Some(0),
        timeout_ms: 10_000,
        payload: Some(v1::produce_request::Payload::Records(records)),
        ..Default::default()
    };
    let answer = ProducerServiceClient::new(client.transport()).produce(request).await;
    let answer = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
    match answer.results.into_iter().find_map(|result| result.error) {
        Some(error) => Err(Failure::from(error)),
        None => Ok(()),
    }
}

/// A consumer from the beginning gets records at once.
async fn reads_go_on(load: &Load) -> Result<()> {
    let mut consumer = load.client.consumer().assign(load.topic(), Start::Earliest).build().await?;
    let first = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.context("no record within 10 s")??;
    first.context("the subscription ended").map(drop)
}
