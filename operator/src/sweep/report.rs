//! What users read of a sweep: conditions, counts, the best trial, events.
//!
//! [`next_status`] is pure; [`publish`] sends what changed. The status stays small however many
//! trials there are: each one is a TrainingJob, and tells its own.

use std::time::Duration;

use hearth_crds::condition::{self, Finding, Truth, finding, sweep as types};
use hearth_crds::hyperparam_sweep::{BestTrial, HyperparamSweep, HyperparamSweepStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;

use super::policy::{Decision, End};
use super::validate::{ValidSweep, spec_hash};
use crate::apply::{self, Notice};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::fault::{Fault, SpecFaults};
use crate::seen::Kind;

/// Time until a sweep is looked at again though nothing happened to it.
const RESYNC: Duration = Duration::from_mins(5);
/// Time until the store should show what was written.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What came of looking at a sweep.
pub enum Verdict<'a> {
    /// The spec is refused.
    Refused(SpecFaults),
    /// It stands here.
    Standing(&'a ValidSweep, &'a Decision),
    /// The cluster refuses a trial, in these words.
    Trouble(String),
}

/// Writes the sweep's status and events where they changed.
pub async fn publish(
    cx: &Context,
    sweep: &HyperparamSweep,
    verdict: Verdict<'_>,
) -> Result<Action, ReconcileError> {
    let before = cx.status_of(sweep);
    let after = next_status(sweep, &before, &verdict, cx.clock.now());
    let about = sweep.object_ref(&());
    if after != before {
        apply::status(cx, Kind::HyperparamSweep, &about, &after).await?;
    }
    apply::notify(cx, &about, "Search", &notices(&before, &after, &verdict)).await;
    Ok(match verdict {
        Verdict::Refused(_) => Action::await_change(),
        Verdict::Standing(_, decision) if decision.catching_up => Action::requeue(CATCH_UP),
        Verdict::Standing(..) | Verdict::Trouble(_) => Action::requeue(RESYNC),
    })
}

/// Tells the user of a refusal by the cluster, and hands the error on so that it is tried again.
pub async fn trouble(
    cx: &Context,
    sweep: &HyperparamSweep,
    error: ReconcileError,
) -> Result<Action, ReconcileError> {
    if error.category().needs_a_person() {
        publish(cx, sweep, Verdict::Trouble(error.sentence())).await?;
    }
    Err(error)
}

