//! A reconcile of TrainingJobs with the bugs that are about its order, and what it believes.

use std::sync::Arc;

use kube::runtime::controller::Action;

use super::{Bug, is};
use crate::apply;
use crate::cache::GuardedJob;
use crate::children::Plan;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::training_job::policy::{self, Outcome, Stage};
use crate::training_job::report::{self, Verdict};
use crate::training_job::{Backend, gather, is_over, plan_of, reconcile, validate};

/// Brings one job a step further, or astray.
pub async fn train(guarded: Arc<GuardedJob>, cx: Arc<Context>) -> Result<Action, ReconcileError> {
    let planted = [Bug::ReportsFirst, Bug::ErrorsAreFinal, Bug::BelievesLists].into_iter().any(is);
    let job = match &guarded.0 {
        Ok(job) if planted && !is_over(job) => job,
        _ => return reconcile(guarded, cx).await,
    };
    let valid = match validate::job(job, &Backend::Cluster) {
        Ok(valid) => valid,
        Err(faults) => return report::publish(&cx, job, Verdict::Refused(faults)).await,
    };
    let seen = gather::observe(&cx, &valid).await?;
    let mut stage = policy::stage(&valid, &seen, cx.clock.now());
    let told = job.status.as_ref().is_some_and(|status| !status.conditions.is_empty());
    if is(Bug::BelievesLists) && told && seen.children.is_empty() {
        stage = failed("its Job is gone");
    }
    let mut plan = plan_of(&valid, &seen, &stage, &cx);
    if is(Bug::ReportsFirst) {
        if job.status.is_some() {
            plan = Plan::default();
        }
        report::publish(&cx, job, Verdict::Stage(&valid, &seen, &stage)).await?;
    }
    match apply::run(&cx, &valid.namespace, &valid.uid, &plan, &seen.children).await {
        Ok(_) => report::publish(&cx, job, Verdict::Stage(&valid, &seen, &stage)).await,
        Err(error) if is(Bug::ErrorsAreFinal) => {
            let stage = failed(&error.to_string());
            report::publish(&cx, job, Verdict::Stage(&valid, &seen, &stage)).await
        }
        Err(error) => report::trouble(&cx, job, error.into()).await,
    }
}

fn failed(message: &str) -> Stage {
    let (reason, message) = ("Planted".into(), message.into());
    Stage::Ended(Outcome::Failed { reason, message, result: None })
}
