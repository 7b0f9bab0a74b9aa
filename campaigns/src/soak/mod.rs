//! Overload for a long time: full load with a hot partition, slow readers, connections and topics that come and go, retention and tiering, then ten
//! times the load, under a wall clock that leaps. Looks at memory, descriptors, tasks, stalls, goodput and refusals.

pub(crate) mod clients;
mod clock;
pub(crate) mod samples;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tidegate_client::Client;
use tidegate_client::proto::v1;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::clients::Seen;
use self::samples::{Sample, goodput};
use crate::hub::HubSetup;
use crate::run::{Load, Options, Run, Summary};

/// Options of a soak.
#[derive(Clone, Debug, clap::Args)]
pub struct SoakOptions {
    /// Those of every campaign. `--rounds` is not used.
    #[command(flatten)]
    pub common: Options,
    /// How long, in seconds.
    #[arg(long, default_value_t = 1800)]
    pub seconds: u64,
    /// Connections that come and go in all.
    #[arg(long, default_value_t = 10_000)]
    pub connections: u64,
    /// Consumers that read a message a second.
    #[arg(long, default_value_t = 20)]
    pub slow_readers: u64,
    /// Say what was measured, and fail only for lost records, memory and leaks: for machines that are shared.
    #[arg(long)]
    pub shared_machine: bool,
}

/// Memory settings of the hub under test, in bytes. Their sum and [`REST_BYTES`] is its budget.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
const TAIL_CACHE_BYTES: u64 = 64 << 20;
const BLOCK_CACHE_BYTES: u64 = 32 << 20;
/// What waits in a journal is what a record waits for: at 10 MB/s half a second.
const JOURNAL_IN_FLIGHT_BYTES: u64 = 4 << 20;
const JOURNALS: u64 = 4;
const OBJECT_BYTES: u64 = 8 << 20;
/// Program, indexes, connections' windows, allocator slack.
const REST_BYTES: u64 = 256 << 20;
/// Descriptors that may stay beyond those before the load: files of the log and of the block cache, connections that are kept.
const DESCRIPTORS_SLACK: u64 = 64;
/// Tasks that may stay.
const TASKS_SLACK: f64 = 64.0;
/// Producers at ten times the load are ten times as many.
pub(crate) const OVERLOAD: u64 = 10;
/// Goodput under overload, as a share of the peak.
pub(crate) const GOODPUT: f64 = 0.8;

/// A soak under way.
struct Soak {
    address: String,
    start: Instant,
    total: Duration,
    seen: Arc<Seen>,
    samples: Arc<Mutex<Vec<Sample>>>,
    producers: u64,
}

