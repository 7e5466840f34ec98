//! Encoders whose outputs are pooled into one vector a text, as sentence-transformers does.
//!
//! What it writes beside a model (`modules.json` and what that names) says how; a directory without
//! it gives the mean over tokens at length 1.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::config::{Family, ModelConfig};
use super::family::bert::{self, Encoder};
use super::loader::{Fresh, Loader};
use super::network::Pass;
use super::parts::dropout::Dropout;
use super::weights::Weights;
use crate::data::Batch;

/// What names the parts of a model behind its encoder.
const MODULES: &str = "modules.json";

/// An encoder with what makes one vector of its outputs.
#[derive(Debug)]
pub struct Embedder {
    /// Numbers of a vector.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Most tokens of a text.
    pub max_tokens: usize,
    encoder: Encoder,
    recipe: Recipe,
}

/// How vectors are made of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recipe {
    pooling: Pooling,
    /// Whether vectors have length 1.
    normalizes: bool,
    max_tokens: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The mean over a text's tokens.
    Mean,
    /// The output at the first token.
    First,
}

/// Whether a directory's model gives vectors: sentence-transformers wrote it, or it is an encoder of
/// texts that names no classes. One that calls itself a classifier is none.
pub fn is_embedder(config: &ModelConfig) -> bool {
    let architecture = config.raw.get("architectures").and_then(|names| names.get(0)?.as_str());
    let classifies = architecture.is_some_and(|name| name.ends_with("Classification"));
    let directory = config.path.parent().unwrap_or(Path::new("."));
    let bare = config.family == Family::Bert && config.labels.is_none();
    !classifies && (bare || directory.join(MODULES).exists())
}

/// Reads a directory.
pub fn load(directory: &Path, device: Device) -> Result<Embedder, ModelError> {
    let config = ModelConfig::read(directory)?;
    if config.family != Family::Bert {
        return Err(config.unsupported(format!(
            "embeddings of model_type {:?} are not supported; those of \"bert\" are",
            config.raw.get("model_type").and_then(Value::as_str).unwrap_or_default()
        )));
    }
    let recipe = Recipe::read(directory)?;
    let weights = Weights::read(directory, config.family.prefix())?;
    let supply = |_: &str, _: [i64; 2], _: &Weights| Ok(None);
    let loader = Loader::new(&config, (&weights, device), &supply, Fresh::default());
    let encoder = bert::load_encoder(&loader)?;
    let size = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Embedder {
        width: size(encoder.width()),
        vocabulary: size(config.vocab_size),
        max_tokens: recipe.max_tokens.unwrap_or(usize::MAX).min(config.max_tokens),
        encoder,
        recipe,
    })
}

impl Embedder {
    /// One vector a row, f32 `[B, D]`.
    pub fn embed(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let mask = batch.attention_mask.as_ref();
        let pass = Pass::encoder(mask, Dropout::Off)?;
        let hidden = self.encoder.forward(&batch.input_ids, &pass)?;
        let vectors = match (self.recipe.pooling, mask) {
            (Pooling::First, _) => hidden.f_select(1, 0)?,
            (Pooling::Mean, None) => hidden.f_mean_dim(&[1i64][..], false, Kind::Float)?,
            (Pooling::Mean, Some(mask)) => {
                let mask = mask.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?;
                let sums = hidden.f_mul(&mask)?;
                let sums = sums.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
                sums.f_div(&mask.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?)?
            }
        };
        if !self.recipe.normalizes {
            return Ok(vectors);
        }
        let lengths = vectors.f_norm_scalaropt_dim(2, [-1i64], true)?;
        Ok(vectors.f_div(&lengths.f_clamp_min(1e-12)?)?)
    }
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Recipe {
    fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join(MODULES);
        let Some(parts) = read::<Vec<Part>>(&path)? else {
            return Ok(Self { pooling: Pooling::Mean, normalizes: true, max_tokens: None });
        };
        let (mut pooling, mut normalizes) = (None, false);
        for part in &parts {
            // Versions differ in the modules before the class.
            match part.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if part.path.is_empty() => {}
                "Pooling" if !normalizes => {
                    let path = directory.join(&part.path).join("config.json");
                    let settings =
                        read::<Map<String, Value>>(&path)?.ok_or(ModelError::Missing {
                            path: path.clone(),
                            hint: "modules.json names it; copy the whole directory",
                        })?;
                    pooling = Some(
                        Pooling::of(&settings)
                            .map_err(|detail| ModelError::Unsupported { path, detail })?,
                    );
                }
                "Normalize" => normalizes = true,
                _ => {
                    let detail = format!(
                        "module {:?} at {:?} is not supported there; Transformer at \"\", Pooling and Normalize, in this order, are",
                        part.kind, part.path
                    );
                    return Err(ModelError::Unsupported { path, detail });
                }
            }
        }
        let pooling = pooling.ok_or_else(|| ModelError::Unsupported {
            path,
            detail: "no module is a Pooling: this model gives no vector a text".into(),
        })?;
        Ok(Self { pooling, normalizes, max_tokens: max_tokens(directory)? })
    }
}

/// Most tokens by `sentence_bert_config.json`. Settings beside it that would change vectors are refused.
fn max_tokens(directory: &Path) -> Result<Option<usize>, ModelError> {
    let path = directory.join("config_sentence_transformers.json");
    let prompts = read::<Map<String, Value>>(&path)?.unwrap_or_default();
    if let Some(Value::String(name)) = prompts.get("default_prompt_name") {
        let detail = format!(
            "default_prompt_name {name:?} is not supported: write the prompt before texts yourself, and null here"
        );
        return Err(ModelError::Unsupported { path, detail });
    }
    let path = directory.join("sentence_bert_config.json");
    let settings = read::<Map<String, Value>>(&path)?.unwrap_or_default();
    if settings.get("do_lower_case") == Some(&Value::Bool(true)) {
        let detail = "do_lower_case: true is not supported; let tokenizer.json lowercase, and write false here";
        return Err(ModelError::Unsupported { path, detail: detail.into() });
    }
    let most = settings.get("max_seq_length").and_then(Value::as_u64);
    Ok(most.and_then(|most| usize::try_from(most).ok()))
}

