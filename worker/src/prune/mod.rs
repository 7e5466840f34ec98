//! Takes the smallest weights of a model's blocks away: before training, which then keeps zeros
//! zero, or before a model is rounded.

mod shrink;
mod zero;

use std::path::Path;

use hearth_crds::pruning::{Pruning, PruningType};
use tch::Device;

use crate::model::{self, Model, ModelConfig, ModelError, Weights};

pub use shrink::shrink;
pub use zero::{Zeros, sparsity, zero};

/// Reads a directory for inference, and prunes what it holds; what became 0, besides.
pub fn load(directory: &Path, pruning: &Pruning) -> Result<(Model, Zeros), ModelError> {
    let config = ModelConfig::read(directory)?;
    let weights = Weights::read(directory, config.family.prefix())?;
    let (config, weights) = structured(config, weights, pruning)?;
    let model = model::load_of(&config, &weights, Device::Cpu, &|_, _, _| Ok(None))?;
    let zeros = zero(&model, pruning)?;
    Ok((model, zeros))
}

/// What is left of a directory's tensors where heads or neurons go; all of it where none do.
pub fn structured(
    config: ModelConfig,
    weights: Weights,
    pruning: &Pruning,
) -> Result<(ModelConfig, Weights), ModelError> {
    match pruning.type_ {
        PruningType::Structured => shrink(config, weights, pruning),
        PruningType::Unstructured | PruningType::SemiStructured => Ok((config, weights)),
    }
}
