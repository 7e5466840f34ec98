//! Sweeps: every combination is tried, the best is named and served, and a sweep goes on.

use std::time::Duration;

use hearth_tests::cluster::{Namespace, condition, told};
use hearth_tests::jobs;
use serde_json::{Value, json};

use crate::support::PATIENCE;

/// A sweep over two learning rates and two batch sizes.
fn sweep(name: &str, max: u32, change: impl FnOnce(&mut Value)) -> String {
    let job: Value = serde_json::from_str(&jobs::training_job(name, 1, 60, |_| {})).unwrap();
    let mut sweep = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "HyperparamSweep", "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "f1", "goal": "Maximize"},
            "algorithm": {"type": "Grid"},
            "parameters": [
                {"path": "training.learningRate", "values": [1e-7, 1e-2]},
                {"path": "training.perDeviceTrainBatchSize", "values": [8, 16]}
            ],
            "trials": {"max": max, "parallel": 2},
            "job": job["spec"]
        }
    });
    sweep["spec"]["job"]["training"]["evalSteps"] = 30.into();
    change(&mut sweep);
    sweep.to_string()
}

fn ended(namespace: &Namespace, name: &str, trials: i64) -> Value {
    let over = |s: &Value| {
        let counts = &s["status"]["trials"];
        let done = ["succeeded", "stopped", "failed"].map(|end| counts[end].as_i64().unwrap_or(0));
        done.iter().sum::<i64>() >= trials
            && (condition(s, "Succeeded") == "True" || condition(s, "Failed") == "True")
    };
    namespace.wait("hyperparamsweep", name, PATIENCE, over).unwrap()
}

