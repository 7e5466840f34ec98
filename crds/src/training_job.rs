//! `TrainingJob`: trains one model.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]
#![allow(clippy::duplicated_attributes, reason = "false positive on kube's repeated printcolumn")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::objective::{Distillation, Objective};
use crate::peft::Peft;
use crate::pod::{PodPlacement, Resources};
use crate::preparation::{CleanStep, Cleaning, DataStatus, PersonalData, Preparation, Replacement};
use crate::pruning::Pruning;
use crate::tabular::Tabular;
use crate::training_arguments::TrainingArguments;

/// Trains a model on this cluster's data and writes it as a Hugging Face directory.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "hearth.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    shortname = "tj",
    category = "hearth",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    cel,
    doc = "TrainingJob trains a model on this cluster's data and writes it as a Hugging Face directory.",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "One word for people; programs read conditions"
    ),
    printcolumn(name = "Step", type_ = "integer", json_path = ".status.progress.step"),
    printcolumn(name = "Of", type_ = "integer", json_path = ".status.progress.totalSteps"),
    printcolumn(name = "Loss", type_ = "number", json_path = ".status.progress.loss"),
    printcolumn(name = "F1", type_ = "number", json_path = ".status.progress.f1"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(
        name = "Workers",
        type_ = "integer",
        json_path = ".spec.workers.replicas",
        priority = 1
    ),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model.uri", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!self.training.loadBestModelAtEnd || self.training.evalStrategy != 'No'").message("training.loadBestModelAtEnd needs an evaluation: set training.evalStrategy to Steps or Epoch").field_path(".training.loadBestModelAtEnd"),
    validation = Rule::new("!self.training.loadBestModelAtEnd || self.training.evalStrategy == self.training.saveStrategy").message("training.loadBestModelAtEnd needs training.saveStrategy equal to training.evalStrategy, so that the best model is one that was saved").field_path(".training.saveStrategy"),
    validation = Rule::new("!(self.training.loadBestModelAtEnd && self.training.evalStrategy == 'Steps') || self.training.saveSteps % (has(self.training.evalSteps) ? self.training.evalSteps : self.training.loggingSteps) == 0").message("training.loadBestModelAtEnd needs training.saveSteps to be a multiple of training.evalSteps").field_path(".training.saveSteps"),
    validation = Rule::new("(self.training.evalStrategy == 'No' && !self.training.evalOnStart) || has(self.data.eval) || has(self.data.evalSplit)").message("training.evalStrategy needs data to evaluate on: set data.eval or data.evalSplit").field_path(".data"),
    validation = Rule::new("self.training.evalStrategy != 'No' || (self.training.evalDelay == 0.0 && !has(self.training.earlyStoppingPatience))").message("training.evalDelay and training.earlyStoppingPatience need evaluations: set training.evalStrategy to Steps or Epoch").field_path(".training.evalStrategy"),
    validation = Rule::new("self.training.earlyStoppingThreshold == 0.0 || has(self.training.earlyStoppingPatience)").message("training.earlyStoppingThreshold needs training.earlyStoppingPatience: set it, or remove the threshold").field_path(".training.earlyStoppingThreshold"),
    validation = Rule::new("self.training.lrSchedulerType != 'Constant' || self.training.warmupSteps == 0.0").message("training.lrSchedulerType Constant has no warm-up: use ConstantWithWarmup, or set training.warmupSteps to 0").field_path(".training.warmupSteps"),
    validation = Rule::new("self.training.optim == 'SGD' || self.training.momentum == 0.0").message("training.momentum needs training.optim SGD: remove it").field_path(".training.momentum"),
    validation = Rule::new("self.training.optim == 'AdamW' || (self.training.adamBeta1 == 0.9 && self.training.adamBeta2 == 0.999 && self.training.adamEpsilon == 1e-8)").message("training.adamBeta1, adamBeta2 and adamEpsilon need training.optim AdamW: remove them").field_path(".training.optim"),
    validation = Rule::new("!has(self.objective) || (self.objective.type == 'Classification' ? self.task in ['SequenceClassification', 'ImageClassification', 'TabularClassification'] : self.task == 'CausalLM')").message("objective.type does not fit the task: CausalLM takes Pretraining, SFT or DPO, the classification tasks take Classification, and TabularRegression takes no objective").field_path(".objective.type"),
    validation = Rule::new("!has(self.objective) || !has(self.objective.threshold) || (!self.task.startsWith('Tabular') && (has(self.data.eval) || has(self.data.evalSplit)))").message("objective.threshold is chosen on rows that were held out: set data.eval or data.evalSplit; for the Tabular tasks use tabular.threshold").field_path(".objective.threshold"),
    validation = Rule::new("!has(self.objective) || self.objective.type != 'DPO' || (!has(self.distillation) && self.training.labelSmoothingFactor == 0.0)").message("objective.type DPO has a loss of its own: remove distillation and training.labelSmoothingFactor").field_path(".objective.type"),
    validation = Rule::new("!has(self.pruning) || (!has(self.peft) && !self.task.startsWith('Tabular'))").message("pruning changes the layers that a model is made of: remove peft, and use CausalLM, SequenceClassification or ImageClassification").field_path(".pruning"),
    validation = Rule::new("!has(self.peft) || !self.task.startsWith('Tabular')").message("peft needs a model of linear layers: remove it for the Tabular tasks").field_path(".peft"),
    validation = Rule::new("has(self.model) != self.task.startsWith('Tabular')").message("model is what training starts from: write it, and leave it out for the Tabular tasks, which start from nothing").field_path(".model"),
    validation = Rule::new("!has(self.tabular) || self.task.startsWith('Tabular')").message("tabular needs task TabularClassification or TabularRegression: remove it").field_path(".tabular"),
    validation = Rule::new("!self.task.startsWith('Tabular') || has(self.data.preparation)").message("rows of tables are prepared before they are learned: write data.preparation, be it {}").field_path(".data.preparation"),
    validation = Rule::new("self.task.startsWith('Tabular') || !has(self.data.preparation) || !has(self.data.preparation.join)").message("features join rows of tables: remove data.preparation.join").field_path(".data.preparation.join"),
    validation = Rule::new("!has(self.tabular) || self.task == 'TabularClassification' || (!has(self.tabular.threshold) && self.tabular.calibration == 'None')").message("tabular.threshold and tabular.calibration are of TabularClassification: remove them").field_path(".tabular"),
    validation = Rule::new("!has(self.tabular) || has(self.data.eval) || has(self.data.evalSplit) || (!has(self.tabular.threshold) && self.tabular.calibration == 'None' && !(has(self.tabular.trees) && has(self.tabular.trees.earlyStoppingRounds)))").message("tabular.threshold, calibration and trees.earlyStoppingRounds need rows that were held out: set data.eval or data.evalSplit").field_path(".data"),
    validation = Rule::new("!(has(self.data.eval) && has(self.data.evalSplit))").message("set data.eval or data.evalSplit, not both").field_path(".data.evalSplit"),
    validation = Rule::new("self.training.maxSteps > 0 || self.training.numTrainEpochs > 0.0").message("set training.numTrainEpochs or training.maxSteps above 0").field_path(".training.numTrainEpochs"),
    validation = Rule::new("(self.workers.replicas * self.workers.processesPerWorker) % (self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.expert) == 0").message("workers.replicas x workers.processesPerWorker must be a multiple of parallelism.tensor x parallelism.pipeline x parallelism.expert").field_path(".parallelism"),
    validation = Rule::new("!has(self.stopAtStep) || self.training.saveStrategy != 'No'").message("stopAtStep ends with a checkpoint: set training.saveStrategy to Steps or Epoch").field_path(".stopAtStep"),
    validation = Rule::new("has(self.stopAtStep) == has(oldSelf.stopAtStep) && (!has(self.stopAtStep) || self.stopAtStep == oldSelf.stopAtStep)").message("stopAtStep cannot change after creation: create another TrainingJob with the same output, which goes on from there").field_path(".stopAtStep"),
    validation = Rule::new("has(self.stop) || !has(oldSelf.stop)").message("stop is for good: create another TrainingJob with the same output, which goes on from its newest checkpoint").field_path(".stop"),
    validation = Rule::new("has(self.activeDeadlineSeconds) == has(oldSelf.activeDeadlineSeconds) && (!has(self.activeDeadlineSeconds) || self.activeDeadlineSeconds == oldSelf.activeDeadlineSeconds)").message("activeDeadlineSeconds cannot change after creation: create another TrainingJob"),
)]
#[schemars(transform = crate::schema::fixed_once_created)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobSpec {
    /// What the model learns to do.
    pub task: Task,
    /// The model to start from. The Tabular tasks start from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// What it learns from.
    pub data: DataSpec,
    /// The loss; where left out, SFT for CausalLM and Classification for the
    /// classification tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// A larger model to learn from besides the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// Take weights away before training: those that became 0 stay 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Pruning>,
    /// Train adapters instead of all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peft: Option<Peft>,
    /// The Tabular tasks: how rows of a table are learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tabular: Option<Box<Tabular>>,
    /// Hyperparameters under Hugging Face's names.
    #[serde(default)]
    pub training: TrainingArguments,
    /// How the model is split over processes.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// The processes and what they run on.
    #[serde(default)]
    pub workers: Workers,
    /// Where the model goes.
    pub output: OutputSpec,
    /// End after this step as after the last one, with an evaluation, a checkpoint and a model. The
    /// learning rate follows the plan of maxSteps or numTrainEpochs, so that another job with the
    /// same output and training goes on from there as if nothing had been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub stop_at_step: Option<i64>,
    /// How often a failure is retried.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Seconds that the job may run, restarts included; then it fails with reason
    /// `DeadlineExceeded`, after a last checkpoint. Time suspended does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after its end at which the job is deleted. What it wrote stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Do not start, or stop after the next checkpoint. With Kueue's queue
    /// label on the job, Kueue decides and this must stay false.
    #[serde(default)]
    pub suspend: bool,
    /// End now and for good: workers save a checkpoint and go, and the job is `Stopped`, without a
    /// model. One that has ended by then stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// Why a job is to end before its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stop {
    /// Reason of the condition `Stopped`.
    pub reason: StopReason,
    /// A sentence for people, which that condition repeats.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Who ends a job before its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StopReason {
    /// A person, or a program of theirs.
    #[default]
    Requested,
    /// A sweep's `earlyStopping`.
    EarlyStopped,
}

