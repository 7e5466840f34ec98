//! A client's connection, guarded: framing is watched, a client that does not
//! read is dropped, and a refusal is not lost when the connection closes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::idle::IdleLimit;
use crate::wire::{Ambiguity, Scanner};

/// Longest that a closing connection waits for the client to stop sending.
/// Closing with unread bytes would reset the connection, and the client might
/// never see why it was refused.
const LINGER: Duration = Duration::from_secs(1);

/// What the requests of a connection have in common.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The client, or the proxy before us.
    pub(crate) address: SocketAddr,
    /// Its connection is encrypted.
    pub(crate) is_encrypted: bool,
    /// Set for good once a request could be read in two ways.
    pub(crate) ambiguity: OnceLock<Ambiguity>,
}

/// A client's stream of bytes, encrypted or not.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A [`Stream`] with the guards.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: Stream,
    scanner: Scanner,
    peer: Arc<Peer>,
    write: IdleLimit,
    lingering: Option<IdleLimit>,
}

impl Guarded {
    /// Guards a connection. `write_limit`: longest that the client may leave
    /// an answer unread.
    pub(crate) fn new(stream: Stream, peer: Arc<Peer>, write_limit: Duration) -> Self {
        let scanner = Scanner::default();
        let write = IdleLimit::new(write_limit);
        Self { stream, scanner, peer, write, lingering: None }
    }

    /// Passes a write's outcome on, unless nothing could be written for too long.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write.came();
            return outcome;
        }
        ready!(self.write.poll_over(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(ambiguity) = self.scanner.feed(&buf.filled()[before..]) {
            let _ = self.peer.ambiguity.set(ambiguity);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.progress(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.progress(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingering = Some(IdleLimit::new(LINGER));
        }
        let Self { stream, lingering, .. } = &mut *self;
        let mut scratch = [0; 4096];
        loop {
            if lingering.as_mut().is_none_or(|limit| limit.poll_over(cx).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
