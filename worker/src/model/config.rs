//! `config.json` of a Hugging Face directory: what all families share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ModelError;
use crate::data::Labels;

/// What tells a directory of adapters alone, as PEFT saves them.
const ADAPTERS: &str = "adapter_config.json";

/// A `config.json`, read but not yet understood by its family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`.
    pub family: Family,
    /// Tokens of the vocabulary; 0 where the model reads no text.
    pub vocab_size: i64,
    /// Longest row of tokens.
    pub max_tokens: usize,
    /// Classes of the directory's own classifier, where it has one.
    pub labels: Option<Labels>,
    /// The file as it was, for the family and for the export.
    pub raw: Map<String, Value>,
    /// The file.
    pub path: PathBuf,
}

/// A model family, by `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BERT (Devlin et al. 2019).
    Bert,
    /// Llama (Touvron et al. 2023); also DeepSeek LLM and Coder.
    Llama,
    /// Qwen2; also DeepSeek-R1's distillations.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// DeepSeekMoE (Dai et al. 2024).
    Deepseek,
    /// DeepSeek-V2.
    DeepseekV2,
    /// DeepSeek-V3, R1 and V3.1.
    DeepseekV3,
    /// Vision transformer (Dosovitskiy et al. 2021).
    Vit,
    /// ResNet (He et al. 2015).
    ResNet,
    /// MobileNetV2 (Sandler et al. 2018).
    MobileNetV2,
}

impl Family {
    const ALL: [(&str, Self); 10] = [
        ("bert", Self::Bert),
        ("llama", Self::Llama),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("deepseek", Self::Deepseek),
        ("deepseek_v2", Self::DeepseekV2),
        ("deepseek_v3", Self::DeepseekV3),
        ("vit", Self::Vit),
        ("resnet", Self::ResNet),
        ("mobilenet_v2", Self::MobileNetV2),
    ];

