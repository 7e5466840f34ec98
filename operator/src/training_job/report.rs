//! What users read of a job: conditions, figures, events.
//!
//! [`next_status`] and [`notices`] are pure; [`publish`] sends what changed.

use hearth_crds::condition::{self, Finding, Truth, training_job as types};
use hearth_crds::training_job::{ModelStatus, TrainingJob, TrainingJobStatus, TrainingProgress};
use hearth_crds::worker_config::{WorkerState, WorkerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use std::time::Duration;

use crate::apply::{self, Notice};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::fault::SpecFaults;
use crate::observed::{JobView, Phase, version};
use crate::seen::Kind;
use crate::training_job::gather::Observed;
use crate::training_job::plan::config::model_uri;
use crate::training_job::policy::{Outcome, Stage};
use crate::training_job::validate::{ValidJob, spec_hash};

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
    let written = cx.newer_status(&uid, version(job.meta()));
    let before: TrainingJobStatus = match written {
        Some(written) => serde_json::from_value(written.status).unwrap_or_default(),
        None => job.status.clone().unwrap_or_default(),
    };
    let after = next_status(job, &before, &verdict, now);
    let wait = look_again(&verdict);
    if after == before {
        return Ok(wait);
    }
    let fresh =
        cx.status_written_at(&uid).is_some_and(|at| now.duration_since(at) < PROGRESS_INTERVAL);
    if fresh && only_figures_differ(&before, &after) {
        return Ok(wait);
    }
    let about = job.object_ref(&());
    let value = serde_json::to_value(&after).unwrap_or_default();
    apply::status(cx, Kind::TrainingJob, &about, &value)
        .await
        .map_err(|source| ReconcileError::Status { name: job.name_any(), source })?;
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
        let value = serde_json::to_value(&after).unwrap_or_default();
        apply::status(cx, Kind::TrainingJob, &about, &value).await.map_err(|source| {
            ReconcileError::Status { name: about.name.clone().unwrap_or_default(), source }
        })?;
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
            findings_of(valid, stage, &after)
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
    match stage {
        Stage::Running(status) => {
            after.restarts = after.restarts.max(count(status.restarts));
            if status.progress != TrainingProgress::default() {
                after.progress = Some(for_people(status.progress.clone()));
            }
            after.checkpoint = status.checkpoint.clone().or_else(|| after.checkpoint.take());
            if trains(status) && after.start_time.is_none() {
                after.start_time = Some(rfc3339(now));
            }
        }
        Stage::Ended(Outcome::Succeeded(result) | Outcome::Failed { result, .. }) => {
            if let Some(result) = result {
                after.restarts = after.restarts.max(count(result.restarts));
                if let Some(progress) = &result.progress {
                    let ended =
                        TrainingProgress { eta_seconds: None, eta: None, ..progress.clone() };
                    after.progress = Some(for_people(ended));
                }
                after.checkpoint = result.checkpoint.clone().or_else(|| after.checkpoint.take());
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
        Stage::SpecChanged
        | Stage::MissingClaims(_)
        | Stage::Suspended
        | Stage::Queued(_)
        | Stage::Starting { .. }
        | Stage::Silent(_)
        | Stage::Between
        | Stage::Ended(Outcome::Open | Outcome::ResultOnItsWay) => {}
    }
}

/// State and conditions at this stage. Messages hold nothing that changes from
/// step to step: figures have their own fields.
fn findings_of(
    job: &ValidJob,
    stage: &Stage,
    after: &TrainingJobStatus,
) -> (Option<&'static str>, Vec<Finding>) {
    let admitted = || {
        let message = "The job may run.".to_owned();
        finding(types::ADMITTED, Truth::True, "Admitted", message)
    };
    let held = |reason, message: String| finding(types::ADMITTED, Truth::False, reason, message);
    let running = |truth, reason, message| finding(types::RUNNING, truth, reason, message);
    match stage {
        Stage::SpecChanged => (None, vec![accepted(
            Truth::False,
            "SpecChanged",
            "workers and restartPolicy cannot change once the job has started, and it goes on as it was: change them back, or create another TrainingJob".into(),
        )]),
        Stage::MissingClaims(claims) => (Some("Pending"), vec![valid(), held(
            "MissingClaim",
            format!(
                "namespace {} has no PersistentVolumeClaim {}: create it, and the job starts by itself",
                job.namespace,
                claims.join(", ")
            ),
        )]),
        Stage::Suspended => (Some("Suspended"), vec![
            valid(),
            held("Suspended", "spec.suspend is true: set it to false to go on".into()),
            running(Truth::False, "Suspended", "The job is suspended.".into()),
        ]),
        Stage::Queued(queue) => (Some("Pending"), vec![
            valid(),
            held("Queued", format!("waits for Kueue's queue {queue}")),
            running(Truth::False, "Queued", "The job has not been let in.".into()),
        ]),
        Stage::Starting { reason, message } => {
            let word = if *reason == "Unschedulable" { "Pending" } else { "Starting" };
            (Some(word), vec![
                valid(),
                admitted(),
                running(Truth::False, reason, message.clone()),
            ])
        }
        Stage::Silent(why) => (None, vec![
            valid(),
            admitted(),
            running(
                Truth::Unknown,
                "WorkerSilent",
                format!("all workers run, but worker 0 does not say how it is: {why}"),
            ),
        ]),
        Stage::Running(status) => running_findings(status, after),
        Stage::Between | Stage::Ended(Outcome::Open | Outcome::ResultOnItsWay) => {
            (None, vec![valid()])
        }
        Stage::Ended(Outcome::Succeeded(result)) => {
            let uri = after.model.as_ref().map_or("", |model| model.uri.as_str());
            let message = match result {
                Some(result) => full_stop(&result.message),
                None => format!("The model is at {uri}; its digest was lost with worker 0's pod."),
            };
            (Some("Succeeded"), vec![
                valid(),
                admitted(),
                running(Truth::False, "Completed", "The job has ended.".into()),
                finding(types::SUCCEEDED, Truth::True, "Completed", message),
            ])
        }
        Stage::Ended(Outcome::Failed { reason, message, .. }) => (Some("Failed"), vec![
            valid(),
            admitted(),
            running(Truth::False, "Failed", "The job has ended.".into()),
            Finding { reason: reason_of(reason), ..finding(
                types::FAILED,
                Truth::True,
                "Failed",
                message.clone(),
            ) },
        ]),
    }
}

fn running_findings(
    status: &WorkerStatus,
    after: &TrainingJobStatus,
) -> (Option<&'static str>, Vec<Finding>) {
    let of = |truth, reason, message| {
        let admitted = finding(types::ADMITTED, Truth::True, "Admitted", "The job may run.".into());
        vec![valid(), admitted, finding(types::RUNNING, truth, reason, message)]
    };
    let again = |fallback: &str| match &status.last_failure {
        Some(failure) => format!("{} ({})", failure.message, failure.reason),
        None => fallback.to_owned(),
    };
    match status.state {
        WorkerState::Training | WorkerState::Evaluating | WorkerState::Exporting => {
            let message = match (after.restarts, &status.last_failure) {
                (0, _) | (_, None) => format!("All {} ranks train.", status.ranks.len().max(1)),
                (_, Some(failure)) => format!(
                    "All {} ranks train again, in generation {}, after: {} ({})",
                    status.ranks.len().max(1),
                    status.generation,
                    failure.message,
                    failure.reason
                ),
            };
            (Some("Running"), of(Truth::True, "Training", message))
        }
        WorkerState::Restarting => {
            (Some("Starting"), of(Truth::False, "Restarting", again("ranks start again")))
        }
        WorkerState::Starting => (
            Some("Starting"),
            of(Truth::False, "Starting", "workers are joining, or ranks are loading".into()),
        ),
        // The Job's own end is what counts, and it follows at once.
        WorkerState::Succeeded | WorkerState::Failed => (None, vec![valid()]),
    }
}

/// Events for what changed.
pub fn notices(
    before: &TrainingJobStatus,
    after: &TrainingJobStatus,
    verdict: &Verdict<'_>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |warning, reason, note: &str| {
        notices.push(Notice { warning, reason, note: note.to_owned() });
    };
    if before.start_time.is_none() && after.start_time.is_some() {
        say(false, "Started", "All workers have joined and training has begun.");
    }
    if after.restarts > before.restarts {
        let why = match verdict {
            Verdict::Stage(_, _, Stage::Running(status)) => {
                let failure = status.last_failure.as_ref();
                failure.map(|failure| format!("{} ({})", failure.message, failure.reason))
            }
            _ => None,
        };
        let why = why.unwrap_or_else(|| "a rank was lost".into());
        let note = format!("Restart {}: {why}", after.restarts);
        say(true, "Restarted", &note);
    }
    for (type_, bad) in [
        (types::ACCEPTED, true),
        (types::ADMITTED, true),
        (types::SUCCEEDED, false),
        (types::FAILED, false),
    ] {
        let Some(now) = condition::get(&after.conditions, type_) else { continue };
        let then = condition::get(&before.conditions, type_);
        let changed =
            then.is_none_or(|then| then.status != now.status || (bad && then.reason != now.reason));
        let worth_telling = if bad { now.status == "False" } else { now.status == "True" };
        let calm = ["Suspended", "Queued"].contains(&now.reason.as_str());
        if changed && worth_telling && !calm {
            let reason = match type_ {
                types::SUCCEEDED => "Succeeded",
                types::FAILED => "Failed",
                types::ADMITTED => "NotAdmitted",
                _ => "NotAccepted",
            };
            say(type_ != types::SUCCEEDED, reason, &now.message);
        }
    }
    notices
}

/// When to look again.
fn look_again(verdict: &Verdict<'_>) -> Action {
    let seconds = |s| Action::requeue(Duration::from_secs(s));
    match verdict {
        Verdict::Refused(_) => Action::await_change(),
        Verdict::Trouble(_) => Action::requeue(RESYNC),
        Verdict::Stage(_, seen, stage) => match stage {
            _ if !seen.silent_nodes.is_empty() || has_overdue_pod(seen) => seconds(5),
            Stage::MissingClaims(_) => seconds(30),
            Stage::Running(_) | Stage::Silent(_) => seconds(5),
            Stage::Starting { .. } if first_runs(seen) => seconds(2),
            Stage::Ended(Outcome::Succeeded(_) | Outcome::Failed { .. }) => Action::await_change(),
            Stage::Between | Stage::Ended(_) => seconds(2),
            Stage::Starting { .. } | Stage::SpecChanged | Stage::Suspended | Stage::Queued(_) => {
                Action::requeue(RESYNC)
            }
        },
    }
}

fn first_runs(seen: &Observed) -> bool {
    seen.pods.iter().any(|pod| pod.index == Some(0) && pod.phase == Phase::Running)
}

fn has_overdue_pod(seen: &Observed) -> bool {
    seen.pods.iter().any(|pod| pod.deadline.is_some() && !pod.is_over())
}

/// Whether a write can wait: conditions, state and results are as they were.
fn only_figures_differ(before: &TrainingJobStatus, after: &TrainingJobStatus) -> bool {
    let still = |status: &TrainingJobStatus| TrainingJobStatus {
        progress: None,
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

/// Figures as people read them: five significant digits, and the time left in
/// words. The exact ones are in the job's `metrics.jsonl`.
fn for_people(mut progress: TrainingProgress) -> TrainingProgress {
    progress.epoch = five_digits(progress.epoch);
    for figure in [
        &mut progress.loss,
        &mut progress.eval_loss,
        &mut progress.accuracy,
        &mut progress.f1,
        &mut progress.f1_macro,
        &mut progress.learning_rate,
        &mut progress.grad_norm,
        &mut progress.tokens_per_second,
        &mut progress.samples_per_second,
    ] {
        *figure = figure.map(five_digits);
    }
    progress.eta = progress.eta.or_else(|| progress.eta_seconds.map(duration_text));
    progress
}

/// The nearest number of five significant digits; by way of its decimal form,
/// since a product with a power of ten would not be exact.
fn five_digits(figure: f64) -> f64 {
    format!("{figure:.4e}").parse().unwrap_or(figure)
}

/// `3m20s`, as kubectl writes ages.
fn duration_text(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m"),
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn count(restarts: u32) -> i32 {
    i32::try_from(restarts).unwrap_or(i32::MAX)
}

fn full_stop(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) || text.is_empty() {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn valid() -> Finding {
    accepted(Truth::True, "Valid", "The spec is valid.".into())
}

fn accepted(status: Truth, reason: &'static str, message: String) -> Finding {
    finding(types::ACCEPTED, status, reason, message)
}

fn finding(type_: &'static str, status: Truth, reason: &'static str, message: String) -> Finding {
    Finding { type_, status, reason, message }
}

/// A worker's reason as one of a closed set: what programs may match on.
fn reason_of(told: &str) -> &'static str {
    const KNOWN: [&str; 17] = [
        "BadConfig",
        "BadData",
        "BadModel",
        "MissingInput",
        "AcceleratorMissing",
        "Unavailable",
        "CannotCreate",
        "CannotWrite",
        "RestartsExhausted",
        "RankKilled",
        "RankExited",
        "RankHung",
        "AgentLost",
        "Terminated",
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
    ];
    KNOWN.into_iter().find(|known| *known == told).unwrap_or("JobFailed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_five_digits() {
        for (exact, short) in
            [(0.669_774_293_899_536_1, 0.66977), (7.999_999_999_999_999e-5, 8e-5), (0.0, 0.0)]
        {
            assert_eq!(five_digits(exact).to_bits(), f64::to_bits(short), "{exact}");
        }
        assert!(five_digits(f64::NAN).is_nan());
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(5, "5s"), (200, "3m20s"), (3_900, "1h5m")] {
            assert_eq!(duration_text(seconds), text);
        }
    }
}
