//! `tidegate apply -f`: makes the hub's topics as manifests say. Applying a file twice changes nothing the second time.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tidegate_crd::{Manifest, ResolvedTopic, TimestampType, parse_manifests};
use tidegate_proto::errors::Reason;
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;

use super::topic::describe_topic;
use crate::args::{ApplyArgs, Output};
use crate::context::{CommandError, connect};
use crate::output::outln;

/// What applying a manifest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The topic is new.
    Created,
    /// Its settings were changed.
    Configured,
    /// It was already so.
    Unchanged,
}

impl Applied {
    fn word(self) -> &'static str {
        match self {
            Applied::Created => "created",
            Applied::Configured => "configured",
            Applied::Unchanged => "unchanged",
        }
    }
}

/// Runs the command. All files are read and checked before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> Result<()> {
    let mut topics = Vec::new();
    for file in &args.files {
        topics.extend(read_topics(file)?);
    }
    if topics.is_empty() {
        bail!("there is no manifest in the files given");
    }
    let mut client = TopicServiceClient::new(connect(&args.connection).await?);
    let mut done = Vec::new();
    for topic in &topics {
        let applied = apply_topic(&mut client, topic, args.dry_run).await?;
        if args.connection.output == Output::Table {
            outln!("topic/{} {}{}", topic.name, applied.word(), if args.dry_run { " (dry run)" } else { "" });
        }
        done.push(json!({"topic": topic.name, "applied": applied.word()}));
    }
    if args.connection.output == Output::Json {
        outln!("{:#}", serde_json::Value::Array(done));
    }
    Ok(())
}

/// Reads a file's topics; each error names the file, the document and the field.
pub(crate) fn read_topics(file: &Path) -> Result<Vec<ResolvedTopic>> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let manifests = parse_manifests(&text).with_context(|| file.display().to_string())?;
    let resolve = |Manifest::Topic(topic)| {
        topic.resolve().map_err(|(field, message)| anyhow::anyhow!("{}: {field}: {message}", file.display()))
    };
    manifests.into_iter().map(resolve).collect()
}

/// Makes one topic as it should be.
pub(crate) async fn apply_topic(
    client: &mut TopicServiceClient<Channel>,
    topic: &ResolvedTopic,
    dry_run: bool,
) -> Result<Applied> {
    let wanted = settings(topic)?;
    let create = v1::CreateTopicRequest { name: topic.name.clone(), settings: Some(wanted.clone()), validate_only: dry_run };
    match client.create_topic(create).await.map_err(CommandError::from) {
        Ok(_) => return Ok(Applied::Created),
        Err(CommandError::Hub(failure)) if failure.reason == Reason::TopicExists => {}
        Err(error) => return Err(error.into()),
    }
    let current = describe_topic(client, &topic.name).await?.topic.unwrap_or_default();
    let changed = changed_fields(&current.settings.unwrap_or_default(), &wanted);
    if changed.is_empty() {
        return Ok(Applied::Unchanged);
    }
    let alter = v1::AlterTopicRequest {
        name: topic.name.clone(),
        settings: Some(wanted),
        update_mask: Some(prost_types::FieldMask { paths: changed.into_iter().map(str::to_owned).collect() }),
        expected_revision: Some(current.revision),
        validate_only: dry_run,
        topic_uid: current.topic_uid,
    };
    client.alter_topic(alter).await.map_err(CommandError::from)?;
    Ok(Applied::Configured)
}

fn settings(topic: &ResolvedTopic) -> Result<v1::TopicSettings> {
    let mut settings = v1::TopicSettings {
        partitions: Some(topic.partitions),
        retention_ms: topic.retention_ms.map(i64::try_from).transpose().context("spec.retention.duration is too long")?,
        retention_bytes_per_partition: topic.retention_bytes,
        max_message_bytes: topic.max_message_bytes,
        seal_bytes: topic.seal_bytes,
        seal_age_ms: topic.seal_age_ms,
        placement_group: topic.placement_group.clone(),
        ..Default::default()
    };
    settings.set_timestamp_type(match topic.timestamp_type {
        TimestampType::CreateTime => v1::TimestampType::CreateTime,
        TimestampType::LogAppendTime => v1::TimestampType::LogAppendTime,
    });
    Ok(settings)
}

/// The fields in which `wanted` differs. The size of messages counts only where the manifest names it.
fn changed_fields(current: &v1::TopicSettings, wanted: &v1::TopicSettings) -> Vec<&'static str> {
    let pairs = [
        ("partitions", current.partitions != wanted.partitions),
        ("retention_ms", current.retention_ms != wanted.retention_ms),
        ("retention_bytes_per_partition", current.retention_bytes_per_partition != wanted.retention_bytes_per_partition),
        ("max_message_bytes", wanted.max_message_bytes.is_some() && current.max_message_bytes != wanted.max_message_bytes),
        ("timestamp_type", current.timestamp_type() != wanted.timestamp_type()),
        ("seal_bytes", current.seal_bytes != wanted.seal_bytes),
        ("seal_age_ms", current.seal_age_ms != wanted.seal_age_ms),
        ("placement_group", current.placement_group != wanted.placement_group),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_differ_are_changed() {
        let current =
            v1::TopicSettings { partitions: Some(3), retention_ms: Some(5), max_message_bytes: Some(9), ..Default::default() };
        let wanted = v1::TopicSettings { partitions: Some(4), retention_ms: Some(5), ..Default::default() };
        assert_eq!(changed_fields(&current, &wanted), ["partitions"]);
        assert!(changed_fields(&current, &current).is_empty());
    }
}