impl StopReason {
    /// The reason as conditions have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "Requested",
            Self::EarlyStopped => "EarlyStopped",
        }
    }
}

/// What the model learns to do; names as in `transformers.pipeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Task {
    /// Continue text.
    CausalLM,
    /// One label for a text.
    SequenceClassification,
    /// One label for a picture.
    ImageClassification,
    /// One label for a table row.
    TabularClassification,
    /// One number for a table row.
    TabularRegression,
}

impl Task {
    /// Whether rows of a table are learned.
    pub fn is_tabular(self) -> bool {
        matches!(self, Self::TabularClassification | Self::TabularRegression)
    }
}

/// A model to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// `pvc://CLAIM/PATH`, `s3://BUCKET/KEY`, `hf://ORG/NAME`, or `file:///PATH` in local runs.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
}

/// Training and evaluation data, and how it is cleaned.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(has(self.replace) && self.replace.size() > 0) == (has(self.clean) && self.clean.exists(s, s == 'Replace'))").message("data.replace and the step Replace of data.clean need each other"),
    validation = Rule::new("(has(self.mask) && self.mask.size() > 0) == (has(self.clean) && self.clean.exists(s, s == 'Mask'))").message("data.mask and the step Mask of data.clean need each other"),
    validation = Rule::new("!has(self.preparation) || !has(self.preparation.split) || has(self.evalSplit)").message("data.preparation.split needs data.evalSplit"),
)]
#[serde(rename_all = "camelCase")]
pub struct DataSpec {
    /// Rows to learn from.
    pub train: DataSource,
    /// Rows to evaluate on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<DataSource>,
    /// Share of the training rows held out for evaluation, stratified by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 0.9))]
    pub eval_split: Option<f64>,
    /// Cleaning steps, in this order, on every text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub clean: Vec<CleanStep>,
    /// What the step `Replace` does, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub replace: Vec<Replacement>,
    /// What the step `Mask` looks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub mask: Vec<PersonalData>,
    /// What is made of the rows before a model sees them: once, by a pod of its own, before workers
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<Box<Preparation>>,
    /// Secret of the job's namespace whose keys become variables of the pod that prepares rows from
    /// `s3://`, and of no other: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and where they are
    /// needed `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`. Left out, the pod uses the identity
    /// of its service account. A local run takes its own environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Rows that may be malformed (and are skipped) before the job is refused.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub max_bad_rows: i64,
}

