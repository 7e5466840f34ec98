//! `ModelDeployment`: compresses a model, checks it, and serves it.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]
#![allow(clippy::duplicated_attributes, reason = "false positive on kube's repeated printcolumn")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::compression::{
    Calibration, Compression, CompressionReport, CompressionTraining, Gate, Quantization,
    StudentDistillation,
};
pub use crate::entrance::{GatewaySpec, HttpRoute, Oidc, ParentRef, Routing, SecretRef};
use crate::features::FeatureStore;
use crate::pod::{PodPlacement, Resources};

/// Compresses a trained model, refuses it if it lost too much, and rolls it out to traffic.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "hearth.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "md",
    category = "hearth",
    namespaced,
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    cel,
    doc = "ModelDeployment compresses a trained model, refuses it if it lost too much, and rolls it out to traffic.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "One word for people; programs read conditions"
    ),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.stable.revision"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.serving.runtime == 'Libtorch' || !has(self.compression) || self.compression.quantization in ['FP32', 'FP16', 'BF16']").message("serving.runtime OnnxRuntime and TensorRT compute in floats: choose Libtorch, or compression.quantization FP32, FP16 or BF16").field_path(".serving.runtime"),
    validation = Rule::new("self.serving.runtime != 'TensorRT' || (has(self.serving.resources.limits) && 'nvidia.com/gpu' in self.serving.resources.limits)").message("serving.runtime TensorRT needs a GPU: set serving.resources.limits, or choose OnnxRuntime").field_path(".serving.runtime"),
    validation = Rule::new("(self.routing == 'HTTPRoute') == has(self.httpRoute)").message("routing HTTPRoute and httpRoute need each other").field_path(".routing"),
    validation = Rule::new("self.routing == 'Gateway' || !has(self.gateway.tls)").message("routing HTTPRoute talks plain HTTP to Hearth's gateway: leave gateway.tls out, and let the Gateway of httpRoute.parentRefs encrypt").field_path(".gateway.tls"),
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// The model to serve.
    pub model: ModelRef,
    /// How to make it smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The server pods.
    #[serde(default)]
    pub serving: Serving,
    /// The gateway in front of them.
    #[serde(default)]
    pub gateway: GatewaySpec,
    /// What leads clients to the gateway.
    #[serde(default)]
    pub routing: Routing,
    /// Where an HTTPRoute belongs, for `routing: HTTPRoute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,
    /// How a new revision takes over.
    #[serde(default)]
    pub rollout: Rollout,
}

/// The model to serve: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.fromTrainingJob), has(self.fromSweep), has(self.source)].filter(x, x).size() == 1").message("set exactly one of model.fromTrainingJob, model.fromSweep and model.source"),
)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// The model that a TrainingJob of this namespace exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub from_training_job: Option<String>,
    /// The model of a HyperparamSweep's best trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub from_sweep: Option<String>,
    /// A Hugging Face directory: `pvc://CLAIM/PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub source: Option<String>,
}

/// The server pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Serving {
    /// Pods; with `autoscaling`, those to begin with.
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    /// Lets the number of pods follow the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What computes a classifier.
    pub runtime: ServingRuntime,
    /// Requests that are computed together.
    #[schemars(range(min = 1, max = 4096))]
    pub max_batch_size: i32,
    /// Longest that a request waits for others to join its batch.
    #[schemars(range(min = 0, max = 10000))]
    pub max_batch_delay_milliseconds: i32,
    /// Requests that may wait before new ones are answered with 429.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queue_depth: i32,
    /// Memory in each pod for what texts were answered before, by a classifier or with embeddings:
    /// equal texts are then computed once. 0 computes each anew. What is kept are hashes and
    /// numbers, no texts.
    #[schemars(range(min = 0, max = 1_099_511_627_776i64))]
    pub response_cache_bytes: i64,
    /// LoRA adapters that a language model answers with, too, each as a model of its own name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub adapters: Vec<ServedAdapter>,
    /// Models of tables: features of entities that a store keeps, joined to each row that is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Box<FeatureStore>>,
    /// Models of tables, and classifiers of texts and pictures: says in the condition `Drifted` whether requests
    /// are still like the rows that the model learned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Copies of the model on the nodes that serve it. Without, each pod reads the model's claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_cache: Option<NodeCache>,
    /// Resources of each pod.
    pub resources: Resources,
    /// Which nodes, and how.
    #[serde(flatten)]
    pub placement: PodPlacement,
}

