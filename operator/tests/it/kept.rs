//! What the watches keep of a job with pods, in bytes of this process.

use std::hash::Hash;

use hearth_crds::TrainingJob;
use hearth_operator::cache::GuardedJob;
use hearth_operator::children::Child;
use hearth_operator::seen::{Kind, Seen};
use kube::runtime::reflector::Lookup;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Jobs whose memory is measured.
const JOBS: usize = 2_000;
/// What a job of two pods may take: 5,000 of them 76 MiB, so that they and the operator itself stay
/// below 100.
const MOST: usize = 16_000;

/// The objects of a job with two pods as the API server tells them, `managedFields` left out.
fn objects() -> Vec<(Kind, String)> {
    let text = std::fs::read_to_string("../manifests/samples/spam.yaml").unwrap();
    let job: TrainingJob = serde_yaml_ng::from_str(&text).unwrap();
    let mut parent = serde_json::to_value(&job).unwrap();
    let made = json!({"namespace": "team-a", "uid": "11111111-2222-3333-4444-555555555555",
        "resourceVersion": "1234567", "generation": 1, "creationTimestamp": "2026-11-29T17:00:00Z"});
    let give = |object: &mut Value| {
        object["metadata"].as_object_mut().unwrap().extend(made.as_object().unwrap().clone());
    };
    let mut objects = Vec::new();
    for child in &super::plans::training_plan(job).children {
        let mut manifest = child.manifest();
        give(&mut manifest);
        if let Child::Job(_) = child {
            manifest["status"] =
                json!({"active": 2, "ready": 0, "startTime": "2026-11-29T17:00:01Z"});
            let uid = &manifest["metadata"]["uid"];
            let mut pod = json!({"spec": manifest["spec"]["template"]["spec"].clone(),
                "metadata": manifest["spec"]["template"]["metadata"].clone()});
            give(&mut pod);
            for label in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
                pod["metadata"]["labels"][label] = uid.clone();
            }
            for label in ["batch.kubernetes.io/job-name", "job-name"] {
                pod["metadata"]["labels"][label] = manifest["metadata"]["name"].clone();
            }
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job",
                "name": manifest["metadata"]["name"], "uid": uid, "controller": true,
                "blockOwnerDeletion": true}]);
            pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
            pod["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
                "status": "False", "reason": "Unschedulable", "lastProbeTime": null,
                "message": "no nodes available to schedule pods",
                "lastTransitionTime": "2026-11-29T17:00:02Z"}]});
            for index in ["0", "1"] {
                let mut pod = pod.clone();
                pod["metadata"]["name"] = json!(format!("spam-train-{index}-abcde"));
                let key = "batch.kubernetes.io/job-completion-index";
                pod["metadata"]["labels"][key] = json!(index);
                pod["metadata"]["annotations"][key] = json!(index);
                objects.push((Kind::Pod, pod.to_string()));
            }
        }
        objects.push((child.kind(), manifest.to_string()));
    }
    give(&mut parent);
    let condition = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "Starting", "observedGeneration": 1,
            "message": "0 of 2 workers run", "lastTransitionTime": "2026-11-29T17:00:01Z"})
    };
    let conditions = ["Accepted", "Admitted", "Running"].map(condition);
    parent["status"] = json!({"observedGeneration": 1, "state": "Starting",
        "specHash": "0123456789", "conditions": conditions});
    objects.push((Kind::TrainingJob, parent.to_string()));
    objects
}

fn keep<K>(writer: &mut Writer<K>, text: &str)
where
    K: Lookup + DeserializeOwned + Clone + 'static,
    K::DynamicType: Clone + Eq + Hash,
{
    writer.apply_watcher_event(&Event::Apply(serde_json::from_str(text).unwrap()));
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// `cargo test --release -p hearth-operator --test it -- --ignored --nocapture a_job_with_pods`
#[test]
#[ignore = "other tests of this process take memory, too: run it alone"]
fn a_job_with_pods_takes_little_memory() {
    let objects = objects();
    assert_eq!(objects.len(), 8);
    let mut jobs: Writer<GuardedJob> = Writer::default();
    let mut stores: Vec<(Kind, Writer<Seen>)> =
        objects.iter().map(|(kind, _)| (*kind, Writer::new(*kind))).collect();
    let mut parts = vec![0; objects.len()];
    for (part, (kind, text)) in objects.iter().enumerate() {
        let before = resident();
        for number in 0..JOBS {
            let text = text.replace("spam", &format!("job-{number:05}"));
            match kind {
                Kind::TrainingJob => keep(&mut jobs, &text),
                _ => keep(&mut stores[part].1, &text),
            }
        }
        parts[part] = resident().saturating_sub(before) / JOBS;
    }
    let kinds = objects.iter().map(|(kind, _)| kind.as_str());
    let said: Vec<_> = kinds.zip(&parts).map(|(kind, bytes)| format!("{kind} {bytes}")).collect();
    let all: usize = parts.iter().sum();
    eprintln!("{all} bytes a job: {}", said.join(", "));
    assert!(all < MOST, "{all} bytes a job: {}", said.join(", "));
}
