//! `ProducerService`: unary appends and producer ids. The stream is in [`super::stream`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::future::join_all;
use tidegate_model::{PartitionId, ProducerEpoch, ProducerId, RecordBatch, partition_for_key};
use tidegate_proto::v1::producer_service_server::ProducerService;
use tidegate_proto::v1::{self, produce_request::Payload};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{Edge, convert, errors, records, stream, trace};
use crate::hub::{Append, Appended, Error, InitProducer, PartitionRef};

/// Longest wait for durability.
const MOST_TIMEOUT_MS: u32 = 300_000;
const DEFAULT_TIMEOUT_MS: u32 = 30_000;

pub(crate) struct Producer(pub(crate) Arc<Edge>);

/// One append of a request and the indexes of its records, where the hub chose the partition.
struct Part {
    append: Append,
    indexes: Vec<u32>,
}

#[tonic::async_trait]
impl ProducerService for Producer {
    async fn produce(&self, request: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        let span = trace::span("Produce", request.metadata());
        self.0.call("Produce", self.append(request.into_inner()).instrument(span)).await
    }

    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let span = trace::span("ProduceStream", request.metadata());
        Ok(Response::new(stream::open(Arc::clone(&self.0), stream::Frames::Decoded(request.into_inner()), span)))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let span = trace::span("InitProducer", request.metadata());
        self.0.call("InitProducer", self.init(request.into_inner()).instrument(span)).await
    }
}

impl Producer {
    async fn append(&self, request: v1::ProduceRequest) -> Result<v1::ProduceResponse, Error> {
        let timeout = match request.timeout_ms {
            0 => DEFAULT_TIMEOUT_MS,
            given if given > MOST_TIMEOUT_MS => {
                return Err(Error::invalid("timeout_ms", format!("{given} is above {MOST_TIMEOUT_MS}")));
            }
            given => given,
        };
        let _room = self.0.admit(prost::Message::encoded_len(&request))?;
        let work = self.append_parts(parts(&self.0, request)?);
        tokio::select! {
            answer = work => answer,
            () = self.0.env.clock.sleep(Duration::from_millis(timeout.into())) => {
                Err(Error::TimedOut { what: format!("the append (timeout_ms {timeout})") })
            }
        }
    }

    async fn append_parts(&self, parts: Vec<Part>) -> Result<v1::ProduceResponse, Error> {
        let appends = parts.into_iter().map(|part| async move {
            let partition = part.append.at.partition;
            (partition, part.indexes, self.0.hub.append(part.append).await)
        });
        let mut done = join_all(appends).await;
        // If nothing at all could be appended, the call fails instead.
        if let Some(place) = done.iter().position(|(.., outcome)| outcome.is_err())
            && done.iter().all(|(.., outcome)| outcome.is_err())
            && let (.., Err(error)) = done.swap_remove(place)
        {
            return Err(error);
        }
        let results = done.into_iter().map(|(partition, indexes, outcome)| self.result(partition, indexes, outcome)).collect();
        Ok(v1::ProduceResponse { results })
    }

    fn result(&self, partition: PartitionId, record_indexes: Vec<u32>, outcome: Result<Appended, Error>) -> v1::ProduceResult {
        match outcome {
            Ok(appended) => v1::ProduceResult {
                partition: partition.0,
                base_offset: appended.base_offset.0,
                record_count: appended.record_count,
                log_append_time_ms: appended.log_append_time.map(|time| time.0),
                log_start_offset: appended.log_start.0,
                leader_epoch: appended.epoch.0,
                duplicate: appended.duplicate,
                error: None,
                record_indexes,
            },
            Err(error) => {
                self.0.note(&error);
                v1::ProduceResult {
                    partition: partition.0,
                    base_offset: -1,
                    log_start_offset: -1,
                    leader_epoch: -1,
                    error: Some(errors::failure(error).into_message()),
                    record_indexes,
                    ..v1::ProduceResult::default()
                }
            }
        }
    }

    async fn init(&self, request: v1::InitProducerRequest) -> Result<v1::InitProducerResponse, Error> {
        let current = match (request.producer_id, request.producer_epoch) {
            (None, None) => None,
            (Some(id), Some(epoch)) => {
                let epoch = i16::try_from(epoch)
                    .map_err(|_| Error::invalid("producer_epoch", format!("{epoch} is not within 0 to 32767")))?;
                Some((ProducerId(id), ProducerEpoch(epoch)))
            }
            _ => return Err(Error::invalid("producer_epoch", "producer_id and producer_epoch go together: give both or none")),
        };
        let asked = InitProducer { name: request.name, window: request.max_in_flight_batches, current };
        let identity = self.0.hub.init_producer(asked).await?;
        Ok(v1::InitProducerResponse {
            producer_id: identity.id.0,
            producer_epoch: identity.epoch.0.into(),
            max_in_flight_batches: identity.window.into(),
        })
    }
}

/// What a unary request appends, by partition.
fn parts(edge: &Edge, request: v1::ProduceRequest) -> Result<Vec<Part>, Error> {
    let given = request.partition;
    let at = |partition| convert::partition(&request.topic, partition, "topic_uid", &request.topic_uid, request.leader_epoch);
    match request.payload {
        None => Err(Error::invalid("payload", "has nothing set: give `records` or `batches`")),
        Some(Payload::Batches(bytes)) => {
            let partition = given.ok_or_else(|| Error::invalid("partition", "is absent: `batches` need one"))?;
            if request.compression != 0 || request.sequence.is_some() {
                return Err(Error::invalid("compression", "and `sequence` are for `records`; batches say both in their headers"));
            }
            let batches = records::parse_batches(edge, bytes)?;
            Ok(vec![Part { append: Append { at: at(partition)?, batches }, indexes: Vec::new() }])
        }
        Some(Payload::Records(list)) => {
            let plain = records::Plain { compression: request.compression, sequence: request.sequence };
            match given {
                Some(partition) => {
                    let at = at(partition)?;
                    let batch = records::build(edge, &at, list.records, &plain)?;
                    Ok(vec![Part { append: Append { at, batches: vec![batch] }, indexes: Vec::new() }])
                }
                None => spread(edge, at(0)?, list.records, &plain),
            }
        }
    }
}

/// Spreads records over partitions: by key as Kafka's Java client does, the rest together to one.
fn spread(edge: &Edge, at: PartitionRef, list: Vec<v1::Record>, plain: &records::Plain) -> Result<Vec<Part>, Error> {
    if plain.sequence.is_some() {
        return Err(Error::invalid("sequence", "needs a `partition`: a sequence counts the records of one partition"));
    }
    if list.is_empty() {
        return Err(Error::invalid("records", "is empty: send at least one record"));
    }
    let partitions = edge.hub.topic(&at.topic)?.settings.partitions;
    let keyless = PartitionId(i32::try_from(edge.env.random.below(partitions.into())).unwrap_or(0));
    let mut by_partition: BTreeMap<PartitionId, (Vec<v1::Record>, Vec<u32>)> = BTreeMap::new();
    for (index, record) in (0u32..).zip(list) {
        let partition = record.key.as_deref().map_or(keyless, |key| partition_for_key(key, partitions));
        let (records, indexes) = by_partition.entry(partition).or_default();
        records.push(record);
        indexes.push(index);
    }
    let parts = by_partition.into_iter().map(|(partition, (list, indexes))| {
        let at = PartitionRef { partition, ..at.clone() };
        let batch: RecordBatch = records::build(edge, &at, list, plain)?;
        Ok(Part { append: Append { at, batches: vec![batch] }, indexes })
    });
    parts.collect()
}
