//! Which experts a token goes to, and with what weight.
//!
//! Shapes: `N` tokens, `E` experts, `K` experts of a token.

use tch::{Kind, Tensor};

use crate::model::ModelError;
use crate::model::module::{Weight, module};

/// The router of a mixture of experts.
#[derive(Debug)]
pub struct Router {
    /// `[E, D]`.
    pub weight: Weight,
    /// `e_score_correction_bias [E]`: balances the choice, and is in no weight.
    pub correction: Option<Weight>,
    /// How experts are chosen.
    pub choice: Choice,
    /// `K`.
    pub experts_per_token: i64,
    /// Make the weights of a token sum to 1.
    pub normalize: bool,
    /// Factor of the weights.
    pub scale: f64,
}
module!(Router: weight, correction);

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Softmax, then the `K` best (DeepSeek MoE, V2 Lite).
    Greedy,
    /// Softmax, then the `K` best in the `kept` groups with the best expert (V2).
    GroupedSoftmax {
        /// Groups of equal size.
        groups: i64,
        /// Groups of a token.
        kept: i64,
    },
    /// Sigmoid, then the `K` best in the `kept` groups whose two best sum highest (V3).
    GroupedSigmoid {
        /// Groups of equal size.
        groups: i64,
        /// Groups of a token.
        kept: i64,
    },
}

/// Where tokens go.
#[derive(Debug)]
pub struct Routing {
    /// i64 `[N, K]`.
    pub experts: Tensor,
    /// f32 `[N, K]`.
    pub weights: Tensor,
}

impl Router {
    /// tokens `[N, D]`. In f32, as transformers routes.
    pub fn route(&self, tokens: &Tensor) -> Result<Routing, ModelError> {
        let weight = self.weight.tensor.f_to_kind(Kind::Float)?;
        let logits = tokens.f_to_kind(Kind::Float)?.f_linear(&weight, None::<&Tensor>)?;
        let scores = match self.choice {
            Choice::GroupedSigmoid { .. } => logits.f_sigmoid()?,
            _ => logits.f_softmax(-1, Kind::Float)?,
        };
        // The choice is not differentiable; the weights are.
        let experts = tch::no_grad(|| self.choose(&scores.detach()))?;
        let mut weights = scores.f_gather(1, &experts, false)?;
        if self.normalize {
            let sum = weights.f_sum_dim_intlist(&[1i64][..], true, Kind::Float)?;
            weights = weights.f_div(&sum.f_add_scalar(1e-20)?)?;
        }
        Ok(Routing { experts, weights: weights.f_mul_scalar(self.scale)? })
    }

    /// i64 `[N, K]` from scores `[N, E]`.
    fn choose(&self, scores: &Tensor) -> Result<Tensor, ModelError> {
        let scores = match &self.correction {
            Some(correction) => scores.f_add(&correction.tensor)?,
            None => scores.shallow_clone(),
        };
        let scores = match self.choice {
            Choice::Greedy => scores,
            Choice::GroupedSoftmax { groups, kept } => {
                let best = by_group(&scores, groups)?.f_amax(&[2i64][..], false)?;
                keep_groups(&scores, &best, kept, 0.0)?
            }
            Choice::GroupedSigmoid { groups, kept } => {
                let (two, _) = by_group(&scores, groups)?.f_topk(2, 2, true, false)?;
                let best = two.f_sum_dim_intlist(&[2i64][..], false, Kind::Float)?;
                keep_groups(&scores, &best, kept, f64::NEG_INFINITY)?
            }
        };
        Ok(scores.f_topk(self.experts_per_token, 1, true, false)?.1)
    }
}

/// `[N, E]` → `[N, groups, E / groups]`.
fn by_group(scores: &Tensor, groups: i64) -> Result<Tensor, ModelError> {
    Ok(scores.f_view([scores.size()[0], groups, -1])?)
}

/// Puts `nothing` wherever a token's group is not among its `kept` best.
fn keep_groups(
    scores: &Tensor,
    of_groups: &Tensor,
    kept: i64,
    nothing: f64,
) -> Result<Tensor, ModelError> {
    let (_, best) = of_groups.f_topk(kept, 1, true, false)?;
    let dropped = of_groups.f_ones_like()?.f_to_kind(Kind::Bool)?.f_scatter_value(1, &best, 0)?;
    let grouped = by_group(scores, of_groups.size()[1])?;
    let masked = grouped.f_masked_fill(&dropped.f_unsqueeze(2)?, nothing)?;
    Ok(masked.f_view(scores.size().as_slice())?)
}
