//! Traces and metrics arrive at a real OpenTelemetry Collector, as children of the span that the client named.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Hub, HubOptions, Process, free_port, succeed, tool, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// One span as the collector's debug exporter writes it.
#[derive(Debug, Default)]
struct Span {
    trace: String,
    parent: String,
    id: String,
    name: String,
}

fn start_collector(folder: &Path, port: u16) -> Process {
    let config = format!(
        "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 127.0.0.1:{port}\n\
         exporters:\n  debug:\n    verbosity: detailed\n\
         service:\n  telemetry:\n    metrics:\n      level: none\n  pipelines:\n    traces: {{receivers: [otlp], exporters: [debug]}}\n    \
         metrics: {{receivers: [otlp], exporters: [debug]}}\n"
    );
    let path = folder.join("collector.yaml");
    std::fs::write(&path, config).unwrap();
    let log = std::fs::File::create(folder.join("collector.log")).unwrap();
    let mut command = Command::new(tool("otelcol"));
    command.arg("--config").arg(&path).stdout(log.try_clone().unwrap()).stderr(log);
    let process = Process::start("otelcol", &mut command);
    wait_for("the collector's port", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

/// The spans in the collector's output: each begins with a line `Span #…`, then has lines `Field : value`.
fn spans(output: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for line in output.lines() {
        if line.starts_with("Span #") {
            spans.push(Span::default());
        }
        let (Some(span), Some((field, value))) = (spans.last_mut(), line.split_once(':')) else { continue };
        let value = value.trim().to_owned();
        match field.trim() {
            "Trace ID" => span.trace = value,
            "Parent ID" => span.parent = value,
            "ID" => span.id = value,
            "Name" if span.name.is_empty() => span.name = value,
            _ => {}
        }
    }
    spans
}

#[test]
fn a_produce_call_is_traced_from_the_clients_span_to_the_log_and_metrics_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _collector = start_collector(folder.path(), port);
    let options = HubOptions::default().set("telemetry.otlp_endpoint", format!("http://127.0.0.1:{port}"));
    let mut hub = Hub::start(folder.path(), &options);
    hub.run(&["topic", "create", "traced"]);
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    let request = r#"{"topic":"traced","partition":0,"records":{"records":[{"value":"aGVsbG8="}]}}"#;
    succeed(Command::new(tool("grpcurl")).args([
        "-plaintext",
        "-H",
        &parent,
        "-d",
        request,
        &hub.client,
        "tidegate.v1.ProducerService/Produce",
    ]));
    hub.process.terminate();

    let output = || std::fs::read_to_string(folder.path().join("collector.log")).unwrap_or_default();
    let traced = wait_for("the spans at the collector", || {
        let traced: Vec<Span> = spans(&output()).into_iter().filter(|span| span.trace == TRACE).collect();
        (traced.len() >= 2).then_some(traced)
    });
    let call = traced.iter().find(|span| span.parent == SPAN).expect("the call's span is a child of the client's");
    let below = traced.iter().find(|span| span.parent == call.id).expect("the commit's span is a child of the call's");
    assert!(below.name.contains("append"), "{traced:?}");
    wait_for("the metrics at the collector", || output().contains("-> Name: tidegate").then_some(()));
}