impl DataSpec {
    /// Whether rows are in a bucket, for training or for evaluation.
    pub fn is_in_bucket(&self) -> bool {
        let in_bucket = |rows: &DataSource| rows.source.starts_with("s3://");
        in_bucket(&self.train) || self.eval.as_ref().is_some_and(in_bucket)
    }

    /// All that texts are cleaned of.
    pub fn cleaning(&self) -> Cleaning {
        Cleaning {
            steps: self.clean.clone(),
            replace: self.replace.clone(),
            mask: self.mask.clone(),
        }
    }
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSource {
    /// `pvc://CLAIM/FILE.jsonl`, or `file:///FILE.jsonl` in local runs; or a directory, whose files
    /// of the format are read in the order of their names. With a TrainingJob's `preparation` also
    /// `s3://BUCKET/KEY`, or `s3://BUCKET/PREFIX/` for all objects below it.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
    /// Format of the file; by its ending where left out: `.parquet`, `.txt`, `.csv` or `.tsv`, else
    /// JSONL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DataFormat>,
    /// Field that holds the text.
    #[serde(default = "default_text")]
    #[schemars(length(min = 1, max = 256))]
    pub text: String,
    /// ImageClassification: field that holds the picture, a PNG or JPEG: a path
    /// relative to the file of rows, or, in Parquet, `{bytes, path}` as Hugging Face
    /// `datasets` writes it.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 256))]
    pub image: String,
    /// Field that holds the label: a string, or a whole number.
    #[serde(default = "default_label")]
    #[schemars(length(min = 1, max = 256))]
    pub label: String,
    /// SFT: field that holds a conversation, a list of `{role, content}`.
    #[serde(default = "default_messages")]
    #[schemars(length(min = 1, max = 256))]
    pub messages: String,
    /// SFT and DPO: field that holds what is asked.
    #[serde(default = "default_prompt")]
    #[schemars(length(min = 1, max = 256))]
    pub prompt: String,
    /// SFT: field that holds the answer to `prompt`; the loss is on it alone.
    #[serde(default = "default_completion")]
    #[schemars(length(min = 1, max = 256))]
    pub completion: String,
    /// DPO: field that holds the better answer.
    #[serde(default = "default_chosen")]
    #[schemars(length(min = 1, max = 256))]
    pub chosen: String,
    /// DPO: field that holds the worse answer.
    #[serde(default = "default_rejected")]
    #[schemars(length(min = 1, max = 256))]
    pub rejected: String,
}

impl DataSource {
    /// The format in force: what is written, else what the file's ending says.
    pub fn format(&self) -> DataFormat {
        let ends = |ending| self.source.to_ascii_lowercase().ends_with(ending);
        self.format.unwrap_or(match () {
            () if ends(".parquet") => DataFormat::Parquet,
            () if ends(".txt") => DataFormat::Text,
            () if ends(".csv") || ends(".tsv") => DataFormat::CSV,
            () => DataFormat::JSONL,
        })
    }
}

/// Format of a file of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DataFormat {
    /// One JSON object a line.
    #[default]
    JSONL,
    /// Apache Parquet; a column a field.
    Parquet,
    /// One text a line; empty lines are skipped.
    Text,
    /// A header, then a row of values each; of comma, semicolon and tab they are separated by the
    /// one that the header holds most. Needs `preparation`.
    CSV,
    /// A directory of PNG and JPEG files, as Hugging Face's `imagefolder`: the directory below it
    /// names the class of all that is below that; or its `metadata.jsonl` says by `file_name` what
    /// each picture shows. Needs `preparation`.
    ImageFolder,
    /// An export of Label Studio, `JSON` or `JSON-MIN`, its pictures beside it; or a directory
    /// with one such export. `label` is the name of a `Choices` control. Needs `preparation`.
    LabelStudio,
    /// A directory of DICOM files, laid out as an `ImageFolder`. Nothing of their headers that may
    /// tell of a patient comes through. Needs `preparation`.
    DICOM,
}

