//! `HyperparamSweep`: runs TrainingJobs over a space of hyperparameters.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]
#![allow(clippy::duplicated_attributes, reason = "false positive on kube's repeated printcolumn")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training_job::{EvaluationMetric, TrainingJobSpec};

/// Searches hyperparameters by running one TrainingJob a trial.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "hearth.dev",
    version = "v1alpha1",
    kind = "HyperparamSweep",
    plural = "hyperparamsweeps",
    shortname = "hps",
    category = "hearth",
    namespaced,
    status = "HyperparamSweepStatus",
    derive = "PartialEq",
    cel,
    doc = "HyperparamSweep searches hyperparameters by running one TrainingJob a trial.",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "One word for people; programs read conditions"
    ),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.trials.running"),
    printcolumn(name = "Done", type_ = "integer", json_path = ".status.trials.succeeded"),
    printcolumn(name = "Stopped", type_ = "integer", json_path = ".status.trials.stopped"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.trials.failed"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.trials.max"),
    printcolumn(name = "Best", type_ = "number", json_path = ".status.best.value"),
    printcolumn(name = "Trial", type_ = "string", json_path = ".status.best.job"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("(self.algorithm.type == 'ASHA') == has(self.algorithm.asha)").message("algorithm.asha belongs to type ASHA, which needs it: set both or neither").field_path(".algorithm.asha"),
    validation = Rule::new("!has(self.algorithm.asha) || self.job.training.maxSteps > self.algorithm.asha.firstRungSteps").message("ASHA's last rung is job.training.maxSteps: set it above algorithm.asha.firstRungSteps").field_path(".algorithm.asha.firstRungSteps"),
    validation = Rule::new("!has(self.earlyStopping) || self.algorithm.type != 'ASHA'").message("ASHA ends trials itself, at its rungs: remove earlyStopping, or choose another algorithm").field_path(".earlyStopping"),
    validation = Rule::new("!has(self.earlyStopping) || self.job.training.maxSteps <= 0 || self.earlyStopping.startStep < self.job.training.maxSteps").message("earlyStopping.startStep is not below job.training.maxSteps, so that no trial would ever be stopped: lower it").field_path(".earlyStopping.startStep"),
    validation = Rule::new("self.objective == oldSelf.objective && self.algorithm == oldSelf.algorithm").message("objective and algorithm cannot change after creation: create another HyperparamSweep"),
    validation = Rule::new("!has(self.job.stop)").message("job.stop would end every trial as it begins: remove it; to end a sweep, delete it or lower trials.max").field_path(".job.stop"),
    validation = Rule::new("self.trials.parallel <= self.trials.max").message("trials.parallel cannot exceed trials.max").field_path(".trials.parallel"),
    validation = Rule::new("self.algorithm.type != 'Grid' || self.parameters.all(p, !has(p.range))").message("algorithm Grid needs values, not a range, for every parameter").field_path(".parameters"),
)]
#[serde(rename_all = "camelCase")]
pub struct HyperparamSweepSpec {
    /// What to optimise.
    pub objective: Objective,
    /// How to search.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Which running trials to stop before their end; none where left out. May change at any time:
    /// what was stopped stays stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// The space.
    #[schemars(length(min = 1, max = 64))]
    pub parameters: Vec<Parameter>,
    /// How many trials.
    pub trials: Trials,
    /// The job that each trial runs, before its parameters are set. A trial writes to
    /// `trial-NUMBER` below `output.destination`.
    pub job: TrainingJobSpec,
}

/// What to optimise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// Metric of the job's evaluation.
    pub metric: EvaluationMetric,
    /// Which way is better.
    pub goal: Goal,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Goal {
    /// Lower is better.
    Minimize,
    /// Higher is better.
    Maximize,
}

/// How to search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Algorithm {
    /// The method.
    #[serde(rename = "type")]
    pub type_: AlgorithmType,
    /// Seed of everything random in the search.
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// The rungs of ASHA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asha: Option<Asha>,
}

