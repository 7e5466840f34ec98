//! A TrainingJob's life against an API server in memory.

use std::sync::{Arc, Mutex};

use crate::common::World;
use serde_json::{Value, json};

pub(crate) const JOB: &str = "trainingjobs/spam";
/// Loopback addresses of this file's agents: one a test, so that they may run at once.
const AGENT: [&str; 4] = ["127.84.70.1", "127.84.70.2", "127.84.70.3", "127.84.70.4"];

/// Writes that start a job: what pods need comes before what makes them.
const STARTED: [&str; 6] = [
    "apply configmaps/spam-train",
    "apply services/spam-train",
    "apply networkpolicies/spam-train",
    "apply poddisruptionbudgets/spam-train",
    "apply jobs/spam-train",
    "status trainingjobs/spam",
];

fn job(change: impl FnOnce(&mut Value)) -> Value {
    let mut job = json!({
        "apiVersion": "hearth.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "spam", "uid": "u-1", "generation": 1},
        "spec": {
            "task": "SequenceClassification",
            "model": {"source": "pvc://models/minilm"},
            "data": {"train": {"source": "pvc://data/train.jsonl"}},
            "workers": {"replicas": 2},
            "output": {"destination": "pvc://models/spam"},
        },
    });
    change(&mut job);
    job
}

pub(crate) fn world(change: impl FnOnce(&mut Value)) -> World {
    let world = World::with_claims();
    world.put("trainingjobs", job(change));
    world
}

/// A worker's pod that runs.
pub(crate) fn pod(world: &World, index: u32, ip: &str) {
    world.put_worker(
        "spam",
        index,
        &json!({"phase": "Running", "podIP": ip, "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": world.now()}}}]}),
    );
}

fn ends(world: &World, index: u32, code: i32, message: &Value) {
    world.change(&format!("pods/spam-train-{index}-x"), |pod| {
        pod["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
        pod["status"]["containerStatuses"][0]["state"] = json!({"terminated":
            {"exitCode": code, "message": message.to_string(), "finishedAt": "2027-01-15T08:00:00Z"}});
    });
}

fn job_ends(world: &World, type_: &str, reason: &str) {
    let now = world.now();
    world.change("jobs/spam-train", |job| {
        job["status"] = json!({"conditions": [{"type": type_, "status": "True",
            "reason": reason, "message": "the Job ended", "lastTransitionTime": now}]});
    });
}

pub(crate) fn training(step: i64) -> Value {
    json!({"state": "Training", "generation": 1, "restarts": 0,
        "progress": {"step": step, "totalSteps": 100, "epoch": 0.1, "loss": 0.5, "etaSeconds": 200},
        "ranks": [{"rank": 0, "agent": 0, "step": step, "silentMilliseconds": 0},
                  {"rank": 1, "agent": 1, "step": step, "silentMilliseconds": 0}]})
}

fn completed() -> Value {
    json!({"succeeded": true, "reason": "Completed", "message": "trained 100 steps", "exitCode": 0,
        "restarts": 0, "progress": {"step": 100, "totalSteps": 100, "epoch": 1.0, "f1": 0.98},
        "model": {"uri": "pvc://models/spam/model", "digest": "blake3:00"}})
}

#[tokio::test]
async fn a_job_lives_on_ten_writes_and_figures_and_then_on_none() {
    let world = world(|_| {});
    let status = Arc::new(Mutex::new(training(10)));
    crate::common::serve(&format!("{}:8470", AGENT[0]), &[("/status", status.clone())]).await;

    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), STARTED);
    assert_eq!(world.condition(JOB, "Accepted"), "True Valid");
    assert_eq!(world.condition(JOB, "Running"), "False Starting");
    // Its pods are on their way, which is not worth a word; that they stay away is.
    let created = world.now();
    world.change("jobs/spam-train", |j| j["metadata"]["creationTimestamp"] = created.into());
    world.pass(300);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "its controller is behind");
    let looked = world.now();
    world.change("jobs/spam-train", |j| j["status"] = json!({"startTime": looked, "active": 1}));
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());
    world.pass(5);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam"]);
    assert!(world.told(JOB, "Running").contains("0 of 2 worker pods are there"));

    pod(&world, 0, AGENT[0]);
    pod(&world, 1, "127.84.70.9");
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.condition(JOB, "Running"), "True Training");
    assert_eq!(world.get(JOB)["status"]["progress"]["eta"], "3m20s");

    *status.lock().unwrap() = training(20);
    world.pass(3);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "figures are written every 5 seconds at most");
    world.pass(3);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam"]);
    assert_eq!(world.get(JOB)["status"]["progress"]["step"], 20);
    world.pass(10);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "nothing changed");

    // Worker 0 has just ended, and nothing but its silence says so; then pods end.
    world.change("pods/spam-train-0-x", |pod| pod["status"]["podIP"] = "127.84.70.8".into());
    world.pass(3);
    world.train("spam").await.unwrap();
    ends(&world, 1, 0, &json!(""));
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "a job that ends is not told to start again");
    job_ends(&world, "Complete", "CompletionsReached");
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Succeeded"), "absent", "the result is still to come");
    ends(&world, 0, 0, &completed());
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.condition(JOB, "Succeeded"), "True Completed");
    assert_eq!(world.get(JOB)["status"]["model"]["digest"], "blake3:00");
    assert_eq!(world.get(JOB)["status"]["state"], "Succeeded");

    for _ in 0..3 {
        world.pass(3_600);
        world.train("spam").await.unwrap();
    }
    assert!(world.writes().is_empty(), "a job that has ended is left alone");
}

