//! The consumers' side, and metadata.

use std::pin::Pin;

use bytes::BytesMut;
use futures::Stream;
use tidegate_client::proto::errors::{Failure, Reason};
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::position::Position;
use tidegate_client::proto::v1::subscribe_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Hub;

impl Hub {
    fn resolve(&self, topic: &str, partition: i32, start: Option<v1::Position>) -> Result<i64, Failure> {
        let state = self.state.lock();
        let Some(log) = state.logs.get(&(topic.to_owned(), partition)) else {
            return Err(Failure::new(Reason::UnknownTopic, format!("no {topic}/{partition}")).with("topic", topic));
        };
        match start.and_then(|start| start.position) {
            Some(Position::Offset(offset)) if (log.start..=log.end).contains(&offset) => Ok(offset),
            Some(Position::Offset(offset)) => {
                Err(Failure::new(Reason::OffsetOutOfRange, format!("{offset} is not in {}..={}", log.start, log.end)))
            }
            Some(Position::Named(named)) if named == i32::from(v1::NamedPosition::Earliest) => Ok(log.start),
            _ => Ok(log.end),
        }
    }

    /// Up to two batches from the one that holds the offset.
    fn data(&self, topic: &str, partition: i32, offset: i64) -> v1::FetchedData {
        let state = self.state.lock();
        let log = &state.logs[&(topic.to_owned(), partition)];
        let first = log.batches.partition_point(|(base, _)| *base <= offset).saturating_sub(1);
        let mut bytes = BytesMut::new();
        let mut next = offset;
        if offset < log.end {
            for (index, (_, batch)) in log.batches.iter().enumerate().skip(first).take(2) {
                bytes.extend_from_slice(batch);
                next = log.batches.get(index + 1).map_or(log.end, |(base, _)| *base);
            }
        }
        v1::FetchedData {
            topic: topic.to_owned(),
            partition,
            high_watermark: log.end,
            log_start_offset: log.start,
            next_offset: next,
            batches: bytes.freeze(),
            ..Default::default()
        }
    }

    /// Feeds a subscription until it is cut or, with `until_end`, has reached its ends.
    async fn feed(
        self,
        mut places: Vec<(String, i32, i64, i64)>,
        until_end: bool,
        answers: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
    ) {
        let mut changed = self.changed.subscribe();
        loop {
            let mut moved = false;
            for (topic, partition, offset, end) in &mut places {
                if until_end && *offset >= *end {
                    continue;
                }
                let data = self.data(topic, *partition, *offset);
                if data.batches.is_empty() {
                    continue;
                }
                moved = true;
                *offset = data.next_offset;
                let message = v1::SubscribeResponse { event: Some(Event::Data(data)) };
                if answers.send(Ok(message)).await.is_err() {
                    return;
                }
                let faults = self.state.lock().faults;
                if self.state.lock().chance(faults.cut_subscription) {
                    let _ = answers.send(Err(Status::unavailable("cut by chance"))).await;
                    return;
                }
            }
            if until_end && places.iter().all(|(_, _, offset, end)| offset >= end) {
                return;
            }
            if !moved {
                tokio::select! {
                    _ = changed.changed() => {}
                    () = answers.closed() => return,
                }
            }
        }
    }
}

#[tonic::async_trait]
impl v1::consumer_service_server::ConsumerService for Hub {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Failure::new(Reason::Unsupported, "the client does not use it").into_status())
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let until_end = request.mode() == v1::SubscribeMode::UntilEnd;
        let mut places = Vec::new();
        let mut opened = v1::SubscribeOpened::default();
        for subscription in request.subscriptions {
            for partition in subscription.partitions {
                let topic = subscription.topic.clone();
                let offset = self.resolve(&topic, partition, subscription.start)?;
                let end = self.state.lock().logs[&(topic.clone(), partition)].end;
                opened.partitions.push(v1::SubscribeProgress {
                    topic: topic.clone(),
                    partition,
                    next_offset: offset,
                    high_watermark: end,
                    ..Default::default()
                });
                places.push((topic, partition, offset, end));
            }
        }
        let (answers, receiver) = mpsc::channel(4);
        let first = v1::SubscribeResponse { event: Some(Event::Opened(opened)) };
        answers.send(Ok(first)).await.unwrap();
        tokio::spawn(self.clone().feed(places, until_end, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_offsets(&self, request: Request<v1::ListOffsetsRequest>) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let offsets = request.into_inner().partitions.into_iter().map(|asked| {
            let found = self.resolve(&asked.topic, asked.partition, asked.position);
            let (offset, error) = match found {
                Ok(offset) => (offset, None),
                Err(failure) => (-1, Some(failure.into())),
            };
            v1::ListedOffset { topic: asked.topic, partition: asked.partition, offset, error, ..Default::default() }
        });
        Ok(Response::new(v1::ListOffsetsResponse { offsets: offsets.collect() }))
    }
}

#[tonic::async_trait]
impl v1::metadata_service_server::MetadataService for Hub {
    async fn get_metadata(&self, request: Request<v1::GetMetadataRequest>) -> Result<Response<v1::GetMetadataResponse>, Status> {
        let mut state = self.state.lock();
        state.metadata_calls += 1;
        let broker = |(number, endpoint): (u32, &String)| v1::Broker { broker_id: number, endpoint: endpoint.clone() };
        let brokers = (1..).zip(&state.brokers).map(broker).collect();
        let topics = request.into_inner().topics.into_iter().map(|name| match state.partitions.get(&name) {
            None => v1::TopicMetadata {
                error: Some(Failure::new(Reason::UnknownTopic, format!("no topic `{name}`")).into()),
                name,
                ..Default::default()
            },
            Some(count) => v1::TopicMetadata {
                partitions: (0..*count)
                    .map(|partition| v1::PartitionMetadata {
                        partition,
                        leader: state.leaders.get(&(name.clone(), partition)).copied(),
                        ..Default::default()
                    })
                    .collect(),
                name,
                max_message_bytes: 64 << 10,
                ..Default::default()
            },
        });
        Ok(Response::new(v1::GetMetadataResponse { topics: topics.collect(), brokers, ..Default::default() }))
    }
}
