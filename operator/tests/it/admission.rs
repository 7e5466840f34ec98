//! Jobs that share devices, against an API server in memory.

use std::collections::BTreeSet;

use crate::common::World;
use serde_json::{Value, json};

const GPU: &str = "example.com/gpu";

fn pool() -> World {
    let world = World::with_claims();
    for name in ["node-0", "node-1"] {
        world.put(
            "nodes",
            json!({
                "metadata": {"name": name},
                "status": {"allocatable": {GPU: "2", "cpu": "8"},
                    "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
    }
    world.put("priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000}));
    world
}

fn put_job(world: &World, name: &str, change: impl FnOnce(&mut Value)) {
    let mut job = json!({
        "apiVersion": "hearth.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "uid": format!("u-{name}"), "generation": 1,
            "creationTimestamp": world.now()},
        "spec": {
            "task": "SequenceClassification",
            "model": {"source": "pvc://models/minilm"},
            "data": {"train": {"source": "pvc://data/train.jsonl"}},
            "workers": {"replicas": 2, "accelerator": "CPU", "resources": {"limits": {GPU: 2}}},
            "output": {"destination": format!("pvc://models/{name}")},
        },
    });
    change(&mut job);
    world.put("trainingjobs", job);
    world.pass(1);
}

fn urgent(job: &mut Value) {
    job["spec"]["workers"]["priorityClassName"] = "high".into();
}

/// What the Job controller and the scheduler do.
fn starts(world: &World, name: &str) {
    let job = world.get(&format!("jobs/{name}-train"));
    assert_eq!(job["spec"]["suspend"], false, "{name}");
    let now = world.now();
    world.change(&format!("jobs/{name}-train"), |job| job["status"]["startTime"] = now.into());
    for index in 0..2 {
        world.put_worker(name, index, &json!({"phase": "Pending"}));
    }
}

fn pods_go(world: &World, name: &str) {
    for index in 0..2 {
        world.remove(&format!("pods/{name}-train-{index}-x"));
    }
}

/// Decides, and reconciles whoever is told something new.
async fn turn(world: &World) -> BTreeSet<String> {
    let news = world.admit().jobs;
    for uid in &news {
        world.train(uid.strip_prefix("u-").unwrap()).await.unwrap();
    }
    news
}

fn admitted(world: &World, name: &str) -> String {
    world.condition(&format!("trainingjobs/{name}"), "Admitted")
}

fn why(world: &World, name: &str) -> String {
    world.told(&format!("trainingjobs/{name}"), "Admitted")
}

fn suspended(world: &World, name: &str) -> Value {
    world.get(&format!("jobs/{name}-train"))["spec"]["suspend"].clone()
}

#[tokio::test]
async fn a_job_waits_for_its_devices_with_a_suspended_job_and_a_place_in_the_queue() {
    let world = pool();
    put_job(&world, "first", |_| ());
    put_job(&world, "second", |_| ());
    for name in ["first", "second"] {
        world.train(name).await.unwrap();
        assert_eq!(suspended(&world, name), true);
        assert_eq!(admitted(&world, name), "False Queued");
    }
    turn(&world).await;
    assert_eq!(suspended(&world, "first"), false);
    assert_eq!(admitted(&world, "first"), "True Admitted");
    assert_eq!(suspended(&world, "second"), true);
    assert!(
        why(&world, "second")
            .starts_with("place 1 in the queue: it needs 2 pods with 2 example.com/gpu each")
    );
    starts(&world, "first");
    turn(&world).await;
    world.writes();
    for _ in 0..5 {
        assert!(turn(&world).await.is_empty());
        world.train("second").await.unwrap();
    }
    assert_eq!(world.writes(), [] as [&str; 0], "waiting costs no writes");
}

#[tokio::test]
async fn an_urgent_job_gets_the_place_of_one_that_saves_and_goes_on_afterwards() {
    let world = pool();
    put_job(&world, "calm", |_| ());
    world.train("calm").await.unwrap();
    turn(&world).await;
    starts(&world, "calm");
    put_job(&world, "now", urgent);
    world.train("now").await.unwrap();
    turn(&world).await;
    assert_eq!(suspended(&world, "calm"), false, "it has not had its time");
    let again = world.admit().look_again.unwrap();
    world.pass(299);
    assert!(world.cx.clock.now() >= again);

    turn(&world).await;
    assert_eq!(suspended(&world, "calm"), true);
    assert_eq!(admitted(&world, "calm"), "False Preempted");
    assert!(why(&world, "calm").contains("team-a/now (priority 1000)"));
    turn(&world).await;
    assert_eq!(suspended(&world, "now"), true, "the pods of the other are still there");
    pods_go(&world, "calm");
    turn(&world).await;
    assert_eq!(suspended(&world, "now"), false);
    assert_eq!(admitted(&world, "calm"), "False Queued");
    starts(&world, "now");
    turn(&world).await;

    let ended = json!([{"type": "Complete", "status": "True", "lastTransitionTime": world.now()}]);
    world.change("jobs/now-train", |job| job["status"]["conditions"] = ended);
    pods_go(&world, "now");
    world.pass(120);
    world.train("now").await.unwrap();
    turn(&world).await;
    assert_eq!(suspended(&world, "calm"), false);
    assert_eq!(admitted(&world, "calm"), "True Admitted");
}

#[tokio::test]
async fn a_grant_counts_before_the_watches_show_it_and_a_new_operator_knows_who_runs() {
    let world = pool();
    put_job(&world, "first", |_| ());
    put_job(&world, "second", |_| ());
    world.train("first").await.unwrap();
    world.train("second").await.unwrap();
    world.lag(true);
    world.admit();
    world.train("first").await.unwrap();
    for _ in 0..3 {
        world.admit();
        world.train("second").await.unwrap();
        assert_eq!(suspended(&world, "second"), true);
    }
    world.catch_up();
    starts(&world, "first");
    let anew = hearth_operator::admission::Admission::new(world.cx.admission.min_runtime);
    anew.decide(&world.cx.caches, world.cx.clock.now());
    let told = |name: &str| anew.decision(&format!("u-{name}"));
    assert!(format!("{:?}", told("first")).contains("Admit"));
    assert!(format!("{:?}", told("second")).contains("Wait"));
}

#[tokio::test]
async fn what_asks_for_no_device_starts_at_once() {
    let world = pool();
    put_job(&world, "plain", |job| job["spec"]["workers"]["resources"] = json!({}));
    world.train("plain").await.unwrap();
    assert_eq!(suspended(&world, "plain"), false);
    world.put(
        "resourcequotas",
        json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "3"}},
            "status": {"used": {"pods": "2"}}}),
    );
    put_job(&world, "bound", |job| job["spec"]["workers"]["resources"] = json!({}));
    world.train("bound").await.unwrap();
    turn(&world).await;
    assert_eq!(suspended(&world, "bound"), true);
    assert!(why(&world, "bound").contains("ResourceQuota small allows 3"));
}
