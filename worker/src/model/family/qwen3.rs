//! Qwen3, as transformers' `Qwen3ForCausalLM`.

use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::family::llama::{DecoderHead, LlamaConfig, Variant};
use crate::model::loader::Loader;

/// Reads a Qwen3: a Llama with a norm for each query and key head. Its heads are of 128 where the
/// file does not say.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let mut qwen: LlamaConfig = loader.config.of_family()?;
    let bias = qwen.attention_bias;
    qwen.head_dim = qwen.head_dim.or(Some(128));
    let variant = Variant { qkv_bias: bias, output_bias: bias, head_norms: true };
    qwen.decoder(loader, head, variant, |layer| qwen.dense(loader, layer))
}