#[tokio::test]
async fn what_training_chose_is_told_at_its_end_and_once() {
    let world = world(|_| {});
    world.train("spam").await.unwrap();
    pod(&world, 0, AGENT[0]);
    pod(&world, 1, "127.84.70.12");
    job_ends(&world, "Complete", "CompletionsReached");
    let told =
        |reason: &str, message: &str| json!({"reason": reason, "message": message, "step": 100});
    let mut result = completed();
    result["notes"] = json!([
        told("NewWeights", "fresh weights are trained"),
        told("ThresholdChosen", "rows with a probability of 0.31 or more are \"bad\"")
    ]);
    ends(&world, 1, 0, &json!(""));
    ends(&world, 0, 0, &result);
    for _ in 0..3 {
        world.train("spam").await.unwrap();
        world.pass(60);
    }
    let events = world.events();
    let chosen: Vec<&Value> = events.iter().filter(|e| e["reason"] == "ThresholdChosen").collect();
    assert_eq!(chosen.len(), 1, "{events:?}");
    assert_eq!(chosen[0]["type"], "Normal");
    assert_eq!(chosen[0]["note"], "rows with a probability of 0.31 or more are \"bad\".");
    assert!(events.iter().all(|event| event["reason"] != "NewWeights"));
    assert_eq!(world.condition(JOB, "Succeeded"), "True Completed");
}

#[tokio::test]
async fn a_lagging_cache_makes_nothing_twice() {
    let world = world(|_| {});
    world.lag(true);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes().len(), 6);
    for _ in 0..3 {
        world.train("spam").await.unwrap();
    }
    assert!(world.writes().len() <= 1, "one status at most: the pods are awaited now");
    world.catch_up();
    world.train("spam").await.unwrap();
    assert!(world.writes().len() <= 1);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());
}

