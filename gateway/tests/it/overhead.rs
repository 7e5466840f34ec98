//! What the gateway adds to the time of an answer: a server that answers at once, asked directly and
//! through a gateway in a process of its own, in turn, at a steady rate. `make bench-gateway`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::process::Process;
use crate::support::{backend, to};

/// Requests a second in all, and the connections that send them.
const RATE: u32 = 500;
const CONNECTIONS: u32 = 10;
const SECONDS: u32 = 10;
const RUNS: usize = 5;
/// Milliseconds that the gateway may add at p99.
const GOAL: f64 = 2.0;

/// Milliseconds from the time when a request was due to the end of its answer, sorted. One that is
/// late since the one before it was slow counts its wait.
async fn load(address: SocketAddr, seconds: u32) -> Vec<f64> {
    let begin = Instant::now() + Duration::from_millis(100);
    let clients = (0..CONNECTIONS).map(|client| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut times = Vec::new();
        for number in 0..RATE * seconds / CONNECTIONS {
            let due = begin + Duration::from_secs(1) * (number * CONNECTIONS + client) / RATE;
            tokio::time::sleep_until(due.into()).await;
            ask(&mut stream).await;
            times.push(due.elapsed().as_secs_f64() * 1000.0);
        }
        times
    });
    let mut times: Vec<f64> =
        join_all(clients.map(tokio::spawn)).await.into_iter().flat_map(Result::unwrap).collect();
    times.sort_by(f64::total_cmp);
    times
}

async fn ask(stream: &mut TcpStream) {
    let body = r#"{"text": "win a prize now"}"#;
    let head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with(b"\"spam\"}") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0 && answer.len() < 4096, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

fn quantile(sorted: &[f64], per_mille: usize) -> f64 {
    sorted[(sorted.len() * per_mille / 1000).min(sorted.len() - 1)]
}

/// A row of the report that all benchmarks write (tests/bench/report.py).
fn row(name: &str, unit: &str, goal: Option<f64>, figures: &[f64]) -> Value {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most, median) = (sorted[0], sorted[sorted.len() - 1], sorted[sorted.len() / 2]);
    json!({"name": name, "unit": unit, "better": "lower", "goal": goal, "hearth": median,
        "hearth_min": least, "hearth_max": most, "peer": null, "peer_name": null, "ratio": median})
}

fn machine() -> String {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = about.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().unwrap();
    format!("{}, {cores} cores", model.map_or("unknown processor", |(_, model)| model))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark: make bench-gateway"]
async fn overhead() {
    let seconds = std::env::var("HEARTH_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let answer = post(async |_: String| axum::Json(json!({"label": "spam"})));
    let table = to(backend(Router::new().fallback(answer)).await);
    let direct: SocketAddr = table.variants[0].backend.parse().unwrap();
    let gateway = Process::start(&table, &[]).await;
    load(gateway.address, 1).await;
    let (mut plain, mut passed) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        plain.push(load(direct, seconds).await);
        passed.push(load(gateway.address, seconds).await);
    }
    let of = |runs: &[Vec<f64>], per_mille| -> Vec<f64> {
        runs.iter().map(|run| quantile(run, per_mille)).collect()
    };
    let mut rows = Vec::new();
    for (name, per_mille, goal) in [("p50", 500, None), ("p99", 990, Some(GOAL))] {
        let (before, after) = (of(&plain, per_mille), of(&passed, per_mille));
        let added: Vec<_> =
            after.iter().zip(&before).map(|(after, before)| after - before).collect();
        rows.push(row(&format!("direct, {name}"), "ms", None, &before));
        rows.push(row(&format!("through the gateway, {name}"), "ms", None, &after));
        rows.push(row(&format!("added at {name}"), "ms", goal, &added));
    }
    for row in &rows {
        let figure = |key: &str| row[key].as_f64().unwrap();
        let (median, least, most) = (figure("hearth"), figure("hearth_min"), figure("hearth_max"));
        eprintln!("{}: {median:.3} ms ({least:.3} to {most:.3})", row["name"].as_str().unwrap());
    }
    let folder = Path::new("../target/bench");
    std::fs::create_dir_all(folder).unwrap();
    let report = json!({"machine": machine(), "rows": rows});
    let mut file = std::fs::File::create(folder.join("gateway.json")).unwrap();
    file.write_all(serde_json::to_string_pretty(&report).unwrap().as_bytes()).unwrap();
}
