//! Short-hands of the cluster tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_tests::cluster::{Namespace, condition, kubectl_ok, root, told};
use hearth_tests::http::Answer;
use serde_json::Value;

/// Longest that a small job may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(8);

/// What `kubectl apply -k` of a sample sends, but for claims, which tests make otherwise.
pub(crate) fn sample(name: &str) -> String {
    let folder = root().join("manifests/samples").join(name);
    let rendered = kubectl_ok(&["kustomize", &folder.to_string_lossy()], None).unwrap();
    let objects =
        rendered.split("\n---\n").filter(|of| !of.contains("kind: PersistentVolumeClaim"));
    objects.collect::<Vec<_>>().join("\n---\n")
}

/// The directory of what a script of tests/setup fetches.
pub(crate) fn fetched(script: &str) -> PathBuf {
    let done = Command::new(root().join("tests/setup").join(script)).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
}

/// What came of the requests that [`under_load`] sent.
pub(crate) struct Load {
    sent: usize,
    failed: Vec<String>,
    /// Revisions that answered.
    pub(crate) revisions: BTreeSet<String>,
}

/// Asks again and again while `during` goes on, and five seconds beyond it.
pub(crate) fn under_load<T>(
    ask: impl Fn() -> anyhow::Result<Answer> + Sync,
    during: impl FnOnce() -> T,
) -> (T, Load) {
    /// Stops the requests, also where `during` panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    let send = || {
        let mut load = Load { sent: 0, failed: Vec::new(), revisions: BTreeSet::new() };
        while !is_over.load(Ordering::Relaxed) {
            load.sent += 1;
            match ask() {
                Ok(answer) if answer.status == 200 => {
                    load.revisions.extend(revision_of(&answer.head));
                }
                Ok(answer) => load.failed.push(format!("{}: {}", answer.status, answer.body)),
                Err(error) => load.failed.push(format!("{error:#}")),
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        load
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(send);
        let stop = Stop(&is_over);
        let done = during();
        std::thread::park_timeout(Duration::from_secs(5));
        drop(stop);
        (done, load.join().unwrap())
    })
}

impl Load {
    /// How many were sent, of which none failed.
    pub(crate) fn all_served(&self) -> usize {
        let (failed, sent) = (&self.failed, self.sent);
        assert!(
            failed.is_empty(),
            "{} of {sent}: {:#?}",
            failed.len(),
            &failed[..failed.len().min(5)]
        );
        sent
    }
}

/// The revision that a response's head names.
pub(crate) fn revision_of(head: &str) -> Option<String> {
    let line =
        head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-hearth-revision:"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Copies a file or a directory with all that is in it, readable by all.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let done = Command::new("cp").args(["-rL", "--no-preserve=mode"]).arg(from).arg(to).status();
    assert!(done.unwrap().success(), "cp {} {}", from.display(), to.display());
}

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
