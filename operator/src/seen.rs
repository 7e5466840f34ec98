//! Objects as the watches keep them: the few fields that decisions read. What nothing
//! reads takes no memory, and one type for all kinds is one watch to compile instead of
//! a dozen.
//!
//! [`Told`] is what comes over the wire, and [`Seen`] what stays of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{ContainerState, ScopeSelector, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::DynamicResourceScope;
use kube::runtime::reflector::Lookup;
use serde::{Deserialize, Deserializer};

use crate::admission::amounts::is_device;
use crate::kept::{Empty, Metadata, Part};

/// Kinds of objects that the operator reads or writes. Those of children come
/// first, in the order in which they are written: what pods need comes before
/// what makes pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "Kubernetes' own names")]
pub enum Kind {
    ConfigMap,
    ServiceAccount,
    Role,
    RoleBinding,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
    Job,
    Deployment,
    HTTPRoute,
    Pod,
    PersistentVolumeClaim,
    Node,
    ResourceQuota,
    PriorityClass,
    TrainingJob,
    HyperparamSweep,
    ModelDeployment,
}

impl Kind {
    /// Kinds of children that are watched, in the order of writing. HTTPRoutes are not: most
    /// clusters do not have them, and few deployments ask for one.
    pub const CHILDREN: [Self; 9] = [
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Job,
        Self::Deployment,
    ];

    /// The name in manifests and in metric labels.
    pub fn as_str(self) -> &'static str {
        self.place().1
    }

    /// Group and version in manifests, such as `batch/v1`.
    pub fn api_version(self) -> String {
        <Told as Resource>::api_version(&self).into_owned()
    }

    /// Group, kind and plural; the version is [`Kind::version`].
    fn place(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ConfigMap => ("", "ConfigMap", "configmaps"),
            Self::ServiceAccount => ("", "ServiceAccount", "serviceaccounts"),
            Self::Role => ("rbac.authorization.k8s.io", "Role", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
            Self::Service => ("", "Service", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Job => ("batch", "Job", "jobs"),
            Self::Deployment => ("apps", "Deployment", "deployments"),
            Self::HTTPRoute => ("gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
            Self::Pod => ("", "Pod", "pods"),
            Self::PersistentVolumeClaim => ("", "PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::Node => ("", "Node", "nodes"),
            Self::ResourceQuota => ("", "ResourceQuota", "resourcequotas"),
            Self::PriorityClass => ("scheduling.k8s.io", "PriorityClass", "priorityclasses"),
            Self::TrainingJob => (hearth_crds::GROUP, "TrainingJob", "trainingjobs"),
            Self::HyperparamSweep => (hearth_crds::GROUP, "HyperparamSweep", "hyperparamsweeps"),
            Self::ModelDeployment => (hearth_crds::GROUP, "ModelDeployment", "modeldeployments"),
        }
    }

    fn version(self) -> &'static str {
        match self {
            Self::TrainingJob | Self::HyperparamSweep | Self::ModelDeployment => {
                hearth_crds::VERSION
            }
            _ => "v1",
        }
    }
}

/// An object of any [`Kind`], as it is kept. Fields of other kinds are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Told")]
pub struct Seen {
    /// What is read of the standard metadata.
    pub metadata: Metadata,
    /// What was asked for.
    pub spec: Part<Spec>,
    /// What is.
    pub status: Part<Status>,
    /// Contents of a ConfigMap that may change.
    pub data: Option<BTreeMap<String, String>>,
    /// Of a PriorityClass.
    pub value: Option<i64>,
    /// Of a PriorityClass.
    pub global_default: Option<bool>,
}

impl From<Told> for Seen {
    fn from(told: Told) -> Self {
        let Told { metadata, mut spec, status, data, immutable, value, global_default } = told;
        // Admission counts devices; CPU and memory are the scheduler's.
        for container in &mut spec.containers {
            container.resources.requests.retain(|name, _| is_device(name));
        }
        spec.containers.retain(|container| !container.resources.requests.is_empty());
        Self {
            metadata: Metadata::of(&metadata),
            spec: spec.into(),
            status: status.into(),
            data: data.filter(|_| immutable != Some(true)),
            value,
            global_default,
        }
    }
}

/// An object of any [`Kind`], as the API server tells it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
    data: Option<BTreeMap<String, String>>,
    immutable: Option<bool>,
    value: Option<i64>,
    global_default: Option<bool>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Of a Job.
    pub suspend: Option<bool>,
    /// Of a Job: the pods of an Indexed one. A TrainingJob has a `parallelism` of its own.
    pub completions: Option<i32>,
    /// Of a Deployment.
    pub replicas: Option<i32>,
    /// Of a pod.
    pub node_name: Option<String>,
    /// Of a pod: those that ask for devices.
    #[serde(default)]
    pub containers: Vec<ContainerSpec>,
    /// Of a node.
    pub unschedulable: Option<bool>,
    /// Of a node.
    pub taints: Option<Vec<Taint>>,
    /// Of a ResourceQuota.
    pub hard: Option<BTreeMap<String, Quantity>>,
    /// Of a ResourceQuota.
    pub scopes: Option<Vec<String>>,
    /// Of a ResourceQuota.
    pub scope_selector: Option<ScopeSelector>,
}

/// A pod's container as asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct ContainerSpec {
    /// What it asks for.
    #[serde(default)]
    pub resources: Requirements,
}

/// What a container asks for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Requirements {
    /// Devices.
    #[serde(default, deserialize_with = "null_is_default")]
    pub requests: BTreeMap<String, Quantity>,
}

