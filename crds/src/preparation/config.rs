//! The document that `hearth-worker prepare` reads, and what it says of what it made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cleaning, Preparation};
use crate::worker_config::{DataFile, JobIdentity};

/// What `hearth-worker prepare` does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareConfig {
    /// [`crate::worker_config::CONFIG_VERSION`].
    pub version: String,
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
    /// Where `preparation.augment.text.synonyms.source` is on this machine; the source itself is
    /// the path where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synonyms: Option<PathBuf>,
    /// Where the sources of `preparation.join` are, in its order; each source is a path where this is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<PathBuf>,
    /// Directory below which the prepared data's own directory is made.
    pub output: PathBuf,
    /// The same, for messages.
    pub output_uri: String,
}

/// Below the directory of prepared data: where it is said which of them a job has.
pub fn pointer(job: &JobIdentity) -> PathBuf {
    let name = if job.uid.is_empty() { &job.name } else { &job.uid };
    PathBuf::from("jobs").join(format!("{name}.json"))
}

/// What a [`pointer`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pointer {
    /// Name of the prepared data, and of their directory.
    pub id: String,
}

/// `status.data` of a TrainingJob: what came of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataStatus {
    /// Where the prepared rows and their `card.md` are.
    pub uri: String,
    /// Rows read.
    pub rows: i64,
    /// Training rows, the augmented ones included.
    pub train_rows: i64,
    /// Rows for evaluation.
    pub eval_rows: i64,
    /// Rows that went, malformed ones included.
    pub dropped: i64,
}

/// `card.json`: what was read, what became of it, and what is there. It holds no texts of rows but
/// labels, and values of columns that have few.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataCard {
    /// Version of the layout of prepared data.
    pub format_version: u32,
    /// Name of the prepared data: 16 hexadecimal digits of the hash over the sources' content and
    /// the recipe.
    pub id: String,
    /// What was read.
    pub sources: Vec<SourceCard>,
    /// Rows read, the malformed ones included.
    pub rows: u64,
    /// Malformed rows.
    pub malformed: u64,
    /// The first of them.
    pub malformed_rows: Vec<MalformedRow>,
    /// Rows for training, the augmented ones included.
    pub train_rows: u64,
    /// Rows for evaluation.
    pub eval_rows: u64,
    /// Rows that went, by why, the malformed ones apart.
    pub dropped: BTreeMap<String, u64>,
    /// Rows that have the texts of a row before them, and another label.
    pub conflicting_labels: u64,
    /// Replaced personal data, by kind, over all rows that are well-formed.
    pub masked: BTreeMap<String, u64>,
    /// Training rows by label; none where there are over a thousand labels.
    pub labels: BTreeMap<String, u64>,
    /// Rows for evaluation by label.
    pub eval_labels: BTreeMap<String, u64>,
    /// Rows by the length of their texts.
    pub lengths: Vec<LengthCard>,
    /// Rows by the width of their pictures in pixels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<LengthCard>,
    /// Rows by the height of their pictures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heights: Vec<LengthCard>,
    /// Columns of the training rows.
    pub columns: Vec<ColumnCard>,
    /// What columns of tables were mended of, rows for training and evaluation together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mended: BTreeMap<String, MendedColumn>,
    /// Rows made of training rows, by what they were made by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub augmented: BTreeMap<String, u64>,
    /// Rows that would have been made, by why they were not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_augmented: BTreeMap<String, u64>,
    /// The seed.
    pub seed: i64,
    /// All settings that decided on the result.
    pub recipe: serde_json::Value,
}

/// A file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceCard {
    /// `train` or `eval`.
    pub role: String,
    /// Where it came from, as the spec has it.
    pub uri: String,
    /// Name of the file.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of its content, in hexadecimal.
    pub blake3: String,
}

/// A malformed row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MalformedRow {
    /// File.
    pub file: String,
    /// Line or row, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Rows whose texts have so many Unicode characters, all of a row's texts together; or whose
/// pictures have so many pixels of width, or of height.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LengthCard {
    /// From so many on.
    pub from: u64,
    /// Up to so many, these included.
    pub to: u64,
    /// Training rows.
    pub train: u64,
    /// Rows for evaluation.
    pub eval: u64,
}

/// A column of the training rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnCard {
    /// Name.
    pub name: String,
    /// Type, as Arrow calls it.
    #[serde(rename = "type")]
    pub type_: String,
    /// Rows without a value.
    pub missing: u64,
    /// Of numbers; of texts, of their lengths in Unicode characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumbersCard>,
    /// Values with their counts, of columns that have at most 64, and of these those that ten rows
    /// or more have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, u64>,
}

/// What a column of a table was mended of. Values that are no values of the column's type are
/// among the malformed rows, and rows that went for want of a value among those dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MendedColumn {
    /// Missing values that were put in.
    pub filled: u64,
    /// Outliers that became the farthest value that is near enough.
    pub capped: u64,
    /// Rows that went for an outlier.
    pub dropped: u64,
    /// What was done, with the numbers that the training rows gave.
    pub rule: String,
}

/// How numbers are spread. Quantiles are within 1% of a number that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NumbersCard {
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// A quarter is below.
    pub q25: f64,
    /// The median.
    pub median: f64,
    /// A quarter is above.
    pub q75: f64,
    /// One in a hundred is above.
    pub q99: f64,
}
