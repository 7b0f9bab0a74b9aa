//! A thousand Topics at once, with the real program: time, memory, calls, and quiet afterwards.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PostParams};
use serde_json::json;
use tidegate_broker::settings::{BrokerSettings, HubSettings, ListenerSettings, ObjectStoreSettings};
use tidegate_env::Env;

use crate::bed::{Bed, eventually, kubeconfig};

const TOPICS: usize = 1000;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kilobytes of memory and clock ticks of CPU that a process took.
fn usage(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (line.split_whitespace().nth(1).unwrap().parse().unwrap(), ticks)
}

async fn metric(port: u16, beginning: &str) -> u64 {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    let values =
        text.lines().filter(|line| line.starts_with(beginning)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_topics_are_ready_within_a_minute_and_then_it_is_quiet() {
    let bed = Bed::new("scale").await;
    // A loopback address of its own: the operator finds the broker by its pod's address and a fixed port.
    let random = uuid::Uuid::new_v4().into_bytes();
    let address = format!("127.{}.{}.{}", random[0].max(1), random[1], random[2].clamp(1, 254));
    let any = "127.0.0.1:0".parse().unwrap();
    let settings = BrokerSettings {
        hub: HubSettings { data_dir: bed.folder.path().join("data"), ..HubSettings::default() },
        object_store: ObjectStoreSettings::Directory { path: bed.folder.path().join("store") },
        listeners: ListenerSettings {
            client: any,
            operator: format!("{address}:7172").parse().unwrap(),
            http: any,
            advertised: None,
        },
        ..BrokerSettings::default()
    };
    let broker = tidegate_broker::serve(settings, Env::real()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let pod = json!({"metadata": {"name": "hub-broker-1-0", "labels": {"tidegate.dev/hub": "hub"}},
        "spec": {"containers": [{"name": "broker", "image": "none"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status("hub-broker-1-0", &Default::default(), &Patch::Merge(status)).await.unwrap();
    bed.hub("hub").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate-operator"))
        .env("KUBECONFIG", kubeconfig())
        .args([
            "--namespace",
            &bed.namespace,
            "--lease-namespace",
            &bed.namespace,
            "--metrics-listen",
            &format!("127.0.0.1:{port}"),
        ])
        .args(["--measure-seconds", "5"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program(child);
    let pid = program.0.id();
    bed.topic("warm-up", json!({})).await;
    bed.until("warm-up", "Serving").await;
    let before = (usage(pid), metric(port, "tidegate_operator_api_calls_total").await);
    let started = Instant::now();
    futures::stream::iter(0..TOPICS)
        .for_each_concurrent(16, |number| {
            let bed = &bed;
            async move { drop(bed.topic(&format!("topic-{number}"), json!({"partitions": 2})).await) }
        })
        .await;
    let applied = started.elapsed();
    let topics = bed.topics();
    eventually("all topics are Ready", || async {
        let all = topics.list(&ListParams::default()).await.unwrap();
        let ready = |topic: &tidegate_crd::Topic| {
            topic
                .status
                .iter()
                .flat_map(|status| &status.conditions)
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        (all.iter().filter(|topic| ready(topic)).count() == TOPICS + 1).then_some(())
    })
    .await;
    let took = started.elapsed();
    let after = (usage(pid), metric(port, "tidegate_operator_api_calls_total").await);
    println!(
        "{TOPICS} topics: applied in {applied:.1?}, all Ready in {took:.1?}; operator: {} KiB before, {} KiB after, {} ticks of CPU, {} calls",
        before.0.0,
        after.0.0,
        after.0.1 - before.0.1,
        after.1 - before.1
    );
    // The goal is a minute on a machine that does nothing else; here three times that fails.
    assert!(took < Duration::from_secs(180), "{took:?}");
    assert_eq!(broker.hub().list_topics("topic-", "", 5000, tidegate_broker::hub::Listing::Living).len(), TOPICS);
    // The first measurements are written, five a second; then nothing is left to do.
    let written = "tidegate_operator_status_writes_total{kind=\"Topic\"}";
    let mut last = (metric(port, written).await, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = metric(port, written).await;
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > Duration::from_secs(8) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(400), "it does not become quiet");
    }
    let quiet = (
        metric(port, "tidegate_operator_api_calls_total").await,
        metric(port, "tidegate_operator_api_calls_total{verb=\"list\"").await,
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let later = (
        metric(port, "tidegate_operator_api_calls_total").await,
        metric(port, "tidegate_operator_api_calls_total{verb=\"list\"").await,
    );
    println!("idle for 10 s: {} calls, {} of them lists; {} KiB", later.0 - quiet.0, later.1 - quiet.1, usage(pid).0);
    assert_eq!(later.1, quiet.1, "no list calls when idle");
    assert_eq!(metric(port, written).await, last.0, "no status writes when idle");
    drop(program);
    broker.shutdown().await;
}
