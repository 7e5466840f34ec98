//! The chart is upgraded and rolled back under a job that trains.

use std::process::Command;

use hearth_tests::cluster::{Namespace, condition, root};
use hearth_tests::jobs;
use serde_json::Value;

use crate::support::{PATIENCE, agent_pod, under_way};

fn helm(arguments: &[&str]) {
    let done = Command::new("helm")
        .args(arguments)
        .args(["--namespace", "hearth-system", "--wait", "--timeout", "3m"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(done.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn deployed(namespace: &Namespace) -> Value {
    let told = namespace
        .kubectl(&[
            "--namespace",
            "hearth-system",
            "get",
            "deployment",
            "hearth-operator",
            "-o",
            "json",
        ])
        .unwrap();
    serde_json::from_str(&told).unwrap()
}

/// The new version would start workers from another image, which is nowhere: those that run do not
/// notice.
#[test]
fn an_upgrade_and_a_rollback_restart_no_worker() {
    let namespace = Namespace::create("e2e-upgrade").unwrap();
    jobs::fill(&namespace).unwrap();
    namespace.apply(&jobs::training_job("long", 2, 40_000, |_| {})).unwrap();
    under_way(&namespace, "long", 200);
    let before = [0, 1].map(|index| agent_pod(&namespace, "long", index));
    let old = deployed(&namespace);

    let image = "images.worker=hearth.dev/hearth-worker:of-the-next-version";
    helm(&[
        "upgrade",
        "hearth",
        "charts/hearth",
        "--reuse-values",
        "--set",
        image,
        "--set",
        "log.format=json",
    ]);
    let new = deployed(&namespace);
    assert_ne!(old["spec"]["template"], new["spec"]["template"], "nothing was upgraded");
    let goes_on = |step: i64| {
        let far = move |job: &Value| {
            condition(job, "Running") == "True"
                && job["status"]["progress"]["step"].as_i64() > Some(step)
        };
        namespace.wait("trainingjob", "long", PATIENCE, far).unwrap()
    };
    let step = |job: &Value| job["status"]["progress"]["step"].as_i64().unwrap();
    let upgraded = goes_on(step(&namespace.get("trainingjob", "long").unwrap()));
    helm(&["rollback", "hearth"]);
    assert_eq!(deployed(&namespace)["spec"]["template"], old["spec"]["template"]);
    let back = goes_on(step(&upgraded));
    assert_eq!(back["status"]["restarts"].as_i64().unwrap_or(0), 0);

    for (index, pod) in (0u32..).zip(&before) {
        let now = agent_pod(&namespace, "long", index);
        assert_eq!(now["metadata"]["uid"], pod["metadata"]["uid"], "pod {index} is another one");
        assert_eq!(now["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}
