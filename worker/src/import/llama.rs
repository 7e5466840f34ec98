//! Settings and tensor names of llama.cpp's decoders → Hugging Face's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tch::{TchError, Tensor};

use super::gguf::{Blocks, Gguf, ImportError};

/// Architectures, their `model_type` and transformers' name. Llama's query and key rows are stored
/// in pairs (llama.cpp's `LlamaModel.permute`), the others' in halves as Hugging Face has them.
pub(crate) const ARCHITECTURES: [(&str, &str, &str, bool); 3] = [
    ("llama", "llama", "LlamaForCausalLM", true),
    ("qwen2", "qwen2", "Qwen2ForCausalLM", false),
    ("qwen3", "qwen3", "Qwen3ForCausalLM", false),
];

/// Parts of `blk.N.` and of `model.layers.N.`.
pub(crate) const LAYER_PARTS: [(&str, &str); 14] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// A decoder in a GGUF file.
#[derive(Debug)]
pub struct Model {
    /// `config.json`.
    pub config: Map<String, Value>,
    heads: i64,
    key_heads: i64,
    in_pairs: bool,
}

impl Model {
    /// What the settings say.
    pub fn of(gguf: &Gguf) -> Result<Self, ImportError> {
        let name = gguf.text("general.architecture").unwrap_or("none");
        let Some((_, model_type, class, in_pairs)) =
            ARCHITECTURES.iter().find(|(known, ..)| *known == name)
        else {
            let known: Vec<_> = ARCHITECTURES.iter().map(|(known, ..)| *known).collect();
            return Err(gguf.unsupported(format!(
                "architecture {name:?} is not supported; {} are",
                known.join(", ")
            )));
        };
        let stretched = gguf.text(&format!("{name}.rope.scaling.type")).filter(|k| *k != "none");
        if let Some(kind) = stretched.filter(|kind| *kind != "linear") {
            return Err(gguf.unsupported(format!("rope scaling {kind:?} is not imported")));
        }
        if gguf.shape("rope_freqs.weight").is_some() {
            return Err(
                gguf.unsupported("stretched positions (rope_freqs) are not imported".into())
            );
        }
        let integer = |key: &str| {
            let key = format!("{name}.{key}");
            gguf.integer(&key).filter(|value| (1..1 << 31).contains(value)).ok_or_else(|| {
                gguf.malformed(format!("{key} is missing or not a whole number above 0"))
            })
        };
        let heads = integer("attention.head_count")?;
        let key_heads = gguf.integer(&format!("{name}.attention.head_count_kv")).unwrap_or(heads);
        let width = integer("embedding_length")?;
        let head = gguf.integer(&format!("{name}.attention.key_length")).unwrap_or(width / heads);
        let vocabulary = gguf.shape(EMBEDDINGS).map_or(0, |shape| shape[0]);
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": integer("feed_forward_length")?,
            "num_hidden_layers": integer("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head,
            "max_position_embeddings": integer("context_length")?,
            "rms_norm_eps": gguf.float(&format!("{name}.attention.layer_norm_rms_epsilon")).map_or(1e-5, shortest),
            "rope_theta": gguf.float(&format!("{name}.rope.freq_base")).unwrap_or(10_000.0),
            "hidden_act": "silu",
            "attention_bias": gguf.shape("blk.0.attn_q.bias").is_some() && *model_type == "llama",
            "mlp_bias": false,
            "tie_word_embeddings": gguf.shape("output.weight").is_none(),
        });
        if stretched.is_some() {
            let factor = gguf.float(&format!("{name}.rope.scaling.factor")).unwrap_or(1.0);
            config["rope_scaling"] = json!({"rope_type": "linear", "factor": factor});
        }
        for (field, key) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(id) = gguf.integer(key) {
                config[field] = id.into();
            }
        }
        let Value::Object(config) = config else { unreachable!("json! made an object") };
        Ok(Self { config, heads, key_heads, in_pairs: *in_pairs })
    }

    /// Every tensor in f32 under Hugging Face's name. A tensor without one is refused: a model
    /// that lacks a part would compute something else.
    pub fn tensors(&self, gguf: &Gguf) -> Result<Vec<(String, Tensor)>, ImportError> {
        let read =
            |(name, known): (&str, String)| Ok((known, self.in_halves(name, &gguf.tensor(name)?)?));
        names(gguf)?.into_iter().map(read).collect()
    }

    /// As [`Self::tensors`], without the matrices that [`Self::blocks`] reads; embeddings are there
    /// both ways.
    pub fn floats(&self, gguf: &Gguf) -> Result<BTreeMap<String, Tensor>, ImportError> {
        let mut floats = BTreeMap::new();
        for (name, known) in names(gguf)? {
            if name == EMBEDDINGS || !gguf.is_whole(name) {
                floats.insert(known, self.in_halves(name, &gguf.tensor(name)?)?);
            }
        }
        Ok(floats)
    }

    /// Hugging Face's names of the matrices of whole numbers, and the file's.
    pub fn matrices(&self, gguf: &Gguf) -> Result<BTreeMap<String, String>, ImportError> {
        let all = names(gguf)?.into_iter();
        let whole = all.filter(|(name, _)| gguf.is_whole(name));
        Ok(whole.map(|(name, known)| (known, name.to_owned())).collect())
    }

    /// Such a matrix, by the file's name, as it is held: read when it is asked for, so that a model
    /// is in memory once while it is loaded.
    pub fn blocks(&self, gguf: &Gguf, name: &str) -> Result<Blocks, ImportError> {
        let none = || gguf.malformed(format!("tensor {name} holds no whole numbers"));
        let blocks = gguf.blocks(name)?.ok_or_else(none)?;
        Ok(Blocks {
            values: self.in_halves(name, &blocks.values)?,
            scales: self.in_halves(name, &blocks.scales)?,
            ..blocks
        })
    }

    /// Rows as Hugging Face has them.
    fn in_halves(&self, name: &str, rows: &Tensor) -> Result<Tensor, ImportError> {
        let heads = match name.rsplit('.').nth(1) {
            Some("attn_q") => self.heads,
            Some("attn_k") => self.key_heads,
            _ => return Ok(rows.shallow_clone()),
        };
        if self.in_pairs { halves(rows, heads) } else { Ok(rows.shallow_clone()) }
    }
}

