//! Takes tensors out of a directory and puts them in their places.

use std::cell::RefCell;
use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::config::ModelConfig;
use super::module::{Role, Weight};
use super::parts::activation::Activation;
use super::parts::batch_norm::BatchNorm;
use super::parts::conv_layer::{ConvLayer, NormStyle};
use super::parts::convolution::{Convolution, Window};
use super::parts::embedding::Embedding;
use super::parts::linear::{Linear, LinearKind};
use super::parts::norm::{LayerNorm, RmsNorm};
use super::weights::Weights;

/// May make a linear layer itself, from its name, its shape `[outputs, inputs]` and the directory's
/// tensors: compressed formats come in here.
pub type Supply<'a> =
    dyn Fn(&str, [i64; 2], &Weights) -> Result<Option<LinearKind>, ModelError> + 'a;

/// Makes the parts of a network from a directory's tensors.
pub struct Loader<'a> {
    /// What the directory says of the model.
    pub config: &'a ModelConfig,
    /// The directory's tensors.
    pub weights: &'a Weights,
    /// Where parts go.
    pub device: Device,
    /// Makes some linear layers itself.
    pub supply: &'a Supply<'a>,
    /// Linear layers that get fresh weights.
    pub fresh: Fresh,
    taken: RefCell<BTreeSet<String>>,
}

/// Linear layers that a directory does not have, or not for this task.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// Names without `.weight`.
    pub names: Vec<&'static str>,
    /// How they are drawn.
    pub draw: Draw,
}

/// How fresh weights are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// With this standard deviation (`initializer_range`), and biases of 0.
    Normal(f64),
    /// As PyTorch's `nn.Linear` does: evenly, biases too, up to the inputs' number to the -1/2.
    Uniform,
}

impl Default for Draw {
    fn default() -> Self {
        Self::Normal(0.02)
    }
}

