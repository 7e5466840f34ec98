//! Adapters as a directory of their own, as PEFT saves and loads them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tch::Tensor;

use super::lora::{Adapters, LoraConfig, adapt};
use crate::model::weights::read_tensors;
use crate::model::{Family, Head, Model, ModelError};

/// Name of the settings' file.
pub const CONFIG: &str = "adapter_config.json";
/// Name of the tensors' file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the model's own names.
pub(super) const PREFIX: &str = "base_model.model.";

/// What training changed, under PEFT's names: adapters, and the head of a classifier.
pub fn tensors(model: &Model) -> Vec<(String, Tensor)> {
    let trained = model.trainable().into_iter();
    trained.map(|part| (format!("{PREFIX}{}", part.name), part.tensor.detach())).collect()
}

/// `adapter_config.json` for the adapters in `model`, which were put beside that in `base`.
pub fn config(model: &Model, lora: &LoraConfig, base: &Path) -> Value {
    let task = match model.head {
        Head::CausalLm => json!("CAUSAL_LM"),
        Head::Classifier(_) if model.architecture().ends_with("ForSequenceClassification") => {
            json!("SEQ_CLS")
        }
        Head::Classifier(_) => Value::Null,
    };
    json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "target_modules": target_modules(model),
        "modules_to_save": modules_to_save(model),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
    })
}

/// Last parts of the adapted layers' names, or the whole names where other layers end alike.
fn target_modules(model: &Model) -> Vec<String> {
    let has =
        |name: &str| model.parameters().iter().any(|p| p.name == format!("{name}.lora_A.weight"));
    let (adapted, others): (Vec<&str>, Vec<&str>) =
        model.linears().into_iter().map(|linear| linear.name.as_str()).partition(|name| has(name));
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let others: BTreeSet<String> = others.into_iter().map(last).collect();
    let short: BTreeSet<String> = adapted.iter().map(|name| last(name)).collect();
    if short.is_disjoint(&others) {
        short.into_iter().collect()
    } else {
        adapted.into_iter().map(str::to_owned).collect()
    }
}

/// Modules that are trained whole.
fn modules_to_save(model: &Model) -> Option<Vec<&'static str>> {
    match (&model.head, model.config.family) {
        (Head::CausalLm, _) => None,
        (Head::Classifier(_), Family::Bert) => Some(vec!["pooler", "classifier"]),
        (Head::Classifier(_), family) if family.is_decoder() => Some(vec!["score"]),
        (Head::Classifier(_), _) => Some(vec!["classifier"]),
    }
}

/// `adapter_config.json`, as far as it is read.
#[derive(Debug, Deserialize)]
struct Saved {
    peft_type: String,
    r: i64,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    target_modules: Targets,
}

/// Layers by name, or PEFT's word for all.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Targets {
    Names(Vec<String>),
    Word(String),
}

/// Settings of the adapters in `directory`.
pub fn settings(directory: &Path) -> Result<LoraConfig, ModelError> {
    let path = directory.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::Missing {
            path: path.clone(),
            hint: "adapters are saved with their settings",
        },
        _ => ModelError::Read { path: path.clone(), source },
    })?;
    let saved: Saved = serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::Malformed { path: path.clone(), detail: error.to_string() })?;
    saved.lora(&path)
}

/// Puts the adapters in `directory` beside the layers of `model`, which is the one that they were
/// trained beside, with a head for the same classes.
pub fn read(model: &mut Model, directory: &Path) -> Result<Adapters, ModelError> {
    let adapters = adapt(model, &settings(directory)?)?;
    let path = directory.join(WEIGHTS);
    let mut tensors = BTreeMap::new();
    read_tensors(&path, &mut tensors)?;
    fill(model, tensors, &path)?;
    Ok(adapters)
}

impl Saved {
    fn lora(self, path: &Path) -> Result<LoraConfig, ModelError> {
        let refuse = |detail: String| ModelError::Unsupported { path: path.to_owned(), detail };
        if self.peft_type != "LORA" {
            return Err(refuse(format!(
                "peft_type {:?} is not supported; LORA is",
                self.peft_type
            )));
        }
        if self.r < 1 {
            return Err(refuse(format!("r is {}, not above 0", self.r)));
        }
        let target_modules = match self.target_modules {
            Targets::Names(names) => Some(names),
            Targets::Word(word) if word == "all-linear" => None,
            Targets::Word(word) => {
                let detail = format!("target_modules {word:?} is not supported; name the layers");
                return Err(refuse(detail));
            }
        };
        Ok(LoraConfig {
            rank: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            target_modules,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
        })
    }
}

/// Every trained tensor of `model` from `tensors`, in which there is no other.
fn fill(
    model: &Model,
    mut tensors: BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<(), ModelError> {
    let malformed = |detail: String| ModelError::Malformed { path: path.to_owned(), detail };
    for mut part in model.trainable() {
        let name = format!("{PREFIX}{}", part.name);
        let value = tensors
            .remove(&name)
            .ok_or_else(|| malformed(format!("tensor {name} is missing; is it of this model?")))?;
        if value.size() != part.tensor.size() {
            return Err(malformed(format!(
                "tensor {name} has shape {:?}, not {:?}; is it of this model?",
                value.size(),
                part.tensor.size()
            )));
        }
        tch::no_grad(|| part.tensor.f_copy_(&value))?;
    }
    // With an adapter on lm_head, PEFT saves the frozen weight beside it.
    for mut part in model.parameters() {
        let Some((layer, "weight")) = part.name.rsplit_once('.') else { continue };
        let Some(value) = tensors.remove(&format!("{PREFIX}{layer}.base_layer.weight")) else {
            continue;
        };
        if value.size() != part.tensor.size() {
            return Err(malformed(format!("the frozen weight of {layer} is of another model")));
        }
        tch::no_grad(|| part.tensor.f_copy_(&value))?;
    }
    match tensors.keys().next() {
        Some(name) => Err(malformed(format!("tensor {name} has no place in this model"))),
        None => Ok(()),
    }
}
