//! A HyperparamSweep's life against an API server in memory.

use serde_json::{Value, json};

use crate::common::World;

const SWEEP: &str = "hyperparamsweeps/search";

fn world(change: impl FnOnce(&mut Value)) -> World {
    let mut sweep = json!({
        "apiVersion": "hearth.dev/v1alpha1",
        "kind": "HyperparamSweep",
        "metadata": {"name": "search", "uid": "s-1", "generation": 1},
        "spec": {
            "objective": {"metric": "loss", "goal": "Minimize"},
            "algorithm": {"type": "TPE", "seed": 3},
            "parameters": [{"path": "training.learningRate",
                            "range": {"min": 1e-5, "max": 1e-2, "scale": "Log"}}],
            "trials": {"max": 14, "parallel": 3},
            "job": {
                "task": "SequenceClassification",
                "model": {"source": "pvc://models/minilm"},
                "data": {"train": {"source": "pvc://data/train.jsonl"}, "evalSplit": 0.1},
                "training": {"evalStrategy": "Steps", "evalSteps": 50},
                "output": {"destination": "pvc://models/search"},
            },
        },
    });
    change(&mut sweep);
    let world = World::new();
    world.put("hyperparamsweeps", sweep);
    world
}

fn trials(world: &World) -> Vec<String> {
    world.keys().into_iter().filter(|key| key.starts_with("trainingjobs/")).collect()
}

/// The rates that were tried, by trial.
fn rates(world: &World) -> Vec<(String, Value)> {
    let rate = |key: &String| world.get(key)["spec"]["training"]["learningRate"].clone();
    trials(world).into_iter().map(|key| (key.clone(), rate(&key))).collect()
}

/// The trial that began first and has not ended ends, best where its rate is 1e-3.
fn one_ends(world: &World) -> bool {
    let number = |key: &String| key.rsplit('-').next().unwrap().parse::<usize>().unwrap();
    let open = trials(world).into_iter().filter(|key| world.get(key)["status"].is_null());
    let Some(key) = open.min_by_key(number) else { return false };
    let now = world.now();
    world.change(&key, |job| {
        let rate = job["spec"]["training"]["learningRate"].as_f64().unwrap();
        job["status"] = json!({
            "conditions": [{"type": "Succeeded", "status": "True", "reason": "Completed",
                            "message": "", "lastTransitionTime": now}],
            "progress": {"step": 1, "totalSteps": 1, "epoch": 1.0,
                         "evalLoss": (rate.log10() + 3.0).abs()},
        });
    });
    true
}

async fn run(world: &World, mut between: impl FnMut()) {
    while world.condition(SWEEP, "Succeeded") != "True Completed" {
        world.search("search").await.unwrap();
        between();
        one_ends(world);
    }
}

async fn calm() -> World {
    let world = world(|_| {});
    run(&world, || ()).await;
    world
}

