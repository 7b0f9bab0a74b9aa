//! The few messages of Kafka's protocol that a bulk driver needs: CreateTopics 2, DeleteTopics 1, Produce 3, Fetch 4, Metadata 1,
//! ApiVersions 0, AlterPartitionReassignments 0.
//!
//! All but the last are versions without tagged fields that Kafka 4 still takes. Source: Kafka's protocol guide.

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

pub(crate) const PRODUCE: (i16, i16) = (0, 3);
pub(crate) const FETCH: (i16, i16) = (1, 4);
pub(crate) const METADATA: (i16, i16) = (3, 1);
pub(crate) const API_VERSIONS: (i16, i16) = (18, 0);
pub(crate) const CREATE_TOPICS: (i16, i16) = (19, 2);
pub(crate) const DELETE_TOPICS: (i16, i16) = (20, 1);
pub(crate) const ALTER_PARTITION_REASSIGNMENTS: (i16, i16) = (45, 0);

/// How long the broker may take, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;
/// What a consumer takes at once, and of one partition: Kafka's own defaults (fetch.max.bytes, max.partition.fetch.bytes).
const FETCH_BYTES: i32 = 50 << 20;
const PARTITION_BYTES: i32 = 1 << 20;
/// How long a consumer's fetch waits for data.
pub(crate) const FETCH_WAIT_MS: i32 = 500;

/// Starts a request: four bytes for its length, and its header. [`finish`] fills in the length.
pub(crate) fn begin((key, version): (i16, i16), correlation: i32) -> BytesMut {
    let mut out = BytesMut::with_capacity(1 << 10);
    out.put_i32(0);
    out.put_i16(key);
    out.put_i16(version);
    out.put_i32(correlation);
    put_string(&mut out, "tidegate-bench");
    out
}

