//! A TrainingJob whose number of workers changes while it runs.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::training_job::{JOB, pod, training, world};

/// Loopback address of agent 0.
const AGENT: &str = "127.84.70.4";

#[tokio::test]
async fn a_running_job_may_have_more_pods_and_fewer() {
    let world = world(|_| {});
    let says = |present: u32, wanted: u32| {
        let mut status = training(10);
        status["presentReplicas"] = present.into();
        status["replicas"] = wanted.into();
        status
    };
    let status = Arc::new(Mutex::new(says(2, 2)));
    let told = Arc::new(Mutex::new(Vec::new()));
    agent(&format!("{AGENT}:8470"), status.clone(), told.clone()).await;
    let look = async |present, wanted| {
        *status.lock().unwrap() = says(present, wanted);
        world.pass(6);
        world.train("spam").await.unwrap();
    };
    let pods = || {
        let job = world.get("jobs/spam-train");
        (job["spec"]["parallelism"].clone(), job["spec"]["completions"].clone())
    };
    world.train("spam").await.unwrap();
    pod(&world, 0, AGENT);
    pod(&world, 1, "127.84.70.9");
    look(2, 2).await;
    assert_eq!(world.get(JOB)["status"]["workers"], 2);
    let config = world.get("configmaps/spam-train");
    world.writes();

    // More pods are made; ranks go on until agent 0 has them all.
    world.change(JOB, |job| job["spec"]["workers"]["replicas"] = 3.into());
    look(2, 2).await;
    assert_eq!(
        world.writes(),
        [
            "apply poddisruptionbudgets/spam-train",
            "apply jobs/spam-train",
            "status trainingjobs/spam",
        ]
    );
    assert_eq!(pods(), (3.into(), 3.into()));
    assert_eq!(*told.lock().unwrap(), [3]);
    let running = world.get(JOB)["status"]["conditions"].to_string();
    assert!(running.contains("On 2 of "), "{running}");
    look(2, 3).await;
    assert_eq!(world.condition(JOB, "Running"), "True Training");
    world.writes();
    look(3, 3).await;
    assert_eq!(world.writes(), ["status trainingjobs/spam", "create events/"]);
    assert_eq!(world.get(JOB)["status"]["workers"], 3);

    // Pods go once no rank runs on them, and with them the budget of a drain.
    world.change(JOB, |job| job["spec"]["workers"]["replicas"] = 1.into());
    look(3, 3).await;
    assert_eq!(*told.lock().unwrap(), [3, 1]);
    assert_eq!(pods(), (3.into(), 3.into()));
    assert!(world.writes().contains(&"delete poddisruptionbudgets/spam-train".to_owned()));
    look(1, 1).await;
    assert_eq!(pods(), (1.into(), 1.into()));
    world.writes();
    look(1, 1).await;
    assert!(world.writes().is_empty(), "nothing changed");
    assert_eq!(*told.lock().unwrap(), [3, 1]);
    assert_eq!(world.get("configmaps/spam-train"), config, "it is immutable");
    assert_eq!(world.condition(JOB, "Accepted"), "True Valid");
    let events = world.events();
    let of_size = events.iter().filter(|event| event["reason"] == "Resized");
    let notes: Vec<&str> = of_size.map(|event| event["note"].as_str().unwrap()).collect();
    assert!(notes[0].contains("3 workers instead of 2"), "{notes:?}");
    assert!(notes[1].contains("1 worker instead of 3"), "{notes:?}");
    assert_eq!(notes.len(), 2, "{notes:?}");
}

/// An agent 0 that says `status` and writes down how many agents it is told to have.
async fn agent(address: &str, status: Arc<Mutex<Value>>, told: Arc<Mutex<Vec<u64>>>) {
    use axum::routing::{get, put};
    let answer = move || {
        let status = status.lock().unwrap().clone();
        async move { axum::Json(status) }
    };
    let take = move |axum::Json(body): axum::Json<Value>| {
        told.lock().unwrap().push(body["replicas"].as_u64().unwrap());
        async { axum::http::StatusCode::NO_CONTENT }
    };
    let app = axum::Router::new().route("/status", get(answer)).route("/replicas", put(take));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
}
