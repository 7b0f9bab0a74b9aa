//! `tidegate consume`: reads a topic from somewhere until somewhere, and prints it.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::group_service_client::GroupServiceClient;
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tidegate_proto::v1::position::Position as At;
use tonic::transport::Channel;

use super::{interrupted, partition_of, partitions_of};
use crate::args::{ConsumeArgs, EventFormat, Output};
use crate::context::{CommandError, MAX_ANSWER_BYTES, connect};
use crate::input::parse_time;

/// How much of what was printed may be printed again after a crash, in time.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// A place in a topic as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The oldest record kept.
    Earliest,
    /// The next record to come.
    Latest,
    /// An offset, the same in each partition.
    Offset(i64),
    /// The first record at or after a time in milliseconds since 1970.
    Time(i64),
}

/// Reads `earliest`, `latest`, `@OFFSET` or a time.
pub(crate) fn parse_place(text: &str) -> Result<Place> {
    match text {
        "earliest" => Ok(Place::Earliest),
        "latest" => Ok(Place::Latest),
        _ => match text.strip_prefix('@') {
            Some(offset) => match offset.parse() {
                Ok(offset) if offset >= 0 => Ok(Place::Offset(offset)),
                _ => bail!("`{text}` is not an offset: write `@` and a whole number from 0"),
            },
            None => Ok(Place::Time(parse_time(text, None).context("write earliest, latest, @OFFSET or a time")?)),
        },
    }
}

impl From<Place> for v1::Position {
    fn from(place: Place) -> v1::Position {
        let at = match place {
            Place::Earliest => At::Named(v1::NamedPosition::Earliest.into()),
            Place::Latest => At::Named(v1::NamedPosition::Latest.into()),
            Place::Offset(offset) => At::Offset(offset),
            Place::Time(time) => At::TimestampMs(time),
        };
        v1::Position { position: Some(at) }
    }
}

/// Runs the command.
pub(crate) async fn run(args: ConsumeArgs) -> Result<()> {
    let channel = connect(&args.connection).await?;
    let partitions = wanted_partitions(&channel, &args).await?;
    let committed = match &args.group {
        Some(group) => committed_offsets(&channel, group, &args.topic, &partitions).await?,
        None => BTreeMap::new(),
    };
    let ends = match args.until {
        Some(place) => Some(look_up(&channel, &args.topic, &partitions, place).await?),
        None => None,
    };
    let mut consumer = ConsumerServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
    let request = v1::SubscribeRequest {
        subscriptions: subscriptions(&args.topic, &partitions, args.from, &committed),
        format: v1::RecordFormat::Records.into(),
        mode: if args.follow { v1::SubscribeMode::Follow } else { v1::SubscribeMode::UntilEnd }.into(),
        ..Default::default()
    };
    let mut stream = consumer.subscribe(request).await.map_err(CommandError::from)?.into_inner();
    let mut printer = Printer {
        out: BufWriter::new(std::io::stdout().lock()),
        format: args.format.unwrap_or(match args.connection.output {
            Output::Table => EventFormat::Value,
            Output::Json => EventFormat::Json,
        }),
        left: args.max,
        next: BTreeMap::new(),
        ends,
    };
    let mut committing = Committing { channel: &channel, args: &args, done: BTreeMap::new() };
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let mut tick = tokio::time::interval(COMMIT_INTERVAL);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut interrupted => break,
            _ = tick.tick(), if args.follow => {
                committing.commit(&printer.next).await?;
                continue;
            }
            message = stream.message() => message.map_err(CommandError::from)?,
        };
        let Some(message) = message else { break };
        match message.event {
            Some(v1::subscribe_response::Event::Data(data)) => printer.data(&data)?,
            Some(v1::subscribe_response::Event::Closing(_)) => {
                printer.out.flush()?;
                committing.commit(&printer.next).await?;
                return Err(CommandError::Closing.into());
            }
            _ => {}
        }
        if args.follow {
            printer.out.flush()?;
        }
        if printer.is_done(&partitions) {
            break;
        }
    }
    printer.out.flush()?;
    committing.commit(&printer.next).await
}

/// What was printed is committed for the group, if there is one, and not twice.
struct Committing<'a> {
    channel: &'a Channel,
    args: &'a ConsumeArgs,
    done: BTreeMap<i32, i64>,
}

