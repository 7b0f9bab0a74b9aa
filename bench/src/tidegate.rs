//! The driver of Tidegate: ProduceStream and Subscribe, framed by hand so that a batch is written into one buffer and sent.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tidegate_client::{Client, Transport};
use tidegate_proto::errors::Failure;
use tidegate_proto::framing::{Messages, PREFIX_BYTES};
use tidegate_proto::operator::v1::cluster_service_client::ClusterServiceClient;
use tidegate_proto::operator::v1::{
    ClusterBrokerState, ClusterJournal, DescribeClusterRequest, DescribeClusterResponse, SetBrokerStateRequest,
    SetReplicationFactorRequest,
};
use tidegate_proto::v1;
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_proto::v1::subscribe_response::Event;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use crate::driver::{Driver, Leaders, Ready, Until};
use crate::flight::{Flight, Outgoing, Reading};

/// Tag of `ProduceStreamRequest.batches` (field 15, bytes), its greatest field number.
const BATCHES: u8 = (15 << 3) | 2;
/// The largest message taken.
const MESSAGE_BYTES: usize = 64 << 20;
/// How long brokers may take to share the work.
const SPREAD: std::time::Duration = std::time::Duration::from_secs(120);
/// How often is told what is waited for.
const TELL: std::time::Duration = std::time::Duration::from_secs(5);
/// Frames between the driver and its connection.
const QUEUED: usize = 4;

/// Where a broker listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: String,
    pub(crate) operator: String,
}

/// A hub: a client of each of its brokers, by their numbers from 1.
#[derive(Debug)]
pub(crate) struct Tidegate {
    clients: Vec<Client>,
    operators: Vec<Channel>,
    replicas: u16,
    leaders: Leaders,
}

impl Tidegate {
    pub(crate) async fn connect(addresses: &[Addresses], replicas: u16) -> Result<Tidegate> {
        let clients = addresses.iter().map(|addresses| Client::connect(addresses.client.as_str()));
        let clients = futures::future::try_join_all(clients).await?;
        let operators = addresses.iter().map(|addresses| Ok(Endpoint::from_shared(addresses.operator.clone())?.connect_lazy()));
        Ok(Tidegate { clients, operators: operators.collect::<Result<_>>()?, replicas, leaders: Leaders::default() })
    }

    /// The hub as a broker sees it.
    pub(crate) async fn describe(&self, asked: usize) -> Result<DescribeClusterResponse> {
        let mut service = ClusterServiceClient::new(self.operators[asked].clone()).max_decoding_message_size(MESSAGE_BYTES);
        Ok(service.describe_cluster(DescribeClusterRequest {}).await?.into_inner())
    }

    /// The leader of each partition as a broker knows them, or that there is none.
    async fn ask_leaders(&self, asked: usize, topic: &str) -> Result<Vec<Result<usize>>> {
        let request = v1::GetMetadataRequest { topics: vec![topic.to_owned()], exclude_topics: false };
        let mut service = MetadataServiceClient::new(self.clients[asked].transport()).max_decoding_message_size(MESSAGE_BYTES);
        let answer = service.get_metadata(request).await?.into_inner();
        let found = answer.topics.first().context("no topic in the answer")?;
        let leader = |partition: &v1::PartitionMetadata| {
            let leader = partition.leader.with_context(|| format!("partition {} has no leader", partition.partition))?;
            usize::try_from(leader)?.checked_sub(1).context("brokers count from 1")
        };
        Ok(found.partitions.iter().map(leader).collect())
    }

    /// How many data journals each broker leads; fails while one has no leader or fewer replicas in sync than it shall have.
    async fn led(&self) -> Result<Vec<usize>> {
        let hub = self.describe(0).await?;
        ensure!(hub.replication_factor == u32::from(self.replicas), "the hub keeps {} replicas", hub.replication_factor);
        let mut led = vec![0usize; self.clients.len()];
        for journal in hub.journals.iter().filter(|journal| journal.journal > 0) {
            let in_sync = journal.replicas.iter().filter(|replica| replica.votes && replica.in_sync).count();
            ensure!(in_sync == usize::from(self.replicas), "journal {} has {in_sync} replicas in sync", journal.journal);
            let leader = journal.leader.and_then(|leader| usize::try_from(leader).ok()?.checked_sub(1));
            *leader
                .and_then(|leader| led.get_mut(leader))
                .with_context(|| format!("journal {}: no leader", journal.journal))? += 1;
        }
        Ok(led)
    }

    /// Fails while the hub is not whole, or brokers lead very unlike numbers of journals.
    async fn is_spread(&self) -> Result<()> {
        let led = self.led().await?;
        // The hub leaves it at that: the busiest broker leads at most a fifth more than the mean.
        let (least, most) = (led.iter().min().copied().unwrap_or(0), led.iter().max().copied().unwrap_or(0));
        let all: usize = led.iter().sum();
        ensure!(least > 0 && most * led.len() * 4 <= 5 * (all + 1) + 4 * led.len(), "brokers lead {led:?} journals");
        Ok(())
    }

