//! A canary under steady load: copies, shares, a killed server, a promotion, a bad one that goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hearth_tests::cluster::{Namespace, Way, await_value, condition, reason, told};
use hearth_tests::{http, jobs, processes};
use serde_json::{Value, json};

use crate::support::{Node, PATIENCE, succeeded};

const ASK: &str = r#"{"inputs": ["free money winner click now"]}"#;
/// Clients that ask one request after another.
const CLIENTS: usize = 4;
/// Requests by which a share is checked. Of each hundred in a row a gateway sends half to the canary; some of those
/// that are counted came before or come after.
const SHARE_OF: u64 = 1200;

fn deployment(job: &str, servers: u32, rollout: &Value) -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "shop"},
        "spec": {
            "model": {"fromTrainingJob": job},
            "gateway": {"requestTimeoutSeconds": 10},
            // The one question is computed each time that it is asked.
            "serving": {"replicas": servers, "maxBatchSize": 8, "maxBatchDelayMilliseconds": 1, "responseCacheBytes": 0,
                        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}},
            "rollout": rollout,
        },
    })
    .to_string()
}

/// What clients saw since they were last asked.
#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    failed: Vec<String>,
    revisions: BTreeMap<String, u64>,
}

/// Clients that never stop asking.
struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    failed: Vec<String>,
    sent: u64,
}

impl Load {
    fn begin(address: &str, clients: usize) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (seen, stop, address) = (seen.clone(), stop.clone(), address.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = http::post(&address, "/v1/classify", ASK);
                    let mut seen = seen.lock().unwrap();
                    seen.sent += 1;
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            let revision = crate::support::revision_of(&answer.head).unwrap();
                            *seen.revisions.entry(revision).or_default() += 1;
                        }
                        Ok(answer) => {
                            seen.failed.push(format!("{}: {}", answer.status, answer.body));
                        }
                        Err(error) => seen.failed.push(format!("{error:#}")),
                    }
                    drop(seen);
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { seen, stop, clients, failed: Vec::new(), sent: 0 }
    }

    /// What was seen since the last time.
    fn take(&mut self) -> BTreeMap<String, u64> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        self.failed.extend(seen.failed);
        self.sent += seen.sent;
        seen.revisions
    }

    /// The answers to the next `requests` requests, by revision.
    fn next(&mut self, requests: u64) -> BTreeMap<String, u64> {
        self.take();
        let (mut known, mut since) = (0, Instant::now());
        loop {
            let sent = self.seen.lock().unwrap().sent;
            if sent >= requests {
                break;
            }
            if sent > known {
                (known, since) = (sent, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "the load stands still");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.take()
    }

    /// Requests that were sent, all of which were answered.
    fn end_without_failure(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.join().unwrap();
        }
        self.take();
        let (sent, failed) = (self.sent, self.failed);
        let few = &failed[..failed.len().min(5)];
        assert!(failed.is_empty(), "{} of {sent} failed: {few:#?}", failed.len());
        sent
    }
}

