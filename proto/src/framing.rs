//! gRPC messages without copies, for services that are framed by hand: [`Messages`] reads messages from the chunks in which HTTP/2 delivers
//! them, [`subscribe_data`] and [`fetch_response`] write answers whose payload chunks go out as they are. Same bytes on the wire as the
//! generated code; tests hold one against the other.
//!
//! It knows neither HTTP nor status codes of calls. What it hands out shares memory with the chunks it was given, so a small slice
//! keeps its whole chunk: whoever keeps a slice for long copies it.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::errors::{Failure, LIMIT, Reason};
use crate::v1;

/// Bytes before each message: a flag for compression, and the length.
pub const PREFIX_BYTES: usize = 5;

/// Tag of a length-delimited field.
const fn tag(field: u8) -> u8 {
    (field << 3) | 2
}

/// `FetchedData.batches`; the greatest field number, so that it comes last.
const BATCHES: u8 = tag(15);
/// `SubscribeResponse.data`.
const DATA: u8 = tag(2);
/// `FetchResponse.partitions`.
const PARTITIONS: u8 = tag(1);

/// Chunks one after the other, read as one buffer. `copy_to_bytes` copies only what lies across chunks.
#[derive(Debug, Default)]
struct Rope {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advance beyond the end");
        self.len -= count;
        while count > 0 {
            let Some(front) = self.chunks.front_mut() else { return };
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "copy beyond the end");
        if let Some(front) = self.chunks.front_mut().filter(|front| front.len() >= len) {
            let whole = front.split_to(len);
            self.len -= len;
            if front.is_empty() {
                self.chunks.pop_front();
            }
            return whole;
        }
        let mut copy = BytesMut::with_capacity(len);
        copy.put(self.take(len));
        copy.freeze()
    }
}

/// Reads messages from chunks. Payloads that lie within one chunk are slices of it; those across chunks are copied once, into
/// a buffer of exactly their size.
#[derive(Debug)]
pub struct Messages<T> {
    rope: Rope,
    max_message_bytes: usize,
    message: PhantomData<T>,
}

impl<T: Message + Default> Messages<T> {
    /// Takes messages of at most this many bytes.
    pub fn new(max_message_bytes: usize) -> Self {
        Messages { rope: Rope::default(), max_message_bytes, message: PhantomData }
    }

    /// Takes the next chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.rope.len += chunk.len();
            self.rope.chunks.push_back(chunk);
        }
    }

    /// Bytes that wait for the rest of their message. Stays below `max_message_bytes` plus prefix and one chunk if `next` is called after each `push`.
    pub fn buffered_bytes(&self) -> usize {
        self.rope.len
    }

    /// The next whole message, and the bytes it took on the wire. The stream cannot go on after an error.
    ///
    /// # Errors
    /// `MESSAGE_TOO_LARGE` as soon as the prefix says so; `UNSUPPORTED` for a compressed message; `INVALID_ARGUMENT` for bytes that are no such
    /// message.
    pub fn next_message(&mut self) -> Result<Option<(T, usize)>, Failure> {
        let Some((compressed, len)) = self.peek_prefix() else {
            return Ok(None);
        };
        if compressed != 0 {
            let message = "compressed gRPC messages are not taken here; compress the batches instead";
            return Err(Failure::new(Reason::Unsupported, message));
        }
        if len > self.max_message_bytes {
            let limit = self.max_message_bytes;
            let message = format!(
                "a message of {len} bytes is over the limit of {limit} (limits.max_request_bytes): send less at a time, or raise the setting"
            );
            return Err(Failure::new(Reason::MessageTooLarge, message).with(LIMIT, limit));
        }
        if self.rope.len < PREFIX_BYTES + len {
            return Ok(None);
        }
        self.rope.advance(PREFIX_BYTES);
        let message = T::decode((&mut self.rope).take(len))
            .map_err(|error| Failure::new(Reason::InvalidArgument, format!("the bytes are not the expected message: {error}")))?;
        Ok(Some((message, PREFIX_BYTES + len)))
    }

    fn peek_prefix(&self) -> Option<(u8, usize)> {
        let mut prefix = [0; PREFIX_BYTES];
        let bytes = self.rope.chunks.iter().flat_map(|chunk| chunk.iter());
        let mut found = 0;
        for (slot, byte) in prefix.iter_mut().zip(bytes) {
            *slot = *byte;
            found += 1;
        }
        let [compressed, len @ ..] = prefix;
        (found == PREFIX_BYTES).then(|| (compressed, u32::from_be_bytes(len) as usize))
    }
}

