//! A small API server in memory, and an operator's context on top of it.
//!
//! It knows server-side apply as far as the operator relies on it: creation,
//! the UID precondition, status as a subresource, resource versions. Each write
//! is logged, can be made to fail, and shows in the caches unless they lag.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "tests")]

mod merge;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hearth_operator::admission::Admission;
use hearth_operator::cache::{Caches, GuardedDeployment, GuardedJob, GuardedSweep};
use hearth_operator::context::{Clock, Context};
use hearth_operator::pod_index::PodIndex;
use hearth_operator::pods::Images;
use hearth_operator::seen::{Kind, Seen};
use hearth_operator::settings::Settings;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use merge::{forget, manager, merge};

/// A clock that stands still until it is moved.
pub struct StillClock(Mutex<Timestamp>);

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// Settings of all tests.
pub fn settings() -> Settings {
    Settings {
        images: Images {
            worker: "hearth-worker:test".into(),
            gateway: "hearth-operator:test".into(),
            pull_policy: "IfNotPresent".into(),
        },
        namespace: "hearth-system".into(),
        metrics_namespace: None,
    }
}

struct Writers {
    training_jobs: Writer<GuardedJob>,
    sweeps: Writer<GuardedSweep>,
    model_deployments: Writer<GuardedDeployment>,
    seen: BTreeMap<Kind, Writer<Seen>>,
    pods: PodIndex,
}

impl Writers {
    fn new() -> Self {
        let watched = Kind::CHILDREN.into_iter().chain([
            Kind::Pod,
            Kind::PersistentVolumeClaim,
            Kind::Node,
            Kind::ResourceQuota,
            Kind::PriorityClass,
        ]);
        Self {
            training_jobs: Writer::default(),
            sweeps: Writer::default(),
            model_deployments: Writer::default(),
            seen: watched.map(|kind| (kind, Writer::new(kind))).collect(),
            pods: PodIndex::default(),
        }
    }

    fn caches(&self) -> Caches {
        let seen = self.seen.iter().map(|(kind, writer)| (*kind, writer.as_reader()));
        Caches {
            training_jobs: self.training_jobs.as_reader(),
            sweeps: self.sweeps.as_reader(),
            model_deployments: self.model_deployments.as_reader(),
            seen: seen.collect(),
            pods: self.pods.clone(),
        }
    }

    fn show(&mut self, plural: &str, object: &Value, gone: bool) {
        match plural {
            "trainingjobs" => show(&mut self.training_jobs, object, gone),
            "hyperparamsweeps" => show(&mut self.sweeps, object, gone),
            "modeldeployments" => show(&mut self.model_deployments, object, gone),
            _ => {
                if plural == "pods" {
                    self.pods.saw(&serde_json::from_value(object.clone()).unwrap());
                }
                let of = |kind: &Kind| <Seen as Lookup>::plural(kind) == plural;
                if let Some((_, writer)) = self.seen.iter_mut().find(|(kind, _)| of(kind)) {
                    show(writer, object, gone);
                }
            }
        }
    }
}

fn show<K>(writer: &mut Writer<K>, object: &Value, gone: bool)
where
    K: Lookup + DeserializeOwned + Clone + 'static,
    K::DynamicType: Clone + Eq + std::hash::Hash,
{
    let object: K = serde_json::from_value(object.clone()).unwrap();
    writer.apply_watcher_event(&if gone { Event::Delete(object) } else { Event::Apply(object) });
}

/// Objects by `PLURAL/NAME`, all of one namespace.
struct State {
    objects: BTreeMap<String, Value>,
    writers: Writers,
    /// What each manager applied last, by object.
    applied: BTreeMap<(String, String), Value>,
    log: Vec<String>,
    events: Vec<Value>,
    version: u64,
    /// HTTPRoutes are served.
    gateway_api: bool,
    /// Caches do not see writes.
    lag: bool,
    /// Writes until one fails; it fails before it has an effect, or after it.
    fail_at: Option<(usize, bool)>,
}

