//! Qwen2, as transformers' `Qwen2ForCausalLM`; also DeepSeek-R1's distillations.

use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::family::llama::{DecoderHead, LlamaConfig, Variant};
use crate::model::loader::Loader;

/// Reads a Qwen2: a Llama with biases on queries, keys and values.
pub fn load(loader: &Loader<'_>, head: DecoderHead) -> Result<Decoder, ModelError> {
    let qwen: LlamaConfig = loader.config.of_family()?;
    let variant = Variant { qkv_bias: true, output_bias: false, head_norms: false };
    qwen.decoder(loader, head, variant, |layer| qwen.dense(loader, layer))
}