/// A framed `SubscribeResponse` with data: `data.batches` is replaced by `payload`, whose chunks go out untouched.
///
/// # Errors
/// `MESSAGE_TOO_LARGE` if it is 4 GiB or more.
pub fn subscribe_data(mut data: v1::FetchedData, payload: Vec<Bytes>) -> Result<Vec<Bytes>, Failure> {
    data.batches = Bytes::new();
    let inner = Inner::new(&data, &payload);
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + 16 + inner.head_bytes);
    put_prefix(&mut head, 1 + encoded_len_varint(inner.total() as u64) + inner.total())?;
    inner.put(&mut head, DATA, &data);
    let mut chunks = Vec::with_capacity(1 + payload.len());
    chunks.push(head.freeze());
    chunks.extend(payload);
    Ok(chunks)
}

/// A framed `FetchResponse`: each partition's `batches` are replaced by its payload, whose chunks go out untouched.
///
/// # Errors
/// `MESSAGE_TOO_LARGE` if it is 4 GiB or more.
pub fn fetch_response(partitions: Vec<(v1::FetchedData, Vec<Bytes>)>) -> Result<Vec<Bytes>, Failure> {
    let partitions: Vec<_> = partitions
        .into_iter()
        .map(|(mut data, payload)| {
            data.batches = Bytes::new();
            (Inner::new(&data, &payload), data, payload)
        })
        .collect();
    let total = partitions.iter().map(|(inner, ..)| 1 + encoded_len_varint(inner.total() as u64) + inner.total()).sum();
    let mut chunks = Vec::new();
    let mut head = BytesMut::new();
    put_prefix(&mut head, total)?;
    for (inner, data, payload) in partitions {
        inner.put(&mut head, PARTITIONS, &data);
        if inner.payload_bytes > 0 {
            chunks.push(head.split().freeze());
            chunks.extend(payload);
        }
    }
    if !head.is_empty() {
        chunks.push(head.freeze());
    }
    Ok(chunks)
}

/// Sizes of a FetchedData whose payload is apart.
struct Inner {
    head_bytes: usize,
    payload_bytes: usize,
}

impl Inner {
    fn new(data: &v1::FetchedData, payload: &[Bytes]) -> Self {
        Inner { head_bytes: data.encoded_len(), payload_bytes: payload.iter().map(Bytes::len).sum() }
    }

    /// Bytes of the message.
    fn total(&self) -> usize {
        // An empty field is left out, as the generated code does.
        let field = if self.payload_bytes == 0 { 0 } else { 1 + encoded_len_varint(self.payload_bytes as u64) };
        self.head_bytes + field + self.payload_bytes
    }

    /// Everything up to the payload, as the field `tag` of an outer message.
    fn put(&self, out: &mut BytesMut, tag: u8, data: &v1::FetchedData) {
        out.put_u8(tag);
        encode_varint(self.total() as u64, out);
        data.encode(out).expect("a BytesMut grows");
        if self.payload_bytes > 0 {
            out.put_u8(BATCHES);
            encode_varint(self.payload_bytes as u64, out);
        }
    }
}