/// Fills in the length.
pub(crate) fn finish(mut out: BytesMut) -> Result<Bytes> {
    let length = i32::try_from(out.len() - 4).context("a request of 2 GiB")?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

pub(crate) fn put_string(out: &mut BytesMut, text: &str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

/// A topic with settings.
pub(crate) fn create_topic(
    correlation: i32,
    name: &str,
    partitions: u32,
    replicas: u16,
    settings: &[(&str, &str)],
) -> Result<Bytes> {
    let mut out = begin(CREATE_TOPICS, correlation);
    out.put_i32(1);
    put_string(&mut out, name);
    out.put_i32(i32::try_from(partitions)?);
    out.put_i16(i16::try_from(replicas)?);
    out.put_i32(0);
    out.put_i32(i32::try_from(settings.len())?);
    for (key, value) in settings {
        put_string(&mut out, key);
        put_string(&mut out, value);
    }
    out.put_i32(TIMEOUT_MS);
    out.put_u8(0);
    finish(out)
}

/// Reads the error of the only topic of a CreateTopics answer.
pub(crate) fn created_topic(mut answer: Bytes) -> Result<()> {
    ensure!(answer.try_get_i32()? == 0 && answer.try_get_i32()? == 1, "an unexpected answer to CreateTopics");
    let name = get_string(&mut answer)?;
    let error = answer.try_get_i16()?;
    ensure!(error == 0, "topic {name}: Kafka's error {error}: {}", get_string(&mut answer).unwrap_or_default());
    Ok(())
}

/// Asks who leads a topic's partitions.
pub(crate) fn metadata(correlation: i32, topic: &str) -> Result<Bytes> {
    let mut out = begin(METADATA, correlation);
    out.put_i32(1);
    put_string(&mut out, topic);
    finish(out)
}

/// A partition as Metadata tells of it.
#[derive(Debug)]
pub(crate) struct Led {
    pub(crate) leader: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
}

/// The partitions of the only topic of a Metadata answer.
pub(crate) fn led(mut answer: Bytes) -> Result<Vec<Led>> {
    for _ in 0..answer.try_get_i32()? {
        answer.try_get_i32()?;
        get_string(&mut answer)?;
        answer.try_get_i32()?;
        get_string(&mut answer)?;
    }
    answer.try_get_i32()?;
    ensure!(answer.try_get_i32()? == 1, "an unexpected answer to Metadata");
    let error = answer.try_get_i16()?;
    let topic = get_string(&mut answer)?;
    ensure!(error == 0, "topic {topic}: Kafka's error {error} to Metadata");
    answer.try_get_u8()?;
    let mut partitions = Vec::new();
    for _ in 0..answer.try_get_i32()? {
        let error = answer.try_get_i16()?;
        let (partition, leader) = (answer.try_get_i32()?, answer.try_get_i32()?);
        let mut numbers = || (0..answer.try_get_i32()?).map(|_| Ok(answer.try_get_i32()?)).collect::<Result<Vec<_>>>();
        let (replicas, in_sync) = (numbers()?, numbers()?);
        ensure!(leader >= 0, "partition {partition}: no leader (Kafka's error {error} to Metadata)");
        partitions.push((partition, Led { leader, replicas, in_sync }));
    }
    partitions.sort_by_key(|(partition, _)| *partition);
    Ok(partitions.into_iter().map(|(_, found)| found).collect())
}

/// Gives partitions other replicas: AlterPartitionReassignments 0, whose lengths are one more than they say and whose fields end with a tag.
pub(crate) fn reassign(correlation: i32, topic: &str, partitions: &[(i32, Vec<i32>)]) -> Result<Bytes> {
    let mut out = begin(ALTER_PARTITION_REASSIGNMENTS, correlation);
    out.put_u8(0);
    out.put_i32(TIMEOUT_MS);
    put_compact(&mut out, 1);
    put_compact(&mut out, topic.len());
    out.put_slice(topic.as_bytes());
    put_compact(&mut out, partitions.len());
    for (partition, replicas) in partitions {
        out.put_i32(*partition);
        put_compact(&mut out, replicas.len());
        replicas.iter().for_each(|replica| out.put_i32(*replica));
        out.put_u8(0);
    }
    out.put_u8(0);
    out.put_u8(0);
    finish(out)
}

/// The error of an answer to [`reassign`] as a whole.
pub(crate) fn reassigned(mut answer: Bytes) -> Result<()> {
    answer.try_get_u8()?;
    answer.try_get_i32()?;
    let error = answer.try_get_i16()?;
    ensure!(error == 0, "Kafka's error {error} to AlterPartitionReassignments");
    Ok(())
}

fn put_compact(out: &mut BytesMut, length: usize) {
    let mut rest = length + 1;
    while rest > 127 {
        out.put_u8((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Deletes a topic.
pub(crate) fn delete_topic(correlation: i32, name: &str) -> Result<Bytes> {
    let mut out = begin(DELETE_TOPICS, correlation);
    out.put_i32(1);
    put_string(&mut out, name);
    out.put_i32(TIMEOUT_MS);
    finish(out)
}

/// The part of a Produce request before its partitions: acknowledged by all replicas in sync.
pub(crate) fn begin_produce(correlation: i32, topic: &str, partitions: usize) -> Result<BytesMut> {
    let mut out = begin(PRODUCE, correlation);
    out.put_i16(-1);
    out.put_i16(-1);
    out.put_i32(TIMEOUT_MS);
    out.put_i32(1);
    put_string(&mut out, topic);
    out.put_i32(i32::try_from(partitions)?);
    Ok(out)
}

/// Fails unless all partitions of a Produce answer were stored.
pub(crate) fn check_produced(mut answer: Bytes) -> Result<()> {
    for _ in 0..answer.try_get_i32()? {
        get_string(&mut answer)?;
        for _ in 0..answer.try_get_i32()? {
            let partition = answer.try_get_i32()?;
            let error = answer.try_get_i16()?;
            ensure!(error == 0, "partition {partition}: Kafka's error {error} to Produce");
            answer.try_get_i64()?;
            answer.try_get_i64()?;
        }
    }
    Ok(())
}

/// Reads partitions from offsets on.
pub(crate) fn fetch(correlation: i32, topic: &str, partitions: &[(i32, i64)], wait_ms: i32) -> Result<Bytes> {
    let mut out = begin(FETCH, correlation);
    out.put_i32(-1);
    out.put_i32(wait_ms);
    out.put_i32(1);
    out.put_i32(FETCH_BYTES);
    out.put_u8(0);
    out.put_i32(1);
    put_string(&mut out, topic);
    out.put_i32(i32::try_from(partitions.len())?);
    for (partition, offset) in partitions {
        out.put_i32(*partition);
        out.put_i64(*offset);
        out.put_i32(PARTITION_BYTES);
    }
    finish(out)
}

/// What a Fetch answer holds for each partition.
pub(crate) fn fetched(mut answer: Bytes) -> Result<Vec<(i32, Bytes)>> {
    let mut partitions = Vec::new();
    answer.try_get_i32()?;
    for _ in 0..answer.try_get_i32()? {
        get_string(&mut answer)?;
        for _ in 0..answer.try_get_i32()? {
            let partition = answer.try_get_i32()?;
            let error = answer.try_get_i16()?;
            ensure!(error == 0, "partition {partition}: Kafka's error {error} to Fetch");
            answer.try_get_i64()?;
            answer.try_get_i64()?;
            for _ in 0..answer.try_get_i32()?.max(0) {
                answer.try_get_i64()?;
                answer.try_get_i64()?;
            }
            let bytes = usize::try_from(answer.try_get_i32()?.max(0))?;
            ensure!(bytes <= answer.len(), "a Fetch answer ends early");
            partitions.push((partition, answer.split_to(bytes)));
        }
    }
    Ok(partitions)
}

fn get_string(answer: &mut Bytes) -> Result<String> {
    let length = usize::try_from(answer.try_get_i16()?.max(0))?;
    ensure!(length <= answer.len(), "an answer ends early");
    Ok(String::from_utf8_lossy(&answer.split_to(length)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_it_is() {
        let request = fetch(7, "clicks", &[(3, 42)], 500).unwrap();
        assert_eq!(request[..4], i32::try_from(request.len() - 4).unwrap().to_be_bytes());
        assert_eq!(request[4..12], [0, 1, 0, 4, 0, 0, 0, 7]);
        assert_eq!(request[request.len() - 16..], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 42, 0, 16, 0, 0]);
    }

    #[test]
    fn a_refused_partition_fails_the_answer_and_a_short_one_is_no_panic() {
        let mut answer = BytesMut::new();
        answer.put_i32(1);
        put_string(&mut answer, "clicks");
        answer.put_i32(1);
        answer.put_i32(3);
        answer.put_i16(0);
        answer.put_slice(&[0; 20]);
        check_produced(answer.clone().freeze()).unwrap();
        assert!(check_produced(answer.clone().freeze().slice(..20)).is_err());
        answer[20] = 9;
        assert!(check_produced(answer.freeze()).unwrap_err().to_string().contains("partition 3"));
    }
}
