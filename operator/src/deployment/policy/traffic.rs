//! Where requests go: to the revision that serves, to one that is tried beside it, and to none
//! that is not ready.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Canary, Decision, Stage, starting};
use crate::deployment::observed::{Observed, Workload};
use crate::deployment::rollout::{self, Counted, Next, Order, Progress, Record, Rejected};
use crate::deployment::target::Target;
use crate::deployment::validate::ValidDeployment;

/// Requests begun just before the switch may take their time limit and this.
const DRAIN_MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// Sends traffic to the target once it is ready, and then lets go of the rest.
pub(super) fn route(
    decision: &mut Decision,
    valid: &ValidDeployment,
    target: &Target,
    (seen, now): (&Observed, Timestamp),
) {
    let server = seen.servers.get(&target.revision);
    let ready = server.is_some_and(|server| server.complete);
    let begun = seen.record.current.as_ref().filter(|progress| {
        progress.revision == target.revision
            && progress.program == rollout::program(&valid.spec.rollout)
    });
    if decision.route.as_ref() == Some(&target.revision) {
        settle(decision, valid, target, (seen, now));
    } else if !ready && begun.is_none() {
        decision.stage = starting(server, &seen.server_pods);
    } else if decision.route.is_none() || rollout::steps(&valid.spec.rollout).is_empty() {
        take_over(decision, target);
    } else if server.is_none_or(|server| server.available == 0) {
        // The old revision has all traffic until they are back.
        decision.record.current = begun.cloned();
        decision.stage = starting(server, &seen.server_pods);
    } else {
        let progress = begun.cloned().unwrap_or_else(|| Progress {
            revision: target.revision.clone(),
            program: rollout::program(&valid.spec.rollout),
            step: 0,
            since: now,
            found: None,
        });
        roll_out(decision, valid, target, progress, (seen, now));
    }
}

/// All traffic goes to the target.
fn take_over(decision: &mut Decision, target: &Target) {
    decision.route = Some(target.revision.clone());
    decision.canary = None;
    decision.record = Record::default();
    decision.stage = Stage::Draining;
}

/// Takes the target a step further, where it has earned it.
fn roll_out(
    decision: &mut Decision,
    valid: &ValidDeployment,
    target: &Target,
    mut progress: Progress,
    (seen, now): (&Observed, Timestamp),
) {
    let spec = &valid.spec.rollout;
    let steps = rollout::steps(spec);
    let counted = Counted::sum(&seen.measured, &rollout::measure(&progress, spec).id);
    let order = valid.order(&target.revision);
    let (reason, message) = match rollout::next(spec, &mut progress, &counted, order.as_ref(), now)
    {
        Next::Advance if progress.step + 1 < steps.len() => {
            progress = Progress { step: progress.step + 1, since: now, found: None, ..progress };
            ("Advanced", "this step begins".to_owned())
        }
        Next::Advance | Next::Promote => return take_over(decision, target),
        Next::Reject { reason, message } => {
            let rejected = Rejected {
                revision: progress.revision,
                program: progress.program,
                reason,
                message,
                at: now,
            };
            decision.serve = false;
            decision.keep.remove(&target.revision);
            decision.stage = sent_back(&rejected);
            decision.record = Record { current: None, rejected: Some(rejected) };
            return;
        }
        Next::Stay { reason, message } => (reason, message),
    };
    let Some(step) = steps.get(progress.step).cloned() else { return };
    let share = match step.shadow {
        Some(percent) => format!("copies of {percent} %"),
        None => format!("{} %", step.weight),
    };
    let message = format!(
        "Step {} of {}, {share} of the traffic: {message}.",
        progress.step + 1,
        steps.len()
    );
    let measure = rollout::measure(&progress, spec);
    decision.stage = Stage::RollingOut { reason, message };
    decision.canary = Some(Canary { revision: target.revision.clone(), step, measure });
    decision.record.current = Some(progress);
    decision.counted = counted;
}

/// Whether the target was sent back, and nothing has changed since that would try it again.
pub(super) fn rejected<'a>(
    valid: &ValidDeployment,
    target: &Target,
    seen: &'a Observed,
) -> Option<&'a Rejected> {
    let retried = match valid.order(&target.revision) {
        Some(Order::Retry(time)) => Some(time),
        _ => None,
    };
    seen.record.rejected.as_ref().filter(|rejected| {
        rejected.revision == target.revision
            && seen.routed() != Some(&target.revision)
            && rejected.program == rollout::program(&valid.spec.rollout)
            && retried.is_none_or(|time| time <= rejected.at)
    })
}

pub(super) fn sent_back(rejected: &Rejected) -> Stage {
    let Rejected { revision, reason, message, .. } = rejected;
    let message = format!(
        "Revision {revision} was sent back: {message}. Change the spec, or `kubectl hearth retry` it"
    );
    Stage::RolledBack { reason: reason.as_str(), message }
}

/// The target has the traffic: is it well, and is anything else still there?
fn settle(
    decision: &mut Decision,
    valid: &ValidDeployment,
    target: &Target,
    (seen, now): (&Observed, Timestamp),
) {
    let others = seen.servers.len() > 1;
    if others && !drained(valid, &decision.reached(), seen, now, seen.routed_at) {
        decision.stage = Stage::Draining;
        return;
    }
    let server = seen.servers.get(&target.revision);
    let answering = server.is_some_and(|server| server.complete || server.available > 0);
    let gateway = seen.gateway.as_ref();
    decision.stage = match (answering, gateway) {
        (false, _) => starting(server, &seen.server_pods),
        (true, Some(gateway)) if gateway.available > 0 => Stage::Live,
        (true, Some(Workload { stuck: Some(why), .. })) => {
            Stage::Stuck(format!("the gateway does not become ready: {why}"))
        }
        (true, _) => Stage::Starting("the gateway is starting".into()),
    };
}

/// Whether nothing can still be sent to revisions other than these.
pub(super) fn drained(
    valid: &ValidDeployment,
    reached: &BTreeSet<String>,
    seen: &Observed,
    now: Timestamp,
    routed_at: Option<Timestamp>,
) -> bool {
    let longest = i64::from(valid.spec.gateway.request_timeout_seconds);
    let time = SignedDuration::from_secs(longest) + DRAIN_MARGIN;
    if seen.reached().is_empty() && routed_at.is_none() {
        return true;
    }
    let over = routed_at.is_none_or(|at| now.duration_since(at) >= time);
    let told = seen.gateways_at.as_ref().is_some_and(|gateways| {
        let left =
            |at: &Option<BTreeSet<String>>| at.as_ref().is_some_and(|at| at.is_subset(reached));
        !gateways.is_empty() && gateways.iter().all(left)
    });
    over && told
}
