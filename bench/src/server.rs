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

/// A broker under measurement, or several that are one hub or cluster.
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    /// Its processes, in the order of the brokers' numbers.
    pub(crate) process_ids: Vec<u32>,
    pub(crate) driver: Box<dyn Driver>,
    // Kafka's two kinds share them.
    processes: Arc<Vec<Process>>,
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
    /// Brokers of each hub or cluster; with several, everything has as many replicas.
    pub(crate) nodes: u16,
}

/// Starts all brokers in folders below `folder`.
pub(crate) async fn start(kinds: &[Kind], programs: &Programs, folder: &Path) -> Result<Vec<Broker>> {
    let mut brokers = Vec::new();
    let mut kafka: Option<(Arc<Vec<Process>>, Vec<String>)> = None;
    for kind in kinds.iter().copied() {
        let home = folder.join(format!("{kind:?}"));
        if kind.is_kafka() {
            if kafka.is_none() {
                let (processes, addresses) = start_kafka(programs, &home).await.context("Kafka")?;
                kafka = Some((Arc::new(processes), addresses));
            }
            let (processes, addresses) = kafka.clone().context("it was just started")?;
            let mut topic_settings = Vec::new();
            if kind == Kind::KafkaFsync {
                topic_settings.push(("flush.messages", "1"));
            }
            if programs.nodes > 1 {
                topic_settings.push(("min.insync.replicas", "2"));
            }
            brokers.push(broker(kind, processes, Box::new(Kafka::new(addresses, topic_settings))));
        } else {
            let (processes, addresses) = start_tidegate(kind, programs, &home).await.context("Tidegate")?;
            let driver = Tidegate::connect(&addresses).await?;
            driver.spread().await.context("Tidegate")?;
            brokers.push(broker(kind, Arc::new(processes), Box::new(driver)));
        }
    }
    Ok(brokers)
}

fn broker(kind: Kind, processes: Arc<Vec<Process>>, driver: Box<dyn Driver>) -> Broker {
    Broker { kind, process_ids: processes.iter().map(Process::id).collect(), driver, processes }
}

impl Broker {
    /// Starts a broker again that was killed, and waits until it serves.
    pub(crate) async fn restart(&mut self, node: usize) -> Result<()> {
        let processes =
            Arc::get_mut(&mut self.processes).context("two kinds share these processes: measure one of them alone")?;
        let process = processes.get_mut(node).context("no such broker")?;
        process.restart()?;
        self.process_ids[node] = process.id();
        let driver = self.driver.as_ref();
        wait_until(process, Path::new("the log of the broker"), async || driver.is_up(node).await).await
    }
}

/// Stops them all.
pub(crate) fn stop(brokers: Vec<Broker>) -> Result<()> {
    for Broker { processes, .. } in brokers {
        // The last of those that share processes stops them.
        for process in Arc::into_inner(processes).into_iter().flatten() {
            process.stop()?;
        }
    }
    Ok(())
}

async fn start_tidegate(kind: Kind, programs: &Programs, home: &Path) -> Result<(Vec<Process>, Vec<String>)> {
    let program = if kind == Kind::TidegateAgain { &programs.tidegate_again } else { &programs.tidegate };
    ensure!(program.is_file(), "{} is missing: cargo build --release -p tidegate", program.display());
    let peers: Vec<u16> = (0..programs.nodes).map(|_| free_port()).collect::<Result<_>>()?;
    let (mut processes, mut addresses) = (Vec::new(), Vec::new());
    for node in 1..=programs.nodes {
        // Fixed, so that a broker that is started again is found where it was.
        let mut settings = tidegate_settings(kind, home, free_port()?);
        if programs.nodes > 1 {
            settings.push(format!("hub.broker_id={node}"));
            settings.push(format!("listeners.peer=127.0.0.1:{}", peers[usize::from(node) - 1]));
            // As many leaders on each broker as on the others.
            settings.push(format!("hub.journals={}", 2 * programs.nodes));
        }
        if node > 1 {
            settings.push(format!("hub.fleet.join=[\"127.0.0.1:{}\"]", peers[0]));
        }
        let (process, address) = start_node(program, &home.join(node.to_string()), &settings).await?;
        processes.push(process);
        addresses.push(address);
    }
    Ok((processes, addresses))
}