/// When requests count as far from the training rows.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drift {
    /// Highest population stability index, of a feature, of the score or of the labels, that is none: servers compare the
    /// last half hour to hour of requests with the training rows, from 500 rows on.
    #[serde(default = "quarter")]
    #[schemars(range(min = 0.01, max = 100.0))]
    pub max_psi: f64,
}

fn quarter() -> f64 {
    0.25
}

/// LoRA adapters beside the model (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedAdapter {
    /// What requests call it in `model`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// PEFT's directory: `pvc://CLAIM/PATH`.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
}

/// Where a node keeps models: the first pod of a node copies its model there, and all pods of the
/// node read that copy, which they cannot change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCache {
    /// A claim of the same namespace whose volume lies on the node of each pod, such as a `local` one
    /// with the same path on all nodes of a pool. Deployments may share it.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub claim_name: String,
    /// Most bytes of all models on a node. Before there are more, those that nobody reads go, the one
    /// first that was longest not asked for. Left out, they go when the volume is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_bytes: Option<i64>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            replicas: 1,
            autoscaling: None,
            runtime: ServingRuntime::Libtorch,
            max_batch_size: 32,
            max_batch_delay_milliseconds: 2,
            max_queue_depth: 1024,
            // Some 70,000 answers, in a twentieth of what libtorch takes itself.
            response_cache_bytes: 16 << 20,
            adapters: Vec::new(),
            features: None,
            drift: None,
            node_cache: None,
            resources: Resources::default(),
            placement: PodPlacement::default(),
        }
    }
}

/// How the number of pods follows the traffic.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas").message("serving.autoscaling.minReplicas is at most maxReplicas"),
)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest pods. With 0, all end when nobody asks, and the next request waits at the gateway
    /// until one is ready.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Requests in flight, those that wait included, that each pod should have on the mean of 10 s.
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1, max = 10_000))]
    pub target_requests_in_flight: i32,
    /// Language models: tokens in flight, those of prompts that wait included, that each pod should
    /// have on the mean of 10 s. There are as many pods as both targets need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target_tokens_in_flight: Option<i32>,
    /// Time for which fewer pods must have been enough before some end.
    #[serde(default = "default_scale_down")]
    #[schemars(range(min = 10, max = 86_400))]
    pub scale_down_delay_seconds: i32,
    /// Longest that a request waits for a pod where there is none; 502 after it.
    #[serde(default = "default_activation")]
    #[schemars(range(min = 1, max = 3600))]
    pub activation_timeout_seconds: i32,
}

fn one() -> i32 {
    1
}

fn default_in_flight() -> i32 {
    8
}

fn default_scale_down() -> i32 {
    300
}

fn default_activation() -> i32 {
    120
}

/// What computes a model. The others than `Libtorch` compute classifiers of texts (BERT's family) and of
/// pictures, and on CPUs models of tables, in floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServingRuntime {
    /// What models are trained with, for all of them: libtorch, and LightGBM for trees.
    #[default]
    Libtorch,
    /// ONNX Runtime, on CPUs or GPUs.
    OnnxRuntime,
    /// ONNX Runtime with TensorRT, on GPUs.
    TensorRT,
}

/// How a new revision takes over.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.strategy == 'Canary' || !has(self.steps)").message("rollout.steps needs strategy Canary"),
    validation = Rule::new("self.strategy != 'Canary' || has(self.steps)").message("strategy Canary needs rollout.steps"),
    validation = Rule::new("(self.strategy == 'ABTest') == has(self.experiment)").message("rollout.experiment and strategy ABTest need each other"),
)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The way of taking over.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// Shares of traffic, in order; all of it after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub steps: Option<Vec<RolloutStep>>,
    /// How users are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    /// What sends a bad revision back. With BlueGreen, the new revision has all traffic for two
    /// intervals at least before the old one goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
}

/// The way of taking over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStrategy {
    /// The new revision starts beside the old one and gets all traffic once it is ready.
    #[default]
    BlueGreen,
    /// The new revision gets growing shares of traffic.
    Canary,
    /// Users are split by a key, for a comparison.
    ABTest,
}

/// One share of traffic.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.shadowPercent) || self.weight == 0").message("a step with shadowPercent has weight 0: copies come before traffic"),
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStep {
    /// Percent of requests that the new revision gets.
    #[schemars(range(min = 0, max = 100))]
    pub weight: i32,
    /// How long this step lasts at least. Left out, it lasts until `kubectl hearth promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub hold_seconds: Option<i32>,
    /// Percent of requests that the new revision gets a copy of. Its answers are measured and
    /// thrown away. Requests above 64 KiB are not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub shadow_percent: Option<i32>,
}

