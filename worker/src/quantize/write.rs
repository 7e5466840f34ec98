//! Dense model → the same in fewer bits, in compressed-tensors' format or as GGUF.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use hearth_crds::model_deployment::Quantization;
use hearth_crds::preparation::Cleaning;
use hearth_crds::training_job::Task;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::calibrate::RoundedLayers;
use super::format;
use super::scheme::{self, Scheme};
use super::tensors::{pack_all, store};
use crate::checkpoint::shard;
use crate::error::Error;
use crate::export::ModelCard;
use crate::export::card::{CARD, FORMAT_VERSION};
use crate::export::gguf::{self, Plan};
use crate::files::{write_json, write_synced};
use crate::model::parts::linear::is_in_block;
use crate::model::{Head, LinearKind, Model, ModelError};

type NamedTensors = Vec<(String, Tensor)>;

/// How a model is compressed.
#[derive(Debug)]
pub struct Recipe {
    /// Number format.
    pub quantization: Quantization,
    /// How each linear layer is stored; `None` of those that stay as they are.
    pub layers: BTreeMap<String, Option<Scheme>>,
    /// Layers whose numbers are not just the nearest.
    pub rounded: RoundedLayers,
}

/// Writes `model` into the new directory `target`; what goes with it comes from `source`. The
/// directory's digest.
pub fn write(
    model: &Model,
    recipe: &Recipe,
    max_length: usize,
    source: &Path,
    target: &Path,
) -> Result<String, Error> {
    let layers = &recipe.layers;
    let gguf =
        scheme::mix(recipe.quantization).map(|mix| Plan::of(model, source, mix)).transpose()?;
    let (tensors, dtype) =
        if gguf.is_some() { (Vec::new(), "float32") } else { tensors(model, recipe)? };
    let written = (|| {
        match fs::remove_dir_all(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(target)?,
        }
        copy_small_files(source, target)?;
        let mut config = model.config.raw.clone();
        config.remove("torch_dtype");
        config.insert("dtype".to_owned(), json!(dtype));
        config.insert("architectures".to_owned(), json!([model.architecture()]));
        if layers.values().any(Option::is_some) {
            config.insert(format::KEY.to_owned(), format::describe(layers));
        }
        write_json(&target.join("config.json"), &Value::Object(config))?;
        if let Some(plan) = &gguf {
            plan.write(&target.join(gguf::FILE))?;
        } else {
            let file = target.join("model.safetensors");
            shard::write(&file, &tensors, &[("format", "pt")])?;
        }
        card(model, max_length, source)?.seal(target)
    })();
    written.map_err(|source| Error::Output { path: target.to_owned(), source })
}

/// How each linear layer is stored. Only those of blocks are quantized: behind the blocks a
/// classifier has one token a text, so a head costs nothing there, and errors in it reach the
/// answer undamped.
pub fn layers(
    model: &Model,
    quantization: Quantization,
    group: i64,
) -> BTreeMap<String, Option<Scheme>> {
    let mut layers: BTreeMap<String, Option<Scheme>> = model
        .linears()
        .into_iter()
        .map(|linear| {
            let scheme = match &linear.kind {
                LinearKind::Dense { weight, .. } if is_in_block(&linear.name) => {
                    let columns = weight.size().get(1).copied().unwrap_or_default();
                    Scheme::of(quantization, group, columns)
                }
                _ => None,
            };
            (linear.name.clone(), scheme)
        })
        .collect();
    if model.head == Head::CausalLm {
        // Others have a layer of this name also where it shares the embeddings' weight.
        layers.entry("lm_head".to_owned()).or_insert(None);
    }
    layers
}

/// Every tensor of the model under its name, and the type of its floats.
fn tensors(model: &Model, recipe: &Recipe) -> Result<(NamedTensors, &'static str), ModelError> {
    let mut tensors = Vec::new();
    let mut replaced = BTreeSet::new();
    for linear in model.linears() {
        let LinearKind::Dense { weight, .. } = &linear.kind else { continue };
        let Some(scheme) = recipe.layers.get(&linear.name).copied().flatten() else { continue };
        let parts = match (recipe.rounded.get(&linear.name), scheme) {
            (Some(rounded), Scheme::Packed { bits, .. }) => pack_all(rounded, bits)?,
            (Some(rounded), Scheme::Int8) => vec![
                ("weight", rounded.values.f_to_kind(Kind::Int8)?),
                ("weight_scale", rounded.scales.shallow_clone()),
            ],
            _ => store(&weight.detach().f_contiguous()?, scheme)?,
        };
        tensors.extend(parts.into_iter().map(|(part, t)| (format!("{}.{part}", linear.name), t)));
        replaced.insert(format!("{}.weight", linear.name));
    }
    let (kind, dtype) = floats(model, recipe.quantization);
    for kept in model.tensors() {
        if replaced.contains(&kept.name) {
            continue;
        }
        let tensor = kept.tensor.detach();
        let is_float = matches!(tensor.kind(), Kind::Float | Kind::Half | Kind::BFloat16);
        tensors.push((kept.name, if is_float { tensor.f_to_kind(kind)? } else { tensor }));
    }
    Ok((tensors, dtype))
}

/// The type of what is not quantized: the recipe's, or that of the model's files. What was read
/// from 16 bits is exact in them.
pub fn floats(model: &Model, quantization: Quantization) -> (Kind, &'static str) {
    let own =
        ["dtype", "torch_dtype"].into_iter().find_map(|key| model.config.raw.get(key)?.as_str());
    let kind = scheme::floats(quantization).unwrap_or(match own {
        Some("bfloat16") => Kind::BFloat16,
        Some("float16") => Kind::Half,
        _ => Kind::Float,
    });
    let name = match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    (kind, name)
}

/// The model's own card, or one for a model that was trained elsewhere.
fn card(model: &Model, max_length: usize, source: &Path) -> io::Result<ModelCard> {
    let own = ModelCard::read(source)?;
    Ok(own.unwrap_or_else(|| ModelCard {
        format_version: FORMAT_VERSION,
        task: match model.head {
            Head::CausalLm => Task::CausalLM,
            Head::Classifier(_) => Task::SequenceClassification,
        },
        cleaning: Cleaning::default(),
        max_length,
        labels: model.labels().names().to_vec(),
        step: None,
        metrics: None,
        files: BTreeMap::new(),
    }))
}

/// Tokenizer and notes: everything but weights, which this replaces, and formats that are never
/// read.
fn copy_small_files(source: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        let wanted = matches!(extension, Some("json" | "txt" | "md" | "jinja"))
            && !name.starts_with("model.safetensors")
            && ![CARD, "config.json"].contains(&name.as_str());
        // Through metadata, as mounted volumes hold links.
        if wanted && fs::metadata(entry.path())?.is_file() {
            let bytes = fs::read(entry.path())?;
            write_synced(&target.join(&name), |out| out.write_all(&bytes))?;
        }
    }
    Ok(())
}
