//! TrainingJobs: gather, validate, decide, plan, apply, report.

mod buckets;
pub mod expiry;
pub mod gather;
pub mod plan;
pub mod policy;
pub mod report;
pub mod unsupported;
pub mod validate;

use std::sync::Arc;

use hearth_crds::{TrainingJob, condition};
use k8s_openapi::jiff::SignedDuration;
use kube::runtime::controller::Action;

use crate::apply;
use crate::cache::GuardedJob;
use crate::children::Plan;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::lost_pods::{DEFAULT_GRACE, lost_pods};
pub use crate::source_rules::{Backend, LocalMachine};
use gather::Observed;
use policy::Stage;
use report::Verdict;
use validate::ValidJob;

/// Brings one job a step further.
pub async fn reconcile(
    guarded: Arc<GuardedJob>,
    cx: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let job = match &guarded.0 {
        Ok(job) => job,
        // One malformed object must not stall the others.
        Err(unreadable) => return report::unreadable(&cx, unreadable).await,
    };
    if is_over(job) {
        return expiry::expire(&cx, job).await;
    }
    let valid = match validate::job(job, &Backend::Cluster) {
        Ok(valid) => valid,
        Err(faults) => return report::publish(&cx, job, Verdict::Refused(faults)).await,
    };
    let seen = gather::observe(&cx, &valid).await?;
    let stage = policy::stage(&valid, &seen, cx.clock.now());
    let plan = plan_of(&valid, &seen, &stage, &cx);
    match apply::run(&cx, &valid.namespace, &valid.uid, &plan, &seen.children).await {
        Ok(_) => {
            gather::tell_size(&cx, &valid, &seen, &stage).await;
            report::publish(&cx, job, Verdict::Stage(&valid, &seen, &stage)).await
        }
        Err(error) => report::trouble(&cx, job, error.into()).await,
    }
}

/// A job that has ended, or is being deleted, is left alone for good.
pub(crate) fn is_over(job: &TrainingJob) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice());
    let conditions = conditions.unwrap_or_default();
    job.metadata.deletion_timestamp.is_some()
        || condition::is_true(conditions, condition::training_job::SUCCEEDED)
        || condition::is_true(conditions, condition::training_job::FAILED)
        || condition::is_true(conditions, condition::training_job::STOPPED)
}

/// What should be true of the cluster at this stage.
pub(crate) fn plan_of(valid: &ValidJob, seen: &Observed, stage: &Stage, cx: &Context) -> Plan {
    let plan = match stage {
        Stage::Preparing(_) | Stage::Suspended if !policy::is_prepared(valid, seen) => {
            plan::preparation(valid, seen, &cx.settings)
        }
        // Nothing is touched: not what runs, not what cannot start.
        Stage::SpecChanged | Stage::MissingClaims(_) | Stage::Ended(_) => Plan::default(),
        Stage::Stopping => Plan { prune: plan::jobs(valid), ..Plan::default() },
        // Its pods have ended.
        Stage::Stopped => {
            Plan { prune: seen.children.keys().cloned().collect(), ..Plan::default() }
        }
        Stage::Suspended
        | Stage::Preparing(_)
        | Stage::Queued(_)
        | Stage::Yielding(_)
        | Stage::Starting { .. }
        | Stage::Running(_)
        | Stage::Silent(_)
        | Stage::Between => plan::build(valid, seen, &cx.settings, policy::held(seen).is_some()),
    };
    let grace = SignedDuration::from_secs(plan::GRACE_SECONDS);
    let now = cx.clock.now();
    let mut lost = lost_pods(&seen.pods, &seen.silent_nodes, grace, now);
    lost.extend(lost_pods(&seen.prepare_pods, &seen.silent_nodes, DEFAULT_GRACE, now));
    Plan { lost_pods: lost, ..plan }
}
