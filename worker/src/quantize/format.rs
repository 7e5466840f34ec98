//! compressed-tensors' `quantization_config` for int8 weights and activations:
//! what Hearth writes, and what it reads of it.
//!
//! `NAME.weight` is int8 `[N, K]`, `NAME.weight_scale` f32 `[N, 1]`: a weight
//! is their product. Activations have 8 bits and a scale for each token, found
//! while they come.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Key in `config.json`.
pub const KEY: &str = "quantization_config";
/// Format of int8 tensors that are stored as they are.
const INT_QUANTIZED: &str = "int-quantized";

/// Layers that stay in f32: after the encoder there is one token a text, so
/// they cost nothing, and errors there reach the answer undamped.
pub const IGNORED: [&str; 2] = ["bert.pooler.dense", "classifier"];

/// The value of [`KEY`] for a model that was quantized here.
pub fn describe() -> Value {
    let integers = |strategy: &str, dynamic: bool| {
        json!({
            "num_bits": 8,
            "type": "int",
            "symmetric": true,
            "strategy": strategy,
            "dynamic": dynamic,
            "group_size": null,
            "block_structure": null,
            "actorder": null,
            "observer": if dynamic { Value::Null } else { json!("minmax") },
            "observer_kwargs": {}
        })
    };
    json!({
        "quant_method": "compressed-tensors",
        "format": INT_QUANTIZED,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": IGNORED,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": integers("channel", false),
                "input_activations": integers("token", true),
                "output_activations": null
            }
        }
    })
}

#[derive(Deserialize)]
struct Described {
    quant_method: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    config_groups: Map<String, Value>,
}

#[derive(Deserialize)]
struct Group {
    weights: Option<Numbers>,
    input_activations: Option<Numbers>,
    #[serde(default)]
    output_activations: Option<Value>,
}

#[derive(Deserialize)]
struct Numbers {
    num_bits: u32,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    strategy: Option<String>,
    #[serde(default)]
    dynamic: Value,
}

fn yes() -> bool {
    true
}

/// Whether `config` (the content of a `config.json`) is of a compressed model;
/// an error where it is of one that is compressed in another way than ours.
pub fn is_int8(config: &Map<String, Value>) -> Result<bool, String> {
    let Some(value) = config.get(KEY).filter(|value| !value.is_null()) else { return Ok(false) };
    let described =
        Described::deserialize(value).map_err(|error| format!("{KEY} makes no sense: {error}"))?;
    let refuse = |what: String| {
        Err(format!(
            "{what} is not supported; only int8 weights a channel with int8 activations a token in the compressed-tensors format {INT_QUANTIZED} are"
        ))
    };
    if described.quant_method != "compressed-tensors" {
        return refuse(format!("{KEY}.quant_method {:?}", described.quant_method));
    }
    if described.format != INT_QUANTIZED {
        return refuse(format!("{KEY}.format {:?}", described.format));
    }
    for (name, group) in &described.config_groups {
        let place = format!("{KEY}.config_groups.{name}");
        let group = Group::deserialize(group)
            .map_err(|error| format!("{place} makes no sense: {error}"))?;
        let weights = group.weights.is_some_and(|numbers| numbers.are("channel", false));
        let inputs = group.input_activations.is_some_and(|numbers| numbers.are("token", true));
        let outputs = group.output_activations.is_none_or(|value| value.is_null());
        if !(weights && inputs && outputs) {
            return refuse(place);
        }
    }
    Ok(true)
}

impl Numbers {
    fn are(&self, strategy: &str, dynamic: bool) -> bool {
        let integers = (self.num_bits, self.kind.as_str(), self.symmetric) == (8, "int", true);
        let said_dynamic = self.dynamic.as_bool().unwrap_or(false);
        integers && self.strategy.as_deref() == Some(strategy) && said_dynamic == dynamic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Value)) -> Map<String, Value> {
        let mut value = json!({ KEY: describe() });
        change(&mut value[KEY]);
        let Value::Object(config) = value else { panic!() };
        config
    }

    #[test]
    fn what_is_written_is_read_and_what_differs_is_refused() {
        assert_eq!(is_int8(&Map::new()), Ok(false));
        assert_eq!(is_int8(&config(|_| ())), Ok(true));
        let group = "config_groups";
        for (name, changed) in [
            ("quant_method", config(|c| c["quant_method"] = json!("gptq"))),
            ("format", config(|c| c["format"] = json!("pack-quantized"))),
            ("num_bits", config(|c| c[group]["group_0"]["weights"]["num_bits"] = json!(4))),
            ("asymmetric", config(|c| c[group]["group_0"]["weights"]["symmetric"] = json!(false))),
            (
                "static",
                config(|c| c[group]["group_0"]["input_activations"]["dynamic"] = json!(false)),
            ),
            ("weight only", config(|c| c[group]["group_0"]["input_activations"] = Value::Null)),
            (
                "per tensor",
                config(|c| c[group]["group_0"]["weights"]["strategy"] = json!("tensor")),
            ),
        ] {
            let refused = is_int8(&changed).unwrap_err();
            assert!(refused.contains("not supported"), "{name}: {refused}");
        }
    }

    #[test]
    fn nonsense_is_told_apart() {
        let refused = is_int8(&config(|c| *c = json!(7))).unwrap_err();
        assert!(refused.contains("makes no sense"), "{refused}");
    }
}
