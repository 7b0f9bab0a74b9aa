//! The few lines of NATS' client protocol that a driver needs: CONNECT, SUB, PUB, PING and PONG out; MSG, HMSG, PING and -ERR in.
//!
//! Source: NATS' client protocol reference. Payloads are taken as they are; headers matter only as flow control (status 100).

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// A message that came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) subject: String,
    /// Where an answer goes; empty if none is wanted.
    pub(crate) reply: String,
    /// The headers' block, `NATS/1.0 …`; empty without.
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

/// The reading side of a connection.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

/// Connects and says who is there.
pub(crate) async fn connect(address: &str) -> Result<(Reader, OwnedWriteHalf)> {
    let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
    stream.set_nodelay(true)?;
    let (stream, mut writer) = stream.into_split();
    let hello = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1,"name":"tidegate-bench","lang":"rust","version":"1"}"#;
    writer.write_all(format!("{hello}\r\n").as_bytes()).await?;
    Ok((Reader { stream, buffer: BytesMut::new() }, writer))
}

/// The line before a payload that is published.
pub(crate) fn publish(subject: &str, reply: &str, payload_bytes: usize) -> String {
    format!("PUB {subject} {reply} {payload_bytes}\r\n")
}

/// What the server sent.
#[derive(Debug)]
pub(crate) enum Line {
    Message(Arrived),
    /// It wants a PONG.
    Ping,
}

impl Reader {
    async fn fill(&mut self) -> Result<bool> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next message or PING; `None` at the end. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            match parse(&mut self.buffer)? {
                Parsed::Line(line) => return Ok(Some(line)),
                Parsed::Nothing => {}
                Parsed::More => {
                    if !self.fill().await? {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// What the beginning of a buffer holds.
#[derive(Debug)]
enum Parsed {
    Line(Line),
    /// A line without meaning here was taken out.
    Nothing,
    More,
}

fn parse(buffer: &mut BytesMut) -> Result<Parsed> {
    let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(Parsed::More) };
    let line = std::str::from_utf8(&buffer[..end]).context("a line that is no text")?.to_owned();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["MSG", subject, _, length] => take(buffer, end, (subject, ""), 0, length.parse()?),
        ["MSG", subject, _, reply, length] => take(buffer, end, (subject, reply), 0, length.parse()?),
        ["HMSG", subject, _, head, length] => take(buffer, end, (subject, ""), head.parse()?, length.parse()?),
        ["HMSG", subject, _, reply, head, length] => take(buffer, end, (subject, reply), head.parse()?, length.parse()?),
        ["-ERR", ..] => bail!("NATS: {line}"),
        ["PING"] => {
            buffer.advance(end + 2);
            Ok(Parsed::Line(Line::Ping))
        }
        _ => {
            buffer.advance(end + 2);
            Ok(Parsed::Nothing)
        }
    }
}

fn take(buffer: &mut BytesMut, end: usize, (subject, reply): (&str, &str), head: usize, length: usize) -> Result<Parsed> {
    let whole = end + 2 + length + 2;
    if buffer.len() < whole {
        buffer.reserve(whole - buffer.len());
        return Ok(Parsed::More);
    }
    let mut frame = buffer.split_to(whole);
    frame.advance(end + 2);
    frame.truncate(length);
    let mut payload = frame.freeze();
    let headers = payload.split_to(head.min(length));
    Ok(Parsed::Line(Line::Message(Arrived { subject: subject.to_owned(), reply: reply.to_owned(), headers, payload })))
}

/// An answer of JetStream: fails with what it says.
pub(crate) fn answer(arrived: &Arrived) -> Result<Value> {
    if arrived.headers.starts_with(b"NATS/1.0 503") {
        bail!("nobody answers: JetStream is not up, or no stream takes the subject");
    }
    let value: Value = serde_json::from_slice(&arrived.payload).context("an answer that is no JSON")?;
    match value.get("error") {
        Some(error) => bail!("JetStream: {error}"),
        None => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_out_of_what_came() {
        let text = b"INFO {\"a\": 1}\r\nPING\r\nMSG a.1 1 5\r\nhe\r\no\r\nHMSG a.2 1 back 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG a 1 9\r\nhalf";
        let mut buffer = BytesMut::from(&text[..]);
        assert!(matches!(parse(&mut buffer).unwrap(), Parsed::Nothing));
        assert!(matches!(parse(&mut buffer).unwrap(), Parsed::Line(Line::Ping)));
        let Parsed::Line(Line::Message(first)) = parse(&mut buffer).unwrap() else { panic!("no message") };
        assert_eq!((first.subject.as_str(), first.reply.as_str(), &first.payload[..]), ("a.1", "", &b"he\r\no"[..]));
        let Parsed::Line(Line::Message(second)) = parse(&mut buffer).unwrap() else { panic!("no message") };
        assert_eq!((second.reply.as_str(), second.headers.len(), &second.payload[..]), ("back", 12, &b"hi"[..]));
        assert!(matches!(parse(&mut buffer).unwrap(), Parsed::More));
        assert!(parse(&mut BytesMut::from(&b"-ERR 'Slow Consumer'\r\n"[..])).is_err());
    }
}
