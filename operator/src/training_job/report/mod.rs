//! What users read of a job: conditions, figures, events.
//!
//! [`next_status`] and [`notices()`] are pure; [`publish`] sends what changed.

mod figures;
mod findings;
mod notices;

use hearth_crds::condition::{self, Truth, finding, training_job as types};
use hearth_crds::training_job::{ModelStatus, TrainingJob, TrainingJobStatus, TrainingProgress};
use hearth_crds::worker_config::{WorkerResult, WorkerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use std::time::Duration;

use crate::apply;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::fault::SpecFaults;
use crate::observed::{JobView, Phase};
use crate::planted::{self, Bug};
use crate::seen::Kind;
use crate::training_job::gather::Observed;
use crate::training_job::plan::config::model_uri;
use crate::training_job::policy::{self, Outcome, Stage, replicas};
use crate::training_job::validate::{ValidJob, spec_hash};
use figures::{count, for_people, rfc3339};
use findings::{accepted, findings_of, valid};
pub use notices::notices;

/// Least time between two writes that change figures only.
const PROGRESS_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Time until a job is looked at again though nothing happened to it.
const RESYNC: Duration = Duration::from_mins(5);

/// What came of looking at a job.
pub enum Verdict<'a> {
    /// The spec is refused.
    Refused(SpecFaults),
    /// It stands here.
    Stage(&'a ValidJob, &'a Observed, &'a Stage),
    /// The cluster refuses its objects, in these words.
    Trouble(String),
}

/// Writes the job's status and events where they changed.
pub async fn publish(
    cx: &Context,
    job: &TrainingJob,
    verdict: Verdict<'_>,
) -> Result<Action, ReconcileError> {
    let (uid, now) = (job.uid().unwrap_or_default(), cx.clock.now());
    let before = cx.status_of(job);
    let after = next_status(job, &before, &verdict, now);
    let wait = look_again(&verdict, now);
    if after == before && !planted::is(Bug::WritesAlways) {
        return Ok(wait);
    }
    let fresh =
        cx.status_written_at(&uid).is_some_and(|at| now.duration_since(at) < PROGRESS_INTERVAL);
    if fresh && only_figures_differ(&before, &after) {
        return Ok(wait);
    }
    let about = job.object_ref(&());
    apply::status(cx, Kind::TrainingJob, &about, &after).await?;
    apply::notify(cx, &about, "Train", &notices(&before, &after, &verdict)).await;
    Ok(wait)
}

/// Tells the user of a refusal by the cluster, and hands the error on so that
/// the job is tried again.
pub async fn trouble(
    cx: &Context,
    job: &TrainingJob,
    error: ReconcileError,
) -> Result<Action, ReconcileError> {
    if error.category().needs_a_person() {
        publish(cx, job, Verdict::Trouble(error.sentence())).await?;
    }
    Err(error)
}

/// Tells the user that the object cannot be read at all.
pub async fn unreadable(cx: &Context, object: &InvalidObject) -> Result<Action, ReconcileError> {
    // Only what is in the metadata is known; the rest is a stand-in.
    let fault = crate::fault::Fault::invalid(
        "spec",
        format!("cannot be read: {}", object.error),
        "correct it, or delete the job and create it anew",
    );
    let about = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some(TrainingJob::api_version(&()).into_owned()),
        kind: Some(TrainingJob::kind(&()).into_owned()),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        ..Default::default()
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let before: TrainingJobStatus = cx
        .newer_status(&uid, 0)
        .and_then(|written| serde_json::from_value(written.status).ok())
        .unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let mut after = before.clone();
    after.observed_generation = Some(generation);
    after.state = Some("Invalid".into());
    let finding = accepted(Truth::False, "Unreadable", fault.to_string());
    after.conditions =
        condition::merge(&before.conditions, &[finding], generation, &Time(cx.clock.now()));
    if after != before {
        apply::status(cx, Kind::TrainingJob, &about, &after).await?;
    }
    Ok(Action::await_change())
}

/// The status after this look at the job.
pub fn next_status(
    job: &TrainingJob,
    before: &TrainingJobStatus,
    verdict: &Verdict<'_>,
    now: Timestamp,
) -> TrainingJobStatus {
    let mut after = before.clone();
    let generation = job.metadata.generation.unwrap_or(0);
    after.observed_generation = Some(generation);
    let (state, findings) = match verdict {
        Verdict::Refused(faults) => {
            (Some("Invalid"), vec![accepted(Truth::False, faults.reason(), faults.to_string())])
        }
        Verdict::Trouble(said) => (
            Some("Pending"),
            vec![valid(), finding(types::ADMITTED, Truth::False, "Rejected", said.clone())],
        ),
        Verdict::Stage(valid, seen, stage) => {
            if !matches!(stage, Stage::SpecChanged) {
                after.spec_hash = Some(spec_hash(&job.spec));
            }
            take_figures(&mut after, valid, seen, stage, now);
            let awaited = policy::awaited(valid, seen, stage, now);
            findings_of(valid, &seen.pods, stage, &after, awaited.as_deref())
        }
    };
    if let Some(state) = state {
        after.state = Some(state.into());
    }
    after.conditions = condition::merge(&before.conditions, &findings, generation, &Time(now));
    after
}

/// Copies figures from the workers.
fn take_figures(
    after: &mut TrainingJobStatus,
    valid: &ValidJob,
    seen: &Observed,
    stage: &Stage,
    now: Timestamp,
) {
    let mut words = seen.prepare_pods.iter().filter_map(|pod| pod.exit.as_ref()?.result()?.data);
    after.data = words.next_back().or_else(|| after.data.take());
    match stage {
        Stage::Running(status) => {
            after.restarts = after.restarts.max(count(status.restarts));
            if status.present_replicas > 0 {
                after.workers = Some(count(status.present_replicas));
            }
            if status.progress != TrainingProgress::default() {
                after.progress = Some(for_people(status.progress.clone()));
            }
            if !status.evaluations.is_empty() {
                after.evaluations.clone_from(&status.evaluations);
            }
            after.checkpoint = status.checkpoint.clone().or_else(|| after.checkpoint.take());
            if trains(status) && after.start_time.is_none() {
                after.start_time = Some(rfc3339(now));
            }
        }
        Stage::Ended(Outcome::Succeeded(result) | Outcome::Failed { result, .. }) => {
            if let Some(result) = result {
                take_result(after, result);
            }
            let at = seen.job.as_ref().and_then(ended_at).unwrap_or(now);
            after.completion_time = Some(rfc3339(at));
            if matches!(stage, Stage::Ended(Outcome::Succeeded(_))) {
                let told = result.as_ref().and_then(|result| result.model.clone());
                after.model = Some(told.unwrap_or_else(|| ModelStatus {
                    uri: model_uri(valid),
                    digest: "unknown".into(),
                }));
            }
        }
        Stage::Stopped => {
            // Pods of a Job that is gone go soon after it: what worker 0 told is there, or is not.
            let first = seen.pods.iter().find(|pod| pod.index == Some(0));
            if let Some(result) = first.and_then(|pod| pod.exit.as_ref()?.result()) {
                take_result(after, &result);
            }
            if let Some(progress) = &mut after.progress {
                (progress.eta_seconds, progress.eta) = (None, None);
            }
            after.completion_time = Some(rfc3339(now));
        }
        Stage::SpecChanged
        | Stage::MissingClaims(_)
        | Stage::Suspended
        | Stage::Preparing(_)
        | Stage::Queued(_)
        | Stage::Yielding(_)
        | Stage::Stopping
        | Stage::Starting { .. }
        | Stage::Silent(_)
        | Stage::Between
        | Stage::Ended(Outcome::Open | Outcome::ResultOnItsWay) => {}
    }
}

/// Copies the figures of a worker's last words.
fn take_result(after: &mut TrainingJobStatus, result: &WorkerResult) {
    after.restarts = after.restarts.max(count(result.restarts));
    if let Some(progress) = &result.progress {
        let ended = TrainingProgress { eta_seconds: None, eta: None, ..progress.clone() };
        after.progress = Some(for_people(ended));
    }
    if !result.evaluations.is_empty() {
        after.evaluations.clone_from(&result.evaluations);
    }
    after.checkpoint = result.checkpoint.clone().or_else(|| after.checkpoint.take());
}

/// When to look again.
fn look_again(verdict: &Verdict<'_>, now: Timestamp) -> Action {
    let seconds = |s| Action::requeue(Duration::from_secs(s));
    match verdict {
        Verdict::Refused(_) => Action::await_change(),
        Verdict::Trouble(_) => Action::requeue(RESYNC),
        Verdict::Stage(valid, seen, stage) => match stage {
            _ if !seen.silent_nodes.is_empty() || has_overdue_pod(seen) => seconds(5),
            Stage::MissingClaims(_) => seconds(30),
            Stage::Running(_) | Stage::Silent(_) | Stage::Stopping => seconds(5),
            Stage::Starting { .. } if first_runs(seen) => seconds(2),
            // A change of the Job or of its pods is another look; the mere passing of time is not.
            Stage::Starting { .. } if lacks_pods(valid, seen) => match policy::said_soon(seen, now)
            {
                Some(left) => Action::requeue(left),
                None => Action::requeue(RESYNC),
            },
            Stage::Stopped | Stage::Ended(Outcome::Succeeded(_) | Outcome::Failed { .. }) => {
                Action::await_change()
            }
            Stage::Between | Stage::Ended(_) => seconds(2),
            Stage::Starting { .. }
            | Stage::SpecChanged
            | Stage::Suspended
            | Stage::Preparing(_)
            | Stage::Queued(_)
            | Stage::Yielding(_) => Action::requeue(RESYNC),
        },
    }
}

fn first_runs(seen: &Observed) -> bool {
    seen.pods.iter().any(|pod| pod.index == Some(0) && pod.phase == Phase::Running)
}

fn lacks_pods(valid: &ValidJob, seen: &Observed) -> bool {
    seen.pods.len() < replicas(valid)
}

fn has_overdue_pod(seen: &Observed) -> bool {
    seen.pods.iter().any(|pod| pod.deadline.is_some() && !pod.is_over())
}

/// Whether a write can wait: conditions, state and results are as they were.
fn only_figures_differ(before: &TrainingJobStatus, after: &TrainingJobStatus) -> bool {
    let still = |status: &TrainingJobStatus| TrainingJobStatus {
        progress: None,
        evaluations: Vec::new(),
        checkpoint: None,
        ..status.clone()
    };
    still(before) == still(after)
}

fn trains(status: &WorkerStatus) -> bool {
    crate::training_job::policy::trains(status)
}

fn ended_at(job: &JobView) -> Option<Timestamp> {
    job.ended.as_ref().and_then(crate::observed::JobEnd::at)
}
