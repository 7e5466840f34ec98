//! A proxy between an operator and the API server that can be told to misbehave.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::operator::Operator;

/// A request as rules see it.
#[derive(Debug)]
pub(crate) struct Call {
    /// `GET` and so on.
    pub(crate) method: Method,
    /// Without the query.
    pub(crate) path: String,
    /// Without what tells where in time a list or watch begins.
    pub(crate) question: String,
    /// Whether it is a watch.
    pub(crate) watch: bool,
    /// The version at which a watch begins.
    pub(crate) version: String,
    /// Its number among the requests that change something, from 1; 0 where it changes nothing.
    pub(crate) write: usize,
}

impl Call {
    pub(crate) fn is_list(&self) -> bool {
        self.method == Method::GET && !self.watch
    }

    pub(crate) fn is_write(&self) -> bool {
        self.write > 0
    }
}

/// What is done with a request.
#[derive(Clone)]
pub(crate) enum Deed {
    /// What a proxy does.
    Pass,
    /// It is answered with this code and never reaches the server.
    Refuse(u16),
    /// The server does it, and this code is answered.
    RefuseAfter(u16),
    /// The server does it, and half of the answer comes.
    Truncate,
    /// No answer, for ever. The server does not see it.
    Silence,
    /// The operator is killed before the server sees it, or after the server has done it, and is
    /// started anew. From then on, requests pass.
    Kill {
        /// After the server has done it.
        after: bool,
    },
    /// The server sees it when this is over.
    Hold(Arc<tokio::sync::Notify>),
    /// This is answered.
    Answer(Bytes),
    /// A watch that starts late.
    Delay(Duration),
    /// A watch that gives so many events, and then loses one and ends.
    Cut(usize),
    /// A watch that gives so many events, and then says that its version is too old.
    Expire(usize),
    /// A watch that begins and then tells nothing, for ever.
    Fade,
}

/// Decides about requests.
pub(crate) type Rules = Box<dyn Fn(&Call) -> Deed + Send + Sync>;

struct Shared {
    client: Client,
    rules: Mutex<Option<Rules>>,
    /// Sees every answer to a list.
    listed: Mutex<Option<Box<dyn Fn(&str, &Bytes) + Send + Sync>>>,
    operator: Mutex<Option<Arc<Operator>>>,
    writes: AtomicUsize,
    last_write: Mutex<Instant>,
    last_fault: Mutex<Option<Instant>>,
}

