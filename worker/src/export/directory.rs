//! Writes the directory: everything under a temporary name, then swapped in.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::card::ModelCard;
use super::decision::Decision;
use super::drift::DriftReference;
use crate::checkpoint::shard;
use crate::error::Error;
use crate::files::{replace_directory, temporary_beside, write_json, write_synced};
use crate::model::{Head, Model};
use crate::peft::{LoraConfig, saved};

/// Files of a tokenizer or an image processor, copied where they are present.
const INPUT_FILES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
];

/// A written directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Where it is.
    pub path: PathBuf,
    /// `blake3:HEX` over its files.
    pub digest: String,
}

/// What goes beside a classifier's weights, where it has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// The threshold of its answers.
    pub decision: Option<&'a Decision>,
    /// What servers compare requests with.
    pub drift: Option<&'a DriftReference>,
}

impl Beside<'_> {
    fn write(&self, directory: &Path) -> io::Result<()> {
        self.decision.map_or(Ok(()), |decision| decision.write(directory))?;
        self.drift.map_or(Ok(()), |drift| drift.write(directory))
    }
}

/// Writes `model` to `target`, replacing what is there, with what goes beside it. Files of the tokenizer or the image processor come from `source`, the directory that
/// training started from.
pub fn export(
    model: &Model,
    beside: Beside<'_>,
    source: &Path,
    target: &Path,
    card: ModelCard,
) -> Result<Exported, Error> {
    let tensors: Vec<(String, Tensor)> =
        model.tensors().into_iter().map(|tensor| (tensor.name, tensor.tensor.detach())).collect();
    publish(target, card, |built| {
        copy_input_files(source, built)?;
        beside.write(built)?;
        shard::write(&built.join("model.safetensors"), &tensors, &[("format", "pt")])?;
        write_json(&built.join("config.json"), &Value::Object(config(model)))
    })
}

/// Writes the adapters in `model` to `target` as PEFT saves them, without the model, which is that
/// in `source`; with what goes beside it.
pub fn export_adapters(
    (model, lora): (&Model, &LoraConfig),
    beside: Beside<'_>,
    source: &Path,
    target: &Path,
    card: ModelCard,
) -> Result<Exported, Error> {
    publish(target, card, |built| {
        copy_input_files(source, built)?;
        beside.write(built)?;
        let file = built.join(saved::WEIGHTS);
        shard::write(&file, &saved::tensors(model), &[("format", "pt")])?;
        write_json(&built.join(saved::CONFIG), &saved::config(model, lora, source))
    })
}

/// A directory with what `fill` writes and `card`, in place of `target`.
pub fn publish(
    target: &Path,
    card: ModelCard,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Exported, Error> {
    let built = temporary_beside(target);
    let written = (|| {
        fresh_directory(&built)?;
        fill(&built)?;
        let digest = card.seal(&built)?;
        replace_directory(&built, target)?;
        Ok(digest)
    })();
    match written {
        Ok(digest) => Ok(Exported { path: target.to_owned(), digest }),
        Err(source) => Err(Error::Output { path: target.to_owned(), source }),
    }
}

/// `config.json` of the trained model: the start model's, with what training
/// decided.
fn config(model: &Model) -> Map<String, Value> {
    let names = model.labels().names();
    let by_id: Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let by_name: Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    let mut config = model.config.raw.clone();
    // `_name_or_path` would name the start model; `num_labels` follows id2label.
    for outdated in ["_name_or_path", "num_labels", "torch_dtype"] {
        config.remove(outdated);
    }
    config.insert("architectures".into(), json!([model.architecture()]));
    if matches!(model.head, Head::Classifier(_)) {
        config.insert("id2label".into(), Value::Object(by_id));
        config.insert("label2id".into(), Value::Object(by_name));
        config.insert("problem_type".into(), json!("single_label_classification"));
    }
    config.insert("dtype".into(), json!("float32"));
    config
}

fn copy_input_files(source: &Path, target: &Path) -> io::Result<()> {
    for name in INPUT_FILES {
        let from = source.join(name);
        if from.exists() {
            let bytes = fs::read(from)?;
            write_synced(&target.join(name), |out| out.write_all(&bytes))?;
        }
    }
    Ok(())
}

fn fresh_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(path),
    }
}
