//! `tidegate topic`: create, alter, delete, undelete, describe, list.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_crd::quantity::{format_bytes, format_duration_ms};
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::args::{Bound, Connection, Output, TopicArgs, TopicCommand, TopicSettingArgs};
use crate::context::{CommandError, client as library, client_error, connect, human_bytes, print};
use crate::output::outln;

const PAGE: u32 = 1000;

/// Runs a topic command.
pub(crate) async fn run(args: TopicArgs) -> Result<()> {
    let mut client = TopicServiceClient::new(connect(&args.connection).await?);
    let output = args.connection.output;
    match args.command {
        TopicCommand::Create { name, settings } => {
            let (settings, _) = settings_message(&settings)?;
            let request = v1::CreateTopicRequest { name, settings: Some(settings), validate_only: false };
            let made = client.create_topic(request).await.map_err(CommandError::from)?.into_inner().topic.unwrap_or_default();
            print_topics(output, "created", &[made]);
        }
        TopicCommand::Alter { name, settings } => {
            let (settings, paths) = settings_message(&settings)?;
            if paths.is_empty() {
                let way_out =
                    "name at least one setting to change, such as --retention 7d (`tidegate topic alter --help` lists them)";
                return Err(CommandError::Usage(way_out.to_owned()).into());
            }
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = v1::AlterTopicRequest { name, settings: Some(settings), update_mask, ..Default::default() };
            let changed = client.alter_topic(request).await.map_err(CommandError::from)?.into_inner().topic.unwrap_or_default();
            print_topics(output, "altered", &[changed]);
        }
        TopicCommand::Delete { name } => {
            let request = v1::DeleteTopicRequest { name, ..Default::default() };
            let gone = client.delete_topic(request).await.map_err(CommandError::from)?.into_inner().topic.unwrap_or_default();
            print_topics(output, "deleted", &[gone]);
        }
        TopicCommand::Undelete { name, uid } => {
            let topic_uid = uid.map(|uid| uid.as_bytes().to_vec().into()).unwrap_or_default();
            let request = v1::UndeleteTopicRequest { name, topic_uid };
            let back = client.undelete_topic(request).await.map_err(CommandError::from)?.into_inner().topic.unwrap_or_default();
            print_topics(output, "restored", &[back]);
        }
        TopicCommand::Describe { name } => describe(&args.connection, name).await?,
        TopicCommand::List { prefix, deleted } => {
            let topics = list(&mut client, prefix, deleted).await?;
            print_topics(output, "", &topics);
        }
    }
    Ok(())
}

/// All topics whose names begin with `prefix`, page by page.
pub(crate) async fn list(client: &mut TopicServiceClient<Channel>, prefix: String, deleted: bool) -> Result<Vec<v1::Topic>> {
    let mut topics = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTopicsRequest {
            page_size: PAGE,
            page_token,
            name_prefix: prefix.clone(),
            include_internal: false,
            include_deleted: deleted,
        };
        let page = client.list_topics(request).await.map_err(CommandError::from)?.into_inner();
        topics.extend(page.topics);
        if page.next_page_token.is_empty() {
            return Ok(topics);
        }
        page_token = page.next_page_token;
    }
}

/// Describes one topic with its partitions' numbers.
pub(crate) async fn describe_topic(client: &mut TopicServiceClient<Channel>, name: &str) -> Result<v1::DescribeTopicResponse> {
    let request = v1::DescribeTopicRequest { name: name.to_owned(), topic_uid: Default::default() };
    Ok(client.describe_topic(request).await.map_err(CommandError::from)?.into_inner())
}

async fn describe(connection: &Connection, name: String) -> Result<()> {
    let output = connection.output;
    // By the library, which asks again: the partitions of a topic that was just made open one after the other.
    let described = library(connection).await?.admin().describe_topic(name).await.map_err(client_error)?;
    let topic = described.topic.unwrap_or_default();
    let partitions: Vec<Value> = described
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition, "logStartOffset": partition.log_start_offset,
                "highWatermark": partition.high_watermark, "tieredEndOffset": partition.tiered_end_offset,
                "localBytes": partition.local_bytes, "tieredBytes": partition.tiered_bytes, "journal": partition.journal,
                "leaderEpoch": partition.leader_epoch,
            })
        })
        .collect();
    if output == Output::Json {
        outln!("{:#}", json!({"topic": topic_json(&topic), "partitions": partitions}));
        return Ok(());
    }
    print_topics(output, "", std::slice::from_ref(&topic));
    outln!();
    let rows: Vec<Vec<String>> = described
        .partitions
        .iter()
        .map(|partition| {
            vec![
                partition.partition.to_string(),
                partition.log_start_offset.to_string(),
                partition.high_watermark.to_string(),
                partition.tiered_end_offset.to_string(),
                human_bytes(partition.local_bytes),
                human_bytes(partition.tiered_bytes),
                partition.journal.to_string(),
            ]
        })
        .collect();
    print(output, &Value::Null, &["PARTITION", "FIRST", "END", "TIERED UP TO", "ON DISK", "IN STORE", "JOURNAL"], &rows);
    Ok(())
}

