//! The contract between operator and worker.
//!
//! The operator (or `hearth run`) writes one JSON document for each command of
//! `hearth-worker`; the worker answers with [`WorkerStatus`] over HTTP while it
//! runs and with [`WorkerResult`] in its termination message when it ends.
//! Paths are as the worker sees them; nothing here is resolved a second time.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::features::FeatureStore;
use crate::model_deployment::{CompressionReport, Quantization, ServingRuntime};
use crate::objective::Objective;
use crate::peft::Peft;
use crate::preparation::{CleanStep, Cleaning, DataStatus, PersonalData, Replacement};
use crate::pruning::Pruning;
use crate::tabular::Tabular;
use crate::training_arguments::{Metric, TrainingArguments};
use crate::training_job::{
    self, Accelerator, CheckpointStatus, DataFormat, Evaluation, ModelStatus, Parallelism, Task,
    TrainingProgress,
};

/// Format of these documents. A worker refuses any other.
pub const CONFIG_VERSION: &str = "hearth.dev/worker/v1";
/// Where pods find their document.
pub const CONFIG_PATH: &str = "/etc/hearth/config.json";
/// Where the result goes (`terminationMessagePath`).
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Most bytes that Kubernetes keeps of a termination message.
pub const TERMINATION_LOG_MAX_BYTES: usize = 4096;
/// Most evaluations that a status or a result holds.
pub const MOST_EVALUATIONS: usize = 33;
/// Why a rank ended that asks to be started again with a smaller batch: no failure.
pub const BATCH_HALVED: &str = "BatchHalved";
/// HTTP port of an agent: `/healthz`, `/metrics`; of agent 0 also `/status`,
/// `/history` and the membership protocol.
pub const AGENT_PORT: u16 = 8470;
/// First port of the ranks' rendezvous (`MASTER_PORT`); generation `g` uses
/// `MASTER_PORT_BASE + g % MASTER_PORT_COUNT`, so that a new generation never
/// waits for an old socket.
pub const MASTER_PORT_BASE: u16 = 29500;
/// Ports from which `MASTER_PORT` is taken.
pub const MASTER_PORT_COUNT: u16 = 100;
/// Where server pods have the node's cache of models.
pub const NODE_CACHE_PATH: &str = "/mnt/hearth-node-cache";
/// Where server pods have the password of their feature store.
pub const FEATURE_STORE_PASSWORD_PATH: &str = "/mnt/hearth-feature-store/password";
/// HTTP port of `serve`.
pub const SERVE_PORT: u16 = 8080;

/// Configuration of `hearth-worker agent` and of the ranks that it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// [`CONFIG_VERSION`].
    pub version: String,
    /// The TrainingJob that this runs for.
    pub job: JobIdentity,
    /// What the model learns to do.
    pub task: Task,
    /// What ranks compute on.
    pub accelerator: Accelerator,
    /// Hugging Face directory to start from; `None` for the Tabular tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What the model learns from.
    pub data: TrainData,
    /// The loss, the task's default filled in; `None` for a task without a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// A second model to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<TrainDistillation>,
    /// Weights that are taken away before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Pruning>,
    /// Adapters to train instead of all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peft: Option<Peft>,
    /// The Tabular tasks: how rows of a table are learned, defaults filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tabular: Option<Tabular>,
    /// Hyperparameters, defaults filled in.
    pub training: TrainingArguments,
    /// The step to end after, where that is not the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at_step: Option<u64>,
    /// How the model is split over ranks.
    pub parallelism: Parallelism,
    /// Agents (pods).
    pub replicas: u32,
    /// Ranks an agent starts. World size is `replicas * processes_per_worker`.
    pub processes_per_worker: u32,
    /// The job's directory: `checkpoints/step-N/`, `model/` (the export),
    /// `metrics.jsonl`, `result.json`. Shared by all ranks.
    pub output: PathBuf,
    /// URI of `output`, for status and messages.
    pub output_uri: String,
    /// `s3://BUCKET/PREFIX` of the checkpoints, where they are not below `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<String>,
    /// Newest checkpoints kept, the best one besides.
    pub keep_checkpoints: u32,
    /// Failures after which the job ends.
    pub max_restarts: u32,
    /// Host name or address of agent 0.
    pub coordinator_host: String,
    /// [`AGENT_PORT`], or another port in local runs.
    pub coordinator_port: u16,
}