#[tokio::test]
async fn a_failed_write_at_any_place_changes_nothing_in_the_end() {
    let calm = world(|_| {});
    for _ in 0..3 {
        calm.train("spam").await.unwrap();
    }
    for after_effect in [false, true] {
        for count in 0..6 {
            let hit = world(|_| {});
            hit.fail_after(count, after_effect);
            let first = hit.train("spam").await;
            assert!(first.is_err(), "write {count} failed unnoticed");
            for _ in 0..3 {
                hit.train("spam").await.unwrap();
            }
            assert!(hit.has_failed());
            assert_eq!(hit.keys(), calm.keys(), "after write {count}");
            assert_eq!(hit.condition(JOB, "Running"), calm.condition(JOB, "Running"));
            hit.writes();
            hit.train("spam").await.unwrap();
            assert!(hit.writes().is_empty());
        }
    }
}

/// Pods may be up before an operator that was killed is. Worker 0 may be given 30 s to answer, but
/// whoever waits for a word of the start is not.
#[tokio::test]
async fn an_operator_that_was_killed_before_it_told_of_a_start_tells_of_it() {
    for was_suspended in [false, true] {
        let world = world(|j| j["spec"]["suspend"] = was_suspended.into());
        if was_suspended {
            world.train("spam").await.unwrap();
            world.change(JOB, |j| j["spec"]["suspend"] = false.into());
        }
        world.fail_after(5, false);
        assert!(world.train("spam").await.is_err(), "the status is the sixth write");
        world.restart();
        pod(&world, 0, "127.84.70.8");
        pod(&world, 1, "127.84.70.9");
        world.writes();
        world.train("spam").await.unwrap();
        assert_eq!(world.condition(JOB, "Running"), "False Starting");
        assert_eq!(world.condition(JOB, "Admitted"), "True Admitted");
        world.writes();
        world.train("spam").await.unwrap();
        assert!(world.writes().is_empty());
    }
}

#[tokio::test]
async fn an_ended_job_goes_when_its_time_is_over() {
    let world = world(|j| {
        j["spec"]["ttlSecondsAfterFinished"] = 60.into();
        j["status"] = json!({
            "completionTime": "2027-01-15T08:00:00Z",
            "conditions": [{"type": "Failed", "status": "True", "reason": "BadData",
                            "message": "", "lastTransitionTime": "2027-01-15T08:00:00Z"}],
        });
    });
    world.train("spam").await.unwrap();
    let early = world.now();
    let deleted = world.writes();
    world.pass(61);
    world.train("spam").await.unwrap();
    let writes = [deleted, world.writes()].concat();
    assert_eq!(writes, ["delete trainingjobs/spam"], "begun at {early}");
}

#[tokio::test]
async fn a_missing_claim_is_named_and_its_arrival_starts_the_job() {
    let world = world(|_| {});
    world.remove("persistentvolumeclaims/data");
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Admitted"), "False MissingClaim");
    assert!(world.told(JOB, "Admitted").contains("PersistentVolumeClaim data"));
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());
    world.put("persistentvolumeclaims", json!({"metadata": {"name": "data"}}));
    world.train("spam").await.unwrap();
    assert!(world.keys().contains(&"jobs/spam-train".to_owned()));
    assert_eq!(world.condition(JOB, "Admitted"), "True Admitted");
}

#[tokio::test]
async fn an_unsupported_job_is_refused_and_makes_nothing() {
    let world = world(|j| j["spec"]["data"]["train"]["image"] = "picture".into());
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Accepted"), "False Unsupported");
    assert!(world.told(JOB, "Accepted").contains("spec.data.train.image"));
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());
    assert!(!world.keys().contains(&"jobs/spam-train".to_owned()));
}

#[tokio::test]
async fn an_unreadable_job_is_told_so() {
    let world = world(|j| j["spec"]["workers"]["replicas"] = "many".into());
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Accepted"), "False Unreadable");
    assert_eq!(world.writes(), ["status trainingjobs/spam"]);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());
}

