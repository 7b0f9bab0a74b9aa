//! Clients that are slow to go, or go without a word, and a broker that stops meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::{batch, read_all, until, values};
use crate::support::{create_topic, settings, start};

fn frame(request_id: u64, payload: Bytes) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest {
        request_id,
        topic: "events".to_owned(),
        payload: Some(v1::produce_stream_request::Payload::Batches(payload)),
        ..v1::ProduceStreamRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_half_closes_does_not_hold_up_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.shutdown_deadline_ms = 60_000;
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    let (frames, stream) = mpsc::channel(8);
    let mut answers = ProducerServiceClient::new(channel).produce_stream(ReceiverStream::new(stream)).await.unwrap().into_inner();
    frames.send(frame(1, batch(&["kept"], &[1]).into_bytes())).await.unwrap();
    while answers.message().await.unwrap().unwrap().acks.is_empty() {}
    let begun = Instant::now();
    let stopping = tokio::spawn(broker.shutdown());
    // Told, refused what comes late, and then ended from the other side; `frames` stays open all the time.
    let closing = loop {
        if let Some(closing) = answers.message().await.unwrap().unwrap().closing {
            break closing;
        }
    };
    assert!(closing.grace_ms > 0);
    frames.send(frame(2, batch(&["late"], &[1]).into_bytes())).await.unwrap();
    let refused = answers.message().await.unwrap().unwrap().acks.remove(0);
    assert_eq!((refused.request_id, refused.error.unwrap().reason()), (2, Reason::ShuttingDown));
    let ended = Failure::from_status(&answers.message().await.unwrap_err());
    assert_eq!(ended.reason, Reason::ShuttingDown);
    stopping.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "half of the deadline is 30 s, the stop took {:?}", begun.elapsed());
    drop(frames);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disappears_mid_stream_leaves_whole_batches_and_gives_its_room_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    // Room for one request: what one client does not give back, the next has not.
    settings.limits.max_fetch_bytes = settings.limits.max_request_bytes;
    settings.limits.max_in_flight_bytes = u64::from(settings.limits.max_request_bytes);
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    for round in 0..5u64 {
        let channel = crate::support::connect(broker.client_addr).await;
        let (frames, stream) = mpsc::channel(8);
        let mut client = ProducerServiceClient::new(channel);
        let mut answers = client.produce_stream(ReceiverStream::new(stream)).await.unwrap().into_inner();
        for number in 0..20 {
            let value = format!("{round}-{number}-{}", "x".repeat(100_000));
            let _ = frames.send(frame(number, batch(&[&value], &[1]).into_bytes())).await;
        }
        // Some answers have come; then everything of this client is gone at once.
        while answers.message().await.unwrap().unwrap().acks.is_empty() {}
        drop((answers, frames, client));
    }
    let found = values(&read_all(broker.hub(), "events", 0, 0).await);
    assert!(found.len() >= 5 && found.iter().all(|value| value.len() > 100_000), "{}", found.len());
    until("a full request is taken again", async || {
        let large = v1::ProduceRequest {
            topic: "events".to_owned(),
            partition: Some(0),
            payload: Some(v1::produce_request::Payload::Batches(batch(&[&"x".repeat(900_000)], &[1]).into_bytes())),
            ..v1::ProduceRequest::default()
        };
        ProducerServiceClient::new(channel.clone()).produce(large).await.is_ok()
    })
    .await;
    broker.shutdown().await;
}
