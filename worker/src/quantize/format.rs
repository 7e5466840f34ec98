//! compressed-tensors' `quantization_config`: what Hearth writes, and what it reads of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::scheme::Scheme;

/// Key in `config.json`.
pub const KEY: &str = "quantization_config";

/// The value of [`KEY`] for a model whose linear layers are stored so; `None` of those that are not
/// quantized.
pub fn describe(layers: &BTreeMap<String, Option<Scheme>>) -> Value {
    let schemes: BTreeSet<Scheme> = layers.values().copied().flatten().collect();
    let of = |wanted: Option<Scheme>| -> Vec<&str> {
        let same = layers.iter().filter(|(_, scheme)| **scheme == wanted);
        same.map(|(name, _)| name.as_str()).collect()
    };
    let groups: Map<String, Value> = schemes
        .iter()
        .enumerate()
        .map(|(index, scheme)| {
            let targets = if schemes.len() == 1 { vec!["Linear"] } else { of(Some(*scheme)) };
            (format!("group_{index}"), scheme.describe(&targets))
        })
        .collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": schemes.first().map(|scheme| scheme.format()),
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": of(None),
        "config_groups": groups,
    })
}

impl Scheme {
    /// compressed-tensors' name of how its tensors lie.
    fn format(self) -> &'static str {
        match self {
            Self::Int8 => "int-quantized",
            Self::Packed { .. } => "pack-quantized",
            Self::Float8 => "float-quantized",
        }
    }

    fn describe(self, targets: &[&str]) -> Value {
        let (kind, bits, group) = match self {
            Self::Int8 => ("int", 8, None),
            Self::Packed { bits, group } => ("int", bits, group),
            Self::Float8 => ("float", 8, None),
        };
        let numbers = |bits: u32, strategy: &str, group: Option<i64>, dynamic: bool| {
            json!({
                "num_bits": bits,
                "type": kind,
                "symmetric": true,
                "strategy": strategy,
                "dynamic": dynamic,
                "group_size": group,
                "block_structure": null,
                "actorder": null,
                "observer": if dynamic { Value::Null } else { json!("minmax") },
                "observer_kwargs": {},
            })
        };
        let strategy = if group.is_some() { "group" } else { "channel" };
        let activations = match self {
            Self::Packed { .. } => Value::Null,
            Self::Int8 | Self::Float8 => numbers(8, "token", None, true),
        };
        json!({
            "targets": targets,
            "weights": numbers(bits, strategy, group, false),
            "input_activations": activations,
            "output_activations": null,
            "format": self.format(),
        })
    }
}

#[derive(Deserialize)]
struct Described {
    quant_method: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    config_groups: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Group {
    weights: Option<Numbers>,
    input_activations: Option<Numbers>,
    #[serde(default)]
    output_activations: Option<Value>,
    format: Option<String>,
}

#[derive(Deserialize)]
struct Numbers {
    num_bits: u32,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    strategy: Option<String>,
    group_size: Option<i64>,
    #[serde(default)]
    dynamic: Value,
    #[serde(default)]
    actorder: Option<String>,
}

fn yes() -> bool {
    true
}

/// How a compressed model's linear layers are stored, by `config`, the content of a `config.json`:
/// any of these. `None` of a model that is not compressed; an error where it is in a way that is
/// not read.
pub fn schemes(config: &Map<String, Value>) -> Result<Option<Vec<Scheme>>, String> {
    let Some(value) = config.get(KEY).filter(|value| !value.is_null()) else { return Ok(None) };
    let described =
        Described::deserialize(value).map_err(|error| format!("{KEY} makes no sense: {error}"))?;
    // DeepSeek's own fp8 is that of its weights' reader.
    if described.quant_method == "fp8" {
        return Ok(None);
    }
    if described.quant_method != "compressed-tensors" {
        return Err(refusal(&format!("{KEY}.quant_method {:?}", described.quant_method)));
    }
    let read = |(name, group): (&String, &Value)| {
        let place = format!("{KEY}.config_groups.{name}");
        let group = Group::deserialize(group)
            .map_err(|error| format!("{place} makes no sense: {error}"))?;
        let format = group.format.clone().unwrap_or_else(|| described.format.clone());
        group
            .scheme()
            .filter(|scheme| scheme.format() == format)
            .ok_or_else(|| refusal(&format!("{place} in the format {format:?}")))
    };
    described.config_groups.iter().map(read).collect::<Result<_, _>>().map(Some)
}

fn refusal(what: &str) -> String {
    format!(
        "{what} is not supported; of compressed-tensors, symmetric weights are: int8 or fp8 a channel with activations a token (int-quantized, float-quantized), and int8 a channel and int4 a channel or a group (pack-quantized)"
    )
}

impl Group {
    fn scheme(&self) -> Option<Scheme> {
        if self.output_activations.as_ref().is_some_and(|value| !value.is_null()) {
            return None;
        }
        let weights = self.weights.as_ref().filter(|weights| !weights.is_dynamic())?;
        let inputs = self.input_activations.as_ref();
        let by_token = |kind: &str| {
            inputs.is_some_and(|inputs| {
                inputs.are(kind, 8) && inputs.strategy() == "token" && inputs.is_dynamic()
            })
        };
        match (weights.strategy(), weights.group_size) {
            ("channel", _) if weights.are("int", 8) && by_token("int") => Some(Scheme::Int8),
            ("channel", _) if weights.are("float", 8) && by_token("float") => Some(Scheme::Float8),
            (strategy, group) if inputs.is_none() => {
                let group = match strategy {
                    "channel" => None,
                    "group" => Some(group.filter(|size| *size > 0 && size % 8 == 0)?),
                    _ => return None,
                };
                let bits = [4, 8].into_iter().find(|bits| weights.are("int", *bits))?;
                let scheme = Scheme::Packed { bits, group };
                (bits == 4 || group.is_none()).then_some(scheme)
            }
            _ => None,
        }
    }
}

impl Numbers {
    fn are(&self, kind: &str, bits: u32) -> bool {
        // In the order of activations ("group"), columns lie elsewhere.
        let in_place = self.actorder.as_deref().is_none_or(|order| order != "group");
        self.num_bits == bits && self.kind == kind && self.symmetric && in_place
    }

