//! Bytes that are no gRPC, and gRPC that takes too much: the connection or the call ends, with a reason, and everybody else is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_broker::RunningBroker;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidegate_proto::v1::metadata_service_client::MetadataServiceClient;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::common::{batch, until};
use crate::support::{create_topic, settings, start};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS without a setting.
const NO_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// A header of an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HEADERS that end them, of a POST to a method.
fn headers(stream: u32) -> Vec<u8> {
    let path = b"/tidegate.v1.ConsumerService/Fetch";
    let mut block = vec![0x83, 0x86, 0x44, path.len() as u8];
    block.extend_from_slice(path);
    block.extend_from_slice(&[0x41, 1, b'x', 0x5f, 16]);
    block.extend_from_slice(b"application/grpc");
    frame(1, 4, stream, &block)
}

/// Sends bytes, and reads until the other side closes; fails after 30 s.
async fn told(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may close before it has read all.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    let _ = read.expect("the broker must close the connection");
    answer
}

async fn serves(channel: &Channel) {
    MetadataServiceClient::new(channel.clone()).get_metadata(v1::GetMetadataRequest::default()).await.unwrap();
}

fn counted(broker: &RunningBroker, limit: &str) -> bool {
    broker.hub().metrics_text().contains(&format!("tidegate_limited_total{{limit=\"{limit}\"}}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_http_2_is_told_in_his_own_words_and_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let address = broker.client_addr;
    let garbage: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    told(address, &garbage).await;
    told(address, b"PRI * HTTP/2.0\r\n\r\nXX").await;
    told(address, &[0; 1000]).await;
    let http = String::from_utf8(told(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await).unwrap();
    assert!(http.starts_with("HTTP/1.1 400") && http.contains("gRPC") && http.contains("listeners.http"), "{http}");
    // A ClientHello of TLS 1.2; the alert is `handshake_failure`.
    let tls = told(address, &[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x03]).await;
    assert_eq!(tls, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28]);
    assert!(counted(&broker, "not HTTP/2"));
    // Frames that are none after a good beginning.
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(&garbage);
    told(address, &bytes).await;
    serves(&channel).await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_a_second_ends_when_the_time_to_begin_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(broker.client_addr).await.unwrap();
    let mut slow = TcpStream::connect(broker.client_addr).await.unwrap();
    let dripping = async {
        for byte in PREFACE {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        rest(&mut slow).await
    };
    tokio::join!(rest(&mut silent), dripping);
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}: nobody is let go too early", begun.elapsed());
    until("both are counted", async || {
        broker.hub().metrics_text().contains("tidegate_limited_total{limit=\"the time to begin HTTP/2\"} 2")
    })
    .await;
    serves(&channel).await;
    broker.shutdown().await;
}

/// A byte a second of a header block would hold a connection, and the decoder's memory, for ever. Data may come as slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_drip_end_their_connection_when_their_time_is_over_and_dripping_data_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let beginning = [PREFACE, NO_SETTINGS].concat();
    let dripped = async |begins: Vec<u8>, drips: Vec<u8>| {
        let mut stream = TcpStream::connect(broker.client_addr).await.unwrap();
        stream.write_all(&begins).await.unwrap();
        let begun = Instant::now();
        let (mut reading, mut writing) = stream.into_split();
        let drip = async {
            for byte in drips {
                if writing.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let ended = async {
            let mut sink = [0; 4096];
            while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            () = ended => Some(begun.elapsed()),
            () = drip => None,
        }
    };
    // HEADERS whole and without END_HEADERS, then the head of a CONTINUATION that never ends.
    let open = [&beginning[..], &frame(1, 0, 1, &[0x83, 0x86])].concat();
    let dripping_headers = frame(9, 4, 1, &[0; 100]);
    // A request whose message comes byte by byte.
    let request = [&beginning[..], &headers(1), &[0, 0, 24, 0, 1, 0, 0, 0, 1]].concat();
    let (headers, data) = tokio::join!(dripped(open, dripping_headers), dripped(request, vec![0; 24]));
    let ended = headers.expect("the connection is ended");
    assert!(ended >= Duration::from_secs(10), "{ended:?}: nobody is let go too early");
    assert_eq!(data, None, "slow data is no offence");
    until("it is counted", async || counted(&broker, "the time to send headers")).await;
    serves(&channel).await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_and_header_floods_end_the_connection_that_sends_them() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let mut beginning = PREFACE.to_vec();
    beginning.extend_from_slice(NO_SETTINGS);

    let mut resets = beginning.clone();
    for number in 0..20_000u32 {
        resets.extend_from_slice(&headers(2 * number + 1));
        resets.extend_from_slice(&frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    told(broker.client_addr, &resets).await;

    // HEADERS that never end, then CONTINUATION without end.
    let mut flood = beginning.clone();
    flood.extend_from_slice(&frame(1, 0, 1, &[0x83, 0x86]));
    let filler = [&[0x40, 1, b'a', 100][..], &[b'x'; 100]].concat();
    for _ in 0..20_000 {
        flood.extend_from_slice(&frame(9, 0, 1, &filler));
    }
    told(broker.client_addr, &flood).await;

    // More streams at once than limits.max_streams_per_connection allows: those above are refused one by one.
    let mut many = beginning;
    for number in 0..300u32 {
        many.extend_from_slice(&headers(2 * number + 1));
    }
    let mut stream = TcpStream::connect(broker.client_addr).await.unwrap();
    stream.write_all(&many).await.unwrap();
    let mut seen = Vec::new();
    let refused = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap_or(0);
            seen.extend_from_slice(&chunk[..read]);
            if read == 0 || kinds(&seen).any(|kind| kind == RST_STREAM || kind == GOAWAY) {
                return;
            }
        }
    });
    refused.await.expect("the streams above the limit are refused");
    serves(&channel).await;
    broker.shutdown().await;
}

/// The kinds of the frames in what was read.
fn kinds(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = after.get(length..).unwrap_or_default();
        Some(head[3])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_headers_and_deadlines_beyond_the_limits_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.limits.max_request_bytes = 2 << 20;
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    let large = Bytes::from(vec![0; 3 << 20]);
    let request = v1::ProduceRequest {
        topic: "events".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Batches(large.clone())),
        ..v1::ProduceRequest::default()
    };
    let mut producer = ProducerServiceClient::new(channel.clone());
    let failure = Failure::from_status(&producer.produce(request).await.unwrap_err());
    assert_eq!(failure.reason, Reason::MessageTooLarge, "{failure:?}");
    assert!(failure.message.contains("limits.max_request_bytes") && failure.message.contains("send less"), "{failure}");
    let frame = v1::ProduceStreamRequest {
        topic: "events".to_owned(),
        payload: Some(v1::produce_stream_request::Payload::Batches(large)),
        ..v1::ProduceStreamRequest::default()
    };
    let mut answers = producer.produce_stream(tokio_stream::iter([frame])).await.unwrap().into_inner();
    answers.message().await.unwrap();
    let failure = Failure::from_status(&answers.message().await.unwrap_err());
    assert_eq!(
        (failure.reason, failure.metadata["limit"].parse::<usize>().unwrap()),
        (Reason::MessageTooLarge, (2 << 20) + (64 << 10))
    );
    assert!(failure.message.contains("limits.max_request_bytes"), "{failure}");

    let mut consumer = ConsumerServiceClient::new(channel.clone());
    let part = v1::FetchPartition { topic: "events".to_owned(), ..v1::FetchPartition::default() };
    let poll = v1::FetchRequest { partitions: vec![part], max_wait_ms: 30_000, ..v1::FetchRequest::default() };
    let mut heavy = tonic::Request::new(poll.clone());
    heavy.metadata_mut().insert("x-heavy", "h".repeat(100_000).parse().unwrap());
    consumer.fetch(heavy).await.expect_err("headers of 100 kB are above limits.max_headers_bytes");
    let mut hasty = tonic::Request::new(poll);
    hasty.set_timeout(Duration::ZERO);
    let begun = Instant::now();
    let status = consumer.fetch(hasty).await.unwrap_err();
    assert!(matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{status:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "a deadline of zero does not wait for 30 s");
    serves(&channel).await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_compressed_cut_or_none_are_refused_with_a_reason() {
    use http_body_util::Full;
    use tower::{Service, ServiceExt};

    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let send = async |path: &'static str, encoding: &'static str, body: &'static [u8]| {
        let request = http::Request::post(format!("http://{}{path}", broker.client_addr))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", encoding)
            .body(tonic::body::Body::new(Full::new(Bytes::from_static(body))))
            .unwrap();
        let mut channel = channel.clone();
        let response = channel.ready().await.unwrap().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let trailers = http_body_util::BodyExt::collect(body).await.unwrap().trailers().cloned();
        let found = tonic::Status::from_header_map(&head.headers).or_else(|| tonic::Status::from_header_map(&trailers?));
        let status = found.unwrap_or_else(|| panic!("{path}: no status"));
        assert!(!status.details().is_empty(), "{path} {encoding}: no ErrorInfo in {status:?}");
        Failure::from_status(&status)
    };
    let (fetch, produce) = ("/tidegate.v1.ConsumerService/Fetch", "/tidegate.v1.ProducerService/Produce");
    let stream = "/tidegate.v1.ProducerService/ProduceStream";
    for path in [fetch, produce, stream] {
        let failure = send(path, "gzip", &[1, 0, 0, 0, 1, 0]).await;
        assert_eq!(failure.reason, Reason::Unsupported, "{path}: {failure:?}");
        assert!(failure.message.contains("compress"), "{path}: {failure}");
        let cut = send(path, "identity", &[0, 0, 0, 0, 9, 1]).await;
        assert!(matches!(cut.reason, Reason::InvalidArgument | Reason::Unavailable), "{path}: {cut:?}");
        let garbage = send(path, "identity", &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]).await;
        assert_eq!(garbage.reason, Reason::InvalidArgument, "{path}: {garbage:?}");
    }
    let unknown = send("/tidegate.v1.ConsumerService/Burn", "identity", &[0, 0, 0, 0, 0]).await;
    assert_eq!(unknown.reason, Reason::Unsupported, "{unknown:?}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_connections_are_served_and_one_more_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    create_topic(&channel, "events", 1).await;
    let mut hello = PREFACE.to_vec();
    hello.extend_from_slice(NO_SETTINGS);
    let mut open = Vec::new();
    // One is the channel's.
    for _ in 1..2000 {
        let mut stream = TcpStream::connect(broker.client_addr).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        open.push(stream);
    }
    // Each is answered with the server's settings.
    for stream in &mut open {
        let mut head = [0; 9];
        tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut head)).await.expect("it is served").unwrap();
        assert_eq!(head[3], 4, "SETTINGS");
    }
    told(broker.client_addr, &hello).await;
    assert!(counted(&broker, "limits.max_connections"));
    let mut producer = ProducerServiceClient::new(channel.clone());
    let request = v1::ProduceRequest {
        topic: "events".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Batches(batch(&["x"], &[1]).into_bytes())),
        ..v1::ProduceRequest::default()
    };
    producer.produce(request).await.unwrap();
    drop(open);
    // Their places are free again.
    until("another connection is served", async || {
        let Ok(endpoint) = Channel::from_shared(format!("http://{}", broker.client_addr)) else { return false };
        let Ok(channel) = endpoint.connect().await else { return false };
        MetadataServiceClient::new(channel).get_metadata(v1::GetMetadataRequest::default()).await.is_ok()
    })
    .await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_for_probes_waits_for_nobodys_headers_and_takes_few_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let probe = async || {
        String::from_utf8(told(broker.http_addr, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await).unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..128 {
        let mut stream = TcpStream::connect(broker.http_addr).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").await.unwrap();
        open.push(stream);
    }
    until("the port is full", async || probe().await.is_empty()).await;
    assert!(counted(&broker, "128 connections of listeners.http"));
    let begun = Instant::now();
    let mut slow = open.pop().unwrap();
    rest(&mut slow).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    until("others are answered again", async || probe().await.starts_with("HTTP/1.1 200")).await;
    let heavy = [b"GET /livez HTTP/1.1\r\nX-Heavy: ".as_slice(), &[b'h'; 200_000], b"\r\n\r\n"].concat();
    let answer = told(broker.http_addr, &heavy).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "headers of 200 kB are refused");
    serves(&channel).await;
    drop(open);
    broker.shutdown().await;
}
