//! A model's directory: `config.json`, `model.txt` or `model.safetensors`, and perhaps `table.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_prepare::table::rules::{TABLE, TableRules};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::files::{read, write};
use super::{Parts, Recipe};
use crate::calibration::Calibration;
use crate::config::{Task, TreesConfig};
use crate::drift::Reference;
use crate::error::{Result, TabularError};
use crate::features::{Feature, Features, LeftOut};
use crate::lightgbm;
use crate::lists::ListColumn;
use crate::metrics::Metrics;
use crate::network::NetworkConfig;
use crate::threshold::Threshold;

/// Changes when what is written changes.
const FORMAT_VERSION: u32 = 1;
const CONFIG: &str = "config.json";
/// LightGBM's own text: `lightgbm.Booster(model_file=…)` reads it, too.
const MODEL: &str = "model.txt";
/// A network's weights.
const WEIGHTS: &str = "model.safetensors";
/// `architectures` of Hugging Face's directories.
pub(super) const ARCHITECTURE: &str = "GradientBoostedTrees";
/// `model_type` of Hugging Face's directories.
pub const MODEL_TYPE: &str = "hearth-tabular";
/// Most bytes of a configuration.
const MOST_CONFIG: u64 = 256 << 20;
/// Most bytes of trees or weights.
const MOST_MODEL: u64 = 2 << 30;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    architectures: Vec<String>,
    #[serde(rename = "model_type")]
    model_type: String,
    format_version: u32,
    task: Task,
    label: String,
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    id2label: IndexMap<String, String>,
    features: Vec<Feature>,
    left_out: Vec<LeftOut>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trees: Option<TreesConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    neural: Option<NetworkConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lists: Vec<ListColumn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<Threshold>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<Reference>,
    files: IndexMap<String, FileHash>,
    versions: IndexMap<String, String>,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileHash {
    bytes: u64,
    /// BLAKE3, in hexadecimal.
    blake3: String,
}

impl FileHash {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
    }
}

/// The file with what was learned, and the architecture's name.
fn named(recipe: &Recipe) -> (&'static str, &'static str) {
    match recipe {
        Recipe::Trees(_) => (MODEL, ARCHITECTURE),
        Recipe::Network(network) => (WEIGHTS, network.shape.name()),
    }
}

/// Writes the directory, of which `learned` is the file with trees or weights.
pub(super) fn save(directory: &Path, learned: &[u8], parts: &Parts) -> Result<()> {
    let (name, architecture) = named(&parts.recipe);
    let mut files = IndexMap::from([(name.to_owned(), FileHash::of(learned))]);
    write(&directory.join(name), learned)?;
    if let Some(rules) = &parts.rules {
        let path = directory.join(TABLE);
        let bytes = json(&path, rules)?;
        write(&path, &bytes)?;
        files.insert(TABLE.to_owned(), FileHash::of(&bytes));
    }
    let features = &*parts.features;
    let numbered = features.labels.iter().enumerate();
    let mut versions = vec![("hearth", env!("CARGO_PKG_VERSION"))];
    if matches!(parts.recipe, Recipe::Trees(_)) {
        versions.push(("lightgbm", lightgbm::VERSION));
    }
    let config = Config {
        architectures: vec![architecture.to_owned()],
        model_type: MODEL_TYPE.to_owned(),
        format_version: FORMAT_VERSION,
        task: features.task,
        label: features.label.clone(),
        id2label: numbered.map(|(number, label)| (number.to_string(), label.clone())).collect(),
        features: features.features.clone(),
        left_out: features.left_out.clone(),
        trees: match &parts.recipe {
            Recipe::Trees(trees) => Some(trees.clone()),
            Recipe::Network(_) => None,
        },
        neural: match &parts.recipe {
            Recipe::Trees(_) => None,
            Recipe::Network(network) => Some(network.clone()),
        },
        lists: features.lists.clone(),
        calibration: parts.calibration.clone(),
        threshold: parts.threshold.clone(),
        metrics: parts.metrics.clone(),
        reference: parts.reference.clone(),
        files,
        versions: versions.into_iter().map(|(name, of)| (name.to_owned(), of.to_owned())).collect(),
    };
    let path = directory.join(CONFIG);
    write(&path, &json(&path, &config)?)
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| TabularError::write(path, error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What was read of a model's directory.
pub(super) struct Read {
    /// LightGBM's text, or a safetensors file.
    pub(super) learned: Vec<u8>,
    /// Its path.
    pub(super) learned_path: PathBuf,
    /// All else.
    pub(super) parts: Parts,
    /// The path of the configuration.
    pub(super) path: PathBuf,
}

/// Reads a directory, and checks its files against its configuration.
pub(super) fn load(directory: &Path) -> Result<Read> {
    let path = directory.join(CONFIG);
    let damaged = |detail: String| TabularError::damaged(&path, detail);
    let config: Config = serde_json::from_slice(&read(&path, MOST_CONFIG)?)
        .map_err(|error| damaged(error.to_string()))?;
    if config.model_type != MODEL_TYPE {
        return Err(damaged(format!("it is no model of the type {MODEL_TYPE:?}")));
    }
    if config.format_version != FORMAT_VERSION {
        let found = config.format_version;
        return Err(damaged(format!(
            "it has format {found}, of which only {FORMAT_VERSION} is read"
        )));
    }
    let labels = labels(&config.id2label).ok_or_else(|| damaged("id2label is none".to_owned()))?;
    let recipe = match (&config.trees, &config.neural) {
        (Some(trees), None) => Recipe::Trees(trees.clone()),
        (None, Some(network)) => Recipe::Network(network.clone()),
        _ => return Err(damaged("it has neither trees nor a network, or both".to_owned())),
    };
    let (name, architecture) = named(&recipe);
    if config.architectures != [architecture] {
        let found = config.architectures.join(", ");
        return Err(damaged(format!("its architectures are {found:?}, not {architecture:?}")));
    }
    if let Some(other) = config.files.keys().find(|known| ![name, TABLE].contains(&&***known)) {
        return Err(damaged(format!("it names the file {other:?}, which no such model has")));
    }
    let learned = file(directory, name, &config)?;
    let learned = learned.ok_or_else(|| damaged(format!("it does not name {name}")))?;
    let rules =
        match file(directory, TABLE, &config)? {
            Some(bytes) => Some(serde_json::from_slice::<TableRules>(&bytes).map_err(|error| {
                TabularError::damaged(&directory.join(TABLE), error.to_string())
            })?),
            None => None,
        };
    let features = Features {
        task: config.task,
        label: config.label,
        labels,
        features: config.features,
        left_out: config.left_out,
        lists: config.lists,
    };
    let parts = Parts {
        features: Arc::new(features),
        recipe,
        rules,
        calibration: config.calibration,
        threshold: config.threshold,
        metrics: config.metrics,
        reference: config.reference,
    };
    Ok(Read { learned, learned_path: directory.join(name), parts, path })
}

/// A file's bytes, where the configuration names it and they are as it says.
fn file(directory: &Path, name: &str, config: &Config) -> Result<Option<Vec<u8>>> {
    let Some(want) = config.files.get(name) else { return Ok(None) };
    let path = directory.join(name);
    let bytes = read(&path, MOST_MODEL)?;
    if FileHash::of(&bytes) != *want {
        return Err(TabularError::damaged(&path, format!("its content is not as {CONFIG} says")));
    }
    Ok(Some(bytes))
}

/// Labels by number, from 0 without a gap.
fn labels(id2label: &IndexMap<String, String>) -> Option<Vec<String>> {
    (0..id2label.len()).map(|number| id2label.get(&number.to_string()).cloned()).collect()
}
