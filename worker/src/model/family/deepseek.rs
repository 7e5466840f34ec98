//! DeepSeekMoE (Dai et al. 2024): a Llama whose later layers are mixtures of experts. Hugging Face
//! has it as remote code of `deepseek-ai/deepseek-moe-16b-base` (`modeling_deepseek.py`).

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::family::llama::{DecoderHead, LlamaConfig, Variant, gated_mlp};
use crate::model::loader::Loader;
use crate::model::module::Role;
use crate::model::parts::activation::Activation;
use crate::model::parts::experts::{FeedForward, Mixture};
use crate::model::parts::router::{Choice, Router};

/// The experts' part of a `config.json`, of all DeepSeek families.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ExpertConfig {
    moe_intermediate_size: i64,
    n_routed_experts: Option<i64>,
    n_shared_experts: Option<i64>,
    num_experts_per_tok: i64,
    first_k_dense_replace: usize,
    moe_layer_freq: usize,
    /// Make the weights of a token sum to 1.
    pub norm_topk_prob: bool,
    /// Factor of the weights.
    pub routed_scaling_factor: f64,
    /// Groups of experts.
    pub n_group: Option<i64>,
    /// Groups of a token.
    pub topk_group: Option<i64>,
    /// `greedy`, `group_limited_greedy` or `noaux_tc`.
    pub topk_method: Option<String>,
}

/// Defaults of `modeling_deepseek.py`.
impl Default for ExpertConfig {
    fn default() -> Self {
        Self {
            moe_intermediate_size: 1407,
            n_routed_experts: None,
            n_shared_experts: None,
            num_experts_per_tok: 8,
            first_k_dense_replace: 0,
            moe_layer_freq: 1,
            norm_topk_prob: false,
            routed_scaling_factor: 1.0,
            n_group: None,
            topk_group: None,
            topk_method: None,
        }
    }
}

/// Reads a DeepSeekMoE.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let llama: LlamaConfig = loader.config.of_family()?;
    let experts: ExpertConfig = loader.config.of_family()?;
    let bias = llama.attention_bias;
    let variant = Variant { qkv_bias: bias, output_bias: bias, head_norms: false };
    let activation = llama.activation(loader)?;
    llama.decoder(loader, head, variant, |layer| {
        let mixture =
            experts.mixture(loader, layer, (llama.hidden_size, activation), Choice::Greedy)?;
        mixture.map_or_else(|| llama.dense(loader, layer), |m| Ok(FeedForward::Mixture(m)))
    })
}

impl ExpertConfig {
    /// The experts of a layer; `None` where the layer is dense.
    pub fn mixture(
        &self,
        loader: &Loader<'_>,
        layer: usize,
        (width, activation): (i64, Activation),
        choice: Choice,
    ) -> Result<Option<Mixture>, ModelError> {
        let Some(count) = self.n_routed_experts else { return Ok(None) };
        if layer < self.first_k_dense_replace || !layer.is_multiple_of(self.moe_layer_freq.max(1)) {
            return Ok(None);
        }
        loader.config.check_sizes(&[
            ("n_routed_experts", count),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("moe_intermediate_size", self.moe_intermediate_size),
        ])?;
        let name = format!("model.layers.{layer}.mlp");
        let mlp = |name: &str, inner| gated_mlp(loader, name, [width, inner], activation, false);
        let shared = self.n_shared_experts.filter(|shared| *shared > 0).map(|shared| {
            mlp(&format!("{name}.shared_experts"), self.moe_intermediate_size * shared)
        });
        let correction = matches!(choice, Choice::GroupedSigmoid { .. }).then(|| {
            let name = format!("{name}.gate.e_score_correction_bias");
            loader.weight(&name, &[count], Role::Buffer)
        });
        Ok(Some(Mixture {
            router: Router {
                weight: loader.weight(
                    &format!("{name}.gate.weight"),
                    &[count, width],
                    Role::Decayed,
                )?,
                correction: correction.transpose()?,
                choice,
                experts_per_token: self.num_experts_per_tok,
                normalize: self.norm_topk_prob,
                scale: self.routed_scaling_factor,
            },
            experts: (0..count)
                .map(|expert| mlp(&format!("{name}.experts.{expert}"), self.moe_intermediate_size))
                .collect::<Result<_, _>>()?,
            shared: shared.transpose()?,
            spread: None,
            dealt: None,
        }))
    }
}
