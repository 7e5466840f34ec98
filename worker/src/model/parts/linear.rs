//! Linear layers, dense or computed from outside.

use std::fmt;

use nccl_rs::narrow::Narrow;
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

    /// Gives its bias away, where it has one: it adds none from then on.
    fn take_bias(&mut self) -> Option<Tensor> {
        None
    }

    /// What is computed, where that is one product with a weight that is held in few bits.
    fn narrow(&self) -> Option<&Narrow> {
        None
    }

    /// The same layer as one dense product, where this is a way to train one.
    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        None
    }
}

impl LinearKind {
    /// `x [.., K]` → `y [.., N]`.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense { weight, bias } => Ok(input.f_linear(weight, bias.as_ref())?),
            Self::Other(op) => op.forward(input, dropout),
        }
    }

    /// Its tensors by their names' last parts, the weight first.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        match self {
            Self::Dense { weight, bias } => {
                let bias = bias.as_ref().map(|b| ("bias".to_owned(), b.shallow_clone()));
                std::iter::once(("weight".to_owned(), weight.shallow_clone())).chain(bias).collect()
            }
            Self::Other(op) => op.tensors(),
        }
    }
}

impl Linear {
    /// `x [.., K]` → `y [.., N]`.
    pub fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        self.kind.forward(input, dropout)
    }

    /// What is computed, where that is one product with a weight that is held in few bits.
    pub fn narrow(&self) -> Option<&Narrow> {
        match &self.kind {
            LinearKind::Dense { .. } => None,
            LinearKind::Other(op) => op.narrow(),
        }
    }

    /// Its tensors by their full names, the weight first.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let full = |(part, tensor)| (format!("{}.{part}", self.name), tensor);
        self.kind.tensors().into_iter().map(full).collect()
    }
}

/// Whether a layer is of a block, such as `model.layers.3.mlp.up_proj`, and not of a head.
pub fn is_in_block(name: &str) -> bool {
    name.split('.').any(|part| part == "layers" || part == "layer")
}

#[cfg(test)]
mod tests {
    use super::is_in_block;

    #[test]
    fn layers_of_blocks_are_told_from_heads() {
        for name in ["model.layers.3.mlp.up_proj", "bert.encoder.layer.0.output.dense"] {
            assert!(is_in_block(name), "{name}");
        }
        for name in ["lm_head", "score", "classifier", "bert.pooler.dense"] {
            assert!(!is_in_block(name), "{name}");
        }
    }
}
