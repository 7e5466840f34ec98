//! The allow-list of pod fields that a user may set. Anything else would let
//! a tenant run as the operator.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Extended resource of NVIDIA's device plugin.
pub const NVIDIA_GPU: &str = "nvidia.com/gpu";

/// Compute resources of one pod, as in a container's `resources`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Most that the pod may use, for example `nvidia.com/gpu: 1` or `memory: 8Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub limits: BTreeMap<String, IntOrString>,
    /// What the pod is guaranteed; the limits where it is left out. With a CPU
    /// request and no CPU limit, computing threads are as many as the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub requests: BTreeMap<String, IntOrString>,
}

impl Resources {
    /// The Kubernetes form.
    pub fn to_requirements(&self) -> ResourceRequirements {
        ResourceRequirements {
            limits: quantities(&self.limits),
            requests: quantities(&self.requests),
            ..ResourceRequirements::default()
        }
    }

    /// GPUs asked for in one pod; 0 where none or where the figure is no whole number.
    pub fn gpus(&self) -> i32 {
        match self.limits.get(NVIDIA_GPU).or_else(|| self.requests.get(NVIDIA_GPU)) {
            Some(IntOrString::Int(count)) => *count,
            Some(IntOrString::String(text)) => text.parse().unwrap_or(0),
            None => 0,
        }
    }
}

fn quantities(from: &BTreeMap<String, IntOrString>) -> Option<BTreeMap<String, Quantity>> {
    let quantity = |value: &IntOrString| match value {
        IntOrString::Int(count) => Quantity(count.to_string()),
        IntOrString::String(text) => Quantity(text.clone()),
    };
    (!from.is_empty()).then(|| from.iter().map(|(k, v)| (k.clone(), quantity(v))).collect())
}

/// A taint that the pods accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Taint key; empty with `operator: Exists` tolerates everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Equal` (default) or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Taint value, with `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; all where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a toleration's key meets a taint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Key and value are equal.
    Equal,
    /// The key exists.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Keeps pods away.
    NoSchedule,
    /// Keeps pods away where possible.
    PreferNoSchedule,
    /// Evicts running pods.
    NoExecute,
}

impl Toleration {
    /// The Kubernetes form.
    pub fn to_core(&self) -> k8s_openapi::api::core::v1::Toleration {
        k8s_openapi::api::core::v1::Toleration {
            key: self.key.clone(),
            operator: self.operator.map(|o| format!("{o:?}")),
            value: self.value.clone(),
            effect: self.effect.map(|e| format!("{e:?}")),
            toleration_seconds: None,
        }
    }
}

/// Where and how pods run: the allow-list that workers and servers share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodPlacement {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// Name of a PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Secrets of type `kubernetes.io/dockerconfigjson` for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<String>,
}
