//! `tidegate verify`: a workload that writes down all that it does and is told, and a judgement of what it wrote.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tidegate_checker::{Recorder, Source, Verdict, check_lines};
use tidegate_client::Client;
use tidegate_crd::quantity::parse_duration_ms;
use tidegate_proto::v1;
use tidegate_workload::{Settings, Workload, WorkloadError};

use crate::args::{Output, VerifyArgs};
use crate::context::{client, client_error};
use crate::output::outln;
use crate::progress;

/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(500);

/// Runs the command; exit code 0 if no rule is broken, 1 if one is.
pub(crate) async fn run(args: VerifyArgs) -> Result<ExitCode> {
    if let Some(path) = &args.check {
        let what = || format!("--check {}", path.display());
        let file = std::fs::File::open(path).with_context(what)?;
        return Ok(tell(args.connection.output, &check_lines(std::io::BufReader::new(file)).with_context(what)?));
    }
    let time = match parse_duration_ms(&args.time).context("--for")? {
        Some(ms) if ms > 0 => Duration::from_millis(ms),
        _ => bail!("--for {}: must be a time above zero, such as 60s", args.time),
    };
    let client = client(&args.connection).await?;
    let mut recorder = tidegate_workload::recorder().checking();
    if let Some(path) = &args.history {
        let file = std::fs::File::create(path).with_context(|| format!("--history {}", path.display()))?;
        recorder = recorder.to_lines(std::io::BufWriter::new(file));
    }
    let topic = work(&args, &client, time, &recorder).await?;
    let verdict = recorder.finish().context("--history")?.verdict.unwrap_or_default();
    if !args.keep {
        delete(&client, &topic).await?;
    }
    Ok(tell(args.connection.output, &verdict))
}

async fn work(args: &VerifyArgs, client: &Client, time: Duration, recorder: &Recorder) -> Result<String> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let topic = args.topic.clone().unwrap_or_else(|| format!("verify-{seed}"));
    let settings = Settings {
        partitions: args.partitions,
        producers: args.producers,
        consumers: args.consumers,
        records_per_second: args.rate,
        ..Settings::new(topic.clone(), seed)
    };
    eprintln!(
        "seed {seed}: {} producers, {} consumers, topic {topic} with {} partitions at {}, {time:?}",
        args.producers, args.consumers, args.partitions, args.connection.address
    );
    let mut workload = Workload::start(client.clone(), settings, recorder.clone()).await.map_err(error)?;
    let bar = progress::events(None);
    let end = tokio::time::sleep(time);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(end, interrupted);
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = &mut interrupted => break,
            failed = workload.failed() => failed.map_err(error)?,
            () = tokio::time::sleep(DRAW) => bar.set_position(workload.counts().acknowledged),
        }
    }
    workload.stop().await.map_err(error)?;
    bar.finish_and_clear();
    for source in [Source::Anywhere, Source::Restarted] {
        workload.read_everything(source).await.map_err(error)?;
    }
    Ok(topic)
}

async fn delete(client: &Client, topic: &str) -> Result<()> {
    let request = v1::DeleteTopicRequest { name: topic.to_owned(), ..Default::default() };
    client.admin().delete_topic(request).await.map_err(client_error)?;
    Ok(())
}

fn error(error: WorkloadError) -> anyhow::Error {
    match error {
        WorkloadError::Client(error) => client_error(error),
        other => other.into(),
    }
}

fn tell(output: Output, verdict: &Verdict) -> ExitCode {
    match output {
        Output::Json => {
            let json = json!({
                "holds": verdict.holds(), "broken": verdict.broken, "violations": verdict.violations, "counts": verdict.counts,
            });
            outln!("{json:#}");
        }
        Output::Table => outln!("{verdict}"),
    }
    if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
