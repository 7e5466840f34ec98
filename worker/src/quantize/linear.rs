//! Reads a directory, compressed or not, for inference.

use std::path::Path;

use nccl_rs::frozen::Frozen;
use nccl_rs::narrow::Narrow;
use nccl_rs::qlinear::{ActivationBits, QLinear, activation_bits};
use nccl_rs::storage;
use tch::{Device, Kind, Tensor};

use super::blocks::load_gguf;
use super::format;
use super::tensors::unpack;
use crate::export::gguf;
use crate::model::{
    Dropout, Held, LinearKind, LinearOp, Model, ModelConfig, ModelError, Weights, load_with,
};

/// A linear layer with int8 weights, computed in int8.
#[derive(Debug)]
struct Int8(QLinear);

impl LinearOp for Int8 {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        Ok(self.0.forward(&input.f_contiguous()?)?)
    }
}

/// A linear layer whose weight is held in few bits and dequantized for each product.
#[derive(Debug)]
struct WeightOnly {
    weight: Frozen,
    bias: Option<Tensor>,
}

impl LinearOp for WeightOnly {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        Ok(self.weight.linear(&input.f_contiguous()?, self.bias.as_ref())?)
    }
}

/// Whether a directory's linear layers are compressed.
pub fn is_compressed(directory: &Path) -> Result<bool, ModelError> {
    if gguf::is_in(directory) {
        return Ok(true);
    }
    let config = ModelConfig::read(directory)?;
    format::schemes(&config.raw)
        .map(|schemes| schemes.is_some())
        .map_err(|detail| ModelError::Unsupported { path: config.path, detail })
}

/// Reads `directory`. Its int8 layers are computed in int8 on a CPU; on another device, for which
/// libtorch has no such product, in f32 from the same weights. Layers in fp8 are held and computed
/// in f32, as are those of a GGUF file that are not `Q8_0` or `Q4_0`.
pub fn load(directory: &Path, device: Device) -> Result<Model, ModelError> {
    read(directory, device, false)
}

/// As [`load`], of a language model: on a CPU, layers in bfloat16 are held so from the start, and never
/// in 32 bits.
pub fn load_narrow(directory: &Path, device: Device) -> Result<Model, ModelError> {
    read(directory, device, device == Device::Cpu)
}

fn read(directory: &Path, device: Device, halves: bool) -> Result<Model, ModelError> {
    if gguf::is_in(directory) {
        return load_gguf(directory, device);
    }
    let compressed = is_compressed(directory)?;
    load_with(directory, device, &|name, shape, weights| {
        let layer = Layer { name, shape, weights, directory, device };
        let read = if compressed { layer.read()? } else { None };
        match read {
            None if halves => layer.halves(),
            read => Ok(read),
        }
    })
}

/// A layer that is read in so many bits, 4 or 8, with its scales.
pub(super) fn held(
    (values, scale): (&Tensor, &Tensor),
    bias: Option<&Tensor>,
    width: u32,
) -> Result<LinearKind, ModelError> {
    let narrow = if width == 4 {
        Narrow::nibbles(values, scale, bias)?
    } else {
        Narrow::bytes(values, scale, bias)?
    };
    Ok(LinearKind::Other(Box::new(Held(narrow))))
}

/// Lets what a layer was made of go: else a model would be in memory twice until all of it is read.
fn read_once(layer: LinearKind, read: &Tensor) -> Result<LinearKind, ModelError> {
    storage::release(read)?;
    Ok(layer)
}

/// A layer that may be compressed.
struct Layer<'a> {
    name: &'a str,
    /// `[N, K]`.
    shape: [i64; 2],
    weights: &'a Weights,
    directory: &'a Path,
    device: Device,
}

