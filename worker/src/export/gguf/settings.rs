//! `config.json` → llama.cpp's settings and tensor names. Pure.

use serde_json::{Map, Value};
use tch::Tensor;

use super::mix::Mix;
use crate::import::gguf::Setting;
use crate::import::llama::{ARCHITECTURES, LAYER_PARTS, pairs};
use crate::model::ModelError;

/// What llama.cpp must know of a decoder.
#[derive(Debug)]
pub struct Decoder {
    architecture: &'static str,
    heads: i64,
    key_heads: i64,
    in_pairs: bool,
    /// Blocks.
    pub layers: usize,
    settings: Vec<(String, Setting)>,
}

impl Decoder {
    /// Of a `config.json`; what cannot be said in GGUF is refused in a sentence.
    pub fn of(config: &Map<String, Value>) -> Result<Self, String> {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("none");
        let known = ARCHITECTURES.iter().find(|(_, theirs, ..)| *theirs == model_type);
        let Some(&(architecture, _, _, in_pairs)) = known else {
            let known: Vec<_> = ARCHITECTURES.iter().map(|(_, theirs, ..)| *theirs).collect();
            return Err(format!(
                "a {model_type} is not written as GGUF; {} are: use another quantization",
                known.join(", ")
            ));
        };
        if let Some(other) = text(config, "hidden_act").filter(|other| *other != "silu") {
            return Err(format!("hidden_act {other} has no place in GGUF; silu has"));
        }
        let number = |field: &str| {
            let value = config.get(field).and_then(Value::as_i64);
            value.filter(|value| *value > 0).ok_or_else(|| format!("config.json lacks {field}"))
        };
        let heads = number("num_attention_heads")?;
        let key_heads = number("num_key_value_heads").unwrap_or(heads);
        let width = number("hidden_size")?;
        let head = number("head_dim").unwrap_or(width / heads);
        let layers = number("num_hidden_layers")?;
        let epsilon = config.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6);
        let mut settings: Vec<(String, Setting)> = [
            ("block_count", Setting::Integer(layers)),
            ("context_length", Setting::Integer(number("max_position_embeddings")?)),
            ("embedding_length", Setting::Integer(width)),
            ("feed_forward_length", Setting::Integer(number("intermediate_size")?)),
            ("attention.head_count", Setting::Integer(heads)),
            ("attention.head_count_kv", Setting::Integer(key_heads)),
            ("attention.key_length", Setting::Integer(head)),
            ("attention.value_length", Setting::Integer(head)),
            ("attention.layer_norm_rms_epsilon", Setting::Float(epsilon)),
            ("rope.dimension_count", Setting::Integer(head)),
            ("vocab_size", Setting::Integer(number("vocab_size")?)),
        ]
        .into_iter()
        .chain(positions(config)?)
        .map(|(key, setting)| (format!("{architecture}.{key}"), setting))
        .collect();
        settings.insert(0, ("general.architecture".into(), Setting::Text(architecture.into())));
        let layers = usize::try_from(layers).unwrap_or(usize::MAX);
        Ok(Self { architecture, heads, key_heads, in_pairs, layers, settings })
    }

    /// All settings but the tokenizer's, for a model of this name.
    pub fn settings(&self, name: &str, mix: Mix) -> Vec<(String, Setting)> {
        let mut settings = self.settings.clone();
        let integer = |value: u32| Setting::Integer(value.into());
        settings.extend([
            ("general.type".into(), Setting::Text("model".into())),
            ("general.name".into(), Setting::Text(name.into())),
            ("general.file_type".into(), integer(mix.file_type())),
            ("general.quantization_version".into(), integer(2)),
        ]);
        settings
    }

    /// llama.cpp's name of a tensor.
    pub fn name(&self, known: &str) -> Result<String, String> {
        let name = match known {
            "model.embed_tokens.weight" => Some("token_embd.weight".to_owned()),
            "model.norm.weight" => Some("output_norm.weight".to_owned()),
            "lm_head.weight" => Some("output.weight".to_owned()),
            _ => known.strip_prefix("model.layers.").and_then(|rest| {
                let (layer, part) = rest.split_once('.')?;
                let (theirs, _) = LAYER_PARTS.iter().find(|(_, ours)| *ours == part)?;
                Some(format!("blk.{layer}.{theirs}"))
            }),
        };
        name.ok_or_else(|| {
            format!(
                "{known} has no place in a {} of GGUF: use another quantization",
                self.architecture
            )
        })
    }

    /// A tensor with its rows in llama.cpp's order.
    pub fn arranged(&self, name: &str, tensor: &Tensor) -> Result<Tensor, ModelError> {
        match name.rsplit('.').nth(1) {
            Some("attn_q") if self.in_pairs => Ok(pairs(tensor, self.heads)?),
            Some("attn_k") if self.in_pairs => Ok(pairs(tensor, self.key_heads)?),
            _ => Ok(tensor.shallow_clone()),
        }
    }
}

