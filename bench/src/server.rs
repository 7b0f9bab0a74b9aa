//! Brokers as real processes, each with a fresh folder: Tidegate as it comes, Kafka as its operators run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::driver::Driver;
use crate::kafka::Kafka;
use crate::nats::Nats;
use crate::process::Process;
use crate::tidegate::{Addresses, Tidegate};

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
    /// NATS JetStream as it comes: acknowledged from the page cache, synced each two minutes.
    Nats,
    /// NATS JetStream with `sync_interval: always`: fsync before each acknowledgement.
    NatsFsync,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Tidegate => "Tidegate",
            Kind::TidegateAgain => "Tidegate again",
            Kind::TidegateLocal => "Tidegate, no tiering",
            Kind::Kafka => "Kafka, no fsync",
            Kind::KafkaFsync => "Kafka, fsync",
            Kind::Nats => "NATS, sync each 2 min",
            Kind::NatsFsync => "NATS, sync always",
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
    home: PathBuf,
    ports: Vec<Ports>,
}

/// Where a process listens for clients, and for the others of its kind.
type Ports = (u16, u16);

/// Where programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The command `tidegate`.
    pub(crate) tidegate: PathBuf,
    /// The same, for [`Kind::TidegateAgain`].
    pub(crate) tidegate_again: PathBuf,
    /// The folder of Kafka's jars.
    pub(crate) kafka_libs: Option<PathBuf>,
    /// The program `nats-server`.
    pub(crate) nats_server: Option<PathBuf>,
    /// Kafka's `num.network.threads` and `num.io.threads`.
    pub(crate) kafka_threads: (u32, u32),
    /// Brokers of each hub or cluster.
    pub(crate) nodes: u16,
    /// Journals of a hub of several brokers.
    pub(crate) journals: u32,
    /// More settings of Tidegate.
    pub(crate) settings: Vec<String>,
    /// More lines of Kafka's settings.
    pub(crate) kafka_settings: &'static str,
}

impl Programs {
    /// Replicas of everything.
    pub(crate) fn replicas(&self) -> u16 {
        self.nodes.min(3)
    }
}

/// Starts all brokers in folders below `folder`.
pub(crate) async fn start(kinds: &[Kind], programs: &Programs, folder: &Path) -> Result<Vec<Broker>> {
    let mut brokers = Vec::new();
    let mut kafka: Option<Started> = None;
    for kind in kinds.iter().copied() {
        let home = folder.join(format!("{kind:?}"));
        let (started, driver): (Started, Box<dyn Driver>) = if kind.is_kafka() {
            if kafka.is_none() {
                kafka = Some(start_kafka(programs, &home).await.context("Kafka")?);
            }
            let started = kafka.clone().context("it was just started")?;
            let mut topic_settings = Vec::new();
            if kind == Kind::KafkaFsync {
                topic_settings.push(("flush.messages", "1"));
            }
            if programs.nodes > 1 {
                topic_settings.push(("min.insync.replicas", "2"));
            }
            let driver = Kafka::new(started.client_addresses(), programs.replicas(), topic_settings);
            (started, Box::new(driver))
        } else if matches!(kind, Kind::Nats | Kind::NatsFsync) {
            let started = start_nats(kind, programs, &home).await.context("NATS")?;
            let driver = Nats::new(started.client_addresses(), programs.replicas(), programs.journals);
            (started, Box::new(driver))
        } else {
            let (started, addresses) = start_tidegate(kind, programs, &home).await.context("Tidegate")?;
            let driver = Tidegate::connect(&addresses, programs.replicas()).await?;
            driver.spread().await.context("Tidegate")?;
            (started, Box::new(driver))
        };
        let Started { processes, home, ports } = started;
        let process_ids = processes.iter().map(Process::id).collect();
        brokers.push(Broker { kind, process_ids, driver, processes, home, ports });
    }
    Ok(brokers)
}

/// Processes that serve.
#[derive(Clone)]
struct Started {
    processes: Arc<Vec<Process>>,
    home: PathBuf,
    ports: Vec<Ports>,
}

impl Started {
    fn client_addresses(&self) -> Vec<String> {
        self.ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect()
    }
}

fn free_ports(nodes: u16) -> Result<Vec<Ports>> {
    (0..nodes).map(|_| Ok((tidegate_ports::free()?, tidegate_ports::free()?))).collect()
}

