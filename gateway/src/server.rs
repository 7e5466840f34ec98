//! Takes connections, and lets go of them without cutting a request.
//!
//! On its way out a gateway is first unready but still takes connections, until
//! every Service has forgotten it (`delay`); then it closes its port, tells idle
//! connections goodbye, and waits for requests in flight (`timeout`).

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::proxy::Gateway;
use crate::socket::{Guarded, Peer};
use crate::wire::{MAX_HEAD_BYTES, MAX_HEAD_FIELDS};

/// Pause after the system refused a connection, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    listener: TcpListener,
    gateway: Arc<Gateway>,
    drain: Drain,
    max_connections: usize,
    stop: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Drained> {
    Box::pin(serve_until(listener, gateway, drain, max_connections, stop))
}

async fn serve_until(
    listener: TcpListener,
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
            (accepted, place) = accept(&listener, &room) => match accepted {
                Ok((stream, peer)) => take(stream, peer, place, &gateway, &graceful),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let open = graceful.count();
    tracing::info!(open, timeout = ?drain.timeout, "port closed; waiting for requests in flight");
    if timeout(drain.timeout, graceful.shutdown()).await.is_ok() {
        return Drained::Clean;
    }
    let open = gateway.state().metrics.connections().get();
    Drained::Cut(usize::try_from(open).unwrap_or(0))
}

type Accepted = io::Result<(TcpStream, std::net::SocketAddr)>;

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (Accepted, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(room).acquire_owned().await.ok();
    (listener.accept().await, place)
}

/// Serves one connection, in a task of its own.
fn take(
    stream: TcpStream,
    address: std::net::SocketAddr,
    place: Option<OwnedSemaphorePermit>,
    gateway: &Arc<Gateway>,
    graceful: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true);
    let patience = *gateway.patience();
    let peer = Arc::new(Peer { address, ambiguity: OnceLock::new() });
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&peer), patience.client_idle));
    let metrics = Arc::clone(&gateway.state().metrics);
    let gateway = Arc::clone(gateway);
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
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        metrics.connections().inc();
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "connection ended");
        }
        metrics.connections().dec();
        drop(place);
    });
}
