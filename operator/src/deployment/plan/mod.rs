//! Turns a decision about a deployment into the objects that carry it out.
//!
//! Absent on purpose: clients, clocks, randomness, logs.

mod frame;
pub(super) mod gateway;
mod quantize;
mod route;
mod server;

use frame::Frame;

use crate::children::{Child, ChildId, Kind, LiveChildren, Plan};
use crate::deployment::marks::QUANTIZE;
use crate::deployment::policy::{Compression, Decision};
use crate::deployment::target::{Target, server_name};
use crate::deployment::validate::ValidDeployment;
use crate::settings::Settings;

/// The objects of a deployment, and those that must go.
pub fn build(
    valid: &ValidDeployment,
    target: Option<&Target>,
    decision: &Decision,
    live: &LiveChildren,
    settings: &Settings,
) -> Plan {
    let frame = Frame { valid, parent: valid.parent(), settings };
    // No gateway waits for hours for a model that is still being trained.
    let mut children =
        if decision.has_gateway() { gateway::children(&frame, decision, live) } else { Vec::new() };
    if decision.has_gateway() && decision.http_route {
        children.extend(route::child(&frame));
    }
    children.extend(decision.train.clone().map(Child::TrainingJob));
    if let Some(target) = target {
        if let Some(artifact) =
            target.artifact.as_ref().filter(|_| decision.compress != Compression::Absent)
        {
            children.extend(quantize::children(&frame, target, artifact));
        }
        if decision.serve {
            children.extend(server::children(&frame, target, decision));
        }
    }
    children.sort_by_key(Child::kind);
    let mut prune = superfluous(valid, &children, decision, live);
    prune.extend(outdated_compression(&children, decision, live));
    // Whether to compress is no one else's to say.
    let lost_pods = decision.lost_pods.clone();
    let scale = decision.replicas.iter().map(|(revision, replicas)| {
        let name = server_name(valid, revision);
        (ChildId { kind: Kind::Deployment, name }, *replicas)
    });
    let scale = scale.collect();
    Plan { children, prune, scale, suspend: Some(false), lost_pods, ..Plan::default() }
}

/// The Job that compresses, where it waits by settings that are not those of the spec any more. A Job's pods
/// cannot be changed: once it is gone, it is made anew.
fn outdated_compression(
    children: &[Child],
    decision: &Decision,
    live: &LiveChildren,
) -> Option<ChildId> {
    let job = children.iter().find(|child| child.kind() == Kind::Job)?;
    let there = live
        .get(&job.id())
        .filter(|there| decision.compress == Compression::Idle && job.differs(there));
    there.map(|_| job.id())
}

/// Live objects of revisions that are not to be kept, and what the others need no more. What
/// else has no revision (gateway, routing) stays for the deployment's life.
fn superfluous(
    valid: &ValidDeployment,
    children: &[Child],
    decision: &Decision,
    live: &LiveChildren,
) -> Vec<ChildId> {
    let wanted: Vec<_> = children.iter().map(Child::id).collect();
    let trains = valid.spec.compression.as_ref().is_some_and(|asked| asked.training.is_some());
    let compresses = wanted.iter().chain(live.keys()).any(|id| id.kind == Kind::Job);
    let unneeded = |id: &ChildId| match id.kind {
        // Its Deployment has one pod from now on.
        Kind::PodDisruptionBudget => {
            wanted.contains(&ChildId { kind: Kind::Deployment, ..id.clone() })
        }
        Kind::HTTPRoute => true,
        // One of another model or of other settings; kept while it is not known which is wanted.
        Kind::TrainingJob => decision.train.is_some() || !trains,
        Kind::NetworkPolicy => !compresses && id.name == valid.child_name(QUANTIZE),
        _ => false,
    };
    let outlived = |revision: &String| !decision.keep.contains(revision);
    live.iter()
        .filter(|(id, _)| !wanted.contains(id))
        .filter(|(id, there)| there.revision.as_ref().is_some_and(outlived) || unneeded(id))
        .map(|(id, _)| id.clone())
        .collect()
}
