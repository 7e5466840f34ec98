//! Sweeps from their first trial to their last, on objects, without a cluster.

use hearth_crds::condition::Truth;
use hearth_crds::hyperparam_sweep::{HyperparamSweep, HyperparamSweepStatus};
use hearth_crds::training_job::TrainingJob;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::gather::Observed;
use super::policy::{Decision, End, decide};
use super::report::{Verdict, next_status};
use super::trial;
use super::validate::{ValidSweep, sweep};

type Change = fn(&mut Value);

fn sample(change: impl FnOnce(&mut Value)) -> HyperparamSweep {
    let mut value = json!({
        "apiVersion": "hearth.dev/v1alpha1",
        "kind": "HyperparamSweep",
        "metadata": {"name": "search", "namespace": "team-a", "uid": "s-1", "generation": 1},
        "spec": {
            "objective": {"metric": "f1", "goal": "Maximize"},
            "algorithm": {"type": "TPE", "seed": 7},
            "parameters": [
                {"path": "training.learningRate", "range": {"min": 1e-5, "max": 1e-2, "scale": "Log"}},
                {"path": "training.optim", "values": ["SGD", "AdamW"]},
                {"path": "training.momentum", "range": {"min": 0.0, "max": 0.9},
                 "when": {"path": "training.optim", "values": ["SGD"]}},
            ],
            "trials": {"max": 30, "parallel": 3, "maxFailed": 2},
            "job": {
                "task": "SequenceClassification",
                "model": {"source": "pvc://models/minilm"},
                "data": {"train": {"source": "pvc://data/train.jsonl"}, "evalSplit": 0.1},
                "training": {"evalStrategy": "Steps", "evalSteps": 50},
                "output": {"destination": "pvc://models/search"},
            },
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn valid(change: impl FnOnce(&mut Value)) -> ValidSweep {
    sweep(&sample(change)).unwrap()
}

/// What the API server holds of a sweep's trials.
#[derive(Default)]
struct World {
    jobs: Vec<TrainingJob>,
}

impl World {
    /// One look by an operator that knows nothing but the objects.
    fn look(&mut self, valid: &ValidSweep) -> Decision {
        let mut trials: Vec<_> =
            self.jobs.iter().filter_map(|job| trial::read(valid, job)).collect();
        trials.sort_by_key(|trial| trial.number);
        let seen = Observed { trials, ..Observed::default() };
        let decision = decide(valid, &seen);
        assert_eq!(decide(valid, &seen), decision, "another operator would do the same");
        for job in &decision.start {
            let name = job.metadata.name.as_deref();
            assert!(self.jobs.iter().all(|j| j.metadata.name.as_deref() != name), "{name:?} twice");
            // As the API server gives it back.
            self.jobs.push(serde_json::from_value(serde_json::to_value(job).unwrap()).unwrap());
        }
        decision
    }

    fn end(&mut self, index: usize, status: Value) {
        self.jobs[index].status = Some(serde_json::from_value(status).unwrap());
    }

    fn open(&self) -> Option<usize> {
        self.jobs.iter().position(|job| job.status.is_none())
    }
}

fn condition(type_: &str, message: &str) -> Value {
    json!({"type": type_, "status": "True", "reason": "R", "message": message,
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn succeeded(f1: Option<f64>) -> Value {
    json!({"conditions": [condition("Succeeded", "")],
           "progress": {"step": 1, "totalSteps": 1, "epoch": 1.0, "f1": f1}})
}

fn failed() -> Value {
    json!({"conditions": [condition("Failed", "disk full")]})
}

/// Best where the learning rate is 1e-3.
fn score(job: &TrainingJob) -> f64 {
    1.0 - 0.1 * (job.spec.training.learning_rate.log10() + 3.0).abs()
}

fn run(valid: &ValidSweep, world: &mut World) -> Decision {
    loop {
        let decision = world.look(valid);
        assert!(decision.counts.running <= valid.spec.trials.parallel);
        if decision.end.is_some() {
            return decision;
        }
        let index = world.open().expect("something runs while a sweep has no end");
        let f1 = score(&world.jobs[index]);
        world.end(index, succeeded(Some(f1)));
    }
}

#[test]
fn a_sweep_runs_to_its_end_and_names_the_best() {
    let (valid, mut world) = (valid(|_| {}), World::default());
    let decision = run(&valid, &mut world);
    assert_eq!((decision.end, decision.counts.succeeded), (Some(End::Done), 30));
    let (best, value) = decision.best.unwrap();
    let highest = world.jobs.iter().map(score).fold(0.0, f64::max);
    assert_eq!(Some(value), Some(highest));
    assert!(value > 0.97, "TPE found {value}");
    assert_eq!(Some(score(&world.jobs[best.number])), Some(value));
    for (number, job) in world.jobs.iter().enumerate() {
        assert_eq!(job.metadata.name, Some(format!("search-{number}")));
        assert_eq!(job.spec.output.destination, format!("pvc://models/search/trial-{number}"));
        let sgd = format!("{:?}", job.spec.training.optim) == "SGD";
        assert_eq!(
            sgd,
            job.metadata.annotations.as_ref().unwrap()["hearth.dev/point"].contains("momentum")
        );
    }
    let again = run(&valid, &mut World::default());
    assert_eq!(again.best.unwrap().0, best, "the seed decides");
}

#[test]
fn a_grid_is_every_combination_and_ends_there() {
    let valid = valid(|s| {
        s["spec"]["algorithm"]["type"] = "Grid".into();
        s["spec"]["parameters"] = json!([
            {"path": "training.learningRate", "values": [1e-5, 1e-4, 1e-3]},
            {"path": "training.perDeviceTrainBatchSize", "values": [8, 16]},
        ]);
    });
    let mut world = World::default();
    let decision = run(&valid, &mut world);
    assert_eq!((decision.end, decision.counts.succeeded), (Some(End::Done), 6));
    let tried: Vec<_> = world
        .jobs
        .iter()
        .map(|j| (j.spec.training.learning_rate, j.spec.training.per_device_train_batch_size))
        .collect();
    assert_eq!(tried, [(1e-5, 8), (1e-5, 16), (1e-4, 8), (1e-4, 16), (1e-3, 8), (1e-3, 16)]);
}

#[test]
fn an_ended_sweep_goes_on_with_more_trials() {
    let mut world = World::default();
    run(&valid(|s| s["spec"]["trials"]["max"] = 5.into()), &mut world);
    let first: Vec<_> = world.jobs.iter().map(|job| job.spec.clone()).collect();
    let decision = run(&valid(|s| s["spec"]["trials"]["max"] = 9.into()), &mut world);
    assert_eq!(decision.counts.succeeded, 9);
    assert!(world.jobs.iter().zip(&first).all(|(job, spec)| job.spec == *spec));
}

#[test]
fn trials_without_a_metric_fail_and_too_many_fail_the_sweep() {
    let (valid, mut world) = (valid(|_| {}), World::default());
    world.look(&valid);
    world.end(0, succeeded(None));
    world.end(1, failed());
    let decision = world.look(&valid);
    assert_eq!((decision.counts.failed, decision.end), (2, None));
    world.end(2, failed());
    let decision = world.look(&valid);
    assert!(decision.start.is_empty() && decision.end.is_none(), "two still run");
    while let Some(index) = world.open() {
        world.end(index, succeeded(Some(0.5)));
    }
    let decision = world.look(&valid);
    assert_eq!(decision.end, Some(End::TooManyFailed));
    let object = sample(|_| {});
    let verdict = Verdict::Standing(&valid, &decision);
    let after =
        next_status(&object, &HyperparamSweepStatus::default(), &verdict, Timestamp::UNIX_EPOCH);
    let told = after.conditions.iter().find(|c| c.type_ == "Failed").unwrap();
    assert_eq!(
        (told.status.as_str(), told.reason.as_str()),
        (Truth::True.as_str(), "TooManyFailed")
    );
    assert!(told.message.contains("search-2: disk full"), "{}", told.message);

    let mut world = World::default();
    world.look(&valid);
    world.end(0, succeeded(None));
    let decision = world.look(&valid);
    assert_eq!(decision.last_failure.unwrap().1, "it ended without the metric f1");
}

#[test]
fn a_combination_that_no_job_can_have_is_a_failed_trial_and_no_object() {
    let valid = valid(|s| {
        s["spec"]["algorithm"]["type"] = "Grid".into();
        s["spec"]["parameters"] = json!([
            {"path": "training.optim", "values": ["AdamW", "SGD"]},
            {"path": "training.momentum", "values": [0.9, 0.0]},
        ]);
    });
    let mut world = World::default();
    let decision = run(&valid, &mut world);
    assert_eq!((decision.counts.succeeded, decision.counts.failed), (3, 1));
    let names: Vec<_> = world.jobs.iter().filter_map(|job| job.metadata.name.clone()).collect();
    assert_eq!(names, ["search-1", "search-2", "search-3"]);
}

#[test]
fn what_cannot_be_searched_is_refused_with_its_place() {
    let cases: [(&str, Change); 12] = [
        ("spec.algorithm.type:", |s| s["spec"]["algorithm"]["type"] = "ASHA".into()),
        ("spec.parameters[0].path: suspend", |s| {
            s["spec"]["parameters"][0]["path"] = "suspend".into();
        }),
        ("spec.parameters[0].range: training.learnRate cannot", |s| {
            s["spec"]["parameters"][0]["path"] = "training.learnRate".into();
        }),
        ("spec.parameters[1].values: training.optim cannot be \"Adam9\"", |s| {
            s["spec"]["parameters"][1]["values"][1] = "Adam9".into();
        }),
        ("spec.parameters[0].range: training.maxSteps cannot", |s| {
            s["spec"]["parameters"][0] =
                json!({"path": "training.maxSteps", "range": {"min": 1, "max": 4.5}});
        }),
        ("spec.parameters[1].path: training.learningRate is there twice", |s| {
            s["spec"]["parameters"][1]["path"] = "training.learningRate".into();
        }),
        ("spec.parameters[0].range: min is not below max", |s| {
            s["spec"]["parameters"][0]["range"]["min"] = 1.into();
        }),
        ("spec.parameters[0].range.min: a Log scale", |s| {
            s["spec"]["parameters"][0]["range"]["min"] = 0.into();
        }),
        ("spec.parameters[2].when.path:", |s| {
            s["spec"]["parameters"][2]["when"]["path"] = "training.x".into();
        }),
        ("spec.parameters[2].when.values:", |s| {
            s["spec"]["parameters"][2]["when"]["values"] = json!(["Lion"]);
        }),
        ("spec.job.training.evalStrategy:", |s| {
            s["spec"]["job"]["training"] = json!({"evalStrategy": "No"});
        }),
        ("spec: objective, algorithm", |s| s["status"] = json!({"specHash": "0000000000"})),
    ];
    for (want, change) in cases {
        let said = sweep(&sample(change)).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(want), "{want}\n{said}");
    }
}
