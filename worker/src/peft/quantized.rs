//! Frozen layers in 8 or 4 bits under adapters (QLoRA, Dettmers et al. 2023).
//!
//! Only the linear layers of blocks are quantized: embeddings and heads are not, as bitsandbytes
//! has it. They are quantized one by one while the model is read, so that no two of them are in
//! memory in f32 at a time.

use nccl_rs::frozen::{Bits, Frozen};
use tch::{Device, Tensor};

use crate::model::parts::dropout::Dropout;
use crate::model::parts::linear::is_in_block;
use crate::model::{LinearKind, LinearOp, ModelError, Weights};

/// A frozen layer in 8 or 4 bits.
#[derive(Debug)]
struct Quantized {
    weight: Frozen,
    /// `[N]`, in f32.
    bias: Option<Tensor>,
}

/// The layer `name` with its weight in `format`, on `device`; `None` for one that is left as it is.
pub fn quantized(
    name: &str,
    shape: [i64; 2],
    weights: &Weights,
    (format, device): (Bits, Device),
) -> Result<Option<LinearKind>, ModelError> {
    if !is_in_block(name) {
        return Ok(None);
    }
    let weight = weights.float(&format!("{name}.weight"), &shape)?;
    let weight = Frozen::quantize(&weight, format)?.to_device(device);
    let bias = format!("{name}.bias");
    let bias = weights.get(&bias).map(|_| weights.float(&bias, &shape[..1])).transpose()?;
    let bias = bias.map(|bias| bias.f_to_device(device)).transpose()?;
    Ok(Some(LinearKind::Other(Box::new(Quantized { weight, bias }))))
}

impl LinearOp for Quantized {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        Ok(self.weight.linear(input, self.bias.as_ref())?)
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let Frozen { values, scales, .. } = &self.weight;
        let mut all = vec![
            ("weight_packed".to_owned(), values.shallow_clone()),
            ("weight_scale".to_owned(), scales.shallow_clone()),
        ];
        all.extend(self.bias.as_ref().map(|bias| ("bias".to_owned(), bias.shallow_clone())));
        all
    }

    fn take_bias(&mut self) -> Option<Tensor> {
        self.bias.take()
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        let dense = self.weight.dequantize().map_err(ModelError::from);
        Some(dense.map(|weight| LinearKind::Dense { weight, bias }))
    }
}
