//! Norms over the last dimension.

use nccl_rs::fused;
use tch::{Device, Kind, Tensor};

use crate::model::ModelError;
use crate::model::module::{Weight, module};

/// Layer norm (Ba et al. 2016).
#[derive(Debug)]
pub struct LayerNorm {
    /// Scale, `[D]`.
    pub weight: Weight,
    /// Shift, `[D]`.
    pub bias: Weight,
    /// Term against division by zero.
    pub eps: f64,
}
module!(LayerNorm: weight, bias);

impl LayerNorm {
    /// `[.., D]` → `[.., D]`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let (weight, bias) = (&self.weight.tensor, &self.bias.tensor);
        Ok(input.f_layer_norm(weight.size(), Some(weight), Some(bias), self.eps, false)?)
    }
}

/// Root-mean-square norm (Zhang and Sennrich 2019), as `LlamaRMSNorm` of transformers.
#[derive(Debug)]
pub struct RmsNorm {
    /// Scale, `[D]`.
    pub weight: Weight,
    /// Term against division by zero.
    pub eps: f64,
}
module!(RmsNorm: weight);

impl RmsNorm {
    /// `[.., D]` → `[.., D]`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let weight = &self.weight.tensor;
        // As in transformers, what autocast made narrower is normed in the weight's kind.
        let input = input.f_to_kind(weight.kind())?;
        if input.device() == Device::Cpu && weight.kind() == Kind::Float {
            return Ok(fused::rms_norm(&input.f_contiguous()?, weight, self.eps)?);
        }
        Ok(input.f_rms_norm(weight.size(), Some(weight), self.eps)?)
    }
}