fn tidegate_settings(kind: Kind, home: &Path, port: u16) -> Vec<String> {
    let mut settings = vec![
        format!("object_store.directory.path={}", home.join("objects").display()),
        format!("listeners.client=127.0.0.1:{port}"),
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
    settings
}

async fn start_node(program: &Path, home: &Path, settings: &[String]) -> Result<(Process, String)> {
    std::fs::create_dir_all(home)?;
    let ready = home.join("ready.json");
    let mut command = Command::new(program);
    command.args(["broker", "--data-dir"]).arg(home.join("data")).arg("--ready-file").arg(&ready);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut process = Process::start(command, &home.join("log"))?;
    let text = wait_until(&mut process, &home.join("log"), async || Ok(std::fs::read_to_string(&ready)?)).await?;
    let addresses: serde_json::Value = serde_json::from_str(&text)?;
    let address = addresses["client"].as_str().context("the ready file names no client address")?;
    Ok((process, format!("http://{address}")))
}

/// Kafka's settings: each process is broker and controller, files of deleted topics go soon. All else as it comes.
fn kafka_settings(home: &Path, node: usize, ports: &[(u16, u16)], (network, io): (u32, u32)) -> String {
    let (broker, controller) = ports[node];
    let voters: Vec<String> = (1..).zip(ports).map(|(number, (_, port))| format!("{number}@127.0.0.1:{port}")).collect();
    let (number, voters, copies) = (node + 1, voters.join(","), ports.len());
    format!(
        "process.roles=broker,controller\nnode.id={number}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n\
         offsets.topic.replication.factor={copies}\ntransaction.state.log.replication.factor={copies}\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nfile.delete.delay.ms=1000\nnum.network.threads={network}\nnum.io.threads={io}\n",
        home.join("data").display()
    )
}

async fn start_kafka(programs: &Programs, home: &Path) -> Result<(Vec<Process>, Vec<String>)> {
    let libs =
        programs.kafka_libs.as_ref().context("--kafka-libs names the folder of its jars (tests/tools/kafka.sh prints it)")?;
    let classes = format!("{}/*", libs.display());
    let ports: Vec<(u16, u16)> = (0..programs.nodes).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_>>()?;
    let mut processes = Vec::new();
    for node in 0..ports.len() {
        let home = home.join((node + 1).to_string());
        std::fs::create_dir_all(&home)?;
        let settings = kafka_settings(&home, node, &ports, programs.kafka_threads);
        processes.push(start_kafka_node(&classes, &home, &settings)?);
    }
    let addresses: Vec<String> = ports.iter().map(|(broker, _)| format!("127.0.0.1:{broker}")).collect();
    let kafka = Kafka::new(addresses.clone(), Vec::new());
    let log = home.join("1").join("log");
    for (node, process) in processes.iter_mut().enumerate() {
        wait_until(process, &log, async || kafka.is_up(node).await).await?;
    }
    Ok((processes, addresses))
}

fn start_kafka_node(classes: &str, home: &Path, settings: &str) -> Result<Process> {
    let properties = home.join("server.properties");
    std::fs::write(&properties, settings)?;
    let format = Command::new("java")
        .args(["-cp", classes, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
        .arg(&properties)
        .output()
        .context("java")?;
    ensure!(format.status.success(), "formatting: {}", String::from_utf8_lossy(&format.stderr));
    // The flags of Kafka's own start script.
    let flags =
        ["-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"];
    let more = ["-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-cp", classes, "kafka.Kafka"];
    let mut command = Command::new("java");
    command.args(flags).args(more).arg(&properties);
    Process::start(command, &home.join("log"))
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
