//! A TrainingJob that is given a second worker while it trains, and loses it again.

use hearth_tests::cluster::{Namespace, condition};
use hearth_tests::jobs;
use serde_json::Value;

use crate::support::{PATIENCE, agent_pod, succeeded};

const STEPS: u32 = 5000;

fn trains_on(namespace: &Namespace, workers: i64) -> Value {
    let trains =
        |job: &Value| job["status"]["workers"] == workers && condition(job, "Running") == "True";
    namespace.wait("trainingjob", "elastic", PATIENCE, trains).unwrap()
}

#[test]
fn a_job_goes_on_with_more_workers_and_with_fewer() {
    let namespace = Namespace::create("e2e-resize").unwrap();
    jobs::fill(&namespace).unwrap();
    let apply = |workers| {
        namespace.apply(&jobs::training_job("elastic", workers, STEPS, |_| {})).unwrap();
    };
    apply(1);
    trains_on(&namespace, 1);
    let first = agent_pod(&namespace, "elastic", 0)["metadata"]["uid"].clone();
    let second = || {
        let selector = "hearth.dev/name=elastic,batch.kubernetes.io/job-completion-index=1";
        namespace.list("pods", selector).unwrap()
    };
    assert!(second().is_empty());

    apply(2);
    trains_on(&namespace, 2);
    assert_eq!(second().len(), 1);
    apply(1);
    let smaller = trains_on(&namespace, 1);
    assert!(smaller["status"]["progress"]["step"].as_i64() < Some(STEPS.into()), "{smaller}");
    let gone = |job: &Value| job["spec"]["parallelism"] == 1 && job["status"]["active"] == 1;
    namespace.wait("job", "elastic-train", PATIENCE, gone).unwrap();
    assert_eq!(agent_pod(&namespace, "elastic", 0)["metadata"]["uid"], first, "another pod");

    let ended = succeeded(&namespace, "elastic");
    assert_eq!(ended["status"]["restarts"].as_i64().unwrap_or(0), 0);
    let events = namespace.kubectl(&["get", "events", "--field-selector=reason=Resized"]).unwrap();
    assert!(events.contains("2 workers instead of 1"), "{events}");
    assert!(events.contains("1 worker instead of 2"), "{events}");
    let journal = namespace.volume("models").join("elastic/metrics.jsonl");
    let journal = std::fs::read_to_string(journal).unwrap();
    let logged: Vec<Value> =
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = logged
        .iter()
        .filter(|line| line["loss"].is_number())
        .filter_map(|line| line["step"].as_i64())
        .collect();
    assert!(steps.is_sorted_by(|a, b| a < b), "a step was logged twice: {steps:?}");
    assert!(steps.len() >= (STEPS / 20) as usize, "{} of the steps were logged", steps.len());
}
