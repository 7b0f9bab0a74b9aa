//! What end-to-end tests share: a hub as a real process, a real MinIO, the real events, each ended by its process id.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Everything here happens within seconds; a minute means that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` gives something, looking again every 20 ms.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The folder of test tools (MinIO, grpcurl, a Python environment); `deploy/setup.sh tests` fills it.
pub fn tools() -> PathBuf {
    match std::env::var_os("TIDEGATE_TOOLS") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tidegate/tools"),
    }
}

/// A test tool's path; panics with what to do if it is missing.
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join("bin").join(name);
    assert!(path.is_file(), "{} is missing: run `bash deploy/setup.sh tests`", path.display());
    path
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The folder with the real events, or `None` (said aloud) where it is absent.
pub fn test_data() -> Option<PathBuf> {
    let path = std::env::var_os("TIDEGATE_TEST_DATA").map_or_else(|| repository().join("../shared/data"), PathBuf::from);
    if path.join("tweets_groundtruth.tsv").is_file() {
        return Some(path);
    }
    eprintln!("NOT RUN: the real events are not at {}; TIDEGATE_TEST_DATA names their folder", path.display());
    None
}

/// A process that is killed when it is dropped.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Process { child, name: name.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end; the exit status must be 0.
    pub fn terminate(&mut self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        let status = wait_for("the end after SIGTERM", || self.child.try_wait().unwrap());
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    pub fn try_wait(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that stays free until a server of this test takes it.
pub fn free_port() -> u16 {
    tidegate_ports::free().unwrap()
}

/// A real MinIO with one bucket, `events`.
pub struct MinIo {
    pub endpoint: String,
    process: Process,
}

pub const MINIO_USER: &str = "tidegate";
pub const MINIO_PASSWORD: &str = "tidegate-secret";

impl MinIo {
    pub fn start(folder: &Path) -> MinIo {
        std::fs::create_dir_all(folder.join("events")).unwrap();
        let (port, console) = (free_port(), free_port());
        let log = std::fs::File::create(folder.with_extension("log")).unwrap();
        let mut command = Command::new(tool("minio"));
        command
            .args([
                "server",
                "--quiet",
                "--address",
                &format!("127.0.0.1:{port}"),
                "--console-address",
                &format!("127.0.0.1:{console}"),
            ])
            .arg(folder)
            .env("MINIO_ROOT_USER", MINIO_USER)
            .env("MINIO_ROOT_PASSWORD", MINIO_PASSWORD)
            .env("MINIO_BROWSER", "off")
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let process = Process::start("minio", &mut command);
        wait_for("MinIO's port", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        MinIo { endpoint: format!("http://127.0.0.1:{port}"), process }
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }
}

/// A hub as its own process, on free ports.
pub struct Hub {
    pub process: Process,
    pub client: String,
    pub operator: String,
    pub http: String,
    pub log: PathBuf,
}

/// How a hub is started.
#[derive(Clone, Default)]
pub struct HubOptions {
    pub settings: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

impl HubOptions {
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> HubOptions {
        self.settings.push(format!("{name}={value}"));
        self
    }

    pub fn with_minio(mut self, minio: &MinIo) -> HubOptions {
        self.environment.insert("AWS_ACCESS_KEY_ID".into(), MINIO_USER.into());
        self.environment.insert("AWS_SECRET_ACCESS_KEY".into(), MINIO_PASSWORD.into());
        self.set("object_store.s3.bucket", "events")
            .set("object_store.s3.endpoint", &minio.endpoint)
            .set("object_store.s3.region", "us-east-1")
            .set("object_store.s3.path_style", true)
    }
}

impl Hub {
    /// Starts a hub on `folder/data` and waits until it serves.
    pub fn start(folder: &Path, options: &HubOptions) -> Hub {
        let ready = folder.join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let log = folder.join("hub.log");
        let sink = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("dev").arg("--data-dir").arg(folder.join("data")).arg("--ready-file").arg(&ready);
        for listener in ["client", "operator", "http"] {
            command.args(["--set", &format!("listeners.{listener}=127.0.0.1:0")]);
        }
        for setting in &options.settings {
            command.args(["--set", setting]);
        }
        command.envs(&options.environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(sink);
        let mut process = Process::start("tidegate dev", &mut command);
        let ready: Value = wait_for("the hub's ready file", || {
            if let Some(status) = process.try_wait() {
                panic!("the hub ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            serde_json::from_slice(&std::fs::read(&ready).ok()?).ok()
        });
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        Hub { process, client: address("client"), operator: address("operator"), http: address("http"), log }
    }

    /// Restarts the hub in order until the log has let go of everything that is in the object store: that takes two checkpoints, and each
    /// orderly end writes one.
    pub fn drop_local_copies(mut self, folder: &Path, options: &HubOptions, topics: &[&str]) -> Hub {
        for _ in 0..3 {
            self.process.terminate();
            self = Hub::start(folder, options);
        }
        for topic in topics {
            assert_eq!(self.total(topic, "localBytes"), 0, "{topic} is still in the local log");
        }
        self
    }

    /// A `tidegate` command against this hub.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).env("TIDEGATE_ADDRESS", format!("http://{}", self.client)).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        String::from_utf8(succeed(&mut self.command(arguments)).stdout).unwrap()
    }

    /// Runs a command with `-o json` that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&all)).unwrap()
    }

    /// The sum of a number over a topic's partitions, as `topic describe` shows it.
    pub fn total(&self, topic: &str, field: &str) -> i64 {
        let described = self.json(&["topic", "describe", topic]);
        described["partitions"].as_array().unwrap().iter().map(|partition| partition[field].as_i64().unwrap()).sum()
    }

    /// Waits until all of a topic is in the object store.
    pub fn wait_until_tiered(&self, topic: &str) {
        wait_for(&format!("{topic} in the object store"), || {
            (self.total(topic, "tieredEndOffset") == self.total(topic, "highWatermark")).then_some(())
        });
    }
}

/// Runs a command that must succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// One event as `consume --format json` prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumed {
    pub partition: i64,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<String>,
    pub value: String,
}

/// Reads a whole topic.
pub fn consume_all(hub: &Hub, topic: &str) -> Vec<Consumed> {
    let text = hub.run(&["consume", topic, "--format", "json"]);
    text.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            Consumed {
                partition: event["partition"].as_i64().unwrap(),
                offset: event["offset"].as_i64().unwrap(),
                timestamp_ms: event["timestampMs"].as_i64().unwrap(),
                key: event["key"].as_str().map(str::to_owned),
                value: event["value"].as_str().unwrap().to_owned(),
            }
        })
        .collect()
}

/// The body of a plain HTTP answer.
pub fn http_get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
