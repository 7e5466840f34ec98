//! Decides what a deployment's next step is: compress, serve, route, let go.
//!
//! Invariant 15: traffic goes to a revision only once its servers are ready,
//! and a revision without traffic stays until every gateway has said that it sends
//! none there and the longest request has had its time.

mod compress;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use hearth_crds::TrainingJob;
use hearth_crds::model_deployment::{CompressionReport, Routing};
use hearth_crds::routing::Measure;
use k8s_openapi::jiff::Timestamp;

use super::observed::{Model, Observed, Route, Workload};
use super::rollout::{Counted, Record, Step};
use super::scale;
use super::target::Target;
use super::validate::ValidDeployment;
use crate::children::LostPod;
use crate::lost_pods::{DEFAULT_GRACE, lost_pods};
use crate::observed::{PodView, blocked};
pub use compress::Compression;
use compress::{Compressed, compressed};

/// The next step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Where the deployment stands.
    pub stage: Stage,
    /// The job that comes before compression should be there.
    pub train: Option<Box<TrainingJob>>,
    /// The Job that compresses.
    pub compress: Compression,
    /// The target's servers should be there.
    pub serve: bool,
    /// The revision that serves: all traffic is its, but for what is the canary's.
    pub route: Option<String>,
    /// The revision that is tried beside it.
    pub canary: Option<Canary>,
    /// An HTTPRoute should lead to the gateways.
    pub http_route: bool,
    /// When a revision last lost its traffic.
    pub routed_at: Option<Timestamp>,
    /// Servers that each revision should have, where they follow the traffic.
    pub replicas: BTreeMap<String, i32>,
    /// How far a rollout is.
    pub record: Record,
    /// What gateways counted of the present step.
    pub counted: Counted,
    /// Revisions and artifacts whose objects stay.
    pub keep: BTreeSet<String>,
    /// What compression did to the target's model.
    pub compression: Option<CompressionReport>,
    /// Pods on dead nodes that count as failed from now on.
    pub lost_pods: Vec<LostPod>,
}

/// A revision that is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The revision.
    pub revision: String,
    /// What it gets.
    pub step: Step,
    /// What is counted meanwhile.
    pub measure: Measure,
}

impl Decision {
    /// The revisions that requests or copies of them get to.
    pub fn reached(&self) -> BTreeSet<String> {
        let step = self.canary.as_ref().map(|canary| &canary.step);
        let tried = step.is_some_and(|step| step.weight > 0 || step.shadow.is_some());
        let canary = self.canary.iter().filter(|_| tried).map(|canary| &canary.revision);
        let keeps = step.is_none_or(|step| step.weight < 100);
        self.route.iter().filter(|_| keeps).chain(canary).cloned().collect()
    }

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
    /// The target is tried on traffic: reason and sentence.
    RollingOut {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// The target was sent back; what served before it still does.
    RolledBack {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
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
    let routes = matches!(seen.route, Route::Served(_));
    decision.http_route = routes && valid.spec.routing == Routing::HTTPRoute;
    let (before, after) = (seen.reached(), decision.reached());
    if before != after && (before.is_empty() || !before.is_subset(&after)) {
        decision.routed_at = Some(now);
    }
    if !traffic::drained(valid, &after, seen, now, decision.routed_at) {
        decision.keep.extend(seen.servers.keys().cloned());
    }
    decision.replicas = replicas(valid, target, seen, &decision);
    // A compression stays as long as what is served of it.
    let kept = seen.servers.iter().filter(|(revision, _)| decision.keep.contains(*revision));
    let made: Vec<_> = kept.filter_map(|(_, server)| server.artifact.clone()).collect();
    decision.keep.extend(made);
    decision
}

/// Servers of each revision that has traffic or is to get it.
fn replicas(
    valid: &ValidDeployment,
    target: Option<&Target>,
    seen: &Observed,
    decision: &Decision,
) -> BTreeMap<String, i32> {
    let Some(autoscaling) = &valid.spec.serving.autoscaling else { return BTreeMap::new() };
    let there = |revision: &str| seen.servers.get(revision).map(|server| server.wanted);
    let by_traffic = |revision: &str, now: i32| {
        let requests = scale::requests(autoscaling, &seen.measured, revision);
        let servers = seen.server_loads.get(revision).map_or(&[][..], Vec::as_slice);
        scale::wanted(autoscaling, now, &requests, &scale::tokens(autoscaling, servers))
    };
    let begin = valid.spec.serving.replicas;
    let mut all = BTreeMap::new();
    let old = decision.route.as_ref().map(|stable| {
        let now = there(stable).unwrap_or(begin);
        let wanted = by_traffic(stable, now);
        // While another is tried, it must be able to take all traffic back.
        let wanted = if decision.record.current.is_some() { wanted.max(now) } else { wanted };
        all.insert(stable.clone(), wanted);
        wanted
    });
    let tried = target.filter(|target| Some(&target.revision) != decision.route.as_ref());
    if let Some(target) = tried.filter(|_| decision.serve) {
        // One that starts at all proves that it can.
        let least = old.unwrap_or(begin).max(1);
        let now = there(&target.revision).unwrap_or(least).max(least);
        all.insert(target.revision.clone(), by_traffic(&target.revision, now).max(least));
    }
    all
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
        record: Record { current: None, ..seen.record.clone() },
        train: seen.training.clone(),
        lost_pods: lost_pods(&seen.quantize_pods, &seen.silent_nodes, DEFAULT_GRACE, now),
        ..Decision::default()
    };
    let Some(target) = target else {
        decision.keep.extend(seen.servers.keys().cloned());
        decision.stage = waiting(&seen.model);
        return decision;
    };
    decision.keep.extend(target.artifact.as_ref().map(|artifact| artifact.id.clone()));
    if let Some(rejected) = traffic::rejected(valid, target, seen) {
        decision.compress = Compression::kept(seen);
        decision.stage = traffic::sent_back(rejected);
        return decision;
    }
    decision.keep.insert(target.revision.clone());
    let server = seen.servers.get(&target.revision);
    if server.is_none() && !seen.missing_claims.is_empty() {
        decision.stage = missing_claims(valid, &seen.missing_claims);
        return decision;
    }
    match compressed(target, seen, now) {
        Compressed::Done(report) => decision.compression = report,
        Compressed::Open(message) => {
            decision.compress = Compression::wanted(seen);
            decision.stage = Stage::Compressing(message);
            return decision;
        }
        Compressed::Refused { reason, message } => {
            // The Job stays as the record of why.
            decision.compress = Compression::wanted(seen);
            decision.stage = Stage::Refused { reason, message };
            return decision;
        }
    }
    // Kept for its log while the revision lives.
    decision.compress = Compression::kept(seen);
    decision.serve = true;
    traffic::route(&mut decision, valid, target, (seen, now));
    decision
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
mod tests;