/// The object that a worker runs for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobIdentity {
    /// Namespace; `local` in local runs.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty in local runs.
    pub uid: String,
}

/// Training data as the worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainData {
    /// Rows to learn from.
    pub train: DataFile,
    /// Rows to evaluate on.
    pub eval: Option<DataFile>,
    /// Share of the training rows held out, stratified by label.
    pub eval_split: Option<f64>,
    /// Cleaning steps, in order.
    pub clean: Vec<CleanStep>,
    /// What the step `Replace` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replace: Vec<Replacement>,
    /// What the step `Mask` looks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<PersonalData>,
    /// File that names the prepared rows ([`crate::preparation::Pointer`]), in a directory of the
    /// directory of all prepared rows. They are read instead of `train` and `eval`, and are clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PathBuf>,
    /// Malformed rows that are skipped before the data is refused.
    pub max_bad_rows: u64,
}

impl TrainData {
    /// All that texts are cleaned of.
    pub fn cleaning(&self) -> Cleaning {
        Cleaning {
            steps: self.clean.clone(),
            replace: self.replace.clone(),
            mask: self.mask.clone(),
        }
    }
}

/// `spec.distillation` as the worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainDistillation {
    /// Hugging Face directory of the teacher.
    pub teacher: PathBuf,
    /// Divides the logits of both models.
    pub temperature: f64,
    /// Share of the teacher's part in the loss.
    pub alpha: f64,
}

/// A file of rows, and the fields that hold their parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataFile {
    /// File or directory; empty where `uri` is to be fetched first.
    pub path: PathBuf,
    /// Where it came from, for messages.
    pub uri: String,
    /// Format.
    #[serde(default)]
    pub format: DataFormat,
    /// Field of the text.
    pub text: String,
    /// Field of the picture.
    #[serde(default = "training_job::default_image")]
    pub image: String,
    /// Field of the label.
    pub label: String,
    /// Field of a conversation.
    #[serde(default = "training_job::default_messages")]
    pub messages: String,
    /// Field of what is asked.
    #[serde(default = "training_job::default_prompt")]
    pub prompt: String,
    /// Field of the answer.
    #[serde(default = "training_job::default_completion")]
    pub completion: String,
    /// Field of the better answer.
    #[serde(default = "training_job::default_chosen")]
    pub chosen: String,
    /// Field of the worse answer.
    #[serde(default = "training_job::default_rejected")]
    pub rejected: String,
}

impl Default for DataFile {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            uri: String::new(),
            format: DataFormat::JSONL,
            text: training_job::default_text(),
            image: training_job::default_image(),
            label: training_job::default_label(),
            messages: training_job::default_messages(),
            prompt: training_job::default_prompt(),
            completion: training_job::default_completion(),
            chosen: training_job::default_chosen(),
            rejected: training_job::default_rejected(),
        }
    }
}

/// Configuration of `hearth-worker quantize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuantizeConfig {
    /// [`CONFIG_VERSION`].
    pub version: String,
    /// The ModelDeployment that this runs for.
    pub job: JobIdentity,
    /// Hugging Face directory to compress.
    pub model: PathBuf,
    /// The model that the gate compares with and whose size counts as the one before, where it is
    /// not `model`: the teacher, or what was pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// Weights that are taken away first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Pruning>,
    /// Number format to write.
    pub quantization: Quantization,
    /// Most columns of a weight that share a scale, where columns do.
    pub group_size: u32,
    /// Directory to write; replaced whole, last.
    pub output: PathBuf,
    /// URI of `output`.
    pub output_uri: String,
    /// What weights are rounded by.
    pub calibration: Option<QuantizeCalibration>,
    /// What the compressed model must still be able to do.
    pub gate: Option<QuantizeGate>,
}

/// Rows that weights are rounded by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuantizeCalibration {
    /// The rows.
    pub data: DataFile,
    /// Most rows that are shown to the model, the first ones.
    pub max_rows: u32,
}

