//! `ConsumerService`: fetches and look-ups. Subscriptions are in [`super::subscribe`].

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tidegate_model::Offset;
use tidegate_proto::v1::consumer_service_server::ConsumerService;
use tidegate_proto::v1::subscribe_response::Event;
use tidegate_proto::v1::{self, RecordFormat};
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::{Edge, convert, errors, records, subscribe, trace};
use crate::chunks;
use crate::hub::{Error, Fetch, FetchPart, Fetched, PartitionRef};

pub(crate) struct Consumer(pub(crate) Arc<Edge>);

#[tonic::async_trait]
impl ConsumerService for Consumer {
    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let span = trace::span("Fetch", request.metadata());
        let work = async {
            let partitions = self.read(request.into_inner()).await?.into_iter().map(|(data, payload)| whole(data, &payload));
            Ok(v1::FetchResponse { partitions: partitions.collect() })
        };
        self.0.call("Fetch", work.instrument(span)).await
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let span = trace::span("Subscribe", request.metadata());
        let edge = Arc::clone(&self.0);
        let answers = self.0.call("Subscribe", subscribe::open(edge, request.into_inner(), span)).await?.into_inner();
        let whole = answers.map(|sent| {
            sent.map(|sent| match sent {
                subscribe::Sent::Message(message) => message,
                subscribe::Sent::Data(data, payload) => v1::SubscribeResponse { event: Some(Event::Data(whole(data, &payload))) },
            })
        });
        Ok(Response::new(Box::pin(whole)))
    }

    async fn list_offsets(&self, request: Request<v1::ListOffsetsRequest>) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let span = trace::span("ListOffsets", request.metadata());
        self.0.call("ListOffsets", self.look_up(request.into_inner()).instrument(span)).await
    }
}

impl Consumer {
    /// What was read, each partition's payload apart from its message.
    pub(crate) async fn read(&self, request: v1::FetchRequest) -> Result<Vec<(v1::FetchedData, Vec<Bytes>)>, Error> {
        let limits = &self.0.limits;
        if request.max_wait_ms > limits.max_wait_ms {
            return Err(Error::invalid(
                "max_wait_ms",
                format!("{} is above limits.max_wait_ms, {}", request.max_wait_ms, limits.max_wait_ms),
            ));
        }
        if request.partitions.is_empty() {
            return Err(Error::invalid("partitions", "is empty: name at least one partition"));
        }
        let max_bytes = capped(request.max_bytes, limits.max_fetch_bytes);
        let format = format(request.format)?;
        let parts = fetch_parts(&request.partitions, max_bytes)?;
        let fetch = Fetch {
            parts,
            max_wait: Duration::from_millis(request.max_wait_ms.into()),
            min_bytes: request.min_bytes.max(1) as usize,
            max_bytes,
        };
        let answers = self.0.hub.fetch(&fetch).await;
        // Charged now and not for the wait: a long poll holds no memory, and what comes from the tail is shared.
        let _room = self.0.admit(answers.iter().flatten().map(|fetched| fetched.bytes).sum())?;
        Ok(fetch.parts.iter().zip(answers).map(|(part, answer)| data(&self.0, &part.at, part.offset, answer, format)).collect())
    }

    async fn look_up(&self, request: v1::ListOffsetsRequest) -> Result<v1::ListOffsetsResponse, Error> {
        if request.partitions.is_empty() {
            return Err(Error::invalid("partitions", "is empty: name at least one partition"));
        }
        let mut offsets = Vec::with_capacity(request.partitions.len());
        for (index, part) in request.partitions.iter().enumerate() {
            let position = convert::position(&format!("partitions[{index}].position"), part.position.as_ref())?;
            let at = convert::partition(&part.topic, part.partition, "", &Bytes::new(), part.leader_epoch)?;
            let topic = part.topic.clone();
            let partition = part.partition;
            offsets.push(match self.0.hub.locate(&at, position).await {
                Ok(located) => v1::ListedOffset {
                    topic,
                    partition,
                    offset: located.offset.0,
                    timestamp_ms: located.timestamp.map(|time| time.0),
                    leader_epoch: located.epoch.0,
                    error: None,
                },
                Err(error) => v1::ListedOffset {
                    topic,
                    partition,
                    offset: -1,
                    timestamp_ms: None,
                    leader_epoch: -1,
                    error: Some(errors::failure(error).into_message()),
                },
            });
        }
        Ok(v1::ListOffsetsResponse { offsets })
    }
}

