//! What a rank tells its agent: one JSON object a line on standard output.
//!
//! Events carry no clock: the agent stamps what it reads. A rank writes
//! nothing else to standard output; logs for people go to standard error.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use hearth_crds::training_arguments::Metric;
use serde::{Deserialize, Serialize};

/// One line of a rank's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RankEvent {
    /// The process runs and has read its configuration.
    Started {
        /// `RANK`.
        rank: usize,
        /// `WORLD_SIZE`.
        world_size: usize,
        /// `HEARTH_GENERATION`.
        generation: u32,
    },
    /// What the rank does from now on.
    Phase {
        /// The new phase.
        phase: Phase,
        /// Newest optimizer step done.
        step: i64,
    },
    /// An optimizer step is done. Every rank sends one for every step: it is
    /// the heartbeat by which a hang is told from work.
    Step(StepReport),
    /// The model was evaluated (rank 0 only).
    Evaluation {
        /// Optimizer step.
        step: i64,
        /// Passes over the data done.
        epoch: f64,
        /// Figures of the evaluation.
        metrics: EvalMetrics,
        /// Whether it is the best so far by `metricForBestModel`.
        best: bool,
    },
    /// A checkpoint is complete and durable (rank 0 only). Training has gone on
    /// while it was written.
    Checkpoint {
        /// Optimizer step that it holds.
        step: i64,
        /// Its directory.
        path: PathBuf,
        /// Step of the best checkpoint, where one is known.
        best: Option<i64>,
        /// Seconds from its beginning to its completion.
        seconds: f64,
        /// Seconds of those in which training stood still.
        stall_seconds: f64,
        /// Bytes written.
        bytes: u64,
    },
    /// Training was taken up from a checkpoint (rank 0 only).
    Resumed {
        /// Step that it holds.
        step: i64,
        /// Its directory.
        path: PathBuf,
    },
    /// Something that people should know and that stops nothing.
    Note {
        /// CamelCase, such as `BadRows`, `CheckpointCorrupt`, `NewClassifier`.
        reason: String,
        /// One sentence.
        message: String,
    },
    /// The rank ends well (the model: rank 0 only).
    Finished {
        /// Optimizer steps done.
        step: i64,
        /// Optimizer steps in all.
        total: i64,
        /// Figures of the exported model, where it was evaluated.
        metrics: Option<EvalMetrics>,
        /// Mean training loss over all steps.
        train_loss: Option<f64>,
        /// The exported directory.
        model: Option<PathBuf>,
        /// `blake3:HEX` over the exported files.
        digest: Option<String>,
    },
    /// The rank ends badly; the process exits with `exit_code`.
    Failed {
        /// CamelCase, such as `BadData`, `MissingInput`, `BadConfig`, `Terminated`.
        reason: String,
        /// One or two sentences: what, where, what to do.
        message: String,
        /// Exit code that follows.
        exit_code: i32,
    },
}

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Data, model and checkpoint are being read.
    Loading,
    /// Steps are being made.
    Training,
    /// The model is being evaluated.
    Evaluating,
    /// A checkpoint is being written.
    Saving,
    /// The model is being written.
    Exporting,
}

/// Figures of one optimizer step. Sums run over all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Optimizer steps done, this one included.
    pub step: i64,
    /// Optimizer steps in all.
    pub total: i64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean loss over the step's samples.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate that the step used.
    pub learning_rate: f64,
    /// L2 norm of the gradient before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Tokens of the step, padding not counted.
    pub tokens: u64,
    /// Samples of the step.
    pub samples: u64,
    /// Seconds that the step took.
    pub seconds: f64,
    /// Seconds of them in which this rank waited for its data.
    #[serde(default)]
    pub data_seconds: f64,
    /// Seconds of them in which this rank waited for other ranks. `None` on GPUs, where the
    /// host's wait is as much one for its own kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_seconds: Option<f64>,
    /// Tokens since the start of this generation.
    pub tokens_total: u64,
    /// Samples since the start of this generation.
    pub samples_total: u64,
}

/// JSON has no NaN and no infinity: both are written as null.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Figures of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvalMetrics {
    /// Mean loss: cross-entropy, in nats, that of preferences, or the squared error of numbers.
    pub loss: f64,
    /// Share of right answers; `None` where answers are numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Of a classifier: F1 of the positive class (id 1) with two classes, else macro F1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Of a classifier: mean of the classes' F1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// Of a table's two labels: area under the ROC curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Of a table's two labels: average precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// Of a table's numbers: coefficient of determination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Of preferences: how answers are rewarded.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Rewards>,
    /// Answers that were judged: samples, a language model's tokens, or pairs of answers.
    pub samples: u64,
    /// Of a classifier: F1 of each class by its label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub f1_by_class: BTreeMap<String, f64>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Means over pairs of answers, under TRL's names. An answer's reward is `beta` times the log of
/// its probability over that by the reference model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rewards {
    /// Reward of the better answer.
    #[serde(rename = "rewards/chosen")]
    pub chosen: f64,
    /// Reward of the worse answer.
    #[serde(rename = "rewards/rejected")]
    pub rejected: f64,
    /// Share of pairs whose better answer has the higher reward.
    #[serde(rename = "rewards/accuracies")]
    pub accuracies: f64,
    /// Reward of the better answer less that of the worse.
    #[serde(rename = "rewards/margins")]
    pub margins: f64,
}

impl EvalMetrics {
    /// The figure that a spec calls so; `None` where the model has no such figure.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Loss => Some(self.loss),
            Metric::Accuracy => self.accuracy,
            Metric::F1 => self.f1,
            Metric::F1Macro => self.f1_macro,
        }
    }
}

/// Where events go.
pub trait EventSink {
    /// Sends one event. Losing the reader is no reason to stop at once; see
    /// [`Self::has_reader`].
    fn send(&mut self, event: &RankEvent);

    /// Whether somebody still reads.
    fn has_reader(&self) -> bool;
}

/// Writes events as JSON lines.
pub struct JsonLines<W: Write> {
    out: W,
    broken: bool,
}

impl<W: Write> JsonLines<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, broken: false }
    }
}

impl<W: Write> EventSink for JsonLines<W> {
    fn send(&mut self, event: &RankEvent) {
        let line = match serde_json::to_string(event) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "an event is not JSON"),
        };
        let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        if let Err(error) = written {
            self.broken |= error.kind() == std::io::ErrorKind::BrokenPipe;
            tracing::warn!(%error, "an event was not delivered");
        }
    }

    fn has_reader(&self) -> bool {
        !self.broken
    }
}