/// The check on a compressed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuantizeGate {
    /// Rows to evaluate on. They are cleaned as the model's training data was
    /// (the export's `hearth.json` says how).
    pub data: DataFile,
    /// What to compare.
    pub metric: Metric,
    /// Most that the metric may get worse.
    pub max_drop: f64,
}

/// Configuration of `hearth-worker serve`, and of `hearth-worker cache` before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServeConfig {
    /// [`CONFIG_VERSION`].
    pub version: String,
    /// The ModelDeployment that this runs for; its name is the served model's name.
    pub job: JobIdentity,
    /// Revision, reported by `/v2/models/NAME` as the version.
    pub revision: String,
    /// Hugging Face directory, compressed or not.
    pub model: PathBuf,
    /// What to compute on.
    pub accelerator: Accelerator,
    /// What computes.
    #[serde(default)]
    pub runtime: ServingRuntime,
    /// Requests computed together.
    pub max_batch_size: u32,
    /// Longest wait for a batch to fill, in milliseconds.
    pub max_batch_delay_milliseconds: u32,
    /// Requests that may wait; more are answered with 429.
    pub max_queue_depth: u32,
    /// Largest request body.
    pub max_body_bytes: u64,
    /// Memory for what texts were answered before, by a classifier or with embeddings; 0 computes
    /// each anew.
    #[serde(default)]
    pub response_cache_bytes: u64,
    /// LoRA adapters beside a language model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterDirectory>,
    /// Models of tables: features that join each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureStore>,
    /// Where `hearth-worker cache` puts a copy of the model, and the server looks for it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_cache: Option<NodeCacheDirectory>,
    /// Port to listen on, [`SERVE_PORT`] in pods.
    pub port: u16,
}

/// Adapters that are a model of their own to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterDirectory {
    /// The model's name.
    pub name: String,
    /// PEFT's directory.
    pub path: PathBuf,
}

/// The node's cache of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeCacheDirectory {
    /// [`NODE_CACHE_PATH`] in pods.
    pub path: PathBuf,
    /// The claim behind it, for messages.
    pub claim: String,
    /// Most bytes of all models in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// Where agent 0 takes [`Replicas`] by PUT.
pub const REPLICAS_PATH: &str = "/replicas";

/// How many agents the job should have from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// 1 to 1024.
    pub replicas: u32,
}

/// What agent 0 answers on `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerStatus {
    /// What the ranks are doing.
    pub state: WorkerState,
    /// Number of the present gang, from 1.
    pub generation: u32,
    /// Agents that the job should have.
    pub replicas: u32,
    /// Agents whose ranks run; 0 while none do.
    pub present_replicas: u32,
    /// Times that training was taken up again after a failure.
    pub restarts: u32,
    /// How far training is.
    pub progress: TrainingProgress,
    /// Evaluations so far, oldest first: at most [`MOST_EVALUATIONS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluations: Vec<Evaluation>,
    /// The newest complete checkpoint.
    pub checkpoint: Option<CheckpointStatus>,
    /// Each rank of the present gang.
    pub ranks: Vec<RankStatus>,
    /// What the newest steps make of the devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceUse>,
    /// What people should know and what stops nothing: the newest of each reason, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<WorkerNote>,
    /// The newest failure, recovered from or not.
    pub last_failure: Option<Failure>,
    /// Set once, when training has ended either way.
    pub result: Option<WorkerResult>,
}

/// What the ranks are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    /// Agents are joining, or ranks are loading.
    #[default]
    Starting,
    /// Steps are being made.
    Training,
    /// The model is being evaluated.
    Evaluating,
    /// The model is being exported.
    Exporting,
    /// A gang is being replaced after a failure.
    Restarting,
    /// Ranks save, so that a gang of another size can go on.
    Resizing,
    /// Ended with a model.
    Succeeded,
    /// Ended without one.
    Failed,
}

/// One rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RankStatus {
    /// `RANK`.
    pub rank: u32,
    /// Agent that runs it.
    pub agent: u32,
    /// Newest step that it reported.
    pub step: i64,
    /// Milliseconds since it last reported anything.
    pub silent_milliseconds: u64,
}