#[tokio::test]
async fn a_sweep_ends_and_then_writes_nothing() {
    let world = calm().await;
    assert_eq!(trials(&world).len(), 14);
    let told = world.told(SWEEP, "Succeeded");
    assert!(told.starts_with("The best of 14 trials is search-"), "{told}");
    let best = &world.get(SWEEP)["status"]["best"];
    let named = world.get(&format!("trainingjobs/{}", best["job"].as_str().unwrap()));
    assert_eq!(named["status"]["progress"]["evalLoss"], best["value"]);
    world.writes();
    for _ in 0..3 {
        world.search("search").await.unwrap();
    }
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_that_starts_anew_goes_on_as_the_old_one_would_have() {
    let world = world(|_| {});
    run(&world, || world.restart()).await;
    assert_eq!(rates(&world), rates(&calm().await));
}

#[tokio::test]
async fn a_lagging_cache_makes_no_trial_twice() {
    let world = world(|_| {});
    world.lag(true);
    world.search("search").await.unwrap();
    assert_eq!(trials(&world).len(), 3);
    world.writes();
    for _ in 0..3 {
        world.search("search").await.unwrap();
    }
    assert_eq!(trials(&world).len(), 3, "three trials may run at once");
    assert!(world.writes().iter().all(|write| !write.contains("trainingjobs")));
    world.catch_up();
    run(&world, || ()).await;
    assert_eq!(rates(&world), rates(&calm().await));
}

#[tokio::test]
async fn a_failed_write_at_any_place_changes_nothing_in_the_end() {
    let want = rates(&calm().await);
    for after_effect in [false, true] {
        for count in 0..5 {
            let hit = world(|_| {});
            hit.fail_after(count, after_effect);
            while !hit.has_failed() {
                let _ = hit.search("search").await;
                if !hit.has_failed() {
                    one_ends(&hit);
                }
            }
            hit.restart();
            run(&hit, || ()).await;
            assert_eq!(rates(&hit), want, "after write {count}");
        }
    }
}

#[tokio::test]
async fn a_strangers_job_of_a_trials_name_is_left_alone_and_told() {
    let world = world(|_| {});
    world.put("trainingjobs", json!({"metadata": {"name": "search-1", "uid": "x"}}));
    let error = world.search("search").await.unwrap_err();
    assert!(error.contains("TrainingJob search-1 is there already"), "{error}");
    assert_eq!(world.condition(SWEEP, "Running"), "False Rejected");
    assert_eq!(world.get("trainingjobs/search-1")["metadata"]["uid"], "x");
}

#[tokio::test]
async fn a_sweep_that_cannot_be_searched_makes_nothing() {
    let world = world(|s| s["spec"]["parameters"][0]["path"] = "training.noSuchField".into());
    world.search("search").await.unwrap();
    assert_eq!(world.condition(SWEEP, "Accepted"), "False Invalid");
    assert!(trials(&world).is_empty());
}

/// Trials of five evaluations, which are stopped where they fall behind.
fn stopping(sweep: &mut Value) {
    sweep["spec"]["earlyStopping"] = json!({"type": "MedianStopping", "minTrials": 2});
    sweep["spec"]["job"]["training"]["maxSteps"] = 250.into();
}

fn evaluations(job: &Value) -> usize {
    job["status"]["evaluations"].as_array().map_or(0, Vec::len)
}

fn is_open(job: &Value) -> bool {
    job["status"]["conditions"].as_array().is_none_or(Vec::is_empty)
}

/// The trial that evaluated least makes one evaluation more, or ends: after its fifth, or because
/// it is to stop. Losses fall, to where the rate leads.
fn one_moves(world: &World) {
    let number = |key: &String| key.rsplit('-').next().unwrap().parse::<usize>().unwrap();
    let open = trials(world).into_iter().filter(|key| is_open(&world.get(key)));
    let Some(key) = open.min_by_key(|key| (evaluations(&world.get(key)), number(key))) else {
        return;
    };
    let now = world.now();
    world.change(&key, |job| {
        let ended = |type_: &str| {
            json!([{"type": type_, "status": "True", "reason": "R", "message": "",
                    "lastTransitionTime": now}])
        };
        if !job["spec"]["stop"].is_null() {
            job["status"]["conditions"] = ended("Stopped");
            return;
        }
        let (rate, count) =
            (job["spec"]["training"]["learningRate"].as_f64().unwrap(), evaluations(job) + 1);
        let loss = (rate.log10() + 3.0).abs() + 1.0 / count as f64;
        let mut told = job["status"]["evaluations"].as_array().cloned().unwrap_or_default();
        told.push(json!({"step": 50 * count, "loss": loss}));
        job["status"] = json!({
            "evaluations": told,
            "progress": {"step": 50 * count, "totalSteps": 250, "epoch": 1.0, "evalLoss": loss},
            "conditions": if count == 5 { ended("Succeeded") } else { json!([]) },
        });
    });
}

async fn run_stopping(world: &World, mut between: impl FnMut()) {
    while world.condition(SWEEP, "Succeeded") != "True Completed" {
        world.search("search").await.unwrap();
        between();
        one_moves(world);
    }
}

/// Rates, and why each was stopped, by trial.
fn ends(world: &World) -> Vec<(String, Value, Value)> {
    let end = |key: String| {
        let spec = world.get(&key)["spec"].clone();
        (key, spec["training"]["learningRate"].clone(), spec["stop"].clone())
    };
    trials(world).into_iter().map(end).collect()
}

#[tokio::test]
async fn an_operator_that_starts_anew_stops_whom_the_old_one_would_have() {
    let calm = world(stopping);
    run_stopping(&calm, || ()).await;
    let want = ends(&calm);
    let stopped = want.iter().filter(|(_, _, stop)| !stop.is_null()).count();
    assert!((1..=12).contains(&stopped), "{want:?}");
    assert_eq!(calm.get(SWEEP)["status"]["trials"]["stopped"], stopped);
    let told = calm.told(SWEEP, "Succeeded");
    assert!(
        told.contains(&format!("of 14 trials, of which {stopped} stopped early, is")),
        "{told}"
    );
    let writes = calm.writes().len();
    calm.search("search").await.unwrap();
    assert_eq!(calm.writes(), Vec::<String>::new());

    let anew = world(stopping);
    run_stopping(&anew, || anew.restart()).await;
    assert_eq!(ends(&anew), want);

    for after_effect in [false, true] {
        for count in (0..writes).step_by(3) {
            let hit = world(stopping);
            hit.fail_after(count, after_effect);
            while !hit.has_failed() && hit.condition(SWEEP, "Succeeded") == "absent" {
                let _ = hit.search("search").await;
                if !hit.has_failed() {
                    one_moves(&hit);
                }
            }
            hit.restart();
            run_stopping(&hit, || ()).await;
            assert!(hit.has_failed() && ends(&hit) == want, "after write {count}");
        }
    }
}

/// A sweep whose first trial has ended well, and whose second one runs and is behind.
async fn one_behind() -> World {
    let world = world(|s| {
        stopping(s);
        s["spec"]["earlyStopping"]["minTrials"] = 1.into();
        s["spec"]["trials"] = json!({"max": 3, "parallel": 2});
    });
    for claim in ["models", "data"] {
        world.put("persistentvolumeclaims", json!({"metadata": {"name": claim}}));
    }
    world.search("search").await.unwrap();
    world.train("search-1").await.unwrap();
    world.put_worker("search-1", 0, &json!({"phase": "Running"}));
    let evaluations = |losses: [f64; 2]| json!([{"step": 50, "loss": losses[0]}, {"step": 100, "loss": losses[1]}]);
    world.change("trainingjobs/search-0", |job| {
        job["status"] = json!({
            "conditions": [{"type": "Succeeded", "status": "True", "reason": "Completed",
                            "message": "", "lastTransitionTime": "2027-01-15T08:00:00Z"}],
            "evaluations": evaluations([0.6, 0.4]),
            "progress": {"step": 100, "totalSteps": 100, "epoch": 1.0, "evalLoss": 0.4},
        });
    });
    world.change("trainingjobs/search-1", |job| {
        job["status"]["evaluations"] = evaluations([0.9, 0.8]);
        job["status"]["progress"] =
            json!({"step": 110, "totalSteps": 250, "epoch": 1.0, "evalLoss": 0.8});
    });
    world.writes();
    world
}

const WHY: &str = "stopped at step 100: its best loss so far is 0.8, and the median of the trials that succeeded was 0.5 by then";
const BEHIND: &str = "trainingjobs/search-1";

#[tokio::test]
async fn a_trial_that_falls_behind_ends_and_makes_room() {
    let world = one_behind().await;
    world.search("search").await.unwrap();
    let told = [
        "apply trainingjobs/search-2",
        "apply trainingjobs/search-1",
        "status hyperparamsweeps/search",
        "create events/",
    ];
    assert_eq!(world.writes(), told);
    assert_eq!(
        world.get(BEHIND)["spec"]["stop"],
        json!({"reason": "EarlyStopped", "message": WHY})
    );
    assert_eq!(world.get(BEHIND)["spec"]["output"]["destination"], "pvc://models/search/trial-1");

    world.train("search-1").await.unwrap();
    assert_eq!(world.writes(), ["delete jobs/search-1-train", "status trainingjobs/search-1"]);
    assert_eq!(world.condition(BEHIND, "Running"), "False Stopping");
    world.restart();
    world.train("search-1").await.unwrap();
    world.search("search").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new(), "its pod saves a checkpoint");
    assert_eq!(
        world.get(SWEEP)["status"]["trials"],
        json!({"running": 2, "succeeded": 1, "stopped": 0, "failed": 0})
    );

    world.remove("pods/search-1-train-0-x");
    world.train("search-1").await.unwrap();
    assert_eq!(
        world.writes(),
        [
            "delete configmaps/search-1-train",
            "delete services/search-1-train",
            "delete networkpolicies/search-1-train",
            "status trainingjobs/search-1",
            "create events/"
        ]
    );
    assert_eq!(world.condition(BEHIND, "Stopped"), "True EarlyStopped");
    assert_eq!(world.told(BEHIND, "Stopped"), format!("{WHY}."));
    assert_eq!(world.get(BEHIND)["status"]["state"], "Stopped");
    assert_eq!(world.get(BEHIND)["status"]["evaluations"][1]["loss"], 0.8);
    world.train("search-1").await.unwrap();
    world.search("search").await.unwrap();
    assert_eq!(world.writes(), ["status hyperparamsweeps/search"]);
    assert_eq!(
        world.get(SWEEP)["status"]["trials"],
        json!({"running": 1, "succeeded": 1, "stopped": 1, "failed": 0})
    );
    let told = world.told(SWEEP, "Running");
    assert_eq!(told, "1 trials run, 2 of 3 have ended, 0 of them failed, 1 stopped early.");
}

