//! What users read of a rollout: its step, both revisions' traffic, a comparison's figures.
//!
//! Figures change with every request; they are written a few times an interval, and whenever
//! something happens.

use hearth_crds::model_deployment::{
    ExperimentStatus, ModelDeploymentStatus, RejectedRevision, RolloutStatus, TrafficStatus,
};
use hearth_crds::routing::CANARY;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::deployment::policy::Decision;
use crate::deployment::rollout::{self, Rejected};
use crate::deployment::validate::ValidDeployment;

/// Seconds between two looks at a rollout: a quarter of the interval that it is judged by.
pub(super) fn look_every(valid: &ValidDeployment) -> u64 {
    u64::from(rollout::interval_seconds(&valid.spec.rollout) / 4).clamp(1, 5)
}

/// Whether figures are to be written: none are, another step is, or they have become old.
pub(super) fn is_due(
    before: &ModelDeploymentStatus,
    valid: &ValidDeployment,
    decision: &Decision,
    now: Timestamp,
) -> bool {
    let (Some(progress), Some(then)) = (&decision.record.current, &before.rollout) else {
        return true;
    };
    let age = SignedDuration::from_secs(2 * look_every(valid).cast_signed());
    let old = then.observed_at.as_ref().is_none_or(|at| now.duration_since(at.0) >= age);
    let verdict = before.experiment.as_ref().and_then(|experiment| experiment.verdict);
    let found = progress.found.as_ref().and_then(|found| found.verdict);
    old || then.step != number(progress.step) + 1
        || then.since.0 != progress.since
        || verdict != found
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The variant that is tried.
pub(super) fn tried(decision: &Decision) -> &'static str {
    decision.canary.as_ref().map_or(CANARY, |canary| canary.step.variant())
}

/// What gateways counted of a variant.
pub(super) fn of(decision: &Decision, variant: &str) -> Option<TrafficStatus> {
    let figures = &decision.counted.of(variant)?.total;
    let p95 = figures.latencies.quantile(0.95);
    Some(TrafficStatus {
        requests: figures.requests.try_into().unwrap_or(i64::MAX),
        error_rate: rounded(figures.error_rate(), 1e5),
        p95_milliseconds: p95.map(|seconds| rounded(seconds * 1e3, 1e1)),
    })
}

fn rounded(figure: f64, parts: f64) -> f64 {
    (figure * parts).round() / parts
}

/// How far the rollout is; `read`: when figures were read anew.
pub(super) fn rollout(
    before: &ModelDeploymentStatus,
    valid: &ValidDeployment,
    decision: &Decision,
    read: Option<Timestamp>,
) -> Option<RolloutStatus> {
    let progress = decision.record.current.as_ref()?;
    let then = before.rollout.as_ref().and_then(|rollout| rollout.observed_at.clone());
    Some(RolloutStatus {
        step: number(progress.step) + 1,
        steps: number(rollout::steps(&valid.spec.rollout).len()),
        since: Time(progress.since),
        observed_at: read.map(Time).or(then),
    })
}

/// The comparison: what was found, or the counts so far. It stays after the rollout, until the
/// next one.
pub(super) fn experiment(
    before: &ModelDeploymentStatus,
    valid: &ValidDeployment,
    decision: &Decision,
    fresh: bool,
) -> Option<ExperimentStatus> {
    let spec = valid.spec.rollout.experiment.as_ref()?;
    match &decision.record.current {
        Some(progress) if progress.found.is_some() => progress.found.clone(),
        Some(_) if fresh => Some(rollout::compare(spec, &decision.counted)),
        _ => before.experiment.clone(),
    }
}

/// A revision that was sent back.
pub(super) fn rejected(rejected: &Rejected) -> RejectedRevision {
    let Rejected { revision, reason, message, at, .. } = rejected.clone();
    RejectedRevision { revision, reason: reason.as_str().to_owned(), message, at: Time(at) }
}