/// The API server, and an operator's context on top of it.
pub struct World {
    state: Arc<Mutex<State>>,
    pub clock: Arc<StillClock>,
    pub cx: Arc<Context>,
}

impl World {
    /// An empty cluster at a fixed time.
    pub fn new() -> Self {
        let writers = Writers::new();
        let caches = writers.caches();
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            writers,
            applied: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            version: 100,
            gateway_api: false,
            lag: false,
            fail_at: None,
        }));
        let served = state.clone();
        let client = client(move |parts, body| served.lock().unwrap().answer(parts, body));
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let clock = Arc::new(StillClock(Mutex::new(start)));
        let reporter = Reporter { controller: "hearth-operator".into(), instance: None };
        let cx = Arc::new(Context {
            client,
            caches,
            settings: settings(),
            clock: clock.clone(),
            metrics: hearth_operator::metrics::Metrics::default(),
            reporter,
            pods: hearth_operator::agent_client::PodClient::default(),
            admission: Admission::new(Some(SignedDuration::from_secs(300))),
            memory: Mutex::default(),
        });
        Self { state, clock, cx }
    }

    /// The same, with the claims `models` and `data`.
    pub fn with_claims() -> Self {
        let world = Self::new();
        for claim in ["models", "data"] {
            world.put("persistentvolumeclaims", json!({"metadata": {"name": claim}}));
        }
        world
    }

    /// A worker's pod on the node of its index, as the Job controller and a scheduler make it.
    pub fn put_worker(&self, job: &str, index: u32, status: &Value) {
        let made = self.get(&format!("jobs/{job}-train"));
        self.put(
            "pods",
            json!({
                "metadata": {
                    "name": format!("{job}-train-{index}-x"),
                    "labels": made["spec"]["template"]["metadata"]["labels"],
                    "annotations": {"hearth.dev/parent": job,
                        "batch.kubernetes.io/job-completion-index": index.to_string()},
                    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job",
                        "name": format!("{job}-train"), "uid": made["metadata"]["uid"],
                        "controller": true}],
                },
                "spec": {"nodeName": format!("node-{index}"), "containers": []},
                "status": status,
            }),
        );
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: i64) {
        let mut now = self.clock.0.lock().unwrap();
        *now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    /// Now, as Kubernetes writes it.
    pub fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Puts an object there, as a user or another controller does.
    pub fn put(&self, plural: &str, object: Value) {
        self.state.lock().unwrap().store(plural, object);
    }

    /// Changes an object, as another controller does.
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let mut object = state.objects[key].clone();
        change(&mut object);
        let plural = key.split('/').next().unwrap().to_owned();
        state.store(&plural, object);
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        let mut state = self.state.lock().unwrap();
        let object = state.objects.remove(key).unwrap();
        let plural = key.split('/').next().unwrap().to_owned();
        state.writers.show(&plural, &object, true);
    }

    /// An object as it is, `null` where there is none.
    pub fn get(&self, key: &str) -> Value {
        self.state.lock().unwrap().objects.get(key).cloned().unwrap_or_default()
    }

    /// Looks at all objects, by name.
    pub fn look<T>(&self, at: impl FnOnce(&BTreeMap<String, Value>) -> T) -> T {
        at(&self.state.lock().unwrap().objects)
    }

    /// Names of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    /// The writes since the last time, `VERB PLURAL/NAME`.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        self.state.lock().unwrap().events.clone()
    }

    /// Whether the cluster has the Gateway API.
    pub fn gateway_api(&self, there: bool) {
        self.state.lock().unwrap().gateway_api = there;
    }

    /// Whether the caches see writes.
    pub fn lag(&self, lag: bool) {
        self.state.lock().unwrap().lag = lag;
    }

    /// Lets the caches catch up.
    pub fn catch_up(&self) {
        let mut state = self.state.lock().unwrap();
        state.lag = false;
        for (key, object) in state.objects.clone() {
            let plural = key.split('/').next().unwrap().to_owned();
            state.writers.show(&plural, &object, false);
        }
    }

    /// Makes the write after `count` others fail, before or after its effect.
    pub fn fail_after(&self, count: usize, after_effect: bool) {
        self.state.lock().unwrap().fail_at = Some((count, after_effect));
    }

    /// Whether the planned failure has happened.
    pub fn has_failed(&self) -> bool {
        self.state.lock().unwrap().fail_at.is_none()
    }

    /// Reconciles a TrainingJob once.
    pub async fn train(&self, name: &str) -> Result<(), String> {
        let key = ObjectRef::new(name).within("team-a");
        let job = self.cx.caches.training_jobs.get(&key).expect("no such job");
        let done = hearth_operator::training_job::reconcile(job, self.cx.clone()).await;
        done.map(drop).map_err(|error| error.sentence())
    }

    /// Decides which jobs may start.
    pub fn admit(&self) -> hearth_operator::admission::News {
        self.cx.admission.decide(&self.cx.caches, self.clock.now())
    }

    /// Reconciles a HyperparamSweep once.
    pub async fn search(&self, name: &str) -> Result<(), String> {
        let key = ObjectRef::new(name).within("team-a");
        let sweep = self.cx.caches.sweeps.get(&key).expect("no such sweep");
        let done = hearth_operator::sweep::reconcile(sweep, self.cx.clone()).await;
        done.map(drop).map_err(|error| error.sentence())
    }

    /// The operator starts anew: it knows what is in the cluster, and nothing else.
    pub fn restart(&self) {
        self.catch_up();
        *self.cx.memory.lock().unwrap() = hearth_operator::context::Memory::default();
    }

    /// Reconciles a ModelDeployment once.
    pub async fn deploy(&self, name: &str) -> Result<(), String> {
        let key = ObjectRef::new(name).within("team-a");
        let deployment = self.cx.caches.model_deployments.get(&key).expect("no such deployment");
        let done =
            Box::pin(hearth_operator::deployment::reconcile(deployment, self.cx.clone())).await;
        done.map(drop).map_err(|error| error.sentence())
    }

    /// Status and reason of a condition, `TYPE=STATUS REASON`.
    pub fn condition(&self, key: &str, type_: &str) -> String {
        let object = self.get(key);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|c| c["type"] == type_).map_or("absent".into(), |c| {
            format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())
        })
    }

    /// Message of a condition.
    pub fn told(&self, key: &str, type_: &str) -> String {
        let object = self.get(key);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == type_);
        found.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned()
    }
}

