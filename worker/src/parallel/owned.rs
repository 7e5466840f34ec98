//! What a rank's optimizer changes, and where that lies in a checkpoint.

use hearth_crds::training_job::Sharding;
use nccl_rs::ops;
use tch::Tensor;

use super::layout::{DATA, EXPERT, TENSOR};
use super::{Chain, OverTensor, Piece};
use crate::checkpoint::part::{Holders, Part};
use crate::error::Error;
use crate::model::Parameter;

/// A tensor that this rank's optimizer changes.
#[derive(Debug)]
pub struct Owned {
    /// As the optimizer sees it.
    pub parameter: Parameter,
    /// Shape of the whole tensor.
    whole: Vec<i64>,
    /// Where the part lies in it.
    offsets: Vec<i64>,
    /// Ranks with an equal copy.
    holders: Vec<usize>,
    /// All rows of this that the model holds here, where they are more.
    held: Option<(Tensor, Vec<i64>)>,
}

impl Chain {
    /// What this rank's optimizer changes, in the order of the forward pass.
    pub fn owned(&self) -> Vec<Owned> {
        let state = self.state();
        let mut found = Vec::new();
        for unit in state.units.iter().flatten() {
            for member in unit.members() {
                let Some(own) = &member.own else { continue };
                let piece = &member.piece;
                let mut offsets = piece.offsets.clone();
                let held = unit
                    .is_cut()
                    .then(|| (piece.parameter.tensor.shallow_clone(), offsets.clone()));
                if let Some(first) = offsets.first_mut() {
                    *first += member.first;
                }
                found.push(Owned {
                    parameter: Parameter {
                        name: own.name.clone(),
                        tensor: own.tensor.shallow_clone(),
                        role: own.role,
                        stage: own.stage,
                    },
                    whole: piece.whole.clone(),
                    offsets,
                    holders: self.layout.ranks(&copies(piece, unit.is_cut())),
                    // Full sharding fills the model from these; else all rows are here, too.
                    held: held.filter(|_| self.layout.sharding() != Sharding::Full),
                });
            }
        }
        found
    }
}

impl Owned {
    /// The part of a checkpoint that this is, under the name that weights have there.
    pub fn part(&self) -> Part {
        let name = format!("model.{}", self.parameter.name);
        self.slice(name, self.parameter.tensor.detach())
    }

    /// Where a checkpoint's weights go: all rows that the model holds here.
    pub fn target(&self) -> Part {
        let Some((tensor, offsets)) = &self.held else { return self.part() };
        let name = format!("model.{}", self.parameter.name);
        let (whole, offsets) = (self.whole.clone(), offsets.clone());
        Part::slice(name, whole, offsets, tensor.detach(), Holders::These(self.holders.clone()))
    }

    /// What an optimizer remembers of this: it lies as the parameter does, or is one number, or is
    /// of any shape where this is the whole parameter.
    pub fn moment(&self, name: String, tensor: Tensor) -> Result<Part, Error> {
        let (own, shape) = (self.parameter.tensor.size(), tensor.size());
        if shape == own {
            return Ok(self.slice(name, tensor));
        }
        if shape.is_empty() || self.whole == own {
            let offsets = vec![0; shape.len()];
            let holders = Holders::These(self.holders.clone());
            return Ok(Part::slice(name, shape, offsets, tensor, holders));
        }
        Err(Error::Internal(format!(
            "{name} is {shape:?}, not {own:?} as its parameter; this optimizer needs whole parameters"
        )))
    }

    fn slice(&self, name: String, tensor: Tensor) -> Part {
        let (whole, offsets) = (self.whole.clone(), self.offsets.clone());
        Part::slice(name, whole, offsets, tensor, Holders::These(self.holders.clone()))
    }

    /// Sum of the squares of this rank's share of the gradient: over all ranks, each element is
    /// counted once.
    pub fn squares(owned: &[Self]) -> Result<f64, Error> {
        let mut by_copies: Vec<(usize, Vec<Tensor>)> = Vec::new();
        for one in owned {
            let gradient = one.parameter.tensor.grad();
            if gradient.defined() {
                let copies = one.holders.len().max(1);
                match by_copies.iter_mut().find(|(count, _)| *count == copies) {
                    Some((_, gradients)) => gradients.push(gradient),
                    None => by_copies.push((copies, vec![gradient])),
                }
            }
        }
        let mut sum = 0.0;
        for (copies, gradients) in by_copies {
            sum += ops::total_norm(&gradients)?.powi(2) / copies as f64;
        }
        Ok(sum)
    }
}

/// Axes along which ranks hold equal copies of a piece.
fn copies(piece: &Piece, is_cut: bool) -> Vec<&'static str> {
    let mut axes = Vec::new();
    if !is_cut {
        axes.push(DATA);
        if !piece.is_expert {
            axes.push(EXPERT);
        }
    }
    if piece.over_tensor != OverTensor::Split {
        axes.push(TENSOR);
    }
    axes
}