/// The rungs of ASHA: each is `reductionFactor` times as long as the one before, up to
/// `job.training.maxSteps`, and the best `1 / reductionFactor` of a rung go on to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Asha {
    /// Steps of the first rung, which every trial runs.
    #[schemars(range(min = 1))]
    pub first_rung_steps: i64,
    /// How much longer each rung is than the one before.
    #[serde(default = "three")]
    #[schemars(range(min = 2, max = 100))]
    pub reduction_factor: i32,
}

fn three() -> i32 {
    3
}

impl Default for Algorithm {
    fn default() -> Self {
        Self { type_: AlgorithmType::Random, seed: 0, asha: None }
    }
}

/// Search methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AlgorithmType {
    /// Every combination (scikit-learn's `ParameterGrid`).
    Grid,
    /// Independent draws.
    Random,
    /// Low-discrepancy draws.
    Sobol,
    /// Tree-structured Parzen estimator (Bergstra et al. 2011).
    TPE,
    /// Asynchronous successive halving (Li et al. 2020) of independent draws.
    ASHA,
}

/// Which running trials to stop before their end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlyStopping {
    /// The rule.
    #[serde(rename = "type")]
    pub type_: EarlyStoppingType,
    /// Trials that must have succeeded, and evaluated by the step in question, before any is
    /// stopped.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 10000))]
    pub min_trials: i32,
    /// Optimizer step before whose evaluation no trial is stopped.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub start_step: i64,
}

/// Rules for stopping trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EarlyStoppingType {
    /// Stop a trial whose best evaluation so far is worse than the median of what the trials that
    /// succeeded had by that step, each on average (Golovin et al. 2017).
    MedianStopping,
}

/// One dimension of the space: values or a range, not both.
// The schema says so itself: CEL does not see a list whose elements have no one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["values"]}, {"required": ["range"]}]))]
pub struct Parameter {
    /// Typed path into the job's spec, such as `training.learningRate`.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// The values to choose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub values: Option<Vec<ParameterValue>>,
    /// An interval to draw from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<ParameterRange>,
    /// Set it only where an earlier parameter has one of these values; elsewhere the
    /// job's own value stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// A condition on an earlier parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct When {
    /// Path of a parameter that stands before this one and has `values`.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// Those of its values with which this parameter is set.
    #[schemars(length(min = 1, max = 1000))]
    pub values: Vec<ParameterValue>,
}

/// A number, a string or a boolean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ParameterValue(
    /// The value as it stands in the job's spec.
    #[schemars(schema_with = "crate::schema::any_scalar")]
    pub serde_json::Value,
);

/// An interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParameterRange {
    /// Lower end, included.
    pub min: f64,
    /// Upper end, included.
    pub max: f64,
    /// How draws are spread.
    #[serde(default)]
    pub scale: Scale,
    /// Draw whole numbers.
    #[serde(default)]
    pub integer: bool,
}

/// How draws are spread over a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// Evenly in the logarithm.
    Log,
}

/// How many trials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trials {
    /// Trials in all. May be raised at any time, also after the sweep's end: it goes on.
    #[schemars(range(min = 1, max = 10000))]
    pub max: i32,
    /// Trials at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub parallel: i32,
    /// Failed trials that are put up with: one more, and the sweep fails.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10000))]
    pub max_failed: i32,
}

fn one() -> i32 {
    1
}

/// What the operator observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HyperparamSweepStatus {
    /// Newest generation that the operator acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for `kubectl get`: `Pending`, `Running`, `Succeeded`, `Failed`, `Invalid`. Programs
    /// read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Hash of what the sweep started with, without the numbers of trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// `Accepted`, `Running`, `Succeeded`, `Failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Trials by outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<TrialCounts>,
    /// The best trial so far, of those that ran to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestTrial>,
}

/// Trials by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialCounts {
    /// Now running.
    pub running: i32,
    /// Ended with a metric.
    pub succeeded: i32,
    /// Stopped before their end.
    #[serde(default)]
    pub stopped: i32,
    /// Ended without a metric.
    pub failed: i32,
}

/// The best trial so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BestTrial {
    /// Its TrainingJob; with ASHA, that of its last rung.
    pub job: String,
    /// Its metric.
    pub value: f64,
    /// What it set in the job, as `path=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub parameters: Vec<String>,
}