impl DataFormat {
    /// Whether nobody but preparation reads such files.
    pub fn needs_preparation(self) -> bool {
        match self {
            Self::JSONL | Self::Parquet | Self::Text => false,
            Self::CSV | Self::ImageFolder | Self::LabelStudio | Self::DICOM => true,
        }
    }

    /// As a spec has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::JSONL => "JSONL",
            Self::Parquet => "Parquet",
            Self::Text => "Text",
            Self::CSV => "CSV",
            Self::ImageFolder => "ImageFolder",
            Self::LabelStudio => "LabelStudio",
            Self::DICOM => "DICOM",
        }
    }
}

pub(crate) fn default_text() -> String {
    "text".into()
}

pub(crate) fn default_image() -> String {
    "image".into()
}

pub(crate) fn default_label() -> String {
    "label".into()
}

pub(crate) fn default_messages() -> String {
    "messages".into()
}

pub(crate) fn default_prompt() -> String {
    "prompt".into()
}

pub(crate) fn default_completion() -> String {
    "completion".into()
}

pub(crate) fn default_chosen() -> String {
    "chosen".into()
}

pub(crate) fn default_rejected() -> String {
    "rejected".into()
}

/// How the model is split over processes. Data parallelism fills the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Parallelism {
    /// What data-parallel ranks share instead of each holding a copy.
    pub sharding: Sharding,
    /// Ranks that split each layer.
    #[schemars(range(min = 1, max = 1024))]
    pub tensor: i32,
    /// Ranks that split the sequence of layers.
    #[schemars(range(min = 1, max = 1024))]
    pub pipeline: i32,
    /// Ranks over which each layer's experts are spread (mixture of experts).
    #[schemars(range(min = 1, max = 1024))]
    pub expert: i32,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self { sharding: Sharding::None, tensor: 1, pipeline: 1, expert: 1 }
    }
}

