//! `tidegate dev`, `broker` and `config`: the process that is a hub.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_broker::settings::ObjectStoreSettings;
use tidegate_env::Env;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::args::{ConfigArgs, Output, RunArgs};
use crate::exported_metrics;
use crate::output::{out, outln};
use crate::settings::{ServerSettings, load};
use crate::telemetry;

/// Runs a hub until SIGINT or SIGTERM, then stops it in order. `dev` greets a person at the terminal.
pub(crate) async fn run(args: RunArgs, greeting: Greeting) -> Result<ExitCode> {
    let settings = load(&args.server, std::env::vars())?;
    let telemetry = telemetry::start(&settings.telemetry, "tidegate")?;
    let outcome = serve(&settings, args.ready_file.as_deref(), greeting).await;
    // Flushing blocks, and the exporter needs the runtime's threads meanwhile.
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await.context("flushing telemetry")?;
    outcome
}

/// Whether a person is greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Say where things are and what to do next.
    Person,
    /// Logs only.
    None,
}

async fn serve(settings: &ServerSettings, ready_file: Option<&Path>, greeting: Greeting) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let broker = tidegate_broker::serve(settings.broker.clone(), Env::real()).await?;
    let hub = broker.hub().clone();
    exported_metrics::register(&opentelemetry::global::meter("tidegate"), Arc::new(move || hub.metrics_text()));
    if let Some(path) = ready_file {
        let addresses = json!({
            "client": broker.client_addr.to_string(), "operator": broker.operator_addr.to_string(),
            "http": broker.http_addr.to_string(), "hubId": broker.hub_id.to_string(), "processId": std::process::id(),
        });
        write_ready_file(path, &addresses)?;
    }
    if greeting == Greeting::Person {
        greet(settings, &broker.client_addr.to_string(), &broker.http_addr.to_string());
    }
    let failure = tokio::select! {
        _ = tokio::signal::ctrl_c() => { info!("interrupted: stopping"); None }
        _ = terminate.recv() => { info!("told to terminate: stopping"); None }
        reason = broker.failed() => Some(reason),
    };
    if let Some(path) = ready_file {
        let _ = std::fs::remove_file(path);
    }
    if let Some(reason) = failure {
        // After a failed write or fsync nothing that this process knows of the disk can be trusted: only a new start can.
        eprintln!("tidegate: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    broker.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

fn write_ready_file(path: &Path, content: &serde_json::Value) -> Result<()> {
    let mut temporary = PathBuf::from(path);
    temporary.set_extension("tmp");
    std::fs::write(&temporary, format!("{content:#}\n")).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

fn greet(settings: &ServerSettings, client: &str, http: &str) {
    let store = match &settings.broker.object_store {
        ObjectStoreSettings::Directory { path } => format!("the directory {}", path.display()),
        ObjectStoreSettings::S3(s3) => format!("the bucket {}", s3.bucket),
    };
    let other = if client.ends_with(":7171") { String::new() } else { format!(" --address http://{client}") };
    eprintln!(
        "Tidegate is serving.\n  gRPC       {client}\n  metrics    http://{http}/metrics\n  local data {}\n  old data   {store}\n\n\
         In another terminal:\n  tidegate topic create clicks --partitions 3{other}\n  tidegate generate clicks --follow{other}\n  \
         tidegate consume clicks --follow{other}\n\nCtrl-C stops it; nothing acknowledged is lost.",
        settings.broker.hub.data_dir.display()
    );
}

/// Prints the settings in force as TOML or JSON.
pub(crate) fn config(args: &ConfigArgs) -> Result<()> {
    let settings = load(&args.server, std::env::vars())?;
    match args.output {
        Output::Table => out!("{}", toml::to_string_pretty(&settings).context("settings cannot be written as TOML")?),
        Output::Json => outln!("{}", serde_json::to_string_pretty(&settings).context("settings cannot be written as JSON")?),
    }
    Ok(())
}