const EMBEDDINGS: &str = "token_embd.weight";

/// All tensors, their names and Hugging Face's.
fn names(gguf: &Gguf) -> Result<Vec<(&str, String)>, ImportError> {
    let known = |name| {
        let none = || gguf.unsupported(format!("tensor {name} has no place in this model"));
        Ok((name, hugging_face_name(name).ok_or_else(none)?))
    };
    gguf.names().map(known).collect()
}

/// The shortest decimal that is the same f32: 1e-5 was written as one.
fn shortest(value: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "the file holds an f32")]
    let single = value as f32;
    single.to_string().parse().unwrap_or(value)
}

pub(crate) fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        EMBEDDINGS => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, known) = LAYER_PARTS.iter().find(|(theirs, _)| *theirs == part)?;
    layer.parse::<u32>().ok()?;
    Some(format!("model.layers.{layer}.{known}"))
}

/// Rows of each head from pairs to halves.
fn halves(tensor: &Tensor, heads: i64) -> Result<Tensor, ImportError> {
    let shape = tensor.size();
    let half = shape[0] / heads / 2;
    let split = tensor.f_view([heads, half, 2, -1])?;
    Ok(split.f_transpose(1, 2)?.f_reshape(shape.as_slice())?)
}

/// The way back.
pub(crate) fn pairs(tensor: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let shape = tensor.size();
    let half = shape[0] / heads / 2;
    let split = tensor.f_view([heads, 2, half, -1])?;
    split.f_transpose(1, 2)?.f_reshape(shape.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn rows_go_from_pairs_to_halves() {
        let rows = Tensor::arange(8, (Kind::Int64, Device::Cpu)).view([8, 1]);
        let got: Vec<i64> = Vec::try_from(halves(&rows, 2).unwrap().view([-1])).unwrap();
        assert_eq!(got, [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows = Tensor::arange(12 * 5, (Kind::Int64, Device::Cpu)).view([12, 5]);
        assert!(pairs(&halves(&rows, 2).unwrap(), 2).unwrap().equal(&rows));
    }

    #[test]
    fn names_are_translated_and_unknown_ones_are_not() {
        for (theirs, ours) in [
            ("blk.3.ffn_down.weight", Some("model.layers.3.mlp.down_proj.weight")),
            ("output_norm.weight", Some("model.norm.weight")),
            ("blk.0.ffn_gate_exps.weight", None),
            ("blk.x.ffn_down.weight", None),
        ] {
            assert_eq!(hugging_face_name(theirs).as_deref(), ours, "{theirs}");
        }
    }
}