/// Tells the user that the object cannot be read at all.
pub async fn unreadable(cx: &Context, object: &InvalidObject) -> Result<Action, ReconcileError> {
    let fault = Fault::invalid(
        "spec",
        format!("cannot be read: {}", object.error),
        "correct it, or delete the sweep and create it anew",
    );
    let about = ObjectReference {
        api_version: Some(HyperparamSweep::api_version(&()).into_owned()),
        kind: Some(HyperparamSweep::kind(&()).into_owned()),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let before: HyperparamSweepStatus = cx
        .newer_status(&uid, 0)
        .and_then(|written| serde_json::from_value(written.status).ok())
        .unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let found = [finding(types::ACCEPTED, Truth::False, "Unreadable", fault.to_string())];
    let after = HyperparamSweepStatus {
        observed_generation: Some(generation),
        state: Some("Invalid".into()),
        conditions: condition::merge(&before.conditions, &found, generation, &Time(cx.clock.now())),
        ..before.clone()
    };
    if after != before {
        apply::status(cx, Kind::HyperparamSweep, &about, &after).await?;
    }
    Ok(Action::await_change())
}

/// The status after this look at the sweep.
pub fn next_status(
    sweep: &HyperparamSweep,
    before: &HyperparamSweepStatus,
    verdict: &Verdict<'_>,
    now: Timestamp,
) -> HyperparamSweepStatus {
    let mut after = before.clone();
    let generation = sweep.metadata.generation.unwrap_or(0);
    after.observed_generation = Some(generation);
    let accepted = finding(types::ACCEPTED, Truth::True, "Valid", "The spec is valid.".into());
    let (state, findings) = match verdict {
        Verdict::Refused(faults) => {
            let finding =
                finding(types::ACCEPTED, Truth::False, faults.reason(), faults.to_string());
            ("Invalid", vec![finding])
        }
        Verdict::Trouble(said) => (
            "Pending",
            vec![accepted, finding(types::RUNNING, Truth::False, "Rejected", said.clone())],
        ),
        Verdict::Standing(valid, decision) => {
            after.spec_hash = Some(spec_hash(&valid.spec));
            after.trials = Some(decision.counts.clone());
            after.best = best(valid, decision);
            let (state, findings) = standing(valid, decision, after.best.as_ref());
            (state, [vec![accepted], findings].concat())
        }
    };
    after.state = Some(state.into());
    after.conditions = condition::merge(&before.conditions, &findings, generation, &Time(now));
    // A sweep that has got more trials, or may fail more, goes on or ends otherwise.
    if matches!(verdict, Verdict::Standing(..)) {
        let said = |type_: &str| findings.iter().any(|finding| finding.type_ == type_);
        let end = |type_: &str| [types::SUCCEEDED, types::FAILED].contains(&type_);
        after.conditions.retain(|c| !end(&c.type_) || said(&c.type_));
    }
    after
}

fn best(valid: &ValidSweep, decision: &Decision) -> Option<BestTrial> {
    let (trial, value) = decision.best.as_ref()?;
    let values = valid.space.values(&trial.point).into_iter();
    let parameters = values
        .map(|(index, value)| format!("{}={}", valid.spec.parameters[index].path, plain(&value)));
    Some(BestTrial {
        job: valid.job_name(trial.number, trial.last_rung()?.0),
        value: *value,
        parameters: parameters.collect(),
    })
}

/// Without the quotes of JSON.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn standing(
    valid: &ValidSweep,
    decision: &Decision,
    best: Option<&BestTrial>,
) -> (&'static str, Vec<Finding>) {
    let counts = &decision.counts;
    let ended = counts.succeeded + counts.stopped + counts.failed;
    let stopped = |before: &str, after: &str| match counts.stopped {
        0 => String::new(),
        count => format!("{before}{count} stopped early{after}"),
    };
    let failure = || match &decision.last_failure {
        Some(((number, rung), why)) => {
            format!(" The last was {}: {why}.", valid.job_name(*number, *rung))
        }
        None => String::new(),
    };
    let over = |reason, message: String| {
        vec![
            finding(types::RUNNING, Truth::False, "Ended", "No trial runs.".into()),
            finding(types::FAILED, Truth::True, reason, message),
        ]
    };
    match decision.end {
        None => {
            let message = format!(
                "{} trials run, {} of {} have ended, {} of them failed{}.",
                counts.running,
                ended,
                valid.spec.trials.max,
                counts.failed,
                stopped(", ", "")
            );
            ("Running", vec![finding(types::RUNNING, Truth::True, "Searching", message)])
        }
        Some(End::TooManyFailed) => {
            let message = format!(
                "{} trials failed, and trials.maxFailed is {}.{} Correct the job or the parameters in another sweep, or raise trials.maxFailed.",
                counts.failed,
                valid.spec.trials.max_failed,
                failure()
            );
            ("Failed", over("TooManyFailed", message))
        }
        Some(End::NoMetric) => {
            let message = format!("No trial has a metric.{}", failure());
            ("Failed", over("NoMetric", message))
        }
        Some(End::Done) => {
            let message = best.map_or_else(String::new, |best| {
                format!(
                    "The best of {} trials{} is {} with {} {} ({}).",
                    ended,
                    stopped(", of which ", ","),
                    best.job,
                    valid.spec.objective.metric.as_str(),
                    best.value,
                    best.parameters.join(", ")
                )
            });
            let ended = finding(types::RUNNING, Truth::False, "Ended", "No trial runs.".into());
            ("Succeeded", vec![ended, finding(types::SUCCEEDED, Truth::True, "Completed", message)])
        }
    }
}

/// Events for what changed.
pub fn notices(
    before: &HyperparamSweepStatus,
    after: &HyperparamSweepStatus,
    verdict: &Verdict<'_>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let failed = |status: &HyperparamSweepStatus| status.trials.as_ref().map_or(0, |t| t.failed);
    if let Verdict::Standing(valid, decision) = verdict
        && failed(after) > failed(before)
        && let Some(((number, rung), why)) = &decision.last_failure
    {
        let note = format!("{} failed: {why}", valid.job_name(*number, *rung));
        notices.push(Notice { warning: true, reason: "TrialFailed", note });
    }
    // Each is told once: what was told to stop is not decided on again.
    if let Verdict::Standing(_, decision) = verdict {
        notices.extend(decision.stop.iter().map(|(job, stop)| {
            let note = format!("{job} is {}", stop.message);
            Notice { warning: false, reason: "TrialStopped", note }
        }));
    }
    for (type_, warning) in [(types::SUCCEEDED, false), (types::FAILED, true)] {
        let holds = |status| condition::holding(status, type_);
        if let (None, Some(now)) = (holds(&before.conditions), holds(&after.conditions)) {
            notices.push(Notice { warning, reason: type_, note: now.message.clone() });
        }
    }
    let refused = |status: &HyperparamSweepStatus| {
        condition::get(&status.conditions, types::ACCEPTED)
            .filter(|found| found.status == "False")
            .map(|found| found.message.clone())
    };
    if let Some(note) = refused(after).filter(|note| refused(before).as_ref() != Some(note)) {
        notices.push(Notice { warning: true, reason: "NotAccepted", note });
    }
    notices
}
