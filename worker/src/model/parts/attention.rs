//! Multi-head attention with shared key-value heads (Ainslie et al. 2023).
//!
//! Shapes: `B` rows, `T` tokens, `H` query heads, `G` key-value heads, `d` width of a head.
//! The number of heads is read off the projections' outputs, so that a rank that holds some of
//! the heads needs nothing else changed.

use nccl_rs::fused;
use tch::{Kind, Tensor};

use super::dropout::is_fusible;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::RopeTable;
use crate::model::ModelError;
use crate::model::memory::{Attended, seen_after};
use crate::model::module::module;
use crate::model::network::{Mask, Pass};

/// Projections of one attention layer.
#[derive(Debug)]
pub struct Attention {
    /// `[H·d, D]`.
    pub query: Linear,
    /// `[G·d, D]`.
    pub key: Linear,
    /// `[G·d, D]`.
    pub value: Linear,
    /// Norm of each query head (Qwen3).
    pub query_norm: Option<RmsNorm>,
    /// Norm of each key head (Qwen3).
    pub key_norm: Option<RmsNorm>,
    /// `[D, H·d]`.
    pub output: Linear,
    /// `d`.
    pub head_size: i64,
    /// Probability that an attention weight is dropped in training.
    pub dropout: f64,
}
module!(Attention: query, key, value, query_norm, key_norm, output);

impl Attention {
    /// `[B, T, D]` → `[B, T, D]`, of layer `layer`.
    pub fn forward(
        &self,
        hidden: &Tensor,
        rope: &RopeTable,
        layer: usize,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let heads = |flat: Tensor, norm: Option<&RmsNorm>| -> Result<Tensor, ModelError> {
            let split = split_heads(&flat, self.head_size)?;
            let normed = norm.map(|norm| norm.forward(&split)).transpose()?.unwrap_or(split);
            Ok(normed.f_transpose(1, 2)?)
        };
        let query = rope
            .apply(&heads(self.query.forward(hidden, pass.dropout)?, self.query_norm.as_ref())?)?;
        let key =
            rope.apply(&heads(self.key.forward(hidden, pass.dropout)?, self.key_norm.as_ref())?)?;
        let value = heads(self.value.forward(hidden, pass.dropout)?, None)?;
        let scores = Scores { scale: None, dropout: pass.dropout.share(self.dropout) };
        let attended = Attended { query: &query, new: (key, value), scores, widen: None };
        let mixed = pass.attend(layer, attended)?;
        self.output.forward(&mixed, pass.dropout)
    }
}

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Factor of the scores; `None` is `d^-1/2`.
    pub scale: Option<f64>,
    /// Probability that a weight is dropped.
    pub dropout: f64,
}

impl Scores {
    /// The factor for queries `[.., d]`.
    pub fn scale_of(&self, query: &Tensor) -> f64 {
        let width = query.size().last().copied().unwrap_or(1);
        self.scale.unwrap_or((width as f64).powf(-0.5))
    }
}

/// `[B, T, H·d]` → `[B, T, H, d]`.
pub fn split_heads(flat: &Tensor, head_size: i64) -> Result<Tensor, ModelError> {
    let size = flat.size();
    Ok(flat.f_view([size[0], size[1], -1, head_size])?)
}

