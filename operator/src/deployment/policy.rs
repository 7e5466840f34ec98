//! Decides what a deployment's next step is: compress, serve, route, let go.
//!
//! Invariant 15: traffic goes to a revision only once its servers are ready,
//! and an old revision stays until every gateway has said that it sends
//! traffic elsewhere and the longest request has had its time.

use std::collections::BTreeSet;

use hearth_crds::model_deployment::CompressionReport;
use hearth_crds::worker_config::WorkerResult;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::observed::{Model, Observed, Workload};
use super::target::{Artifact, Target};
use super::validate::ValidDeployment;
use crate::children::LostPod;
use crate::lost_pods::lost_pods;
use crate::observed::{JobEnd, JobView, Phase, PodView, RESULT_PATIENCE};

/// Requests begun just before the switch may take their time limit and this.
const DRAIN_MARGIN: SignedDuration = SignedDuration::from_secs(5);
/// Kubernetes' termination grace period where a pod sets none.
const DEFAULT_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// The next step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Where the deployment stands.
    pub stage: Stage,
    /// The Job that compresses should be there.
    pub compress: bool,
    /// The target's servers should be there.
    pub serve: bool,
    /// The revision that gets the traffic.
    pub route: Option<String>,
    /// Since when it gets the traffic.
    pub routed_at: Option<Timestamp>,
    /// Revisions and artifacts whose objects stay.
    pub keep: BTreeSet<String>,
    /// What compression did to the target's model.
    pub compression: Option<CompressionReport>,
    /// Pods on dead nodes that count as failed from now on.
    pub lost_pods: Vec<LostPod>,
}

impl Decision {
    /// Whether there is something to send traffic to, or soon will be.
    pub fn has_gateway(&self) -> bool {
        self.serve || self.route.is_some()
    }
}

/// Where a deployment stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Stage {
    /// There is no model yet: reason and sentence.
    Waiting {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// It will not come by waiting.
        hopeless: bool,
    },
    /// The model is being compressed.
    Compressing(String),
    /// The compressed model is refused: reason and sentence.
    Refused {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// Servers of the target are starting.
    Starting(String),
    /// They do not become ready.
    Stuck(String),
    /// Traffic goes to the target; the old revision is still there.
    Draining,
    /// The target serves, and nothing else is there.
    #[default]
    Live,
}

/// The next step, from what was observed.
pub fn decide(
    valid: &ValidDeployment,
    target: Option<&Target>,
    seen: &Observed,
    now: Timestamp,
) -> Decision {
    let mut decision = step(valid, target, seen, now);
    // A compression stays as long as what is served of it.
    let kept = seen.servers.iter().filter(|(revision, _)| decision.keep.contains(*revision));
    let made: Vec<_> = kept.filter_map(|(_, server)| server.artifact.clone()).collect();
    decision.keep.extend(made);
    decision
}

fn step(
    valid: &ValidDeployment,
    target: Option<&Target>,
    seen: &Observed,
    now: Timestamp,
) -> Decision {
    let routed = seen.routed().map(str::to_owned);
    // What has traffic keeps it until the target is ready.
    let mut decision = Decision {
        keep: routed.iter().cloned().collect(),
        route: routed,
        routed_at: seen.routed_at,
        lost_pods: lost_pods(&seen.quantize_pods, &seen.silent_nodes, DEFAULT_GRACE, now),
        ..Decision::default()
    };
    let Some(target) = target else {
        decision.keep.extend(seen.servers.keys().cloned());
        decision.stage = waiting(&seen.model);
        return decision;
    };
    decision.keep.insert(target.revision.clone());
    decision.keep.extend(target.artifact.as_ref().map(|artifact| artifact.id.clone()));
    let server = seen.servers.get(&target.revision);
    if server.is_none() && !seen.missing_claims.is_empty() {
        decision.stage = missing_claims(valid, &seen.missing_claims);
        return decision;
    }
    match compressed(target, seen, now) {
        Compressed::Done(report) => decision.compression = report,
        Compressed::Open(message) => {
            decision.compress = true;
            decision.stage = Stage::Compressing(message);
            return decision;
        }
        Compressed::Refused { reason, message } => {
            // The Job stays as the record of why.
            decision.compress = true;
            decision.stage = Stage::Refused { reason, message };
            return decision;
        }
    }
    // Kept for its log while the revision lives.
    decision.compress = seen.quantize.is_some();
    decision.serve = true;
    route(&mut decision, valid, target, seen, now);
    decision
}

