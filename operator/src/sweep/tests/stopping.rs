//! Early stopping: whom it ends, when, and what becomes of the sweep.

use hearth_crds::training_job::Stop;
use proptest::prelude::*;

use super::*;

/// Evaluations of a trial that runs to its end, 50 steps apart.
const EVALUATIONS: usize = 10;

fn early(min_trials: usize, start_step: u64) -> impl FnOnce(&mut Value) {
    move |s: &mut Value| {
        s["spec"]["earlyStopping"] =
            json!({"type": "MedianStopping", "minTrials": min_trials, "startStep": start_step});
        s["spec"]["job"]["training"]["maxSteps"] = (50 * EVALUATIONS).into();
        s["spec"]["algorithm"]["type"] = "Random".into();
    }
}

/// F1 of a trial at an evaluation: all rise alike, towards their score.
fn f1(job: &TrainingJob, evaluation: usize) -> f64 {
    score(job) * (1.0 - (-(evaluation as f64) / 3.0).exp())
}

fn stop_of(job: &TrainingJob) -> Option<&Stop> {
    job.spec.stop.as_ref()
}

fn evaluations(job: &TrainingJob) -> usize {
    job.status.as_ref().map_or(0, |status| status.evaluations.len())
}

fn is_open(job: &TrainingJob) -> bool {
    job.status.as_ref().is_none_or(|status| status.conditions.is_empty())
}

/// The job makes one evaluation more, or ends: after its last one, or because it is to stop.
fn moves(job: &mut TrainingJob, f1: impl Fn(&TrainingJob, usize) -> f64) {
    let (told, stopped) = (evaluations(job), stop_of(job).is_some());
    let value = f1(job, told + 1);
    let status = job.status.get_or_insert_default();
    if !stopped {
        let step = 50 * (told + 1);
        let evaluation = json!({"step": step, "loss": 0.5, "f1": value});
        status.evaluations.push(serde_json::from_value(evaluation).unwrap());
        status.progress.get_or_insert_default().f1 = Some(value);
    }
    let ended = match (stopped, told + 1 == EVALUATIONS) {
        (true, _) => "Stopped",
        (false, true) => "Succeeded",
        (false, false) => return,
    };
    status.conditions = vec![serde_json::from_value(super::condition(ended, "")).unwrap()];
}

/// Looks, and does what was decided.
fn look(world: &mut World, valid: &ValidSweep) -> Decision {
    let decision = world.look(valid);
    for (name, stop) in &decision.stop {
        let named = |job: &&mut TrainingJob| job.metadata.name.as_ref() == Some(name);
        let job = world.jobs.iter_mut().find(named).unwrap();
        assert!(is_open(job) && stop_of(job).is_none(), "{name} is stopped twice");
        job.spec.stop = Some(stop.clone());
    }
    decision
}

/// Runs a sweep to its end; `choices` say which of the trials that run moves next.
fn run(valid: &ValidSweep, choices: &[usize], check: impl Fn(&World, &Decision)) -> World {
    let mut world = World::default();
    for choice in choices.iter().cycle() {
        let before = World { jobs: world.jobs.clone() };
        let decision = look(&mut world, valid);
        check(&before, &decision);
        assert!(decision.counts.running <= valid.spec.trials.parallel);
        if decision.end.is_some() {
            return world;
        }
        let open: Vec<usize> =
            (0..world.jobs.len()).filter(|index| is_open(&world.jobs[*index])).collect();
        moves(&mut world.jobs[open[choice % open.len()]], f1);
    }
    world
}

