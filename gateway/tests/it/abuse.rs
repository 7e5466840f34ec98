//! Clients that mean harm, or know no better: the gateway's memory stays bounded, its errors are
//! clear, and others are served meanwhile. The gateway is a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, post};
use futures::{StreamExt as _, future::join_all};
use hearth_crds::routing::RoutingTable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::process::{Process, allow_files};
use crate::support::{backend, connect, get, raw, read_all, soon, status, to};

const MIB: u64 = 1 << 20;
/// Others are answered within this time, on a machine that is busy with the abuse.
const PATIENCE: Duration = Duration::from_secs(5);
/// Idle connections that are tried, where files may be open in such a number.
const IDLE: usize = 10_000;

/// Somebody who asks all the time, and minds his own business.
struct Other {
    stop: Arc<AtomicBool>,
    answered: JoinHandle<(u32, Duration)>,
}

impl Other {
    fn asks(gateway: &Process) -> Self {
        let (stop, address) = (Arc::new(AtomicBool::new(false)), gateway.address);
        let until = Arc::clone(&stop);
        let answered = tokio::spawn(async move {
            let (mut answered, mut slowest) = (0, Duration::ZERO);
            while !until.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let answer = raw(address, &get("/")).await;
                assert_eq!(status(&answer), 200, "{answer}");
                (answered, slowest) = (answered + 1, slowest.max(begun.elapsed()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (answered, slowest)
        });
        Self { stop, answered }
    }

    async fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, slowest) = soon(self.answered).await.unwrap();
        assert!(answered > 0 && slowest < PATIENCE, "{answered} answers, at worst {slowest:?}");
    }
}

/// A backend that counts bytes, answers without an end, and refuses what is no JSON.
async fn server() -> RoutingTable {
    let count = post(async |body: Body| {
        let mut pieces = body.into_data_stream();
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            bytes += piece.map_or(0, |piece| piece.len());
        }
        bytes.to_string()
    });
    let endless = any(async || {
        Body::from_stream(futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from(vec![b'a'; 1 << 16]))
        }))
    });
    let json = post(async |axum::Json(value): axum::Json<serde_json::Value>| value.to_string());
    let router = Router::new().route("/count", count).route("/endless", endless);
    let router = router.route("/json", json).layer(DefaultBodyLimit::disable());
    to(backend(router.fallback(any(async || "ok"))).await)
}

fn head(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n")
}

