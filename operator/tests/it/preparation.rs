//! Rows that are prepared before workers start, against an API server in memory.

use serde_json::{Value, json};

use crate::common::World;
use crate::training_job::{JOB, world};

const PREPARE: &str = "jobs/spam-prepare";

fn prepares(spec: &mut Value) {
    spec["data"]["preparation"] = json!({"output": "pvc://models/prepared", "deduplicate": {}});
    spec["data"]["evalSplit"] = json!(0.1);
}

/// The Job that prepares ends, with these last words of its pod.
fn ends(world: &World, told: &Value) {
    let (code, now) = (told["exitCode"].as_i64().unwrap(), world.now());
    let job = world.get(PREPARE);
    let mut annotations = job["spec"]["template"]["metadata"]["annotations"].clone();
    annotations["batch.kubernetes.io/job-completion-index"] = json!("0");
    world.put("pods", json!({
        "metadata": {
            "name": "spam-prepare-0-x", "annotations": annotations,
            "labels": job["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "spam-prepare",
                                 "uid": job["metadata"]["uid"], "controller": true}],
        },
        "spec": {"containers": []},
        "status": {"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [{
            "name": "prepare", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "message": told.to_string(),
                                     "finishedAt": now}}}]},
    }));
    let type_ = if code == 0 { "Complete" } else { "Failed" };
    world.change(PREPARE, |job| {
        job["status"] = json!({"conditions": [{"type": type_, "status": "True",
            "reason": "CompletionsReached", "message": "the Job ended", "lastTransitionTime": now}]});
    });
}

fn data() -> Value {
    json!({"uri": "pvc://models/prepared/0123456789abcdef", "rows": 100, "trainRows": 80,
           "evalRows": 10, "dropped": 10})
}

fn prepared() -> Value {
    json!({"succeeded": true, "reason": "Completed", "message": "80 of 100 rows were prepared",
           "exitCode": 0, "restarts": 0, "data": data()})
}

#[tokio::test]
async fn workers_come_once_the_rows_are_prepared() {
    let world = world(|job| prepares(&mut job["spec"]));
    world.train("spam").await.unwrap();
    let first = [
        "apply configmaps/spam-prepare",
        "apply networkpolicies/spam-prepare",
        "apply jobs/spam-prepare",
        "status trainingjobs/spam",
    ];
    assert_eq!(world.writes(), first);
    assert_eq!(world.get(JOB)["status"]["state"], "Preparing");
    assert_eq!(world.condition(JOB, "Running"), "False Preparing");
    let pod = world.get(PREPARE)["spec"]["template"]["spec"].clone();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let read_only = |claim: &str| {
        let path = format!("/mnt/hearth/{claim}");
        mounts
            .iter()
            .find(|mount| mount["mountPath"] == path.as_str())
            .map(|m| m["readOnly"] == true)
    };
    assert_eq!((read_only("data"), read_only("models")), (Some(true), Some(false)));
    world.train("spam").await.unwrap();
    assert!(world.writes().is_empty());

    ends(&world, &prepared());
    world.train("spam").await.unwrap();
    let writes = world.writes();
    assert!(writes.contains(&"apply jobs/spam-train".to_owned()), "{writes:?}");
    assert!(!writes.iter().any(|write| write.contains("prepare")), "{writes:?}");
    assert_eq!(world.get(JOB)["status"]["data"], data());
    let config = world.get("configmaps/spam-train")["data"]["config.json"].clone();
    let config: Value = serde_json::from_str(config.as_str().unwrap()).unwrap();
    assert_eq!(config["data"]["prepared"], "/mnt/hearth/models/prepared/jobs/u-1.json");

    // Whoever tidies up does not stop the training.
    world.remove("pods/spam-prepare-0-x");
    world.remove(PREPARE);
    world.train("spam").await.unwrap();
    let writes = world.writes();
    assert!(!writes.iter().any(|write| write.contains("jobs/")), "{writes:?}");
    assert_eq!(world.get(JOB)["status"]["data"], data());
}

#[tokio::test]
async fn rows_that_cannot_be_prepared_end_the_job_with_the_reason() {
    let world = world(|job| prepares(&mut job["spec"]));
    world.train("spam").await.unwrap();
    let message = "/mnt/hearth/data/train.jsonl:7: not a JSON object";
    ends(
        &world,
        &json!({"succeeded": false, "reason": "BadData", "message": message,
                         "exitCode": 65, "restarts": 0}),
    );
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Failed"), "True BadData");
    assert!(world.told(JOB, "Failed").contains("train.jsonl:7"));
    assert!(world.keys().iter().all(|key| !key.ends_with("spam-train")));
}

