//! Jobs that each need every device of the cluster, admitted by the operator itself.

use hearth_tests::cluster::{Namespace, condition, kubectl, told};
use hearth_tests::jobs;
use serde_json::Value;

use crate::support::{PATIENCE, succeeded};

/// Enough that a job can be caught in the middle.
const STEPS: u32 = 1600;
const EQUALS: [&str; 3] = ["first", "second", "third"];

/// Two pods, each with the one device of its node.
fn greedy(name: &str, steps: u32, priority: Option<&str>) -> String {
    jobs::training_job(name, 2, steps, |job| {
        let workers = &mut job["spec"]["workers"];
        workers["resources"]["limits"]["nvidia.com/gpu"] = 1.into();
        if let Some(priority) = priority {
            workers["priorityClassName"] = priority.into();
        }
    })
}

/// A PriorityClass, for as long as the test runs.
struct Urgent(&'static str);

impl Urgent {
    fn create() -> Self {
        let class = Self("e2e-gang-urgent");
        let manifest = format!(
            r#"{{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {{"name": "{}"}}, "value": 1000}}"#,
            class.0
        );
        assert!(kubectl(&["apply", "-f", "-"], Some(&manifest)).unwrap().ok);
        class
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "priorityclass", self.0, "--ignore-not-found"], None);
    }
}

fn has_pods(namespace: &Namespace, job: &str) -> bool {
    let live = |pod: &Value| {
        !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
    };
    namespace.list("pods", &format!("hearth.dev/name={job}")).unwrap().iter().any(live)
}

#[test]
fn gangs_take_turns_and_the_urgent_one_goes_first() {
    let namespace = Namespace::create("e2e-gang").unwrap();
    jobs::fill(&namespace).unwrap();
    let urgent = Urgent::create();
    // Age is told in whole seconds, and jobs of one second come in any order.
    namespace.apply(&greedy(EQUALS[0], STEPS, None)).unwrap();
    let runs = |job: &Value| condition(job, "Running") == "True";
    namespace.wait("trainingjob", EQUALS[0], PATIENCE, runs).unwrap();
    for other in &EQUALS[1..] {
        namespace.apply(&greedy(other, STEPS, None)).unwrap();
    }
    let far = |job: &Value| job["status"]["checkpoint"]["step"].as_i64() >= Some(200) && runs(job);
    let victim = namespace.wait("trainingjob", "first", PATIENCE, far).unwrap();
    let saved = victim["status"]["checkpoint"]["step"].as_i64().unwrap();
    for waiting in &EQUALS[1..] {
        let job = namespace.get("trainingjob", waiting).unwrap();
        let said = told(&job, "Admitted");
        assert!(
            said.contains("in the queue") && said.contains("nvidia.com/gpu"),
            "{waiting}: {said}"
        );
        assert!(!has_pods(&namespace, waiting), "{waiting} holds devices while it waits");
    }

    namespace.apply(&greedy("urgent", 200, Some(urgent.0))).unwrap();
    succeeded(&namespace, "urgent");
    // The condition says so too, but only for as long as it takes to save a checkpoint.
    let preempted = "--field-selector=reason=Preempted,involvedObject.name=first";
    let yielded = namespace.kubectl(&["get", "events", preempted]).unwrap();
    assert!(yielded.contains("urgent"), "{yielded}");
    // It is older than the others, and goes on from where it was.
    let first = namespace.wait("trainingjob", "first", PATIENCE, runs).unwrap();
    assert!(first["status"]["progress"]["step"].as_i64() >= Some(saved), "{}", first["status"]);
    for name in EQUALS {
        let ended = succeeded(&namespace, name);
        assert_eq!(
            ended["status"]["restarts"].as_i64().unwrap_or(0),
            0,
            "{name}: a wait is no failure"
        );
    }
    let weights = EQUALS.map(|name| {
        std::fs::read(namespace.volume("models").join(name).join("model/model.safetensors"))
            .unwrap()
    });
    assert!(
        weights[0] == weights[1] && weights[1] == weights[2],
        "the interrupted job's weights differ"
    );
}