/// Bytes of memory that the gateway took meanwhile.
fn grown(gateway: &Process, before: u64) -> u64 {
    gateway.resident().saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_come_byte_by_byte_are_let_go() {
    let gateway = Process::start(&server().await, &["--head-timeout", "1s"]).await;
    let (before, other) = (gateway.resident(), Other::asks(&gateway));
    let drips = (0..500).map(async |_| {
        let mut stream = connect(gateway.address).await;
        let begun = Instant::now();
        // Each byte comes long before any limit on silence.
        for byte in get("/").as_bytes().chunks(1).cycle() {
            if stream.write_all(byte).await.is_err() || begun.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed()
    });
    let longest = join_all(drips).await.into_iter().max().unwrap();
    assert!(longest < PATIENCE, "{longest:?}");
    assert!(grown(&gateway, before) < 32 * MIB, "{} bytes", grown(&gateway, before));
    other.was_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_no_memory() {
    let gateway = Process::start(&server().await, &["--client-idle-timeout", "2s"]).await;
    let (before, other) = (gateway.resident(), Other::asks(&gateway));
    let mut lazy = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(gateway.address).await;
        stream.write_all(get("/endless").as_bytes()).await.unwrap();
        lazy.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = grown(&gateway, before);
    assert!(most < 64 * MIB, "{most} bytes for {} answers without an end", lazy.len());
    // What the kernel took in is read, and then there is no more.
    let ends = lazy.iter_mut().map(async |stream| {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut buffer = vec![0; 1 << 16];
        while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {}
    });
    soon(join_all(ends)).await;
    other.was_served().await;
}

/// Sends a body of this size in pieces, as long as it is taken; the answer.
async fn send(stream: &mut TcpStream, head: &str, size: usize, chunked: bool) -> String {
    let piece = vec![b'a'; 1 << 16];
    let _ = stream.write_all(head.as_bytes()).await;
    for _ in 0..size / piece.len() {
        let frame = if chunked { &b"10000\r\n"[..] } else { b"" };
        let end = if chunked { &b"\r\n"[..] } else { b"" };
        let sent = async {
            stream.write_all(frame).await?;
            stream.write_all(&piece).await?;
            stream.write_all(end).await
        };
        if sent.await.is_err() {
            break;
        }
    }
    if chunked {
        let _ = stream.write_all(b"0\r\n\r\n").await;
    }
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_are_refused_or_go_through_and_are_never_held() {
    let size = 100 << 20;
    let by_length = head("/count", &format!("Content-Length: {size}\r\n"));
    let by_chunks = head("/count", "Transfer-Encoding: chunked\r\n");

    let mut table = server().await;
    table.limits.max_body_bytes = 4 << 20;
    let small = Process::start(&table, &[]).await;
    let (before, other) = (small.resident(), Other::asks(&small));
    let mut stream = connect(small.address).await;
    stream.write_all(by_length.as_bytes()).await.unwrap();
    let refused = read_all(&mut stream).await;
    assert!(status(&refused) == 413 && refused.contains("maxBodyBytes, 4194304"), "{refused}");
    let mut stream = connect(small.address).await;
    let counted = send(&mut stream, &by_chunks, size, true).await;
    // One who goes on sending may lose the answer to the reset of the connection.
    assert!(counted.is_empty() || status(&counted) == 413, "{counted}");
    assert!(grown(&small, before) < 32 * MIB, "{} bytes", grown(&small, before));
    other.was_served().await;

    table.limits.max_body_bytes = 1 << 30;
    let large = Process::start(&table, &[]).await;
    let (before, other) = (large.resident(), Other::asks(&large));
    let uploads = [(&by_length, false), (&by_chunks, true), (&by_length, false)];
    let answers = join_all(uploads.map(async |(head, chunked)| {
        send(&mut connect(large.address).await, head, size, chunked).await
    }));
    for answer in answers.await {
        assert!(status(&answer) == 200 && answer.ends_with(&size.to_string()), "{answer}");
    }
    assert!(grown(&large, before) < 32 * MIB, "{} bytes", grown(&large, before));
    other.was_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_json_is_the_servers_to_refuse_and_its_words_come_back() {
    let gateway = Process::start(&server().await, &[]).await;
    let deep = "[".repeat(1_000_000);
    for body in ["{", "", "{\"a\": 1,}", "\u{0}", "{\"a\": \"\u{1}\"}", deep.as_str()] {
        let fields =
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let answer = raw(gateway.address, &format!("{}{body}", head("/json", &fields))).await;
        assert_eq!(status(&answer), 400, "{answer}");
        assert!(answer.contains("JSON"), "{answer}");
    }
    assert_eq!(status(&raw(gateway.address, &get("/")).await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_keep_nobody_out() {
    // Some for the backend, the other client and the tests beside this one.
    let room = allow_files(std::process::id()).saturating_sub(2_000);
    let many = IDLE.min(room);
    // Idle ones are let go after 30 s; here they stay for as long as the test takes.
    let gateway = Process::start(&server().await, &["--head-timeout", "10m"]).await;
    let before = gateway.resident();
    let mut idle = Vec::with_capacity(many);
    for number in 0..many {
        let mut stream = connect(gateway.address).await;
        // Every other one has begun a request, and one in ten has had one answered.
        match number % 10 {
            0 => {
                let request = get("/").replace("Connection: close\r\n", "");
                stream.write_all(request.as_bytes()).await.unwrap();
            }
            1 | 3 | 5 | 7 | 9 => stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap(),
            _ => {}
        }
        idle.push(stream);
    }
    let other = Other::asks(&gateway);
    soon(async {
        while gateway.connections().await < many {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let all = grown(&gateway, before);
    let each = all / u64::try_from(many).unwrap();
    let fewer = if many < IDLE { ", since no more files may be open here" } else { "" };
    eprintln!("{many} connections, {each} bytes each{fewer}");
    assert!(all < 256 * MIB, "{all} bytes for {many} connections");
    tokio::time::sleep(Duration::from_secs(1)).await;
    other.was_served().await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_two_parsers_might_read_differently_never_reach_a_server() {
    let served = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&served);
    let counting = any(async move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let table = to(backend(Router::new().fallback(counting)).await);
    let gateway = Process::start(&table, &[]).await;
    let smuggled = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\u{b}: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5\r\n\t6\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "X: y\u{0}\r\nContent-Length: 5\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n{smuggled}");
        let answer = raw(gateway.address, &request).await;
        assert_eq!(status(&answer), 400, "{fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{fields:?}: {answer}");
    }
    assert_eq!(served.load(Ordering::Relaxed), 0);
    assert_eq!(status(&raw(gateway.address, &get("/")).await), 200);
}
