//! The table's ConfigMap through a scripted API server: what the real one says
//! when it is well, restarts, forgets, or is gone. (The real one is in tests/e2e.)

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use hearth_gateway::source::{config_map, file};
use hearth_gateway::state::State;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{backend, soon, to};

fn table(revision: &str) -> String {
    let mut table = to("127.0.0.1:1".parse().unwrap());
    table.variants[0].revision = revision.into();
    serde_json::to_string(&table).unwrap()
}

fn object(version: &str, routing: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
           "metadata": {"name": "shop-routing", "namespace": "team", "resourceVersion": version},
           "data": {"routing.json": routing}})
}

fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

/// Answers to the requests to come, in order, and what was asked.
#[derive(Default)]
struct Script {
    asked: Mutex<Vec<String>>,
    answers: Mutex<std::collections::VecDeque<Response>>,
}

impl Script {
    fn then(&self, answer: impl IntoResponse) -> &Self {
        self.answers.lock().unwrap().push_back(answer.into_response());
        self
    }

    /// A watch that sends these events and goes on.
    fn then_watch(&self) -> mpsc::UnboundedSender<Bytes> {
        let (events, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let stream = futures::stream::poll_fn(move |cx| queue.poll_recv(cx));
        self.then(Body::from_stream(stream.map(Ok::<_, std::io::Error>)));
        events
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn follow(script: &Arc<Script>) -> Arc<State> {
    let script = Arc::clone(script);
    let router = Router::new().fallback(async move |request: Request| {
        script.asked.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
        let next = script.answers.lock().unwrap().pop_front();
        next.unwrap_or_else(|| StatusCode::IM_A_TEAPOT.into_response())
    });
    let address = backend(router).await;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let state = State::new();
    let shared = Arc::clone(&state);
    tokio::spawn(config_map::follow(client, "team".into(), "shop-routing".into(), shared));
    state
}

async fn routed_by(state: &State, revision: &str) {
    soon(async {
        loop {
            let table = state.table();
            if table.is_some_and(|t| t.document.variants[0].revision == revision) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn troubles(state: &State, reason: &str) {
    let line = format!("hearth_gateway_routing_table_troubles_total{{reason=\"{reason}\"}}");
    soon(async {
        while !state.metrics.text().contains(&line) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn changes_are_taken_over_and_only_get_and_watch_are_asked() {
    let script = Arc::new(Script::default());
    script.then(axum::Json(object("1", &table("r1"))));
    let events = script.then_watch();
    let state = follow(&script).await;
    routed_by(&state, "r1").await;
    events.send(event("MODIFIED", &object("2", &table("r2")))).unwrap();
    routed_by(&state, "r2").await;
    assert!(state.is_ready());
    let asked = script.asked();
    assert_eq!(asked[0], "GET /api/v1/namespaces/team/configmaps/shop-routing");
    assert!(asked[1].contains("watch=true") && asked[1].contains("fieldSelector=metadata.name"));
    assert!(asked[1].contains("resourceVersion=1"), "{asked:?}");
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test]
async fn the_last_good_table_stands_through_every_trouble() {
    let script = Arc::new(Script::default());
    script.then(axum::Json(object("1", &table("r1"))));
    let events = script.then_watch();
    let state = follow(&script).await;
    routed_by(&state, "r1").await;

    events.send(event("MODIFIED", &object("2", "{\"deploy"))).unwrap();
    troubles(&state, "Malformed").await;
    routed_by(&state, "r1").await;

    // Deleted, then away, then an expired version, then back with a new table.
    script.then((StatusCode::SERVICE_UNAVAILABLE, "restarting"));
    script.then(axum::Json(object("3", &table("r1"))));
    let expired = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                         "message": "too old resource version", "reason": "Expired", "code": 410});
    script.then(event("ERROR", &expired));
    script.then(axum::Json(object("9", &table("r9"))));
    let _open = script.then_watch();
    events.send(event("DELETED", &object("2", &table("r1")))).unwrap();
    troubles(&state, "Missing").await;
    troubles(&state, "Unreachable").await;
    routed_by(&state, "r9").await;
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("routing.json");
    let put = |text: &str| {
        use std::io::Write as _;
        let mut fresh = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        fresh.write_all(text.as_bytes()).unwrap();
        fresh.persist(&path).unwrap();
    };
    let state = State::new();
    let (followed, shared) = (path.clone(), Arc::clone(&state));
    tokio::spawn(async move { file::follow(&followed, shared).await });
    troubles(&state, "Missing").await;
    put(&table("r1"));
    routed_by(&state, "r1").await;
    put("{");
    troubles(&state, "Malformed").await;
    routed_by(&state, "r1").await;
    put(&table("r2"));
    routed_by(&state, "r2").await;
}
