//! Sweeps from their first trial to their last, on objects, without a cluster.

use hearth_crds::condition::Truth;
use hearth_crds::hyperparam_sweep::{HyperparamSweep, HyperparamSweepStatus};
use hearth_crds::training_job::TrainingJob;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::gather::Observed;
use super::policy::{Decision, End, decide};
use super::report::{Verdict, next_status, notices};
use super::trial;
use super::validate::{ValidSweep, sweep};

mod stopping;

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
        let trials = trial::read(valid, self.jobs.iter());
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
fn trials_prepare_their_rows_in_one_place() {
    for (written, want) in [
        (json!({}), "pvc://models/search/data"),
        (json!({"output": "pvc://models/prepared"}), "pvc://models/prepared"),
    ] {
        let valid = valid(|sweep| sweep["spec"]["job"]["data"]["preparation"] = written);
        let mut world = World::default();
        world.look(&valid);
        let outputs: Vec<_> = world
            .jobs
            .iter()
            .map(|job| job.spec.data.preparation.clone().unwrap().output)
            .collect();
        assert_eq!(outputs, vec![Some(want.to_owned()); 3]);
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

/// ASHA with rungs of 100, 300 and 900 steps.
fn halving(sweep: &mut Value) {
    sweep["spec"]["algorithm"] =
        json!({"type": "ASHA", "seed": 7, "asha": {"firstRungSteps": 100}});
    sweep["spec"]["job"]["training"]["maxSteps"] = 900.into();
}

/// Ends the trial's job that began first. What is better at first is better later, and all get
/// better with time.
fn one_climbs(world: &mut World) {
    let index = world.open().unwrap();
    let job = &world.jobs[index];
    let time = (job.spec.stop_at_step.unwrap_or(900) as f64).log10() / 100.0;
    world.end(index, succeeded(Some(score(job) + time)));
}

#[test]
fn trials_of_asha_climb_and_go_on_from_where_they_were() {
    let (valid, mut world) = (valid(halving), World::default());
    let decision = loop {
        let decision = world.look(&valid);
        assert!(decision.counts.running <= 3);
        if decision.end.is_some() {
            break decision;
        }
        one_climbs(&mut world);
    };
    let on = |rung: usize| -> Vec<&TrainingJob> {
        let stop = [Some(100), Some(300), None][rung];
        world.jobs.iter().filter(|job| job.spec.stop_at_step == stop).collect()
    };
    assert_eq!([0, 1, 2].map(|rung| on(rung).len()), [30, 10, 3]);
    assert_eq!(decision.counts.succeeded, 30);
    for job in on(1).iter().chain(&on(2)) {
        let annotations = job.metadata.annotations.as_ref().unwrap();
        let number: usize = annotations["hearth.dev/trial"].parse().unwrap();
        let first = &world
            .jobs
            .iter()
            .find(|j| j.metadata.name == Some(format!("search-{number}")))
            .unwrap();
        let mut same = first.spec.clone();
        same.stop_at_step = job.spec.stop_at_step;
        assert_eq!(same, job.spec, "but for its end it is the same job, with the same output");
    }
    let (best, value) = decision.best.clone().unwrap();
    assert_eq!(best.reached.len(), 3);
    let highest = on(2).iter().map(|job| score(job)).fold(0.0, f64::max);
    assert!((value - highest - 900f64.log10() / 100.0).abs() < 1e-12);
    let object = sample(halving);
    let verdict = Verdict::Standing(&valid, &decision);
    let after =
        next_status(&object, &HyperparamSweepStatus::default(), &verdict, Timestamp::UNIX_EPOCH);
    assert_eq!(after.best.unwrap().job, format!("search-{}-rung-2", best.number));
}

#[test]
fn a_trial_that_fails_on_its_way_up_is_failed_and_not_sent_again() {
    let (valid, mut world) = (valid(halving), World::default());
    while !world.jobs.iter().any(|job| job.spec.stop_at_step == Some(300)) {
        world.look(&valid);
        if !world.jobs.iter().any(|job| job.spec.stop_at_step == Some(300)) {
            one_climbs(&mut world);
        }
    }
    let index = world.jobs.len() - 1;
    assert_eq!(world.jobs[index].spec.stop_at_step, Some(300));
    world.end(index, failed());
    let name = world.jobs[index].metadata.name.clone().unwrap();
    let decision = loop {
        let decision = world.look(&valid);
        if decision.end.is_some() {
            break decision;
        }
        one_climbs(&mut world);
    };
    assert_eq!((decision.counts.failed, decision.counts.succeeded), (1, 29));
    let (place, why) = decision.last_failure.clone().unwrap();
    assert_eq!((valid.job_name(place.0, place.1), why.as_str()), (name.clone(), "disk full"));
    let verdict = Verdict::Standing(&valid, &decision);
    let before = HyperparamSweepStatus::default();
    let after = next_status(&sample(halving), &before, &verdict, Timestamp::UNIX_EPOCH);
    let notices = notices(&before, &after, &verdict);
    assert!(notices.iter().any(|told| told.note == format!("{name} failed: disk full")));
    let named = |job: &&TrainingJob| job.metadata.name.as_ref() == Some(&name);
    assert_eq!(world.jobs.iter().filter(named).count(), 1);
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
    let cases: [(&str, Change); 14] = [
        ("spec.job.stopAtStep:", |s| s["spec"]["job"]["stopAtStep"] = 5.into()),
        ("spec.job.training.saveStrategy:", |s| {
            halving(s);
            s["spec"]["job"]["training"]["saveStrategy"] = "No".into();
        }),
        ("spec.parameters[0].path: training.maxSteps is the last rung", |s| {
            halving(s);
            s["spec"]["parameters"][0] = json!({"path": "training.maxSteps", "values": [900, 800]});
        }),
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