    fn of(model_type: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(name, _)| *name == model_type);
        if let Some((_, family)) = known {
            return Ok(*family);
        }
        Err(match model_type {
            "deepseek_v32" => "DeepSeek-V3.2 (model_type \"deepseek_v32\") is not supported: its sparse attention has no training path here; use DeepSeek-V3 or V3.1".into(),
            "deepseek_v4" | "deepseek_v41" => format!(
                "DeepSeek-V4 (model_type {model_type:?}) is not supported: its compressed attention and MXFP4 experts have no training path here; use DeepSeek-V3 or V3.1"
            ),
            other => {
                let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
                format!("model_type {other:?} is not supported; {} are", names.join(", "))
            }
        })
    }

    /// What transformers calls the model with this head, `ForCausalLM` for instance.
    pub fn architecture(self, head: &str) -> String {
        let stem = match self {
            Self::Bert => "Bert",
            Self::Llama => "Llama",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
            Self::Deepseek => "Deepseek",
            Self::DeepseekV2 => "DeepseekV2",
            Self::DeepseekV3 => "DeepseekV3",
            Self::Vit => "ViT",
            Self::ResNet => "ResNet",
            Self::MobileNetV2 => "MobileNetV2",
        };
        format!("{stem}{head}")
    }

    /// Whether the model continues text.
    pub fn is_decoder(self) -> bool {
        self != Self::Bert && !self.sees()
    }

    /// Whether the model's input are pictures.
    pub fn sees(self) -> bool {
        matches!(self, Self::Vit | Self::ResNet | Self::MobileNetV2)
    }

    /// What a directory of the model without its head leaves out of tensor names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Vit => "vit.",
            Self::ResNet => "resnet.",
            Self::MobileNetV2 => "mobilenet_v2.",
            _ => "model.",
        }
    }

    /// Name of the layer that tells classes apart, without `.weight`.
    pub fn classifier(self) -> &'static str {
        match self {
            Self::Bert | Self::Vit | Self::MobileNetV2 => "classifier",
            Self::ResNet => "classifier.1",
            _ => "score",
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` in `directory`.
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound if directory.join(ADAPTERS).exists() => {
                ModelError::Unsupported {
                    path: directory.join(ADAPTERS),
                    detail: "these are adapters without their model; `hearth-worker merge` makes one model of both".into(),
                }
            }
            std::io::ErrorKind::NotFound => ModelError::Missing {
                path: path.clone(),
                hint: "the model's source must name a Hugging Face directory",
            },
            _ => ModelError::Read { path: path.clone(), source },
        })?;
        Self::parse(&path, &bytes)
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let malformed = |detail: String| ModelError::Malformed { path: path.to_owned(), detail };
        let raw: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| malformed(format!("not a JSON object: {error}")))?;
        let family = Family::of(raw.get("model_type").and_then(Value::as_str).unwrap_or("none"))
            .map_err(|detail| ModelError::Unsupported { path: path.to_owned(), detail })?;
        let number = |name: &str| raw.get(name).and_then(Value::as_i64);
        let labels = raw.get("id2label").filter(|labels| !labels.is_null()).cloned();
        let labels = labels.map(|value| {
            let by_id: BTreeMap<String, String> =
                serde_json::from_value(value).map_err(|error| format!("id2label: {error}"))?;
            labels_by_id(by_id)
        });
        Ok(Self {
            family,
            vocab_size: number("vocab_size").unwrap_or(0),
            max_tokens: number("max_position_embeddings")
                .and_then(|positions| usize::try_from(positions).ok())
                .unwrap_or(512),
            labels: labels.transpose().map_err(malformed)?,
            raw,
            path: path.to_owned(),
        })
    }

    /// The file as its family reads it.
    pub(super) fn of_family<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        T::deserialize(Value::Object(self.raw.clone()))
            .map_err(|error| self.malformed(error.to_string()))
    }

    /// Refuses sizes that no tensor can have.
    pub(super) fn check_sizes(&self, sizes: &[(&str, i64)]) -> Result<(), ModelError> {
        match sizes.iter().find(|(_, size)| !(1..=1 << 31).contains(size)) {
            Some((name, size)) => Err(self.malformed(format!("{name} is {size}, not above 0"))),
            None => Ok(()),
        }
    }

    /// The file contradicts itself: `detail` says how.
    pub fn malformed(&self, detail: String) -> ModelError {
        ModelError::Malformed { path: self.path.clone(), detail }
    }

    /// A model that cannot be had in the way that is asked for.
    pub fn unsupported(&self, detail: String) -> ModelError {
        ModelError::Unsupported { path: self.path.clone(), detail }
    }
}

/// `id2label` by id. Keys are "0", "1", … without a gap.
fn labels_by_id(id2label: BTreeMap<String, String>) -> Result<Labels, String> {
    let mut by_id: Vec<(usize, String)> = id2label
        .into_iter()
        .map(|(id, name)| id.parse().map(|id| (id, name)))
        .collect::<Result<_, _>>()
        .map_err(|_| "id2label's keys must be whole numbers".to_owned())?;
    by_id.sort();
    if by_id.iter().enumerate().any(|(index, (id, _))| index != *id) {
        return Err("id2label's keys must be 0, 1, … without a gap".into());
    }
    Ok(Labels::new(by_id.into_iter().map(|(_, name)| name).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &Value) -> Result<ModelConfig, ModelError> {
        ModelConfig::parse(Path::new("config.json"), raw.to_string().as_bytes())
    }

    #[test]
    fn labels_come_in_the_order_of_their_ids() {
        let raw = serde_json::json!({"model_type": "bert", "id2label": {"1": "spam", "0": "ham"}});
        assert_eq!(parse(&raw).unwrap().labels.unwrap().names(), ["ham", "spam"]);
    }

    #[test]
    fn unknown_families_and_broken_labels_are_refused_by_name() {
        for (raw, named) in [
            (serde_json::json!({"model_type": "gpt2"}), "gpt2"),
            (serde_json::json!({"model_type": "deepseek_v32"}), "DeepSeek-V3.2"),
            (serde_json::json!({"model_type": "deepseek_v4"}), "DeepSeek-V4"),
            (serde_json::json!({}), "none"),
            (serde_json::json!({"model_type": "bert", "id2label": {"1": "x"}}), "id2label"),
        ] {
            let message = parse(&raw).unwrap_err().to_string();
            assert!(message.contains(named), "{raw}: {message}");
        }
    }
}
