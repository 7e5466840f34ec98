//! `hearth-worker serve` as a real process, asked over real connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hearth_worker::data::{TextEncoder, collate};
use hearth_worker::model::Dropout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::fixture::Fixture;
use crate::{serve_onnx, trained};

const TEXTS: [&str; 4] = ["win cash now", "the meeting is for you", "free offer", "lunch"];

/// A running server.
pub(crate) struct Server {
    child: Child,
    port: u16,
    model: PathBuf,
    _fixture: Fixture,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

impl Server {
    fn start(change: impl FnOnce(&mut Value)) -> Self {
        let fixture = Fixture::new(0.0);
        let model = trained::model(&fixture, 40);
        Self::of(fixture, model, change)
    }

    /// Of the model in a directory of the fixture.
    pub(crate) fn of(fixture: Fixture, model: PathBuf, change: impl FnOnce(&mut Value)) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut config = json!({
            "version": "hearth.dev/worker/v1",
            "job": {"namespace": "local", "name": "tiny", "uid": ""},
            "revision": "r1", "model": model, "accelerator": "CPU",
            "maxBatchSize": 8, "maxBatchDelayMilliseconds": 5, "maxQueueDepth": 64,
            "maxBodyBytes": 65536, "port": port
        });
        change(&mut config);
        let path = fixture.write("serve.json", &config.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
        command.arg("serve").arg("--config").arg(path).env("HEARTH_THREADS", "1");
        if config["runtime"] == "OnnxRuntime" {
            command.env("ORT_DYLIB_PATH", serve_onnx::library());
        }
        let child = command.spawn().unwrap();
        let server = Self { child, port, model, _fixture: fixture };
        let deadline = Instant::now() + Duration::from_mins(1);
        while server.try_get("/readyz").is_none_or(|answer| answer.status != 200) {
            assert!(Instant::now() < deadline, "the server does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn try_get(&self, path: &str) -> Option<Answer> {
        send(self.port, "GET", path, "").ok()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        send(self.port, "GET", path, "").unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        send(self.port, "POST", path, body).unwrap()
    }

    /// Headers go with the body.
    pub(crate) fn post_bytes(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        send_bytes(self.port, ("POST", path), headers, body).unwrap()
    }

    fn classify(&self, inputs: &Value) -> Answer {
        self.post("/v1/classify", &json!({ "inputs": inputs }).to_string())
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in:\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub(crate) fn model(&self) -> &Path {
        &self.model
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own.
fn send(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    send_bytes(port, (method, path), "content-type: application/json", body.as_bytes())
}

/// With headers that go with the body.
fn send_bytes(
    port: u16,
    (method, path): (&str, &str),
    headers: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n{headers}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // A refused body need not be read to its end.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::Error::other(format!("no answer, only {head:?}")));
        }
    }
    let mut body = Vec::new();
    // The reset that may follow a refused body comes after the answer.
    let _ = reader.read_to_end(&mut body);
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Ok(Answer { status, head, body: String::from_utf8(body).unwrap() })
}

/// Probabilities of `texts`, computed by the library, one text at a time.
fn expected(model: &Path, texts: &[&str]) -> Vec<Vec<f32>> {
    let classifier = hearth_worker::model::load(model, Device::Cpu).unwrap();
    let encoder = TextEncoder::from_export(model).unwrap();
    let scores_of = |text: &&str| {
        let ids = encoder.encode(text).unwrap();
        let batch = collate(&[&ids], encoder.pad(), Device::Cpu).unwrap();
        let logits = tch::no_grad(|| classifier.logits(&batch, Dropout::Off).unwrap());
        Vec::<f32>::try_from(logits.softmax(-1, Kind::Float).reshape([-1])).unwrap()
    };
    texts.iter().map(scores_of).collect()
}

fn assert_close(one: &[f32], other: &[f32]) {
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
}

#[expect(clippy::cast_possible_truncation, reason = "scores were f32 before they were JSON")]
fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32).collect()
}

#[test]
fn both_protocols_give_the_numbers_of_the_library() {
    let server = Server::start(|_| ());
    let expected = expected(&server.model, &TEXTS);
    let labels = ["ham", "spam"];

    let answer = server.classify(&json!(TEXTS)).json();
    assert_eq!((&answer["model"], &answer["revision"]), (&json!("tiny"), &json!("r1")));
    for (output, scores) in answer["outputs"].as_array().unwrap().iter().zip(&expected) {
        let score_of = |label: &str| {
            let classes = output.as_array().unwrap();
            classes.iter().find(|class| class["label"] == label).unwrap()["score"].clone()
        };
        assert_close(&floats(&json!(labels.map(score_of))), scores);
        assert!(output[0]["score"].as_f64() >= output[1]["score"].as_f64());
    }
    let one = server.post("/v1/classify", r#"{"inputs": "win cash now", "top_k": 1}"#).json();
    assert_eq!(one["outputs"][0].as_array().unwrap().len(), 1);
    assert_eq!(one["outputs"][0][0]["label"], answer["outputs"][0][0]["label"]);

    let request = json!({"id": "7", "inputs": [
        {"name": "text", "shape": [4], "datatype": "BYTES", "data": TEXTS}
    ]});
    let answer = server.post("/v2/models/tiny/infer", &request.to_string()).json();
    assert_eq!((&answer["id"], &answer["model_version"]), (&json!("7"), &json!("r1")));
    assert_eq!(answer["outputs"][2]["name"], "scores");
    assert_eq!(answer["outputs"][2]["shape"], json!([4, 2]));
    assert_close(&floats(&answer["outputs"][2]["data"]), &expected.concat());

    assert_eq!(server.get("/v2/models/tiny").json()["inputs"][0]["name"], "text");
    assert_eq!(server.get("/v2").json()["name"], "hearth");
    for path in
        ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"]
    {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.get("/load?window=60").json(), Value::Null, "it makes no texts");
}

#[test]
fn texts_that_come_together_are_computed_together() {
    let server = Server::start(|config| config["maxBatchDelayMilliseconds"] = 200.into());
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let port = server.port;
            std::thread::spawn(move || {
                send(port, "POST", "/v1/classify", r#"{"inputs": "free offer"}"#).unwrap().status
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap() == 200));
    let (batches, texts) = (
        server.metric("hearth_inference_batch_size_count"),
        server.metric("hearth_inference_batch_size_sum"),
    );
    assert!((texts - 8.0).abs() < 0.5, "{texts} texts");
    assert!(batches <= 3.0, "{batches} batches for 8 texts that came together");
    assert!((server.metric("hearth_inference_request_seconds_count") - 8.0).abs() < 0.5);
    assert!((server.metric("hearth_inference_queue_depth")).abs() < 0.5);
}

#[test]
fn a_cache_changes_no_byte_and_computes_equal_texts_once() {
    let plain = Server::start(|_| ());
    let cached = Server::start(|config| config["responseCacheBytes"] = (1 << 20).into());
    let infer = |server: &Server, text: &str| {
        let tensor = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]});
        server.post("/v2/models/tiny/infer", &json!({ "inputs": [tensor] }).to_string()).body
    };
    for _ in 0..2 {
        for text in TEXTS {
            assert_eq!(cached.classify(&json!(text)).body, plain.classify(&json!(text)).body);
            assert_eq!(infer(&cached, text), infer(&plain, text));
        }
    }
    let figures = |server: &Server| {
        ["cache_hits_total", "cache_misses_total", "batch_size_sum"]
            .map(|name| server.metric(&format!("hearth_inference_{name}")).to_string())
    };
    assert_eq!(figures(&cached), ["12", "4", "4"]);
    assert!(cached.metric("hearth_inference_cache_bytes") > 4.0 * 32.0);

