//! A real MinIO as a child process, with one bucket, `events`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::hub::HubSetup;

const USER: &str = "tidegate";
const PASSWORD: &str = "tidegate-secret";

/// MinIO's binary where `deploy/setup.sh tests` puts it.
fn binary() -> PathBuf {
    let tools = std::env::var_os("TIDEGATE_TOOLS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tidegate/tools");
    tools.unwrap_or_else(home).join("bin/minio")
}

/// Whether MinIO can be run; if not, prints that the campaign is not, and what to do.
pub fn is_there(campaign: &str) -> bool {
    let binary = binary();
    if !binary.is_file() {
        println!("{campaign}: NOT RUN: {} is missing: run `bash deploy/setup.sh tests`", binary.display());
    }
    binary.is_file()
}

/// A MinIO that runs. Dropping it kills it.
#[derive(Debug)]
pub struct MinIo {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl MinIo {
    /// Starts one on a folder.
    ///
    /// # Errors
    /// If it does not listen within half a minute.
    pub async fn start(folder: &Path) -> Result<MinIo> {
        std::fs::create_dir_all(folder.join("events"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], tidegate_ports::free()?));
        let log = std::fs::File::create(folder.with_extension("log"))?;
        let mut command = Command::new(binary());
        command.args(["server", "--quiet", "--address", &address.to_string(), "--console-address"]);
        command.arg(format!("127.0.0.1:{}", tidegate_ports::free()?)).arg(folder);
        command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD).env("MINIO_BROWSER", "off");
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("MinIO")?;
        let minio = MinIo { address, child };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(30), "MinIO does not listen on {address}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(minio)
    }
}

impl Drop for MinIo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a hub tier to the bucket at `endpoint`.
pub fn tier_to(setup: &mut HubSetup, endpoint: SocketAddr) {
    setup.settings.retain(|setting| !setting.starts_with("object_store."));
    setup.set("object_store.s3.bucket", "events");
    setup.set("object_store.s3.endpoint", format!("http://{endpoint}"));
    setup.set("object_store.s3.region", "us-east-1");
    setup.set("object_store.s3.path_style", true);
    setup.environment =
        vec![("AWS_ACCESS_KEY_ID".to_owned(), USER.to_owned()), ("AWS_SECRET_ACCESS_KEY".to_owned(), PASSWORD.to_owned())];
}