#[tokio::test]
async fn suspend_goes_to_the_job_by_its_own_manager_and_back() {
    let world = world(|j| j["spec"]["suspend"] = true.into());
    world.train("spam").await.unwrap();
    assert_eq!(world.get("jobs/spam-train")["spec"]["suspend"], true);
    assert_eq!(world.condition(JOB, "Admitted"), "False Suspended");
    assert_eq!(world.writes(), ["apply jobs/spam-train", "status trainingjobs/spam"]);
    world.change(JOB, |j| j["spec"]["suspend"] = false.into());
    world.train("spam").await.unwrap();
    assert_eq!(world.get("jobs/spam-train")["spec"]["suspend"], false);
    assert_eq!(world.writes(), STARTED);
}

#[tokio::test]
async fn in_a_queue_suspend_belongs_to_kueue() {
    let label = json!({"kueue.x-k8s.io/queue-name": "gpus"});
    let world = world(|j| j["metadata"]["labels"] = label.clone());
    world.train("spam").await.unwrap();
    let made = world.get("jobs/spam-train");
    assert!(made["spec"]["suspend"].is_null());
    assert_eq!(made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "gpus");
    world.change("jobs/spam-train", |job| job["spec"]["suspend"] = true.into());
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Admitted"), "False Queued");
    world.writes();
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "Kueue's suspend is not fought over");
}

#[tokio::test]
async fn a_running_job_is_not_half_changed() {
    let world = world(|_| {});
    world.train("spam").await.unwrap();
    world.writes();
    let made = world.get("jobs/spam-train");
    world.change(JOB, |j| {
        j["spec"]["workers"]["processesPerWorker"] = 4.into();
        j["metadata"]["generation"] = 2.into();
    });
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Accepted"), "False SpecChanged");
    assert_eq!(world.get("jobs/spam-train"), made);
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
}

#[tokio::test]
async fn a_strangers_object_of_the_same_name_is_left_alone() {
    let world = world(|_| {});
    world.put(
        "services",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "spam-train"}}),
    );
    let said = world.train("spam").await.unwrap_err();
    assert!(said.contains("belongs to another owner"), "{said}");
    assert_eq!(world.condition(JOB, "Admitted"), "False Rejected");
    assert!(world.get("services/spam-train")["metadata"]["labels"].is_null());
}

#[tokio::test]
async fn a_permanent_error_is_the_jobs_last_word() {
    let world = world(|_| {});
    world.train("spam").await.unwrap();
    pod(&world, 0, "127.84.70.8");
    let told = json!({"succeeded": false, "reason": "BadData", "exitCode": 65,
        "message": "train.jsonl, line 400: not JSON"});
    ends(&world, 0, 65, &told);
    job_ends(&world, "Failed", "PodFailurePolicy");
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Failed"), "True BadData");
    assert!(world.told(JOB, "Failed").contains("line 400"));
    assert_eq!(world.get(JOB)["status"]["state"], "Failed");
}

#[tokio::test]
async fn a_restart_is_an_event_that_names_what_died() {
    let world = world(|_| {});
    let status = Arc::new(Mutex::new(training(10)));
    crate::common::serve(&format!("{}:8470", AGENT[1]), &[("/status", status.clone())]).await;
    world.train("spam").await.unwrap();
    pod(&world, 0, AGENT[1]);
    world.train("spam").await.unwrap();
    world.writes();
    let mut again = training(12);
    again["restarts"] = json!(1);
    again["generation"] = json!(2);
    again["lastFailure"] =
        json!({"rank": 1, "reason": "RankKilled", "message": "rank 1 was killed by signal 9"});
    *status.lock().unwrap() = again;
    world.pass(2);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.get(JOB)["status"]["restarts"], 1);
    assert!(world.told(JOB, "Running").contains("RankKilled"));
}

