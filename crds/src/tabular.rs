//! `spec.tabular` of a TrainingJob: how rows of a table are learned.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How rows of a table are learned: by gradient-boosted trees. Nothing to start from is needed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.features) || !has(self.exclude)").message("set tabular.features or tabular.exclude, not both").field_path(".exclude"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tabular {
    /// Columns to learn from. Where left out, all but the label, `exclude`, the field that rows
    /// are split by, times, and texts of which no two are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub features: Vec<String>,
    /// Columns not to learn from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
    /// Columns of numbers that are names of kinds, and have no order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub categorical: Vec<String>,
    /// The trees.
    #[serde(default)]
    pub trees: Trees,
    /// TabularClassification: how scores become probabilities, learned from rows that were held out.
    #[serde(default)]
    pub calibration: Calibration,
    /// TabularClassification with two labels: from which probability on a row gets the second one, in
    /// the order of their names; 0.5 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

/// Gradient-boosted trees, under LightGBM's names (scikit-learn's interface) and with its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Trees {
    /// Trees, of each class where there are more than two.
    #[schemars(range(min = 1, max = 100_000))]
    pub n_estimators: i32,
    /// Most leaves of a tree.
    #[schemars(range(min = 2, max = 1024))]
    pub num_leaves: i32,
    /// Most levels of a tree; as many as it takes where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_depth: Option<i32>,
    /// What each tree's answer is multiplied by.
    #[schemars(range(min = 1e-6, max = 1.0))]
    pub learning_rate: f64,
    /// Fewest training rows of a leaf.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_child_samples: i32,
    /// Share of the rows that a tree is grown from, drawn anew every `subsampleFreq` trees.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub subsample: f64,
    /// Trees that are grown from the same rows; 0 draws none, and then `subsample` is 1.
    #[schemars(range(min = 0, max = 100_000))]
    pub subsample_freq: i32,
    /// Share of the columns that a tree is grown from.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub colsample_bytree: f64,
    /// L1 regularisation of leaves.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub reg_alpha: f64,
    /// L2 regularisation of leaves.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub reg_lambda: f64,
    /// Most intervals that a column's numbers are told apart by.
    #[schemars(range(min = 2, max = 65_535))]
    pub max_bin: i32,
    /// Stop once the loss of the rows for evaluation was not lower for so many trees, and keep those that
    /// were best.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub early_stopping_rounds: Option<i32>,
}

impl Default for Trees {
    fn default() -> Self {
        Self {
            n_estimators: 100,
            num_leaves: 31,
            max_depth: None,
            learning_rate: 0.1,
            min_child_samples: 20,
            subsample: 1.0,
            subsample_freq: 0,
            colsample_bytree: 1.0,
            reg_alpha: 0.0,
            reg_lambda: 0.0,
            max_bin: 255,
            early_stopping_rounds: None,
        }
    }
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Calibration {
    /// As the trees give them.
    #[default]
    None,
    /// A logistic curve (Platt 1999): for few rows.
    Sigmoid,
    /// Steps that rise (isotonic regression, Zadrozny and Elkan 2002): for a thousand rows and more.
    Isotonic,
}

/// The probability from which on a row gets the second of two labels, by what it comes to on rows that
/// were held out.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.falsePositiveRate), has(self.recall), has(self.precision), has(self.value)].filter(x, x).size() == 1").message("a threshold takes one of falsePositiveRate, recall, precision and value"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Threshold {
    /// Most rows of the first label that get the second, as a share of the first's: of those, the
    /// threshold with the highest recall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub false_positive_rate: Option<f64>,
    /// Fewest rows of the second label that get it, as a share: of those, the threshold with the
    /// lowest false positive rate. 1 less this is the miss rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub recall: Option<f64>,
    /// Least share of rows that get the second label and have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub precision: Option<f64>,
    /// The probability itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub value: Option<f64>,
}
