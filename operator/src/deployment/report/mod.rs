//! What users read of a deployment: conditions, revisions, events.
//!
//! [`next_status`] and [`notices`] are pure; [`publish`] sends what changed.

mod drift;
mod route;
mod traffic;

use std::time::Duration;

use hearth_crds::condition::{self, Finding, Truth, finding, model_deployment as types};
use hearth_crds::model_deployment::{
    ModelDeployment, ModelDeploymentStatus, RevisionStatus, Routing,
};
use hearth_crds::routing::STABLE;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;

use super::observed::{Observed, ServerLoad};
use super::plan::gateway;
use super::policy::{Decision, Stage};
use super::target::Target;
use super::validate::ValidDeployment;
use crate::apply::{self, Notice};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::fault::{Fault, SpecFaults};
use crate::seen::Kind;

/// Time until a deployment is looked at again though nothing happened to it.
const RESYNC: Duration = Duration::from_mins(5);

/// What came of looking at a deployment.
pub enum Verdict<'a> {
    /// The spec is refused.
    Invalid(SpecFaults),
    /// The cluster refuses its objects, in these words.
    Trouble(String),
    /// It stands here.
    Stage(&'a ValidDeployment, Option<&'a Target>, &'a Observed, &'a Decision),
}

/// Writes status and events where they changed.
pub async fn publish(
    cx: &Context,
    deployment: &ModelDeployment,
    verdict: Verdict<'_>,
) -> Result<Action, ReconcileError> {
    let before = cx.status_of(deployment);
    let after = next_status(deployment, &before, &verdict, cx.clock.now());
    if after != before {
        let about = deployment.object_ref(&());
        apply::status(cx, Kind::ModelDeployment, &about, &after).await?;
        apply::notify(cx, &about, "Deploy", &notices(&before, &after)).await;
    }
    Ok(look_again(&verdict))
}

/// Tells the user of a refusal by the cluster, and hands the error on so that
/// the deployment is tried again.
pub async fn trouble(
    cx: &Context,
    deployment: &ModelDeployment,
    error: ReconcileError,
) -> Result<Action, ReconcileError> {
    if error.category().needs_a_person() {
        publish(cx, deployment, Verdict::Trouble(error.sentence())).await?;
    }
    Err(error)
}

