//! `spec.compression` of a ModelDeployment: how its model is made smaller, and what the smaller one
//! must still be able to do.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::objective::Objective;
use crate::pod::Resources;
use crate::pruning::Pruning;
use crate::training_arguments::{Metric, TrainingArguments};
use crate::training_job::{
    DataSource, DataSpec, ModelSource, Parallelism, RestartPolicy, Task, Workers,
};

/// How to make the model smaller.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.groupSize) || self.quantization == 'INT4'").message("compression.groupSize needs quantization INT4"),
    validation = Rule::new("!has(self.pruning) || self.pruning.type == 'Structured' || !(self.quantization in ['Q8_0', 'Q4_0', 'Q4_K_M'])").message("compression.pruning leaves zeros, which GGUF stores like other numbers: choose pruning.type Structured, or another quantization").field_path(".pruning"),
    validation = Rule::new("!has(self.training) || has(self.pruning) || (has(self.training.distillation) && has(self.training.distillation.student))").message("compression.training trains what was pruned, or a student: set compression.pruning or compression.training.distillation.student").field_path(".training"),
    validation = Rule::new("!has(self.groupSize) || self.groupSize in [32, 64, 128]").message("compression.groupSize is 32, 64 or 128"),
    validation = Rule::new("!has(self.calibration) || self.quantization in ['INT4', 'INT8', 'INT8WeightOnly']").message("compression.calibration needs quantization INT4, INT8 or INT8WeightOnly: the others round each number by itself"),
)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// Which weights go before the others are rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Pruning>,
    /// A TrainingJob that comes before: it trains on what was pruned, or has a smaller model learn
    /// from this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Box<CompressionTraining>>,
    /// Number format of the weights.
    pub quantization: Quantization,
    /// Of INT4: most columns of a weight that share a scale: 32, 64 or 128, the default. Fewer
    /// cost more bytes and lose less. A layer whose columns are no multiple of it gets the largest
    /// of these that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<i32>,
    /// Rows by which a model is rounded so that its answers change least: channels that stand out are
    /// made smaller where they are made (decoders; SmoothQuant, AWQ), and what a number loses is made
    /// up for by others (GPTQ). Without, each number is rounded to the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// What the smaller model must still be able to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Where the compressed model goes; beside the source, with the revision in
    /// its name, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub destination: Option<String>,
    /// Resources of the pod that compresses.
    #[serde(default)]
    pub resources: Resources,
}

/// The TrainingJob between a deployment's model and the one that is rounded. Its fields are those of
/// `TrainingJob.spec`; a change of any of them is another job, and another revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompressionTraining {
    /// What the model is to do.
    pub task: Task,
    /// Learn from the deployment's model besides the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<StudentDistillation>,
    /// What it learns from.
    pub data: DataSpec,
    /// The loss; where left out, SFT for CausalLM and Classification for the classification tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// Hyperparameters under Hugging Face's names.
    #[serde(default)]
    pub training: TrainingArguments,
    /// How the model is split over processes.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// The processes and what they run on.
    #[serde(default)]
    pub workers: Workers,
    /// How often a failure is retried.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Seconds that the job may run, restarts included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// The job's directory, for checkpoints and its model; beside the deployment's model where left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub destination: Option<String>,
}

/// The deployment's model as a teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StudentDistillation {
    /// The smaller model that learns; where left out, what pruning leaves of the teacher. Its
    /// vocabulary or labels are the teacher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<ModelSource>,
    /// Divides the logits of both models.
    #[serde(default = "crate::objective::default_temperature")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub temperature: f64,
    /// Share of the teacher's part in the loss.
    #[serde(default = "crate::objective::default_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
}

/// Number format of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantization {
    /// 8-bit weights and activations, weights per channel, activations per token.
    INT8,
    /// 8-bit weights only.
    INT8WeightOnly,
    /// 4-bit weights only, a scale for each `groupSize` columns.
    INT4,
    /// 8-bit floats (e4m3), weights per channel, activations per token. Servers on CPUs compute
    /// with the weights in 32 bits.
    FP8,
    /// 32-bit floats, as models are trained: nothing is rounded.
    FP32,
    /// 16-bit floats.
    FP16,
    /// bfloat16.
    BF16,
    /// llama.cpp's file (GGUF), for language models: 8 bits, a scale for each 32 columns.
    Q8_0,
    /// llama.cpp's file: 4 bits, a scale for each 32 columns.
    Q4_0,
    /// llama.cpp's file: 4 bits, a scale and a minimum for each 32 columns, and 6 bits for what
    /// loses most.
    #[serde(rename = "Q4_K_M")]
    Q4KM,
}

impl Quantization {
    /// The name in paths and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::INT8 => "int8",
            Self::INT8WeightOnly => "int8-weight-only",
            Self::INT4 => "int4",
            Self::FP8 => "fp8",
            Self::FP32 => "fp32",
            Self::FP16 => "fp16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8-0",
            Self::Q4_0 => "q4-0",
            Self::Q4KM => "q4-k-m",
        }
    }
}

impl Compression {
    /// Most columns of a weight that share a scale, where columns do.
    pub fn group_size(&self) -> u32 {
        self.group_size.unwrap_or(128).unsigned_abs()
    }
}

/// Rows that weights are rounded by. They should be like those that will be asked, and none of
/// those that the gate judges by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Calibration {
    /// The rows.
    pub data: DataSource,
    /// Most rows that are shown to the model, the first ones.
    #[serde(default = "default_max_rows")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_rows: i32,
}

fn default_max_rows() -> i32 {
    128
}

/// An evaluation that the compressed model must pass before it is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Rows to evaluate on.
    pub data: DataSource,
    /// What to compare.
    #[serde(default = "default_metric")]
    pub metric: Metric,
    /// Most that the metric may get worse against the uncompressed model.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_drop: f64,
}

fn default_metric() -> Metric {
    Metric::F1
}

/// What compression did to a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CompressionReport {
    /// Bytes of weights before.
    pub size_before_bytes: i64,
    /// Bytes of weights after.
    pub size_after_bytes: i64,
    /// Share of the pruned layers' weights that are 0, where they were pruned one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// The gate's metric before, where there is a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_before: Option<f64>,
    /// The gate's metric after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_after: Option<f64>,
    /// Share of the gate's answers (of rows, or of a language model's tokens) that are the same
    /// after as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Median time of one of the gate's rows before, on the pod that compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_before_milliseconds: Option<f64>,
    /// The same after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_after_milliseconds: Option<f64>,
}