/// A proxy that listens.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback; everything passes.
    pub(crate) async fn start(client: Client) -> Result<Self> {
        let shared = Arc::new(Shared {
            client,
            rules: Mutex::default(),
            listed: Mutex::default(),
            operator: Mutex::default(),
            writes: AtomicUsize::default(),
            last_write: Mutex::new(Instant::now()),
            last_fault: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let app = axum::Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { port, shared, task })
    }

    /// The operator that [`Deed::Kill`] kills.
    pub(crate) fn serves(&self, operator: Arc<Operator>) {
        *self.shared.operator.lock().unwrap() = Some(operator);
    }

    /// From now on these rules hold.
    pub(crate) fn rules(&self, rules: Rules) {
        *self.shared.rules.lock().unwrap() = Some(rules);
    }

    /// From now on requests pass.
    pub(crate) fn calm(&self) {
        *self.shared.last_fault.lock().unwrap() = Some(Instant::now());
        *self.shared.rules.lock().unwrap() = None;
    }

    /// Tells of every list, by its question.
    pub(crate) fn listen(&self, listed: Box<dyn Fn(&str, &Bytes) + Send + Sync>) {
        *self.shared.listed.lock().unwrap() = Some(listed);
    }

    /// How many requests would have changed something.
    pub(crate) fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// Time since the last of them.
    pub(crate) fn quiet(&self) -> Duration {
        self.shared.last_write.lock().unwrap().elapsed()
    }

    /// When a request was last treated badly.
    pub(crate) fn last_fault(&self) -> Option<Instant> {
        *self.shared.last_fault.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn classify(&self, request: &Request) -> Call {
        let query = request.uri().query().unwrap_or_default();
        let kept: Vec<_> = query
            .split('&')
            .filter(|part| !part.starts_with("resourceVersion") && !part.starts_with("continue="))
            .collect();
        let path = request.uri().path().to_owned();
        // Renewing a lease is no part of any scenario.
        let write = if request.method() == Method::GET || path.contains("/leases") {
            0
        } else {
            *self.last_write.lock().unwrap() = Instant::now();
            self.writes.fetch_add(1, Ordering::SeqCst) + 1
        };
        Call {
            method: request.method().clone(),
            question: format!("{path}?{}", kept.join("&")),
            watch: query.contains("watch=true"),
            version: query
                .split('&')
                .find_map(|part| part.strip_prefix("resourceVersion="))
                .unwrap_or_default()
                .into(),
            path,
            write,
        }
    }

    fn decide(&self, call: &Call) -> Deed {
        let rules = self.rules.lock().unwrap();
        let deed = rules.as_ref().map_or(Deed::Pass, |rules| rules(call));
        if !matches!(deed, Deed::Pass) {
            *self.last_fault.lock().unwrap() = Some(Instant::now());
        }
        deed
    }

    async fn ask(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let sent = async {
            let body = body.collect().await?.to_bytes().to_vec();
            let request = http::Request::from_parts(parts, kube::client::Body::from(body));
            anyhow::Ok(self.client.send(request).await?)
        };
        match sent.await {
            // What is said of one connection does not hold for the next.
            Ok(answer) => Response::builder()
                .status(answer.status())
                .header("content-type", "application/json")
                .body(Body::new(answer.into_body()))
                .unwrap(),
            Err(error) => status(502, &format!("{error:#}")),
        }
    }

    fn restart(&self) {
        let operator = self.operator.lock().unwrap().clone();
        *self.rules.lock().unwrap() = None;
        if let Some(operator) = operator {
            operator.kill();
            operator.start().unwrap();
        }
        *self.last_fault.lock().unwrap() = Some(Instant::now());
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.classify(&request);
    match shared.decide(&call) {
        Deed::Pass => pass(&shared, &call, request).await,
        Deed::Refuse(code) => status(code, "the proxy refuses"),
        Deed::RefuseAfter(code) => {
            let _ = shared.ask(request).await.into_body().collect().await;
            status(code, "the proxy hides the answer")
        }
        Deed::Truncate => truncated(shared.ask(request).await).await,
        Deed::Silence => std::future::pending().await,
        Deed::Kill { after } => {
            if after {
                let _ = shared.ask(request).await.into_body().collect().await;
            }
            tokio::task::spawn_blocking(move || shared.restart()).await.unwrap();
            status(500, "nobody hears this")
        }
        Deed::Hold(released) => {
            released.notified().await;
            shared.ask(request).await
        }
        Deed::Answer(body) => Response::builder()
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap(),
        Deed::Delay(time) => {
            tokio::time::sleep(time).await;
            shared.ask(request).await
        }
        Deed::Cut(events) => watched(shared.ask(request).await, events, Ending::Cut),
        Deed::Expire(events) => watched(shared.ask(request).await, events, Ending::Expire),
        Deed::Fade => watched(shared.ask(request).await, 0, Ending::Fade),
    }
}

async fn pass(shared: &Shared, call: &Call, request: Request) -> Response {
    let answer = shared.ask(request).await;
    if !call.is_list() || !answer.status().is_success() {
        return answer;
    }
    let (parts, body) = answer.into_parts();
    let Ok(body) = body.collect().await else { return status(502, "the server's answer broke") };
    let body = body.to_bytes();
    if let Some(listed) = &*shared.listed.lock().unwrap() {
        listed(&call.question, &body);
    }
    Response::from_parts(parts, body.into())
}

fn status(code: u16, message: &str) -> Response {
    let body = failure(code, message).to_string();
    let mut answer = Response::builder().status(code).header("content-type", "application/json");
    if code == 429 {
        answer = answer.header("retry-after", "1");
    }
    answer.body(body.into()).unwrap()
}

fn failure(code: u16, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": if code == 410 { "Expired" } else { "Planted" }, "code": code,
    })
}

/// Half of an answer, and then the connection breaks.
async fn truncated(answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    let Ok(body) = body.collect().await else { return status(502, "the server's answer broke") };
    let body = body.to_bytes();
    let half = body.slice(..body.len() / 2);
    Response::from_parts(parts, Body::from_stream(stream::iter([Ok(half), Err(broken())])))
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the proxy breaks the connection")
}

#[derive(Clone, Copy)]
enum Ending {
    Cut,
    Expire,
    Fade,
}

/// A watch whose `events` first events pass.
fn watched(answer: Response, events: usize, ending: Ending) -> Response {
    let (parts, body) = answer.into_parts();
    // The next one is waited for, and is lost.
    let passed = lines(body).enumerate().take_while(move |(place, _)| {
        let passes = *place < events;
        async move { passes }
    });
    let passed = passed.map(|(_, line)| line);
    let rest = match ending {
        Ending::Cut => stream::once(async { Err(axum::Error::new(broken())) }).boxed(),
        Ending::Expire => {
            let gone = json!({"type": "ERROR", "object": failure(410, "too old resource version")});
            stream::once(async move { Ok(Bytes::from(format!("{gone}\n"))) }).boxed()
        }
        Ending::Fade => stream::pending().boxed(),
    };
    Response::from_parts(parts, Body::from_stream(passed.chain(rest)))
}

/// The lines of a body, each with its line feed.
fn lines(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    let state = (body.into_data_stream(), Vec::<u8>::new());
    stream::unfold(state, |(mut data, mut held)| async move {
        loop {
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let rest = held.split_off(end + 1);
                return Some((Ok(Bytes::from(held)), (data, rest)));
            }
            match data.next().await? {
                Ok(more) => held.extend_from_slice(&more),
                Err(error) => return Some((Err(error), (data, held))),
            }
        }
    })
}
