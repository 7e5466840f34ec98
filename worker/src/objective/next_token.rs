//! The next token of a text.

use tch::Tensor;

use super::{Place, Tally, Teacher, causal, decode};
use crate::data::Fetched;
use crate::model::{Dropout, Model, ModelError, Output};

/// Settings of a language model's loss.
#[derive(Clone, Debug, Default)]
pub struct NextToken {
    /// Share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// A language model to learn from besides.
    pub teacher: Option<Teacher>,
}

impl NextToken {
    pub(super) fn loss_sum(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let rows = causal(batch, place)?;
        let (targets, label_smoothing) = (rows.targets.shallow_clone(), self.label_smoothing);
        let output = match &self.teacher {
            None => Output::CrossEntropy { targets, label_smoothing },
            Some(teacher) => {
                let teacher = teacher.tokens(&rows)?;
                Output::Distillation { targets, label_smoothing, teacher }
            }
        };
        decode(model, &rows, dropout, output)
    }
}

/// Counts a batch by its plain loss.
pub(super) fn count(
    model: &Model,
    batch: &Fetched,
    place: Place,
    tally: &mut Tally,
) -> Result<(), ModelError> {
    let rows = causal(batch, place)?;
    let output = Output::Score { targets: rows.targets.shallow_clone() };
    let score: Vec<f64> = Vec::try_from(decode(model, &rows, Dropout::Off, output)?)?;
    if let [loss, hits] = score[..] {
        tally.add_tokens(loss, rows.targets.numel() as f64, hits);
    }
    Ok(())
}