impl Broker {
    /// Starts one more broker, and waits until it serves. Its folder.
    pub(crate) async fn add(&mut self, programs: &Programs) -> Result<PathBuf> {
        let node = self.ports.len();
        self.ports.push((tidegate_ports::free()?, tidegate_ports::free()?));
        let home = self.home.join((node + 1).to_string());
        let process = if self.kind.is_kafka() {
            let libs = programs.kafka_libs.as_ref().context("--kafka-libs")?;
            std::fs::create_dir_all(&home)?;
            let settings = kafka_settings(&home, node, &self.ports, usize::from(programs.nodes), programs);
            let mut process = start_kafka_node(&format!("{}/*", libs.display()), &home, &settings)?;
            let newcomer = Kafka::new(vec![format!("127.0.0.1:{}", self.ports[node].0)], 1, Vec::new());
            wait_until(&mut process, &home.join("log"), async || newcomer.is_up(0).await).await?;
            process
        } else {
            let settings = tidegate_settings(self.kind, &self.home, programs, &self.ports, node)?;
            start_node(&programs.tidegate, &home, &settings).await?.0
        };
        self.process_ids.push(process.id());
        Arc::get_mut(&mut self.processes).context("two kinds share these processes: measure one of them alone")?.push(process);
        Ok(home)
    }

    /// Starts a broker again that was killed, and waits until it serves.
    pub(crate) async fn restart(&mut self, node: usize) -> Result<()> {
        let processes =
            Arc::get_mut(&mut self.processes).context("two kinds share these processes: measure one of them alone")?;
        let process = processes.get_mut(node).context("no such broker")?;
        process.ended().await?;
        process.restart()?;
        self.process_ids[node] = process.id();
        let driver = self.driver.as_ref();
        wait_until(process, Path::new("the log of the broker"), async || driver.is_up(node).await).await
    }
}

async fn start_tidegate(kind: Kind, programs: &Programs, home: &Path) -> Result<(Started, Vec<Addresses>)> {
    let program = if kind == Kind::TidegateAgain { &programs.tidegate_again } else { &programs.tidegate };
    ensure!(program.is_file(), "{} is missing: cargo build --release -p tidegate", program.display());
    let ports = free_ports(programs.nodes)?;
    let (mut processes, mut addresses) = (Vec::new(), Vec::new());
    for node in 0..ports.len() {
        let settings = tidegate_settings(kind, home, programs, &ports, node)?;
        let (process, address) = start_node(program, &home.join((node + 1).to_string()), &settings).await?;
        processes.push(process);
        addresses.push(address);
    }
    Ok((Started { processes: Arc::new(processes), home: home.to_owned(), ports }, addresses))
}

/// Ports are fixed, so that a broker that is started again is found where it was.
fn tidegate_settings(kind: Kind, home: &Path, programs: &Programs, ports: &[Ports], node: usize) -> Result<Vec<String>> {
    let (client, peer) = ports[node];
    let mut settings = vec![
        format!("object_store.directory.path={}", home.join("objects").display()),
        format!("listeners.client=127.0.0.1:{client}"),
        format!("listeners.operator=127.0.0.1:{}", tidegate_ports::free()?),
        "listeners.http=127.0.0.1:0".to_owned(),
        // Room for a topic of 10,000 partitions beside those that were just deleted.
        "hub.max_partitions=50000".to_owned(),
    ];
    if kind == Kind::TidegateLocal {
        // A log that is three quarters full would have its data moved all the same: this one holds some rounds.
        let stay = ["hub.tier.seal_bytes=1073741824", "hub.tier.seal_age_ms=86400000", "hub.wal.budget_bytes=8589934592"];
        settings.extend(stay.map(str::to_owned));
    }
    if ports.len() > 1 {
        settings.push(format!("hub.broker_id={}", node + 1));
        settings.push(format!("listeners.peer=127.0.0.1:{peer}"));
        settings.push(format!("hub.journals={}", programs.journals));
    }
    if node > 0 {
        settings.push(format!("hub.fleet.join=[\"127.0.0.1:{}\"]", ports[0].1));
    }
    settings.extend(programs.settings.iter().cloned());
    Ok(settings)
}

async fn start_node(program: &Path, home: &Path, settings: &[String]) -> Result<(Process, Addresses)> {
    std::fs::create_dir_all(home)?;
    let ready = home.join("ready.json");
    let mut command = Command::new(program);
    command.args(["broker", "--data-dir"]).arg(home.join("data")).arg("--ready-file").arg(&ready);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut process = Process::start(command, &home.join("log"))?;
    let text = wait_until(&mut process, &home.join("log"), async || Ok(std::fs::read_to_string(&ready)?)).await?;
    let addresses: serde_json::Value = serde_json::from_str(&text)?;
    let address = |listener: &str| {
        let address = addresses[listener].as_str().with_context(|| format!("the ready file names no {listener} address"))?;
        anyhow::Ok(format!("http://{address}"))
    };
    Ok((process, Addresses { client: address("client")?, operator: address("operator")? }))
}

