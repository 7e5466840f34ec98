//! Activation functions by transformers' names (`activations.py`, `ACT2FN`).

use tch::Tensor;

use crate::model::ModelError;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// GELU's tanh approximation.
    GeluTanh,
    /// Rectified linear unit.
    Relu,
    /// Rectified linear unit, at most 6.
    Relu6,
    /// Sigmoid linear unit, also called swish.
    Silu,
}

impl Activation {
    /// The function of this name, or a sentence that refuses it.
    pub fn by_name(name: &str) -> Result<Self, String> {
        Ok(match name {
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "relu" => Self::Relu,
            "relu6" => Self::Relu6,
            "silu" | "swish" => Self::Silu,
            other => {
                return Err(format!(
                    "hidden_act {other:?} is not supported; gelu, gelu_new, gelu_pytorch_tanh, relu, relu6, silu and swish are"
                ));
            }
        })
    }

    /// Element by element.
    pub fn forward(self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Gelu => input.f_gelu("none")?,
            Self::GeluTanh => input.f_gelu("tanh")?,
            Self::Relu => input.f_relu()?,
            Self::Relu6 => input.f_relu6()?,
            Self::Silu => input.f_silu()?,
        })
    }
}
