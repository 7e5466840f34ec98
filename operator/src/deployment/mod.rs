//! ModelDeployments: gather, validate, decide, plan, apply, report.

pub mod gather;
pub mod marks;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod report;
pub mod rollout;
pub mod scale;
pub mod target;
pub mod training;
pub mod validate;

use std::sync::Arc;

use kube::runtime::controller::Action;

use crate::apply;
use crate::cache::GuardedDeployment;
use crate::context::Context;
use crate::error::ReconcileError;
use report::Verdict;

/// Brings one deployment a step further.
pub async fn reconcile(
    guarded: Arc<GuardedDeployment>,
    cx: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let deployment = match &guarded.0 {
        Ok(deployment) => deployment,
        // One malformed object must not stall the others.
        Err(unreadable) => return report::unreadable(&cx, unreadable).await,
    };
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let valid = match validate::deployment(deployment) {
        Ok(valid) => valid,
        Err(faults) => return report::publish(&cx, deployment, Verdict::Invalid(faults)).await,
    };
    let (seen, target) = Box::pin(gather::observe(&cx, &valid)).await?;
    let decision = policy::decide(&valid, target.as_ref(), &seen, cx.clock.now());
    let plan = plan::build(&valid, target.as_ref(), &decision, &seen.children, &cx.settings);
    match apply::run(&cx, &valid.namespace, &valid.uid, &plan, &seen.children).await {
        Ok(_) => {
            let verdict = Verdict::Stage(&valid, target.as_ref(), &seen, &decision);
            Box::pin(report::publish(&cx, deployment, verdict)).await
        }
        Err(error) => report::trouble(&cx, deployment, error.into()).await,
    }
}
