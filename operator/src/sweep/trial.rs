//! A trial: the jobs that run it, and what they tell. Pure.
//!
//! With ASHA a trial has a job for each rung that it reaches. They share their output, so that each
//! goes on from the checkpoint of the one before.

use hearth_crds::condition::{self, training_job as types};
use hearth_crds::names;
use hearth_crds::training_job::{EvaluationMetric, TrainingJob};
use kube::ResourceExt;
use serde_json::{Map, Value};

use super::paths::{same, set};
use super::search::halving::Halving;
use super::search::space::{Coordinate, Domain, Point, Space};
use super::validate::ValidSweep;
use crate::source_rules::Backend;
use crate::training_job::validate as jobs;

/// Role of a trial among its sweep's objects.
const COMPONENT: &str = "trial";

/// A trial as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its number, from 0.
    pub number: usize,
    /// Where it is.
    pub point: Point,
    /// What came of its last job.
    pub state: State,
    /// Metrics at the ends of the rungs that it reached; without ASHA there is one.
    pub reached: Vec<f64>,
    /// The rung of its last job.
    pub rung: usize,
    /// Metrics of the evaluations of its last job, by step.
    pub curve: Vec<(u64, f64)>,
    /// It was told to stop.
    pub stopping: bool,
}

impl Trial {
    /// A trial that has not ended any job.
    pub fn new(number: usize, point: Point, state: State) -> Self {
        let (reached, curve) = (Vec::new(), Vec::new());
        Self { number, point, state, reached, rung: 0, curve, stopping: false }
    }

    /// The rung that ended last, and the metric there.
    pub fn last_rung(&self) -> Option<(usize, f64)> {
        Some((self.reached.len().checked_sub(1)?, *self.reached.last()?))
    }
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It has not ended.
    Running,
    /// Its metric.
    Succeeded(f64),
    /// It was stopped before its end; its metric by then, if it had one.
    Stopped(Option<f64>),
    /// Why there is none.
    Failed(String),
}

/// The job of a trial on a rung, or why no such job can be.
pub fn job(
    valid: &ValidSweep,
    (number, rung): (usize, usize),
    point: &Point,
) -> Result<TrainingJob, String> {
    let mut spec = valid.template.clone();
    let values = valid.space.values(point);
    let mut told = Map::new();
    for (index, value) in values {
        let path = &valid.spec.parameters[index].path;
        set(&mut spec, path, value.clone());
        told.insert(path.clone(), value);
    }
    let mut spec: hearth_crds::TrainingJobSpec =
        serde_json::from_value(spec).map_err(|error| error.to_string())?;
    let below = spec.output.destination.trim_end_matches('/').to_owned();
    spec.output.destination = format!("{below}/trial-{number}");
    if let Some(preparation) = &mut spec.data.preparation {
        // What trials prepare alike is prepared once.
        preparation.output.get_or_insert_with(|| format!("{below}/data"));
    }
    let ladder = valid.ladder.as_ref().map(Halving::rungs).unwrap_or_default();
    if rung + 1 < ladder.len() {
        spec.stop_at_step = i64::try_from(ladder[rung]).ok();
    }
    let name = valid.job_name(number, rung);
    let mut job = TrainingJob::new(&name, spec);
    job.metadata = valid.parent().child_meta(&name, COMPONENT);
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(names::ANNOTATION_TRIAL.into(), number.to_string());
    annotations.insert(names::ANNOTATION_POINT.into(), Value::Object(told).to_string());
    if valid.ladder.is_some() {
        annotations.insert(names::ANNOTATION_RUNG.into(), rung.to_string());
    }
    if let Some(queue) = &valid.queue {
        job.metadata
            .labels
            .get_or_insert_default()
            .insert(names::LABEL_QUEUE.into(), queue.clone());
    }
    hearth_crds::rules::training_job(&job).map_err(|broken| broken.to_string())?;
    jobs::job(&job, &Backend::Cluster).map_err(|faults| faults.to_string())?;
    Ok(job)
}

