//! Takes connections, and lets go of them without cutting a request.
//!
//! On its way out a gateway is first unready but still takes connections, until
//! every Service has forgotten it (`delay`); then it closes its port, tells idle
//! connections goodbye, and waits for requests in flight (`timeout`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use crate::proxy::Gateway;
use crate::socket::{Guarded, Peer, Stream};
use crate::tls::Tls;
use crate::wire::{MAX_HEAD_BYTES, MAX_HEAD_FIELDS};

/// Pause after the system refused a connection, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where clients come in.
#[derive(Debug)]
pub struct Door {
    /// The port.
    pub listener: TcpListener,
    /// The certificate, where connections are encrypted.
    pub tls: Option<Arc<Tls>>,
}

/// How a gateway goes.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// From being unready to closing the port.
    pub delay: Duration,
    /// Longest wait for requests in flight, from then on.
    pub timeout: Duration,
}

/// How a gateway went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered.
    Clean,
    /// So many connections were cut at the time limit.
    Cut(usize),
}

/// Serves until `stop`, then drains. `max_connections` bounds open connections;
/// more wait in the listener's queue. In a box: a caller that polls it by its own type
/// would compile all of it once more.
pub fn serve(
    door: Door,
    gateway: Arc<Gateway>,
    drain: Drain,
    max_connections: usize,
    stop: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Drained> {
    Box::pin(serve_until(door, gateway, drain, max_connections, stop))
}

async fn serve_until(
    door: Door,
    gateway: Arc<Gateway>,
    drain: Drain,
    max_connections: usize,
    stop: BoxFuture<'static, ()>,
) -> Drained {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(max_connections));
    let leave = async {
        stop.await;
        gateway.state().drain();
        tracing::info!(delay = ?drain.delay, "unready; taking connections until the delay is over");
        sleep(drain.delay).await;
    };
    tokio::pin!(leave);
    loop {
        tokio::select! {
            () = &mut leave => break,
            (accepted, place) = accept(&door.listener, &room) => match accepted {
                Ok((stream, address)) => {
                    let tls = door.tls.as_ref().map(|tls| tls.acceptor());
                    take((stream, address, tls), place, &gateway, &graceful);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(door);
    let open = graceful.count();
    tracing::info!(open, timeout = ?drain.timeout, "port closed; waiting for requests in flight");
    if timeout(drain.timeout, graceful.shutdown()).await.is_ok() {
        return Drained::Clean;
    }
    let open = gateway.state().metrics.connections().get();
    Drained::Cut(usize::try_from(open).unwrap_or(0))
}

type Accepted = io::Result<(TcpStream, SocketAddr)>;

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (Accepted, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(room).acquire_owned().await.ok();
    (listener.accept().await, place)
}

/// Serves one connection, in a task of its own.
fn take(
    (stream, address, tls): (TcpStream, SocketAddr, Option<TlsAcceptor>),
    place: Option<OwnedSemaphorePermit>,
    gateway: &Arc<Gateway>,
    graceful: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true);
    let (gateway, watcher) = (Arc::clone(gateway), graceful.watcher());
    tokio::spawn(async move {
        let metrics = Arc::clone(&gateway.state().metrics);
        metrics.connections().inc();
        let ended = match shake_hands(stream, tls, gateway.patience().head).await {
            Ok(stream) => talk(stream, address, gateway, watcher).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection ended");
        }
        metrics.connections().dec();
        drop(place);
    });
}

/// The stream, encrypted where it is to be.
async fn shake_hands(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    limit: Duration,
) -> io::Result<Stream> {
    let Some(tls) = tls else { return Ok(Either::Left(stream)) };
    match timeout(limit, tls.accept(stream)).await {
        Ok(encrypted) => Ok(Either::Right(Box::new(encrypted?))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")),
    }
}

/// Answers the requests of a connection.
async fn talk(
    stream: Stream,
    address: SocketAddr,
    gateway: Arc<Gateway>,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let patience = *gateway.patience();
    let is_encrypted = matches!(stream, Either::Right(_));
    let peer = Arc::new(Peer { address, is_encrypted, ambiguity: OnceLock::new() });
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&peer), patience.client_idle));
    let service = service_fn(move |request| {
        let (gateway, peer) = (Arc::clone(&gateway), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(gateway.answer(request, &peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(MAX_HEAD_FIELDS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES + (8 << 10))
        .serve_connection(io, service);
    Ok(watcher.watch(connection).await?)
}
