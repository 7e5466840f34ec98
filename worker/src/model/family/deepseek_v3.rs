//! DeepSeek-V3, R1 and V3.1, as transformers' `DeepseekV3ForCausalLM`. The layers for multi-token
//! prediction are not read.

use super::deepseek::ExpertConfig;
use super::{latent, llama::DecoderHead};
use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::loader::Loader;
use crate::model::parts::router::Choice;

/// Reads a DeepSeek-V3.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let experts: ExpertConfig = loader.config.of_family()?;
    let choice = Choice::GroupedSigmoid {
        groups: experts.n_group.unwrap_or(1),
        kept: experts.topk_group.unwrap_or(1),
    };
    latent::decoder(loader, head, &experts, choice)
}
