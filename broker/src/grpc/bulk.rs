//! The bulk calls framed by hand: ProduceStream, Fetch and Subscribe take HTTP/2's chunks as they come and answer with payload chunks as they
//! lie in memory. The other calls of the same services go to the generated code. The bytes on the wire are the same (see
//! `tidegate_proto::framing` and its tests).
//!
//! Very small chunks are put together, for each becomes a DATA frame and peers limit how many tiny ones they take.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::framing::{self, Messages};
use tidegate_proto::v1;
use tidegate_proto::v1::consumer_service_server::ConsumerServiceServer;
use tidegate_proto::v1::producer_service_server::ProducerServiceServer;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tower::Service;
use tracing::Instrument;

use super::consumer::Consumer;
use super::producer::Producer;
use super::subscribe::{self, Sent};
use super::{Edge, stream, trace};

/// Chunks below this size are put together with what follows until there is so much.
const LEAST_FRAME_BYTES: usize = 4096;

type Answer = Result<Response<Body>, Infallible>;

/// `ProducerService`, with ProduceStream framed by hand.
#[derive(Clone)]
pub(crate) struct BulkProducer {
    edge: Arc<Edge>,
    max_message_bytes: usize,
    generated: ProducerServiceServer<Producer>,
}

/// `ConsumerService`, with Fetch and Subscribe framed by hand.
#[derive(Clone)]
pub(crate) struct BulkConsumer {
    edge: Arc<Edge>,
    max_message_bytes: usize,
    generated: ConsumerServiceServer<Consumer>,
}

impl BulkProducer {
    pub(crate) fn new(edge: &Arc<Edge>, max_message_bytes: usize) -> Self {
        let generated = ProducerServiceServer::new(Producer(Arc::clone(edge))).max_decoding_message_size(max_message_bytes);
        BulkProducer { edge: Arc::clone(edge), max_message_bytes, generated }
    }
}

impl BulkConsumer {
    pub(crate) fn new(edge: &Arc<Edge>, max_message_bytes: usize) -> Self {
        let generated = ConsumerServiceServer::new(Consumer(Arc::clone(edge))).max_decoding_message_size(max_message_bytes);
        BulkConsumer { edge: Arc::clone(edge), max_message_bytes, generated }
    }
}

impl NamedService for BulkProducer {
    const NAME: &'static str = ProducerServiceServer::<Producer>::NAME;
}

impl NamedService for BulkConsumer {
    const NAME: &'static str = ConsumerServiceServer::<Consumer>::NAME;
}

impl Service<Request<Body>> for BulkProducer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_bulk(&request, "/tidegate.v1.ProducerService/ProduceStream") {
            return Box::pin(self.generated.call(request));
        }
        let span = trace::span("ProduceStream", &MetadataMap::from_headers(request.headers().clone()));
        let messages = BodyMessages::new(request.into_body(), self.max_message_bytes);
        let answers = stream::open(Arc::clone(&self.edge), stream::Frames::Body(messages), span);
        let chunks = answers.map(|answer| answer.and_then(|answer| frame(&answer)));
        Box::pin(async move { Ok(respond(chunks)) })
    }
}

impl Service<Request<Body>> for BulkConsumer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (edge, most) = (Arc::clone(&self.edge), self.max_message_bytes);
        if is_bulk(&request, "/tidegate.v1.ConsumerService/Fetch") {
            return Box::pin(async move { Ok(fetch(edge, request, most).await.unwrap_or_else(|status| status.into_http())) });
        }
        if is_bulk(&request, "/tidegate.v1.ConsumerService/Subscribe") {
            return Box::pin(async move { Ok(subscribe(edge, request, most).await.unwrap_or_else(|status| status.into_http())) });
        }
        Box::pin(self.generated.call(request))
    }
}

/// Compressed messages (which we never asked for) are left to the generated code, which refuses them as gRPC says.
fn is_bulk(request: &Request<Body>, path: &str) -> bool {
    let plain = request.headers().get("grpc-encoding").is_none_or(|encoding| encoding == "identity");
    plain && request.uri().path() == path
}

async fn fetch(edge: Arc<Edge>, request: Request<Body>, most: usize) -> Result<Response<Body>, Status> {
    let span = trace::span("Fetch", &MetadataMap::from_headers(request.headers().clone()));
    let request: v1::FetchRequest = only_message(request.into_body(), most).await?;
    let consumer = Consumer(Arc::clone(&edge));
    let partitions = edge.call("Fetch", consumer.read(request).instrument(span)).await?.into_inner();
    let chunks = framing::fetch_response(partitions)?;
    Ok(respond(futures::stream::once(async move { Ok(coalesce(chunks)) })))
}