/// What is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Of a Job, a Deployment, a pod and a node.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<Condition>,
    /// Since when a Job runs, or runs again.
    pub start_time: Option<Timestamp>,
    /// Of a node.
    pub allocatable: Option<BTreeMap<String, Quantity>>,
    /// Of a ResourceQuota.
    pub used: Option<BTreeMap<String, Quantity>>,
    /// Pods of a Job that have not ended.
    pub active: Option<i32>,
    /// Of a Deployment.
    pub observed_generation: Option<i64>,
    /// Of a Deployment: pods that have been ready for a while.
    pub available_replicas: Option<i32>,
    /// Of a Deployment: pods of the newest template.
    pub updated_replicas: Option<i32>,
    /// Of a pod.
    pub phase: Option<String>,
    /// Of a pod.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Of a pod.
    #[serde(deserialize_with = "null_is_default")]
    pub container_statuses: Vec<Container>,
    /// Of a pod: what runs before its containers.
    #[serde(deserialize_with = "null_is_default")]
    pub init_container_statuses: Vec<Container>,
    /// Of an HTTPRoute.
    #[serde(deserialize_with = "null_is_default")]
    pub parents: Vec<RouteParent>,
}

impl Status {
    /// The condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

impl Empty for Spec {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Spec> = LazyLock::new(Spec::default);
        &EMPTY
    }
}

impl Empty for Status {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Status> = LazyLock::new(Status::default);
        &EMPTY
    }
}

/// A condition of one of Kubernetes' own kinds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// CamelCase.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase.
    #[serde(deserialize_with = "null_is_default")]
    pub reason: String,
    /// A sentence.
    #[serde(deserialize_with = "null_is_default")]
    pub message: String,
    /// Since when it has this status.
    pub last_transition_time: Option<Timestamp>,
}

impl Condition {
    /// Whether its status is `True`.
    pub fn holds(&self) -> bool {
        self.status == "True"
    }
}

/// What a Gateway says of an HTTPRoute.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct RouteParent {
    /// `Accepted`, `ResolvedRefs` and others.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<Condition>,
}

/// A pod's container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Now.
    pub state: Option<ContainerState>,
    /// Before it was started again.
    pub last_state: Option<ContainerState>,
}

impl Resource for Told {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.place().1.into()
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        kind.place().0.into()
    }

    fn version(kind: &Kind) -> Cow<'_, str> {
        (*kind).version().into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        kind.place().2.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Lookup for Seen {
    type DynamicType = Kind;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        <Told as Resource>::kind(kind)
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        <Told as Resource>::group(kind)
    }

    fn version(kind: &Kind) -> Cow<'_, str> {
        <Told as Resource>::version(kind)
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        <Told as Resource>::plural(kind)
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.metadata.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        self.metadata.namespace.as_deref().map(Cow::Borrowed)
    }

    /// A store's key has it for people alone, and would keep it twice.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// As the resource version.
    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

/// As Kubernetes' own clients read a `null`.
fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::{
        ConfigMap, Node, PersistentVolumeClaim, Pod, ResourceQuota, Service, ServiceAccount,
    };
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    use k8s_openapi::api::scheduling::v1::PriorityClass;

    use super::*;

    fn same<K: Resource<DynamicType = ()>>(kind: Kind) {
        assert_eq!(<Told as Resource>::url_path(&kind, Some("n")), K::url_path(&(), Some("n")));
        assert_eq!(<Told as Resource>::kind(&kind), K::kind(&()));
        assert_eq!(kind.api_version(), K::api_version(&()));
    }

    #[test]
    fn kinds_are_served_where_kubernetes_types_say() {
        same::<ConfigMap>(Kind::ConfigMap);
        same::<ServiceAccount>(Kind::ServiceAccount);
        same::<Role>(Kind::Role);
        same::<RoleBinding>(Kind::RoleBinding);
        same::<Service>(Kind::Service);
        same::<NetworkPolicy>(Kind::NetworkPolicy);
        same::<PodDisruptionBudget>(Kind::PodDisruptionBudget);
        same::<Job>(Kind::Job);
        same::<Deployment>(Kind::Deployment);
        same::<Pod>(Kind::Pod);
        same::<PersistentVolumeClaim>(Kind::PersistentVolumeClaim);
        same::<Node>(Kind::Node);
        same::<ResourceQuota>(Kind::ResourceQuota);
        same::<PriorityClass>(Kind::PriorityClass);
        same::<hearth_crds::TrainingJob>(Kind::TrainingJob);
        same::<hearth_crds::HyperparamSweep>(Kind::HyperparamSweep);
        same::<hearth_crds::ModelDeployment>(Kind::ModelDeployment);
    }

    #[test]
    fn absent_and_null_fields_are_empty() {
        let bare: Seen = serde_json::from_str(r#"{"metadata": {"name": "p"}}"#).unwrap();
        assert!(bare.status.conditions.is_empty() && bare.data.is_none());
        let text = r#"{"metadata": {}, "spec": {"nodeName": "n", "tolerations": []},
            "status": {"podIP": "10.0.0.1", "conditions": null, "containerStatuses": [
                {"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}}"#;
        let pod: Seen = serde_json::from_str(text).unwrap();
        assert_eq!(pod.spec.node_name.as_deref(), Some("n"));
        assert_eq!(pod.status.pod_ip.as_deref(), Some("10.0.0.1"));
        let state = pod.status.container_statuses[0].state.as_ref().unwrap();
        assert_eq!(state.terminated.as_ref().unwrap().exit_code, 137);
    }
}