impl Layer<'_> {
    fn read(&self) -> Result<Option<LinearKind>, ModelError> {
        let part = |part: &str| self.weights.get(&format!("{}.{part}", self.name));
        if let Some(words) = part("weight_packed") {
            return self.packed(&words).and_then(|layer| read_once(layer, &words)).map(Some);
        }
        let Some(weight) = part("weight") else { return Ok(None) };
        match weight.kind() {
            Kind::Int8 => self.int8(&weight).map(Some),
            Kind::Float8e4m3fn if part("weight_scale").is_some() => {
                Ok(Some(self.dense(&weight, &self.scale([self.shape[0], 1])?)?))
            }
            _ => Ok(None),
        }
    }

    /// A layer in bfloat16 as it is.
    fn halves(&self) -> Result<Option<LinearKind>, ModelError> {
        let weight = self.weights.get(&format!("{}.weight", self.name));
        let fits = |weight: &Tensor| weight.kind() == Kind::BFloat16 && weight.size() == self.shape;
        let Some(weight) = weight.filter(fits) else { return Ok(None) };
        let narrow = Narrow::halves(&weight, self.bias()?.as_ref())?;
        read_once(LinearKind::Other(Box::new(Held(narrow))), &weight).map(Some)
    }

    fn int8(&self, weight: &Tensor) -> Result<LinearKind, ModelError> {
        self.expect_shape("weight", weight, self.shape)?;
        let rows = self.shape[0];
        let scale = self.scale([rows, 1])?;
        if self.device != Device::Cpu {
            return self.dense(weight, &scale);
        }
        let (scale, bias) = (scale.f_reshape([rows])?, self.bias()?);
        Ok(LinearKind::Other(match activation_bits()? {
            ActivationBits::Eight => Box::new(Int8(QLinear::new(weight, &scale, bias.as_ref())?)),
            // Without VNNI, activations of 7 bits would lose more than those of 8 that the gate
            // allowed for, and take longer than floats.
            ActivationBits::Seven => {
                return read_once(held((weight, &scale), bias.as_ref(), 8)?, weight);
            }
        }))
    }

    /// Bits and groups are told by the sizes: a word holds 32 bits of each row.
    fn packed(&self, words: &Tensor) -> Result<LinearKind, ModelError> {
        let [rows, columns] = self.shape;
        let width = match words.size().as_slice() {
            [n, across] if *n == rows => {
                [4u32, 8].into_iter().find(|bits| *across == (columns * i64::from(*bits) + 31) / 32)
            }
            _ => None,
        };
        let Some(width) = width.filter(|_| words.kind() == Kind::Int) else {
            let found = (words.kind(), words.size());
            return Err(self.malformed(&format!(
                "weight_packed is {found:?}, which holds no {rows} rows of {columns} numbers of 4 or 8 bits"
            )));
        };
        let groups = self.weights.get(&format!("{}.weight_scale", self.name));
        let groups = groups.and_then(|scale| scale.size().get(1).copied()).unwrap_or(1);
        if groups == 0 || columns % groups != 0 || (groups > 1 && columns / groups % 2 != 0) {
            return Err(self.malformed(&format!("{groups} scales for {columns} columns")));
        }
        let scale = self.scale([rows, groups])?;
        let values = unpack(words, width, columns)?;
        if self.device == Device::Cpu && (groups == 1 || Narrow::has_groups_of(columns / groups)) {
            let scale = if groups == 1 { scale.f_reshape([rows])? } else { scale };
            return held((&values, &scale), self.bias()?.as_ref(), width);
        }
        let weight = Frozen::of_parts(&values, &scale, width == 4)?.to_device(self.device);
        let bias = self.bias()?.map(|bias| bias.f_to_device(self.device)).transpose()?;
        Ok(LinearKind::Other(Box::new(WeightOnly { weight, bias })))
    }

    fn dense(&self, values: &Tensor, scale: &Tensor) -> Result<LinearKind, ModelError> {
        self.expect_shape("weight", values, self.shape)?;
        let weight = values.f_to_kind(Kind::Float)?.f_mul(scale)?.f_to_device(self.device)?;
        let bias = self.bias()?.map(|bias| bias.f_to_device(self.device)).transpose()?;
        Ok(LinearKind::Dense { weight, bias })
    }

    fn scale(&self, shape: [i64; 2]) -> Result<Tensor, ModelError> {
        self.weights.float(&format!("{}.weight_scale", self.name), &shape)
    }

    fn bias(&self) -> Result<Option<Tensor>, ModelError> {
        let name = format!("{}.bias", self.name);
        let read = |_| self.weights.float(&name, &self.shape[..1]);
        self.weights.get(&name).map(read).transpose()
    }

    fn expect_shape(&self, part: &str, found: &Tensor, shape: [i64; 2]) -> Result<(), ModelError> {
        if found.size() == shape {
            return Ok(());
        }
        let found = found.size();
        Err(self.malformed(&format!("{part} has shape {found:?}; config.json asks for {shape:?}")))
    }

    fn malformed(&self, detail: &str) -> ModelError {
        let detail = format!("{}: {detail}", self.name);
        ModelError::Malformed { path: self.directory.join("model.safetensors"), detail }
    }
}
