//! A convolution with its batch norm, and mostly an activation after both.

use tch::Tensor;

use super::activation::Activation;
use super::batch_norm::BatchNorm;
use super::convolution::Convolution;
use super::dropout::Dropout;
use crate::model::ModelError;
use crate::model::module::module;

/// A convolution, a norm, an activation.
#[derive(Debug)]
pub struct ConvLayer {
    /// Without a bias: the norm has one.
    pub convolution: Convolution,
    /// Of its outputs.
    pub norm: BatchNorm,
    /// After the norm.
    pub activation: Option<Activation>,
}
module!(ConvLayer: convolution, norm);

/// What all such layers of a network share.
#[derive(Clone, Copy, Debug)]
pub struct NormStyle {
    /// Share of the newest batch in the statistics.
    pub momentum: f64,
    /// Term against division by zero.
    pub eps: f64,
}

impl ConvLayer {
    /// `[B, C, H, W]` → `[B, C', H', W']`.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let normed = self.norm.forward(&self.convolution.forward(input)?, dropout)?;
        match self.activation {
            Some(activation) => activation.forward(&normed),
            None => Ok(normed),
        }
    }
}

/// Mean of each channel, `[B, C, H, W]` → `[B, C]`.
pub fn pool(input: &Tensor) -> Result<Tensor, ModelError> {
    Ok(input.f_mean_dim(&[2i64, 3][..], false, None)?)
}