impl Pooling {
    fn of(settings: &Map<String, Value>) -> Result<Self, String> {
        // Before version 5.2 each mode was a field of its own.
        let modes: Vec<&str> = match settings.get("pooling_mode") {
            Some(Value::String(mode)) => vec![mode.as_str()],
            Some(other) => {
                return Err(format!(
                    "pooling_mode {other} is not supported; \"mean\" and \"cls\" are"
                ));
            }
            None => settings
                .iter()
                .filter(|(_, value)| **value == Value::Bool(true))
                .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
                .collect(),
        };
        match modes.as_slice() {
            ["mean" | "mean_tokens"] => Ok(Self::Mean),
            ["cls" | "cls_token"] => Ok(Self::First),
            others => Err(format!(
                "pooling by {} is not supported; by mean_tokens or cls_token alone is",
                if others.is_empty() { "nothing".to_owned() } else { others.join(" and ") }
            )),
        }
    }
}

/// A JSON file, where there is one.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ModelError::Malformed { path: path.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(home: &Path, name: &str, value: &Value) {
        let path = home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::files::write_synced(&path, |out| {
            std::io::Write::write_all(out, value.to_string().as_bytes())
        })
        .unwrap();
    }

    fn modules(kinds: &[(&str, &str)]) -> Value {
        let part = |(kind, path): &(&str, &str)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
        kinds.iter().map(part).collect()
    }

    const PARTS: [(&str, &str); 3] =
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")];

    #[test]
    fn sentence_transformers_files_say_how_and_without_them_it_is_the_mean() {
        let home = tempfile::tempdir().unwrap();
        let recipe = || Recipe::read(home.path()).unwrap();
        let mean = Recipe { pooling: Pooling::Mean, normalizes: true, max_tokens: None };
        assert_eq!(recipe(), mean);
        write(home.path(), "modules.json", &modules(&PARTS));
        let settings = json!({"word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true, "include_prompt": true});
        write(home.path(), "1_Pooling/config.json", &settings);
        write(
            home.path(),
            "sentence_bert_config.json",
            &json!({"max_seq_length": 256, "do_lower_case": false}),
        );
        assert_eq!(recipe(), Recipe { max_tokens: Some(256), ..mean });
        write(home.path(), "modules.json", &modules(&PARTS[..2]));
        write(
            home.path(),
            "1_Pooling/config.json",
            &json!({"embedding_dimension": 384, "pooling_mode": "cls"}),
        );
        let first = Recipe { pooling: Pooling::First, normalizes: false, max_tokens: Some(256) };
        assert_eq!(recipe(), first);
    }

    #[test]
    fn what_would_give_other_vectors_is_refused_by_name() {
        let mean = json!({"pooling_mode_mean_tokens": true});
        for (name, value, want) in [
            ("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}), "by max_tokens"),
            (
                "1_Pooling/config.json",
                json!({"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}),
                "max_tokens and mean_tokens",
            ),
            ("1_Pooling/config.json", json!({}), "by nothing"),
            (
                "1_Pooling/config.json",
                json!({"pooling_mode": ["mean", "max"]}),
                "\"mean\" and \"cls\" are",
            ),
            ("modules.json", modules(&[PARTS[0], PARTS[1], ("Dense", "2_Dense")]), "Dense"),
            (
                "modules.json",
                modules(&[("Transformer", "0_Transformer"), PARTS[1]]),
                "0_Transformer",
            ),
            ("modules.json", modules(&PARTS[..1]), "no module is a Pooling"),
            (
                "modules.json",
                modules(&[PARTS[0], ("Pooling", "elsewhere")]),
                "copy the whole directory",
            ),
            ("sentence_bert_config.json", json!({"do_lower_case": true}), "do_lower_case"),
            (
                "config_sentence_transformers.json",
                json!({"default_prompt_name": "query"}),
                "\"query\"",
            ),
        ] {
            let home = tempfile::tempdir().unwrap();
            write(home.path(), "modules.json", &modules(&PARTS));
            write(home.path(), "1_Pooling/config.json", &mean);
            write(home.path(), name, &value);
            let refused = Recipe::read(home.path()).unwrap_err().to_string();
            assert!(refused.contains(want), "{name} {value}: {refused}");
        }
    }

    #[test]
    fn a_directory_says_whether_it_embeds() {
        let home = tempfile::tempdir().unwrap();
        let embeds = |config: Value| {
            let config =
                ModelConfig::parse(&home.path().join("config.json"), config.to_string().as_bytes());
            is_embedder(&config.unwrap())
        };
        let labels = json!({"0": "ham", "1": "spam"});
        let trained = json!({"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": labels});
        assert!(embeds(json!({"model_type": "bert", "architectures": ["BertModel"]})));
        assert!(!embeds(
            json!({"model_type": "bert", "architectures": ["BertModel"], "id2label": labels})
        ));
        assert!(!embeds(
            json!({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
        ));
        assert!(!embeds(json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})));
        assert!(!embeds(trained.clone()));
        write(home.path(), "modules.json", &json!([]));
        assert!(embeds(
            json!({"model_type": "bert", "architectures": ["BertModel"], "id2label": labels})
        ));
        assert!(embeds(json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})));
        assert!(!embeds(trained));
    }
}
