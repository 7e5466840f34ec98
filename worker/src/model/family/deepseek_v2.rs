//! DeepSeek-V2, V2-Lite and Coder-V2, as transformers' `DeepseekV2ForCausalLM`.

use super::deepseek::ExpertConfig;
use super::{latent, llama::DecoderHead};
use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::loader::Loader;
use crate::model::parts::router::Choice;

/// Reads a DeepSeek-V2.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let mut experts: ExpertConfig = loader.config.of_family()?;
    // transformers ignores the field for V2, whose released models have it false.
    experts.norm_topk_prob = false;
    let choice = match (experts.topk_method.as_deref(), experts.n_group, experts.topk_group) {
        (None | Some("greedy"), ..) => Choice::Greedy,
        (Some("group_limited_greedy"), Some(groups), Some(kept)) => {
            Choice::GroupedSoftmax { groups, kept }
        }
        (Some("group_limited_greedy"), ..) => {
            return Err(loader
                .config
                .malformed("group_limited_greedy needs n_group and topk_group".into()));
        }
        (Some(other), ..) => {
            return Err(loader.config.unsupported(format!(
                "topk_method {other:?} is not supported; greedy and group_limited_greedy are"
            )));
        }
    };
    latent::decoder(loader, head, &experts, choice)
}
