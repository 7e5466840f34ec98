//! Dropout (Srivastava et al. 2014).

use nccl_rs::fused;
use tch::{Device, Kind, Tensor};

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
        let share = self.share(probability);
        if share <= 0.0 {
            return Ok(input);
        }
        if share < 1.0 && is_fusible(&input) {
            return Ok(fused::dropout(&input, share)?);
        }
        Ok(input.f_dropout(share, true)?)
    }
}

/// Whether one pass over memory does it.
pub fn is_fusible(input: &Tensor) -> bool {
    input.device() == Device::Cpu && [Kind::Float, Kind::BFloat16].contains(&input.kind())
}
