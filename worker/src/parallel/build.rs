//! What of a model this rank holds, stage by stage.

use std::collections::BTreeSet;
use std::ops::Range;

use nccl_rs::storage;

use super::Piece;
use super::groups::Groups;
use super::layout::Layout;
use super::tensor::Splits;
use super::unit::{Unit, is_buffer};
use crate::error::Error;
use crate::model::{Model, ModelError};

/// Lets go of the stages that are not this rank's; names of their tensors.
pub(super) fn leave_to_others(
    model: &Model,
    stages: &Range<usize>,
) -> Result<BTreeSet<String>, Error> {
    let all = model.network().stages();
    if model.network().is_tied() {
        return Err(model
            .config
            .unsupported(
                "parallelism.pipeline: the first stage and the last share the embeddings \
                 (tie_word_embeddings); use tensor or sharding"
                    .into(),
            )
            .into());
    }
    if stages.is_empty() {
        return Err(model
            .config
            .unsupported(format!(
                "parallelism.pipeline is more than the model's {all} stages; use less"
            ))
            .into());
    }
    let mut absent = BTreeSet::new();
    for tensor in model.tensors() {
        if !stages.contains(&tensor.stage) {
            storage::release(&tensor.tensor)?;
            absent.insert(tensor.name);
        }
    }
    Ok(absent)
}

/// The units of every stage; none where a stage is not this rank's.
pub(super) fn units(
    model: &Model,
    splits: &Splits,
    absent: &BTreeSet<String>,
    (layout, groups): (&Layout, &Groups),
) -> Result<Vec<Vec<Unit>>, ModelError> {
    let stages = model.network().stages();
    let mut pieces: Vec<[Vec<Piece>; 2]> = (0..stages).map(|_| [Vec::new(), Vec::new()]).collect();
    for parameter in model.tensors() {
        if absent.contains(&parameter.name) {
            continue;
        }
        let (whole, offsets) = splits.place(&parameter.name, &parameter.tensor);
        let over_tensor = splits.over_tensor(&parameter.name);
        let is_expert = groups.expert.is_some() && parameter.name.contains(".experts.");
        let stage = parameter.stage;
        let piece = Piece { parameter, whole, offsets, over_tensor, is_expert };
        if !is_buffer(&piece) {
            pieces[stage][usize::from(is_expert)].push(piece);
        }
    }
    let unit = |pieces: Vec<Piece>, group| {
        Unit::new(pieces, layout.sharding(), group, groups.tensor.clone())
    };
    pieces
        .into_iter()
        .map(|[dense, experts]| {
            let mut units = Vec::new();
            if !dense.is_empty() {
                units.push(unit(dense, groups.replicas.clone())?);
            }
            if !experts.is_empty() {
                units.push(unit(experts, groups.data.clone())?);
            }
            Ok(units)
        })
        .collect()
}
