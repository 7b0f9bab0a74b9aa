//! A hub as a child process: the unmodified binary, started again and again on the same ports and the same directory.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tidegate_client::Client;

/// A hub on a small disk starts within a second; under strace and on a busy machine it takes longer. A start that takes longer than this hangs.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// How long anything else may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// How a hub is started.
#[derive(Clone, Debug)]
pub struct HubSetup {
    /// The binary `tidegate`.
    pub binary: PathBuf,
    /// Log and ready file; not on the disk that is under attack.
    pub folder: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// `NAME=VALUE` for `--set`.
    pub settings: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    ports: [u16; 3],
}

impl HubSetup {
    /// A hub with its data and its object store below `disk`, and small files and quick sealing, so that a short run passes through recycling,
    /// checkpoints, uploads and releases many times.
    ///
    /// # Errors
    /// If there is no such binary, or no ports are free.
    pub fn new(binary: &Path, folder: &Path, disk: &Path) -> Result<HubSetup> {
        ensure!(binary.is_file(), "{} is missing: build it (cargo build -p tidegate) or name it by --tidegate", binary.display());
        let settings = [
            "hub.wal.file_bytes=3145728",
            "hub.wal.budget_bytes=268435456",
            "hub.wal.control_reserve_bytes=4194304",
            "hub.tier.seal_bytes=65536",
            "hub.tier.seal_age_ms=300",
            "hub.tier.interval_ms=50",
            "hub.tier.cache_disk_bytes=16777216",
            "hub.journal.checkpoint_bytes=1048576",
            "shutdown_deadline_ms=10000",
        ];
        let mut settings: Vec<String> = settings.map(str::to_owned).into();
        settings.push(format!("object_store.directory.path={}", disk.join("store").display()));
        Ok(HubSetup {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            data_dir: disk.join("data"),
            settings,
            environment: Vec::new(),
            ports: [tidegate_ports::free()?, tidegate_ports::free()?, tidegate_ports::free()?],
        })
    }

    /// Lets clients find it at a port that was free.
    pub fn serve_clients_at(&mut self, port: u16) {
        self.ports[0] = port;
    }

    /// Where the operator's calls go.
    pub fn operator_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    /// Adds a setting; the last one of a name counts.
    pub fn set(&mut self, name: &str, value: impl std::fmt::Display) {
        self.settings.retain(|setting| !setting.starts_with(&format!("{name}=")));
        self.settings.push(format!("{name}={value}"));
    }

    /// Where clients find it.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Where its log is; each start goes on with it.
    pub fn log(&self) -> PathBuf {
        self.folder.join("hub.log")
    }

    /// The end of the log, for a report.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("ready.json")
    }

    /// Starts it, under `wrapper` if that is not empty, and does not wait.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, wrapper: &[String]) -> Result<Hub> {
        let _ = std::fs::remove_file(self.ready_file());
        let log = OpenOptions::new().create(true).append(true).open(self.log()).context("the hub's log")?;
        let program = wrapper.first().map_or_else(|| self.binary.as_os_str(), |program| program.as_ref());
        let mut command = Command::new(program);
        if !wrapper.is_empty() {
            command.args(&wrapper[1..]).arg(&self.binary);
        }
        command.arg("broker").arg("--data-dir").arg(&self.data_dir).arg("--ready-file").arg(self.ready_file());
        for (listener, port) in ["client", "operator", "http"].iter().zip(self.ports) {
            command.args(["--set", &format!("listeners.{listener}=127.0.0.1:{port}")]);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A group of its own, so that a wrapper and what it runs end together.
        let child = command.process_group(0).spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Hub { child, ready_file: self.ready_file(), log: self.log(), http: self.ports[2], process: None })
    }

    /// Starts it and waits until it serves; says how long that took.
    ///
    /// # Errors
    /// If it ends instead, or takes longer than [`START_LIMIT`].
    pub async fn start(&self, wrapper: &[String]) -> Result<(Hub, Duration)> {
        let begin = Instant::now();
        let mut hub = self.spawn(wrapper)?;
        hub.serves().await.with_context(|| format!("the end of {}:\n{}", self.log().display(), self.log_tail()))?;
        Ok((hub, begin.elapsed()))
    }

    /// A client of it.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.address()).await?)
    }
}

/// A hub that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    ready_file: PathBuf,
    log: PathBuf,
    http: u16,
    /// The hub's own process, once it has said so; a wrapper's is another.
    process: Option<Pid>,
}

impl Hub {
    /// Waits until it serves.
    ///
    /// # Errors
    /// If it ends instead, or takes longer than [`START_LIMIT`].
    pub async fn serves(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(&self.ready_file) {
                let ready: Value = serde_json::from_slice(&text).context("the ready file")?;
                self.process = ready["processId"].as_i64().and_then(|id| Pid::from_raw(id as i32));
                ensure!(self.process.is_some(), "the ready file names no process");
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the hub ended with {status} instead of serving");
            }
            ensure!(begin.elapsed() < START_LIMIT, "the hub does not serve {START_LIMIT:?} after its start");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// kill -9 to it and its wrapper, and waits until both are gone.
    pub fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(process) = self.process.take() {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Sends a signal to the hub.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.context("the hub has not served yet")?;
        kill_process(process, signal).context("the hub is gone")
    }

    /// SIGTERM, and waits for its orderly end.
    ///
    /// # Errors
    /// If it ends with another status than 0, or not within [`PATIENCE`].
    pub async fn terminate(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.ends(PATIENCE).await?;
        ensure!(status.success(), "the hub ended with {status} after SIGTERM; {}", self.log.display());
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it has not ended within `limit`.
    pub async fn ends(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.has_ended()? {
                self.process = None;
                return Ok(status);
            }
            ensure!(begin.elapsed() < limit, "the hub has not ended within {limit:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The process that was started: the hub's, unless there is a wrapper.
    pub fn child_id(&self) -> i32 {
        self.child.id() as i32
    }

    /// The process that serves.
    pub fn process_id(&self) -> Option<i32> {
        self.process.map(Pid::as_raw_pid)
    }

    /// Its metrics: name and labels → number.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn metrics(&self) -> Result<std::collections::BTreeMap<String, f64>> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
            .collect())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes a file that is as long as the room allows.
///
/// # Errors
/// Anything but a full disk.
pub fn fill(path: &Path) -> Result<u64> {
    use std::io::Write;
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    let mut bytes = 0;
    for chunk in [1 << 20, 64 << 10, 4 << 10] {
        let chunk = vec![0x55; chunk];
        loop {
            match file.write(&chunk) {
                Ok(written) => bytes += written as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}