/// What data-parallel ranks share (Rajbhandari et al. 2020, ZeRO).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sharding {
    /// Each rank holds everything (DDP).
    None,
    /// Optimizer state (ZeRO-1).
    Optimizer,
    /// Optimizer state and gradients (ZeRO-2).
    Gradients,
    /// Optimizer state, gradients and weights (ZeRO-3).
    Full,
}

/// The worker pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// Pods. May be changed while the job runs: training goes on from a checkpoint on more pods once
    /// they are there, or on fewer at once. The batch of a step changes with it.
    #[schemars(range(min = 1, max = 1024))]
    pub replicas: i32,
    /// Training processes (ranks) in each pod; one a GPU.
    #[schemars(range(min = 1, max = 64))]
    pub processes_per_worker: i32,
    /// What the ranks compute on. `CUDA` where a GPU is requested, else `CPU`.
    /// CUDA asked for and not found is an error, never a silent run on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Resources of each pod.
    pub resources: Resources,
    /// Which nodes, and how.
    #[serde(flatten)]
    pub placement: PodPlacement,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: 1,
            processes_per_worker: 1,
            accelerator: None,
            resources: Resources::default(),
            placement: PodPlacement::default(),
        }
    }
}

impl Workers {
    /// The accelerator in force: what is written, else CUDA where a GPU is requested.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator.unwrap_or(if self.resources.gpus() > 0 {
            Accelerator::CUDA
        } else {
            Accelerator::CPU
        })
    }
}

/// What the ranks compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// NVIDIA GPUs.
    CUDA,
    /// The CPU.
    CPU,
}

/// Where the model goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// Directory for the exported model, its checkpoints and reports:
    /// `pvc://CLAIM/PATH`, or `file:///PATH` in local runs.
    #[schemars(length(min = 1, max = 1024))]
    pub destination: String,
    /// Newest checkpoints kept; the best one is kept besides.
    #[serde(default = "default_keep_checkpoints")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_checkpoints: i32,
    /// Where checkpoints go instead of below `destination`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointStorage>,
}

/// A bucket for checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStorage {
    /// `s3://BUCKET/PREFIX` of a service that speaks S3.
    #[schemars(length(min = 1, max = 1024))]
    pub destination: String,
    /// Secret of the job's namespace whose keys become variables of the workers:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and where they are needed
    /// `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`. Left out, workers use the
    /// identity of their service account. A local run takes its own environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// `keepCheckpoints` where it is left out.
pub fn default_keep_checkpoints() -> i32 {
    3
}

/// How often a failure is retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartPolicy {
    /// Restarts (of ranks or pods) before the job fails. Permanent errors are not retried.
    #[schemars(range(min = 0, max = 10000))]
    pub max_restarts: i32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { max_restarts: 10 }
    }
}

/// What the operator observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobStatus {
    /// Newest generation that the operator acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for `kubectl get`: `Pending`, `Suspended`, `Preparing`, `Starting`,
    /// `Running`, `Succeeded`, `Failed`, `Stopped`, `Invalid`. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `Accepted`, `Admitted`, `Running`, `Succeeded`, `Failed`, `Stopped`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Hash of the spec that the job started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// What preparation made of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,
    /// How far training is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TrainingProgress>,
    /// Evaluations so far, oldest first, thinned evenly as they grow in number. All of them are in
    /// the job's `metrics.jsonl`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub evaluations: Vec<Evaluation>,
    /// The newest complete checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// Workers that the newest gang of ranks trains on, or trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<i32>,
    /// Times that training was taken up again after a failure.
    #[serde(default)]
    pub restarts: i32,
    /// The exported model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// RFC 3339; when the first rank started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// RFC 3339; when the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
}

