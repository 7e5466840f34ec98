//! Llama, as transformers' `LlamaForCausalLM`; also DeepSeek LLM, and DeepSeek Coder with its
//! linearly stretched positions.

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::decoder::{Decoder, Head, Layer, SelfAttention, Top};
use crate::model::loader::Loader;
use crate::model::parts::activation::Activation;
use crate::model::parts::attention::Attention;
use crate::model::parts::experts::FeedForward;
use crate::model::parts::mlp::GatedMlp;
use crate::model::parts::rope::{Layout, Rope, RopeParameters};

/// A decoder's output layer, as a task asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderHead {
    /// Logits over the vocabulary.
    CausalLm,
    /// Logits over so many classes.
    Classifier(i64),
}

/// `config.json` of Llama and of the families that differ from it in a few places.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "Hugging Face's fields")]
pub struct LlamaConfig {
    vocab_size: i64,
    /// Width.
    pub hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    /// Width of a head.
    pub head_dim: Option<i64>,
    hidden_act: String,
    max_position_embeddings: i64,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<RopeParameters>,
    /// Biases of the attention.
    pub attention_bias: bool,
    attention_dropout: f64,
    mlp_bias: bool,
    use_sliding_window: bool,
}

/// Defaults of transformers' `LlamaConfig`.
impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: None,
            rope_scaling: None,
            attention_bias: false,
            attention_dropout: 0.0,
            mlp_bias: false,
            use_sliding_window: false,
        }
    }
}

/// Where a family differs from Llama.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub output_bias: bool,
    /// A norm for each query and key head.
    pub head_norms: bool,
}

/// Reads a Llama.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let llama: LlamaConfig = loader.config.of_family()?;
    let bias = llama.attention_bias;
    let variant = Variant { qkv_bias: bias, output_bias: bias, head_norms: false };
    llama.decoder(loader, head, variant, |layer| llama.dense(loader, layer))
}

impl LlamaConfig {
    /// The decoder, with the feed-forward part of each layer made by `mlp`.
    pub fn decoder(
        &self,
        loader: &Loader<'_>,
        head: DecoderHead,
        variant: Variant,
        mlp: impl Fn(usize) -> Result<FeedForward, ModelError>,
    ) -> Result<Decoder, ModelError> {
        loader.config.check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        if self.use_sliding_window {
            return Err(loader
                .config
                .unsupported("use_sliding_window: true is not supported".into()));
        }
        let rope = Rope::new(
            &self.rope_scaling.clone().unwrap_or_default(),
            self.rope_theta,
            self.max_position_embeddings,
            self.head_size(),
            Layout::Halves,
        );
        let layers = (0..self.num_hidden_layers).map(|index| {
            let name = format!("model.layers.{index}");
            let norm = |part: &str| self.rms_norm(loader, &format!("{name}.{part}"));
            Ok(Layer {
                input_norm: norm("input_layernorm")?,
                attention: SelfAttention::Grouped(self.attention(
                    loader,
                    &format!("{name}.self_attn"),
                    variant,
                )?),
                post_norm: norm("post_attention_layernorm")?,
                mlp: mlp(index)?,
            })
        });
        let layers = layers.collect::<Result<_, ModelError>>()?;
        let embed = loader.embedding("model.embed_tokens", [self.vocab_size, self.hidden_size])?;
        let head = match head {
            DecoderHead::CausalLm if self.tie_word_embeddings => {
                Head::Tied(embed.weight.tensor.shallow_clone())
            }
            DecoderHead::CausalLm => Head::Linear(loader.linear(
                "lm_head",
                [self.vocab_size, self.hidden_size],
                false,
            )?),
            DecoderHead::Classifier(classes) => {
                Head::Linear(loader.linear("score", [classes, self.hidden_size], false)?)
            }
        };
        let top = Top { norm: self.rms_norm(loader, "model.norm")?, head };
        let rope = rope.map_err(|detail| loader.config.unsupported(detail))?;
        Ok(Decoder::new(embed, layers, top, rope))
    }

    /// The feed-forward part of a layer.
    pub fn dense(&self, loader: &Loader<'_>, layer: usize) -> Result<FeedForward, ModelError> {
        let name = format!("model.layers.{layer}.mlp");
        let sizes = [self.hidden_size, self.intermediate_size];
        let activation = self.activation(loader)?;
        Ok(FeedForward::Dense(gated_mlp(loader, &name, sizes, activation, self.mlp_bias)?))
    }

    /// Of the feed-forward parts.
    pub fn activation(&self, loader: &Loader<'_>) -> Result<Activation, ModelError> {
        Activation::by_name(&self.hidden_act).map_err(|detail| loader.config.unsupported(detail))
    }

    fn attention(
        &self,
        loader: &Loader<'_>,
        name: &str,
        variant: Variant,
    ) -> Result<Attention, ModelError> {
        let size = self.head_size();
        let queries = self.num_attention_heads * size;
        let keys = self.num_key_value_heads.unwrap_or(self.num_attention_heads) * size;
        let projection = |part: &str, outputs| {
            let name = format!("{name}.{part}_proj");
            loader.linear(&name, [outputs, self.hidden_size], variant.qkv_bias)
        };
        let head_norm = |part: &str| {
            let name = format!("{name}.{part}_norm");
            variant.head_norms.then(|| loader.rms_norm(&name, size, self.rms_norm_eps)).transpose()
        };
        Ok(Attention {
            query: projection("q", queries)?,
            key: projection("k", keys)?,
            value: projection("v", keys)?,
            query_norm: head_norm("q")?,
            key_norm: head_norm("k")?,
            output: loader.linear(
                &format!("{name}.o_proj"),
                [self.hidden_size, queries],
                variant.output_bias,
            )?,
            head_size: size,
            dropout: self.attention_dropout,
        })
    }

    fn rms_norm(
        &self,
        loader: &Loader<'_>,
        name: &str,
    ) -> Result<crate::model::parts::norm::RmsNorm, ModelError> {
        loader.rms_norm(name, self.hidden_size, self.rms_norm_eps)
    }

    fn head_size(&self) -> i64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }
}

/// `NAME.gate_proj`, `NAME.up_proj` and `NAME.down_proj` over `[width, inner]`.
pub fn gated_mlp(
    loader: &Loader<'_>,
    name: &str,
    [width, inner]: [i64; 2],
    activation: Activation,
    bias: bool,
) -> Result<GatedMlp, ModelError> {
    let part = |part: &str, shape| loader.linear(&format!("{name}.{part}_proj"), shape, bias);
    Ok(GatedMlp {
        gate: part("gate", [inner, width])?,
        up: part("up", [inner, width])?,
        down: part("down", [width, inner])?,
        activation,
    })
}