#[tokio::test]
async fn a_diagnosis_is_a_condition_and_one_event() {
    let world = world(|_| {});
    let status = Arc::new(Mutex::new(training(10)));
    crate::common::serve(&format!("{}:8470", AGENT[2]), &[("/status", status.clone())]).await;
    world.train("spam").await.unwrap();
    pod(&world, 0, AGENT[2]);
    world.train("spam").await.unwrap();
    world.writes();
    assert_eq!(world.condition(JOB, "Diagnosis"), "absent");

    let note =
        |reason: &str, message: &str| json!({"reason": reason, "message": message, "step": 40});
    let mut flat = training(90);
    flat["notes"] = json!([
        note("NewWeights", "fresh weights are trained"),
        note("LossFlat", "the loss is 0.7 at step 90; raise learningRate")
    ]);
    *status.lock().unwrap() = flat.clone();
    world.pass(6);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.condition(JOB, "Diagnosis"), "True LossFlat");
    assert!(world.told(JOB, "Diagnosis").contains("raise learningRate"));
    assert!(!world.told(JOB, "Diagnosis").contains("fresh weights"));
    world.pass(6);
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty(), "it is told once");

    flat["notes"].as_array_mut().unwrap().push(note("StepSkipped", "step 95 was left out"));
    *status.lock().unwrap() = flat;
    world.pass(6);
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.condition(JOB, "Diagnosis"), "True StepSkipped");
    assert!(world.told(JOB, "Diagnosis").contains("LossFlat: the loss is 0.7"));
}

#[tokio::test]
async fn a_straggler_is_told_with_its_pod_until_it_recovers() {
    let world = world(|_| {});
    let status = Arc::new(Mutex::new(training(10)));
    crate::common::serve(&format!("{}:8470", AGENT[3]), &[("/status", status.clone())]).await;
    world.train("spam").await.unwrap();
    pod(&world, 0, AGENT[3]);
    pod(&world, 1, "127.84.70.11");
    world.train("spam").await.unwrap();
    world.writes();

    let said = "rank 1 (agent 1) holds up the others: it computes 210 ms a step, the others 98 ms; see what else uses its node";
    let flat = |notes: serde_json::Value| {
        let mut flat = training(90);
        flat["notes"] = notes;
        flat
    };
    let note = json!({"reason": "Straggler", "message": said, "step": 60, "agent": 1});
    *status.lock().unwrap() = flat(json!([note]));
    for writes in [&["status trainingjobs/spam", "create events/"][..], &[]] {
        world.pass(6);
        world.train("spam").await.unwrap();
        assert_eq!(world.writes(), writes);
    }
    assert_eq!(world.condition(JOB, "Diagnosis"), "True Straggler");
    let whole = format!("{said}. Its pod is spam-train-1-x, on node node-1.");
    assert_eq!(world.told(JOB, "Diagnosis"), format!("Straggler: {whole}"));
    let events = world.events();
    let event = events.iter().find(|event| event["reason"] == "Straggler").unwrap();
    assert_eq!((event["type"].as_str(), event["note"].as_str()), (Some("Warning"), Some(&*whole)));

    *status.lock().unwrap() = flat(json!([]));
    world.pass(6);
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Diagnosis"), "False Recovered");
}

#[tokio::test]
async fn a_pod_on_a_dead_node_is_given_up_so_that_its_job_goes_on() {
    let world = world(|_| {});
    world.train("spam").await.unwrap();
    pod(&world, 1, "127.84.70.9");
    let deadline = "2027-01-15T08:02:00Z";
    world.change("pods/spam-train-1-x", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!(deadline);
    });
    let ready = |status: &str| {
        json!({"metadata": {"name": "node-1"},
        "status": {"conditions": [{"type": "Ready", "status": status}]}})
    };
    world.put("nodes", ready("True"));
    world.pass(60);
    world.train("spam").await.unwrap();
    assert!(!world.writes().contains(&"status pods/spam-train-1-x".to_owned()));
    world.put("nodes", ready("Unknown"));
    world.train("spam").await.unwrap();
    assert!(world.writes().contains(&"status pods/spam-train-1-x".to_owned()));
    let given_up = world.get("pods/spam-train-1-x");
    assert_eq!(given_up["status"]["phase"], "Failed");
    assert_eq!(given_up["status"]["conditions"][0]["type"], "DisruptionTarget");
    world.train("spam").await.unwrap();
    assert!(!world.writes().contains(&"status pods/spam-train-1-x".to_owned()));
}

