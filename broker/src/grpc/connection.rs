//! One accepted connection: counted, held to beginning HTTP/2 within [`BEGINS_WITHIN`] and to ending each header block within [`HEADERS_WITHIN`].
//!
//! Who speaks something else is told so in its own words where that is cheap (HTTP/1, TLS), and let go. Who says nothing, or a byte a second, is let go
//! when the time is over: it would hold one of `limits.max_connections` otherwise.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::future::BoxFuture;
use tidegate_env::Env;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::frames::Frames;
use crate::metrics::Metrics;

/// A connection must have sent HTTP/2's preface within so long.
pub(super) const BEGINS_WITHIN: Duration = Duration::from_secs(10);
/// A header block, and any other frame but data, must be whole so long after nothing more of it came at once. Data may take its time: it is bounded
/// by windows, and by the pings that a connection must answer.
pub(super) const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first bytes of a TLS record with a ClientHello.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
/// A TLS record with the alert `handshake_failure`.
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// One of `limits.max_connections`.
pub(super) struct Counted {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) metrics: Arc<Metrics>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// A connection that counts.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until the preface is there: how much of it is, and when it must be.
    beginning: Option<Beginning>,
    /// What the server said before (its settings): goes out once it is known that the client understands it.
    held: BytesMut,
    frames: Frames,
    /// When the header block must be whole that is being waited for.
    over: Option<BoxFuture<'static, ()>>,
    env: Env,
    metrics: Arc<Metrics>,
    _permit: Option<Counted>,
}

struct Beginning {
    seen: usize,
    over: BoxFuture<'static, ()>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, env: &Env, metrics: &Arc<Metrics>, permit: Option<Counted>) -> Self {
        let beginning = Some(Beginning { seen: 0, over: env.clock.sleep(BEGINS_WITHIN) });
        Connection {
            stream,
            beginning,
            held: BytesMut::new(),
            frames: Frames::default(),
            over: None,
            env: env.clone(),
            metrics: Arc::clone(metrics),
            _permit: permit,
        }
    }

    /// Compares what was read with the preface.
    fn begins_with(&mut self, read: &[u8]) -> std::io::Result<()> {
        let Some(beginning) = &mut self.beginning else { return Ok(()) };
        let seen = beginning.seen;
        let compared = read.len().min(PREFACE.len() - seen);
        if read[..compared] != PREFACE[seen..seen + compared] {
            let first = if seen == 0 { read } else { PREFACE.as_slice() };
            let spoken = answer_to_a_stranger(&self.stream, first);
            self.metrics.limit("not HTTP/2");
            tracing::info!(peer = ?self.stream.peer_addr().ok(), spoken, "a connection was closed: it does not speak HTTP/2");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
        beginning.seen += compared;
        if beginning.seen == PREFACE.len() {
            self.beginning = None;
            self.frames.pass(&read[compared..]);
            // What a fresh socket does not take now goes before the next write.
            if let Ok(written) = self.stream.try_write(&self.held) {
                self.held.advance(written);
            }
        }
        Ok(())
    }

    /// After HTTP/2 has begun: takes note of what was read, and ends the connection when a header block takes too long.
    fn watch(&mut self, context: &mut Context<'_>, read: Poll<std::io::Result<()>>, bytes: &[u8]) -> Poll<std::io::Result<()>> {
        if read.is_ready() {
            self.frames.pass(bytes);
            if !self.frames.unfinished() {
                self.over = None;
            }
            return read;
        }
        if !self.frames.unfinished() {
            return read;
        }
        let env = &self.env;
        let over = self.over.get_or_insert_with(|| env.clock.sleep(HEADERS_WITHIN));
        if over.as_mut().poll(context).is_pending() {
            return read;
        }
        self.metrics.limit("the time to send headers");
        let text = format!("the client did not send a whole header block within {HEADERS_WITHIN:?}");
        Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    }

    /// Ready once nothing is held any more.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.held.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Says what this port is to who speaks HTTP/1 or TLS. A fresh socket takes so few bytes at once; if it does not, nothing is lost.
fn answer_to_a_stranger(stream: &TcpStream, first: &[u8]) -> &'static str {
    const METHODS: [&[u8]; 7] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"CONN"];
    if first.starts_with(&TLS_HANDSHAKE) {
        let _ = stream.try_write(&TLS_ALERT);
        return "TLS";
    }
    if METHODS.iter().any(|method| first.starts_with(method)) {
        let text = "this port speaks gRPC over plain HTTP/2; metrics and probes are on listeners.http\n";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        let _ = stream.try_write(answer.as_bytes());
        return "HTTP/1";
    }
    "something else"
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(beginning) = &mut self.beginning else { return self.watch(context, read, &buffer.filled()[before..]) };
        match read {
            Poll::Ready(Ok(())) => {
                let checked = self.begins_with(&buffer.filled()[before..]);
                Poll::Ready(checked)
            }
            Poll::Ready(failed) => Poll::Ready(failed),
            Poll::Pending if beginning.over.as_mut().poll(context).is_ready() => {
                self.metrics.limit("the time to begin HTTP/2");
                let text = format!("the client did not begin HTTP/2 within {BEGINS_WITHIN:?}");
                Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.beginning.is_some() {
            // Settings and a window: some ten bytes.
            self.held.extend_from_slice(buffer);
            return Poll::Ready(Ok(buffer.len()));
        }
        std::task::ready!(self.poll_held(context))?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.beginning.is_some() {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.poll_held(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        if self.beginning.is_some() {
            let first = buffers.iter().find(|buffer| !buffer.is_empty()).map_or(&[][..], |buffer| buffer);
            return self.poll_write(context, first);
        }
        std::task::ready!(self.poll_held(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
