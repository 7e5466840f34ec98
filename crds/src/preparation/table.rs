//! Tables and time series: what columns hold, and what is made of rows.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one_copy;

/// A table's columns.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TablePreparation {
    /// Columns by name; others keep the type that their values have, and all of their values.
    #[schemars(extend("maxProperties" = 1000))]
    pub columns: BTreeMap<String, Column>,
}

/// What a column holds. A row with another value is malformed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(self.missing == 'Fill') == has(self.fill)").message("missing: Fill and fill need each other").field_path(".fill"),
    validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("min is at most max").field_path(".min"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Column {
    /// Type; that of its values where left out.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<ColumnType>,
    /// Least value of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What becomes of rows without a value.
    #[serde(default)]
    pub missing: Missing,
    /// What is put in their place, for `missing: Fill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub fill: Option<String>,
    /// Numbers far from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ColumnType {
    /// Numbers.
    Number,
    /// Whole numbers, up to 2^53.
    Integer,
    /// `true` and `false`; 1 and 0 are read as these.
    Boolean,
    /// Texts, of which there are few.
    Category,
    /// Texts.
    Text,
    /// RFC 3339.
    Timestamp,
}

/// What becomes of a missing value. Statistics are those of the training rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Missing {
    /// It stays missing.
    #[default]
    Keep,
    /// The row goes.
    Drop,
    /// The mean of the column.
    Mean,
    /// The median of the column.
    Median,
    /// The most frequent value.
    Mode,
    /// `fill`.
    Fill,
}

/// Numbers far from the others. Statistics are those of the training rows.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outliers {
    /// How far is too far.
    #[serde(default)]
    pub method: OutlierMethod,
    /// In interquartile ranges beyond the quartiles (1.5 where left out), or in standard
    /// deviations from the mean (3 where left out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 100.0))]
    pub distance: Option<f64>,
    /// What becomes of them.
    #[serde(default)]
    pub action: OutlierAction,
}

/// How far is too far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutlierMethod {
    /// Interquartile ranges beyond the quartiles (Tukey's fences).
    #[default]
    IQR,
    /// Standard deviations from the mean.
    ZScore,
}

/// What becomes of an outlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutlierAction {
    /// It becomes the farthest value that is near enough.
    #[default]
    Clip,
    /// Its row goes.
    Drop,
}

/// Rows made of rows.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.crosses) || has(self.perturb) || has(self.smote) || has(self.windows)").message("augment.table makes nothing: write crosses, perturb, smote or windows"),
    validation = Rule::new("!(has(self.smote) && has(self.windows))").message("augment.table.smote does not go with windows"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableAugmentation {
    /// New rows of each, where `perturb` is written.
    #[serde(default = "one_copy")]
    #[schemars(range(min = 1, max = 16))]
    pub copies: i32,
    /// New columns, of training and evaluation rows alike: of two columns of numbers their
    /// product, of others their values joined by `_`. Named `A_x_B`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(equal = 2)))]
    pub crosses: Vec<Vec<String>>,
    /// Numbers change by a normally distributed part of their column's standard deviation, of
    /// which this is the standard deviation. The label and what rows are split by stay, whole numbers
    /// stay whole, and none goes beyond its column's `min` and `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0001, max = 1.0))]
    pub perturb: Option<f64>,
    /// Rare labels get rows between their neighbours (SMOTE, arXiv:1106.1813).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smote: Option<Smote>,
    /// Rows in the order of time become windows, for evaluation, too: a row each, whose columns are
    /// lists. New ones, `copies` of each, are made where `jitter` or `scale` is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

/// Rows between neighbours of a rare label.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Smote {
    /// Nearest rows of the same label among which one is drawn.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 64))]
    pub neighbors: i32,
    /// Rows that each label has in the end, as a share of the most frequent one's.
    #[serde(default = "whole")]
    #[schemars(range(min = 0.01, max = 1.0))]
    pub share: f64,
}

/// Windows over a time series.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Windows {
    /// Column of the time.
    #[schemars(length(min = 1, max = 256))]
    pub time: String,
    /// Column of the series' name; one series where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub series: Option<String>,
    /// Rows of a window.
    #[schemars(range(min = 2, max = 4096))]
    pub length: i32,
    /// Rows between the starts of two windows.
    #[serde(default = "one_copy")]
    #[schemars(range(min = 1, max = 4096))]
    pub stride: i32,
    /// New windows have noise added: its standard deviation, in the column's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0001, max = 1.0))]
    pub jitter: Option<f64>,
    /// New windows are multiplied by a number around 1, of this standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0001, max = 1.0))]
    pub scale: Option<f64>,
}

fn five() -> i32 {
    5
}

fn whole() -> f64 {
    1.0
}
