//! Requests over real sockets: streaming, limits, framing, header fields.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::routing::{any, post as on_post};
use futures::{StreamExt as _, stream};
use hearth_crds::routing::{RoutingTable, Variant};
use hearth_gateway::proxy::Patience;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

use crate::support::{
    self, QUICK, Running, backend, connect, get, post, read_all, read_until, soon, status, to,
};

/// Says what it got: request line, header fields, body.
fn echo() -> Router {
    Router::new().fallback(any(async |request: Request| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        format!("{} {}\n{:#?}\n{}", head.method, head.uri, head.headers, body.len())
    }))
}

#[tokio::test]
async fn an_answer_streams_through() {
    let next = Arc::new(Notify::new());
    let gate = Arc::clone(&next);
    let events = move || async move {
        let pieces = futures::stream::iter(["data: one\n\n", "data: two\n\n"]);
        let body = pieces.enumerate().then(move |(place, piece)| {
            let gate = Arc::clone(&gate);
            async move {
                if place > 0 {
                    gate.notified().await;
                }
                Ok::<_, std::io::Error>(Bytes::from(piece))
            }
        });
        ([("content-type", "text/event-stream")], Body::from_stream(body))
    };
    let gateway =
        Running::start(Some(to(backend(Router::new().fallback(any(events))).await))).await;
    let mut client = connect(gateway.address).await;
    client.write_all(get("/events").as_bytes()).await.unwrap();
    let first = read_until(&mut client, "data: one").await;
    assert!(first.contains("text/event-stream") && !first.contains("data: two"), "{first}");
    // Had the gateway waited for the end, the first piece would never have come.
    next.notify_one();
    assert!(read_all(&mut client).await.contains("data: two"));
}

#[tokio::test]
async fn a_request_streams_through() {
    let (seen, mut first) = mpsc::unbounded_channel();
    let upload = move |body: Body| async move {
        let mut stream = body.into_data_stream();
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await {
            all.extend(piece.unwrap());
            let _ = seen.send(all.len());
        }
        all.len().to_string()
    };
    let gateway =
        Running::start(Some(to(backend(Router::new().fallback(on_post(upload))).await))).await;
    let mut client = connect(gateway.address).await;
    client
        .write_all(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(soon(first.recv()).await, Some(5));
    client.write_all(b"6\r\n world\r\n0\r\n\r\n").await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.contains("11"), "{answer}");
}