    fn strategy(&self) -> &str {
        self.strategy.as_deref().unwrap_or_default()
    }

    fn is_dynamic(&self) -> bool {
        self.dynamic.as_bool().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT4: Scheme = Scheme::Packed { bits: 4, group: Some(128) };

    fn config(schemes: &[Scheme], change: impl FnOnce(&mut Value)) -> Map<String, Value> {
        let mut layers: BTreeMap<String, Option<Scheme>> =
            schemes.iter().map(|scheme| (format!("layer.{scheme:?}"), Some(*scheme))).collect();
        layers.insert("classifier".into(), None);
        let mut value = json!({ KEY: describe(&layers) });
        change(&mut value[KEY]);
        let Value::Object(config) = value else { panic!() };
        config
    }

    #[test]
    fn what_is_written_is_read() {
        let eight = Scheme::Packed { bits: 8, group: None };
        let small = Scheme::Packed { bits: 4, group: Some(64) };
        assert_eq!(schemes(&Map::new()), Ok(None));
        for written in [&[Scheme::Int8][..], &[eight], &[small, INT4], &[Scheme::Float8]] {
            assert_eq!(schemes(&config(written, |_| ())), Ok(Some(written.to_vec())));
        }
        let two = Value::Object(config(&[small, INT4], |_| ()));
        assert_eq!(two[KEY]["ignore"], json!(["classifier"]));
        let targets = &two[KEY]["config_groups"]["group_1"]["targets"];
        assert_eq!(*targets, json!([format!("layer.{INT4:?}")]));
    }

    #[test]
    fn what_would_be_computed_wrong_is_refused() {
        let group = |value: &mut Value, part: &str, field: &str, to: Value| {
            value["config_groups"]["group_0"][part][field] = to;
        };
        let int8 = [Scheme::Int8];
        for (name, changed) in [
            ("quant_method", config(&int8, |c| c["quant_method"] = json!("gptq"))),
            (
                "format",
                config(&int8, |c| {
                    c["config_groups"]["group_0"]["format"] = json!("naive-quantized");
                }),
            ),
            ("num_bits", config(&int8, |c| group(c, "weights", "num_bits", json!(4)))),
            ("asymmetric", config(&[INT4], |c| group(c, "weights", "symmetric", json!(false)))),
            ("static", config(&int8, |c| group(c, "input_activations", "dynamic", json!(false)))),
            ("per tensor", config(&int8, |c| group(c, "weights", "strategy", json!("tensor")))),
            ("moved columns", config(&[INT4], |c| group(c, "weights", "actorder", json!("group")))),
            ("no group", config(&[INT4], |c| group(c, "weights", "group_size", Value::Null))),
            (
                "outputs",
                config(&int8, |c| {
                    c["config_groups"]["group_0"]["output_activations"] = json!({"num_bits": 8});
                }),
            ),
        ] {
            let refused = schemes(&changed).unwrap_err();
            assert!(refused.contains("not supported"), "{name}: {refused}");
        }
        let refused = schemes(&config(&int8, |c| *c = json!(7))).unwrap_err();
        assert!(refused.contains("makes no sense"), "{refused}");
    }
}
