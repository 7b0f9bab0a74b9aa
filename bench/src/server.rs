//! Brokers as real processes, each with a fresh folder: Tidegate as it comes, Kafka as its operators run it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::driver::Driver;
use crate::kafka::Kafka;
use crate::process::Process;
use crate::tidegate::Tidegate;

/// How long a broker may take to start.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// Tidegate as it comes: fsync before each acknowledgement, sealed data moved to a directory as object store.
    Tidegate,
    /// The same in a second process, to see how much two runs of one thing differ; or another build beside it.
    TidegateAgain,
    /// Tidegate that moves nothing to the object store within the run, as Kafka does not.
    TidegateLocal,
    /// Kafka as it comes: acknowledged from the page cache.
    Kafka,
    /// Kafka with `flush.messages=1`: fsync before each acknowledgement. A topic of the same process.
    KafkaFsync,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Tidegate => "Tidegate",
            Kind::TidegateAgain => "Tidegate again",
            Kind::TidegateLocal => "Tidegate, no tiering",
            Kind::Kafka => "Kafka, no fsync",
            Kind::KafkaFsync => "Kafka, fsync",
        }
    }

    fn is_kafka(self) -> bool {
        matches!(self, Kind::Kafka | Kind::KafkaFsync)
    }
}

/// A broker under measurement.
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    pub(crate) process_id: u32,
    pub(crate) driver: Box<dyn Driver>,
    // Kafka's two kinds share one.
    process: Arc<Process>,
}

/// Where programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The command `tidegate`.
    pub(crate) tidegate: PathBuf,
    /// The same, for [`Kind::TidegateAgain`].
    pub(crate) tidegate_again: PathBuf,
    /// The folder of Kafka's jars.
    pub(crate) kafka_libs: Option<PathBuf>,
    /// Kafka's `num.network.threads` and `num.io.threads`.
    pub(crate) kafka_threads: (u32, u32),
}

/// Starts all brokers in folders below `folder`.
pub(crate) async fn start(kinds: &[Kind], programs: &Programs, folder: &Path) -> Result<Vec<Broker>> {
    let mut brokers = Vec::new();
    let mut kafka: Option<(Arc<Process>, String)> = None;
    for kind in kinds.iter().copied() {
        let home = folder.join(format!("{kind:?}"));
        if kind.is_kafka() {
            if kafka.is_none() {
                let (process, address) = start_kafka(programs, &home).await.context("Kafka")?;
                kafka = Some((Arc::new(process), address));
            }
            let (process, address) = kafka.clone().context("it was just started")?;
            let fsync = [("flush.messages", "1")];
            let topic_settings = if kind == Kind::KafkaFsync { fsync.to_vec() } else { Vec::new() };
            let driver = Box::new(Kafka { address, topic_settings });
            brokers.push(Broker { kind, process_id: process.id(), driver, process });
        } else {
            let (process, address) = start_tidegate(kind, programs, &home).await.context("Tidegate")?;
            let driver = Box::new(Tidegate::connect(&address).await?);
            brokers.push(Broker { kind, process_id: process.id(), driver, process: Arc::new(process) });
        }
    }
    Ok(brokers)
}

/// Stops them all.
pub(crate) fn stop(brokers: Vec<Broker>) -> Result<()> {
    for Broker { process, .. } in brokers {
        // The last of those that share a process stops it.
        if let Some(process) = Arc::into_inner(process) {
            process.stop()?;
        }
    }
    Ok(())
}

async fn start_tidegate(kind: Kind, programs: &Programs, home: &Path) -> Result<(Process, String)> {
    let program = if kind == Kind::TidegateAgain { &programs.tidegate_again } else { &programs.tidegate };
    ensure!(program.is_file(), "{} is missing: cargo build --release -p tidegate", program.display());
    std::fs::create_dir_all(home)?;
    let ready = home.join("ready.json");
    let mut settings = vec![
        "listeners.client=127.0.0.1:0".to_owned(),
        "listeners.operator=127.0.0.1:0".to_owned(),
        "listeners.http=127.0.0.1:0".to_owned(),
        // Topics of the benchmark are not missed: what they take is given back at once.
        "hub.undelete_ms=0".to_owned(),
        "hub.object_grace_ms=0".to_owned(),
        "hub.retention_interval_ms=500".to_owned(),
    ];
    if kind == Kind::TidegateLocal {
        settings.extend(["hub.tier.seal_bytes=1073741824".to_owned(), "hub.tier.seal_age_ms=86400000".to_owned()]);
    }
    let mut command = Command::new(program);
    command.args(["broker", "--data-dir"]).arg(home.join("data")).arg("--ready-file").arg(&ready);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut process = Process::start(&mut command, &home.join("log"))?;
    let text = wait_until(&mut process, &home.join("log"), async || Ok(std::fs::read_to_string(&ready)?)).await?;
    let addresses: serde_json::Value = serde_json::from_str(&text)?;
    let address = addresses["client"].as_str().context("the ready file names no client address")?;
    Ok((process, format!("http://{address}")))
}

/// Kafka's settings: one process that is broker and controller, nothing replicated, files of deleted topics gone soon. All else as it comes.
fn kafka_settings(home: &Path, broker: u16, controller: u16, (network, io): (u32, u32)) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nfile.delete.delay.ms=1000\nnum.network.threads={network}\nnum.io.threads={io}\n",
        home.join("data").display()
    )
}

async fn start_kafka(programs: &Programs, home: &Path) -> Result<(Process, String)> {
    let libs =
        programs.kafka_libs.as_ref().context("--kafka-libs names the folder of its jars (tests/tools/kafka.sh prints it)")?;
    let classes = format!("{}/*", libs.display());
    std::fs::create_dir_all(home)?;
    let (broker, controller) = (free_port()?, free_port()?);
    let properties = home.join("server.properties");
    std::fs::write(&properties, kafka_settings(home, broker, controller, programs.kafka_threads))?;
    let format = Command::new("java")
        .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
        .arg(&properties)
        .output()
        .context("java")?;
    ensure!(format.status.success(), "formatting: {}", String::from_utf8_lossy(&format.stderr));
    // The flags of Kafka's own start script.
    let flags =
        ["-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"];
    let more = ["-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-cp", &classes, "kafka.Kafka"];
    let mut command = Command::new("java");
    command.args(flags).args(more).arg(&properties);
    let mut process = Process::start(&mut command, &home.join("log"))?;
    let address = format!("127.0.0.1:{broker}");
    let kafka = Kafka { address: address.clone(), topic_settings: Vec::new() };
    wait_until(&mut process, &home.join("log"), async || kafka.is_up().await).await?;
    Ok((process, address))
}

/// Waits until the broker is up.
async fn wait_until<T>(process: &mut Process, log: &Path, mut up: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match up().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => bail!("not up within {PATIENCE:?}: {error:#}; see {}", log.display()),
            Err(_) => {}
        }
        process.check().with_context(|| format!("see {}", log.display()))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