/// Reads trials back from their jobs, by number. Jobs that are not those of trials are left out.
pub fn read<'a>(valid: &ValidSweep, jobs: impl Iterator<Item = &'a TrainingJob>) -> Vec<Trial> {
    let mut runs: Vec<Run> = jobs.filter_map(|job| run(valid, job)).collect();
    runs.sort_by_key(|run| (run.number, run.rung));
    let mut trials: Vec<Trial> = Vec::new();
    for run in runs {
        if trials.last().is_none_or(|trial| trial.number != run.number) {
            trials.push(Trial::new(run.number, run.point, State::Running));
        }
        let Some(trial) = trials.last_mut() else { continue };
        trial.state = if run.rung == trial.reached.len() {
            run.state
        } else {
            State::Failed("the TrainingJob of an earlier rung was deleted".to_owned())
        };
        (trial.rung, trial.curve, trial.stopping) = (run.rung, run.curve, run.stopping);
        if let State::Succeeded(value) = trial.state {
            trial.reached.push(value);
        }
    }
    trials
}

/// What one job tells of its trial.
struct Run {
    number: usize,
    rung: usize,
    point: Point,
    state: State,
    curve: Vec<(u64, f64)>,
    stopping: bool,
}

fn run(valid: &ValidSweep, job: &TrainingJob) -> Option<Run> {
    let number = job.annotations().get(names::ANNOTATION_TRIAL)?.parse().ok()?;
    let point: Map<String, Value> =
        serde_json::from_str(job.annotations().get(names::ANNOTATION_POINT)?).ok()?;
    let of = |index: usize, domain: &Domain| {
        coordinate(domain, point.get(&valid.spec.parameters[index].path)?)
    };
    let rung = job.annotations().get(names::ANNOTATION_RUNG).map_or(Some(0), |r| r.parse().ok())?;
    let metric = valid.spec.objective.metric;
    let point = place(&valid.space, of);
    let stopping = job.spec.stop.is_some();
    Some(Run {
        number,
        rung,
        point,
        state: state(job, metric),
        curve: curve(job, metric),
        stopping,
    })
}

/// What the job's evaluations say of the metric.
fn curve(job: &TrainingJob, metric: EvaluationMetric) -> Vec<(u64, f64)> {
    let evaluations = job.status.iter().flat_map(|status| &status.evaluations);
    evaluations
        .filter_map(|told| Some((u64::try_from(told.step).ok()?, told.value(metric)?)))
        .filter(|(_, value)| value.is_finite())
        .collect()
}

/// The place in a space that `of` gives, dimension by dimension.
fn place(space: &Space, of: impl Fn(usize, &Domain) -> Option<Coordinate>) -> Point {
    let dimensions = space.dimensions().iter().enumerate();
    Point(dimensions.map(|(index, dimension)| of(index, &dimension.domain)).collect())
}

fn coordinate(domain: &Domain, value: &Value) -> Option<Coordinate> {
    match domain {
        Domain::Choices(values) => {
            values.iter().position(|choice| same(choice, value)).map(Coordinate::Choice)
        }
        Domain::Range(_) => value.as_f64().map(Coordinate::Number),
    }
}

fn state(job: &TrainingJob, metric: EvaluationMetric) -> State {
    let status = job.status.clone().unwrap_or_default();
    if let Some(failed) = condition::holding(&status.conditions, types::FAILED) {
        return State::Failed(failed.message.clone());
    }
    let accepted = condition::get(&status.conditions, types::ACCEPTED);
    if let Some(refused) = accepted.filter(|found| found.status == "False") {
        return State::Failed(refused.message.clone());
    }
    let stopped = condition::is_true(&status.conditions, types::STOPPED);
    if !stopped && !condition::is_true(&status.conditions, types::SUCCEEDED) {
        return State::Running;
    }
    let progress = status.progress.unwrap_or_default();
    let told = progress.evaluation().value(metric);
    match told.filter(|value| value.is_finite()) {
        told if stopped => State::Stopped(told),
        Some(value) => State::Succeeded(value),
        None => State::Failed(format!("it ended without the metric {}", metric.as_str())),
    }
}