/// What training makes of its devices, over its newest steps. A device is what
/// one rank computes on: a GPU, or the rank's share of a machine's cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceUse {
    /// Share of rank 0's time in which it waited for data, 0 to 1.
    pub data_wait_ratio: f64,
    /// Samples a second and device.
    pub samples_per_device_second: f64,
    /// Tokens a second and device.
    pub tokens_per_device_second: f64,
    /// Power of all GPUs together, where each is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// Samples for a joule that GPUs took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_joule: Option<f64>,
    /// Tokens for a joule that GPUs took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_joule: Option<f64>,
}

/// Something that people should know and that stops nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerNote {
    /// CamelCase, such as `BadRows`, `CheckpointCorrupt`, `LearningRateTooHigh`.
    pub reason: String,
    /// One or two sentences: what, where, what to do.
    pub message: String,
    /// Optimizer steps done when it was told.
    pub step: i64,
    /// Agent that it is about, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<u32>,
}

/// Something that went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Rank that failed first, where one did.
    pub rank: Option<u32>,
    /// CamelCase, such as `RankKilled`, `RankExited`, `RankHung`, `AgentLost`,
    /// `BadData`, `MissingInput`, `BadConfig`, `RestartsExhausted`.
    pub reason: String,
    /// One sentence: what, where, what to do.
    pub message: String,
}

/// The termination message of `agent` (index 0), `quantize` and `cache`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResult {
    /// Whether there is a model.
    pub succeeded: bool,
    /// CamelCase; `Completed` on success, of `cache` `CacheHit` or `CacheMiss`.
    pub reason: String,
    /// One sentence for the condition.
    pub message: String,
    /// Exit code that goes with it.
    pub exit_code: i32,
    /// Times that training was taken up again.
    #[serde(default)]
    pub restarts: u32,
    /// Final figures of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TrainingProgress>,
    /// Evaluations of training, oldest first: at most [`MOST_EVALUATIONS`], and fewer where they
    /// do not fit into a termination message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluations: Vec<Evaluation>,
    /// The newest complete checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// The exported or compressed model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// What compression did, from `quantize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionReport>,
    /// What people should know of training: the newest of each reason, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<WorkerNote>,
    /// What was made of rows, from `prepare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,
}

impl WorkerResult {
    /// The document for the termination log: valid JSON of at most
    /// [`TERMINATION_LOG_MAX_BYTES`]. Where it must be shorter, evaluations are thinned, then notes left
    /// out, the oldest first, and then the message is cut.
    pub fn to_termination_message(&self) -> String {
        let mut result = self.clone();
        loop {
            let text = serde_json::to_string(&result).unwrap_or_default();
            if text.len() <= TERMINATION_LOG_MAX_BYTES {
                return text;
            }
            if !result.evaluations.is_empty() {
                result.evaluations = thinned(&result.evaluations, result.evaluations.len() / 2);
                continue;
            }
            if !result.notes.is_empty() {
                result.notes.remove(0);
                continue;
            }
            if result.message.is_empty() {
                return text;
            }
            let keep = result.message.chars().count() * 3 / 4;
            result.message = result.message.chars().take(keep).collect();
        }
    }
}

/// Every n-th of some points, and the newest: at most `most` of them. What stays does so as
/// points are added, until there are twice as many.
pub fn thinned<T: Clone>(points: &[T], most: usize) -> Vec<T> {
    let Some((newest, _)) = points.split_last().filter(|_| most > 0) else { return Vec::new() };
    if most == 1 {
        return vec![newest.clone()];
    }
    let mut every = 1;
    while (points.len() - 1).div_ceil(every) >= most {
        every *= 2;
    }
    let last = points.len() - 1;
    let kept = points[..last].iter().step_by(every);
    kept.chain([newest]).cloned().collect()
}

/// Exit codes of `hearth-worker` (sysexits.h). 64 to 78 are permanent: the
/// operator does not retry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Anything that a retry may mend.
    Failure = 1,
    /// Configuration that cannot be run (`EX_USAGE`).
    Usage = 64,
    /// Data or a model that is malformed (`EX_DATAERR`).
    Data = 65,
    /// A file or directory that is not there (`EX_NOINPUT`).
    NoInput = 66,
    /// The accelerator that was asked for is not there (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Memory ran out, and would again (`EX_OSERR`).
    OutOfMemory = 71,
    /// `maxRestarts` is spent (`EX_SOFTWARE`).
    RestartsExhausted = 70,
    /// The output cannot be written (`EX_CANTCREAT`).
    CannotCreate = 73,
    /// The compressed model lost more than its gate allows (`EX_PROTOCOL`).
    GateFailed = 76,
    /// Asked to stop by SIGTERM (128 + 15); a checkpoint was saved.
    Terminated = 143,
}

