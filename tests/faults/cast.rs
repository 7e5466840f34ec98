//! Kubelets, gateways and users, played.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::extract::State;
use axum::routing::{get, put};
use axum::{Json, Router};
use hearth_crds::worker_config::{AGENT_PORT, REPLICAS_PATH};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::scenario::{Ending, Scenario};

/// How long a worker works.
const WORK: Duration = Duration::from_millis(400);
/// Where gateways tell what they route.
const ADMIN_PORT: u16 = 9090;

/// Plays until it is dropped.
pub(crate) struct Cast(Vec<JoinHandle<()>>);

impl Drop for Cast {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Creates the subject, and plays all others. The gateway's pod has this address.
pub(crate) async fn play(
    cluster: &Cluster,
    scenario: &'static Scenario,
    address: Ipv4Addr,
) -> Result<Cast> {
    let (plural, name) = scenario.subject;
    let kind = match plural {
        "trainingjobs" => "TrainingJob",
        "hyperparamsweeps" => "HyperparamSweep",
        _ => "ModelDeployment",
    };
    let subject = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": (scenario.spec)(),
    });
    cluster.create_object(plural, &subject).await?;
    let mut tasks = vec![
        tokio::spawn(kubelet(cluster.clone(), scenario, address)),
        tokio::spawn(user(cluster.clone(), scenario)),
    ];
    if plural == "modeldeployments" {
        let app = Router::new().route("/routing", get(routing)).with_state(cluster.clone());
        tasks.push(answer((address, ADMIN_PORT), app).await?);
    }
    if scenario.heard {
        let wanted = Arc::new(AtomicUsize::new(1));
        let app = Router::new()
            .route("/status", get(training))
            .route(REPLICAS_PATH, put(resize))
            .with_state((cluster.clone(), wanted));
        tasks.push(answer((address, AGENT_PORT), app).await?);
    }
    Ok(Cast(tasks))
}

async fn answer(address: (Ipv4Addr, u16), app: Router) -> Result<JoinHandle<()>> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    Ok(tokio::spawn(async move { drop(axum::serve(listener, app).await) }))
}

/// Agent 0, by the pods that run and the number of agents that it was told to have.
type Agent = State<(Cluster, Arc<AtomicUsize>)>;

/// Its ranks run on all pods that are there, and on no more than it should have.
async fn training(State((cluster, wanted)): Agent) -> Json<Value> {
    let pods = cluster.list("pods").await.unwrap_or_default();
    let runs = |pod: &&Value| pod["status"]["phase"] == "Running";
    let wanted = wanted.load(Ordering::SeqCst);
    Json(json!({
        "state": "Training", "generation": 1, "restarts": 0, "ranks": [],
        "progress": {"step": 10, "totalSteps": 100, "epoch": 0.1, "loss": 0.5},
        "replicas": wanted, "presentReplicas": pods.iter().filter(runs).count().min(wanted),
    }))
}

async fn resize(State((_, wanted)): Agent, Json(size): Json<Value>) {
    let asked = size["replicas"].as_u64().and_then(|number| usize::try_from(number).ok());
    wanted.store(asked.unwrap_or(1), Ordering::SeqCst);
}

/// A gateway knows the table that is in the cluster.
async fn routing(State(cluster): State<Cluster>) -> String {
    let table = cluster.get("configmaps", "shop-routing").await.unwrap_or_default();
    table["data"]["routing.json"].as_str().unwrap_or_default().to_owned()
}

async fn user(cluster: Cluster, scenario: &'static Scenario) {
    let (plural, name) = scenario.subject;
    for step in scenario.steps {
        loop {
            let subject = cluster.get(plural, name).await.unwrap_or_default();
            if (step.when)(&subject) {
                let done = match step.patch {
                    Some(patch) => cluster.patch(plural, name, &patch()).await,
                    None => cluster.delete(plural, name).await,
                };
                match done {
                    Ok(()) => break,
                    Err(error) => eprintln!("{}: a step failed: {error:#}", cluster.namespace),
                }
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
}

/// Pods run as soon as they are there. Workers end after a while.
async fn kubelet(cluster: Cluster, scenario: &'static Scenario, address: Ipv4Addr) {
    let mut started: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        for pod in cluster.list("pods").await.unwrap_or_default() {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let status = match pod["status"]["phase"].as_str() {
                Some("Pending") => {
                    started.insert(uid, Instant::now());
                    running(&pod, address)
                }
                Some("Running") if started.get(&uid).is_some_and(|at| at.elapsed() > WORK) => {
                    let job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"].as_str();
                    let Some(ending) = job.and_then(|job| (scenario.ending)(job)) else { continue };
                    ended(&pod, &ending)
                }
                _ => continue,
            };
            let _ =
                cluster.patch("pods", &format!("{name}/status"), &json!({"status": status})).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn container(pod: &Value, ready: bool, state: &Value) -> Value {
    json!([{
        "name": pod["spec"]["containers"][0]["name"], "image": "i", "imageID": "i", "ready": ready,
        "restartCount": 0, "state": state,
    }])
}

fn running(pod: &Value, address: Ipv4Addr) -> Value {
    let now = pod["metadata"]["creationTimestamp"].clone();
    let true_ = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(true_);
    json!({
        "phase": "Running", "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}],
        "conditions": conditions,
        "containerStatuses": container(pod, true, &json!({"running": {"startedAt": now}})),
    })
}

fn ended(pod: &Value, ending: &Ending) -> Value {
    let now = pod["metadata"]["creationTimestamp"].clone();
    let index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str();
    let message =
        if index.unwrap_or("0") == "0" { ending.message.to_string() } else { String::new() };
    let state = json!({"terminated": {
        "exitCode": ending.code, "message": message, "startedAt": now, "finishedAt": now,
    }});
    let mut conditions = pod["status"]["conditions"].clone();
    for condition in conditions.as_array_mut().into_iter().flatten() {
        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
            condition["status"] = "False".into();
        }
    }
    json!({
        "phase": if ending.code == 0 { "Succeeded" } else { "Failed" },
        "conditions": conditions, "containerStatuses": container(pod, false, &state),
    })
}