impl State {
    fn store(&mut self, plural: &str, mut object: Value) -> Value {
        self.version += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["namespace"] = json!("team-a");
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{plural}-{name}-{}", self.version));
        }
        self.objects.insert(format!("{plural}/{name}"), object.clone());
        if !self.lag {
            self.writers.show(plural, &object, false);
        }
        object
    }

    fn answer(&mut self, parts: &http::request::Parts, body: &[u8]) -> (u16, Value) {
        let path: Vec<_> = parts.uri.path().trim_matches('/').split('/').collect();
        let place = path.iter().position(|part| *part == "namespaces");
        let Some(place) = place else {
            let key = path[path.len() - 2..].join("/");
            return self.objects.get(&key).map_or_else(not_found, |object| (200, object.clone()));
        };
        let plural = path[place + 2];
        let name = path.get(place + 3).copied().unwrap_or_default();
        let subresource = path.get(place + 4).copied();
        let key = format!("{plural}/{name}");
        if plural == "httproutes" && !self.gateway_api {
            return failure(404, "404 page not found");
        }
        if parts.method == Method::GET {
            return self.objects.get(&key).map_or_else(not_found, |object| (200, object.clone()));
        }
        let query = parts.uri.query().unwrap_or_default();
        let verb = match (&parts.method, subresource) {
            (_, Some(sub)) => sub,
            (&Method::POST, _) => "create",
            (&Method::DELETE, _) => "delete",
            _ => "apply",
        };
        self.log.push(format!("{verb} {key}"));
        let after_effect = match self.fail_at {
            Some((0, after_effect)) => {
                self.fail_at = None;
                if !after_effect {
                    return failure(500, "the write failed");
                }
                true
            }
            Some((left, after_effect)) => {
                self.fail_at = Some((left - 1, after_effect));
                false
            }
            None => false,
        };
        let answer = match parts.method {
            Method::POST => {
                let made: Value = serde_json::from_slice(body).unwrap();
                if plural == "events" {
                    self.events.push(made.clone());
                }
                (201, made)
            }
            Method::DELETE => match self.objects.remove(&key) {
                Some(object) => {
                    if !self.lag {
                        self.writers.show(plural, &object, true);
                    }
                    (200, object)
                }
                None => not_found(),
            },
            _ => self.apply(plural, &key, subresource, (query, body)),
        };
        if after_effect { failure(504, "the answer was lost") } else { answer }
    }

    /// Server-side apply.
    fn apply(
        &mut self,
        plural: &str,
        key: &str,
        subresource: Option<&str>,
        (query, body): (&str, &[u8]),
    ) -> (u16, Value) {
        let sent: Value = serde_json::from_slice(body).unwrap();
        assert!(query.contains("fieldManager=hearth-"), "no field manager: {query}");
        let there = self.objects.get(key).cloned();
        let uid = &sent["metadata"]["uid"];
        let uid_differs =
            there.as_ref().is_some_and(|t| !uid.is_null() && *uid != t["metadata"]["uid"]);
        if uid_differs {
            return failure(409, "another uid");
        }
        let next = match (there, subresource) {
            (None, Some(_)) => return not_found(),
            (None, None) => {
                self.applied.retain(|(of, _), _| of != key);
                sent.clone()
            }
            (Some(mut object), Some("status")) => {
                match plural {
                    "pods" => merge(&mut object["status"], &sent["status"]),
                    _ => object["status"] = sent["status"].clone(),
                }
                object
            }
            (Some(mut object), _) => {
                let foreign =
                    object["metadata"]["annotations"]["hearth.dev/applied-hash"].is_null();
                if foreign && !query.contains("force=true") {
                    return failure(409, "conflict with another field manager");
                }
                if plural == "jobs" && sent["spec"]["template"].is_object() {
                    assert_eq!(
                        object["spec"]["template"], sent["spec"]["template"],
                        "a Job's template is immutable"
                    );
                }
                if sent["data"].is_object() {
                    object["data"] = json!({}); // ours alone
                }
                let before = self.applied.get(&(key.to_owned(), manager(query)));
                forget(&mut object, before.unwrap_or(&Value::Null), &sent);
                merge(&mut object, &sent);
                object
            }
        };
        if subresource.is_none() {
            self.applied.insert((key.to_owned(), manager(query)), sent);
        }
        (200, self.store(plural, next))
    }
}

fn not_found() -> (u16, Value) {
    let (code, mut body) = failure(404, "not found");
    body["reason"] = json!("NotFound");
    (code, body)
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": "Test", "code": code,
    });
    (code, body)
}

/// A client whose API server is `answer`: from head and body to status code and JSON.
pub fn client<A>(answer: A) -> Client
where
    A: Fn(&http::request::Parts, &[u8]) -> (u16, Value) + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let (code, answer) = answer(&parts, &body);
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "team-a")
}

/// Answers each path at `address` with whatever its document holds at the time.
pub async fn serve(address: &str, documents: &[(&str, Arc<Mutex<Value>>)]) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let mut app = axum::Router::new();
    for (path, document) in documents {
        let document = document.clone();
        let answer = move || {
            let document = document.lock().unwrap().clone();
            async move { axum::Json(document) }
        };
        app = app.route(path, axum::routing::get(answer));
    }
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
}