/// Softmax attention of `query [B, H, Q, d]` over `key [B, G, T, d]` and `value [B, G, T, v]`,
/// `[B, Q, H·v]`.
pub fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: &Mask,
    scores: Scores,
) -> Result<Tensor, ModelError> {
    let grouped = query.size()[1] != key.size()[1];
    let dropped = scores.dropout > 0.0 && !grouped && is_fusible(query);
    let plain = |query: &Tensor, key: &Tensor, value: &Tensor, keys: Option<&Tensor>, causal| {
        // One query at the end of what is remembered sees all of it.
        let causal = causal && query.size()[2] > 1;
        if dropped {
            return composed((query, key, value), keys, causal, scores);
        }
        Ok(Tensor::f_scaled_dot_product_attention(
            query,
            key,
            value,
            keys,
            scores.dropout,
            causal,
            scores.scale,
            grouped,
        )?)
    };
    let mixed = match mask {
        Mask::None => plain(query, key, value, None, false)?,
        Mask::Keys(keys) => plain(query, key, value, Some(keys), false)?,
        Mask::Causal => plain(query, key, value, None, true)?,
        Mask::Packed(lengths) => {
            let mut parts = Vec::with_capacity(lengths.len());
            let mut start = 0;
            for length in lengths {
                let part = |all: &Tensor| all.f_narrow(2, start, *length);
                parts.push(plain(&part(query)?, &part(key)?, &part(value)?, None, true)?);
                start += length;
            }
            Tensor::f_cat(&parts, 2)?
        }
    };
    let (rows, queries) = (query.size()[0], query.size()[2]);
    Ok(mixed.f_transpose(1, 2)?.f_reshape([rows, queries, -1])?)
}

/// As [`attend`], of the last `Q` of `T` tokens: each sees itself and what comes before.
pub fn attend_after(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scores: Scores,
) -> Result<Tensor, ModelError> {
    let (queries, keys) = (query.size()[2], key.size()[2]);
    let mask = if queries == 1 || queries == keys {
        Mask::Causal
    } else {
        Mask::Keys(seen_after(queries, keys, query.device())?)
    };
    attend(query, key, value, &mask, scores)
}

/// Attention that drops weights, on the CPU. libtorch composes it, too, there being no kernel, but
/// draws its random numbers one by one.
fn composed(
    (query, key, value): (&Tensor, &Tensor, &Tensor),
    keys: Option<&Tensor>,
    causal: bool,
    scores: Scores,
) -> Result<Tensor, ModelError> {
    let mut logits =
        query.f_mul_scalar(scores.scale_of(query))?.f_matmul(&key.f_transpose(2, 3)?)?;
    if let Some(keys) = keys {
        logits = logits.f_masked_fill_(&keys.f_logical_not()?, f64::NEG_INFINITY)?;
    }
    if causal {
        let (queries, all) = (logits.size()[2], logits.size()[3]);
        let later = Tensor::f_ones([queries, all], (Kind::Bool, logits.device()))?.f_triu(1)?;
        logits = logits.f_masked_fill_(&later, f64::NEG_INFINITY)?;
    }
    let kind = logits.kind();
    let weights = logits.f_softmax(-1, kind)?;
    Ok(fused::dropout(&weights, scores.dropout)?.f_matmul(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// A share that drops nothing, and so shows the rest of what drops.
    const NOTHING: f64 = 1e-9;

    #[test]
    fn attention_that_could_drop_equals_libtorch_s() {
        tch::manual_seed(5);
        let draw = |tokens| Tensor::randn([2, 3, tokens, 8], (Kind::Float, Device::Cpu));
        let keys = Tensor::arange(7, (Kind::Int64, Device::Cpu)).lt(5).view([1, 1, 1, 7]);
        for (mask, queries) in [
            (Mask::None, 7),
            (Mask::None, 1),
            (Mask::Keys(keys), 7),
            (Mask::Causal, 7),
            (Mask::Packed(vec![3, 4]), 7),
        ] {
            let (query, key, value) = (draw(queries), draw(7), draw(7));
            let run = |dropout: f64| {
                let leaves = [&query, &key, &value].map(|of| of.copy().set_requires_grad(true));
                let scores = Scores { scale: Some(0.3), dropout };
                let mixed = attend(&leaves[0], &leaves[1], &leaves[2], &mask, scores).unwrap();
                mixed.square().sum(Kind::Float).backward();
                (mixed.detach(), leaves.map(|leaf| leaf.grad()))
            };
            let (want, wants) = run(0.0);
            let (got, gots) = run(NOTHING);
            assert!(got.allclose(&want, 1e-5, 1e-5, false), "{mask:?}");
            for (got, want) in gots.iter().zip(&wants) {
                assert!(got.allclose(want, 1e-4, 1e-4, false), "{mask:?}");
            }
        }
    }
}
