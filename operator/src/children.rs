//! The objects that Hearth owns: wanted ones, live ones, and the difference.
//!
//! A wanted object carries a hash of itself in an annotation. A live one with
//! the same hash was written by this operator with the same content, so there
//! is nothing to send. What other controllers default or mutate in it is
//! theirs and is not fought over.

use std::collections::BTreeMap;

use hearth_crds::training_job::Stop;
use hearth_crds::{TrainingJob, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use serde_json::{Value, json};

pub use crate::seen::Kind;

/// Annotation with the hash of what the operator last wrote.
pub const ANNOTATION_HASH: &str = "hearth.dev/applied-hash";
/// Annotation with the hash of the spec that a Job was started with.
pub const ANNOTATION_SPEC_HASH: &str = "hearth.dev/spec-hash";
/// Annotation with the parent's whole name, where labels hold a cut one.
pub const ANNOTATION_PARENT: &str = "hearth.dev/parent";
/// Annotation of a deployment's routing table: there may be an HTTPRoute.
pub const ANNOTATION_HTTP_ROUTE: &str = "hearth.dev/http-route";

/// An object that should be there.
#[derive(Clone, Debug, PartialEq)]
pub enum Child {
    /// Configuration of a worker, which is immutable and created once, or a routing table.
    ConfigMap(ConfigMap),
    /// Identity of gateways.
    ServiceAccount(ServiceAccount),
    /// What gateways may read.
    Role(Role),
    /// Gives the role to the gateways.
    RoleBinding(RoleBinding),
    /// A name for pods.
    Service(Box<Service>),
    /// Who may talk to pods.
    NetworkPolicy(NetworkPolicy),
    /// How many pods a drain may take at once.
    PodDisruptionBudget(PodDisruptionBudget),
    /// Training or compression. Created once; only `suspend` and the number of pods change later.
    Job(Box<Job>),
    /// Servers or gateways.
    Deployment(Box<Deployment>),
    /// What leads a Gateway of the Gateway API to the gateways.
    HttpRoute(Box<DynamicObject>),
    /// A trial of a sweep. Created once.
    TrainingJob(Box<TrainingJob>),
}

impl Child {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Role(_) => Kind::Role,
            Self::RoleBinding(_) => Kind::RoleBinding,
            Self::Service(_) => Kind::Service,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Self::Job(_) => Kind::Job,
            Self::Deployment(_) => Kind::Deployment,
            Self::HttpRoute(_) => Kind::HTTPRoute,
            Self::TrainingJob(_) => Kind::TrainingJob,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ConfigMap(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Role(object) => &object.metadata,
            Self::RoleBinding(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
            Self::Job(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::TrainingJob(object) => &object.metadata,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// Kind and name.
    pub fn id(&self) -> ChildId {
        ChildId { kind: self.kind(), name: self.name().to_owned() }
    }

    /// What is sent to the API server, its own hash included.
    pub fn manifest(&self) -> Value {
        let mut value = self.to_value();
        let hash = names::digest(&value);
        value["metadata"]["annotations"][ANNOTATION_HASH] = json!(hash);
        value
    }

    /// Whether it was written otherwise than it is wanted now.
    pub fn differs(&self, there: &Live) -> bool {
        names::digest(&self.to_value()) != there.hash
    }

    /// The object without its hash.
    pub fn to_value(&self) -> Value {
        let value = match self {
            Self::ConfigMap(object) => serde_json::to_value(object),
            Self::ServiceAccount(object) => serde_json::to_value(object),
            Self::Role(object) => serde_json::to_value(object),
            Self::RoleBinding(object) => serde_json::to_value(object),
            Self::Service(object) => serde_json::to_value(object),
            Self::NetworkPolicy(object) => serde_json::to_value(object),
            Self::PodDisruptionBudget(object) => serde_json::to_value(object),
            Self::Job(object) => serde_json::to_value(object),
            Self::Deployment(object) => serde_json::to_value(object),
            Self::HttpRoute(object) => serde_json::to_value(object),
            Self::TrainingJob(object) => serde_json::to_value(object),
        };
        // Maps with string keys throughout: this cannot fail.
        value.unwrap_or_default()
    }
}

/// Kind and name of a child in its parent's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: String,
}

/// What matters about an object that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// UID: a write with another one is refused by the API server.
    pub uid: String,
    /// UID of the controlling owner.
    pub owner: String,
    /// The hash annotation.
    pub hash: String,
    /// Revision label, of a deployment's children.
    pub revision: Option<String>,
    /// Contents of a ConfigMap: cheap to compare, and routing depends on them.
    pub data: Option<BTreeMap<String, String>>,
    /// `spec.suspend` of a Job.
    pub suspended: bool,
    /// `spec.completions` of a Job, `spec.replicas` of a Deployment.
    pub pods: Option<i32>,
    /// Marked with [`ANNOTATION_HTTP_ROUTE`].
    pub has_route: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Resource version.
    pub version: u64,
}

/// The live children of one parent.
pub type LiveChildren = BTreeMap<ChildId, Live>;

/// What should be true of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Objects that should be there, in the order of writing.
    pub children: Vec<Child>,
    /// Objects that should not be there any more.
    pub prune: Vec<ChildId>,
    /// Whether each Job of the plan should be suspended; absent where that is
    /// Kueue's to say.
    pub suspend: Option<bool>,
    /// How many pods each Job of the plan should have, where that may change.
    pub pods: Option<i32>,
    /// How many pods these Deployments should have, where that follows the traffic.
    pub scale: BTreeMap<ChildId, i32>,
    /// Trials that are to end before their time.
    pub stop: Vec<(ChildId, Stop)>,
    /// Pods on dead nodes that count as failed from now on.
    pub lost_pods: Vec<LostPod>,
}

/// A pod that no kubelet will report on any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostPod {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The node.
    pub node: String,
}

