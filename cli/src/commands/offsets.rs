//! `tidegate offsets`: where each partition begins and ends, what lies at a time, what a group committed.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;

use super::consume::{Place, committed_offsets, look_up};
use super::partitions_of;
use crate::args::OffsetsArgs;
use crate::context::{connect, print};

/// Runs the command.
pub(crate) async fn run(args: OffsetsArgs) -> Result<()> {
    let channel = connect(&args.connection).await?;
    let count = partitions_of(MetadataServiceClient::new(channel.clone()), &args.topic).await?;
    let partitions: Vec<i32> = (0..count).collect();
    let first = look_up(&channel, &args.topic, &partitions, Place::Earliest).await?;
    let end = look_up(&channel, &args.topic, &partitions, Place::Latest).await?;
    let at_time = match args.time {
        Some(time) => Some(look_up(&channel, &args.topic, &partitions, Place::Time(time)).await?),
        None => None,
    };
    let committed = match &args.group {
        Some(group) => Some(committed_offsets(&channel, group, &args.topic, &partitions).await?),
        None => None,
    };
    let mut header = vec!["PARTITION", "FIRST", "END"];
    if at_time.is_some() {
        header.push("AT TIME");
    }
    if committed.is_some() {
        header.extend(["COMMITTED", "LAG"]);
    }
    let of = |offsets: &BTreeMap<i32, i64>, partition: i32| offsets.get(&partition).copied();
    let mut rows = Vec::new();
    let mut json = Vec::new();
    for partition in partitions {
        let (first, end) = (of(&first, partition).unwrap_or(0), of(&end, partition).unwrap_or(0));
        let mut row = vec![partition.to_string(), first.to_string(), end.to_string()];
        let mut object = json!({"partition": partition, "first": first, "end": end});
        if let Some(offsets) = &at_time {
            let offset = of(offsets, partition);
            row.push(offset.map(|offset| offset.to_string()).unwrap_or_default());
            object["atTime"] = json!(offset);
        }
        if let Some(offsets) = &committed {
            let offset = of(offsets, partition);
            let lag = end - offset.unwrap_or(first).max(first);
            row.push(offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()));
            row.push(lag.to_string());
            object["committed"] = json!(offset);
            object["lag"] = json!(lag);
        }
        rows.push(row);
        json.push(object);
    }
    print(args.connection.output, &Value::Array(json), &header, &rows);
    Ok(())
}