/// Runs the soak.
///
/// # Errors
/// If the hub ends, or anything that is looked at is out of its bounds.
pub async fn run(options: &SoakOptions) -> Result<Summary> {
    let mut run = Run::new("soak", &options.common, 1)?;
    let mut setup = setup(&run)?;
    let clock = clock::prepare(&mut setup)?;
    let (hub, _) = setup.start(&[]).await?;
    let clock = clock::governed(&hub, clock);
    let hub = Arc::new(hub);
    let soak = Soak {
        address: setup.address(),
        start: Instant::now(),
        total: Duration::from_secs(options.seconds),
        seen: Arc::default(),
        samples: Arc::default(),
        producers: 1,
    };
    let client = setup.client().await?;
    make_topics(&client).await?;
    let mut load = Load::start(&run, &setup).await?;
    load.pause(soak.total / 50).await?;
    let before = samples::look(&hub, soak.start).await?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let watching = tokio::spawn(samples::watch(hub.clone(), soak.start, soak.samples.clone(), stop.clone()));
    spawn_clients(&soak, options, &client, &setup, &stop, &mut tasks);
    let jumping = clock.map(|clock| tokio::spawn(clock::jump(clock, run.seed, soak.total / 60, soak.seen.clone(), stop.clone())));
    let outcome = phases(soak, &mut load).await;
    stop.cancel();
    let soak = outcome?;
    watching.await?.context("looking at the hub")?;
    if let Some(jumping) = jumping {
        jumping.await??;
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    load.progress(10).await?;
    let after = settled(&hub, &soak, &before).await?;
    let faults = report(&mut run, options, &soak, &before, &after);
    let hub = Arc::into_inner(hub).context("the hub is still looked at")?;
    let (verdict, counts) = load.judge(&setup, hub).await?;
    run.done = 1;
    let mut summary = Summary::of(&run, &verdict, counts);
    for fault in &faults {
        println!("OUT OF BOUNDS {fault}");
    }
    summary.holds &= faults.is_empty();
    Ok(summary)
}

/// Settings of a broker whose memory is looked at.
pub(crate) fn settings(journals: u64) -> [(&'static str, u64); 17] {
    [
        ("limits.max_message_bytes", 1 << 20),
        ("limits.max_in_flight_bytes", IN_FLIGHT_BYTES),
        ("hub.journals", journals),
        ("hub.journal.tail_cache_bytes", TAIL_CACHE_BYTES),
        ("hub.journal.in_flight_bytes", JOURNAL_IN_FLIGHT_BYTES),
        ("hub.journal.checkpoint_bytes", 16 << 20),
        ("hub.wal.file_bytes", 16 << 20),
        ("hub.wal.budget_bytes", 512 << 20),
        ("hub.tier.cache_memory_bytes", BLOCK_CACHE_BYTES),
        ("hub.tier.object_bytes", OBJECT_BYTES),
        ("hub.tier.seal_bytes", 4 << 20),
        ("hub.tier.seal_age_ms", 2000),
        ("hub.tier.interval_ms", 200),
        // Condemned objects go once a checkpoint in the store no longer names them: with the default of five minutes, garbage would fill disks.
        ("hub.tier.checkpoint_interval_ms", 10_000),
        ("hub.retention_interval_ms", 1000),
        ("hub.retention_grace_ms", 1000),
        ("hub.object_grace_ms", 5000),
    ]
}

/// Memory that such a broker may take.
pub(crate) fn budget_bytes(journals: u64) -> u64 {
    // Each journal has its in-flight bytes once in its queue and once in the log's, and uploads hold two objects and their read-back.
    let queues = journals * JOURNAL_IN_FLIGHT_BYTES * 2;
    IN_FLIGHT_BYTES + TAIL_CACHE_BYTES + BLOCK_CACHE_BYTES + queues + journals * OBJECT_BYTES * 4 + REST_BYTES
}

/// The topic of the load: what is older than 64 MiB a partition goes.
pub(crate) async fn make_topic(client: &Client) -> Result<()> {
    let settings = v1::TopicSettings {
        partitions: Some(clients::PARTITIONS as u32),
        retention_bytes_per_partition: Some(64 << 20),
        ..Default::default()
    };
    let request = v1::CreateTopicRequest { name: clients::TOPIC.to_owned(), settings: Some(settings), validate_only: false };
    client.admin().create_topic(request).await.map(drop).context("the topic of the load")
}

fn setup(run: &Run) -> Result<HubSetup> {
    let mut setup = HubSetup::new(&run.binary, &run.folder, &run.folder)?;
    for (name, value) in settings(JOURNALS) {
        setup.set(name, value);
    }
    setup.set("hub.undelete_ms", 5000);
    setup.set("limits.max_connections", 200);
    Ok(setup)
}

async fn make_topics(client: &Client) -> Result<()> {
    make_topic(client).await?;
    let canary = v1::CreateTopicRequest { name: "soak-canary".to_owned(), ..Default::default() };
    client.admin().create_topic(canary).await.map(drop).context("the canary's topic")
}

fn spawn_clients(
    soak: &Soak,
    options: &SoakOptions,
    client: &Client,
    setup: &HubSetup,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    for _ in 0..options.slow_readers {
        tasks.spawn(clients::read_slowly(soak.address.clone(), soak.seen.clone(), stop.clone()));
    }
    // All of them within nine tenths of the time.
    let pause = soak.total.mul_f64(0.9).div_f64(options.connections.max(1) as f64);
    tasks.spawn(clients::churn_connections(soak.address.clone(), pause, soak.seen.clone(), stop.clone()));
    tasks.spawn(clients::churn_topics(client.clone(), soak.seen.clone(), stop.clone()));
    let samples = soak.samples.clone();
    let newest: clients::Metrics =
        Arc::new(move || samples.lock().last().map(|sample| sample.metrics.clone()).unwrap_or_default());
    tasks.spawn(clients::canary(client.clone(), newest, setup.folder.clone(), soak.seen.clone(), stop.clone()));
}

/// Looks for the peak, keeps full load, and multiplies it. The soak knows from then on how many producers the peak took.
async fn phases(mut soak: Soak, load: &mut Load) -> Result<Soak> {
    let mut best = 0.0;
    for producers in [1, 2, 4, 8] {
        let rate = phase(&soak, load, "looking for the peak", producers, soak.total / 20).await?;
        if rate > best {
            best = rate;
            soak.producers = producers;
        }
    }
    let full = phase(&soak, load, "full load", soak.producers, soak.total.mul_f64(0.5)).await?;
    let over = phase(&soak, load, "ten times the load", soak.producers * OVERLOAD, soak.total / 5).await?;
    phase(&soak, load, "full load again", soak.producers, soak.total / 10).await?;
    let peak = best.max(full);
    println!(
        "soak: goodput under {OVERLOAD} times the load is {:.0} % of the peak ({:.1} MB/s)",
        100.0 * over / peak,
        peak / 1e6
    );
    if over < GOODPUT * peak {
        soak.seen.stalls.lock().push(format!("goodput fell to {:.0} % of the peak under overload", 100.0 * over / peak));
    }
    Ok(soak)
}

/// So many producers for a while; gives the mean goodput, without the first fifth in which they begin.
async fn phase(soak: &Soak, load: &mut Load, what: &str, producers: u64, time: Duration) -> Result<f64> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    *soak.seen.phase.lock() = format!("{what}, {producers} producers");
    for number in 0..producers {
        tasks.spawn(clients::produce(soak.address.clone(), number, soak.seen.clone(), stop.clone()));
    }
    let from = soak.start.elapsed() + time / 5;
    load.pause(time).await?;
    let to = soak.start.elapsed();
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let samples = soak.samples.lock();
    let rate = goodput(&samples, from, to);
    let within = samples.iter().filter(|sample| sample.at >= from && sample.at <= to);
    let most = within.map(|sample| sample.resident_bytes).max().unwrap_or(0);
    let last = samples.last().cloned().unwrap_or_default();
    println!(
        "soak {:.0} s: {what}, {producers} producers: {:.1} MB/s, resident {} MiB at most, {} descriptors, {} tasks, log {} MiB, {} connections made",
        to.as_secs_f64(),
        rate / 1e6,
        most >> 20,
        last.descriptors,
        last.metric("tidegate_tasks"),
        last.metric("tidegate_wal_used_bytes") as u64 >> 20,
        soak.seen.connections.load(Ordering::Relaxed),
    );
    Ok(rate)
}

/// Waits until the hub holds no more than before the load; gives the last look, whatever it shows.
async fn settled(hub: &crate::hub::Hub, soak: &Soak, before: &Sample) -> Result<Sample> {
    let begin = Instant::now();
    loop {
        let now = samples::look(hub, soak.start).await?;
        if leaks(before, &now).is_empty() || begin.elapsed() > Duration::from_secs(60) {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn leaks(before: &Sample, after: &Sample) -> Vec<String> {
    let mut found = Vec::new();
    if after.descriptors > before.descriptors + DESCRIPTORS_SLACK {
        found.push(format!("{} descriptors before the load, {} after it", before.descriptors, after.descriptors));
    }
    let tasks = |sample: &Sample| sample.metric("tidegate_tasks");
    if tasks(after) > tasks(before) + TASKS_SLACK {
        found.push(format!("{} tasks before the load, {} after it", tasks(before), tasks(after)));
    }
    found
}

/// Prints what was measured; gives what is out of bounds.
fn report(run: &mut Run, options: &SoakOptions, soak: &Soak, before: &Sample, after: &Sample) -> Vec<String> {
    let mut faults = leaks(before, after);
    let samples = soak.samples.lock();
    let most = samples.iter().map(|sample| sample.resident_bytes).max().unwrap_or(0);
    let budget = budget_bytes(JOURNALS);
    println!("soak: resident at most {} MiB of a budget of {} MiB", most >> 20, budget >> 20);
    if most > budget {
        faults.push(format!("{} MiB resident, the budget is {} MiB", most >> 20, budget >> 20));
    }
    for (what, sample) in [("before", before), ("after", after)] {
        let (tasks, connections) = (sample.metric("tidegate_tasks"), sample.metric("tidegate_connections"));
        println!(
            "soak: {what} the load {} descriptors, {} threads, {tasks} tasks, {connections} connections, {} MiB resident",
            sample.descriptors,
            sample.threads,
            sample.resident_bytes >> 20
        );
    }
    for (name, number) in &after.metrics {
        let refused = name.starts_with("tidegate_limited")
            || name.starts_with("tidegate_append_stalls")
            || (name.starts_with("tidegate_calls") && !name.contains("result=\"ok\""));
        if refused && *number > 0.0 {
            println!("soak: counted by the hub: {name} {number}");
        }
    }
    for (reason, times) in soak.seen.refusals.lock().iter() {
        println!("soak: seen by clients: {reason}: {times}");
    }
    let stalls = soak.seen.stalls.lock();
    for stall in stalls.iter() {
        println!("soak: STALL {stall}");
        if !options.shared_machine && (stall.contains("NO REASON") || stall.contains("goodput")) {
            faults.push(stall.clone());
        }
    }
    let connections = soak.seen.connections.load(Ordering::Relaxed);
    if connections < options.connections {
        faults.push(format!("{connections} connections came and went, {} were to", options.connections));
    }
    run.count("stalls over 1 s", stalls.iter().filter(|stall| stall.starts_with("at")).count() as u64);
    run.count("stalls without a reason", stalls.iter().filter(|stall| stall.contains("NO REASON")).count() as u64);
    run.count("canary records", soak.seen.canary.load(Ordering::Relaxed));
    run.count("connections", connections);
    run.count("topics made and deleted", soak.seen.topics.load(Ordering::Relaxed));
    run.count("clock jumps", soak.seen.leaps.load(Ordering::Relaxed));
    run.count("slow reads", soak.seen.slow_reads.load(Ordering::Relaxed));
    run.count("MiB appended", (after.appended() - before.appended()) as u64 >> 20);
    run.count("peak producers", soak.producers);
    faults
}

/// A slice for tests.
///
/// # Errors
/// As [`run`]; also if nothing came and went, which would prove nothing.
pub async fn slice(common: Options, seconds: u64) -> Result<Summary> {
    let options = SoakOptions { common, seconds, connections: 200, slow_readers: 4, shared_machine: true };
    let summary = run(&options).await?;
    if !summary.line.contains("topics made and deleted") {
        bail!("no topic came and went: {}", summary.line);
    }
    Ok(summary)
}
