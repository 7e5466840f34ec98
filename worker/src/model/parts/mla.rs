//! Multi-head latent attention (DeepSeek-V2, section 2.1), as `DeepseekV3Attention` of
//! transformers.
//!
//! Shapes: `B` rows, `T` tokens, `H` heads, `n` and `r` the plain and the rotary part of a query
//! or key head, `v` a value head, `L` the latent. What is remembered while generating is the
//! latent and the rotary key, `L + r` values a token, whatever the number of heads.

use tch::Tensor;

use super::attention::{Scores, split_heads};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::RopeTable;
use crate::model::ModelError;
use crate::model::memory::Attended;
use crate::model::module::module;
use crate::model::network::Pass;

/// How queries are made.
#[derive(Debug)]
pub struct LowRankQuery {
    /// `[q, D]`.
    pub down: Linear,
    /// Of the `q` values.
    pub norm: RmsNorm,
}
module!(LowRankQuery: down, norm);

/// Projections of one layer.
#[derive(Debug)]
pub struct LatentAttention {
    /// Where queries go through `q` values first.
    pub low_rank: Option<LowRankQuery>,
    /// `[H·(n + r), D or q]`.
    pub query: Linear,
    /// Latent and rotary key, `[L + r, D]`.
    pub down: Linear,
    /// Of the latent.
    pub norm: RmsNorm,
    /// Plain keys and values from the latent, `[H·(n + v), L]`.
    pub up: Linear,
    /// `[D, H·v]`.
    pub output: Linear,
    /// Sizes of the parts.
    pub sizes: LatentSizes,
    /// Factor of the scores.
    pub scale: f64,
    /// Probability that an attention weight is dropped in training.
    pub dropout: f64,
}
module!(LatentAttention: low_rank, query, down, norm, up, output);

/// Sizes of the parts of a head.
#[derive(Clone, Copy, Debug)]
pub struct LatentSizes {
    /// `n`, `qk_nope_head_dim`.
    pub plain: i64,
    /// `r`, `qk_rope_head_dim`.
    pub rotary: i64,
    /// `v`, `v_head_dim`.
    pub value: i64,
    /// `L`, `kv_lora_rank`.
    pub latent: i64,
}

impl LatentAttention {
    /// `[B, T, D]` → `[B, T, D]`, of layer `layer`.
    pub fn forward(
        &self,
        hidden: &Tensor,
        rope: &RopeTable,
        layer: usize,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let sizes = self.sizes;
        let narrowed = match &self.low_rank {
            Some(low_rank) => {
                low_rank.norm.forward(&low_rank.down.forward(hidden, pass.dropout)?)?
            }
            None => hidden.shallow_clone(),
        };
        let query =
            split_heads(&self.query.forward(&narrowed, pass.dropout)?, sizes.plain + sizes.rotary)?
                .f_transpose(1, 2)?;
        let (plain_query, rotary_query) =
            (query.f_narrow(3, 0, sizes.plain)?, query.f_narrow(3, sizes.plain, sizes.rotary)?);
        let query = Tensor::f_cat(&[plain_query, rope.apply(&rotary_query)?], 3)?;

        let down = self.down.forward(hidden, pass.dropout)?;
        let latent = self.norm.forward(&down.f_narrow(2, 0, sizes.latent)?)?.f_unsqueeze(1)?;
        let rotary_key =
            rope.apply(&down.f_narrow(2, sizes.latent, sizes.rotary)?.f_unsqueeze(1)?)?;
        let widen = |latent: Tensor, rotary_key: Tensor| self.widen(&latent, &rotary_key, pass);
        let scores = Scores { scale: Some(self.scale), dropout: pass.dropout.share(self.dropout) };
        let attended =
            Attended { query: &query, new: (latent, rotary_key), scores, widen: Some(&widen) };
        let mixed = pass.attend(layer, attended)?;
        self.output.forward(&mixed, pass.dropout)
    }

    /// `latent [B, 1, T, L]` and `rotary_key [B, 1, T, r]` → keys `[B, H, T, n + r]` and values
    /// `[B, H, T, v]`.
    fn widen(
        &self,
        latent: &Tensor,
        rotary_key: &Tensor,
        pass: &Pass,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let sizes = self.sizes;
        let wide = self.up.forward(&latent.f_squeeze_dim(1)?, pass.dropout)?;
        let wide = split_heads(&wide, sizes.plain + sizes.value)?.f_transpose(1, 2)?;
        let plain_key = wide.f_narrow(3, 0, sizes.plain)?;
        let value = wide.f_narrow(3, sizes.plain, sizes.value)?;
        let rotary_key = rotary_key.f_expand([-1, plain_key.size()[1], -1, -1], false)?;
        Ok((Tensor::f_cat(&[plain_key, rotary_key], 3)?, value))
    }
}