    // Case and spaces are nothing to this tokenizer; another text is computed beside them.
    let batch = json!(["FREE  offer", "lunch", "free offer", "a report"]);
    let outputs = cached.classify(&batch).json()["outputs"].take();
    assert_eq!(outputs[0], outputs[2]);
    assert_eq!(outputs[1], cached.classify(&json!("lunch")).json()["outputs"][0]);
    assert_eq!(figures(&cached), ["16", "5", "5"]);
    let many = json!(vec!["lunch"; 65]);
    let refused = [&plain, &cached].map(|server| server.classify(&many).body);
    assert_eq!(refused[0], refused[1]);
    assert!(refused[0].contains("at most 64 can be queued"), "{}", refused[0]);
}

#[test]
fn equal_texts_that_come_together_are_computed_once() {
    let server = Server::start(|config| {
        config["maxBatchDelayMilliseconds"] = 200.into();
        config["responseCacheBytes"] = (1 << 20).into();
    });
    let port = server.port;
    let ask = move || send(port, "POST", "/v1/classify", r#"{"inputs": "lunch"}"#).unwrap();
    let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(ask)).collect();
    let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert!((server.metric("hearth_inference_batch_size_sum") - 1.0).abs() < 0.5);
    assert!((server.metric("hearth_inference_cache_hits_total") - 7.0).abs() < 0.5);
}

#[test]
fn bad_requests_are_answered_with_a_sentence() {
    let server = Server::start(|_| ());
    let large = json!({"inputs": "x".repeat(70_000)}).to_string();
    let many = json!({"inputs": vec!["a"; 65]}).to_string();
    for (path, body, status, want) in [
        ("/v1/classify", "{", 400, "EOF while parsing"),
        ("/v1/classify", r#"{"inputs": 7}"#, 400, "a text or a list of texts"),
        ("/v1/classify", r#"{"inputs": [], "top_k": 1}"#, 400, "there is no text"),
        ("/v1/classify", r#"{"inputs": "a", "top_k": 0}"#, 400, "at least one class"),
        ("/v1/classify", r#"{"inputs": "a", "topk": 1}"#, 400, "unknown field `topk`"),
        ("/v1/classify", &large, 413, "larger than 65536 bytes"),
        ("/v1/classify", &many, 400, "at most 64 can be queued"),
        ("/v2/models/other/infer", "{}", 404, "this server has \"tiny\""),
        ("/v2/models/tiny/infer", r#"{"inputs": []}"#, 400, "the model has one"),
        ("/v2/models/tiny/versions/r2/infer", "{}", 404, "this server has \"r1\""),
        ("/v1/embeddings", "{}", 404, "a classifier; texts go to POST /v1/classify"),
    ] {
        let answer = server.post(path, body);
        assert_eq!(answer.status, status, "{path} {want}: {}", answer.body);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(want), "{path}: {error}");
    }
    assert_eq!(server.classify(&json!("a")).status, 200, "it still works");
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    // The first texts wait three seconds for company: the queue stays full.
    let server = Server::start(|config| {
        config["maxQueueDepth"] = 4.into();
        config["maxBatchDelayMilliseconds"] = 3000.into();
    });
    let port = server.port;
    let first = std::thread::spawn(move || {
        let body = json!({"inputs": ["a", "b", "c", "d"]}).to_string();
        send(port, "POST", "/v1/classify", &body).unwrap().status
    });
    let deadline = Instant::now() + Duration::from_secs(2);
    while server.metric("hearth_inference_queue_depth") < 4.0 {
        assert!(Instant::now() < deadline, "the texts were not queued");
        std::thread::sleep(Duration::from_millis(5));
    }
    let refused = server.classify(&json!("e"));
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.head.to_lowercase().contains("retry-after: 1"), "{}", refused.head);
    assert!(refused.body.contains("try again"), "{}", refused.body);
    assert_eq!(first.join().unwrap(), 200, "what was taken is answered");
}

#[test]
fn a_drain_loses_nothing() {
    let mut server = Server::start(|config| config["maxBatchDelayMilliseconds"] = 300.into());
    let port = server.port;
    let clients: Vec<_> = (0..6)
        .map(|_| {
            std::thread::spawn(move || {
                send(port, "POST", "/v1/classify", r#"{"inputs": "lunch"}"#).map(|a| a.status)
            })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(5);
    while server.metric("hearth_inference_queue_depth") < 1.0 {
        assert!(Instant::now() < deadline, "nothing is in flight");
    }
    server.terminate();
    let deadline = Instant::now() + Duration::from_secs(2);
    while server.try_get("/readyz").is_some_and(|answer| answer.status == 200) {
        assert!(Instant::now() < deadline, "still ready after SIGTERM");
    }
    let statuses: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(statuses.iter().all(|status| matches!(status, Ok(200))), "{statuses:?}");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_model_that_is_not_there_ends_the_server_with_its_exit_code() {
    let fixture = Fixture::new(0.0);
    let config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": ""},
        "revision": "r1", "model": fixture.path("nowhere"), "accelerator": "CPU",
        "maxBatchSize": 8, "maxBatchDelayMilliseconds": 5, "maxQueueDepth": 64,
        "maxBodyBytes": 65536, "port": 0
    });
    let path = fixture.write("serve.json", &config.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .arg("serve")
        .arg("--config")
        .arg(path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(66), "{}", String::from_utf8_lossy(&output.stderr));
}