#[tokio::test]
async fn workers_may_go_out_to_a_bucket_only_where_checkpoints_go_there() {
    let ways_out = async |change: fn(&mut Value)| {
        let world = world(change);
        world.train("spam").await.unwrap();
        let egress = world.get("networkpolicies/spam-train")["spec"]["egress"].clone();
        let anywhere = |rule: &&Value| rule["to"].is_null() && rule["ports"][0]["port"] != 53;
        egress.as_array().unwrap().iter().filter(anywhere).count()
    };
    assert_eq!(ways_out(|_| {}).await, 0);
    let bucket = |job: &mut Value| {
        job["spec"]["output"]["checkpoints"] =
            json!({"destination": "s3://runs/spam", "secretName": "s3"});
    };
    assert_eq!(ways_out(bucket).await, 1);
}

#[tokio::test]
async fn a_job_that_a_person_stops_ends_without_a_model_and_for_good() {
    let world = world(|_| {});
    world.train("spam").await.unwrap();
    pod(&world, 0, "127.84.70.8");
    pod(&world, 1, "127.84.70.8");
    world.change(JOB, |j| j["spec"]["stop"] = json!({}));
    world.writes();
    world.train("spam").await.unwrap();
    assert_eq!(world.writes(), ["delete jobs/spam-train", "status trainingjobs/spam"]);
    world.train("spam").await.unwrap();
    world.remove("pods/spam-train-1-x");
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Stopped"), "absent", "a pod saves a checkpoint");
    let told = json!({"succeeded": false, "reason": "Terminated", "message": "", "exitCode": 143,
        "restarts": 0, "progress": {"step": 12, "totalSteps": 100, "epoch": 0.1, "etaSeconds": 9},
        "evaluations": [{"step": 10, "loss": 0.5}],
        "checkpoint": {"step": 12, "time": "2027-01-15T08:00:00Z", "uri": "pvc://models/x"}});
    ends(&world, 0, 143, &told);
    world.train("spam").await.unwrap();
    let status = world.get(JOB)["status"].clone();
    assert_eq!(
        (&status["progress"]["step"], &status["checkpoint"]["step"]),
        (&json!(12), &json!(12))
    );
    assert_eq!((&status["progress"]["eta"], &status["model"]), (&Value::Null, &Value::Null));
    assert_eq!(status["evaluations"], told["evaluations"]);
    assert_eq!(status["state"], "Stopped");
    assert_eq!(world.condition(JOB, "Stopped"), "True Requested");
    assert_eq!(world.told(JOB, "Stopped"), "spec.stop asked for it.");
    assert_eq!(world.get(JOB)["status"]["completionTime"], world.now());
    assert_eq!(
        world.writes(),
        [
            "delete configmaps/spam-train",
            "delete services/spam-train",
            "delete networkpolicies/spam-train",
            "delete poddisruptionbudgets/spam-train",
            "status trainingjobs/spam",
            "create events/"
        ]
    );
    world.restart();
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty() && world.get("jobs/spam-train").is_null());
}

#[tokio::test]
async fn a_job_that_has_not_started_is_stopped_at_once() {
    let changes: [fn(&mut Value); 2] = [
        |j| j["spec"]["suspend"] = true.into(),
        |j| j["metadata"]["labels"] = json!({"kueue.x-k8s.io/queue-name": "gpus"}),
    ];
    for change in changes {
        let world = world(change);
        world.train("spam").await.unwrap();
        world.change(JOB, |j| j["spec"]["stop"] = json!({"message": "not needed"}));
        for _ in 0..2 {
            world.train("spam").await.unwrap();
        }
        assert_eq!(world.condition(JOB, "Stopped"), "True Requested");
        assert_eq!(world.told(JOB, "Stopped"), "not needed.");
        assert!(world.get("jobs/spam-train").is_null());
    }
}
