//! Everything but tensors that a run needs to go on as if never stopped.
//!
//! No generator state is kept: shuffling depends on (seed, epoch) and dropout
//! on (seed, step, pass, rank), so position is enough.

use serde::{Deserialize, Serialize};

use super::patience::Patience;
use crate::data::order::Cursor;
use crate::event::EvalMetrics;

/// `state.json` of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainState {
    /// Optimizer steps done.
    pub step: u64,
    /// How far the data has been read.
    pub cursor: Cursor,
    /// Sum of the steps' losses.
    pub loss_sum: f64,
    /// Sum of the losses since the last line of `metrics.jsonl`.
    pub logged_loss_sum: f64,
    /// Steps since the last line of `metrics.jsonl`.
    pub logged_steps: u64,
    /// The best checkpoint so far.
    pub best: Option<Best>,
    /// The newest evaluation.
    pub last_evaluation: Option<EvalMetrics>,
    /// Whether this step's evaluation is still to be made: a run that is asked
    /// to stop saves first.
    pub evaluation_due: bool,
    /// How long no evaluation was better.
    #[serde(default)]
    pub patience: Patience,
    /// Whether patience came to its end.
    #[serde(default)]
    pub stopped_early: bool,
    /// Steps whose numbers were not finite, and which changed nothing.
    #[serde(default)]
    pub skipped: u64,
    /// As `skipped`, of the newest steps.
    #[serde(default)]
    pub skipped_in_a_row: u32,
    /// Which run this is.
    pub identity: Identity,
}

/// The best checkpoint so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Best {
    /// Optimizer step.
    pub step: u64,
    /// Its evaluation.
    pub metrics: EvalMetrics,
}

/// What must be equal for a checkpoint to be of the same run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// Hash of the settings.
    pub settings: String,
    /// Hash of the data and of how it is encoded.
    pub data: String,
    /// Hash of the model that training started from.
    pub model: String,
}

impl Identity {
    /// What differs first between two runs.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.settings != other.settings {
            Some("settings (spec.task, spec.training or data.evalSplit)")
        } else if self.data != other.data {
            Some("data, cleaning or tokenizer")
        } else if self.model != other.model {
            Some("start weights (spec.model)")
        } else {
            None
        }
    }
}
