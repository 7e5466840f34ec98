//! Linear layers of which each rank has a part, and what goes over the network before and behind
//! them.

use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;

use super::groups::{SharedGroup, locked};
use super::sequence::Sequence;
use crate::model::{Dropout, LinearKind, LinearOp, ModelError};

/// What lies between split layers: whole on each rank, or a part of the tokens.
#[derive(Debug)]
pub(super) struct Border {
    /// The ranks.
    pub(super) group: SharedGroup,
    /// Where tokens are dealt to them.
    pub(super) sequence: Option<Arc<Sequence>>,
}

impl Border {
    /// Before a layer split by outputs.
    fn enter(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        match &self.sequence {
            Some(sequence) => sequence.gather(input),
            None => Ok(locked(&self.group).copy_to_ranks(input)?),
        }
    }

    /// Behind a layer split by inputs.
    fn leave(&self, part: &Tensor) -> Result<Tensor, ModelError> {
        match &self.sequence {
            Some(sequence) => sequence.scatter_sum(part),
            None => Ok(locked(&self.group).sum_of_ranks(part)?),
        }
    }
}

/// An input that neighbouring layers read: its gradient is summed over ranks once.
#[derive(Debug)]
pub(super) struct SharedInput {
    border: Border,
    copied: Mutex<Option<(Tensor, Tensor)>>,
}

impl SharedInput {
    /// Of layers behind `border`.
    pub(super) fn new(border: Border) -> Self {
        Self { border, copied: Mutex::new(None) }
    }

    fn copied(&self, input: &Tensor, first: bool, last: bool) -> Result<Tensor, ModelError> {
        let mut kept = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        if !first
            && let Some((of, copied)) = kept.as_ref()
            && of.data_ptr() == input.data_ptr()
            && of.size() == input.size()
        {
            let copied = copied.shallow_clone();
            if last {
                *kept = None;
            }
            return Ok(copied);
        }
        let copied = self.border.enter(input)?;
        *kept = (!last).then(|| (input.shallow_clone(), copied.shallow_clone()));
        Ok(copied)
    }
}

/// A layer of which this rank has some outputs.
#[derive(Debug)]
pub(super) struct ByOutput {
    /// `[N / ways, K]`.
    pub(super) weight: Tensor,
    /// `[N / ways]`.
    pub(super) bias: Option<Tensor>,
    /// None where the layer before has summed gradients.
    pub(super) input: Option<Arc<SharedInput>>,
    /// Of those that share the input.
    pub(super) first: bool,
    /// Of those that share the input.
    pub(super) last: bool,
}

/// A layer of which this rank has some inputs.
#[derive(Debug)]
pub(super) struct ByInput {
    /// `[N, K / ways]`.
    pub(super) weight: Tensor,
    /// `[N]`, added once.
    pub(super) bias: Option<Tensor>,
    /// What is in front of it or behind it.
    pub(super) border: Border,
}

/// A layer that every rank has whole, and whose outputs each uses for its own heads.
#[derive(Debug)]
pub(super) struct BeforeHeads {
    /// `[N, K]`.
    pub(super) weight: Tensor,
    /// `[N]`.
    pub(super) bias: Option<Tensor>,
    /// What is in front of it or behind it.
    pub(super) border: Border,
}

impl LinearOp for ByOutput {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let copied = match &self.input {
            Some(shared) => shared.copied(input, self.first, self.last)?,
            None => input.shallow_clone(),
        };
        Ok(copied.f_linear(&self.weight, self.bias.as_ref())?)
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

impl LinearOp for ByInput {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let part = input.f_linear(&self.weight, None::<&Tensor>)?;
        let sum = self.border.leave(&part)?;
        match &self.bias {
            Some(bias) => Ok(sum.f_add(bias)?),
            None => Ok(sum),
        }
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

impl LinearOp for BeforeHeads {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let output = input.f_linear(&self.weight, self.bias.as_ref())?;
        self.border.enter(&output)
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

fn named(weight: &Tensor, bias: Option<&Tensor>) -> Vec<(String, Tensor)> {
    let weight = ("weight".to_owned(), weight.shallow_clone());
    let bias = bias.map(|bias| ("bias".to_owned(), bias.shallow_clone()));
    std::iter::once(weight).chain(bias).collect()
}

/// The layer without ranks, once [`super::collect`] has put the whole weights in place.
fn dense(weight: &Tensor, bias: Option<&Tensor>) -> LinearKind {
    LinearKind::Dense { weight: weight.shallow_clone(), bias: bias.map(Tensor::shallow_clone) }
}