fn hearth(namespace: &Namespace, verb: &str) -> String {
    let program = PathBuf::from(std::env::var_os("HEARTH_BIN").unwrap()).join("hearth");
    let said = Command::new(program).args([verb, "shop", "-n", &namespace.name]).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// Waits until `Progressing` has this reason.
fn until(namespace: &Namespace, wanted: &str) -> Value {
    let there = |d: &Value| reason(d, "Progressing") == wanted;
    namespace.wait("modeldeployment", "shop", PATIENCE, there).unwrap()
}

fn kill_servers(namespace: &Namespace, revision: &str) {
    let pods = format!("hearth.dev/revision={revision},app.kubernetes.io/component=server");
    for pod in namespace.list("pods", &pods).unwrap() {
        for id in processes::of_pod(&pod, "serve").unwrap() {
            processes::signal(id, "KILL").unwrap();
        }
    }
}

#[test]
fn a_canary_takes_over_and_a_bad_one_goes_without_a_failed_request() {
    let namespace = begin("e2e-canary", 1);
    let way = Way::open(&namespace, "shop", 80).unwrap();
    let mut load = Load::begin(&way.address, CLIENTS);
    story(&namespace, &mut load, Requests { split: SHARE_OF, within: 0.02, other: SHARE_OF / 2 });
    load.end_without_failure();
    servers_follow_the_traffic(&namespace, &way);
}

/// As above, and a node dies besides, with servers on it. Clients ask the gateway on the node that
/// lives, as a load balancer that looks after its gateways would have them do.
#[test]
#[ignore = "100,000 requests take 10 minutes"]
fn a_hundred_thousand_requests_outlive_rollouts_and_a_node() {
    let namespace = begin("e2e-many-requests", 2);
    let gateways = "hearth.dev/name=shop,app.kubernetes.io/component=gateway";
    let gateway = namespace.list("pods", gateways).unwrap().remove(0);
    let port = &gateway["spec"]["containers"][0]["ports"][0]["containerPort"];
    let address = format!("{}:{port}", gateway["status"]["podIP"].as_str().unwrap());
    let mut load = Load::begin(&address, CLIENTS);
    let stable =
        story(&namespace, &mut load, Requests { split: 60_000, within: 0.005, other: 10_000 });
    let servers = format!("hearth.dev/revision={stable},app.kubernetes.io/component=server");
    let servers = namespace.list("pods", &servers).unwrap();
    let lives = &gateway["spec"]["nodeName"];
    let dies = servers.iter().map(|pod| &pod["spec"]["nodeName"]).find(|node| *node != lives);
    let node = Node::of(dies.expect("servers are on one node").as_str().unwrap());
    node.kill();
    load.next(15_000);
    drop(node);
    let sent = load.end_without_failure();
    assert!(sent >= 100_000, "{sent}");
}

/// A deployment that serves the first of two models, by so many servers.
fn begin(name: &str, servers: u32) -> Namespace {
    let namespace = Namespace::create(name).unwrap();
    jobs::fill(&namespace).unwrap();
    for (name, steps) in [("one", 60), ("two", 80)] {
        namespace.apply(&jobs::training_job(name, 1, steps, |_| {})).unwrap();
    }
    succeeded(&namespace, "one");
    succeeded(&namespace, "two");
    namespace.apply(&deployment("one", servers, &json!({}))).unwrap();
    until(&namespace, "Complete");
    namespace
}

/// How many requests a story waits for.
#[derive(Clone, Copy)]
struct Requests {
    /// While half of them go to the canary, and how far from a half that may be.
    split: u64,
    within: f64,
    /// In each other part.
    other: u64,
}

fn stable(deployment: &Value) -> String {
    deployment["status"]["stable"]["revision"].as_str().unwrap().to_owned()
}

/// A canary comes, loses its servers, takes over; a bad one comes and goes. The revision that is left.
fn story(namespace: &Namespace, load: &mut Load, requests: Requests) -> String {
    let now = namespace.get("modeldeployment", "shop").unwrap();
    let (old, servers) = (stable(&now), now["spec"]["serving"]["replicas"].as_u64().unwrap());
    let servers = u32::try_from(servers).unwrap();
    let rollout = json!({"strategy": "Canary",
        "steps": [{"weight": 0, "shadowPercent": 100, "holdSeconds": 3}, {"weight": 50}],
        "analysis": {"maxErrorRate": 0.01, "minRequests": 100, "intervalSeconds": 5}});
    namespace.apply(&deployment("two", servers, &rollout)).unwrap();
    let waits = until(namespace, "WaitingForPromotion");
    let new = waits["status"]["canary"]["revision"].as_str().unwrap().to_owned();
    let shares = load.next(requests.split);
    let share = shares[&new] as f64 / shares.values().sum::<u64>() as f64;
    assert!((share - 0.5).abs() < requests.within, "half of the requests: {shares:?}");

    // A killed server: its requests are sent again, or to the old revision.
    kill_servers(namespace, &new);
    load.next(requests.other);
    until(namespace, "WaitingForPromotion");
    assert!(hearth(namespace, "promote").contains("takes over"));
    let second = until(namespace, "Complete");
    assert_eq!(stable(&second), new);
    assert!(load.next(requests.other / 12).into_keys().eq([new.clone()]));

    // No server answers within a hundredth of a millisecond.
    let rollout = json!({"strategy": "Canary", "steps": [{"weight": 30, "holdSeconds": 600}],
        "analysis": {"maxP95Milliseconds": 0.01, "minRequests": 50, "intervalSeconds": 5}});
    namespace.apply(&deployment("one", servers, &rollout)).unwrap();
    let back = namespace
        .wait("modeldeployment", "shop", PATIENCE, |d| condition(d, "Degraded") == "True")
        .unwrap();
    assert!(told(&back, "Degraded").starts_with("TooSlow"), "{}", told(&back, "Degraded"));
    assert_eq!(
        (stable(&back), &back["status"]["rejected"]["revision"]),
        (new.clone(), &old.into())
    );
    assert_eq!(condition(&back, "Ready"), "True");
    load.next(50);
    assert!(load.next(requests.other / 3).into_keys().eq([new.clone()]));
    new
}

/// To zero, back for one request that waits, and up for many.
fn servers_follow_the_traffic(namespace: &Namespace, way: &Way) {
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 2, "targetRequestsInFlight": 1,
        "scaleDownDelaySeconds": 10});
    let mut object: Value = serde_json::from_str(&deployment("two", 1, &json!({}))).unwrap();
    object["spec"]["serving"]["autoscaling"] = autoscaling;
    namespace.apply(&object.to_string()).unwrap();
    let servers = "hearth.dev/name=shop,app.kubernetes.io/component=server";
    let pods = || namespace.list("pods", servers);
    await_value(PATIENCE, pods, &|pods| pods.is_empty()).unwrap();
    let idle = namespace.get("modeldeployment", "shop").unwrap();
    assert_eq!((condition(&idle, "Ready"), reason(&idle, "Ready")), ("True", "Idle"));

    let answer = http::post(&way.address, "/v1/classify", ASK).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    let load = Load::begin(&way.address, 5 * CLIENTS);
    let two = |d: &Value| d["status"]["stable"]["replicas"] == 2;
    namespace.wait("modeldeployment", "shop", PATIENCE, two).unwrap();
    let both = |pods: &Vec<Value>| pods.iter().filter(|pod| is_ready(pod)).count() == 2;
    await_value(PATIENCE, pods, &both).unwrap();
    load.end_without_failure();
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
