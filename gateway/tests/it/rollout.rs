//! No request fails while servers and gateways come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use hearth_gateway::proxy::Patience;
use hearth_gateway::server::{Drain, Drained};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::{QUICK, Running, backend, connect, get, raw, read_all, soon, status, to};

/// A server in a runtime of its own, so that it can die as a process does: with
/// all its sockets at once, answers half computed.
struct Mortal {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Mortal {
    fn start(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let work = any(async |body: Bytes| {
            tokio::time::sleep(Duration::from_millis(2)).await;
            body
        });
        runtime.spawn(async move { axum::serve(listener, Router::new().fallback(work)).await });
        Self { address, runtime: Some(runtime) }
    }

    fn die(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Sends `requests` requests from 8 connections; the number of those that failed.
async fn load(gateway: SocketAddr, requests: u32, sent: Arc<AtomicU32>) -> u32 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let each = (0..8).map(|_| {
        let (client, sent) = (client.clone(), Arc::clone(&sent));
        tokio::spawn(async move {
            let mut failed = 0;
            while sent.fetch_add(1, Ordering::Relaxed) < requests {
                let request = http::Request::post(format!("http://{gateway}/v1/classify"))
                    .body(Full::from("is this spam?"))
                    .unwrap();
                let good = match soon(client.request(request)).await {
                    Ok(answer) => {
                        answer.status() == 200
                            && answer
                                .into_body()
                                .collect()
                                .await
                                .is_ok_and(|body| body.to_bytes() == "is this spam?")
                    }
                    Err(_) => false,
                };
                failed += u32::from(!good);
            }
            failed
        })
    });
    let all: Vec<_> = each.collect();
    let mut failed = 0;
    for one in all {
        failed += one.await.unwrap();
    }
    failed
}

async fn after(sent: &AtomicU32, requests: u32) {
    soon(async {
        while sent.load(Ordering::Relaxed) < requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_four_times_fails_none_of_2000_requests() {
    let mut server = tokio::task::spawn_blocking(|| Mortal::start("127.0.0.1:0".parse().unwrap()))
        .await
        .unwrap();
    let gateway = Running::start(Some(to(server.address))).await;
    let sent = Arc::new(AtomicU32::new(0));
    let loading = tokio::spawn(load(gateway.address, 2_000, Arc::clone(&sent)));
    for death in 1..=4 {
        after(&sent, death * 400).await;
        let address = server.address;
        server.die();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server = tokio::task::spawn_blocking(move || Mortal::start(address)).await.unwrap();
    }
    assert_eq!(loading.await.unwrap(), 0, "requests failed");
    // The deaths were noticed: without repetition, this many requests would have failed.
    assert!(gateway.figure("hearth_gateway_retries_total") >= 8.0);
    server.die();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_takes_over_without_a_failed_request() {
    let start = || tokio::task::spawn_blocking(|| Mortal::start("127.0.0.1:0".parse().unwrap()));
    let (old, new) = (start().await.unwrap(), start().await.unwrap());
    let gateway = Running::start(Some(to(old.address))).await;
    let sent = Arc::new(AtomicU32::new(0));
    let loading = tokio::spawn(load(gateway.address, 2_000, Arc::clone(&sent)));
    after(&sent, 700).await;
    let mut table = to(new.address);
    table.variants[0].revision = "r2".into();
    gateway.state.route_by(hearth_gateway::table::Table::check(table).unwrap());
    after(&sent, 1_200).await;
    old.die();
    assert_eq!(loading.await.unwrap(), 0, "requests failed");
    let answer = gateway.raw(&get("/")).await;
    assert!(answer.contains("x-hearth-revision: r2"), "{answer}");
    new.die();
}

/// A backend that answers when it is told to.
async fn held() -> (SocketAddr, Arc<Notify>) {
    let open = Arc::new(Notify::new());
    let gate = Arc::clone(&open);
    let wait = any(move || async move {
        gate.notified().await;
        "done"
    });
    let router = Router::new().route("/held", wait).fallback(any(async || "ok"));
    (backend(router).await, open)
}

#[tokio::test]
async fn a_gateway_that_goes_finishes_what_it_began() {
    let (address, open) = held().await;
    let mut gateway = Running::start(Some(to(address))).await;
    assert_eq!(status(&raw(gateway.admin, &get("/readyz")).await), 200);
    let mut client = connect(gateway.address).await;
    client.write_all(get("/held").as_bytes()).await.unwrap();
    let mut idle = connect(gateway.address).await;
    soon(async {
        while gateway.figure("hearth_gateway_in_flight_requests") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.stop();
    soon(async {
        while !gateway.state.is_draining() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Unready at once, and still taking what the Service sends meanwhile.
    assert_eq!(status(&raw(gateway.admin, &get("/readyz")).await), 503);
    let late = gateway.raw(&get("/").replace("Connection: close\r\n", "")).await;
    assert_eq!(status(&late), 200, "{late}");
    assert!(late.contains("connection: close"), "{late}");
    // Then the port is closed, idle connections too.
    assert_eq!(read_all(&mut idle).await, "");
    let refused = tokio::net::TcpStream::connect(gateway.address).await;
    assert!(refused.is_err());
    open.notify_one();
    let answer = read_all(&mut client).await;
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(gateway.ended().await, Drained::Clean);
}

#[tokio::test]
async fn a_gateway_does_not_wait_for_ever() {
    let (address, _closed) = held().await;
    let drain = Drain { timeout: Duration::from_millis(200), ..QUICK };
    let mut gateway = Running::with(Some(to(address)), Patience::default(), drain).await;
    let mut client = connect(gateway.address).await;
    client.write_all(get("/held").as_bytes()).await.unwrap();
    soon(async {
        while gateway.figure("hearth_gateway_in_flight_requests") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.stop();
    assert_eq!(gateway.ended().await, Drained::Cut(1));
}
