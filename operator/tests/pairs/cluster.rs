//! What the rest of a cluster does with the operator's objects: Jobs get pods, compressions end,
//! Deployments become available, trials end, and what lost its owner goes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::common::World;

/// Pods of a training job that are played.
const PODS: i64 = 3;
/// Trials of a sweep that end; later ones go on.
const TRIALS: u64 = 6;

/// The gateways' only address; they answer with the routing table of the present world, and every
/// request went well.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) address: &'static str,
    pub(crate) table: Arc<Mutex<Value>>,
    measured: Arc<Mutex<Value>>,
}

impl Gateway {
    /// Listens at `address`.
    pub(crate) async fn start(address: &'static str) -> Self {
        let table = Arc::new(Mutex::new(Value::Null));
        let measured = Arc::new(Mutex::new(Value::Null));
        let documents = [("/routing", table.clone()), ("/measured", measured.clone())];
        crate::common::serve(&format!("{address}:9090"), &documents).await;
        Self { address, table, measured }
    }
}

/// Lets everybody else act once; whether anything changed.
pub(crate) fn play(world: &World, gateway: &Gateway) -> bool {
    let mut moved = collect_garbage(world);
    for key in world.keys() {
        let (plural, name) = key.split_once('/').unwrap();
        moved |= match plural {
            "jobs" => play_job(world, &key, name),
            "deployments" => play_deployment(world, &key, name, gateway),
            "trainingjobs" => play_trial(world, &key),
            "modeldeployments" => promote(world, &key),
            "configmaps" if name.ends_with("-routing") => {
                let text = world.get(&key)["data"]["routing.json"].clone();
                let table: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
                *gateway.measured.lock().unwrap() = all_went_well(&table);
                *gateway.table.lock().unwrap() = table;
                false
            }
            _ => false,
        };
    }
    moved
}

/// What gateways count by a table: much goes well, the new revision is better, and each has nine
/// requests in flight, as it always had.
fn all_went_well(table: &Value) -> Value {
    let figures = [("stable", 2000), ("canary", 3000), ("shadow", 0)].map(|(name, succeeded)| {
        let figures = json!({"requests": 5000, "failed": 0, "latencies": [[40, 5000]]});
        json!({"name": name, "assigned": 5000, "total": figures, "window": figures,
            "outcomes": {"reported": 5000, "succeeded": succeeded}})
    });
    let variants = table["variants"].as_array().into_iter().flatten();
    let loads = variants.map(|variant| {
        json!({"revision": variant["revision"], "recent": 9.0, "peak": 9.0,
            "watchedSeconds": 100_000})
    });
    let id = table["measure"]["id"].as_str().unwrap_or_default();
    json!({"id": id, "variants": figures, "loads": loads.collect::<Vec<_>>()})
}

/// A person lets a rollout go on that waits for one.
fn promote(world: &World, key: &str) -> bool {
    let object = world.get(key);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let waits = conditions.iter().any(|condition| condition["reason"] == "WaitingForPromotion");
    let revision = object["status"]["canary"]["revision"].as_str().unwrap_or_default();
    let order = format!("promote {revision}");
    if !waits || object["metadata"]["annotations"]["hearth.dev/rollout-order"] == order.as_str() {
        return false;
    }
    world.change(key, |object| {
        object["metadata"]["annotations"] = json!({"hearth.dev/rollout-order": order});
    });
    true
}

fn collect_garbage(world: &World) -> bool {
    let gone: Vec<_> = world.look(|objects| {
        let uids: BTreeSet<_> =
            objects.values().filter_map(|object| object["metadata"]["uid"].as_str()).collect();
        let lost = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            let mut owners = owners.into_iter().flatten().filter_map(|owner| owner["uid"].as_str());
            owners.next().is_some_and(|owner| !uids.contains(owner))
        };
        objects.iter().filter(|(_, object)| lost(object)).map(|(key, _)| key.clone()).collect()
    });
    for key in &gone {
        world.remove(key);
    }
    !gone.is_empty()
}

fn play_job(world: &World, key: &str, name: &str) -> bool {
    let (component, ended, wanted) = world.look(|objects| {
        let job = &objects[key];
        let wanted = if job["spec"]["suspend"] == true {
            0
        } else {
            job["spec"]["parallelism"].as_i64().unwrap_or(1).min(PODS)
        };
        let component = &job["metadata"]["labels"]["app.kubernetes.io/component"];
        (text(component), !job["status"].is_null(), wanted)
    });
    match component.as_str() {
        "quantize" => return !ended && compress(world, key, name, &world.get(key)),
        "prepare" => return !ended && wanted > 0 && prepare(world, key, name, &world.get(key)),
        _ => {}
    }
    let mut moved = false;
    for index in 0..PODS {
        let pod = format!("{name}-{index}-x");
        let there = world.look(|objects| objects.contains_key(&format!("pods/{pod}")));
        if index < wanted && !there {
            world.put("pods", pod_of(&world.get(key), &pod, index, &json!({"phase": "Running"})));
        } else if index >= wanted && there {
            world.remove(&format!("pods/{pod}"));
        }
        moved |= (index < wanted) != there;
    }
    moved
}

