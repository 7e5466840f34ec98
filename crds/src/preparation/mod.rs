//! `spec.data` of a TrainingJob, the part that makes prepared rows of raw ones: what a text is
//! cleaned of, which rows go, which of the rest are for evaluation, and what is made of them besides.
//!
//! Order, fixed: read, join, clean, filter, deduplicate, split, augment, write.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

mod config;
mod image;
mod table;
mod text;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::features::FeatureJoin;
use crate::pod::Resources;

pub use config::{
    ColumnCard, DataCard, DataStatus, LengthCard, MalformedRow, MendedColumn, NumbersCard, Pointer,
    PrepareConfig, SourceCard, pointer,
};
pub use image::{ColorJitter, Flip, ImageAugmentation, ImageFilter, Scale};
pub use table::{
    Column, ColumnType, Missing, OutlierAction, OutlierMethod, Outliers, Smote, TableAugmentation,
    TablePreparation, Windows,
};
pub use text::{
    BackTranslation, CleanStep, Cleaning, PersonalData, Replacement, Synonyms, TextAugmentation,
    TextFilter,
};

/// What is done with rows before a model sees them. Its result is kept in `output` under a name
/// made of the content of the sources and of all that is written here, and made once.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preparation {
    /// Directory of prepared data, `pvc://CLAIM/PATH`; `data` below the job's `output` where left
    /// out. Jobs that name the same directory share what is alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub output: Option<String>,
    /// Decides which rows are drawn and what is made of them. The same seed gives the same bytes.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Tables: features of entities, as they were at each row's time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub join: Vec<FeatureJoin>,
    /// Texts that are no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<TextFilter>,
    /// Rows that say what others say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplicate: Option<Deduplication>,
    /// Types, ranges, missing values and outliers of a table's columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TablePreparation>,
    /// Pictures that are no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageFilter>,
    /// Which rows are for evaluation. Needs `evalSplit`; without it rows are drawn by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Seconds that the sources may be missing before the job fails: for data that something else
    /// writes first, and that appears under its name when it is whole.
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    pub wait_seconds: i32,
    /// CPU and memory of the pod that prepares.
    #[serde(default)]
    pub resources: Resources,
    /// Rows made of training rows, besides them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augmentation>,
}

/// Rows that say what others say: the first stays.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deduplication {
    /// Texts (pictures: their pixels; rows of tables) that are equal once cleaned.
    #[serde(default = "yes")]
    pub exact: bool,
    /// Texts: least Jaccard similarity of the sets of five-word sequences from which two say the
    /// same, by MinHash. Texts of fewer words are compared by those that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 0.99))]
    pub near: Option<f64>,
    /// Pictures: most bits of 64 in which the perceptual hashes of two that show the same differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub hash_distance: Option<i32>,
}

impl Default for Deduplication {
    fn default() -> Self {
        Self { exact: true, near: None, hash_distance: None }
    }
}

/// Which rows are for evaluation.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(self.by == 'Label') != has(self.field)").message("split.by Group and Time need split.field, and Label takes none"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Split {
    /// How rows are told apart.
    pub by: SplitBy,
    /// Group: field of the group. Time: field of the time, a number or RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub field: Option<String>,
}

/// How rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SplitBy {
    /// Drawn, the same share of each label.
    Label,
    /// Whole groups, drawn: a customer, a patient, a device is on one side alone.
    Group,
    /// The latest rows.
    Time,
}

/// Rows made of training rows. Rows for evaluation stay as they are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.text), has(self.image), has(self.table)].filter(x, x).size() == 1").message("augment takes one of text, image and table"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Augmentation {
    /// Of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextAugmentation>,
    /// Of pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageAugmentation>,
    /// Of rows of tables, and of time series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableAugmentation>,
}

fn yes() -> bool {
    true
}

pub(crate) fn one_copy() -> i32 {
    1
}
