//! A gateway on loopback ports, backends behind it, and a client that sends bytes.

pub(crate) mod process;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hearth_crds::routing::{Limits, RoutingTable, STABLE, Variant};
use hearth_gateway::admin;
use hearth_gateway::entrance::Entrance;
use hearth_gateway::proxy::{Gateway, Patience};
use hearth_gateway::server::{Door, Drain, Drained, serve};
use hearth_gateway::state::State;
use hearth_gateway::table::Table;
use hearth_gateway::tls::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest that anything on this machine may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Who may come in, and how.
#[derive(Default)]
pub(crate) struct Guard {
    pub(crate) entrance: Entrance,
    pub(crate) tls: Option<Arc<Tls>>,
}

/// A gateway that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Drained>,
}

pub(crate) const QUICK: Drain =
    Drain { delay: Duration::from_millis(300), timeout: Duration::from_secs(10) };

impl Running {
    pub(crate) async fn start(table: Option<RoutingTable>) -> Self {
        let patience = Patience { reach: Duration::ZERO, ..Patience::default() };
        Self::with(table, patience, QUICK).await
    }

    pub(crate) async fn with(
        table: Option<RoutingTable>,
        patience: Patience,
        drain: Drain,
    ) -> Self {
        Self::guarded(table, patience, drain, Guard::default()).await
    }

    pub(crate) async fn guarded(
        table: Option<RoutingTable>,
        patience: Patience,
        drain: Drain,
        guard: Guard,
    ) -> Self {
        let state = State::new();
        if let Some(table) = table {
            state.route_by(Table::check(table).unwrap());
        }
        let (traffic, admin_port) = (listen().await, listen().await);
        let (address, admin) = (traffic.local_addr().unwrap(), admin_port.local_addr().unwrap());
        let router = admin::router(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(admin_port, router).await });
        let (stop, stopped) = oneshot::channel::<()>();
        let gateway = Gateway::new(Arc::clone(&state), patience, guard.entrance);
        let until = Box::pin(async { drop(stopped.await) });
        let door = Door { listener: traffic, tls: guard.tls };
        let ended = tokio::spawn(serve(door, gateway, drain, 1000, until));
        Self { address, admin, state, stop: Some(stop), ended }
    }

    /// What SIGTERM does.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn ended(self) -> Drained {
        soon(self.ended).await.unwrap()
    }

    /// Sends bytes on a new connection and reads until it is closed.
    pub(crate) async fn raw(&self, request: &str) -> String {
        raw(self.address, request).await
    }

    /// A figure of `/metrics`.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.state.metrics.text();
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it takes too long")
}

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// All traffic to one backend.
pub(crate) fn to(backend: SocketAddr) -> RoutingTable {
    let stable = Variant {
        name: STABLE.into(),
        revision: "r1".into(),
        backend: backend.to_string(),
        weight: 100,
    };
    let limits = Limits {
        max_body_bytes: 1 << 20,
        max_in_flight_requests: 100,
        request_timeout_seconds: 30,
    };
    RoutingTable::new("shop".into(), vec![stable], limits)
}

/// A backend on a port of its own.
pub(crate) async fn backend(router: Router) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

pub(crate) async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `text` came.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = String::new();
    let mut buffer = [0; 1024];
    while !answer.contains(text) {
        let count = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the connection ended before {text:?} came: {answer}");
        answer += &String::from_utf8_lossy(&buffer[..count]);
    }
    answer
}

/// `POST /` with these fields and this body, on a connection that is closed after it.
pub(crate) fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}")
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.get(9..12).unwrap_or_default().parse().expect(answer)
}
