//! Logs, traces and metrics of the process: text or JSON logs on standard error, OTLP export when an endpoint is set.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// What the process tells of itself, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetrySettings {
    /// Which log lines are written, in tracing's filter syntax. Default `info,openraft=warn`.
    pub(crate) log_filter: String,
    /// How log lines look. Default `text`.
    pub(crate) log_format: LogFormat,
    /// OTLP gRPC endpoint for traces and metrics, such as `http://127.0.0.1:4317`. Default: the variable OTEL_EXPORTER_OTLP_ENDPOINT, else none.
    pub(crate) otlp_endpoint: Option<String>,
}

impl Default for TelemetrySettings {
    fn default() -> TelemetrySettings {
        TelemetrySettings { log_filter: "info,openraft=warn".to_owned(), log_format: LogFormat::Text, otlp_endpoint: None }
    }
}

/// What must be flushed before the process ends.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Starts logging and, when an endpoint is set, exporting. Must be called once, inside the runtime.
pub(crate) fn start(settings: &TelemetrySettings, service: &'static str) -> Result<Telemetry> {
    let filter = EnvFilter::try_new(&settings.log_filter).with_context(|| {
        format!("telemetry.log_filter: `{}` is not a filter such as `info` or `tidegate_broker=debug`", settings.log_filter)
    })?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let logs = match settings.log_format {
        LogFormat::Text => logs.boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    let endpoint = settings.otlp_endpoint.clone().or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok());
    let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else {
        tracing_subscriber::registry().with(logs.with_filter(filter)).init();
        return Ok(Telemetry { traces: None, metrics: None });
    };
    let resource = Resource::builder().with_service_name(service).build();
    let refused = || format!("telemetry.otlp_endpoint: `{endpoint}` is not a usable endpoint such as http://127.0.0.1:4317");
    let spans = SpanExporter::builder().with_tonic().with_endpoint(&endpoint).build().with_context(refused)?;
    let traces = SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build();
    let points = MetricExporter::builder().with_tonic().with_endpoint(&endpoint).build().with_context(refused)?;
    let metrics = SdkMeterProvider::builder().with_periodic_exporter(points).with_resource(resource).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_meter_provider(metrics.clone());
    // Only our own spans are exported: the exporter's own requests would otherwise make spans without end.
    let exported =
        tracing_opentelemetry::layer().with_tracer(traces.tracer(service)).with_filter(EnvFilter::new("tidegate=info,off"));
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(exported).init();
    Ok(Telemetry { traces: Some(traces), metrics: Some(metrics) })
}

impl Telemetry {
    /// Sends what is still waiting. Blocks until the receiver has it or the exporter's own deadline (10 s) passes.
    pub(crate) fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown()
        {
            eprintln!("tidegate: some traces were not exported: {error}");
        }
        if let Some(metrics) = self.metrics
            && let Err(error) = metrics.shutdown()
        {
            eprintln!("tidegate: some metrics were not exported: {error}");
        }
    }
}
