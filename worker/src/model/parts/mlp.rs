//! Gated feed-forward layers.

use tch::Tensor;

use super::activation::Activation;
use super::dropout::Dropout;
use super::linear::Linear;
use crate::model::ModelError;
use crate::model::module::module;

/// `down(act(gate(x)) · up(x))` (Shazeer 2020), as `LlamaMLP` of transformers.
#[derive(Debug)]
pub struct GatedMlp {
    /// `[I, D]`.
    pub gate: Linear,
    /// `[I, D]`.
    pub up: Linear,
    /// `[D, I]`.
    pub down: Linear,
    /// Of the gate.
    pub activation: Activation,
}
module!(GatedMlp: gate, up, down);

impl GatedMlp {
    /// `[.., D]` → `[.., D]`.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let gate = self.activation.forward(&self.gate.forward(input, dropout)?)?;
        self.down.forward(&gate.f_mul(&self.up.forward(input, dropout)?)?, dropout)
    }
}