/// The compression ends; a gate that allows no loss refuses it.
fn compress(world: &World, key: &str, name: &str, job: &Value) -> bool {
    let text = text(&world.get(&format!("configmaps/{name}"))["data"]["config.json"]);
    let config: Value = serde_json::from_str(&text).unwrap();
    let bad = config["gate"]["maxDrop"] == 0.0;
    let told = json!({"succeeded": !bad, "reason": if bad { "GateFailed" } else { "Completed" },
        "message": if bad { "f1 fell" } else { "compressed" }, "exitCode": if bad { 76 } else { 0 },
        "compression": {"sizeBeforeBytes": 400, "sizeAfterBytes": 100,
                        "metricBefore": 0.98, "metricAfter": 0.979}});
    end(world, key, name, job, &told)
}

/// The rows are prepared.
fn prepare(world: &World, key: &str, name: &str, job: &Value) -> bool {
    let data = json!({"uri": "pvc://models/data/0123456789abcdef", "rows": 100, "trainRows": 80,
        "evalRows": 10, "dropped": 10});
    let told = json!({"succeeded": true, "reason": "Completed", "message": "80 of 100 rows",
        "exitCode": 0, "data": data});
    end(world, key, name, job, &told)
}

/// A Job of one pod ends with these last words.
fn end(world: &World, key: &str, name: &str, job: &Value, told: &Value) -> bool {
    let good = told["succeeded"] == true;
    let now = world.now();
    let status = json!({"phase": if good { "Succeeded" } else { "Failed" }, "containerStatuses": [{
        "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": told["exitCode"], "message": told.to_string(),
                                 "finishedAt": now}}}]});
    world.put("pods", pod_of(job, &format!("{name}-x"), 0, &status));
    world.change(key, |job| {
        job["status"] = json!({"conditions": [{"type": if good { "Complete" } else { "Failed" },
            "status": "True", "message": "the Job ended", "lastTransitionTime": now}]});
    });
    true
}

fn play_deployment(world: &World, key: &str, name: &str, gateway: &Gateway) -> bool {
    let pod = format!("{name}-x");
    let (wanted, available, has_pod) = world.look(|objects| {
        let deployment = &objects[key];
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let has_pod = objects.contains_key(&format!("pods/{pod}"));
        (spec["replicas"].clone(), status["availableReplicas"].clone(), has_pod)
    });
    let mut moved = available != wanted;
    if moved {
        let status = json!({"updatedReplicas": wanted, "availableReplicas": wanted});
        world.change(key, |deployment| deployment["status"] = status);
    }
    if name.ends_with("-gateway") && !has_pod {
        let status = json!({"phase": "Running", "podIP": gateway.address});
        world.put("pods", pod_of(&world.get(key), &pod, 0, &status));
        moved = true;
    }
    moved
}

/// Every fourth trial fails.
fn play_trial(world: &World, key: &str) -> bool {
    let open = world.look(|objects| {
        let number = objects[key]["metadata"]["annotations"]["hearth.dev/trial"].as_str()?;
        let number: u64 = number.parse().ok()?;
        (number < TRIALS && objects[key]["status"].is_null()).then_some(number)
    });
    let Some(number) = open else { return false };
    let (type_, figure) = match number % 4 {
        3 => ("Failed", json!(null)),
        rest => ("Succeeded", json!(0.5 + rest as f64 / 100.0)),
    };
    let now = world.now();
    world.change(key, |job| {
        job["status"] = json!({
            "restarts": 0,
            "conditions": [{"type": type_, "status": "True", "reason": "Completed",
                            "message": "it ended", "lastTransitionTime": now}],
            "progress": {"step": 1, "totalSteps": 1, "epoch": 1.0, "evalLoss": figure,
                         "accuracy": figure, "f1": figure, "f1Macro": figure},
        });
    });
    true
}

fn pod_of(owner: &Value, name: &str, index: i64, status: &Value) -> Value {
    let mut annotations = owner["spec"]["template"]["metadata"]["annotations"].clone();
    annotations["batch.kubernetes.io/job-completion-index"] = json!(index.to_string());
    json!({
        "metadata": {
            "name": name,
            "labels": owner["spec"]["template"]["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Job", "name": "owner",
                                 "uid": owner["metadata"]["uid"], "controller": true}],
        },
        "spec": {"nodeName": format!("node-{index}"), "containers": []},
        "status": status,
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
