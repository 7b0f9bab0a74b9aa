//! The conformance suite on a real directory, a real MinIO and a real versitygw.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, unreachable_pub, reason = "tests start real servers")]

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_env::Env;
use tidegate_tier::{DirectoryStore, ObjectStore, PutMode, S3Settings, S3Store, StoreError, conformance};

const USER: &str = "tidegate";
const PASSWORD: &str = "tidegate-secret";

/// A server that is killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("TIDEGATE_TOOLS").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tidegate/tools"));
    let path = tools.join("bin").join(name);
    assert!(path.is_file(), "{} is missing: run `bash deploy/setup.sh tests`", path.display());
    path
}

fn free_port() -> u16 {
    tidegate_ports::free().unwrap()
}

fn start(command: &mut Command, port: u16) -> Server {
    let server = Server(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server does not listen on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

fn minio(folder: &Path, port: u16) -> Server {
    std::fs::create_dir_all(folder.join("events")).unwrap();
    let mut command = Command::new(tool("minio"));
    command.args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")]).arg(folder);
    command.args(["--console-address", &format!("127.0.0.1:{}", free_port())]);
    start(command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD).env("MINIO_BROWSER", "off"), port)
}

fn versitygw(folder: &Path, port: u16) -> Server {
    std::fs::create_dir_all(folder.join("events")).unwrap();
    let mut command = Command::new(tool("versitygw"));
    command.args(["--access", USER, "--secret", PASSWORD, "--port", &format!("127.0.0.1:{port}"), "posix"]).arg(folder);
    start(&mut command, port)
}

/// Credentials by a file, so that tests need no environment of their own.
fn settings(folder: &Path, port: u16, bucket: &str, password: &str) -> S3Settings {
    let file = folder.join(format!("credentials-{password}"));
    std::fs::write(&file, format!("[default]\naws_access_key_id = {USER}\naws_secret_access_key = {password}\n")).unwrap();
    S3Settings {
        bucket: bucket.to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        credentials_file: Some(file),
    }
}

#[tokio::test]
async fn a_directory_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&Env::real(), folder.path().join("objects")).await.unwrap();
    conformance::run_all(Arc::new(store), "check").await;
}

#[tokio::test]
async fn several_processes_share_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let open = || async { DirectoryStore::open(&Env::real(), folder.path().join("objects")).await.unwrap() };
    let unfinished = folder.path().join("objects/.tmp/7");
    let first = open().await;
    std::fs::write(&unfinished, "half of an object").unwrap();
    let second = open().await;
    assert!(unfinished.exists(), "another's unfinished put is left alone");
    let put = |store: DirectoryStore, key: &'static str| async move {
        store.put(key, vec![Bytes::from_static(b"content")], PutMode::CreateOnly).await
    };
    let both = tokio::join!(put(first.clone(), "shared"), put(second.clone(), "shared"));
    assert!(both.0.is_ok() != both.1.is_ok(), "exactly one makes an object: {both:?}");
    put(first.clone(), "one").await.unwrap();
    put(second.clone(), "two").await.unwrap();
    let seen = first.list("", None, 10).await.unwrap();
    assert_eq!(seen.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["one", "shared", "two"]);
    drop((first, second));
    drop(open().await);
    assert!(!unfinished.exists(), "who has the place again clears it");
}

#[tokio::test]
async fn minio_conforms_and_refusals_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = minio(&folder.path().join("data"), port);
    let store = S3Store::new(settings(folder.path(), port, "events", PASSWORD)).await.unwrap();
    conformance::run_all(Arc::new(store.clone()), "check").await;

    let no_bucket = S3Store::new(settings(folder.path(), port, "nothing", PASSWORD)).await.unwrap();
    assert!(matches!(no_bucket.get("a").await, Err(StoreError::Refused { .. })), "{:?}", no_bucket.get("a").await);
    let wrong = S3Store::new(settings(folder.path(), port, "events", "wrong")).await.unwrap();
    assert!(matches!(wrong.get("a").await, Err(StoreError::Refused { .. })), "{:?}", wrong.get("a").await);
    drop(server);
    let away = store.get("a").await.unwrap_err();
    assert!(away.is_retryable(), "{away}");
}

#[tokio::test]
async fn versitygw_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = versitygw(&folder.path().join("data"), port);
    let store = S3Store::new(settings(folder.path(), port, "events", PASSWORD)).await.unwrap();
    conformance::run_all(Arc::new(store), "check").await;
}
