//! Training on several ranks, applied to a model from outside.
//!
//! A model is a chain of stages of single-device maths. [`Chain`] runs that chain for training: a
//! graph for each stage, so that backward goes stage by stage, and between stages weights are
//! gathered and released, gradients are summed over ranks, and activations are sent or made anew.
//!
//! | Module | What it does |
//! |-|-|
//! | [`layout`] | places ranks in a grid |
//! | [`chain`] | forward and backward over the stages; gradient checkpointing |
//! | [`unit`](mod@unit) | the tensors of a stage, cut by rows (ZeRO 1 to 3), or copied (DDP) |
//! | [`tensor`] | layers that are cut into columns and rows (Megatron-LM) |
//! | [`sequence`] | tokens of a row on several ranks, between split layers |
//! | [`vocabulary`] | embeddings, head and loss of a split vocabulary |
//! | [`expert`] | experts on several ranks |
//! | [`pipeline`] | stages on several ranks, one forward, one backward (PipeDream's 1F1B) |
//! | [`collect`] | a whole model again, to be exported |

mod build;
pub mod chain;
pub mod collect;
pub mod expert;
pub mod groups;
pub mod layout;
pub mod owned;
pub mod pipeline;
pub mod sequence;
mod split_linear;
pub mod tensor;
pub mod unit;
pub mod vocabulary;

pub use chain::Chain;
pub use groups::Groups;
pub use layout::Layout;
pub use owned::Owned;

use crate::model::Parameter;

/// A tensor of the model as this rank holds it: the whole, or a box out of it.
#[derive(Debug)]
pub struct Piece {
    /// What is here.
    pub parameter: Parameter,
    /// Shape of the whole tensor.
    pub whole: Vec<i64>,
    /// Where the box lies in it.
    pub offsets: Vec<i64>,
    /// What the ranks that split layers hold of it.
    pub over_tensor: OverTensor,
    /// Whether it is of an expert: then ranks along `expert` hold other ones.
    pub is_expert: bool,
}

/// What the ranks along `tensor` hold of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverTensor {
    /// Each another part.
    Split,
    /// Each all of it, with the same gradient.
    Copied,
    /// Each all of it, with a part of its gradient: it works on what is split.
    Partial,
}
