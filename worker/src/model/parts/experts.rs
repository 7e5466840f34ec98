//! A mixture of experts (DeepSeekMoE, Dai et al. 2024): some experts for each token, and shared
//! ones for all.

use std::fmt;
use std::sync::Arc;

use tch::Tensor;

use super::dropout::Dropout;
use super::linear::Linear;
use super::mlp::GatedMlp;
use super::router::{Router, Routing};
use crate::model::ModelError;
use crate::model::module::{Leaf, Module, module};

/// One layer's experts.
#[derive(Debug)]
pub struct Mixture {
    /// Sends tokens to experts.
    pub router: Router,
    /// Experts by number.
    pub experts: Vec<GatedMlp>,
    /// The expert of all tokens.
    pub shared: Option<GatedMlp>,
    /// Where experts are on several ranks.
    pub spread: Option<Box<dyn Spread>>,
    /// Where the tokens of a row are on several ranks.
    pub dealt: Option<Arc<dyn Dealt>>,
}

/// Tokens that are dealt to ranks.
pub trait Dealt: fmt::Debug + Send + Sync {
    /// Whole rows `[B, T, D]` of this rank's part, on all ranks.
    fn join(&self, part: &Tensor) -> Result<Tensor, ModelError>;

    /// This rank's part of `whole [B, T, D]`, which all ranks have.
    fn part(&self, whole: &Tensor) -> Result<Tensor, ModelError>;
}

/// What one expert gives for its rows `[n, D]`: `[n, D]`.
pub type Compute<'a> = dyn Fn(usize, &Tensor) -> Result<Tensor, ModelError> + 'a;

/// Experts that are spread over ranks.
pub trait Spread: fmt::Debug + Send {
    /// Rows `[M, D]`, sorted by expert, of which `counts[e]` go to expert `e` → what these give
    /// for them, in the same order. `compute` is asked for this rank's own experts only.
    fn apply(
        &self,
        rows: &Tensor,
        counts: &[i64],
        compute: &Compute<'_>,
    ) -> Result<Tensor, ModelError>;
}

module!(Mixture: router, experts, shared);

impl Mixture {
    /// `[B, T, D]` → `[B, T, D]`.
    pub fn forward(&self, hidden: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        match &self.dealt {
            Some(dealt) => dealt.part(&self.whole(&dealt.join(hidden)?, dropout)?),
            None => self.whole(hidden, dropout),
        }
    }

    fn whole(&self, hidden: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let size = hidden.size();
        let tokens = hidden.f_view([-1, size[2]])?;
        let routing = self.router.route(&tokens)?;
        let mixed = self.mix(&tokens, &routing, dropout)?.f_view(size.as_slice())?;
        match &self.shared {
            Some(shared) => Ok(mixed.f_add(&shared.forward(hidden, dropout)?)?),
            None => Ok(mixed),
        }
    }

    /// Weighted sum over each token's experts, `[N, D]`. Tokens are sorted by expert, so that each
    /// expert makes one product of all its tokens.
    fn mix(
        &self,
        tokens: &Tensor,
        routing: &Routing,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let Routing { experts, weights } = routing;
        let per_token = experts.size()[1];
        let (sorted, order) = experts.f_view([-1])?.f_sort_stable(true, 0, false)?;
        let source = order.f_floor_divide_scalar(per_token)?;
        let counts = sorted.f_bincount(None::<&Tensor>, signed(self.experts.len()))?;
        let counts: Vec<i64> = Vec::try_from(&counts.f_to_device(tch::Device::Cpu)?)?;
        let gathered = tokens.f_index_select(0, &source)?;
        let compute = |expert: usize, rows: &Tensor| self.experts[expert].forward(rows, dropout);
        let outputs = match &self.spread {
            Some(spread) => spread.apply(&gathered, &counts, &compute)?,
            None => by_expert(&gathered, &counts, &compute)?,
        };
        let weights = weights.f_view([-1])?.f_index_select(0, &order)?;
        let weighted = outputs.f_mul(&weights.f_unsqueeze(1)?.f_to_kind(tokens.kind())?)?;
        Ok(tokens.f_zeros_like()?.f_index_add(0, &source, &weighted)?)
    }
}

/// Rows `[M, D]`, sorted by expert, through the experts `0..counts.len()`. Experts without rows
/// are not asked; without any row, the rows themselves are the answer.
pub fn by_expert(
    rows: &Tensor,
    counts: &[i64],
    compute: &Compute<'_>,
) -> Result<Tensor, ModelError> {
    let mut parts = Vec::with_capacity(counts.len());
    let mut start = 0;
    for (expert, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        parts.push(compute(expert, &rows.f_narrow(0, start, *count)?)?);
        start += count;
    }
    if parts.is_empty() { Ok(rows.shallow_clone()) } else { Ok(Tensor::f_cat(&parts, 0)?) }
}

/// Numbers of experts are small.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The feed-forward part of a layer.
#[derive(Debug)]
pub enum FeedForward {
    /// One for all tokens.
    Dense(GatedMlp),
    /// A mixture of experts.
    Mixture(Mixture),
}

impl FeedForward {
    /// `[B, T, D]` → `[B, T, D]`.
    pub fn forward(&self, hidden: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense(mlp) => mlp.forward(hidden, dropout),
            Self::Mixture(mixture) => mixture.forward(hidden, dropout),
        }
    }
}

impl Module for FeedForward {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        match self {
            Self::Dense(mlp) => mlp.leaves(visit),
            Self::Mixture(mixture) => mixture.leaves(visit),
        }
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        match self {
            Self::Dense(mlp) => mlp.linears_mut(visit),
            Self::Mixture(mixture) => mixture.linears_mut(visit),
        }
    }
}
