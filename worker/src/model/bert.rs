//! BERT's encoder (Devlin et al. 2019), as `transformers`' `BertModel`.
//!
//! Shapes: `B` rows, `T` tokens, `Q` query positions, `D` width, `H` heads.
//!
//! The classifier reads the first position of the last layer alone, so the
//! last layer computes queries, attention and feed-forward for that position
//! only (`Q = 1`). The result is the same; a sixth of MiniLM's work is not done.

use tch::Tensor;

use super::config::{Activation, ModelConfig};
use super::linear::Linear;
use super::{Dropout, ModelError};

/// Scale and shift of a layer norm (Ba et al. 2016), over the last dimension.
#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl LayerNorm {
    fn forward(&self, input: &Tensor, eps: f64) -> Result<Tensor, ModelError> {
        let shape = self.weight.size();
        Ok(input.f_layer_norm(&shape, Some(&self.weight), Some(&self.bias), eps, false)?)
    }
}

/// Word, position and segment embeddings.
#[derive(Debug)]
pub(super) struct Embeddings {
    /// `[vocabulary, D]`.
    pub(super) word: Tensor,
    /// `[positions, D]`.
    pub(super) position: Tensor,
    /// `[segments, D]`; every token is of segment 0.
    pub(super) token_type: Tensor,
    pub(super) norm: LayerNorm,
}

impl Embeddings {
    /// ids `[B, T]` → `[B, T, D]`.
    fn forward(
        &self,
        input_ids: &Tensor,
        config: &ModelConfig,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let tokens = input_ids.size()[1];
        let words = Tensor::f_embedding(&self.word, input_ids, -1, false, false)?;
        let everywhere =
            self.position.f_narrow(0, 0, tokens)?.f_add(&self.token_type.f_narrow(0, 0, 1)?)?;
        let normed = self.norm.forward(&words.f_add(&everywhere)?, config.layer_norm_eps)?;
        drop_out(normed, config.hidden_dropout, dropout)
    }
}

/// One layer: self-attention, then a feed-forward part, each with a residual
/// connection and a layer norm after it.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: LayerNorm,
    pub(super) intermediate: Linear,
    pub(super) output: Linear,
    pub(super) output_norm: LayerNorm,
}

/// Which positions a layer computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    All,
    First,
}

impl Layer {
    /// hidden `[B, T, D]`, mask bool `[B, 1, 1, T]` → `[B, Q, D]`.
    fn forward(
        &self,
        hidden: &Tensor,
        mask: Option<&Tensor>,
        positions: Positions,
        run: &Run<'_>,
    ) -> Result<Tensor, ModelError> {
        let config = run.config;
        let queries = match positions {
            Positions::All => hidden.shallow_clone(),
            Positions::First => hidden.f_narrow(1, 0, 1)?,
        };
        let attended = self.attend(&queries, hidden, mask, run)?;
        let attended = self.attention_output.forward(&attended)?;
        let attended = drop_out(attended, config.hidden_dropout, run.dropout)?;
        let attended =
            self.attention_norm.forward(&attended.f_add(&queries)?, config.layer_norm_eps)?;

        let wide = activate(&self.intermediate.forward(&attended)?, config.hidden_act)?;
        let narrow = drop_out(self.output.forward(&wide)?, config.hidden_dropout, run.dropout)?;
        self.output_norm.forward(&narrow.f_add(&attended)?, config.layer_norm_eps)
    }

    /// Multi-head attention of `queries [B, Q, D]` over `hidden [B, T, D]`,
    /// without the output projection.
    fn attend(
        &self,
        queries: &Tensor,
        hidden: &Tensor,
        mask: Option<&Tensor>,
        run: &Run<'_>,
    ) -> Result<Tensor, ModelError> {
        let config = run.config;
        // [B, L, D] → [B, H, L, D / H]
        let heads = |flat: Tensor| -> Result<Tensor, ModelError> {
            let (rows, length) = (flat.size()[0], flat.size()[1]);
            let split = [rows, length, config.num_attention_heads, config.head_size()];
            Ok(flat.f_view(split)?.f_transpose(1, 2)?)
        };
        let query = heads(self.query.forward(queries)?)?;
        let key = heads(self.key.forward(hidden)?)?;
        let value = heads(self.value.forward(hidden)?)?;
        let dropped = match run.dropout {
            Dropout::On => config.attention_dropout,
            Dropout::Off => 0.0,
        };
        let mixed = Tensor::f_scaled_dot_product_attention(
            &query, &key, &value, mask, dropped, false, None, false,
        )?;
        Ok(mixed.f_transpose(1, 2)?.f_reshape(queries.size())?)
    }
}

/// What does not change from layer to layer.
struct Run<'a> {
    config: &'a ModelConfig,
    dropout: Dropout,
}

/// Hidden state of the first position after the last layer, `[B, D]`.
pub(super) fn first_position(
    embeddings: &Embeddings,
    layers: &[Layer],
    config: &ModelConfig,
    (input_ids, attention_mask): (&Tensor, Option<&Tensor>),
    dropout: Dropout,
) -> Result<Tensor, ModelError> {
    let run = Run { config, dropout };
    let mask = attention_mask
        .map(|mask| mask.f_to_kind(tch::Kind::Bool)?.f_unsqueeze(1)?.f_unsqueeze(1))
        .transpose()?;
    let mut hidden = embeddings.forward(input_ids, config, dropout)?;
    for (index, layer) in layers.iter().enumerate() {
        let last = index + 1 == layers.len();
        let positions = if last { Positions::First } else { Positions::All };
        hidden = layer.forward(&hidden, mask.as_ref(), positions, &run)?;
    }
    Ok(hidden.f_select(1, 0)?)
}

fn activate(input: &Tensor, activation: Activation) -> Result<Tensor, ModelError> {
    Ok(match activation {
        Activation::Gelu => input.f_gelu("none")?,
        Activation::GeluTanh => input.f_gelu("tanh")?,
        Activation::Relu => input.f_relu()?,
    })
}

/// Zeroes a share `probability` of `input` and scales the rest up, in training
/// (Srivastava et al. 2014).
pub(super) fn drop_out(
    input: Tensor,
    probability: f64,
    dropout: Dropout,
) -> Result<Tensor, ModelError> {
    match dropout {
        Dropout::On if probability > 0.0 => Ok(input.f_dropout(probability, true)?),
        _ => Ok(input),
    }
}
