//! Linear layers, dense or computed from outside.

use std::fmt;

use tch::Tensor;

use super::dropout::Dropout;
use crate::model::ModelError;

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    /// Hugging Face's name without `.weight`, such as `bert.pooler.dense`.
    pub name: String,
    /// How it is computed.
    pub kind: LinearKind,
}

/// How a linear layer is computed.
#[derive(Debug)]
pub enum LinearKind {
    /// In floating point.
    Dense {
        /// `[N, K]`.
        weight: Tensor,
        /// `[N]`.
        bias: Option<Tensor>,
    },
    /// By another kernel, such as int8, or with more to it, such as LoRA.
    Other(Box<dyn LinearOp>),
}

/// A linear layer that somebody else computes.
pub trait LinearOp: Send + fmt::Debug {
    /// `x [.., K]` → `y [.., N]`.
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError>;

    /// Tensors that are trained or saved, by the name's part after the layer's.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// The same layer as one dense product, where this is a way to train one.
    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        None
    }
}

impl Linear {
    /// `x [.., K]` → `y [.., N]`.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        match &self.kind {
            LinearKind::Dense { weight, bias } => Ok(input.f_linear(weight, bias.as_ref())?),
            LinearKind::Other(op) => op.forward(input, dropout),
        }
    }

    /// Its tensors by their full names, the weight first.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        match &self.kind {
            LinearKind::Dense { weight, bias } => {
                let weight = (format!("{}.weight", self.name), weight.shallow_clone());
                let bias =
                    bias.as_ref().map(|b| (format!("{}.bias", self.name), b.shallow_clone()));
                std::iter::once(weight).chain(bias).collect()
            }
            LinearKind::Other(op) => {
                let full = |(part, tensor)| (format!("{}.{part}", self.name), tensor);
                op.tensors().into_iter().map(full).collect()
            }
        }
    }
}
