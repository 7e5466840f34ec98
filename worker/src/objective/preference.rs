//! The better of two answers (direct preference optimization, Rafailov et al. 2023), as TRL's
//! `DPOTrainer` with its sigmoid loss.
//!
//! An answer's reward is `beta` times the log of its probability over that by a reference, the
//! model that training began with. The loss of a pair is `-log sigmoid(reward of the better one -
//! reward of the worse one)`.

use tch::{Kind, Tensor};

use super::{Place, Tally, causal, decode};
use crate::data::Fetched;
use crate::model::{Dropout, Model, ModelError, Output};
use crate::peft::Adapters;

/// Settings of the loss of preferences.
#[derive(Clone, Debug)]
pub struct Preference {
    /// How strongly the model is held near the reference.
    pub beta: f64,
    /// What it is compared with.
    pub reference: Reference,
}

/// Where the reference's log-probabilities come from.
#[derive(Clone, Debug)]
pub enum Reference {
    /// From the same model with its adapters off, in each pass: the start weights are all there,
    /// and a run that is shorter than its data computes no more than it needs.
    WithoutAdapters(Adapters),
    /// With the samples. They were computed before the first step: 4 bytes an answer instead of a
    /// second model in memory, and one pass over the data instead of one an epoch.
    Known,
}

impl Preference {
    pub(super) fn loss_sum(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
    ) -> Result<Tensor, ModelError> {
        loss_sum(&self.rewards(model, batch, place)?)
    }

    pub(super) fn count(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        tally: &mut Tally,
    ) -> Result<(), ModelError> {
        let rewards = self.rewards(model, batch, place)?;
        let loss = f64::try_from(&loss_sum(&rewards)?)?;
        let flat: Vec<f64> = Vec::try_from(rewards.f_to_kind(Kind::Double)?.f_view([-1])?)?;
        let pairs = flat.as_chunks::<2>().0.iter().map(|[chosen, rejected]| (*chosen, *rejected));
        tally.add_pairs(loss, pairs);
        Ok(())
    }

    /// Rewards f32 `[pairs, 2]`, of the better answer first.
    fn rewards(&self, model: &Model, batch: &Fetched, place: Place) -> Result<Tensor, ModelError> {
        let reference = match &self.reference {
            Reference::WithoutAdapters(adapters) => {
                adapters.off(|| tch::no_grad(|| log_probs(model, batch, place)))?
            }
            Reference::Known => {
                let known: Vec<f32> = batch.sequences().map(|answer| answer.reference).collect();
                if known.iter().any(|value| value.is_nan()) {
                    return Err(ModelError::Pass("an answer's reference is not known"));
                }
                Tensor::f_from_slice(&known)?.f_to_device(place.device)?
            }
        };
        let own = log_probs(model, batch, place)?;
        Ok(own.f_sub(&reference)?.f_mul_scalar(self.beta)?.f_view([-1, 2])?)
    }
}

/// Log-probability of each sequence's tokens to predict, summed, f32 `[sequences]`. Nothing is
/// dropped at random, in training either (TRL's `disable_dropout`): the noise would hide how far
/// the model is from the reference.
pub fn log_probs(model: &Model, batch: &Fetched, place: Place) -> Result<Tensor, ModelError> {
    let rows = causal(batch, place)?;
    let output = Output::LogProbs { targets: rows.targets.shallow_clone() };
    let by_token = decode(model, &rows, Dropout::Off, output)?;
    let counts = Tensor::f_from_slice(&rows.target_tokens)?.f_to_device(place.device)?;
    let sequence = Tensor::f_repeat_interleave(&counts, by_token.size()[0])?;
    let sums = Tensor::f_zeros([counts.size()[0]], (Kind::Float, place.device))?;
    Ok(sums.f_index_add(0, &sequence, &by_token)?)
}

/// Sum over pairs of rewards `[pairs, 2]`.
fn loss_sum(rewards: &Tensor) -> Result<Tensor, ModelError> {
    let margins = rewards.f_select(1, 0)?.f_sub(&rewards.f_select(1, 1)?)?;
    Ok(margins.f_log_sigmoid()?.f_neg()?.f_sum(Kind::Float)?)
}
