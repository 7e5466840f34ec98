//! What DeepSeek-V2 and V3 share: latent attention and experts.

use serde::Deserialize;

use super::deepseek::ExpertConfig;
use super::llama::{DecoderHead, gated_mlp};
use crate::model::ModelError;
use crate::model::decoder::{Decoder, Head, Layer, SelfAttention, Top};
use crate::model::loader::Loader;
use crate::model::parts::activation::Activation;
use crate::model::parts::experts::FeedForward;
use crate::model::parts::mla::{LatentAttention, LatentSizes, LowRankQuery};
use crate::model::parts::rope::{Layout, Rope, RopeParameters};
use crate::model::parts::router::Choice;

/// `config.json` of both.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "Hugging Face's fields")]
pub(super) struct LatentConfig {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    q_lora_rank: Option<i64>,
    kv_lora_rank: i64,
    qk_nope_head_dim: i64,
    qk_rope_head_dim: i64,
    v_head_dim: i64,
    max_position_embeddings: i64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "yes")]
    rope_interleave: bool,
}

fn silu() -> String {
    "silu".into()
}
fn eps() -> f64 {
    1e-6
}
fn yes() -> bool {
    true
}

/// Of the norms inside attention, whatever `rms_norm_eps` says (`DeepseekV2RMSNorm`'s default).
const INNER_EPS: f64 = 1e-6;

/// The decoder, with each token's experts chosen by `choice`.
pub(super) fn decoder(
    loader: &Loader<'_>,
    head: DecoderHead,
    experts: &ExpertConfig,
    choice: Choice,
) -> Result<Decoder, ModelError> {
    let latent: LatentConfig = loader.config.of_family()?;
    let width = latent.hidden_size;
    loader.config.check_sizes(&[
        ("vocab_size", latent.vocab_size),
        ("hidden_size", width),
        ("num_attention_heads", latent.num_attention_heads),
        ("kv_lora_rank", latent.kv_lora_rank),
        ("qk_nope_head_dim", latent.qk_nope_head_dim),
        ("qk_rope_head_dim", latent.qk_rope_head_dim),
        ("v_head_dim", latent.v_head_dim),
    ])?;
    let activation = Activation::by_name(&latent.hidden_act)
        .map_err(|detail| loader.config.unsupported(detail))?;
    let rope = latent.rope().map_err(|detail| loader.config.unsupported(detail))?;
    let norm = |name: &str| loader.rms_norm(name, width, latent.rms_norm_eps);
    let layers = (0..latent.num_hidden_layers).map(|index| {
        let name = format!("model.layers.{index}");
        let mixture = experts.mixture(loader, index, (width, activation), choice)?;
        let mlp = match mixture {
            Some(mixture) => FeedForward::Mixture(mixture),
            None => FeedForward::Dense(gated_mlp(
                loader,
                &format!("{name}.mlp"),
                [width, latent.intermediate_size],
                activation,
                latent.mlp_bias,
            )?),
        };
        Ok(Layer {
            input_norm: norm(&format!("{name}.input_layernorm"))?,
            attention: SelfAttention::Latent(latent.attention(
                loader,
                &format!("{name}.self_attn"),
                &rope,
            )?),
            post_norm: norm(&format!("{name}.post_attention_layernorm"))?,
            mlp,
        })
    });
    let layers = layers.collect::<Result<_, ModelError>>()?;
    let embed = loader.embedding("model.embed_tokens", [latent.vocab_size, width])?;
    let head = match head {
        DecoderHead::CausalLm if latent.tie_word_embeddings => {
            Head::Tied(embed.weight.tensor.shallow_clone())
        }
        DecoderHead::CausalLm => {
            Head::Linear(loader.linear("lm_head", [latent.vocab_size, width], false)?)
        }
        DecoderHead::Classifier(classes) => {
            Head::Linear(loader.linear("score", [classes, width], false)?)
        }
    };
    Ok(Decoder::new(embed, layers, Top { norm: norm("model.norm")?, head }, rope))
}

impl LatentConfig {
    fn rope(&self) -> Result<Rope, String> {
        let layout = if self.rope_interleave { Layout::Pairs } else { Layout::Halves };
        Rope::new(
            &self.rope_scaling.clone().unwrap_or_default(),
            self.rope_theta,
            self.max_position_embeddings,
            self.qk_rope_head_dim,
            layout,
        )
    }

    fn attention(
        &self,
        loader: &Loader<'_>,
        name: &str,
        rope: &Rope,
    ) -> Result<LatentAttention, ModelError> {
        let heads = self.num_attention_heads;
        let (plain, rotary) = (self.qk_nope_head_dim, self.qk_rope_head_dim);
        let (value, latent) = (self.v_head_dim, self.kv_lora_rank);
        let linear =
            |part: &str, shape, bias| loader.linear(&format!("{name}.{part}"), shape, bias);
        let norm = |part: &str, width| loader.rms_norm(&format!("{name}.{part}"), width, INNER_EPS);
        let queries = heads * (plain + rotary);
        let (low_rank, query) = match self.q_lora_rank {
            Some(rank) => (
                Some(LowRankQuery {
                    down: linear("q_a_proj", [rank, self.hidden_size], self.attention_bias)?,
                    norm: norm("q_a_layernorm", rank)?,
                }),
                linear("q_b_proj", [queries, rank], false)?,
            ),
            None => (None, linear("q_proj", [queries, self.hidden_size], false)?),
        };
        Ok(LatentAttention {
            low_rank,
            query,
            down: linear(
                "kv_a_proj_with_mqa",
                [latent + rotary, self.hidden_size],
                self.attention_bias,
            )?,
            norm: norm("kv_a_layernorm", latent)?,
            up: linear("kv_b_proj", [heads * (plain + value), latent], false)?,
            output: linear("o_proj", [self.hidden_size, heads * value], self.attention_bias)?,
            sizes: LatentSizes { plain, rotary, value, latent },
            scale: ((plain + rotary) as f64).powf(-0.5) * rope.softmax_scale,
            dropout: self.attention_dropout,
        })
    }
}