/// How far training is. Absent figures were not measured yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingProgress {
    /// Optimizer steps done.
    pub step: i64,
    /// Optimizer steps in all; 0 while unknown.
    pub total_steps: i64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean training loss since the last report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Loss of the newest evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Accuracy of the newest evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// F1 of the newest evaluation: of the positive class with two classes, else macro.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Macro F1 of the newest evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// Area under the ROC curve of the newest evaluation of a table's two labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision of the newest evaluation of a table's two labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// Coefficient of determination of the newest evaluation of a table's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Learning rate of the newest step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// L2 norm of the newest gradient, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens a second over all ranks, padding not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Samples a second over all ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Seconds left, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// The same for people, such as `3m20s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}

impl TrainingProgress {
    /// The newest evaluation's figures.
    pub fn evaluation(&self) -> Evaluation {
        Evaluation {
            step: self.step,
            loss: self.eval_loss,
            accuracy: self.accuracy,
            f1: self.f1,
            f1_macro: self.f1_macro,
            roc_auc: self.roc_auc,
            average_precision: self.average_precision,
            r2: self.r2,
        }
    }
}

/// Figures of one evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Evaluation {
    /// Optimizer step after which it was made.
    pub step: i64,
    /// Mean loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Share of right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// F1: of the positive class with two classes, else macro.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Macro F1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// Area under the ROC curve, of a table's two labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision, of a table's two labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// Coefficient of determination, of a table's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
}

/// A figure of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EvaluationMetric {
    /// Mean loss.
    Loss,
    /// Share of right answers, of all tasks but TabularRegression.
    Accuracy,
    /// Of a classifier: F1 of the positive class where there are two classes, else macro.
    F1,
    /// Of a classifier: mean of the classes' F1.
    F1Macro,
    /// TabularClassification with two labels: area under the ROC curve.
    RocAuc,
    /// TabularClassification with two labels: average precision.
    AveragePrecision,
    /// TabularRegression: coefficient of determination.
    R2,
}

impl EvaluationMetric {
    /// The name in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::F1Macro => "f1Macro",
            Self::RocAuc => "rocAuc",
            Self::AveragePrecision => "averagePrecision",
            Self::R2 => "r2",
        }
    }
}

/// The nearest number of five significant digits; by way of its decimal form,
/// since a product with a power of ten would not be exact.
pub fn five_digits(figure: f64) -> f64 {
    format!("{figure:.4e}").parse().unwrap_or(figure)
}

impl Evaluation {
    /// Figures of five significant digits; those that are no numbers are left out, as JSON has none.
    #[must_use]
    pub fn rounded(&self) -> Self {
        let round = |figure: Option<f64>| figure.filter(|f| f.is_finite()).map(five_digits);
        Self {
            step: self.step,
            loss: round(self.loss),
            accuracy: round(self.accuracy),
            f1: round(self.f1),
            f1_macro: round(self.f1_macro),
            roc_auc: round(self.roc_auc),
            average_precision: round(self.average_precision),
            r2: round(self.r2),
        }
    }

    /// The figure of this name.
    pub fn value(&self, metric: EvaluationMetric) -> Option<f64> {
        match metric {
            EvaluationMetric::Loss => self.loss,
            EvaluationMetric::Accuracy => self.accuracy,
            EvaluationMetric::F1 => self.f1,
            EvaluationMetric::F1Macro => self.f1_macro,
            EvaluationMetric::RocAuc => self.roc_auc,
            EvaluationMetric::AveragePrecision => self.average_precision,
            EvaluationMetric::R2 => self.r2,
        }
    }
}

/// A checkpoint that is complete on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Optimizer step that it holds.
    pub step: i64,
    /// RFC 3339.
    pub time: String,
    /// Where it is.
    pub uri: String,
    /// Step of the best checkpoint by `metricForBestModel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<i64>,
}

/// An exported model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Where it is.
    pub uri: String,
    /// `blake3:HEX` over the directory's files.
    pub digest: String,
}
