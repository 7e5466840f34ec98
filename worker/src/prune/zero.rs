//! Weights that become 0 one by one.

use std::collections::BTreeMap;

use hearth_crds::pruning::{Pruning, PruningType};
use tch::{Kind, Tensor};

use crate::model::parts::linear::is_in_block;
use crate::model::{LinearKind, Model, ModelError};

/// Neighbours in a row of which two stay (2:4).
const NEIGHBOURS: i64 = 4;

/// Least share of weights that can be pruned one by one.
const LEAST: f64 = 0.01;

/// What became 0: by the layer's name, bool `[N, K]`.
pub type Zeros = BTreeMap<String, Tensor>;

/// Sets the smallest weights of each dense layer of the blocks to 0 (Han et al. 2015; of ties, those
/// that come first), and gives their places. Nothing where whole heads or neurons are pruned.
pub fn zero(model: &Model, pruning: &Pruning) -> Result<Zeros, ModelError> {
    let mut zeros = Zeros::new();
    if pruning.type_ == PruningType::Structured {
        return Ok(zeros);
    }
    for (name, mut weight) in dense(model) {
        let gone = match pruning.type_ {
            PruningType::SemiStructured => two_of_four(&weight),
            _ => smallest(&weight, pruning.sparsity.unwrap_or_default()),
        };
        let Some(gone) = gone? else {
            return Err(model.config.unsupported(format!(
                "{} has {} columns, no multiple of {NEIGHBOURS}: pruning.type SemiStructured does not fit; use Unstructured",
                name,
                weight.size()[1],
            )));
        };
        let _ = weight.f_masked_fill_(&gone, 0.0)?;
        zeros.insert(name.to_owned(), gone);
    }
    if zeros.is_empty() {
        return Err(model.config.unsupported(
            "this family has no linear layers in its blocks, which pruning takes from; remove it"
                .into(),
        ));
    }
    Ok(zeros)
}

/// Share of the weights of the blocks' dense layers that are 0; `None` where fewer are than pruning
/// would leave.
pub fn sparsity(model: &Model) -> Result<Option<f64>, ModelError> {
    let (mut zeros, mut all) = (0, 0);
    for (_, weight) in dense(model) {
        zeros += i64::try_from(&weight.f_eq(0.0)?.f_sum(Kind::Int64)?)?;
        all += i64::try_from(weight.numel()).unwrap_or(i64::MAX);
    }
    let share = zeros as f64 / (all as f64).max(1.0);
    Ok((share >= LEAST).then_some(share))
}

/// Dense layers of the blocks by name, with their weights.
fn dense(model: &Model) -> impl Iterator<Item = (&str, Tensor)> {
    model.linears().into_iter().filter_map(|linear| match &linear.kind {
        LinearKind::Dense { weight, .. } if is_in_block(&linear.name) => {
            Some((linear.name.as_str(), weight.detach()))
        }
        _ => None,
    })
}

/// The `share` of numbers that are smallest, rounded to whole numbers.
fn smallest(weight: &Tensor, share: f64) -> Result<Option<Tensor>, ModelError> {
    let numbers = weight.numel();
    #[expect(clippy::cast_possible_truncation, reason = "a share of a count")]
    let count = (numbers as f64 * share).round_ties_even() as i64;
    let order = weight.f_abs()?.f_reshape([-1])?.f_argsort_stable(true, 0, false)?;
    Ok(Some(marked(&order.f_narrow(0, 0, count)?, weight)?))
}

/// The two smaller of each four neighbours.
fn two_of_four(weight: &Tensor) -> Result<Option<Tensor>, ModelError> {
    if weight.size()[1] % NEIGHBOURS != 0 {
        return Ok(None);
    }
    let fours = weight.f_abs()?.f_reshape([-1, NEIGHBOURS])?;
    let order = fours.f_argsort_stable(true, 1, false)?.f_narrow(1, 0, NEIGHBOURS / 2)?;
    let firsts = Tensor::f_arange(fours.size()[0], (Kind::Int64, weight.device()))?
        .f_mul_scalar(NEIGHBOURS)?
        .f_unsqueeze(1)?;
    Ok(Some(marked(&order.f_add(&firsts)?.f_reshape([-1])?, weight)?))
}

/// bool in the shape of `like`, set at these places of its numbers.
fn marked(places: &Tensor, like: &Tensor) -> Result<Tensor, ModelError> {
    let marks = like.f_reshape([-1])?.f_zeros_like()?.f_to_kind(Kind::Bool)?;
    Ok(marks.f_index_fill(0, places, 1)?.f_reshape(like.size())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go_wherever_they_are() {
        let weight =
            Tensor::from_slice(&[1.0f32, -0.1, 0.5, -3.0, 0.2, 0.0, -0.4, 2.0]).view([2, 4]);
        let gone = smallest(&weight, 0.5).unwrap().unwrap();
        let want = [false, true, false, false, true, true, true, false];
        assert_eq!(Vec::<bool>::try_from(gone.view(-1)).unwrap(), want);
    }

    #[test]
    fn two_of_each_four_go_and_of_equals_the_first() {
        let weight =
            Tensor::from_slice(&[1.0f32, -0.1, 0.5, -3.0, 0.2, 0.2, -0.2, 0.2]).view([2, 4]);
        let gone = two_of_four(&weight).unwrap().unwrap();
        let want = [false, true, true, false, true, true, false, false];
        assert_eq!(Vec::<bool>::try_from(gone.view(-1)).unwrap(), want);
        assert!(two_of_four(&weight.view([4, 2])).unwrap().is_none());
    }
}