/// How users are compared: each stays with one revision, applications report what came of them
/// (`POST /hearth/outcomes`), and once there are enough outcomes, one verdict is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Experiment {
    /// Percent of users who get the new revision.
    #[schemars(range(min = 1, max = 99))]
    pub weight: i32,
    /// Request header that names the user. Requests without it go to the old revision and take no
    /// part.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z0-9-]+$"))]
    pub user_header: String,
    /// Outcomes of each revision that the verdict waits for. It is given once: who looks again and
    /// again finds differences that are not there.
    #[schemars(range(min = 10, max = 1_000_000_000))]
    pub min_outcomes: i64,
    /// Confidence of the interval around the difference.
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// What follows the verdict.
    pub on_verdict: OnVerdict,
}

impl Default for Experiment {
    fn default() -> Self {
        Self {
            weight: 50,
            user_header: "x-user-id".into(),
            min_outcomes: 1000,
            confidence: 0.95,
            on_verdict: OnVerdict::default(),
        }
    }
}

/// What follows the verdict of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnVerdict {
    /// The split stays until `kubectl hearth promote` or `kubectl hearth rollback`.
    #[default]
    Wait,
    /// The new revision takes over where it is better, and goes where it is not.
    Promote,
}

/// What sends a bad revision back.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.maxErrorRate) || has(self.maxP95Milliseconds)").message("rollout.analysis needs maxErrorRate, maxP95Milliseconds or both"),
)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Share of requests that were answered with 5xx, broken off or not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_error_rate: Option<f64>,
    /// 95th percentile of the answer time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 3_600_000.0))]
    pub max_p95_milliseconds: Option<f64>,
    /// Requests of a step before anything is judged, and before the step can end.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub min_requests: i64,
    /// How much of the newest traffic is judged by itself, besides the whole step.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 5, max = 3600))]
    pub interval_seconds: i32,
}

fn default_interval() -> i32 {
    10
}

/// What the operator observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// Newest generation that the operator acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for `kubectl get`: `Waiting`, `Compressing`, `Starting`, `RollingOut`,
    /// `Ready`, `Idle`, `Refused`, `RolledBack`, `Degraded`, `Invalid`. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `Ready`, `Progressing`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The revision that gets the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionStatus>,
    /// The revision on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<RevisionStatus>,
    /// How far the revision on its way has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// What users made of both revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<ExperimentStatus>,
    /// The newest revision that was sent back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectedRevision>,
    /// URL inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One revision: a model and the settings that change its answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Hash of what is served.
    pub revision: String,
    /// Digest of the source model, `blake3:HEX` where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Percent of traffic.
    #[serde(default)]
    pub weight: i32,
    /// The directory that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What compression did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionReport>,
    /// Pods that it should have, where they follow the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Its traffic in the present step of a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficStatus>,
}

/// How far a revision on its way has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The step that it is at, from 1.
    pub step: i32,
    /// Steps in all.
    pub steps: i32,
    /// When this step began.
    #[schemars(schema_with = "crate::schema::time")]
    pub since: Time,
    /// When the figures of both revisions were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub observed_at: Option<Time>,
}

/// Traffic of a revision in the present step, or of the copies that it got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// Requests that ended.
    pub requests: i64,
    /// Share of them that failed.
    pub error_rate: f64,
    /// 95th percentile of their time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_milliseconds: Option<f64>,
}

/// A comparison of users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentStatus {
    /// Users and outcomes of the old revision.
    pub stable: ExperimentArm,
    /// Users and outcomes of the new revision.
    pub canary: ExperimentArm,
    /// The new revision's success rate less the old one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Lower and upper end of the interval around the difference (Newcombe 1998, method 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2))]
    pub interval: Option<Vec<f64>>,
    /// What was found, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ExperimentVerdict>,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExperimentArm {
    /// Requests.
    pub requests: i64,
    /// Different users, estimated: to 1 % up to 400,000.
    pub users: i64,
    /// Outcomes that were reported.
    pub outcomes: i64,
    /// Those that were a success.
    pub successes: i64,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExperimentVerdict {
    /// The new revision's success rate is higher, beyond the interval.
    Better,
    /// It is lower, beyond the interval.
    Worse,
    /// The interval holds 0.
    NoDifference,
    /// Users were not split as the weights say (chi-squared, p below 0.0005): the outcomes cannot
    /// be compared, and something between users and gateway is at fault.
    SampleRatioMismatch,
}

/// A revision that was sent back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRevision {
    /// Hash of what was served.
    pub revision: String,
    /// CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When.
    #[schemars(schema_with = "crate::schema::time")]
    pub at: Time,
}
