//! A gang that becomes larger and smaller while it trains.

use std::time::Duration;

use hearth_crds::worker_config::{WorkerState, WorkerStatus};
use serde_json::Value;

use crate::crew::{Crew, Options, wait_for};
use crate::gang::Gang;

const STEPS: i64 = 200;

/// Only what a resize saves is a checkpoint.
fn settings(config: &mut Value) {
    config["training"]["maxSteps"] = STEPS.into();
    config["training"]["saveSteps"] = 1000.into();
}

fn trains(crew: &Crew, generation: u32) -> WorkerStatus {
    wait_for(&format!("generation {generation}"), Duration::from_mins(1), || {
        let trains = |status: &WorkerStatus| {
            status.generation == generation && status.state == WorkerState::Training
        };
        crew.status().filter(trains)
    })
}

#[test]
fn a_gang_that_grew_and_shrank_is_one_that_was_started_anew_with_each_size() {
    let mut crew = Crew::start(Options {
        change: |config| {
            settings(config);
            config["replicas"] = 1.into();
        },
        ..Options::default()
    });
    let alone = crew.wait_for_step(20);
    assert_eq!((alone.replicas, alone.present_replicas), (1, 1));
    assert_eq!(alone.checkpoint, None);
    crew.resize(2);
    let larger = trains(&crew, 2);
    assert_eq!((larger.replicas, larger.present_replicas), (2, 2));
    let grew_at = larger.checkpoint.unwrap().step;
    crew.wait_for_step(grew_at + 20);
    crew.resize(1);
    let smaller = trains(&crew, 3);
    assert_eq!((smaller.replicas, smaller.present_replicas), (1, 1));
    let shrank_at = smaller.checkpoint.unwrap().step;
    assert!(20 <= grew_at && grew_at + 20 <= shrank_at && shrank_at < STEPS);
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    let result = crew.result();
    assert_eq!((result.succeeded, result.restarts), (true, 0), "{result:?}");

    let again = |ranks: usize, until: Option<i64>| {
        let config = crew.other("again", |config| {
            settings(config);
            config["stopAtStep"] = until.into();
        });
        let _ended = Gang::run(&config, ranks).succeeded();
    };
    let weights =
        |output: &str| std::fs::read(crew.path(output).join("model/model.safetensors")).unwrap();
    again(1, Some(grew_at));
    again(2, Some(shrank_at));
    again(1, None);
    assert!(weights("job") == weights("again"), "the weights differ");
}

#[test]
fn sizes_that_no_job_has_are_refused() {
    let crew = Crew::start(Options::default());
    crew.wait_for_step(1);
    for body in [r#"{"replicas": 0}"#, r#"{"replicas": 1025}"#, r#"{"replicas": "two"}"#, ""] {
        let (status, said) = crew.ask("PUT", "/replicas", body).unwrap();
        assert!((400..500).contains(&status), "{body}: {status} {said}");
    }
    let status = crew.status().unwrap();
    assert_eq!((status.replicas, status.present_replicas), (2, 2));
}