#[test]
fn a_sweep_tries_all_names_the_best_goes_on_and_is_served() {
    let namespace = Namespace::create("e2e-sweep").unwrap();
    jobs::fill(&namespace).unwrap();
    let serve = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "best"},
        "spec": {"model": {"fromSweep": "grid"}, "serving": {"replicas": 1, "resources": {
            "limits": {"memory": "1Gi"}, "requests": {"cpu": "50m", "memory": "64Mi"}}}}
    });
    namespace.apply(&serve.to_string()).unwrap();
    namespace.apply(&sweep("grid", 2, |_| {})).unwrap();
    let first = ended(&namespace, "grid", 2);
    assert_eq!(first["status"]["trials"]["succeeded"], 2, "{}", told(&first, "Failed"));
    let low = first["status"]["best"]["value"].as_f64().unwrap();

    namespace.apply(&sweep("grid", 9, |_| {})).unwrap();
    let all = ended(&namespace, "grid", 4);
    assert_eq!(condition(&all, "Succeeded"), "True", "{}", told(&all, "Failed"));
    let trials = namespace.list("trainingjobs", "hearth.dev/name=grid").unwrap();
    let set: Vec<_> = trials
        .iter()
        .map(|t| {
            let training = &t["spec"]["training"];
            (
                training["learningRate"].as_f64().unwrap(),
                training["perDeviceTrainBatchSize"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(set, [(1e-7, 8), (1e-7, 16), (1e-2, 8), (1e-2, 16)]);
    let f1 = |trial: &Value| trial["status"]["progress"]["f1"].as_f64().unwrap();
    let highest = trials.iter().map(f1).fold(f64::NEG_INFINITY, f64::max);
    let best = &all["status"]["best"];
    assert_eq!(best["value"].as_f64(), Some(highest));
    assert!(highest > low, "a learning rate of 1e-7 learned as much: {highest} and {low}");
    let named = trials.iter().find(|t| t["metadata"]["name"] == best["job"]).unwrap();
    assert_eq!(named["status"]["progress"]["f1"], best["value"]);

    let ready = |d: &Value| condition(d, "Ready") == "True";
    namespace.wait("modeldeployment", "best", PATIENCE, ready).unwrap();

    // GitOps: what was applied is what is there.
    for applied in [sweep("grid", 9, |_| {}), serve.to_string()] {
        assert_eq!(namespace.diff(&applied).unwrap(), "");
    }
    let planted = sweep("grid", 8, |_| {});
    assert!(namespace.diff(&planted).unwrap().contains("max: 8"), "the diff finds nothing");
}

#[test]
fn a_promoted_trial_goes_on_from_its_checkpoint() {
    let namespace = Namespace::create("e2e-asha").unwrap();
    jobs::fill(&namespace).unwrap();
    let halving = sweep("climb", 4, |s| {
        let spec = &mut s["spec"];
        spec["algorithm"] = json!({"type": "ASHA", "seed": 1, "asha": {"firstRungSteps": 20, "reductionFactor": 2}});
        spec["parameters"] = json!([{"path": "training.learningRate",
                                     "range": {"min": 1e-5, "max": 1e-2, "scale": "Log"}}]);
        spec["job"]["training"]["maxSteps"] = 80.into();
    });
    namespace.apply(&halving).unwrap();
    let all = ended(&namespace, "climb", 4);
    assert_eq!(condition(&all, "Succeeded"), "True", "{}", told(&all, "Failed"));
    let trials = namespace.list("trainingjobs", "hearth.dev/name=climb").unwrap();
    let on = |stop: Option<i64>| {
        trials.iter().filter(|t| t["spec"]["stopAtStep"].as_i64() == stop).count()
    };
    assert_eq!([Some(20), Some(40), None].map(on), [4, 2, 1]);

    let best = all["status"]["best"]["job"].as_str().unwrap();
    let (number, rung) = best.trim_start_matches("climb-").split_once("-rung-").unwrap();
    assert_eq!(rung, "2");
    let last = trials.iter().find(|t| t["metadata"]["name"] == best).unwrap();
    assert_eq!(last["status"]["progress"]["step"], 80);
    // Three jobs, and each step once.
    let journal = namespace.volume("models").join(format!("climb/trial-{number}/metrics.jsonl"));
    let steps: Vec<i64> = std::fs::read_to_string(journal)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line.get("loss").is_some())
        .filter_map(|line| line["step"].as_i64())
        .collect();
    assert_eq!(steps, [20, 40, 60, 80]);
    assert_eq!(namespace.diff(&halving).unwrap(), "");
}

#[test]
fn a_trial_that_falls_behind_is_stopped_and_its_pod_goes() {
    let namespace = Namespace::create("e2e-stopping").unwrap();
    jobs::fill(&namespace).unwrap();
    // The second trial learns nothing, and would take minutes over it.
    let early = sweep("early", 2, |s| {
        let spec = &mut s["spec"];
        spec["objective"] = json!({"metric": "loss", "goal": "Minimize"});
        spec["earlyStopping"] = json!({"type": "MedianStopping", "minTrials": 1});
        spec["parameters"] = json!([
            {"path": "training.learningRate", "values": [1e-2, 1e-9]},
            {"path": "training.maxSteps", "values": [20000],
             "when": {"path": "training.learningRate", "values": [1e-9]}}
        ]);
        spec["trials"]["parallel"] = 1.into();
        spec["job"]["training"]["evalSteps"] = 20.into();
    });
    namespace.apply(&early).unwrap();
    let all = ended(&namespace, "early", 2);
    assert_eq!(condition(&all, "Succeeded"), "True", "{}", told(&all, "Failed"));
    let counts = &all["status"]["trials"];
    assert_eq!((&counts["succeeded"], &counts["stopped"]), (&json!(1), &json!(1)), "{all}");
    assert_eq!(all["status"]["best"]["job"], "early-0");

    let stopped = namespace.get("trainingjob", "early-1").unwrap();
    assert_eq!(condition(&stopped, "Stopped"), "True");
    let said = told(&stopped, "Stopped");
    assert!(said.contains("stopped at step") && said.contains("the median"), "{said}");
    assert!(stopped["status"]["progress"]["step"].as_i64() < Some(20000));
    assert!(!stopped["status"]["evaluations"].as_array().unwrap().is_empty());
    let mut pods = namespace.list("pods", "hearth.dev/name=early-1").unwrap();
    pods.retain(|pod| pod["status"]["phase"] == "Running");
    assert!(pods.is_empty(), "{pods:?}");
    let saved = namespace.volume("models").join("early/trial-1/checkpoints");
    let saved = std::fs::read_dir(saved).unwrap().map(|step| step.unwrap().path());
    assert!(saved.into_iter().any(|step| step.join("manifest.json").is_file()), "nothing is saved");
    let first = namespace.get("trainingjob", "early-0").unwrap();
    let steps: Vec<_> = first["status"]["evaluations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|evaluation| evaluation["step"].as_i64().unwrap())
        .collect();
    assert_eq!(steps, [20, 40, 60]);
    assert_eq!(namespace.diff(&early).unwrap(), "");
}

#[test]
fn a_sweep_whose_trials_fail_says_why_and_stops() {
    let namespace = Namespace::create("e2e-sweep-bad").unwrap();
    jobs::fill(&namespace).unwrap();
    let bad = sweep("bad", 4, |s| {
        s["spec"]["trials"]["parallel"] = 1.into();
        s["spec"]["job"]["model"]["source"] = "pvc://models/nothing-here".into();
    });
    namespace.apply(&bad).unwrap();
    let failed = ended(&namespace, "bad", 1);
    let said = told(&failed, "Failed");
    assert!(said.contains("bad-0") && said.contains("nothing-here"), "{said}");
    std::thread::park_timeout(Duration::from_secs(5));
    let trials = namespace.list("trainingjobs", "hearth.dev/name=bad").unwrap();
    assert_eq!(trials.len(), 1, "no trial follows");
}