/// Sends traffic to the target once it is ready, and then lets go of the rest.
fn route(
    decision: &mut Decision,
    valid: &ValidDeployment,
    target: &Target,
    seen: &Observed,
    now: Timestamp,
) {
    let is_routed = decision.route.as_ref() == Some(&target.revision);
    let server = seen.servers.get(&target.revision);
    let ready = server.is_some_and(|server| server.complete);
    if !is_routed {
        if !ready {
            decision.stage = starting(server, &seen.server_pods);
            return;
        }
        decision.route = Some(target.revision.clone());
        decision.routed_at = Some(now);
        decision.keep.extend(seen.servers.keys().cloned());
        decision.stage = Stage::Draining;
        return;
    }
    if seen.servers.len() > 1 && !drained(valid, target, seen, now) {
        decision.keep.extend(seen.servers.keys().cloned());
        decision.stage = Stage::Draining;
        return;
    }
    let answering = server.is_some_and(|server| server.available > 0);
    let gateway = seen.gateway.as_ref();
    decision.stage = match (ready || answering, gateway) {
        (false, _) => starting(server, &seen.server_pods),
        (true, Some(gateway)) if gateway.available > 0 => Stage::Live,
        (true, Some(Workload { stuck: Some(why), .. })) => {
            Stage::Stuck(format!("the gateway does not become ready: {why}"))
        }
        (true, _) => Stage::Starting("the gateway is starting".into()),
    };
}

/// Whether nothing can still be sent to an old revision.
fn drained(valid: &ValidDeployment, target: &Target, seen: &Observed, now: Timestamp) -> bool {
    let longest = i64::from(valid.spec.gateway.request_timeout_seconds);
    let time = SignedDuration::from_secs(longest) + DRAIN_MARGIN;
    let over = seen.routed_at.is_none_or(|at| now.duration_since(at) >= time);
    let told = seen.gateways_at.as_ref().is_some_and(|gateways| {
        !gateways.is_empty() && gateways.iter().all(|at| at.as_ref() == Some(&target.revision))
    });
    over && told
}

