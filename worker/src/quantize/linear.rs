//! Reads a directory, compressed or not, for inference.

use std::path::Path;

use nccl_rs::qlinear::QLinear;
use tch::{Device, Kind, Tensor};

use super::format;
use crate::model::{
    Dropout, LinearKind, LinearOp, Model, ModelConfig, ModelError, Weights, load_with,
};

/// A linear layer with int8 weights, computed in int8.
#[derive(Debug)]
struct Int8(QLinear);

impl LinearOp for Int8 {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        Ok(self.0.forward(&input.f_contiguous()?)?)
    }
}

/// Whether a directory holds int8 weights.
pub fn is_compressed(directory: &Path) -> Result<bool, ModelError> {
    let config = ModelConfig::read(directory)?;
    format::is_int8(&config.raw)
        .map_err(|detail| ModelError::Unsupported { path: config.path, detail })
}

/// Reads `directory`. Its int8 layers are computed in int8 on a CPU; on
/// another device, for which libtorch has no such product, in f32 from the same
/// weights.
pub fn load(directory: &Path, device: Device) -> Result<Model, ModelError> {
    let compressed = is_compressed(directory)?;
    load_with(directory, device, &|name, _, weights| {
        if !compressed {
            return Ok(None);
        }
        let Some(weight) = weights.get(&format!("{name}.weight")) else { return Ok(None) };
        if weight.kind() != Kind::Int8 {
            return Ok(None);
        }
        int8_layer(name, &weight, weights, directory, device).map(Some)
    })
}

fn int8_layer(
    name: &str,
    weight: &Tensor,
    weights: &Weights,
    directory: &Path,
    device: Device,
) -> Result<LinearKind, ModelError> {
    let [outputs, _] = weight.size()[..] else {
        return Err(malformed(directory, format!("{name}.weight is no matrix")));
    };
    let scale = weights.float(&format!("{name}.weight_scale"), &[outputs, 1])?;
    let bias = match weights.get(&format!("{name}.bias")) {
        Some(_) => Some(weights.float(&format!("{name}.bias"), &[outputs])?),
        None => None,
    };
    if device == Device::Cpu {
        let scale = scale.f_reshape([outputs])?;
        return Ok(LinearKind::Other(Box::new(Int8(QLinear::new(weight, &scale, bias.as_ref())?))));
    }
    let weight = weight.f_to_kind(Kind::Float)?.f_mul(&scale)?.f_to_device(device)?;
    let bias = bias.map(|bias| bias.f_to_device(device)).transpose()?;
    Ok(LinearKind::Dense { weight, bias })
}

fn malformed(directory: &Path, detail: String) -> ModelError {
    ModelError::Malformed { path: directory.join("model.safetensors"), detail }
}
