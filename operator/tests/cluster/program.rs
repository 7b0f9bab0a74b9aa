//! The operator's real program as a process, beside a broker at an address that a pod is said to have.

use std::process::{Child, Command, Stdio};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PostParams};
use serde_json::json;
use tidegate_broker::RunningBroker;
use tidegate_broker::settings::{BrokerSettings, HubSettings, ListenerSettings, ObjectStoreSettings};
use tidegate_env::Env;

use crate::bed::{Bed, eventually};

/// A process; it ends with this.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The operator's program.
pub(crate) struct Program {
    process: Process,
    port: u16,
}

impl Program {
    /// Starts one for the namespace of a test; its Lease is there too.
    pub(crate) fn start(bed: &Bed, identity: &str, measure_seconds: u32) -> Program {
        Program::start_with(bed, identity, measure_seconds, &[])
    }

    /// Starts one with more arguments.
    pub(crate) fn start_with(bed: &Bed, identity: &str, measure_seconds: u32, arguments: &[&str]) -> Program {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // For measurements: another build of the program.
        let program = std::env::var_os("TIDEGATE_OPERATOR_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_tidegate-operator").into());
        let child = Command::new(program)
            .env("KUBECONFIG", &bed.kubeconfig)
            .args(["--namespace", &bed.namespace, "--lease-namespace", &bed.namespace])
            .args(["--identity", identity, "--measure-seconds", &measure_seconds.to_string()])
            .args(["--status-writes-per-second", "100"])
            .args(["--metrics-listen", &format!("127.0.0.1:{port}")])
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Program { process: Process(child), port }
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.process.0.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// The code that it ended with, if it has.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Kilobytes of memory and clock ticks of CPU that the process took.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let pid = self.process.0.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        (line.split_whitespace().nth(1).unwrap().parse().unwrap(), ticks)
    }

    /// What it answers by HTTP, with the status line and headers; nothing before it listens.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
        Some(text)
    }

    /// The sum of the metrics whose lines begin so.
    pub(crate) async fn metric(&self, beginning: &str) -> u64 {
        // Nothing is served yet: nothing was counted.
        let text = self.get("/metrics").await.unwrap_or_default();
        let values = text.lines().filter(|line| line.starts_with(beginning));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// The revision of pods, where no controller counts them.
const REVISION: &str = "hub-1";

/// Says of the broker's StatefulSet what its controller would: the pod is of the newest template, so the hub is settled.
pub(crate) async fn settle(bed: &Bed) {
    let workloads: Api<StatefulSet> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let workload = eventually("the StatefulSet is there", || async { workloads.get_opt("hub-broker-1").await.unwrap() }).await;
    let status = json!({"replicas": 1, "updateRevision": REVISION, "observedGeneration": workload.metadata.generation});
    let patch = Patch::Merge(json!({"status": status}));
    workloads.patch_status("hub-broker-1", &Default::default(), &patch).await.unwrap();
    bed.hub_says("Progressing", "False", "Settled").await;
}

/// A broker where the program looks for it: at the address of the hub's pod, a loopback address of its own, and the operator's fixed port.
pub(crate) async fn broker_at_pod(bed: &Bed) -> RunningBroker {
    let random = uuid::Uuid::new_v4().into_bytes();
    let address = format!("127.{}.{}.{}", random[0].max(1), random[1], random[2].clamp(1, 254));
    let any = "127.0.0.1:0".parse().unwrap();
    let operator = format!("{address}:7172").parse().unwrap();
    let settings = BrokerSettings {
        hub: HubSettings { data_dir: bed.folder.path().join("data"), ..HubSettings::default() },
        object_store: ObjectStoreSettings::Directory { path: bed.folder.path().join("store") },
        listeners: ListenerSettings { client: any, operator, http: any, ..ListenerSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = tidegate_broker::serve(settings, Env::real()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let labels = json!({"tidegate.dev/hub": "hub", "app.kubernetes.io/managed-by": "tidegate-operator",
        "controller-revision-hash": REVISION});
    let pod = json!({"metadata": {"name": "hub-broker-1-0", "labels": labels}, "spec": {"containers": [{"name": "broker", "image": "none"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status("hub-broker-1-0", &Default::default(), &Patch::Merge(status)).await.unwrap();
    broker
}
