//! The producers' side: sequences as Kafka has them, and faults.

use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use rand::RngExt;
use tidegate_client::proto::errors::{Failure, Reason};
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::produce_stream_request::Payload;
use tidegate_model::batch::BatchHeader;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Hub, Log, ProducerState, WINDOW};

/// What happens to a frame.
enum Fate {
    Answer(Box<v1::ProduceAck>),
    Cut,
}

impl Hub {
    fn frame(&self, topic: &str, partition: i32, request_id: u64, bytes: &Bytes) -> Fate {
        let mut state = self.state.lock();
        let faults = state.faults;
        let at = (topic.to_owned(), partition);
        let brokers = state.brokers.len() as u32;
        state.frames += 1;
        if state.dead.contains(&self.number) {
            return Fate::Cut;
        }
        if brokers > 0 && state.chance(faults.move_leader) {
            let other = state.rng.random_range(1..=brokers);
            state.leaders.insert(at.clone(), other);
        }
        let leader = state.leaders.get(&at).copied().filter(|leader| *leader != self.number);
        state.misdirected += u32::from(leader.is_some());
        if let Some(leader) = leader
            && state.chance(faults.refuse_others)
        {
            let endpoint = state.brokers[leader as usize - 1].clone();
            let failure = Failure::new(Reason::NotLeader, "another broker leads").with("leader_endpoint", endpoint);
            let failure = failure.retry_after(std::time::Duration::from_millis(200));
            let ack = v1::ProduceAck { request_id, base_offset: -1, error: Some(failure.into()), ..Default::default() };
            return Fate::Answer(Box::new(ack));
        }
        if state.chance(faults.cut_before) {
            return Fate::Cut;
        }
        let refusal = if state.chance(faults.refuse) {
            Some(Failure::new(Reason::Throttled, "by chance"))
        } else if state.chance(faults.reject) {
            Some(Failure::new(Reason::InvalidBatch, "by chance"))
        } else {
            None
        };
        let forget = state.chance(faults.forget);
        let cut_after = state.chance(faults.cut_after);
        let log = state.logs.get_mut(&(topic.to_owned(), partition)).unwrap();
        if forget {
            log.producers.clear();
        }
        let result = refusal.map_or_else(|| append(log, bytes), Err);
        if result.is_err() {
            state.refusals += 1;
        }
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        if cut_after {
            return Fate::Cut;
        }
        let header = BatchHeader::read(bytes).unwrap();
        let mut ack = v1::ProduceAck { request_id, base_offset: -1, log_start_offset: 0, leader, ..Default::default() };
        match result {
            Ok((base_offset, duplicate)) => {
                ack.base_offset = base_offset;
                ack.duplicate = duplicate;
                ack.record_count = header.record_count as u32;
            }
            Err(failure) => ack.error = Some(failure.into()),
        }
        Fate::Answer(Box::new(ack))
    }
}

fn append(log: &mut Log, bytes: &Bytes) -> Result<(i64, bool), Failure> {
    let header = BatchHeader::read(bytes).unwrap();
    // What a hub checks at its edge: the client must never send anything else.
    let limits = tidegate_model::batch::BatchLimits::default();
    tidegate_model::batch::RecordBatch::parse(bytes.clone(), &limits).unwrap();
    let (id, epoch, sequence) = (header.producer_id.0, header.producer_epoch.0, header.base_sequence.0);
    if id >= 0 {
        let known = log.producers.get(&id).map(|known| known.epoch);
        if known.is_none() && sequence != 0 {
            return Err(Failure::new(Reason::UnknownProducer, format!("producer {id} is not known here")));
        }
        if known.is_none_or(|known| known < epoch) {
            if sequence != 0 {
                return Err(Failure::new(Reason::OutOfSequence, format!("epoch {epoch} begins with {sequence}")));
            }
            log.producers.insert(id, ProducerState { epoch, next: 0, recent: Default::default() });
        }
        let producer = log.producers.get_mut(&id).unwrap();
        if producer.epoch > epoch {
            return Err(Failure::new(Reason::ProducerFenced, "a newer epoch is known"));
        }
        if let Some((_, base)) = producer.recent.iter().find(|(first, _)| *first == sequence) {
            return Ok((*base, true));
        }
        if sequence < producer.next {
            return Ok((-1, true));
        }
        if sequence != producer.next {
            return Err(Failure::new(Reason::OutOfSequence, format!("expected {}, got {sequence}", producer.next)));
        }
        producer.next += header.record_count;
        producer.recent.push_back((sequence, log.end));
        if producer.recent.len() > WINDOW {
            producer.recent.pop_front();
        }
    }
    let base = log.end;
    let mut stored = BytesMut::with_capacity(bytes.len());
    stored.put_i64(base);
    stored.extend_from_slice(&bytes[8..]);
    log.batches.push((base, stored.freeze()));
    log.end += i64::from(header.record_count);
    Ok((base, false))
}

