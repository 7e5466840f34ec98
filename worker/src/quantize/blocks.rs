//! Reads a GGUF file for inference.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Tensor};

use super::linear::held;
use crate::checkpoint::manifest::hash_file;
use crate::export::gguf;
use crate::import::gguf::Blocks;
use crate::import::{Gguf, llama};
use crate::model::{LinearKind, Model, ModelConfig, ModelError, Weights, load_of};

/// The model of the file in `directory`. On a CPU, layers of `Q8_0` and `Q4_0`, a head that is the
/// embeddings included, are read in their bits; all others are held and computed in f32.
pub(super) fn load_gguf(directory: &Path, device: Device) -> Result<Model, ModelError> {
    let path = directory.join(gguf::FILE);
    let file = Gguf::open(&path)?;
    let decoder = llama::Model::of(&file)?;
    let (floats, matrices) = if device == Device::Cpu {
        (decoder.floats(&file)?, decoder.matrices(&file)?)
    } else {
        (decoder.tensors(&file)?.into_iter().collect(), BTreeMap::new())
    };
    let (_, hash) =
        hash_file(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
    let config = ModelConfig::read(directory)?;
    let weights = Weights::of(floats, &path, (config.family.prefix(), hash));
    let mut model = load_of(&config, &weights, device, &|name, shape, weights| {
        let Some(theirs) = matrices.get(&format!("{name}.weight")) else { return Ok(None) };
        let blocks = decoder.blocks(&file, theirs)?;
        let bias = format!("{name}.bias");
        let bias = weights.get(&bias).map(|_| weights.float(&bias, &shape[..1])).transpose()?;
        expect_shape(&path, name, &blocks.values, shape)?;
        of_blocks(&blocks, bias.as_ref()).map(Some)
    })?;
    if let Some(theirs) = matrices.get("model.embed_tokens.weight") {
        hold_tied(&mut model, || Ok(decoder.blocks(&file, theirs)?))?;
    }
    Ok(model)
}

fn of_blocks(blocks: &Blocks, bias: Option<&Tensor>) -> Result<LinearKind, ModelError> {
    held((&blocks.values, &blocks.scales), bias, u32::from(blocks.bits))
}

fn expect_shape(
    path: &Path,
    name: &str,
    found: &Tensor,
    shape: [i64; 2],
) -> Result<(), ModelError> {
    if found.size() == shape {
        return Ok(());
    }
    let detail = format!("{name} has shape {:?}; config.json asks for {shape:?}", found.size());
    Err(ModelError::Malformed { path: path.to_owned(), detail })
}

/// A head that is the embeddings is computed from their blocks.
fn hold_tied(
    model: &mut Model,
    embeddings: impl FnOnce() -> Result<Blocks, ModelError>,
) -> Result<(), ModelError> {
    let network = model.network_mut();
    if !network.is_tied() {
        return Ok(());
    }
    network.untie();
    let mut head = Some(of_blocks(&embeddings()?, None)?);
    network.stage_mut(network.stages() - 1).linears_mut(&mut |linear| {
        if let Some(head) = head.take() {
            linear.kind = head;
        }
    });
    Ok(())
}