fn text<'a>(config: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    config.get(field)?.as_str()
}

/// How fast positions turn.
fn positions(config: &Map<String, Value>) -> Result<Vec<(&'static str, Setting)>, String> {
    let nested = |field: &str| {
        ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| config.get(key)?.get(field))
    };
    let base = config.get("rope_theta").or_else(|| nested("rope_theta")).and_then(Value::as_f64);
    let mut settings = vec![("rope.freq_base", Setting::Float(base.unwrap_or(10_000.0)))];
    let kind = nested("rope_type").or_else(|| nested("type")).and_then(Value::as_str);
    match kind.unwrap_or("default") {
        "default" => {}
        "linear" => {
            let factor = nested("factor").and_then(Value::as_f64).unwrap_or(1.0);
            settings.push(("rope.scaling.type", Setting::Text("linear".into())));
            settings.push(("rope.scaling.factor", Setting::Float(factor)));
        }
        other => {
            return Err(format!(
                "positions stretched by {other:?} are not written as GGUF; linear and plain ones are: use another quantization"
            ));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(change: impl FnOnce(&mut Value)) -> Map<String, Value> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "vocab_size": 300, "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
        });
        change(&mut config);
        let Value::Object(config) = config else { panic!() };
        config
    }

    #[test]
    fn names_go_there_and_back() {
        let decoder = Decoder::of(&config(|_| ())).unwrap();
        for (ours, theirs) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.11.mlp.down_proj.weight", "blk.11.ffn_down.weight"),
            ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
        ] {
            assert_eq!(decoder.name(ours).unwrap(), theirs);
            assert_eq!(crate::import::llama::hugging_face_name(theirs).as_deref(), Some(ours));
        }
        let refused = decoder.name("model.layers.0.mlp.up_proj.bias").unwrap_err();
        assert!(refused.contains("no place"), "{refused}");
    }

    #[test]
    fn positions_are_told() {
        let find = |config: &Map<String, Value>, key: &str| {
            let decoder = Decoder::of(config).unwrap();
            let settings = decoder.settings("tiny", Mix::Q8_0);
            settings.into_iter().find(|(name, _)| name == key).map(|(_, setting)| setting)
        };
        let plain = config(|c| c["rope_theta"] = json!(1e5));
        assert_eq!(find(&plain, "llama.rope.freq_base"), Some(Setting::Float(1e5)));
        assert_eq!(find(&plain, "llama.rope.scaling.type"), None);
        let linear = config(|c| {
            c["rope_parameters"] = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 7.0});
        });
        assert_eq!(find(&linear, "llama.rope.freq_base"), Some(Setting::Float(7.0)));
        assert_eq!(find(&linear, "llama.rope.scaling.factor"), Some(Setting::Float(4.0)));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for (name, changed, word) in [
            ("family", config(|c| c["model_type"] = json!("bert")), "qwen3"),
            ("activation", config(|c| c["hidden_act"] = json!("gelu")), "silu"),
            ("size", config(|c| c["hidden_size"] = Value::Null), "lacks hidden_size"),
            ("rope", config(|c| c["rope_scaling"] = json!({"type": "yarn"})), "yarn"),
        ] {
            let refused = Decoder::of(&changed).unwrap_err();
            assert!(refused.contains(word), "{name}: {refused}");
        }
    }
}