/// A size that a client asked for: 0 stands for the limit, and more is cut to it.
fn capped(asked: u32, limit: u32) -> usize {
    if asked == 0 { limit as usize } else { asked.min(limit) as usize }
}

fn fetch_parts(given: &[v1::FetchPartition], max_bytes: usize) -> Result<Vec<FetchPart>, Error> {
    let mut seen = BTreeSet::new();
    let mut parts = Vec::with_capacity(given.len());
    for (index, part) in given.iter().enumerate() {
        let field = format!("partitions[{index}]");
        if !seen.insert((part.topic.as_str(), part.partition)) {
            return Err(Error::invalid(field, format!("names partition {} of `{}` a second time", part.partition, part.topic)));
        }
        if part.offset < 0 {
            return Err(Error::invalid(format!("{field}.offset"), format!("{} is below 0", part.offset)));
        }
        let at =
            convert::partition(&part.topic, part.partition, &format!("{field}.topic_uid"), &part.topic_uid, part.leader_epoch)?;
        let own = if part.max_bytes == 0 { max_bytes } else { (part.max_bytes as usize).min(max_bytes) };
        parts.push(FetchPart { at, offset: Offset(part.offset), max_bytes: own });
    }
    Ok(parts)
}

/// The form that a client asks for.
pub(crate) fn format(given: i32) -> Result<RecordFormat, Error> {
    match RecordFormat::try_from(given) {
        Ok(RecordFormat::Records) => Ok(RecordFormat::Records),
        Ok(_) => Ok(RecordFormat::Batches),
        Err(_) => Err(Error::invalid("format", format!("{given} is unknown"))),
    }
}

/// What was read from one partition, as it is sent.
pub(crate) fn data(
    edge: &Edge,
    at: &PartitionRef,
    from: Offset,
    answer: Result<Fetched, Error>,
    format: RecordFormat,
) -> (v1::FetchedData, Vec<Bytes>) {
    let mut data = v1::FetchedData {
        topic: at.topic.to_string(),
        partition: at.partition.0,
        high_watermark: -1,
        log_start_offset: -1,
        last_stable_offset: -1,
        leader_epoch: -1,
        next_offset: from.0,
        ..v1::FetchedData::default()
    };
    match answer.and_then(|fetched| fill(edge, &mut data, from, fetched, format)) {
        Ok(payload) => return (data, payload),
        Err(error) => {
            edge.note(&error);
            if let Error::OffsetOutOfRange { log_start, high_watermark, .. } = &error {
                data.log_start_offset = log_start.0;
                data.high_watermark = high_watermark.0;
            }
            data.error = Some(errors::failure(error).into_message());
        }
    }
    (data, Vec::new())
}

/// One message with its payload in it.
pub(crate) fn whole(data: v1::FetchedData, payload: &[Bytes]) -> v1::FetchedData {
    v1::FetchedData { batches: chunks::join(payload), ..data }
}

fn fill(
    edge: &Edge,
    data: &mut v1::FetchedData,
    from: Offset,
    fetched: Fetched,
    format: RecordFormat,
) -> Result<Vec<Bytes>, Error> {
    (data.log_start_offset, data.high_watermark) = fetched.marks.told();
    data.last_stable_offset = data.high_watermark;
    data.leader_epoch = fetched.marks.epoch.0;
    let payload = if format == RecordFormat::Records {
        let most = edge.limits.max_fetch_bytes as usize;
        let (records, next) = records::decode(edge, &chunks::join(&fetched.chunks), from, most)?;
        data.records = records;
        // What was left out comes with the next read.
        data.next_offset = next.map_or(fetched.next, |next| next.min(fetched.next)).max(from).0;
        Vec::new()
    } else {
        data.next_offset = fetched.next.0;
        fetched.chunks
    };
    Ok(payload)
}
