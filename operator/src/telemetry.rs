//! Logs on standard error, traces by OTLP when an endpoint is set.

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What the process tells of itself, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetrySettings {
    /// Which log lines are written, in tracing's filter syntax.
    #[arg(long, env = "TIDEGATE_LOG_FILTER", default_value = "info")]
    pub log_filter: String,
    /// One JSON object a line (`json`), or lines for people (`text`).
    #[arg(long, env = "TIDEGATE_LOG_FORMAT", default_value = "json", value_parser = ["json", "text"])]
    pub log_format: String,
    /// OTLP gRPC endpoint for traces, such as `http://otel-collector:4317`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// What must be flushed before the process ends.
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging and, when an endpoint is set, exporting. Must be called once, inside the runtime.
pub fn start(settings: &TelemetrySettings) -> Result<Telemetry> {
    let filter = EnvFilter::try_new(&settings.log_filter).with_context(|| {
        format!("--log-filter {}: write a filter such as `info` or `tidegate_operator=debug`", settings.log_filter)
    })?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let logs = if settings.log_format == "json" { logs.json().flatten_event(true).boxed() } else { logs.boxed() };
    let traces = settings.otlp_endpoint.as_deref().map(exporter).transpose()?;
    let spans = traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("tidegate-operator")));
    tracing_subscriber::registry().with(filter).with(logs).with(spans).try_init().context("logging was started before")?;
    Ok(Telemetry(traces))
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("--otlp-endpoint {endpoint} cannot be used"))?;
    let resource = Resource::builder().with_service_name("tidegate-operator").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Telemetry {
    /// Sends what is left.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