fn f1s(job: &TrainingJob) -> Vec<f64> {
    job.status.iter().flat_map(|status| &status.evaluations).filter_map(|told| told.f1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn whoever_is_stopped_was_behind_and_the_best_is_found_all_the_same(
        choices in prop::collection::vec(0usize..1000, 1..50),
        seed in 0..1000u64, parallel in 1..6i32,
        min_trials in 1..6usize, start_step in 0..300u64,
    ) {
        let valid = valid(|s| {
            early(min_trials, start_step)(s);
            s["spec"]["algorithm"]["seed"] = seed.into();
            s["spec"]["trials"] = json!({"max": 20, "parallel": parallel});
        });
        let world = run(&valid, &choices, |before, decision| {
            let succeeded: Vec<Vec<f64>> = before
                .jobs
                .iter()
                .filter(|job| !is_open(job) && stop_of(job).is_none())
                .map(f1s)
                .collect();
            for (name, stop) in &decision.stop {
                let job = before.jobs.iter().find(|j| j.metadata.name.as_ref() == Some(name)).unwrap();
                let told = f1s(job);
                assert!(succeeded.len() >= min_trials, "{name}: only {} ended", succeeded.len());
                assert!(50 * told.len() as u64 >= start_step, "{name} is stopped early");
                let best = told.iter().copied().fold(0.0, f64::max);
                let mean = |all: &Vec<f64>| all[..told.len()].iter().sum::<f64>() / told.len() as f64;
                let better = succeeded.iter().filter(|all| mean(all) > best).count();
                assert!(2 * better > succeeded.len(), "{name}: {}", stop.message);
                assert!(stop.message.contains(&format!("at step {}", 50 * told.len())));
            }
        });
        let decision = world_end(&valid, &world);
        let stopped = world.jobs.iter().filter(|job| stop_of(job).is_some()).count();
        let counts = [decision.counts.stopped, decision.counts.succeeded];
        let [told, succeeded] = counts.map(|count| usize::try_from(count).unwrap());
        prop_assert_eq!((told, succeeded), (stopped, 20 - stopped));
        prop_assert!(succeeded >= min_trials);
        // All curves rise alike: who ends highest is never behind.
        let highest = world.jobs.iter().map(score).fold(0.0, f64::max);
        let best = decision.best.unwrap().0;
        prop_assert_eq!(Some(score(&world.jobs[best.number])), Some(highest));
        prop_assert!(stop_of(&world.jobs[best.number]).is_none());
    }
}

fn world_end(valid: &ValidSweep, world: &World) -> Decision {
    let trials = trial::read(valid, world.jobs.iter());
    decide(valid, &Observed { trials, catching_up: false })
}

#[test]
fn it_saves_steps_and_says_why() {
    let valid = valid(early(3, 0));
    let world = run(&valid, &[0, 1, 2], |_, _| ());
    let steps: usize = world.jobs.iter().map(evaluations).sum();
    assert!(steps < 30 * EVALUATIONS * 3 / 4, "{steps} of {}", 30 * EVALUATIONS);
    let first = world.jobs.iter().find_map(stop_of).unwrap();
    assert_eq!(first.reason.as_str(), "EarlyStopped");
    let said = &first.message;
    assert!(
        said.contains("its best f1 so far is 0.") && said.contains("succeeded was 0."),
        "{said}"
    );
    let decision = world_end(&valid, &world);
    let verdict = Verdict::Standing(&valid, &decision);
    let object = sample(early(3, 0));
    let after =
        next_status(&object, &HyperparamSweepStatus::default(), &verdict, Timestamp::UNIX_EPOCH);
    let told = after.conditions.iter().find(|c| c.type_ == "Succeeded").unwrap();
    let want =
        format!("The best of 30 trials, of which {} stopped early, is", decision.counts.stopped);
    assert!(told.message.starts_with(&want), "{}", told.message);
}

#[test]
fn less_is_better_where_losses_are_minimised() {
    let valid = valid(|s| {
        early(1, 0)(s);
        s["spec"]["objective"] = json!({"metric": "loss", "goal": "Minimize"});
        s["spec"]["trials"] = json!({"max": 3, "parallel": 3});
    });
    let mut world = World::default();
    look(&mut world, &valid);
    let told = |ended: bool, losses: &[f64]| {
        let evaluation =
            |(index, loss): (usize, &f64)| json!({"step": 50 * (index + 1), "loss": loss});
        let evaluations: Vec<Value> = losses.iter().enumerate().map(evaluation).collect();
        let conditions = if ended { json!([condition("Succeeded", "")]) } else { json!([]) };
        let progress = json!({"step": 1, "totalSteps": 1, "epoch": 1.0, "evalLoss": losses.last()});
        json!({"conditions": conditions, "evaluations": evaluations, "progress": progress})
    };
    world.end(0, told(true, &[0.8, 0.6, 0.4]));
    world.end(1, told(false, &[0.9, 0.75]));
    world.end(2, told(false, &[0.9, 0.65]));
    let decision = look(&mut world, &valid);
    let want = "stopped at step 100: its best loss so far is 0.75, and the median of the trials that succeeded was 0.7 by then";
    let names: Vec<_> =
        decision.stop.iter().map(|(name, stop)| (name.as_str(), stop.message.as_str())).collect();
    assert_eq!(names, [("search-1", want)]);
    // While it saves its last checkpoint it is neither stopped again nor counted as ended.
    world.end(1, told(false, &[0.9, 0.8]));
    let decision = look(&mut world, &valid);
    assert_eq!((decision.stop.len(), decision.counts.running, decision.counts.stopped), (0, 2, 0));
    world.end(1, json!({"conditions": [condition("Stopped", "")]}));
    world.end(2, told(true, &[0.9, 0.65, 0.5]));
    let decision = look(&mut world, &valid);
    assert_eq!((decision.end, decision.counts.stopped), (Some(End::Done), 1));
    assert_eq!(decision.best.map(|best| best.1), Some(0.4));
}

#[test]
fn a_stopped_trial_is_never_the_best() {
    let valid = valid(|s| s["spec"]["trials"] = json!({"max": 2, "parallel": 2}));
    let mut world = World::default();
    look(&mut world, &valid);
    let mut stopped = succeeded(Some(0.99));
    stopped["conditions"] = json!([condition("Stopped", "")]);
    world.end(0, stopped.clone());
    world.end(1, succeeded(Some(0.5)));
    let decision = look(&mut world, &valid);
    assert_eq!((decision.best.unwrap().1, decision.end), (0.5, Some(End::Done)));
    // A person may stop them all: then there is nothing to name.
    world.end(1, stopped);
    let decision = look(&mut world, &valid);
    assert_eq!((decision.best, decision.end), (None, Some(End::NoMetric)));
}

#[test]
fn a_stopped_trial_is_not_one_of_tpes_good_ones() {
    use super::super::search::{Method, Trial, next, space::Coordinate};
    let valid = valid(|s| {
        s["spec"]["parameters"] =
            json!([{"path": "training.learningRate", "range": {"min": 0.0, "max": 1.0}}]);
    });
    let at = |place: f64, loss, stopped| Trial {
        point: super::super::search::space::Point(vec![Some(Coordinate::Number(place))]),
        loss: Some(loss),
        stopped,
    };
    let mean = |stopped: bool| {
        let mut trials: Vec<Trial> = (0..20).map(|_| at(0.9, 0.1, stopped)).collect();
        trials.extend((0..20).map(|_| at(0.1, 0.5, false)));
        let place = |seed| match next(&valid.space, Method::Tpe, seed, &trials).unwrap().0[0] {
            Some(Coordinate::Number(place)) => place,
            other => panic!("{other:?}"),
        };
        (0..20).map(place).sum::<f64>() / 20.0
    };
    assert!(mean(false) > 0.6 && mean(true) < 0.4, "{} {}", mean(false), mean(true));
}

#[test]
fn stopping_that_cannot_be_is_refused_with_its_place() {
    let cases: [(&str, Change); 6] = [
        ("spec.job.stop:", |s| s["spec"]["job"]["stop"] = json!({})),
        ("spec.parameters[0].path: stop.message", |s| {
            s["spec"]["parameters"][0] = json!({"path": "stop.message", "values": ["x"]});
        }),
        ("spec.job.training.evalSteps: the first evaluation is after step 500", |s| {
            s["spec"]["job"]["training"]["evalSteps"] = 500.into();
        }),
        ("spec.job.training.evalSteps: the first evaluation is after step 500", |s| {
            s["spec"]["job"]["training"]["evalDelay"] = 451.into();
        }),
        ("spec.job.training.evalStrategy: is Epoch", |s| {
            s["spec"]["job"]["training"] = json!({"evalStrategy": "Epoch", "numTrainEpochs": 1});
        }),
        ("spec.job.training.evalStrategy: is No", |s| {
            s["spec"]["job"]["training"] = json!({"evalStrategy": "No"});
        }),
    ];
    for (want, change) in cases {
        let wrong = sample(|s| {
            early(3, 0)(s);
            change(s);
        });
        let said = sweep(&wrong).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(want), "{want}\n{said}");
    }
    let fine: [Change; 3] = [
        |s| s["spec"]["job"]["training"] = json!({"evalStrategy": "Epoch", "numTrainEpochs": 2}),
        |s| s["spec"]["job"]["training"]["evalDelay"] = 450.into(),
        // Who searches when to evaluate may find a place where nothing is stopped.
        |s| {
            s["spec"]["job"]["training"]["evalSteps"] = 500.into();
            s["spec"]["parameters"][0] =
                json!({"path": "training.maxSteps", "values": [400, 4000]});
        },
    ];
    for change in fine {
        valid(|s| {
            early(3, 0)(s);
            change(s);
        });
    }
}
