//! `tidegate.peer.v1.Frame` by hand: a message's chunks are written one after the other, and read as one slice of what came in. The same
//! bytes as the generated code's (tested).

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tidegate_proto::peer::v1;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

const ID: u64 = 1 << 3;
const JOURNAL: u64 = 2 << 3;
const MESSAGE: u64 = (15 << 3) | 2;

/// Put together up to this many bytes of small frames.
const GATHER_BYTES: usize = 256 << 10;

/// A request or an answer on a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) id: u64,
    pub(super) journal: u32,
    pub(super) chunks: Vec<Bytes>,
}

impl Frame {
    fn write(&self, out: &mut impl BufMut) {
        for (tag, value) in [(ID, self.id), (JOURNAL, u64::from(self.journal))] {
            if value != 0 {
                encode_varint(tag, out);
                encode_varint(value, out);
            }
        }
        let length: usize = self.chunks.iter().map(Bytes::len).sum();
        if length > 0 {
            encode_varint(MESSAGE, out);
            encode_varint(length as u64, out);
            self.chunks.iter().for_each(|chunk| out.put_slice(chunk));
        }
    }

    fn bytes(&self) -> usize {
        24 + encoded_len_varint(u64::MAX) + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Makes [`Writer`]s and [`Reader`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames;

impl Codec for Frames {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = Writer;
    type Decoder = Reader;

    fn encoder(&mut self) -> Writer {
        Writer
    }

    fn decoder(&mut self) -> Reader {
        Reader
    }
}

#[derive(Debug)]
pub(super) struct Writer;

impl Encoder for Writer {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.bytes());
        frame.write(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(8 << 10, GATHER_BYTES)
    }
}

#[derive(Debug)]
pub(super) struct Reader;

impl Decoder for Reader {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        let whole = bytes.copy_to_bytes(bytes.remaining());
        let frame = v1::Frame::decode(whole).map_err(|error| Status::internal(format!("a peer's frame is damaged: {error}")))?;
        Ok(Some(Frame { id: frame.id, journal: frame.journal, chunks: vec![frame.message] }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on what must not be")]

    use super::*;

    #[test]
    fn frames_are_written_as_the_generated_code_writes_them() {
        let long = Bytes::from(vec![7; 70_000]);
        for (id, journal, chunks) in [
            (0, 0, Vec::new()),
            (1, 2, vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]),
            (u64::MAX, u32::MAX, vec![long.clone(), Bytes::new(), long]),
        ] {
            let mut written = Vec::new();
            let frame = Frame { id, journal, chunks: chunks.clone() };
            frame.write(&mut written);
            let generated = v1::Frame { id, journal, message: Bytes::from(chunks.concat()) };
            assert_eq!(written, generated.encode_to_vec());
            assert!(frame.bytes() >= written.len());
        }
    }
}