/// A topic as JSON, with Kubernetes' spelling of names.
pub(crate) fn topic_json(topic: &v1::Topic) -> Value {
    let settings = topic.settings.clone().unwrap_or_default();
    json!({
        "name": topic.name, "topicUid": uid(topic),
        "revision": topic.revision, "partitions": settings.partitions, "retentionMs": settings.retention_ms,
        "retentionBytesPerPartition": settings.retention_bytes_per_partition, "maxMessageBytes": settings.max_message_bytes,
        "timestampType": settings.timestamp_type().as_str_name(), "sealBytes": settings.seal_bytes, "sealAgeMs": settings.seal_age_ms,
        "placementGroup": settings.placement_group, "createTimeMs": topic.create_time_ms, "deleteTimeMs": topic.delete_time_ms,
        "restorableUntilMs": topic.restorable_until_ms,
    })
}

fn uid(topic: &v1::Topic) -> String {
    Uuid::from_slice(&topic.topic_uid).map(|uid| uid.to_string()).unwrap_or_default()
}

/// Prints topics, each with what became of it if anything did.
pub(crate) fn print_topics(output: Output, done: &str, topics: &[v1::Topic]) {
    let json: Vec<Value> = topics.iter().map(topic_json).collect();
    let mut rows: Vec<Vec<String>> = topics
        .iter()
        .map(|topic| {
            let settings = topic.settings.clone().unwrap_or_default();
            let state = if !done.is_empty() {
                done
            } else if topic.delete_time_ms.is_some() {
                "deleted"
            } else {
                "ready"
            };
            vec![
                topic.name.clone(),
                settings.partitions.unwrap_or_default().to_string(),
                format_duration_ms(settings.retention_ms.and_then(|ms| u64::try_from(ms).ok())),
                format_bytes(settings.retention_bytes_per_partition),
                state.to_owned(),
                uid(topic),
            ]
        })
        .collect();
    // The name alone does not tell deleted topics apart.
    let columns = if topics.iter().any(|topic| topic.delete_time_ms.is_some()) { 6 } else { 5 };
    rows.iter_mut().for_each(|row| row.truncate(columns));
    let header = ["TOPIC", "PARTITIONS", "RETENTION", "BYTES/PARTITION", "STATE", "UID"];
    print(output, &Value::Array(json), &header[..columns], &rows);
}

/// Flags as a message, with the names of the fields that they set.
fn settings_message(args: &TopicSettingArgs) -> Result<(v1::TopicSettings, Vec<String>)> {
    let mut settings = v1::TopicSettings { partitions: args.partitions, ..Default::default() };
    let mut paths: Vec<&str> = args.partitions.iter().map(|_| "partitions").collect();
    if let Some(Bound(bound)) = args.retention {
        settings.retention_ms = bound.map(i64::try_from).transpose().context("--retention is too long")?;
        paths.push("retention_ms");
    }
    if let Some(Bound(bound)) = args.retention_bytes {
        settings.retention_bytes_per_partition = bound;
        paths.push("retention_bytes_per_partition");
    }
    if let Some(Bound(bound)) = args.max_message_bytes {
        settings.max_message_bytes = bound.map(u32::try_from).transpose().context("--max-message-bytes is too large")?;
        paths.push("max_message_bytes");
    }
    if let Some(by_broker) = args.log_append_time {
        settings.set_timestamp_type(if by_broker { v1::TimestampType::LogAppendTime } else { v1::TimestampType::CreateTime });
        paths.push("timestamp_type");
    }
    if let Some(Bound(bound)) = args.seal_bytes {
        settings.seal_bytes = bound;
        paths.push("seal_bytes");
    }
    if let Some(Bound(bound)) = args.seal_age {
        settings.seal_age_ms = bound;
        paths.push("seal_age_ms");
    }
    if let Some(group) = &args.placement_group {
        settings.placement_group = Some(group.clone());
        paths.push("placement_group");
    }
    Ok((settings, paths.into_iter().map(str::to_owned).collect()))
}