impl Committing<'_> {
    async fn commit(&mut self, next: &BTreeMap<i32, i64>) -> Result<()> {
        if let Some(group) = &self.args.group
            && self.done != *next
        {
            commit(self.channel, group, &self.args.topic, next).await?;
            self.done.clone_from(next);
        }
        Ok(())
    }
}

async fn wanted_partitions(channel: &Channel, args: &ConsumeArgs) -> Result<Vec<i32>> {
    let count = partitions_of(MetadataServiceClient::new(channel.clone()), &args.topic).await?;
    if args.partition.is_empty() {
        return Ok((0..count).collect());
    }
    let wanted: Result<Vec<i32>> = args.partition.iter().map(|partition| partition_of(&args.topic, count, *partition)).collect();
    let mut wanted = wanted?;
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

fn subscriptions(topic: &str, partitions: &[i32], from: Place, committed: &BTreeMap<i32, i64>) -> Vec<v1::Subscription> {
    let one = |partition: &i32| v1::Subscription {
        topic: topic.to_owned(),
        partitions: vec![*partition],
        start: Some(committed.get(partition).map_or(from, |offset| Place::Offset(*offset)).into()),
        ..Default::default()
    };
    partitions.iter().map(one).collect()
}

/// The offset of a place in each partition.
pub(crate) async fn look_up(channel: &Channel, topic: &str, partitions: &[i32], place: Place) -> Result<BTreeMap<i32, i64>> {
    if let Place::Offset(offset) = place {
        return Ok(partitions.iter().map(|partition| (*partition, offset)).collect());
    }
    let one = |partition: &i32| v1::ListOffsetsPartition {
        topic: topic.to_owned(),
        partition: *partition,
        position: Some(place.into()),
        leader_epoch: None,
    };
    let request = v1::ListOffsetsRequest { partitions: partitions.iter().map(one).collect(), ..Default::default() };
    let mut client = ConsumerServiceClient::new(channel.clone());
    let answer = client.list_offsets(request).await.map_err(CommandError::from)?.into_inner();
    let mut found = BTreeMap::new();
    for offset in answer.offsets {
        if let Some(error) = offset.error {
            return Err(CommandError::Hub(error.into()).into());
        }
        found.insert(offset.partition, offset.offset);
    }
    Ok(found)
}

/// What a group committed, for those of the partitions where it did.
pub(crate) async fn committed_offsets(
    channel: &Channel,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>> {
    let partitions = partitions.iter().map(|partition| v1::TopicPartition { topic: topic.to_owned(), partition: *partition });
    let request = v1::FetchOffsetsRequest { group: group.to_owned(), partitions: partitions.collect(), ..Default::default() };
    let answer = GroupServiceClient::new(channel.clone()).fetch_offsets(request).await.map_err(CommandError::from)?.into_inner();
    Ok(answer
        .offsets
        .into_iter()
        .filter(|committed| committed.offset >= 0)
        .map(|committed| (committed.partition, committed.offset))
        .collect())
}

async fn commit(channel: &Channel, group: &str, topic: &str, next: &BTreeMap<i32, i64>) -> Result<()> {
    let one = |(partition, offset): (&i32, &i64)| v1::CommittedOffset {
        topic: topic.to_owned(),
        partition: *partition,
        offset: *offset,
        ..Default::default()
    };
    let request =
        v1::CommitOffsetsRequest { group: group.to_owned(), offsets: next.iter().map(one).collect(), ..Default::default() };
    let answer = GroupServiceClient::new(channel.clone()).commit_offsets(request).await.map_err(CommandError::from)?.into_inner();
    match answer.results.into_iter().find_map(|result| result.error) {
        Some(error) => Err(CommandError::Hub(error.into()).into()),
        None => Ok(()),
    }
}

struct Printer<W: Write> {
    out: W,
    format: EventFormat,
    left: Option<u64>,
    /// Per partition the offset after the last event printed.
    next: BTreeMap<i32, i64>,
    ends: Option<BTreeMap<i32, i64>>,
}

impl<W: Write> Printer<W> {
    fn data(&mut self, data: &v1::FetchedData) -> Result<()> {
        if let Some(error) = &data.error {
            return Err(CommandError::Hub(error.clone().into()).into());
        }
        let end = self.ends.as_ref().and_then(|ends| ends.get(&data.partition)).copied();
        for record in &data.records {
            if self.left == Some(0) || end.is_some_and(|end| record.offset >= end) {
                break;
            }
            self.event(data, record)?;
            self.left = self.left.map(|left| left - 1);
            self.next.insert(data.partition, record.offset + 1);
        }
        if let Some(end) = end
            && data.next_offset >= end
        {
            self.next.entry(data.partition).or_insert(end);
        }
        Ok(())
    }

    /// True when nothing that is still to come would be printed.
    fn is_done(&self, partitions: &[i32]) -> bool {
        let reached = |ends: &BTreeMap<i32, i64>| {
            partitions.iter().all(|partition| {
                let end = ends.get(partition).copied().unwrap_or(0);
                end == 0 || self.next.get(partition).is_some_and(|next| *next >= end)
            })
        };
        self.left == Some(0) || self.ends.as_ref().is_some_and(reached)
    }

    fn event(&mut self, data: &v1::FetchedData, record: &v1::Record) -> Result<()> {
        let value = record.value.as_deref().unwrap_or_default();
        match self.format {
            EventFormat::Raw => self.out.write_all(value)?,
            EventFormat::Value => {
                self.out.write_all(value)?;
                self.out.write_all(b"\n")?;
            }
            EventFormat::KeyValue => {
                self.out.write_all(record.key.as_deref().unwrap_or_default())?;
                self.out.write_all(b"\t")?;
                self.out.write_all(value)?;
                self.out.write_all(b"\n")?;
            }
            EventFormat::Json => {
                let headers: Vec<Value> = record
                    .headers
                    .iter()
                    .map(|header| json!({"key": header.key, "value": header.value.as_deref().map(text_or_base64)}))
                    .collect();
                let event = json!({
                    "topic": data.topic, "partition": data.partition, "offset": record.offset, "timestampMs": record.timestamp_ms,
                    "key": record.key.as_deref().map(text_or_base64), "headers": headers,
                    "value": record.value.as_deref().map(text_or_base64),
                });
                writeln!(self.out, "{event}")?;
            }
        }
        Ok(())
    }
}

/// Text as it is; anything else as `{"base64": …}`, so that no byte is lost.
fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({"base64": BASE64.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(partition: i32, offsets: std::ops::Range<i64>) -> v1::FetchedData {
        let records = offsets.clone().map(|offset| v1::Record { offset, value: Some(vec![b'a'].into()), ..Default::default() });
        v1::FetchedData { partition, records: records.collect(), next_offset: offsets.end, ..Default::default() }
    }

    fn printer(left: Option<u64>, ends: Option<BTreeMap<i32, i64>>) -> Printer<Vec<u8>> {
        Printer { out: Vec::new(), format: EventFormat::Raw, left, next: BTreeMap::new(), ends }
    }

    #[test]
    fn a_place_is_a_word_an_offset_or_a_time() {
        assert_eq!(parse_place("earliest").unwrap(), Place::Earliest);
        assert_eq!(parse_place("@12").unwrap(), Place::Offset(12));
        assert_eq!(parse_place("2015-05-17T10:05:03Z").unwrap(), Place::Time(1_431_857_103_000));
        assert!(parse_place("@-1").is_err());
        assert!(parse_place("yesterday").is_err());
    }

    #[test]
    fn printing_stops_at_the_maximum_and_remembers_where_to_go_on() {
        let mut printer = printer(Some(3), None);
        printer.data(&data(0, 0..5)).unwrap();
        assert_eq!((printer.out.len(), printer.next[&0], printer.is_done(&[0])), (3, 3, true));
    }

    #[test]
    fn printing_stops_at_each_partitions_end() {
        let mut printer = printer(None, Some(BTreeMap::from([(0, 2), (1, 3)])));
        printer.data(&data(0, 0..5)).unwrap();
        assert!(!printer.is_done(&[0, 1]));
        printer.data(&data(1, 0..5)).unwrap();
        assert_eq!((printer.out.len(), printer.is_done(&[0, 1])), (5, true));
    }

    #[test]
    fn bytes_that_are_no_text_are_not_lost() {
        assert_eq!(text_or_base64(b"a"), json!("a"));
        assert_eq!(text_or_base64(&[0xff]), json!({"base64": "/w=="}));
    }
}
