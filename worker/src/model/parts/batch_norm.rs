//! Batch norm (Ioffe and Szegedy 2015), as PyTorch's `BatchNorm2d`.

use tch::{Tensor, no_grad};

use super::dropout::Dropout;
use crate::model::ModelError;
use crate::model::module::{Weight, module};

/// Norm of each channel, over a batch in training and by running statistics otherwise.
#[derive(Debug)]
pub struct BatchNorm {
    /// Scale, `[C]`.
    pub weight: Weight,
    /// Shift, `[C]`.
    pub bias: Weight,
    /// Mean of the batches seen, `[C]`.
    pub running_mean: Weight,
    /// Unbiased variance of the batches seen, `[C]`.
    pub running_var: Weight,
    /// Batches seen, an i64 scalar.
    pub num_batches_tracked: Weight,
    /// Share of the newest batch in the statistics.
    pub momentum: f64,
    /// Term against division by zero.
    pub eps: f64,
}
module!(BatchNorm: weight, bias, running_mean, running_var, num_batches_tracked);

impl BatchNorm {
    /// `[B, C, H, W]` → the same shape. Where activations are dropped, a batch is trained on: it
    /// is normed by its own statistics, and the running ones move towards these.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let training = dropout == Dropout::On;
        if training {
            let mut batches = self.num_batches_tracked.tensor.shallow_clone();
            let _ = no_grad(|| batches.f_add_scalar_(1))?;
        }
        Ok(input.f_batch_norm(
            Some(&self.weight.tensor),
            Some(&self.bias.tensor),
            Some(&self.running_mean.tensor),
            Some(&self.running_var.tensor),
            training,
            self.momentum,
            self.eps,
            true,
        )?)
    }
}
