//! What the operator tells of itself, how fast it calls, and how it holds its hand.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;

use crate::bed::{Bed, eventually};
use crate::program::{Process, Program, broker_at_pod, settle};

/// An OpenTelemetry Collector that writes down what arrives; it ends with this.
struct Collector {
    _process: Process,
    log: PathBuf,
    endpoint: String,
}

impl Collector {
    async fn start(bed: &Bed) -> Collector {
        let tools = std::env::var_os("TIDEGATE_TOOLS")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tidegate/tools"), PathBuf::from);
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (config, log) = (bed.folder.path().join("collector.yaml"), bed.folder.path().join("collector.log"));
        let written = json!({
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": address.to_string()}}}},
            "exporters": {"debug": {"verbosity": "detailed"}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}},
            },
        });
        std::fs::write(&config, written.to_string()).unwrap();
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(tools.join("bin/otelcol"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("the collector: run `bash deploy/setup.sh tests`");
        eventually("the collector listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Collector { _process: Process(child), log, endpoint: format!("http://{address}") }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_its_health_its_numbers_and_traces_of_what_it_did() {
    let bed = Bed::new("observed").await;
    let collector = Collector::start(&bed).await;
    bed.hub("hub").await;
    let program = Program::start_with(&bed, "a", 1, &["--otlp-endpoint", &collector.endpoint]);
    let program = &program;
    eventually("it says that it lives", || async { program.get("/livez").await?.starts_with("HTTP/1.1 200").then_some(()) })
        .await;
    eventually("it is ready", || async { program.get("/readyz").await?.starts_with("HTTP/1.1 200").then_some(()) }).await;
    eventually("its calls are counted", || async { (program.metric("tidegate_operator_api_calls").await > 0).then_some(()) })
        .await;
    bed.hub_says("Progressing", "True", "Changing").await;
    program.signal("TERM");
    let name = bed.namespace.as_str();
    let output = || std::fs::read_to_string(&collector.log).unwrap_or_default();
    eventually("a trace of the hub's reconciliation arrives", || async {
        let output = output();
        let about = output.contains("service.name: Str(tidegate-operator)") && output.contains("reconciling object");
        (about && output.contains(name)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_wait() {
    let bed = Bed::new("limited").await;
    bed.hub("hub").await;
    let program = Program::start_with(&bed, "a", 1, &["--api-calls-per-second", "5"]);
    let _broker = broker_at_pod(&bed).await;
    settle(&bed).await;
    let (begun, before) = (std::time::Instant::now(), program.metric("tidegate_operator_api_calls").await);
    for number in 0..10 {
        bed.topic(&format!("topic-{number}"), json!({})).await;
    }
    for number in 0..10 {
        bed.until(&format!("topic-{number}"), "Serving").await;
    }
    let calls = program.metric("tidegate_operator_api_calls").await - before;
    // Calls for the Lease have a client of their own: one each two seconds.
    let (took, lease) = (begun.elapsed().as_secs_f64(), begun.elapsed().as_secs() / 2 + 2);
    let most = (took + 1.0) * 5.0 + lease as f64;
    assert!(calls >= 10, "each topic takes at least a call: {calls}");
    assert!(calls as f64 <= most, "{calls} calls in {took:.1} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_hub_keeps_what_it_has_and_deletions_are_carried_out() {
    let bed = Bed::new("held").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    bed.topic("kept", json!({"partitions": 2})).await;
    bed.topic("dropped", json!({"deletionPolicy": "Delete"})).await;
    bed.until("kept", "Serving").await;
    bed.until("dropped", "Serving").await;
    let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let file = || async { maps.get("hub-brokers").await.unwrap().data.unwrap()["settings.toml"].clone() };
    let before = file().await;
    let hub = |paused: bool| {
        json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"}, "spec": {
            "objectStore": {"s3": {"bucket": "events"}}, "paused": paused, "observability": {"logFilter": "debug"}}})
    };
    bed.apply(hub(true)).await.unwrap();
    bed.hub_says("Ready", "False", "Paused").await;
    bed.topic("kept", json!({"partitions": 5})).await;
    // The deletion comes after both changes: when it is done, they were seen.
    bed.delete("dropped").await;
    bed.gone("dropped").await;
    assert!(broker.hub().topic("dropped").is_err(), "its policy says that the hub's topic goes too");
    assert_eq!(file().await, before);
    assert_eq!(broker.hub().topic("kept").unwrap().settings.partitions, 2);
    bed.apply(hub(false)).await.unwrap();
    eventually("both changes are carried out", || async {
        let partitions = broker.hub().topic("kept").unwrap().settings.partitions;
        (file().await.contains("debug") && partitions == 5).then_some(())
    })
    .await;
    operator.stop().await;
    broker.shutdown().await;
}