fn put_prefix(out: &mut BytesMut, message_bytes: usize) -> Result<(), Failure> {
    let len = u32::try_from(message_bytes).map_err(|_| {
        Failure::new(Reason::MessageTooLarge, format!("an answer of {message_bytes} bytes; gRPC takes less than 4 GiB"))
    })?;
    out.put_u8(0);
    out.put_u32(len);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_prefix(&mut out, message.encoded_len()).unwrap();
        message.encode(&mut out).unwrap();
        out.to_vec()
    }

    fn frame(request_id: u64, payload: &[u8]) -> v1::ProduceStreamRequest {
        v1::ProduceStreamRequest {
            request_id,
            topic: "clicks".to_owned(),
            partition: 3,
            payload: Some(v1::produce_stream_request::Payload::Batches(Bytes::copy_from_slice(payload))),
            ..Default::default()
        }
    }

    fn read(chunks: Vec<Bytes>) -> Vec<v1::ProduceStreamRequest> {
        let mut messages = Messages::new(1 << 20);
        let mut read = Vec::new();
        for chunk in chunks {
            messages.push(chunk);
            while let Some((message, _)) = messages.next_message().unwrap() {
                read.push(message);
            }
        }
        assert_eq!(messages.buffered_bytes(), 0);
        read
    }

    fn data(high_watermark: i64) -> v1::FetchedData {
        v1::FetchedData { topic: "clicks".to_owned(), partition: 2, high_watermark, next_offset: 9, ..Default::default() }
    }

    proptest! {
        #[test]
        fn messages_are_read_however_they_are_cut(
            sizes in proptest::collection::vec(0_usize..5000, 1..6),
            cuts in proptest::collection::vec(1_usize..3000, 0..40),
        ) {
            let sent: Vec<_> = sizes.iter().enumerate().map(|(id, size)| frame(id as u64, &vec![id as u8; *size])).collect();
            let mut bytes = Bytes::from(sent.iter().flat_map(framed).collect::<Vec<u8>>());
            let mut chunks = Vec::new();
            for cut in cuts {
                chunks.push(bytes.split_to(cut.min(bytes.len())));
            }
            chunks.push(bytes);
            prop_assert_eq!(read(chunks), sent);
        }

        #[test]
        fn answers_are_the_bytes_of_the_generated_code(
            payloads in proptest::collection::vec(proptest::collection::vec(0_usize..3000, 0..4), 0..4),
            high_watermark in any::<i64>(),
        ) {
            let parts: Vec<(v1::FetchedData, Vec<Bytes>)> = payloads
                .iter()
                .map(|sizes| (data(high_watermark), sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect()))
                .collect();
            let whole = |(data, payload): &(v1::FetchedData, Vec<Bytes>)| v1::FetchedData {
                batches: Bytes::from(payload.concat()),
                ..data.clone()
            };
            let expected = v1::FetchResponse { partitions: parts.iter().map(whole).collect() };
            prop_assert_eq!(fetch_response(parts.clone()).unwrap().concat(), framed(&expected));
            for part in parts {
                let event = v1::subscribe_response::Event::Data(whole(&part));
                let expected = v1::SubscribeResponse { event: Some(event) };
                prop_assert_eq!(subscribe_data(part.0, part.1).unwrap().concat(), framed(&expected));
            }
        }

        #[test]
        fn bytes_that_are_no_message_are_refused_or_awaited_and_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut messages = Messages::<v1::ProduceStreamRequest>::new(1 << 10);
            messages.push(Bytes::from(bytes));
            while let Ok(Some(_)) = messages.next_message() {}
        }
    }

    #[test]
    fn a_payload_within_one_chunk_is_not_copied_in_either_direction() {
        let chunk = Bytes::from(framed(&frame(1, &[5; 1000])));
        let inside = chunk.as_ptr_range();
        let message = read(vec![chunk.clone()]).remove(0);
        let Some(v1::produce_stream_request::Payload::Batches(batches)) = message.payload else { panic!("batches") };
        assert!(inside.contains(&batches.as_ptr()));

        let sent = subscribe_data(data(4), vec![batches.clone()]).unwrap();
        assert_eq!(sent.last().unwrap().as_ptr(), batches.as_ptr());
        let sent = fetch_response(vec![(data(4), vec![batches.clone()])]).unwrap();
        assert_eq!(sent.last().unwrap().as_ptr(), batches.as_ptr());
    }

    #[test]
    fn what_is_too_large_or_compressed_is_refused_by_its_prefix() {
        let mut messages = Messages::<v1::ProduceStreamRequest>::new(1000);
        messages.push(Bytes::from_static(&[0, 0, 0, 4, 0]));
        let failure = messages.next_message().unwrap_err();
        assert_eq!((failure.reason, failure.metadata[LIMIT].as_str()), (Reason::MessageTooLarge, "1000"));
        let mut messages = Messages::<v1::ProduceStreamRequest>::new(1000);
        messages.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(messages.next_message().unwrap_err().reason, Reason::Unsupported);
    }
}
