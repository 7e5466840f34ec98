//! The document that `hearth-worker prepare` reads, and what it says of what it made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Cleaning, Preparation};
use crate::worker_config::{DataFile, JobIdentity};

/// What `hearth-worker prepare` does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareConfig {
    /// For whom.
    pub job: JobIdentity,
    /// Rows to learn from: a file, or a directory of files, which are read in the order of their
    /// names.
    pub train: DataFile,
    /// Rows to evaluate on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<DataFile>,
    /// Share of the training rows held out for evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_split: Option<f64>,
    /// Fields of texts (strings, or lists of messages `{role, content}`) that are cleaned,
    /// filtered and compared.
    #[serde(default)]
    pub text_fields: Vec<String>,
    /// Field of the label, where rows have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Field of the picture, where rows have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What texts are cleaned of.
    #[serde(default)]
    pub cleaning: Cleaning,
    /// Malformed rows that are dropped before the data is refused.
    #[serde(default)]
    pub max_bad_rows: u64,
    /// What else is done.
    #[serde(default)]
    pub preparation: Preparation,
    /// Directory below which the prepared data's own directory is made.
    pub output: PathBuf,
}

/// `card.json`: what was read, what became of it, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataCard {
    /// Name of the prepared data: 16 hexadecimal digits of the hash over the sources' content and
    /// the recipe.
    pub id: String,
    /// Rows read.
    pub rows: u64,
    /// Rows for training, the augmented ones included.
    pub train_rows: u64,
    /// Rows for evaluation.
    pub eval_rows: u64,
    /// Rows that went, by why.
    pub dropped: BTreeMap<String, u64>,
    /// Replaced personal data, by kind.
    pub masked: BTreeMap<String, u64>,
    /// Training rows by label.
    pub labels: BTreeMap<String, u64>,
}
