//! `tidegate recover`: a hub from its object store alone, into an empty data directory.

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_broker::recover::{RecoverError, recover_hub};
use tidegate_broker::stores;
use tidegate_env::Env;
use tidegate_model::HubId;

use crate::args::{Output, RecoverArgs};
use crate::context::table;
use crate::output::{out, outln};
use crate::settings::load;

/// Runs the command and tells what came back and what is lost.
pub(crate) async fn run(args: &RecoverArgs) -> Result<()> {
    let settings = load(&args.server, std::env::vars())?;
    let env = Env::real();
    let store = stores::open(&settings.broker.object_store, &env).await.context("cannot set up the object store")?;
    eprintln!("reading the checkpoints of the hub in the object store");
    let recovered = match recover_hub(&settings.broker.hub, args.from.map(HubId), &env, store).await {
        Err(RecoverError::NotEmpty { directory, hub }) if args.unless_present => {
            outln!("{} holds hub {hub} already: nothing to recover", directory.display());
            return Ok(());
        }
        recovered => recovered?,
    };
    if args.output == Output::Json {
        let lost = recovered.lost.iter().map(
            |(topic, lost)| json!({"topic": topic, "partition": lost.at.partition.0, "from": lost.from.0, "end": lost.end.0}),
        );
        let json = json!({
            "from": recovered.from.to_string(), "hub": recovered.hub.to_string(), "dataDir": settings.broker.hub.data_dir,
            "missingJournals": recovered.missing.iter().map(|journal| journal.0).collect::<Vec<_>>(), "lost": lost.collect::<Vec<_>>(),
        });
        outln!("{json:#}");
        return Ok(());
    }
    outln!("hub {} was rebuilt as {} in {}", recovered.from, recovered.hub, settings.broker.hub.data_dir.display());
    for journal in &recovered.missing {
        outln!("journal {journal} has no whole checkpoint in the store: its partitions begin empty");
    }
    if recovered.lost.is_empty() {
        outln!(
            "Everything that the checkpoints knew of is in the object store. What was appended after the last checkpoint and not tiered is gone."
        );
        return Ok(());
    }
    outln!("These records were acknowledged, were not in the object store yet, and are lost (later ones may be, too):\n");
    let row = |(topic, lost): &(String, tidegate_journal::state::Lost)| {
        vec![topic.clone(), lost.at.partition.to_string(), lost.from.to_string(), lost.end.to_string()]
    };
    let rows: Vec<Vec<String>> = recovered.lost.iter().map(row).collect();
    out!("{}", table(&["TOPIC", "PARTITION", "FROM", "UP TO"], &rows));
    Ok(())
}