impl ExitCode {
    /// Whether a retry cannot help.
    pub fn is_permanent(code: i32) -> bool {
        (64..=78).contains(&code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn termination_messages_fit_and_stay_json() {
        let result = WorkerResult {
            succeeded: false,
            reason: "BadData".into(),
            message: "\u{1F980}\"".repeat(5000),
            exit_code: 65,
            restarts: 0,
            progress: None,
            evaluations: vec![Evaluation { loss: Some(0.123_456_789_012), ..evaluation() }; 33],
            checkpoint: None,
            model: None,
            compression: None,
            notes: Vec::new(),
            data: None,
        };
        let text = result.to_termination_message();
        assert!(text.len() <= TERMINATION_LOG_MAX_BYTES);
        let back: WorkerResult = serde_json::from_str(&text).unwrap();
        assert_eq!(back.reason, "BadData");
        assert!(!back.message.is_empty());
    }

    fn evaluation() -> Evaluation {
        Evaluation { step: 100_000, f1: Some(0.5), ..Evaluation::default() }
    }

    #[test]
    fn all_evaluations_of_an_ordinary_end_fit() {
        let figure = Some(-0.123_456_789_012_345_6);
        let evaluation = Evaluation {
            step: 1_000_000,
            loss: figure,
            accuracy: figure,
            f1: figure,
            f1_macro: figure,
            ..Evaluation::default()
        };
        let mut result = WorkerResult {
            succeeded: true,
            reason: "Completed".into(),
            message: "trained 1000000 steps; the model is in pvc://models/spam/model".into(),
            exit_code: 0,
            restarts: 0,
            progress: None,
            evaluations: vec![evaluation.rounded(); MOST_EVALUATIONS],
            checkpoint: None,
            model: None,
            compression: None,
            notes: Vec::new(),
            data: None,
        };
        let kept = |result: &WorkerResult| {
            let text = result.to_termination_message();
            serde_json::from_str::<WorkerResult>(&text).unwrap().evaluations.len()
        };
        assert_eq!(kept(&result), MOST_EVALUATIONS);
        let note = |step| WorkerNote { message: "n".repeat(300), step, ..WorkerNote::default() };
        result.notes = (0..20).map(note).collect();
        result.evaluations.clear();
        let text = result.to_termination_message();
        let notes = serde_json::from_str::<WorkerResult>(&text).unwrap().notes;
        assert!((4..20).contains(&notes.len()), "{}", notes.len());
        assert_eq!(notes.last().map(|note| note.step), Some(19), "the oldest are left out");
        result.notes.clear();
        result.evaluations = vec![evaluation.rounded(); MOST_EVALUATIONS];
        result.message = "long ".repeat(400);
        assert!((8..MOST_EVALUATIONS).contains(&kept(&result)), "{}", kept(&result));
    }

    #[test]
    fn what_is_kept_is_even_and_stays() {
        let of = |count: usize| thinned(&(0..count).collect::<Vec<_>>(), 5);
        assert_eq!(of(0), [0; 0]);
        assert_eq!(of(1), [0]);
        assert_eq!(of(5), [0, 1, 2, 3, 4]);
        assert_eq!(of(6), [0, 2, 4, 5]);
        assert_eq!(of(9), [0, 2, 4, 6, 8]);
        assert_eq!(of(10), [0, 4, 8, 9]);
        assert_eq!(thinned(&[1, 2, 3], 1), [3]);
        assert_eq!(thinned(&[1, 2, 3], 0), [0; 0]);
        for count in 0..200 {
            assert!(of(count).len() <= 5);
        }
    }

    #[test]
    fn sysexits_are_permanent_and_signals_are_not() {
        for (code, permanent) in
            [(0, false), (1, false), (64, true), (78, true), (137, false), (143, false)]
        {
            assert_eq!(ExitCode::is_permanent(code), permanent, "{code}");
        }
    }
}