/// Tells the user that the object cannot be read at all.
pub async fn unreadable(cx: &Context, object: &InvalidObject) -> Result<Action, ReconcileError> {
    let fault = Fault::invalid(
        "spec",
        format!("cannot be read: {}", object.error),
        "correct it, or delete the deployment and create it anew",
    );
    let about = ObjectReference {
        api_version: Some(ModelDeployment::api_version(&()).into_owned()),
        kind: Some(ModelDeployment::kind(&()).into_owned()),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let before: ModelDeploymentStatus = cx
        .newer_status(&uid, 0)
        .and_then(|written| serde_json::from_value(written.status).ok())
        .unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let found = [finding(types::DEGRADED, Truth::True, "Unreadable", fault.to_string())];
    let after = ModelDeploymentStatus {
        observed_generation: Some(generation),
        state: Some("Invalid".into()),
        conditions: condition::merge(&before.conditions, &found, generation, &Time(cx.clock.now())),
        ..before.clone()
    };
    if after != before {
        apply::status(cx, Kind::ModelDeployment, &about, &after).await?;
    }
    Ok(Action::await_change())
}

/// The status after this look at the deployment.
pub fn next_status(
    deployment: &ModelDeployment,
    before: &ModelDeploymentStatus,
    verdict: &Verdict<'_>,
    now: Timestamp,
) -> ModelDeploymentStatus {
    let generation = deployment.metadata.generation.unwrap_or(0);
    let mut after = before.clone();
    after.observed_generation = Some(generation);
    let (state, found) = match verdict {
        Verdict::Invalid(faults) => {
            ("Invalid", unchanged(before, faults.reason(), faults.to_string()))
        }
        Verdict::Trouble(said) => ("Degraded", unchanged(before, "Rejected", said.clone())),
        Verdict::Stage(valid, target, seen, decision) => {
            let scheme = gateway::scheme(valid);
            let address = format!("{scheme}://{}.{}.svc", valid.child_name(""), valid.namespace);
            after.address = decision.has_gateway().then_some(address);
            let fresh = traffic::is_due(before, valid, decision, now);
            let describe = |revision: &str,
                            weight: i32,
                            name: &str,
                            before: &Option<RevisionStatus>| {
                let traffic = match (&decision.canary, fresh) {
                    (None, _) => None,
                    (Some(_), true) => traffic::of(decision, name),
                    (Some(_), false) => before.as_ref().and_then(|status| status.traffic.clone()),
                };
                RevisionStatus {
                    traffic,
                    ..revision_status(revision, weight, *target, seen, decision)
                }
            };
            let share =
                decision.canary.as_ref().map_or(0, |canary| canary.step.weight.cast_signed());
            after.stable = decision
                .route
                .as_ref()
                .map(|revision| describe(revision, 100 - share, STABLE, &before.stable));
            let on_its_way = target.filter(|target| {
                Some(&target.revision) != decision.route.as_ref()
                    && !matches!(decision.stage, Stage::RolledBack { .. })
            });
            after.canary = on_its_way.map(|target| {
                describe(&target.revision, share, traffic::tried(decision), &before.canary)
            });
            after.experiment = traffic::experiment(before, valid, decision, fresh);
            let traffic = |status: &ModelDeploymentStatus| {
                let of = |revision: &Option<RevisionStatus>| revision.as_ref()?.traffic.clone();
                (of(&status.stable), of(&status.canary), status.experiment.clone())
            };
            let read = fresh && traffic(&after) != traffic(before);
            after.rollout = traffic::rollout(before, valid, decision, read.then_some(now));
            after.rejected = decision.record.rejected.as_ref().map(traffic::rejected);
            let (state, mut found) = findings(seen, decision);
            found.extend(route::routed(valid, seen));
            found.extend(drift::drifted(valid, seen));
            (state, found)
        }
    };
    after.state = Some(state.into());
    after.conditions = condition::merge(&before.conditions, &found, generation, &Time(now));
    if deployment.spec.routing == Routing::Gateway {
        after.conditions.retain(|condition| condition.type_ != types::ROUTED);
    }
    if deployment.spec.serving.drift.is_none() {
        after.conditions.retain(|condition| condition.type_ != types::DRIFTED);
    }
    after
}

/// One revision as its servers' annotations, or the target, describe it.
fn revision_status(
    revision: &str,
    weight: i32,
    target: Option<&Target>,
    seen: &Observed,
    decision: &Decision,
) -> RevisionStatus {
    let target = target.filter(|target| target.revision == revision);
    let server = seen.servers.get(revision);
    RevisionStatus {
        revision: revision.to_owned(),
        digest: target.map_or_else(|| server.and_then(|s| s.digest.clone()), |t| t.digest.clone()),
        weight,
        model: target
            .map_or_else(|| server.and_then(|s| s.model.clone()), |t| Some(t.model.to_string())),
        compression: match target {
            Some(_) => decision.compression.clone(),
            None => server.and_then(|s| s.compression.clone()),
        },
        replicas: decision.replicas.get(revision).copied(),
        traffic: None,
    }
}

/// Conditions where what runs is left as it is.
fn unchanged(
    before: &ModelDeploymentStatus,
    reason: &'static str,
    message: String,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if condition::get(&before.conditions, types::READY).is_none() {
        let none = "Nothing is served yet.".to_owned();
        found.push(finding(types::READY, Truth::False, "NothingServed", none));
    }
    let kept = "What is served stays as it is.".to_owned();
    found.push(finding(types::PROGRESSING, Truth::False, reason, kept));
    found.push(finding(types::DEGRADED, Truth::True, reason, message));
    found
}

/// What helps where servers cannot be scaled as asked.
const NO_TOKENS: &str = "serving.autoscaling.targetTokensInFlight is for language models, and this is none: requests in \
     flight alone decide how many servers there are; remove the field";

fn findings(seen: &Observed, decision: &Decision) -> (&'static str, Vec<Finding>) {
    let answers = answers(seen, decision);
    let progressing = |reason, message: &str| {
        finding(types::PROGRESSING, Truth::True, reason, message.to_owned())
    };
    let still = |reason, message: &str| {
        finding(types::PROGRESSING, Truth::False, reason, message.to_owned())
    };
    let degraded =
        |reason, message: &str| finding(types::DEGRADED, Truth::True, reason, message.to_owned());
    let counts_tokens = !seen.server_loads.values().flatten().any(|l| *l == ServerLoad::NoTokens);
    let well = || {
        if counts_tokens {
            let nothing = "Nothing needs a person.".into();
            return finding(types::DEGRADED, Truth::False, "AsExpected", nothing);
        }
        degraded("NoTokens", NO_TOKENS)
    };
    let (state, rest) = match &decision.stage {
        Stage::Waiting { reason, message, hopeless: true } => {
            ("Degraded", vec![still(reason, message), degraded(reason, message)])
        }
        Stage::Waiting { reason, message, hopeless: false } => {
            ("Waiting", vec![progressing(reason, message), well()])
        }
        Stage::Compressing(message) => {
            ("Compressing", vec![progressing("Compressing", message), well()])
        }
        Stage::Refused { reason, message } => (
            "Refused",
            vec![still(reason, "The new revision is refused."), degraded(reason, message)],
        ),
        Stage::Starting(message) => ("Starting", vec![progressing("Starting", message), well()]),
        Stage::Stuck(message) => (
            "Degraded",
            vec![progressing("Starting", message), degraded("ServersNotReady", message)],
        ),
        Stage::RollingOut { reason, message } => {
            ("RollingOut", vec![progressing(reason, message), well()])
        }
        Stage::RolledBack { reason, message } => (
            "RolledBack",
            vec![still(reason, "The new revision was sent back."), degraded(reason, message)],
        ),
        Stage::Draining => (
            if answers { "Ready" } else { "Starting" },
            vec![progressing("Switching", "The old revision ends its requests."), well()],
        ),
        Stage::Live if !answers => {
            ("Idle", vec![still("Complete", "The wanted revision is served."), well()])
        }
        Stage::Live => ("Ready", vec![still("Complete", "The wanted revision is served."), well()]),
    };
    let mut found = vec![ready(seen, decision, answers)];
    found.extend(rest);
    (state, found)
}

/// Whether the address answers: a gateway is there, and a server behind it.
fn answers(seen: &Observed, decision: &Decision) -> bool {
    let served = decision.route.as_ref().and_then(|revision| seen.servers.get(revision));
    served.is_some_and(|server| server.available > 0) && gateway_is_there(seen)
}

fn gateway_is_there(seen: &Observed) -> bool {
    seen.gateway.as_ref().is_some_and(|gateway| gateway.available > 0)
}

fn ready(seen: &Observed, decision: &Decision, answers: bool) -> Finding {
    let idle = |revision: &String| {
        seen.servers.get(revision).is_some_and(|server| server.wanted == 0)
            && decision.replicas.get(revision) == Some(&0)
    };
    match (&decision.route, answers) {
        (Some(revision), false) if idle(revision) && gateway_is_there(seen) => {
            let message = format!(
                "Nobody asks: revision {revision} has no server. The next request starts one."
            );
            finding(types::READY, Truth::True, "Idle", message)
        }
        (Some(revision), true) => {
            let message = format!("Revision {revision} answers.");
            finding(types::READY, Truth::True, "Serving", message)
        }
        (Some(revision), false) if !gateway_is_there(seen) => {
            let message = format!("Revision {revision} waits for the gateway.");
            finding(types::READY, Truth::False, "GatewayNotReady", message)
        }
        (Some(revision), false) => {
            let message = format!("No server of revision {revision} is ready.");
            finding(types::READY, Truth::False, "ServersNotReady", message)
        }
        (None, _) => {
            let message = "Nothing is served yet.".to_owned();
            finding(types::READY, Truth::False, "NothingServed", message)
        }
    }
}

/// Events for what changed.
pub fn notices(before: &ModelDeploymentStatus, after: &ModelDeploymentStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |warning, reason, note: String| notices.push(Notice { warning, reason, note });
    let stable = |status: &ModelDeploymentStatus| {
        status.stable.as_ref().map(|revision| revision.revision.clone())
    };
    let canary = |status: &ModelDeploymentStatus| {
        status.canary.as_ref().map(|revision| revision.revision.clone())
    };
    if let Some(revision) = canary(after).filter(|new| Some(new) != canary(before).as_ref()) {
        say(false, "RevisionCreated", format!("Revision {revision} is on its way."));
    }
    if let Some(revision) = stable(after).filter(|new| Some(new) != stable(before).as_ref()) {
        say(false, "TrafficSwitched", format!("All traffic goes to revision {revision}."));
    }
    let step = |status: &ModelDeploymentStatus| {
        let canary = status.canary.as_ref().filter(|_| status.rollout.is_some())?;
        Some((canary.revision.clone(), canary.weight, status.rollout.as_ref()?.step))
    };
    if let Some((revision, weight, at)) =
        step(after).filter(|new| Some(new) != step(before).as_ref())
    {
        say(
            false,
            "StepBegun",
            format!("Step {at}: revision {revision} gets {weight} % of the traffic."),
        );
    }
    let servers = |status: &ModelDeploymentStatus| {
        let stable = status.stable.as_ref()?;
        Some((stable.revision.clone(), stable.replicas?))
    };
    if let (Some((revision, from)), Some((same, to))) = (servers(before), servers(after))
        && revision == same
        && from != to
    {
        say(false, "Scaled", format!("Revision {revision} gets {to} servers instead of {from}."));
    }
    let verdict = |status: &ModelDeploymentStatus| status.experiment.as_ref()?.verdict;
    if let Some(found) = verdict(after).filter(|new| Some(new) != verdict(before).as_ref()) {
        say(false, "Compared", format!("The comparison of users has a verdict: {found:?}."));
    }
    let degraded = condition::holding(&after.conditions, types::DEGRADED);
    let then = condition::get(&before.conditions, types::DEGRADED);
    if let Some(now) = degraded
        && then.is_none_or(|then| then.status != now.status || then.reason != now.reason)
    {
        say(true, "Degraded", format!("{}: {}", now.reason, now.message));
    }
    let drifted = condition::holding(&after.conditions, types::DRIFTED);
    if let Some(now) = drifted
        && condition::holding(&before.conditions, types::DRIFTED).is_none()
    {
        say(true, "Drifted", now.message.clone());
    }
    let unrouted = |status: &ModelDeploymentStatus| {
        condition::get(&status.conditions, types::ROUTED).filter(|c| c.status == "False").cloned()
    };
    if let Some(now) = unrouted(after)
        && unrouted(before).is_none_or(|then| then.reason != now.reason)
    {
        say(true, "NotRouted", format!("{}: {}", now.reason, now.message));
    }
    notices
}

/// When to look again.
fn look_again(verdict: &Verdict<'_>) -> Action {
    let Verdict::Stage(valid, _, seen, decision) = verdict else { return Action::requeue(RESYNC) };
    let seconds = Duration::from_secs;
    let by_stage = match &decision.stage {
        _ if !seen.silent_nodes.is_empty() => seconds(5),
        Stage::Draining => seconds(2),
        Stage::RollingOut { .. } => seconds(traffic::look_every(valid)),
        Stage::RolledBack { .. } if seen.servers.len() > 1 => seconds(2),
        Stage::Waiting { .. } => seconds(30),
        Stage::Compressing(_) if seen.quantize_pods.iter().any(|pod| pod.deadline.is_some()) => {
            seconds(5)
        }
        Stage::Compressing(_) => seconds(10),
        Stage::Refused { .. }
        | Stage::RolledBack { .. }
        | Stage::Starting(_)
        | Stage::Stuck(_)
        | Stage::Live => RESYNC,
    };
    // Somebody may be waiting for a first server.
    let idle = decision.replicas.values().any(|servers| *servers == 0);
    let by_traffic = seconds(if idle { 1 } else { 5 });
    let scaled = !decision.replicas.is_empty();
    let by_stage = if scaled { by_stage.min(by_traffic) } else { by_stage };
    let watched = valid.spec.serving.drift.is_some();
    let by_stage = if watched { by_stage.min(drift::LOOK_EVERY) } else { by_stage };
    Action::requeue(route::look_again(valid, seen).map_or(by_stage, |time| time.min(by_stage)))
}