#[tonic::async_trait]
impl v1::producer_service_server::ProducerService for Hub {
    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Failure::new(Reason::Unsupported, "the client does not use it").into_status())
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        if let Some(parent) = request.metadata().get("traceparent") {
            self.state.lock().traceparents.push(parent.to_str().unwrap().to_owned());
        }
        let waits = {
            let mut state = self.state.lock();
            if state.dead.contains(&self.number) {
                return Err(Status::unavailable("dead"));
            }
            state.streams += 1;
            state.first_stream_waits && state.streams == 1
        };
        let mut frames = request.into_inner();
        let (answers, receiver) = mpsc::channel(4);
        let hub = self.clone();
        tokio::spawn(async move {
            let opened = v1::ProduceStreamOpened {
                max_in_flight_bytes: hub.max_in_flight_bytes,
                max_frame_bytes: 16 << 20,
                max_batch_bytes: 1 << 20,
            };
            let first = v1::ProduceStreamResponse { opened: Some(opened), ..Default::default() };
            if answers.send(Ok(first)).await.is_err() {
                return;
            }
            let mut changed = hub.changed.subscribe();
            while let Ok(Some(frame)) = frames.message().await {
                if changed.wait_for(|_| !hub.state.lock().stalled).await.is_err() {
                    return;
                }
                let Some(Payload::Batches(bytes)) = frame.payload else { panic!("the client sends batches") };
                if waits {
                    hub.state.lock().held.push((frame.topic, frame.partition, frame.request_id, bytes));
                    continue;
                }
                match hub.frame(&frame.topic, frame.partition, frame.request_id, &bytes) {
                    Fate::Cut => {
                        let _ = answers.send(Err(Status::unavailable("cut by chance"))).await;
                        return;
                    }
                    Fate::Answer(ack) => {
                        let response = v1::ProduceStreamResponse { acks: vec![*ack], ..Default::default() };
                        if answers.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let request = request.into_inner();
        let held = if request.producer_id.is_some() { std::mem::take(&mut self.state.lock().held) } else { Vec::new() };
        for (topic, partition, request_id, bytes) in held {
            let _nobody_waits = self.frame(&topic, partition, request_id, &bytes);
        }
        let mut state = self.state.lock();
        let (id, epoch) = match request.producer_id {
            Some(id) => {
                let epoch = state.epochs.get_mut(&id).unwrap();
                if Some(i32::from(*epoch)) != request.producer_epoch {
                    return Err(Failure::new(Reason::ProducerFenced, "not the current epoch").into_status());
                }
                *epoch += 1;
                (id, *epoch)
            }
            None => {
                state.next_producer += 1;
                let id = state.next_producer;
                state.epochs.insert(id, 0);
                (id, 0)
            }
        };
        Ok(Response::new(v1::InitProducerResponse {
            producer_id: id,
            producer_epoch: epoch.into(),
            max_in_flight_batches: WINDOW as u32,
        }))
    }
}