#[tokio::test]
async fn a_suspended_job_prepares_nothing_and_one_that_is_suspended_meanwhile_halts() {
    let world = world(|job| {
        prepares(&mut job["spec"]);
        job["spec"]["suspend"] = json!(true);
    });
    world.train("spam").await.unwrap();
    assert_eq!(world.get(JOB)["status"]["state"], "Suspended");
    assert!(world.keys().iter().all(|key| !key.starts_with("jobs/")), "{:?}", world.keys());
    let suspend = |to: bool| world.change(JOB, |job| job["spec"]["suspend"] = json!(to));
    suspend(false);
    world.train("spam").await.unwrap();
    assert_eq!(world.get(PREPARE)["spec"]["suspend"], json!(false));
    suspend(true);
    world.train("spam").await.unwrap();
    assert_eq!(world.get(PREPARE)["spec"]["suspend"], json!(true));
    suspend(false);
    world.train("spam").await.unwrap();
    assert_eq!(world.get(PREPARE)["spec"]["suspend"], json!(false));
}

#[tokio::test]
async fn a_job_that_is_stopped_while_its_rows_are_prepared_leaves_nothing() {
    let world = world(|job| prepares(&mut job["spec"]));
    world.train("spam").await.unwrap();
    world.change(JOB, |job| job["spec"]["stop"] = json!({}));
    world.train("spam").await.unwrap();
    world.train("spam").await.unwrap();
    assert_eq!(world.get(JOB)["status"]["state"], "Stopped");
    assert!(world.keys().iter().all(|key| !key.contains("prepare")), "{:?}", world.keys());
}

#[tokio::test]
async fn raw_formats_need_preparation() {
    let world = world(|job| job["spec"]["data"]["train"]["source"] = json!("pvc://data/rows.csv"));
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Accepted"), "False Invalid");
    assert!(world.told(JOB, "Accepted").contains("data.preparation: {}"));
}

#[tokio::test]
async fn the_pod_that_prepares_alone_has_the_keys_of_a_bucket_and_a_way_to_it() {
    let world = world(|job| {
        prepares(&mut job["spec"]);
        job["spec"]["data"]["train"]["source"] = json!("s3://raw/mails/");
        job["spec"]["data"]["secretName"] = json!("bucket");
    });
    world.train("spam").await.unwrap();
    let container = world.get(PREPARE)["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "bucket", "optional": false}}]));
    let config = |name: &str| -> Value {
        let text = world.get(&format!("configmaps/{name}"))["data"]["config.json"].clone();
        serde_json::from_str(text.as_str().unwrap()).unwrap()
    };
    let prepare = config("spam-prepare");
    assert_eq!(prepare["train"]["uri"], "s3://raw/mails/");
    assert_eq!(prepare["train"]["path"], "");
    let ports = |name: &str| {
        let egress = world.get(&format!("networkpolicies/{name}"))["spec"]["egress"].clone();
        let rules = egress.as_array().cloned().unwrap_or_default();
        let anywhere = rules.iter().filter(|rule| rule["to"].is_null());
        let ports = anywhere.flat_map(|rule| rule["ports"].as_array().unwrap());
        ports.filter_map(|port| port["port"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(ports("spam-prepare"), [53, 53, 80, 443, 9000]);

    ends(&world, &prepared());
    world.train("spam").await.unwrap();
    let container =
        world.get("jobs/spam-train")["spec"]["template"]["spec"]["containers"][0].clone();
    assert!(container["name"] == "worker" && container["envFrom"].is_null(), "{container}");
    assert_eq!(ports("spam-train"), [53, 53]);
    assert_eq!(
        config("spam-train")["data"]["prepared"],
        "/mnt/hearth/models/prepared/jobs/u-1.json"
    );
}

#[tokio::test]
async fn rows_on_a_volume_give_their_preparation_no_way_out() {
    let world = world(|job| prepares(&mut job["spec"]));
    world.train("spam").await.unwrap();
    let policy = world.get("networkpolicies/spam-prepare");
    assert!(policy["spec"]["egress"].is_null(), "{policy}");
    let container = world.get(PREPARE)["spec"]["template"]["spec"]["containers"][0].clone();
    assert!(container["envFrom"].is_null(), "{container}");
}

#[tokio::test]
async fn rows_in_a_bucket_need_preparation() {
    let world = world(|job| job["spec"]["data"]["train"]["source"] = json!("s3://raw/mails/"));
    world.train("spam").await.unwrap();
    assert_eq!(world.condition(JOB, "Accepted"), "False Invalid");
    let told = world.told(JOB, "Accepted");
    assert!(told.contains("spec.data.train.source") && told.contains("data.preparation"), "{told}");
}