async fn subscribe(edge: Arc<Edge>, request: Request<Body>, most: usize) -> Result<Response<Body>, Status> {
    let span = trace::span("Subscribe", &MetadataMap::from_headers(request.headers().clone()));
    let request: v1::SubscribeRequest = only_message(request.into_body(), most).await?;
    let answers = edge.call("Subscribe", subscribe::open(Arc::clone(&edge), request, span)).await?.into_inner();
    Ok(respond(answers.map(|sent| match sent? {
        Sent::Message(message) => frame(&message),
        Sent::Data(data, payload) => Ok(coalesce(framing::subscribe_data(data, payload)?)),
    })))
}

async fn only_message<T: Message + Default>(body: Body, most: usize) -> Result<T, Status> {
    let mut messages = BodyMessages::new(body, most);
    let absent = || Failure::new(Reason::InvalidArgument, "the request has no message: send one, then half-close").into_status();
    messages.next().await?.ok_or_else(absent)
}

/// Messages of a request's body.
pub(crate) struct BodyMessages<T> {
    body: Body,
    messages: Messages<T>,
    message: PhantomData<T>,
}

impl<T: Message + Default> BodyMessages<T> {
    fn new(body: Body, max_message_bytes: usize) -> Self {
        BodyMessages { body, messages: Messages::new(max_message_bytes), message: PhantomData }
    }

    /// The next message; `None` when the client has half-closed. Cancelled, it loses nothing: what has arrived stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some((message, _)) = self.messages.next_message()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.messages.push(data);
                    }
                }
                Some(Err(status)) => return Err(status),
                None if self.messages.buffered_bytes() == 0 => return Ok(None),
                None => {
                    let message = "the request ended within a message: send all the bytes that its prefix announces";
                    return Err(Failure::new(Reason::InvalidArgument, message).into_status());
                }
            }
        }
    }
}

/// One message with its prefix.
fn frame(message: &impl Message) -> Result<Vec<Bytes>, Status> {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(framing::PREFIX_BYTES + length);
    let announced = u32::try_from(length).map_err(|_| Status::internal("an answer of 4 GiB"))?;
    bytes.extend_from_slice(&[0]);
    bytes.extend_from_slice(&announced.to_be_bytes());
    message.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(vec![bytes.freeze()])
}

/// Puts small chunks together, filling up from the larger one that follows, so that hardly a frame is below [`LEAST_FRAME_BYTES`].
fn coalesce(chunks: Vec<Bytes>) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(chunks.len());
    let mut small = BytesMut::new();
    for mut chunk in chunks {
        if small.is_empty() && chunk.len() >= LEAST_FRAME_BYTES {
            out.push(chunk);
            continue;
        }
        let wanted = LEAST_FRAME_BYTES.saturating_sub(small.len()).min(chunk.len());
        small.extend_from_slice(&chunk.split_to(wanted));
        if small.len() >= LEAST_FRAME_BYTES {
            out.push(small.split().freeze());
        }
        // What is left of it: long enough for a frame of its own, or the beginning of the next.
        if chunk.len() >= LEAST_FRAME_BYTES {
            out.push(chunk);
        } else {
            small.extend_from_slice(&chunk);
        }
    }
    if !small.is_empty() {
        out.push(small.freeze());
    }
    out
}

/// A gRPC answer: the chunks as data, then trailers with the status.
fn respond(messages: impl Stream<Item = Result<Vec<Bytes>, Status>> + Send + 'static) -> Response<Body> {
    let frames = messages.scan(false, |ended, message| {
        let frames = match message {
            _ if *ended => None,
            Ok(chunks) => Some(chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(chunk))).collect::<Vec<_>>()),
            Err(status) => {
                *ended = true;
                Some(vec![Ok(Frame::trailers(trailers(&status)))])
            }
        };
        std::future::ready(frames)
    });
    // An error's trailers end the body; this second set is never sent then, for HTTP/2 ends the stream with the first.
    let end = futures::stream::once(async { Ok(Frame::trailers(trailers(&Status::ok("")))) });
    let body = StreamBody::new(frames.flat_map(futures::stream::iter).chain(end));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from_static("13"));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_put_together_and_large_ones_pass_through() {
        let large = Bytes::from(vec![1u8; 100_000]);
        let chunks: Vec<Bytes> = vec![
            Bytes::from(vec![2u8; 16]),
            large.clone(),
            Bytes::from(vec![3u8; 16]),
            Bytes::from(vec![4u8; 100]),
            large.clone(),
        ];
        let whole = chunks.concat();
        let out = coalesce(chunks);
        assert_eq!(out.concat(), whole);
        assert!(out.iter().all(|chunk| chunk.len() >= LEAST_FRAME_BYTES), "{:?}", out.iter().map(Bytes::len).collect::<Vec<_>>());
        // The rest of a large chunk still shares its memory.
        assert_eq!(out[1].as_ptr(), large[LEAST_FRAME_BYTES - 16..].as_ptr());
        let tiny: Vec<Bytes> = (0..1000).map(|n: u32| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
        assert_eq!(coalesce(tiny.clone()).concat(), tiny.concat());
        assert_eq!(coalesce(tiny).len(), 1);
    }
}
