//! Many jobs at once, silence after convergence, and a leader that dies.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use hearth_tests::cluster::{Namespace, await_value, kubectl_ok};
use hearth_tests::{jobs, processes};
use serde_json::Value;

use crate::support::succeeded;

const JOBS: usize = 20;
const OPERATOR: &str = "system:serviceaccount:hearth-system:hearth";

/// Writes by the operator to a namespace since the audit log's line `from`.
fn writes_after(from: usize, namespace: &Namespace) -> Vec<String> {
    let here = format!("/namespaces/{}/", namespace.name);
    let path = std::env::var("HEARTH_AUDIT_LOG")
        .expect("HEARTH_AUDIT_LOG names the API server's audit log");
    BufReader::new(std::fs::File::open(path).unwrap())
        .lines()
        .map_while(Result::ok)
        .skip(from)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter(|entry| entry["stage"] == "ResponseComplete")
        .filter(|entry| entry["user"]["username"].as_str().is_some_and(|u| u.starts_with(OPERATOR)))
        .filter(|entry| {
            !["get", "list", "watch"].contains(&entry["verb"].as_str().unwrap_or_default())
        })
        .filter(|entry| entry["requestURI"].as_str().is_some_and(|uri| uri.contains(&here)))
        .map(|entry| format!("{} {}", entry["verb"], entry["requestURI"]))
        .collect()
}

fn audit_lines() -> usize {
    let path = std::env::var("HEARTH_AUDIT_LOG")
        .expect("HEARTH_AUDIT_LOG names the API server's audit log");
    BufReader::new(std::fs::File::open(path).unwrap()).lines().count()
}

#[test]
fn twenty_jobs_at_once_converge_and_then_the_operator_writes_nothing() {
    let namespace = Namespace::create("e2e-many").unwrap();
    jobs::fill(&namespace).unwrap();
    let before = audit_lines();
    let names: Vec<String> = (0..JOBS).map(|n| format!("job-{n:02}")).collect();
    let all: Vec<String> =
        names.iter().map(|name| jobs::training_job(name, 1, 60, |_| {})).collect();
    let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, all.join(","));
    namespace.apply(&list).unwrap();
    for name in &names {
        succeeded(&namespace, name);
    }
    let spent = writes_after(before, &namespace).len();
    assert!(spent >= JOBS, "the audit log does not show the operator's writes: {spent}");
    let settle = await_value(
        Duration::from_secs(30),
        || {
            let lines = audit_lines();
            std::thread::park_timeout(Duration::from_secs(5));
            Ok(writes_after(lines, &namespace).len())
        },
        &|writes| *writes == 0,
    );
    settle.unwrap();
    let quiet_from = audit_lines();
    std::thread::park_timeout(Duration::from_mins(1));
    let late = writes_after(quiet_from, &namespace);
    assert!(late.is_empty(), "written after convergence: {late:#?}");
    assert!(spent <= JOBS * 12, "{spent} writes for {JOBS} jobs");

    let planted_from = audit_lines();
    write_as_the_operator(&namespace);
    let seen = || Ok(writes_after(planted_from, &namespace).len());
    await_value(Duration::from_secs(10), seen, &|writes| *writes == 1).unwrap();
}

/// The planted bug of the silence: one write that is not called for.
fn write_as_the_operator(namespace: &Namespace) {
    let ask = |arguments: &[&str]| kubectl_ok(arguments, None).unwrap().trim().to_owned();
    let server =
        ask(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let token = ask(&["-n", "hearth-system", "create", "token", "hearth-operator"]);
    ask(&[
        "--kubeconfig=/dev/null",
        &format!("--server={server}"),
        &format!("--token={token}"),
        "--insecure-skip-tls-verify",
        "-n",
        &namespace.name,
        "annotate",
        "configmap",
        "job-00-train",
        "planted=bug",
    ]);
}

#[test]
fn another_operator_takes_over_when_the_leader_dies() {
    let namespace = Namespace::create("e2e-leader").unwrap();
    jobs::fill(&namespace).unwrap();
    let holder = || {
        kubectl_ok(
            &[
                "-n",
                "hearth-system",
                "get",
                "lease",
                "hearth-operator",
                "-o",
                "jsonpath={.spec.holderIdentity}",
            ],
            None,
        )
    };
    let first = await_value(Duration::from_secs(30), holder, &|h| !h.is_empty()).unwrap();
    let pod_name = first.split('_').next().unwrap().to_owned();
    let text =
        kubectl_ok(&["-n", "hearth-system", "get", "pod", &pod_name, "-o", "json"], None).unwrap();
    let pod: Value = serde_json::from_str(&text).unwrap();
    for id in processes::of_pod(&pod, "run").unwrap() {
        processes::signal(id, "KILL").unwrap();
    }
    namespace.apply(&jobs::training_job("after", 1, 60, |_| {})).unwrap();
    await_value(Duration::from_secs(40), holder, &|h| *h != first && !h.is_empty()).unwrap();
    succeeded(&namespace, "after");
}