/// How far the target's compression is.
enum Compressed {
    Done(Option<CompressionReport>),
    Open(String),
    Refused { reason: &'static str, message: String },
}

fn compressed(target: &Target, seen: &Observed, now: Timestamp) -> Compressed {
    let Some(artifact) = &target.artifact else { return Compressed::Done(None) };
    // Servers of this or another revision were started from it: it is whole.
    let made = seen.servers.values().find(|server| server.artifact.as_ref() == Some(&artifact.id));
    if let Some(server) = made {
        return Compressed::Done(server.compression.clone());
    }
    let Some(job) = &seen.quantize else {
        return Compressed::Open("the compression is about to start".into());
    };
    match &job.ended {
        None => Compressed::Open(compressing(&seen.quantize_pods)),
        Some(end) => {
            let result = newest_result(&seen.quantize_pods);
            let fresh = end.at().is_some_and(|at| now.duration_since(at) < RESULT_PATIENCE);
            match (end, result) {
                // The pod's own watch may be a moment behind the Job's.
                (_, None) if fresh => Compressed::Open("its result is on its way".into()),
                (JobEnd::Complete { .. }, result) => {
                    Compressed::Done(result.and_then(|result| result.compression))
                }
                (JobEnd::Failed { message, .. }, result) => refused(job, message, result, artifact),
            }
        }
    }
}

fn refused(
    job: &JobView,
    message: &str,
    result: Option<WorkerResult>,
    artifact: &Artifact,
) -> Compressed {
    debug_assert!(job.ended.is_some(), "only an ended Job is refused");
    let Some(result) = result else {
        let message = format!("{message}: see `kubectl logs job/{}`", artifact.job);
        return Compressed::Refused { reason: "CompressionFailed", message };
    };
    let gate = result.exit_code == hearth_crds::worker_config::ExitCode::GateFailed as i32;
    let figures = result.compression.as_ref().and_then(|report| {
        let (before, after) = (report.metric_before?, report.metric_after?);
        Some(format!(" (before {before:.4}, after {after:.4})"))
    });
    let message = format!("{}{}", result.message, figures.unwrap_or_default());
    Compressed::Refused { reason: if gate { "GateFailed" } else { "CompressionFailed" }, message }
}

fn newest_result(pods: &[PodView]) -> Option<WorkerResult> {
    let ended = pods.iter().filter_map(|pod| pod.exit.as_ref());
    ended.max_by_key(|exit| exit.at).and_then(crate::observed::Exit::result)
}

fn compressing(pods: &[PodView]) -> String {
    let live = || pods.iter().filter(|pod| !pod.is_over());
    match blocked(pods) {
        Some(why) => why,
        None if live().any(|pod| pod.phase == Phase::Running) => {
            "the model is being compressed and judged".into()
        }
        None => "the compression's pod is starting".into(),
    }
}

fn starting(server: Option<&Workload>, pods: &[PodView]) -> Stage {
    let Some(server) = server else {
        return Stage::Starting("its servers are about to start".into());
    };
    let counts = format!("{} of {} servers are ready", server.available, server.wanted);
    match (&server.stuck, blocked(pods)) {
        (Some(why), blocked) => {
            let why = blocked.unwrap_or_else(|| why.clone());
            Stage::Stuck(format!("{counts}: {why}"))
        }
        (None, Some(why)) => Stage::Starting(format!("{counts}: {why}")),
        (None, None) => Stage::Starting(counts),
    }
}

/// What keeps a pod from starting, if a person can change it.
fn blocked(pods: &[PodView]) -> Option<String> {
    let live = || pods.iter().filter(|pod| !pod.is_over() && pod.deadline.is_none());
    let unplaced = live().find_map(|pod| Some((pod, pod.unschedulable.as_ref()?)));
    if let Some((pod, why)) = unplaced {
        return Some(format!("no node takes pod {}: {why}", pod.name));
    }
    live().find_map(|pod| {
        let (reason, message) = pod.waiting.as_ref()?;
        let ordinary = ["ContainerCreating", "PodInitializing"].contains(&reason.as_str());
        let last = pod.exit.as_ref().map(|exit| match exit.result() {
            Some(result) => format!("; its last words: {}", result.message),
            None => format!("; its last exit code: {}", exit.code),
        });
        let last = last.unwrap_or_default();
        (!ordinary).then(|| format!("pod {} waits: {reason}: {message}{last}", pod.name))
    })
}

fn waiting(model: &Model) -> Stage {
    match model {
        Model::Missing { reason, message, hopeless } => {
            Stage::Waiting { reason, message: message.clone(), hopeless: *hopeless }
        }
        Model::Here { .. } | Model::Unknown => Stage::Waiting {
            reason: "WaitingForModel",
            message: "the model is not known yet".into(),
            hopeless: false,
        },
    }
}

fn missing_claims(valid: &ValidDeployment, claims: &[String]) -> Stage {
    Stage::Waiting {
        reason: "MissingClaim",
        message: format!(
            "namespace {} has no PersistentVolumeClaim {}: create it, and the deployment goes on by itself",
            valid.namespace,
            claims.join(", ")
        ),
        hopeless: false,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