    /// Asks for the replicas, which a new hub has one of, and waits until the hub is whole and its leaders are spread.
    pub(crate) async fn spread(&self) -> Result<()> {
        let request = SetReplicationFactorRequest { replication_factor: u32::from(self.replicas), context: None };
        ClusterServiceClient::new(self.operators[0].clone()).set_replication_factor(request).await?;
        let start = std::time::Instant::now();
        let mut told = start;
        while let Err(error) = self.is_spread().await {
            ensure!(start.elapsed() < SPREAD, "after {SPREAD:?}: {error:#}");
            if told.elapsed() > TELL {
                told = std::time::Instant::now();
                eprintln!("after {} s, waiting for the hub: {error:#}", start.elapsed().as_secs());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        eprintln!("the hub is whole and its leaders are spread after {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Opens a streaming call: its answers as they come.
async fn call(mut transport: Transport, path: &str, body: Body) -> Result<Body> {
    let request = http::Request::builder()
        .method(http::Method::POST)
        .version(http::Version::HTTP_2)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(body)?;
    let response = transport.ready().await?.call(request).await?;
    check(response.headers())?;
    Ok(Body::new(response.into_body()))
}

/// Fails if these headers or trailers say so.
fn check(headers: &http::HeaderMap) -> Result<()> {
    match tonic::Status::from_header_map(headers) {
        Some(status) if status.code() != tonic::Code::Ok => bail!("{}: {}", status.code(), status.message()),
        _ => Ok(()),
    }
}

/// The next message of a body; `None` at its end.
async fn next_message<T: Message + Default>(body: &mut Body, messages: &mut Messages<T>) -> Result<Option<T>> {
    loop {
        if let Some((message, _)) = messages.next_message()? {
            return Ok(Some(message));
        }
        let Some(frame) = body.frame().await else { return Ok(None) };
        let frame = frame?;
        if let Some(trailers) = frame.trailers_ref() {
            check(trailers)?;
        }
        if let Ok(data) = frame.into_data() {
            messages.push(data);
        }
    }
}

/// One frame: prefix, head and batch in one buffer.
fn frame(topic: &str, flight: &Flight, outgoing: Outgoing) -> Result<Bytes> {
    let head = v1::ProduceStreamRequest {
        request_id: outgoing.stamp.number,
        topic: topic.to_owned(),
        partition: outgoing.partition,
        ..v1::ProduceStreamRequest::default()
    };
    let batch_bytes = flight.templates.bytes_of(outgoing.partition);
    let message_bytes = head.encoded_len() + 1 + encoded_len_varint(batch_bytes as u64) + batch_bytes;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message_bytes);
    out.put_u8(0);
    out.put_u32(u32::try_from(message_bytes)?);
    head.encode(&mut out)?;
    out.put_u8(BATCHES);
    encode_varint(batch_bytes as u64, &mut out);
    flight.put(&mut out, outgoing);
    Ok(out.freeze())
}

#[async_trait]
impl Driver for Tidegate {
    async fn is_up(&self, broker: usize) -> Result<()> {
        let request = v1::GetMetadataRequest { topics: Vec::new(), exclude_topics: true };
        MetadataServiceClient::new(self.clients[broker].transport()).get_metadata(request).await?;
        Ok(())
    }

    async fn is_in_sync(&self) -> Result<()> {
        self.led().await.map(drop)
    }

    async fn set_draining(&self, broker: usize, draining: bool) -> Result<()> {
        let state = if draining { ClusterBrokerState::Draining } else { ClusterBrokerState::Active };
        let request = SetBrokerStateRequest { broker_id: u32::try_from(broker + 1)?, state: state.into(), context: None };
        ClusterServiceClient::new(self.operators[0].clone()).set_broker_state(request).await?;
        Ok(())
    }

    async fn make_way(&self, from: usize) -> Result<()> {
        self.set_draining(from, true).await
    }

    async fn left_on(&self, _topic: &str, _partitions: u32, from: usize) -> Result<usize> {
        let hub = self.describe(0).await?;
        let from = u32::try_from(from + 1)?;
        let data = hub.journals.iter().filter(|journal| journal.journal > 0);
        let short = |journal: &ClusterJournal| {
            let voting = journal.replicas.iter().filter(|replica| replica.broker != from && replica.votes && replica.in_sync);
            usize::from(self.replicas).saturating_sub(voting.count())
        };
        let there = |journal: &ClusterJournal| journal.replicas.iter().filter(|replica| replica.broker == from).count();
        Ok(data.map(|journal| short(journal) + there(journal)).sum())
    }

    async fn copied_bytes(&self) -> Result<Option<u64>> {
        let hub = self.describe(0).await?;
        Ok(Some(hub.brokers.iter().filter_map(|broker| broker.copied_bytes).sum()))
    }

    async fn create_topic(&self, name: &str, partitions: u32) -> Result<()> {
        let settings = v1::TopicSettings { partitions: Some(partitions), ..v1::TopicSettings::default() };
        let request = v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: false };
        self.clients[0].admin().create_topic(request).await?;
        Ok(())
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = v1::DeleteTopicRequest { name: name.to_owned(), ..v1::DeleteTopicRequest::default() };
        self.clients[0].admin().delete_topic(request).await?;
        Ok(())
    }

    async fn leaders(&self, topic: &str, partitions: u32) -> Result<Vec<usize>> {
        let leaders = self.ask_leaders(0, topic).await?;
        ensure!(leaders.len() == partitions as usize, "{topic} has {} partitions", leaders.len());
        let leaders = leaders.into_iter().collect::<Result<Vec<_>>>()?;
        self.leaders.note(topic, &leaders);
        Ok(leaders)
    }

    async fn leader(&self, asked: usize, topic: &str, partition: i32) -> Result<usize> {
        let leaders = self.ask_leaders(asked, topic).await?;
        leaders.into_iter().nth(usize::try_from(partition)?).context("no such partition")?
    }

    async fn append(&self, broker: usize, topic: &str, partition: i32, batch: Bytes) -> Result<()> {
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition),
            payload: Some(v1::produce_request::Payload::Batches(batch)),
            ..v1::ProduceRequest::default()
        };
        let mut service = ProducerServiceClient::new(self.clients[broker].transport());
        let answer = service.produce(request).await?.into_inner();
        match answer.results.into_iter().find_map(|result| result.error) {
            Some(error) => Err(Failure::from(error).into()),
            None => Ok(()),
        }
    }

    async fn produce(&self, topic: &str, flight: Arc<Flight>) -> Result<()> {
        let leader = &self.clients[self.leaders.of(topic, flight.partition())];
        let (frames, queue) = mpsc::channel::<Bytes>(QUEUED);
        let body = StreamBody::new(ReceiverStream::new(queue).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        let send = async {
            while let Some(outgoing) = flight.next().await {
                frames.send(frame(topic, &flight, outgoing)?).await.context("the stream was closed")?;
            }
            // Ends the request: the hub acknowledges what it has and ends the stream.
            drop(frames);
            anyhow::Ok(())
        };
        let take = async {
            let mut body = call(leader.new_transport(), "/tidegate.v1.ProducerService/ProduceStream", Body::new(body)).await?;
            let mut messages = Messages::<v1::ProduceStreamResponse>::new(MESSAGE_BYTES);
            while let Some(message) = next_message(&mut body, &mut messages).await? {
                for ack in message.acks {
                    if let Some(error) = ack.error {
                        return Err(Failure::from(error).into());
                    }
                    flight.acknowledge(ack.request_id)?;
                }
            }
            ensure!(flight.is_done(), "the stream ended with batches on their way");
            anyhow::Ok(())
        };
        tokio::try_join!(send, take).map(drop)
    }

    async fn consume(
        &self,
        topic: &str,
        partitions: &[i32],
        mut records: Until,
        mut reading: Reading,
        ready: Ready,
    ) -> Result<Reading> {
        let position = v1::position::Position::Named(v1::NamedPosition::Earliest.into());
        let subscription = v1::Subscription {
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
            start: Some(v1::Position { position: Some(position) }),
            ..v1::Subscription::default()
        };
        let request = v1::SubscribeRequest {
            subscriptions: vec![subscription],
            format: v1::RecordFormat::Batches.into(),
            ..v1::SubscribeRequest::default()
        };
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(request.encoded_len())?);
        request.encode(&mut bytes)?;
        let body = Body::new(http_body_util::Full::new(bytes.freeze()));
        let leader = &self.clients[self.leaders.of(topic, partitions.first().copied().unwrap_or(0))];
        let mut body = call(leader.new_transport(), "/tidegate.v1.ConsumerService/Subscribe", body).await?;
        let mut messages = Messages::<v1::SubscribeResponse>::new(MESSAGE_BYTES);
        let _ = ready.send(());
        while reading.records < *records.borrow() {
            let message = tokio::select! {
                biased;
                message = next_message(&mut body, &mut messages) => message?.context("the subscription ended")?,
                changed = records.changed() => { changed?; continue }
            };
            if let Some(Event::Data(data)) = message.event {
                if let Some(error) = data.error {
                    return Err(Failure::from(error).into());
                }
                reading.take(data.partition, &data.batches)?;
            }
        }
        Ok(reading)
    }
}