/// One request that changes the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create by server-side apply, giving way to whoever else owns the name.
    Create(ChildId, Value),
    /// Server-side apply over the object with this UID.
    Update(ChildId, Value),
    /// Server-side apply of `spec.suspend` alone.
    Suspend(ChildId, bool),
    /// Server-side apply of a Job's `spec.parallelism` and `spec.completions` alone, or of a
    /// Deployment's `spec.replicas`.
    Scale(ChildId, i32),
    /// Server-side apply of `spec.stop` alone to the TrainingJob with this UID.
    Stop(ChildId, String, Stop),
    /// Delete the object with this UID, its dependents in the background.
    Delete(ChildId, String),
    /// Mark a pod as failed.
    FailPod(LostPod),
}

/// A child's name is taken by an object that is not the parent's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} is there already and belongs to another owner: delete it or choose another name", kind = .0.kind.as_str(), name = .0.name)]
pub struct NameTaken(pub ChildId);

/// The requests that make `plan` true; empty where it is.
pub fn difference(plan: &Plan, live: &LiveChildren, owner: &str) -> Result<Vec<Write>, NameTaken> {
    let mut writes = Vec::new();
    for child in &plan.children {
        let id = child.id();
        match live.get(&id) {
            None => writes.push(Write::Create(id, child.manifest())),
            Some(there) if there.owner != owner => return Err(NameTaken(id)),
            Some(there) if there.deleting => {}
            Some(there) if matches!(id.kind, Kind::Job | Kind::TrainingJob) => {
                if let Some(pods) = plan.pods
                    && there.pods.is_some_and(|there| there != pods)
                {
                    writes.push(Write::Scale(id.clone(), pods));
                }
                if let Some(suspend) = plan.suspend
                    && suspend != there.suspended
                {
                    writes.push(Write::Suspend(id, suspend));
                }
            }
            // A later version of the operator may write it otherwise; the pods have read it.
            Some(_) if is_immutable(child) => {}
            Some(there) => {
                let mut manifest = child.manifest();
                let hash = manifest["metadata"]["annotations"][ANNOTATION_HASH].as_str();
                let same_data = match child {
                    Child::ConfigMap(wanted) => wanted.data == there.data,
                    _ => true,
                };
                let same_pods = plan.scale.get(&id).is_none_or(|pods| there.pods == Some(*pods));
                if hash != Some(there.hash.as_str()) || !same_data || !same_pods {
                    manifest["metadata"]["uid"] = json!(there.uid);
                    writes.push(Write::Update(id, manifest));
                }
            }
        }
    }
    for id in &plan.prune {
        if let Some(there) = live.get(id)
            && there.owner == owner
            && !there.deleting
        {
            writes.push(Write::Delete(id.clone(), there.uid.clone()));
        }
    }
    let planned = |id: &ChildId| plan.children.iter().any(|child| child.id() == *id);
    for (id, pods) in plan.scale.iter().filter(|(id, _)| !planned(id)) {
        if let Some(there) = live.get(id)
            && there.owner == owner
            && !there.deleting
            && there.pods != Some(*pods)
        {
            writes.push(Write::Scale(id.clone(), *pods));
        }
    }
    for (id, stop) in &plan.stop {
        if let Some(there) = live.get(id)
            && there.owner == owner
            && !there.deleting
        {
            writes.push(Write::Stop(id.clone(), there.uid.clone(), stop.clone()));
        }
    }
    writes.extend(plan.lost_pods.iter().cloned().map(Write::FailPod));
    Ok(writes)
}

fn is_immutable(child: &Child) -> bool {
    matches!(child, Child::ConfigMap(map) if map.immutable == Some(true))
}

/// The object that children belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Kind, such as `TrainingJob`.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl Parent {
    /// Metadata of a child: name, owner, and the labels that say whose it is.
    pub fn child_meta(&self, name: &str, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(component)),
            annotations: Some(BTreeMap::from([(ANNOTATION_PARENT.to_owned(), self.name.clone())])),
            owner_references: Some(vec![self.owner_reference()]),
            ..ObjectMeta::default()
        }
    }

    /// Labels of every child in the role `component`.
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.insert(names::LABEL_MANAGED_BY.into(), names::MANAGER.into());
        labels
    }

    /// Labels that select the pods in the role `component`.
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (names::LABEL_KIND.into(), self.kind.to_lowercase()),
            (names::LABEL_NAME.into(), names::child(&self.name, "")),
            (names::LABEL_COMPONENT.into(), component.to_owned()),
        ])
    }

    fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{}/{}", hearth_crds::GROUP, hearth_crds::VERSION),
            kind: self.kind.to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            // A parent deleted in the foreground waits for its pods.
            block_owner_deletion: Some(true),
        }
    }
}
