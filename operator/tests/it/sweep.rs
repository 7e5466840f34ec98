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