/// Kafka's settings: each process is a broker, the first `voters` are controllers, files of deleted topics go soon. All else as it comes.
fn kafka_settings(home: &Path, node: usize, ports: &[Ports], voters: usize, programs: &Programs) -> String {
    let ((broker, controller), (network, io), more) = (ports[node], programs.kafka_threads, programs.kafka_settings);
    let (number, copies) = (node + 1, voters.min(3));
    let (roles, listener) = if node < voters {
        ("broker,controller", format!(",CONTROLLER://127.0.0.1:{controller}"))
    } else {
        ("broker", String::new())
    };
    let quorum = (1..).zip(&ports[..voters]).map(|(number, (_, port))| format!("{number}@127.0.0.1:{port}"));
    let quorum = quorum.collect::<Vec<_>>().join(",");
    format!(
        "process.roles={roles}\nnode.id={number}\ncontroller.quorum.voters={quorum}\n\
         listeners=PLAINTEXT://127.0.0.1:{broker}{listener}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n\
         offsets.topic.replication.factor={copies}\ntransaction.state.log.replication.factor={copies}\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nfile.delete.delay.ms=1000\nnum.network.threads={network}\nnum.io.threads={io}\n{more}",
        home.join("data").display()
    )
}

async fn start_kafka(programs: &Programs, home: &Path) -> Result<Started> {
    let libs =
        programs.kafka_libs.as_ref().context("--kafka-libs names the folder of its jars (tests/tools/kafka.sh prints it)")?;
    let classes = format!("{}/*", libs.display());
    let ports = free_ports(programs.nodes)?;
    let mut processes = Vec::new();
    for node in 0..ports.len() {
        let home = home.join((node + 1).to_string());
        std::fs::create_dir_all(&home)?;
        let settings = kafka_settings(&home, node, &ports, ports.len(), programs);
        processes.push(start_kafka_node(&classes, &home, &settings)?);
    }
    let mut started = Started { processes: Arc::default(), home: home.to_owned(), ports };
    let kafka = Kafka::new(started.client_addresses(), programs.replicas(), Vec::new());
    for (node, process) in processes.iter_mut().enumerate() {
        wait_until(process, &home.join("1").join("log"), async || kafka.is_up(node).await).await?;
    }
    started.processes = Arc::new(processes);
    Ok(started)
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

/// NATS' settings: a cluster if there are several, JetStream in files, all else as it comes.
fn nats_settings(kind: Kind, home: &Path, node: usize, ports: &[Ports]) -> String {
    let (client, peer) = ports[node];
    let sync = if kind == Kind::NatsFsync { "always" } else { "2m" };
    let store = home.join("data");
    let mut settings = format!(
        "server_name: n{}\nlisten: \"127.0.0.1:{client}\"\njetstream {{ store_dir: \"{}\", sync_interval: {sync}, max_file_store: 100GB }}\n",
        node + 1,
        store.display()
    );
    if ports.len() > 1 {
        let routes: Vec<String> = ports.iter().map(|(_, peer)| format!("\"nats-route://127.0.0.1:{peer}\"")).collect();
        settings.push_str(&format!("cluster {{ name: bench, listen: \"127.0.0.1:{peer}\", routes: [{}] }}\n", routes.join(", ")));
    }
    settings
}

async fn start_nats(kind: Kind, programs: &Programs, home: &Path) -> Result<Started> {
    let program = programs.nats_server.as_ref().context("--nats-server names the program (tests/tools/nats.sh prints it)")?;
    let ports = free_ports(programs.nodes)?;
    let mut processes = Vec::new();
    for node in 0..ports.len() {
        let home = home.join((node + 1).to_string());
        std::fs::create_dir_all(&home)?;
        let settings = home.join("nats.conf");
        std::fs::write(&settings, nats_settings(kind, &home, node, &ports))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&settings);
        processes.push(Process::start(command, &home.join("log"))?);
    }
    let mut started = Started { processes: Arc::default(), home: home.to_owned(), ports };
    let nats = Nats::new(started.client_addresses(), programs.replicas(), programs.journals);
    for (node, process) in processes.iter_mut().enumerate() {
        wait_until(process, &home.join("1").join("log"), async || nats.is_up(node).await).await?;
    }
    started.processes = Arc::new(processes);
    Ok(started)
}

/// Waits until the broker is up.
async fn wait_until<T>(process: &mut Process, log: &Path, mut up: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        // Before it serves, a broker may take a question and never answer it.
        let answer = tokio::time::timeout(Duration::from_secs(2), up()).await.context("no answer");
        match answer.flatten() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => bail!("not up within {PATIENCE:?}: {error:#}; see {}", log.display()),
            Err(_) => {}
        }
        process.check().with_context(|| format!("see {}", log.display()))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
