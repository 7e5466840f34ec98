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

use crate::support::{PATIENCE, succeeded};

const ASK: &str = r#"{"inputs": ["free money winner click now"]}"#;
/// Clients that ask one request after another.
const CLIENTS: usize = 4;
/// Requests by which a share is checked: 50 % of them is within 4 standard deviations of 2.9 %.
const SHARE_OF: u64 = 1200;

fn deployment(job: &str, rollout: &Value) -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "shop"},
        "spec": {
            "model": {"fromTrainingJob": job},
            "gateway": {"requestTimeoutSeconds": 10},
            // The one question is computed each time that it is asked.
            "serving": {"maxBatchSize": 8, "maxBatchDelayMilliseconds": 1, "responseCacheBytes": 0,
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
                            let revision = crate::rollout::revision_of(&answer.head).unwrap();
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
        let begin = Instant::now();
        while self.seen.lock().unwrap().sent < requests {
            assert!(begin.elapsed() < PATIENCE, "the load stands still");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.take()
    }

    fn end(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.join().unwrap();
        }
        self.take();
        (self.sent, self.failed)
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
    let namespace = Namespace::create("e2e-canary").unwrap();
    jobs::fill(&namespace).unwrap();
    for (name, steps) in [("one", 60), ("two", 80)] {
        namespace.apply(&jobs::training_job(name, 1, steps, |_| {})).unwrap();
    }
    succeeded(&namespace, "one");
    succeeded(&namespace, "two");
    namespace.apply(&deployment("one", &json!({}))).unwrap();
    let first = until(&namespace, "Complete");
    let stable = |d: &Value| d["status"]["stable"]["revision"].as_str().unwrap().to_owned();
    let old = stable(&first);
    let way = Way::open(&namespace, "shop", 80).unwrap();
    let mut load = Load::begin(&way.address, CLIENTS);

    let rollout = json!({"strategy": "Canary",
        "steps": [{"weight": 0, "shadowPercent": 100, "holdSeconds": 3}, {"weight": 50}],
        "analysis": {"maxErrorRate": 0.01, "minRequests": 100, "intervalSeconds": 5}});
    namespace.apply(&deployment("two", &rollout)).unwrap();
    let waits = until(&namespace, "WaitingForPromotion");
    let new = waits["status"]["canary"]["revision"].as_str().unwrap().to_owned();
    let shares = load.next(SHARE_OF);
    let share = shares[&new] as f64 / shares.values().sum::<u64>() as f64;
    assert!((0.44..0.56).contains(&share), "half of the requests: {shares:?}");

    // A killed server: its requests are sent again, or to the old revision.
    kill_servers(&namespace, &new);
    load.next(SHARE_OF / 2);
    until(&namespace, "WaitingForPromotion");
    assert!(hearth(&namespace, "promote").contains("takes over"));
    let second = until(&namespace, "Complete");
    assert_eq!(stable(&second), new);
    assert!(load.next(50).into_keys().eq([new.clone()]));

    // No server answers within a hundredth of a millisecond.
    let rollout = json!({"strategy": "Canary", "steps": [{"weight": 30, "holdSeconds": 600}],
        "analysis": {"maxP95Milliseconds": 0.01, "minRequests": 50, "intervalSeconds": 5}});
    namespace.apply(&deployment("one", &rollout)).unwrap();
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
    assert!(load.next(200).into_keys().eq([new]));

    let (sent, failed) = load.end();
    let few = &failed[..failed.len().min(5)];
    assert!(failed.is_empty(), "{} of {sent} failed: {few:#?}", failed.len());
    servers_follow_the_traffic(&namespace, &way);
}

/// To zero, back for one request that waits, and up for many.
fn servers_follow_the_traffic(namespace: &Namespace, way: &Way) {
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 2, "targetRequestsInFlight": 1,
        "scaleDownDelaySeconds": 10});
    let mut object: Value = serde_json::from_str(&deployment("two", &json!({}))).unwrap();
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
    let (sent, failed) = load.end();
    assert!(failed.is_empty(), "{} of {sent} failed: {failed:#?}", failed.len());
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
