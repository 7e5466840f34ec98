//! A trial: the job that runs it, and what its job tells. Pure.

use hearth_crds::condition::{self, training_job as types};
use hearth_crds::names;
use hearth_crds::training_arguments::Metric;
use hearth_crds::training_job::TrainingJob;
use kube::ResourceExt;
use serde_json::{Map, Value};

use super::paths::{same, set};
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
    /// What came of it.
    pub state: State,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It has not ended.
    Running,
    /// Its metric.
    Succeeded(f64),
    /// Why there is none.
    Failed(String),
}

/// The job of a trial, or why no such job can be.
pub fn job(valid: &ValidSweep, number: usize, point: &Point) -> Result<TrainingJob, String> {
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
    let name = valid.job_name(number);
    let mut job = TrainingJob::new(&name, spec);
    job.metadata = valid.parent().child_meta(&name, COMPONENT);
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(names::ANNOTATION_TRIAL.into(), number.to_string());
    annotations.insert(names::ANNOTATION_POINT.into(), Value::Object(told).to_string());
    if let Some(queue) = &valid.queue {
        job.metadata
            .labels
            .get_or_insert_default()
            .insert(names::LABEL_QUEUE.into(), queue.clone());
    }
    job.validate_cel().map_err(|broken| broken.to_string())?;
    jobs::job(&job, &Backend::Cluster).map_err(|faults| faults.to_string())?;
    Ok(job)
}

/// Reads a trial back from its job; none where the job is not one of a trial.
pub fn read(valid: &ValidSweep, job: &TrainingJob) -> Option<Trial> {
    let number = job.annotations().get(names::ANNOTATION_TRIAL)?.parse().ok()?;
    let point: Map<String, Value> =
        serde_json::from_str(job.annotations().get(names::ANNOTATION_POINT)?).ok()?;
    let of = |index: usize, domain: &Domain| {
        coordinate(domain, point.get(&valid.spec.parameters[index].path)?)
    };
    let state = state(job, valid.spec.objective.metric);
    Some(Trial { number, point: place(&valid.space, of), state })
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

fn state(job: &TrainingJob, metric: Metric) -> State {
    let status = job.status.clone().unwrap_or_default();
    if let Some(failed) = condition::holding(&status.conditions, types::FAILED) {
        return State::Failed(failed.message.clone());
    }
    let accepted = condition::get(&status.conditions, types::ACCEPTED);
    if let Some(refused) = accepted.filter(|found| found.status == "False") {
        return State::Failed(refused.message.clone());
    }
    if !condition::is_true(&status.conditions, types::SUCCEEDED) {
        return State::Running;
    }
    let progress = status.progress.unwrap_or_default();
    let told = match metric {
        Metric::Loss => progress.eval_loss,
        Metric::Accuracy => progress.accuracy,
        Metric::F1 => progress.f1,
        Metric::F1Macro => progress.f1_macro,
    };
    match told.filter(|value| value.is_finite()) {
        Some(value) => State::Succeeded(value),
        None => State::Failed(format!("it ended without the metric {}", metric.as_str())),
    }
}
