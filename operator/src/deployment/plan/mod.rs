//! Turns a decision about a deployment into the objects that carry it out.
//!
//! Absent on purpose: clients, clocks, randomness, logs.

mod gateway;
mod quantize;
mod server;

use hearth_crds::names;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::children::{Child, ChildId, LiveChildren, Parent, Plan};
use crate::deployment::policy::Decision;
use crate::deployment::target::Target;
use crate::deployment::validate::ValidDeployment;
use crate::training_job::plan::Settings;

/// Role of the pods that compress.
pub const QUANTIZE: &str = "quantize";
/// Role of the pods that serve.
pub const SERVER: &str = "server";
/// Role of the gateways.
pub const GATEWAY: &str = "gateway";
/// Annotation of a server Deployment: the directory that it serves.
pub const ANNOTATION_MODEL: &str = "hearth.dev/model";
/// Annotation of a server Deployment: digest of the source model.
pub const ANNOTATION_DIGEST: &str = "hearth.dev/digest";
/// Annotation of a server Deployment: the compression that the model came from.
pub const ANNOTATION_ARTIFACT: &str = "hearth.dev/artifact";
/// Annotation of a server Deployment: what that compression did, as JSON.
pub const ANNOTATION_COMPRESSION: &str = "hearth.dev/compression";
/// Annotation of the routing table: when traffic went to another revision.
pub const ANNOTATION_ROUTED_AT: &str = "hearth.dev/routed-at";
/// Time for endpoints to forget a pod before it is told to end.
const PRE_STOP_SECONDS: i64 = 5;

/// What every builder here needs.
struct Frame<'a> {
    valid: &'a ValidDeployment,
    parent: Parent,
    settings: &'a Settings,
}

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
        if decision.has_gateway() { gateway::children(&frame, decision) } else { Vec::new() };
    if let Some(target) = target {
        if let Some(artifact) = target.artifact.as_ref().filter(|_| decision.compress) {
            children.extend(quantize::children(&frame, target, artifact));
        }
        if decision.serve {
            children.extend(server::children(&frame, target, decision));
        }
    }
    children.sort_by_key(Child::kind);
    let prune = superfluous(&children, decision, live);
    // Whether to compress is no one else's to say.
    Plan { children, prune, suspend: Some(false), lost_pods: decision.lost_pods.clone() }
}

/// Live objects of revisions that are not to be kept. What has no revision
/// (gateway, routing) stays for the deployment's life.
fn superfluous(children: &[Child], decision: &Decision, live: &LiveChildren) -> Vec<ChildId> {
    let wanted: Vec<_> = children.iter().map(Child::id).collect();
    live.iter()
        .filter(|(id, _)| !wanted.contains(id))
        .filter(|(_, there)| {
            there.revision.as_ref().is_some_and(|revision| !decision.keep.contains(revision))
        })
        .map(|(id, _)| id.clone())
        .collect()
}

impl Frame<'_> {
    /// Metadata of a child of this revision.
    fn meta(&self, name: &str, component: &str, revision: &str) -> ObjectMeta {
        let mut meta = self.parent.child_meta(name, component);
        let labels = meta.labels.get_or_insert_default();
        labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        meta
    }

    /// Metadata of the pods of this revision.
    fn pod_meta(&self, component: &str, revision: Option<&str>) -> ObjectMeta {
        let mut meta = self.parent.child_meta("", component);
        if let Some(revision) = revision {
            let labels = meta.labels.get_or_insert_default();
            labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        }
        ObjectMeta { name: None, namespace: None, owner_references: None, ..meta }
    }

    /// Labels that select the pods of this revision.
    fn selector(&self, component: &str, revision: &str) -> LabelSelector {
        let mut labels = self.parent.selector(component);
        labels.insert(names::LABEL_REVISION.into(), revision.to_owned());
        LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
    }
}

/// A drain takes one of several pods at a time.
fn budget(metadata: ObjectMeta, selector: LabelSelector) -> Child {
    Child::PodDisruptionBudget(PodDisruptionBudget {
        metadata,
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