impl<'a> Loader<'a> {
    /// From `weights` onto `device`.
    pub fn new(
        config: &'a ModelConfig,
        (weights, device): (&'a Weights, Device),
        supply: &'a Supply<'a>,
        fresh: Fresh,
    ) -> Self {
        Self { config, weights, device, supply, fresh, taken: RefCell::default() }
    }

    /// `[outputs, inputs]`, with or without a bias.
    pub fn linear(
        &self,
        name: &str,
        [outputs, inputs]: [i64; 2],
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let kind = if self.fresh.names.contains(&name) {
            self.fresh_linear([outputs, inputs], bias)?
        } else if let Some(kind) = (self.supply)(name, [outputs, inputs], self.weights)? {
            let parts = ["weight", "weight_packed", "weight_scale", "weight_shape", "bias"];
            self.taken.borrow_mut().extend(parts.map(|part| format!("{name}.{part}")));
            kind
        } else {
            let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[outputs]));
            LinearKind::Dense {
                weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
                bias: bias.transpose()?,
            }
        };
        Ok(Linear { name: name.to_owned(), kind })
    }

    fn fresh_linear(&self, shape: [i64; 2], bias: bool) -> Result<LinearKind, ModelError> {
        let options = (Kind::Float, self.device);
        let mut weight = Tensor::f_zeros(shape, options)?;
        let mut bias = bias.then(|| Tensor::f_zeros([shape[0]], options)).transpose()?;
        match self.fresh.draw {
            Draw::Normal(deviation) => weight = weight.f_normal_(0.0, deviation)?,
            Draw::Uniform => {
                let most = (shape[1] as f64).powf(-0.5);
                weight = weight.f_uniform_(-most, most)?;
                bias = bias.map(|mut bias| bias.f_uniform_(-most, most)).transpose()?;
            }
        }
        Ok(LinearKind::Dense { weight, bias })
    }

    /// A tensor of its own.
    pub fn weight(&self, name: &str, shape: &[i64], role: Role) -> Result<Weight, ModelError> {
        Ok(Weight { name: name.to_owned(), tensor: self.tensor(name, shape)?, role })
    }

    /// A table of `rows` vectors.
    pub fn embedding(&self, name: &str, [rows, width]: [i64; 2]) -> Result<Embedding, ModelError> {
        let weight = self.weight(&format!("{name}.weight"), &[rows, width], Role::Decayed)?;
        Ok(Embedding { weight })
    }

    /// Over `width` values.
    pub fn layer_norm(&self, name: &str, width: i64, eps: f64) -> Result<LayerNorm, ModelError> {
        let part = |part: &str| self.weight(&format!("{name}.{part}"), &[width], Role::Plain);
        Ok(LayerNorm { weight: part("weight")?, bias: part("bias")?, eps })
    }

    /// Over `width` values.
    pub fn rms_norm(&self, name: &str, width: i64, eps: f64) -> Result<RmsNorm, ModelError> {
        let weight = self.weight(&format!("{name}.weight"), &[width], Role::Plain)?;
        Ok(RmsNorm { weight, eps })
    }

    /// From `inputs` to `outputs` channels, with or without a bias.
    pub fn convolution(
        &self,
        name: &str,
        [outputs, inputs]: [i64; 2],
        bias: bool,
        window: Window,
    ) -> Result<Convolution, ModelError> {
        let shape = [outputs, inputs / window.groups, window.kernel[0], window.kernel[1]];
        let bias =
            bias.then(|| self.weight(&format!("{name}.bias"), &[outputs], Role::Plain)).transpose();
        let weight = self.weight(&format!("{name}.weight"), &shape, Role::Decayed)?;
        Ok(Convolution { weight, bias: bias?, window })
    }

    /// Over `channels` channels. As in transformers' Trainer, its scale decays.
    pub fn batch_norm(
        &self,
        name: &str,
        channels: i64,
        momentum: f64,
        eps: f64,
    ) -> Result<BatchNorm, ModelError> {
        let part = |part: &str, role| self.weight(&format!("{name}.{part}"), &[channels], role);
        Ok(BatchNorm {
            weight: part("weight", Role::Decayed)?,
            bias: part("bias", Role::Plain)?,
            running_mean: part("running_mean", Role::Statistic)?,
            running_var: part("running_var", Role::Statistic)?,
            num_batches_tracked: self.counter(&format!("{name}.num_batches_tracked"))?,
            momentum,
            eps,
        })
    }

    /// `NAME.convolution` without a bias, and `NAME.normalization`.
    pub fn conv_layer(
        &self,
        name: &str,
        [outputs, inputs]: [i64; 2],
        window: Window,
        (style, activation): (NormStyle, Option<Activation>),
    ) -> Result<ConvLayer, ModelError> {
        let NormStyle { momentum, eps } = style;
        let convolution = format!("{name}.convolution");
        Ok(ConvLayer {
            convolution: self.convolution(&convolution, [outputs, inputs], false, window)?,
            norm: self.batch_norm(&format!("{name}.normalization"), outputs, momentum, eps)?,
            activation,
        })
    }

    /// An i64 scalar; 0 where the directory, written before there was such a thing, has none.
    fn counter(&self, name: &str) -> Result<Weight, ModelError> {
        let tensor = match self.weights.get(name) {
            Some(tensor) => tensor.f_to_kind(Kind::Int64)?.f_reshape([] as [i64; 0])?,
            None => Tensor::f_zeros([] as [i64; 0], (Kind::Int64, Device::Cpu))?,
        };
        self.taken.borrow_mut().insert(name.to_owned());
        let tensor = tensor.f_to_device(self.device)?;
        Ok(Weight { name: name.to_owned(), tensor, role: Role::Statistic })
    }

    /// A tensor in f32.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let tensor = self.weights.float(name, shape)?.f_to_device(self.device)?;
        self.taken.borrow_mut().insert(name.to_owned());
        Ok(tensor)
    }

    /// Tensors of the directory that no part of the network asked for, by name.
    pub fn left_over(&self) -> Vec<String> {
        let taken = self.taken.borrow();
        let is_taken = |name: &str| {
            taken.contains(name)
                || taken.contains(&format!("{}{name}", self.weights.prefix()))
                || name.strip_suffix("_scale_inv").is_some_and(|weight| taken.contains(weight))
        };
        self.weights.names().filter(|name| !is_taken(name)).map(str::to_owned).collect()
    }
}
