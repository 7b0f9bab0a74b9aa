//! `tidegate inspect`: what is in a file that a hub wrote. Reads files only; a hub may run meanwhile.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tidegate_env::Env;
use tidegate_journal::raft::{InspectedCheckpoint, inspect_checkpoint, is_checkpoint};
use tidegate_tier::checkpoint::Envelope;
use tidegate_tier::manifest::{ManifestObject, ManifestRange};
use tidegate_tier::object::{Footer, FooterRange};
use tidegate_wal::inspect::{Frame, inspect};
use tidegate_wal::mark::{Slot, slots};

use crate::args::{InspectArgs, Output};
use crate::context::{CommandError, human_bytes, table};
use crate::output::{out, outln};

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let path = &args.path;
    if path.is_dir() {
        let way_out =
            format!("{} is a folder: name a file in it, such as wal/0000000001.wal or a file of checkpoints/", path.display());
        return Err(CommandError::Usage(way_out).into());
    }
    if path.extension().is_some_and(|extension| extension == "wal") {
        return wal(path, args.output);
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.file_name().is_some_and(|name| name == "mark") {
        show_mark(&bytes, args.output);
        return Ok(());
    }
    if is_checkpoint(&bytes) {
        let checkpoint = inspect_checkpoint(&bytes).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
        show_checkpoint(&checkpoint, args.output);
        return Ok(());
    }
    if let Ok(footer) = Footer::of(&bytes) {
        return match &args.kafka_log {
            Some(target) => kafka_log(args, &footer, &bytes, target),
            None => {
                show_tier_object(&footer, args.output);
                Ok(())
            }
        };
    }
    if let Ok(manifest) = ManifestObject::decode(&bytes) {
        show_manifest(&manifest, args.output);
        return Ok(());
    }
    if let Ok(envelope) = Envelope::decode(&bytes) {
        if args.output == Output::Json {
            outln!(
                "{:#}",
                json!({
                    "hub": envelope.hub.to_string(), "journal": envelope.journal.0, "term": envelope.term, "index": envelope.index,
                    "stateBytes": envelope.state.len(),
                })
            );
            return Ok(());
        }
        outln!(
            "checkpoint object of journal {} of hub {} at term {}, index {}: a state of {}",
            envelope.journal,
            envelope.hub,
            envelope.term,
            envelope.index,
            human_bytes(envelope.state.len() as u64)
        );
        return Ok(());
    }
    bail!("{} is none of what a hub writes: a WAL file, its mark, a checkpoint, a tier object, a manifest object", path.display())
}

fn show_mark(bytes: &[u8], output: Output) {
    for (number, slot) in slots(bytes).into_iter().enumerate() {
        match (slot, output) {
            (Slot::Whole { log, durable }, Output::Json) => outln!(
                "{}",
                json!({
                    "slot": number, "log": log.to_string(), "durable": durable.sequence, "generation": durable.generation,
                    "end": durable.end,
                })
            ),
            (Slot::Whole { log, durable }, Output::Table) => outln!(
                "slot {number}: log {log}, durable up to sequence {}, which ends at {} of generation {}",
                durable.sequence,
                durable.end,
                durable.generation
            ),
            (other, Output::Json) => outln!("{}", json!({"slot": number, "state": format!("{other:?}")})),
            (other, Output::Table) => outln!("slot {number}: {other:?}"),
        }
    }
}