#[tokio::test]
async fn header_fields_are_those_of_a_proxy() {
    let gateway = Running::start(Some(to(backend(echo()).await))).await;
    let answer = gateway
        .raw(&post(
            "Content-Length: 5\r\nX-Forwarded-For: 192.0.2.7\r\nKeep-Alive: 1\r\nTE: trailers\r\n\
             X-Mine: kept\r\nX-Hop: 1\r\nConnection: X-Hop\r\n",
            "hello",
        ))
        .await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("x-hearth-revision: r1"), "{answer}");
    assert!(answer.contains("via: 1.1 hearth-gateway"), "{answer}");
    assert!(answer.contains("\"x-forwarded-for\": \"192.0.2.7, 127.0.0.1\""), "{answer}");
    assert!(answer.contains("\"x-mine\": \"kept\"") && answer.ends_with("\n5"), "{answer}");
    for gone in ["keep-alive", "\"te\"", "x-hop", "\"connection\""] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_its_length_and_by_its_bytes() {
    let mut table = to(backend(echo()).await);
    table.limits.max_body_bytes = 100_000;
    let gateway = Running::start(Some(table)).await;
    let fits = gateway.raw(&post("Content-Length: 100000\r\n", &"a".repeat(100_000))).await;
    assert_eq!(status(&fits), 200, "{fits}");
    let said = gateway.raw(&post("Content-Length: 100001\r\n", &"a".repeat(100_001))).await;
    assert_eq!(status(&said), 413, "{said}");
    assert!(said.contains(r#"{"error":{"code":"body_too_large""#), "{said}");
    let chunk = format!("c350\r\n{}\r\n", "a".repeat(50_000));
    let body = format!("{chunk}{chunk}1\r\na\r\n0\r\n\r\n");
    let counted = gateway.raw(&post("Transfer-Encoding: chunked\r\n", &body)).await;
    assert_eq!(status(&counted), 413, "{counted}");
}

#[tokio::test]
async fn requests_over_the_limit_in_flight_are_503_with_retry_after() {
    let open = Arc::new(Notify::new());
    let gate = Arc::clone(&open);
    let held = any(move || async move { gate.notified().await });
    let mut table =
        to(backend(Router::new().route("/held", held).fallback(any(async || "ok"))).await);
    table.limits.max_in_flight_requests = 1;
    let gateway = Running::start(Some(table)).await;
    let mut first = connect(gateway.address).await;
    first.write_all(get("/held").as_bytes()).await.unwrap();
    soon(async {
        while gateway.figure("hearth_gateway_in_flight_requests") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let second = gateway.raw(&get("/")).await;
    assert_eq!(status(&second), 503, "{second}");
    assert!(second.contains("retry-after: 1"), "{second}");
    assert!(second.contains("maxInFlightRequests"), "{second}");
    open.notify_one();
    assert_eq!(status(&read_all(&mut first).await), 200);
    assert_eq!(status(&gateway.raw(&get("/")).await), 200);
    // One who goes away in the middle gives the place back, too.
    let mut third = connect(gateway.address).await;
    third.write_all(get("/held").as_bytes()).await.unwrap();
    soon(async {
        while gateway.figure("hearth_gateway_in_flight_requests") < 1.0 {
            tokio::task::yield_now().await;
        }
        drop(third);
        while gateway.figure("hearth_gateway_in_flight_requests") > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let canceled = "hearth_gateway_requests_total{variant=\"stable\",code=\"canceled\"}";
    assert!((gateway.figure(canceled) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn too_many_header_fields_are_431() {
    use std::fmt::Write as _;
    let gateway = Running::start(Some(to(backend(echo()).await))).await;
    let mut fields = String::new();
    for number in 0..120 {
        write!(fields, "X-{number}: 1\r\n").unwrap();
    }
    let many = gateway.raw(&post(&fields, "")).await;
    assert_eq!(status(&many), 431, "{many}");
    assert!(many.contains("at most 100 fields"), "{many}");
    let long = gateway.raw(&post(&format!("X: {}\r\n", "a".repeat(20_000)), "")).await;
    assert_eq!(status(&long), 431, "{long}");
    let huge = gateway.raw(&post(&format!("X: {}\r\n", "a".repeat(100_000)), "")).await;
    assert_eq!(status(&huge), 431, "{huge}");
}

#[tokio::test]
async fn a_smuggled_request_is_refused_and_never_reaches_a_server() {
    let served = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&served);
    let counting = any(async move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let gateway = Running::start(Some(to(backend(Router::new().fallback(counting)).await))).await;
    let both = "POST / HTTP/1.1\r\nHost: x\r\n{a}\r\n{b}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n";
    let (length, coding) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    for request in [
        both.replace("{a}", length).replace("{b}", coding),
        both.replace("{a}", coding).replace("{b}", length),
        both.replace("{a}", coding).replace("{b}", "Transfer-Encoding: identity"),
        both.replace("{a}", length).replace("{b}", "Content-Length: 6"),
        "GET / HTTP/1.1\nHost: x\n\n".into(),
    ] {
        let answer = gateway.raw(&request).await;
        assert_eq!(status(&answer), 400, "{request:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer}");
    }
    assert_eq!(served.load(Ordering::Relaxed), 0);
    let plain = format!("{}{}", get("/").replace("Connection: close\r\n", ""), get("/"));
    let answer = gateway.raw(&plain).await;
    assert_eq!(answer.matches("200 OK").count(), 2, "pipelining is no smuggling: {answer}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_504_and_one_that_is_away_502() {
    let mut table = to(backend(Router::new().fallback(any(std::future::pending::<()>))).await);
    table.limits.request_timeout_seconds = 1;
    let silent = Running::start(Some(table)).await;
    let answer = silent.raw(&get("/")).await;
    assert_eq!(status(&answer), 504, "{answer}");
    assert!(answer.contains("within 1 s"), "{answer}");

    let nobody = support::listen().await.local_addr().unwrap();
    let away = Running::start(Some(to(nobody))).await;
    let answer = away.raw(&get("/")).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("backend_unreachable") && answer.contains("9 attempts"), "{answer}");
}

#[tokio::test]
async fn slow_clients_are_let_go() {
    let patience = Patience {
        head: Duration::from_millis(300),
        client_idle: Duration::from_millis(300),
        ..Patience::default()
    };
    let endless = any(async || {
        Body::from_stream(futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from(vec![b'a'; 1 << 16]))
        }))
    });
    let router = echo().route("/endless", endless);
    let gateway = Running::with(Some(to(backend(router).await)), patience, QUICK).await;

    let mut no_head = connect(gateway.address).await;
    no_head.write_all(b"GET / HT").await.unwrap();
    read_all(&mut no_head).await;

    let no_body = gateway.raw(&post("Content-Length: 5\r\n", "he")).await;
    assert_eq!(status(&no_body), 408, "{no_body}");

    let mut no_reader = connect(gateway.address).await;
    no_reader.write_all(get("/endless").as_bytes()).await.unwrap();
    read_until(&mut no_reader, "200 OK").await;
    soon(async {
        while gateway.figure("hearth_gateway_connections") > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_breaks_off_does_not_look_complete() {
    let broken = any(async || {
        let half = stream::once(async { Ok(Bytes::from("half")) });
        // Only after the head and this half are on their way.
        let death = stream::once(async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(std::io::Error::other("died"))
        });
        Body::from_stream(half.chain(death))
    });
    let gateway = Running::start(Some(to(backend(Router::new().fallback(broken)).await))).await;
    let answer = gateway.raw(&get("/")).await;
    assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"), "{answer:?}");
    let broken = "hearth_gateway_requests_total{variant=\"stable\",code=\"broken\"}";
    assert!((gateway.figure(broken) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn without_a_backend_the_answer_is_503_and_a_sentence() {
    let mut empty = to(support::listen().await.local_addr().unwrap());
    empty.variants.clear();
    for table in [None, Some(empty)] {
        let gateway = Running::start(table).await;
        let answer = gateway.raw(&get("/")).await;
        assert_eq!(status(&answer), 503, "{answer}");
        assert!(answer.contains("retry-after") && answer.contains("no_backend"), "{answer}");
        assert_eq!(status(&support::raw(gateway.admin, &get("/readyz")).await), 503);
        assert_eq!(status(&support::raw(gateway.admin, &get("/healthz")).await), 200);
    }
}

#[tokio::test]
async fn weights_split_the_requests() {
    let named = |name: &'static str| backend(Router::new().fallback(any(async move || name)));
    let (one, two) = (named("one").await, named("two").await);
    let mut table: RoutingTable = to(one);
    table.variants[0].weight = 80;
    table.variants.push(Variant {
        name: "canary".into(),
        revision: "r2".into(),
        backend: two.to_string(),
        weight: 20,
    });
    let gateway = Running::start(Some(table)).await;
    let requests = 2_000;
    let mut client = connect(gateway.address).await;
    let request = get("/").replace("Connection: close\r\n", "");
    let mut canary = 0_i32;
    for _ in 0..requests {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !(answer.ends_with("one") || answer.ends_with("two")) {
            let mut buffer = [0; 1024];
            let count = soon(client.read(&mut buffer)).await.unwrap();
            assert!(count > 0, "{answer}");
            answer += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        assert_eq!(answer.ends_with("two"), answer.contains("x-hearth-revision: r2"), "{answer}");
        canary += i32::from(answer.ends_with("two"));
    }
    // 400 expected, standard deviation 18: 6 of them.
    assert!((canary - 400).abs() < 108, "{canary} of {requests}");
    let metrics = support::raw(gateway.admin, &get("/metrics")).await;
    let line = format!("hearth_gateway_requests_total{{variant=\"canary\",code=\"2xx\"}} {canary}");
    assert!(metrics.contains(&line), "{line}: {metrics}");
    let routing = support::raw(gateway.admin, &get("/routing")).await;
    assert!(routing.contains(r#""revision":"r2""#), "{routing}");
}
