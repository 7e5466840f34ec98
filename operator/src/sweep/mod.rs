//! HyperparamSweeps: gather, validate, decide, plan, apply, report.

pub mod gather;
pub mod paths;
pub mod policy;
pub mod report;
pub mod search;
pub mod trial;
pub mod validate;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::runtime::controller::Action;

use crate::apply;
use crate::cache::GuardedSweep;
use crate::children::{Child, Plan};
use crate::context::Context;
use crate::error::ReconcileError;
use report::Verdict;

/// Brings one sweep a step further.
pub async fn reconcile(
    guarded: Arc<GuardedSweep>,
    cx: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let sweep = match &guarded.0 {
        Ok(sweep) => sweep,
        // One malformed object must not stall the others.
        Err(unreadable) => return report::unreadable(&cx, unreadable).await,
    };
    if sweep.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let valid = match validate::sweep(sweep) {
        Ok(valid) => valid,
        Err(faults) => return report::publish(&cx, sweep, Verdict::Refused(faults)).await,
    };
    let seen = gather::observe(&cx, &valid);
    let decision = policy::decide(&valid, &seen);
    let children = decision.start.iter().cloned().map(|job| Child::TrainingJob(Box::new(job)));
    let stop = decision.stop.iter().map(|(name, stop)| (gather::job_id(name), stop.clone()));
    let plan = Plan { children: children.collect(), stop: stop.collect(), ..Plan::default() };
    let live = gather::concerned(&cx, &valid, &decision);
    match apply::run(&cx, &valid.namespace, &valid.uid, &plan, &live).await {
        Ok(_) => report::publish(&cx, sweep, Verdict::Standing(&valid, &decision)).await,
        Err(error) => report::trouble(&cx, sweep, error.into()).await,
    }
}
