//! `config.json` of a BERT-family model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ModelError;
use crate::data::Labels;

/// What of `config.json` the maths needs. Names are Hugging Face's.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Tokens of the vocabulary.
    pub vocab_size: i64,
    /// Width.
    pub hidden_size: i64,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide the width.
    pub num_attention_heads: i64,
    /// Width of the feed-forward part.
    pub intermediate_size: i64,
    /// Activation of the feed-forward part.
    pub hidden_act: Activation,
    /// Dropout of embeddings and residual branches.
    pub hidden_dropout: f64,
    /// Dropout of attention weights.
    pub attention_dropout: f64,
    /// Dropout before the classifier.
    pub classifier_dropout: f64,
    /// Longest row.
    pub max_position_embeddings: i64,
    /// Segments.
    pub type_vocab_size: i64,
    /// Term against division by zero in layer norms.
    pub layer_norm_eps: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Classes of the directory's own classifier, where it has one.
    pub labels: Option<Labels>,
    /// The file as it was, for the export.
    pub raw: Map<String, Value>,
    /// The file.
    pub path: PathBuf,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// GELU's tanh approximation.
    GeluTanh,
    /// Rectified linear unit.
    Relu,
}

#[derive(Deserialize)]
struct RawConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tenth")]
    hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    #[serde(default = "max_positions")]
    max_position_embeddings: i64,
    #[serde(default = "two")]
    type_vocab_size: i64,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    position_embedding_type: Option<String>,
    id2label: Option<BTreeMap<String, String>>,
    #[serde(default)]
    is_decoder: bool,
}

// Defaults of transformers' BertConfig.
fn gelu() -> String {
    "gelu".into()
}
fn tenth() -> f64 {
    0.1
}
fn max_positions() -> i64 {
    512
}
fn two() -> i64 {
    2
}
fn epsilon() -> f64 {
    1e-12
}
fn initializer_range() -> f64 {
    0.02
}

impl ModelConfig {
    /// Reads `config.json` in `directory`.
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ModelError::Missing {
                path: path.clone(),
                hint: "the model's source must name a Hugging Face directory",
            },
            _ => ModelError::Read { path: path.clone(), source },
        })?;
        Self::parse(&path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let malformed = |detail: String| ModelError::Malformed { path: path.to_owned(), detail };
        let unsupported =
            |detail: String| ModelError::Unsupported { path: path.to_owned(), detail };
        let raw: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| malformed(format!("not a JSON object: {error}")))?;
        let family = raw.get("model_type").and_then(Value::as_str).unwrap_or("none");
        if family != "bert" {
            return Err(unsupported(format!(
                "model_type {family:?} is not supported yet; SequenceClassification trains models of type \"bert\""
            )));
        }
        let config = RawConfig::deserialize(Value::Object(raw.clone()))
            .map_err(|error| malformed(error.to_string()))?;
        let positions = config.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(unsupported(format!(
                "position_embedding_type {positions:?} is not supported; only \"absolute\" is"
            )));
        }
        if config.is_decoder {
            return Err(unsupported("is_decoder: true is not supported; only encoders are".into()));
        }
        let hidden_act = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                return Err(unsupported(format!(
                    "hidden_act {other:?} is not supported; gelu, gelu_new, gelu_pytorch_tanh and relu are"
                )));
            }
        };
        let sizes = [
            config.vocab_size,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.max_position_embeddings,
            config.type_vocab_size,
        ];
        if sizes.iter().any(|size| !(1..=1 << 31).contains(size))
            || config.hidden_size % config.num_attention_heads != 0
        {
            return Err(malformed(
                "sizes must be positive, and num_attention_heads must divide hidden_size".into(),
            ));
        }
        Ok(Self {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            intermediate_size: config.intermediate_size,
            hidden_act,
            hidden_dropout: config.hidden_dropout_prob,
            attention_dropout: config.attention_probs_dropout_prob,
            classifier_dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
            max_position_embeddings: config.max_position_embeddings,
            type_vocab_size: config.type_vocab_size,
            layer_norm_eps: config.layer_norm_eps,
            initializer_range: config.initializer_range,
            labels: config.id2label.map(labels).transpose().map_err(malformed)?,
            raw,
            path: path.to_owned(),
        })
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    /// Longest row, as a count.
    pub fn max_tokens(&self) -> usize {
        usize::try_from(self.max_position_embeddings).unwrap_or(usize::MAX)
    }
}

/// `id2label` by id. Keys are "0", "1", … without a gap.
fn labels(id2label: BTreeMap<String, String>) -> Result<Labels, String> {
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

    fn parse(change: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig, ModelError> {
        let mut raw = serde_json::json!({
            "model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16,
            "id2label": {"1": "spam", "0": "ham"}
        });
        change(raw.as_object_mut().unwrap());
        ModelConfig::parse(Path::new("config.json"), raw.to_string().as_bytes())
    }

    #[test]
    fn absent_fields_take_transformers_defaults() {
        let config = parse(|_| ()).unwrap();
        assert_eq!((config.max_position_embeddings, config.type_vocab_size), (512, 2));
        assert!((config.classifier_dropout - 0.1).abs() < 1e-12);
        assert_eq!(config.labels.unwrap().names(), ["ham", "spam"]);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        for (field, value, named) in [
            ("model_type", "llama".into(), "llama"),
            ("hidden_act", "silu".into(), "silu"),
            ("position_embedding_type", "relative_key".into(), "relative_key"),
            ("is_decoder", true.into(), "is_decoder"),
            ("num_attention_heads", 3.into(), "num_attention_heads"),
            ("id2label", serde_json::json!({"1": "x"}), "id2label"),
        ] {
            let refused = parse(|raw| {
                raw.insert(field.into(), value);
            });
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(named), "{field}: {message}");
        }
    }
}