#[tokio::test]
async fn a_lagging_cache_stops_no_trial_twice() {
    let world = one_behind().await;
    world.lag(true);
    world.search("search").await.unwrap();
    let stopped = "apply trainingjobs/search-1".to_owned();
    assert!(world.writes().contains(&stopped));
    for _ in 0..3 {
        world.search("search").await.unwrap();
    }
    assert!(world.writes().iter().all(|write| !write.contains("trainingjobs")));
    // What is told of it meanwhile would now read differently.
    world.catch_up();
    world.change(BEHIND, |job| job["status"]["evaluations"][1]["step"] = 150.into());
    world.search("search").await.unwrap();
    assert!(world.writes().iter().all(|write| !write.contains("trainingjobs")));
}

#[tokio::test]
async fn a_trial_that_ends_before_it_is_stopped_counts() {
    let world = one_behind().await;
    world.search("search").await.unwrap();
    let now = world.now();
    world.change("jobs/search-1-train", |job| {
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "True",
            "reason": "CompletionsReached", "message": "", "lastTransitionTime": now}]});
    });
    let result = json!({"succeeded": true, "reason": "Completed", "message": "trained 250 steps",
        "exitCode": 0, "progress": {"step": 250, "totalSteps": 250, "epoch": 1.0, "evalLoss": 0.3},
        "evaluations": [{"step": 250, "loss": 0.3}]});
    world.change("pods/search-1-train-0-x", |pod| {
        pod["status"] = json!({"phase": "Succeeded", "containerStatuses": [{"name": "worker",
            "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated":
            {"exitCode": 0, "message": result.to_string(), "finishedAt": now}}}]});
    });
    world.train("search-1").await.unwrap();
    assert_eq!(world.condition(BEHIND, "Succeeded"), "True Completed");
    assert_eq!(world.get(BEHIND)["status"]["evaluations"], json!([{"step": 250, "loss": 0.3}]));
    world.search("search").await.unwrap();
    assert_eq!(world.get(SWEEP)["status"]["best"]["job"], "search-1");
}