fn wal(path: &Path, output: Output) -> Result<()> {
    let found = inspect(Env::real().disk.as_ref(), path)?;
    let frames: Vec<&Frame> = found.frames.iter().chain(&found.beyond).chain(&found.seal).collect();
    if output == Output::Json {
        let frames: Vec<Value> = frames
            .iter()
            .map(|frame| {
                let header = &frame.header;
                json!({
                    "offset": frame.offset, "sequence": header.sequence, "durable": header.durable, "journal": header.journal.0,
                    "kind": format!("{:?}", header.kind), "term": header.at.term, "index": header.at.index, "bytes": header.length,
                })
            })
            .collect();
        outln!(
            "{:#}",
            json!({
                "log": found.log, "generation": found.generation, "fileBytes": found.file_bytes, "end": found.end,
                "durable": found.durable, "damaged": found.damaged, "frames": frames,
            })
        );
        return Ok(());
    }
    let row = |frame: &&Frame| {
        let header = &frame.header;
        vec![
            frame.offset.to_string(),
            header.sequence.to_string(),
            header.durable.to_string(),
            header.journal.to_string(),
            format!("{:?}", header.kind),
            header.at.term.to_string(),
            header.at.index.to_string(),
            header.length.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = frames.iter().map(row).collect();
    out!("{}", table(&["OFFSET", "SEQUENCE", "DURABLE", "JOURNAL", "KIND", "TERM", "INDEX", "BYTES"], &rows));
    outln!(
        "\nlog {}, generation {}, {} of {} used, durable up to sequence {}{}",
        found.log,
        found.generation,
        human_bytes(found.end),
        human_bytes(found.file_bytes),
        found.durable,
        if found.damaged { "; DAMAGED: a frame that was durable is not whole" } else { "" }
    );
    Ok(())
}

/// Writes the batches of one range as Kafka's log segments hold them: nothing but the batches, whose base offsets are final.
fn kafka_log(args: &InspectArgs, footer: &Footer, object: &[u8], target: &Path) -> Result<()> {
    let wanted = |range: &&FooterRange| {
        let topic = args
            .topic
            .as_deref()
            .is_none_or(|topic| topic == range.header.topic_name || topic == range.header.at.topic.to_string());
        topic && args.partition.is_none_or(|partition| partition == range.header.at.partition.0)
    };
    let found: Vec<&FooterRange> = footer.ranges.iter().filter(wanted).collect();
    let [range] = found.as_slice() else {
        bail!(
            "{} ranges of the object are meant: name one by --topic and --partition (`inspect` without --kafka-log lists them)",
            found.len()
        );
    };
    let place = &range.placement;
    let batches = usize::try_from(place.position).ok().zip(usize::try_from(place.position + place.bytes).ok());
    let batches = batches.and_then(|(start, end)| object.get(start..end)).context("the range lies outside of the object")?;
    let blocks = usize::try_from(footer.data_bytes).ok().and_then(|end| object.get(..end)).context("the object is cut")?;
    footer.verify_blocks(0, blocks)?;
    std::fs::write(target, batches).with_context(|| format!("cannot write {}", target.display()))?;
    outln!(
        "{} of {}: offsets {} to {} written to {}",
        range.header.at.partition,
        range.header.topic_name,
        place.base,
        place.end,
        target.display()
    );
    Ok(())
}

fn show_tier_object(footer: &Footer, output: Output) {
    if output == Output::Json {
        let ranges: Vec<Value> = footer
            .ranges
            .iter()
            .map(|range| {
                let place = &range.placement;
                json!({
                    "topic": range.header.topic_name, "topicUid": place.at.topic.to_string(), "partition": place.at.partition.0,
                    "base": place.base.0, "end": place.end.0, "position": place.position, "bytes": place.bytes,
                    "maxTimestampMs": place.max_timestamp.0,
                })
            })
            .collect();
        outln!("{:#}", json!({"key": footer.key, "hub": footer.hub.to_string(), "journal": footer.journal.0, "ranges": ranges}));
        return;
    }
    outln!(
        "tier object {}\nof journal {}, {} of data in {} checked blocks\n",
        footer.key,
        footer.journal,
        human_bytes(footer.data_bytes),
        footer.blocks.len()
    );
    let rows: Vec<Vec<String>> = footer
        .ranges
        .iter()
        .map(|range| {
            let place = &range.placement;
            vec![
                range.header.topic_name.clone(),
                place.at.partition.to_string(),
                place.base.to_string(),
                place.end.to_string(),
                place.position.to_string(),
                human_bytes(place.bytes),
            ]
        })
        .collect();
    out!("{}", table(&["TOPIC", "PARTITION", "FIRST", "END", "POSITION", "BYTES"], &rows));
}

fn show_manifest(manifest: &ManifestObject, output: Output) {
    let row =
        |range: &ManifestRange| vec![range.base.to_string(), range.end.to_string(), human_bytes(range.bytes), range.key.clone()];
    if output == Output::Json {
        let ranges: Vec<Value> = manifest
            .ranges
            .iter()
            .map(|range| json!({"base": range.base.0, "end": range.end.0, "bytes": range.bytes, "key": range.key}))
            .collect();
        outln!(
            "{:#}",
            json!({"topicUid": manifest.at.topic.to_string(), "partition": manifest.at.partition.0, "ranges": ranges})
        );
        return;
    }
    outln!("manifest object of partition {}\n", manifest.at);
    let rows: Vec<Vec<String>> = manifest.ranges.iter().map(row).collect();
    out!("{}", table(&["FIRST", "END", "BYTES", "OBJECT"], &rows));
}

fn show_checkpoint(checkpoint: &InspectedCheckpoint, output: Output) {
    let state = &checkpoint.state;
    let partitions: Vec<_> = state.partitions().collect();
    if output == Output::Json {
        let partitions: Vec<Value> = partitions
            .iter()
            .map(|(at, partition)| {
                json!({
                    "topicUid": at.topic.to_string(), "partition": at.partition.0, "logStartOffset": partition.log_start().0,
                    "highWatermark": partition.high_watermark().0, "tieredEndOffset": partition.tiered_end().0,
                    "leaderEpoch": partition.epoch().0, "localBytes": partition.tail().bytes(),
                })
            })
            .collect();
        let json = json!({
            "journal": checkpoint.journal.0, "term": checkpoint.at.term, "index": checkpoint.at.index,
            "hash": format!("{:016x}", state.hash()), "groups": state.groups().len(), "partitions": partitions,
        });
        outln!("{json:#}");
        return;
    }
    outln!(
        "checkpoint of journal {} at term {}, index {}; state hash {:016x}, {} groups\n",
        checkpoint.journal,
        checkpoint.at.term,
        checkpoint.at.index,
        state.hash(),
        state.groups().len()
    );
    let rows: Vec<Vec<String>> = partitions
        .iter()
        .map(|(at, partition)| {
            vec![
                at.topic.to_string(),
                at.partition.to_string(),
                partition.log_start().to_string(),
                partition.high_watermark().to_string(),
                partition.tiered_end().to_string(),
                partition.epoch().to_string(),
                human_bytes(partition.tail().bytes()),
            ]
        })
        .collect();
    out!("{}", table(&["TOPIC UID", "PARTITION", "FIRST", "END", "TIERED UP TO", "EPOCH", "LOCAL"], &rows));
}
