//! Linear layers, dense or supplied from outside.

use std::fmt;

use tch::Tensor;

use super::ModelError;

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub enum Linear {
    /// In floating point.
    Dense {
        /// `[N, K]`.
        weight: Tensor,
        /// `[N]`.
        bias: Option<Tensor>,
    },
    /// By another kernel, such as int8.
    Other(Box<dyn LinearOp>),
}

/// A linear layer that somebody else computes. No autograd.
pub trait LinearOp: Send + fmt::Debug {
    /// `x [.., K]` in f32 → `y [.., N]` in f32.
    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError>;
}

impl Linear {
    /// `x [.., K]` → `y [.., N]`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense { weight, bias } => Ok(input.f_linear(weight, bias.as_ref())?),
            Self::Other(op) => op.forward(input),
        }
    }
}
