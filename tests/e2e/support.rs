//! Short-hands of the cluster tests.

use std::process::Command;
use std::time::Duration;

use hearth_tests::cluster::{Namespace, condition, root, told};
use serde_json::Value;

/// Longest that a small job may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(8);

/// Waits until a TrainingJob succeeded; stops at once where it failed.
pub(crate) fn succeeded(namespace: &Namespace, job: &str) -> Value {
    let ended = ended(namespace, job);
    assert_eq!(condition(&ended, "Succeeded"), "True", "{job}: {}", told(&ended, "Failed"));
    ended
}

/// Waits until a TrainingJob ended, either way.
pub(crate) fn ended(namespace: &Namespace, job: &str) -> Value {
    let done = |j: &Value| condition(j, "Succeeded") == "True" || condition(j, "Failed") == "True";
    namespace.wait("trainingjob", job, PATIENCE, done).unwrap()
}

/// Waits until a job has done so many steps and has a checkpoint.
pub(crate) fn under_way(namespace: &Namespace, job: &str, step: i64) -> Value {
    let far = |j: &Value| {
        j["status"]["progress"]["step"].as_i64() >= Some(step)
            && !j["status"]["checkpoint"].is_null()
    };
    namespace.wait("trainingjob", job, PATIENCE, far).unwrap()
}

/// The pod of a job's agent, by index.
pub(crate) fn agent_pod(namespace: &Namespace, job: &str, index: u32) -> Value {
    let selector =
        format!("hearth.dev/name={job},batch.kubernetes.io/job-completion-index={index}");
    let pods = namespace.list("pods", &selector).unwrap();
    let live = |pod: &&Value| {
        pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
    };
    pods.iter().find(live).unwrap_or_else(|| panic!("no running agent {index} of {job}")).clone()
}

/// A node of tests/cluster, which lives again when this goes.
pub(crate) struct Node(String);

impl Node {
    /// By its name.
    pub(crate) fn of(name: &str) -> Self {
        Self(name.chars().last().unwrap().to_string())
    }

    /// As a power failure: kubelet, containerd, shims and every pod's processes.
    pub(crate) fn kill(&self) {
        self.script("kill");
    }

    fn script(&self, verb: &str) {
        let program = root().join("tests/cluster/node.sh");
        let done = Command::new(program).args([verb, &self.0]).status().unwrap();
        assert!(done.success(), "node.sh {verb} {}", self.0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.script("start");
    }
}
