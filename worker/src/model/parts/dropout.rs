//! Dropout (Srivastava et al. 2014).

use tch::Tensor;

use crate::model::ModelError;

/// Whether a forward pass drops activations at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropout {
    /// Training.
    On,
    /// Evaluation and serving.
    Off,
}

impl Dropout {
    /// `probability` in training, else 0.
    pub fn share(self, probability: f64) -> f64 {
        match self {
            Self::On => probability,
            Self::Off => 0.0,
        }
    }

    /// Zeroes a share `probability` of `input` and scales the rest up, in training.
    pub fn apply(self, input: Tensor, probability: f64) -> Result<Tensor, ModelError> {
        if self.share(probability) > 0.0 {
            Ok(input.f_dropout(probability, true)?)
        } else {
            Ok(input)
        }
    }
}
