//! Tokens of each row dealt to the ranks that split layers (Korthikanti et al. 2022, sequence
//! parallelism): between two split layers, where each rank would compute and keep the same norms
//! and residuals, each has a part of the tokens. What was a sum over ranks behind a layer split by
//! inputs becomes a sum of which each rank gets its part, and before a layer split by outputs the
//! parts are joined: no more is sent than before.
//!
//! Shapes: `B` rows, `T` tokens, `w` ranks; a part has `⌈T / w⌉` tokens, and parts of tokens that
//! do not exist are zeros.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tch::Tensor;

use super::groups::{SharedGroup, locked};
use crate::model::ModelError;
use crate::model::parts::experts::Dealt;

/// Ranks that share the tokens of a row.
#[derive(Debug)]
pub struct Sequence {
    group: SharedGroup,
    ways: i64,
    /// `T` of the pass.
    tokens: AtomicI64,
}

impl Sequence {
    /// Among the ranks of `group`.
    pub fn new(group: &SharedGroup) -> Self {
        let ways = i64::try_from(locked(group).size()).unwrap_or(i64::MAX);
        Self { group: Arc::clone(group), ways, tokens: AtomicI64::new(0) }
    }

    /// What follows is of rows of `tokens` tokens.
    pub fn begin(&self, tokens: i64) {
        self.tokens.store(tokens, Ordering::Relaxed);
    }

    /// Whole rows `[B, T, D]` of parts, for ranks that then do different things: backward gives
    /// each its part of the gradients' sum.
    pub fn gather(&self, part: &Tensor) -> Result<Tensor, ModelError> {
        self.cut(locked(&self.group).gather_parts(part, 1)?)
    }

    /// This rank's part of the sum over ranks of `[B, T, D]`; backward joins the parts' gradients.
    pub fn scatter_sum(&self, whole: &Tensor) -> Result<Tensor, ModelError> {
        Ok(locked(&self.group).scatter_sum(&self.fill(whole)?, 1)?)
    }

    fn fill(&self, whole: &Tensor) -> Result<Tensor, ModelError> {
        let over = whole.size()[1] % self.ways;
        if over == 0 {
            return Ok(whole.shallow_clone());
        }
        Ok(whole.f_constant_pad_nd([0, 0, 0, self.ways - over])?)
    }

    fn cut(&self, joined: Tensor) -> Result<Tensor, ModelError> {
        let tokens = self.tokens.load(Ordering::Relaxed);
        if joined.size()[1] == tokens {
            return Ok(joined);
        }
        Ok(joined.f_narrow(1, 0, tokens)?.f_contiguous()?)
    }
}

/// For what all ranks do alike.
impl Dealt for Sequence {
    fn join(&self, part: &Tensor) -> Result<Tensor, ModelError> {
        self.cut(locked(&self.group).join_of_ranks(part, 1)?)
    }

    fn part(&self, whole: &Tensor) -> Result<Tensor, ModelError> {
        Ok(locked(&self.group).split_to_ranks(&self.fill(whole)?, 1)?)
    }
}
