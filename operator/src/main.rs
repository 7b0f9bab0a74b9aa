//! The command `tidegate-operator`: runs the operator, prints the CustomResourceDefinitions, releases objects.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tidegate_operator::catalog::PodNetwork;
use tidegate_operator::controller::{Parts, lead};
use tidegate_operator::lease::{self, Election};
use tidegate_operator::settings::Settings;
use tidegate_operator::{client, http, install, key, release, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tidegate's Kubernetes operator.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    telemetry: telemetry::TelemetrySettings,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Bring the installed ones up to date instead.
        #[arg(long)]
        apply: bool,
    },
    /// Take our finalizers and claims off all objects, so that the operator can be uninstalled. Deletes nothing.
    Release {
        /// First scale this Deployment (the operator's) to nothing and wait for its end.
        #[arg(long, value_name = "NAMESPACE/NAME", value_parser = deployment)]
        stop: Option<(String, String)>,
    },
}

fn deployment(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("must be NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Crds { apply: false })) {
        let files: Vec<String> = tidegate_crd::generate::files().into_iter().map(|(_, text)| text).collect();
        print!("{}", files.join("---\n"));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let telemetry = telemetry::start(&arguments.telemetry)?;
        let outcome = match arguments.command {
            Some(Command::Release { stop }) => release_all(&arguments.settings, stop).await,
            Some(Command::Crds { .. }) => apply_definitions().await,
            _ => run(arguments.settings).await,
        };
        telemetry.shutdown();
        outcome
    })
}

async fn apply_definitions() -> Result<()> {
    let client = client::connect(Arc::default()).await.context("cannot reach the API server")?;
    for name in install::apply_definitions(&client).await.context("cannot bring the definitions up to date")? {
        println!("{name} is up to date");
    }
    Ok(())
}

async fn release_all(settings: &Settings, stop: Option<(String, String)>) -> Result<()> {
    let client = client::connect(Arc::default()).await.context("cannot reach the API server")?;
    if let Some((namespace, name)) = stop {
        install::stop(&client, &namespace, &name).await.context("cannot stop the operator")?;
    }
    let released = release::release(&client, settings.namespace.as_deref()).await.context("cannot release objects")?;
    println!("released {released} objects");
    Ok(())
}

async fn run(mut settings: Settings) -> Result<()> {
    let health = http::Health::default();
    let stop = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind(settings.metrics_listen)
        .await
        .with_context(|| format!("cannot listen on --metrics-listen {}", settings.metrics_listen))?;
    tokio::spawn(http::serve(health.clone(), listener, stop.clone()));
    tokio::spawn(stop_at_signal(stop.clone()));
    let client = client::connect(Arc::clone(&health.metrics)).await.context("cannot find the API server")?;
    let identity = lease::identity(&settings);
    settings.identity = identity.to_string();
    tracing::info!(%identity, lease = settings.installation(), "waiting for the Lease");
    let mut election = Election::new(client.clone(), &settings, &identity);
    let term = election.term();
    if stop.run_until_cancelled(election.acquire(&health.ready)).await.is_none() {
        return Ok(());
    }
    health.ready.store(true, Ordering::Relaxed);
    health.metrics.leading(true);
    tracing::info!("leading");
    let leading = stop.child_token();
    let keeper = tokio::spawn(election.keep(leading.clone()));
    let key = key::load_or_make(&client, &settings).await.context("cannot read or make the key that signs calls to brokers")?;
    let acting = client::connect_for(Arc::clone(&health.metrics), settings.api_calls_per_second, term.clone()).await;
    let acting = acting.context("cannot find the API server")?;
    let parts = Parts {
        client: acting,
        settings: settings.clone(),
        network: Arc::new(PodNetwork),
        key: Arc::new(key),
        metrics: Arc::clone(&health.metrics),
        term,
    };
    lead(parts, leading.clone()).await;
    let _ = keeper.await;
    let was_told = stop.is_cancelled();
    stop.cancel();
    if was_told {
        Election::release(client, &settings, &identity).await;
        return Ok(());
    }
    anyhow::bail!("the Lease was lost: ending, so that a new process begins anew")
}

async fn stop_at_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    stop.cancel();
}
