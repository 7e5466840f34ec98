//! How trees are grown. Names are those of LightGBM's scikit-learn interface, in camelCase.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TabularError};
use crate::lightgbm::MAX_LEAVES;

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// One label of some.
    TabularClassification,
    /// A number.
    TabularRegression,
}

/// How trees are grown. Defaults are LightGBM's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TreesConfig {
    /// Most leaves of a tree, 2 to 1024.
    pub num_leaves: u32,
    /// Most splits from root to leaf; -1: no limit.
    pub max_depth: i32,
    /// What a tree's output is multiplied with.
    pub learning_rate: f64,
    /// Iterations: each adds a tree, or one a class where there are over two.
    pub n_estimators: u32,
    /// Fewest rows of a leaf.
    pub min_child_samples: u32,
    /// Share of rows of which a tree is grown.
    pub subsample: f64,
    /// Every how many iterations rows are drawn anew; 0: all rows are used.
    pub subsample_freq: u32,
    /// Share of features of which a tree is grown.
    pub colsample_bytree: f64,
    /// L1 regularization of leaves.
    pub reg_alpha: f64,
    /// L2 regularization of leaves.
    pub reg_lambda: f64,
    /// Most bins of a feature, 2 to 65535.
    pub max_bin: u32,
    /// Iterations without a lower loss on held-out rows after which training ends; the model is then
    /// that of the lowest loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_rounds: Option<u32>,
    /// Decides which rows and features are drawn.
    pub seed: u32,
    /// Weights of labels. The loss on held-out rows is of unweighted rows.
    pub class_weight: ClassWeight,
    /// The loss of a regression.
    pub objective: Objective,
}

/// Weights of labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ClassWeight {
    /// All alike.
    #[default]
    None,
    /// Rows ÷ (labels × rows of the label), as scikit-learn has it (King & Zeng 2001, Political
    /// Analysis 9(2)).
    Balanced,
    /// By label; 1 for labels that are not named.
    #[serde(untagged)]
    ByLabel(BTreeMap<String, f64>),
}

/// The loss of a regression; a classification has the cross-entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// Squared error: the mean is predicted.
    #[default]
    L2,
    /// Absolute error: the median is predicted.
    L1,
    /// Squared error up to 0.9, absolute beyond (Huber 1964).
    Huber,
}

impl Default for TreesConfig {
    fn default() -> Self {
        Self {
            num_leaves: 31,
            max_depth: -1,
            learning_rate: 0.1,
            n_estimators: 100,
            min_child_samples: 20,
            subsample: 1.0,
            subsample_freq: 0,
            colsample_bytree: 1.0,
            reg_alpha: 0.0,
            reg_lambda: 0.0,
            max_bin: 255,
            early_stopping_rounds: None,
            seed: 0,
            class_weight: ClassWeight::None,
            objective: Objective::L2,
        }
    }
}

impl TreesConfig {
    /// What is wrong with the settings.
    pub fn check(&self, task: Task) -> Result<()> {
        let share = |share: f64| share > 0.0 && share <= 1.0;
        let least = |value: f64| value >= 0.0 && value.is_finite();
        let faults = [
            ((2..=MAX_LEAVES).contains(&self.num_leaves), "numLeaves", "write 2 to 1024"),
            (
                self.max_depth == -1 || self.max_depth > 0,
                "maxDepth",
                "write 1 or more; -1: no limit",
            ),
            (
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
                "learningRate",
                "write a number above 0",
            ),
            ((1..=100_000).contains(&self.n_estimators), "nEstimators", "write 1 to 100000"),
            (share(self.subsample), "subsample", "write a share above 0, up to 1"),
            (share(self.colsample_bytree), "colsampleBytree", "write a share above 0, up to 1"),
            (least(self.reg_alpha), "regAlpha", "write 0 or more"),
            (least(self.reg_lambda), "regLambda", "write 0 or more"),
            ((2..=65_535).contains(&self.max_bin), "maxBin", "write 2 to 65535"),
            (self.early_stopping_rounds != Some(0), "earlyStoppingRounds", "write 1 or more"),
            (
                self.subsample >= 1.0 || self.subsample_freq > 0,
                "subsampleFreq",
                "0 uses all rows, whatever subsample says; write 1, or leave subsample out",
            ),
            (
                task == Task::TabularRegression || self.objective == Objective::L2,
                "objective",
                "a classification has the cross-entropy; leave it out",
            ),
            (
                task == Task::TabularClassification || self.class_weight == ClassWeight::None,
                "classWeight",
                "a regression has no labels; leave it out",
            ),
        ];
        match faults.iter().find(|(good, ..)| !good) {
            Some((_, setting, detail)) => Err(TabularError::setting(setting, *detail)),
            None => Ok(()),
        }
    }

    /// What rows are binned by. `categories` are the numbers of the features that are.
    pub(crate) fn data_parameters(&self, categories: &[usize]) -> String {
        let categories: Vec<String> = categories.iter().map(ToString::to_string).collect();
        let named = if categories.is_empty() {
            String::new()
        } else {
            format!(" categorical_feature={}", categories.join(","))
        };
        format!("{} max_bin={}{named}", self.common(), self.max_bin)
    }

    /// What trees are grown by. With one thread, as built: see the crate's documentation.
    pub(crate) fn parameters(&self, task: Task, classes: usize) -> String {
        let (objective, metric) = match (task, self.objective) {
            (Task::TabularClassification, _) if classes > 2 => {
                (format!("multiclass num_class={classes}"), "multi_logloss")
            }
            (Task::TabularClassification, _) => ("binary".to_owned(), "binary_logloss"),
            (Task::TabularRegression, Objective::L2) => ("regression".to_owned(), "l2"),
            (Task::TabularRegression, Objective::L1) => ("regression_l1".to_owned(), "l1"),
            (Task::TabularRegression, Objective::Huber) => ("huber".to_owned(), "huber"),
        };
        let rows = if self.subsample < 1.0 {
            format!(" bagging_fraction={} bagging_freq=1", self.subsample)
        } else {
            String::new()
        };
        format!(
            "{}{rows} objective={objective} metric={metric} num_leaves={} max_depth={} learning_rate={} \
             feature_fraction={} lambda_l1={} lambda_l2={} max_bin={}",
            self.common(),
            self.num_leaves,
            self.max_depth,
            self.learning_rate,
            self.colsample_bytree,
            self.reg_alpha,
            self.reg_lambda,
            self.max_bin,
        )
    }

    fn common(&self) -> String {
        format!(
            "boosting=gbdt device_type=cpu deterministic=true force_row_wise=true num_threads=1 \
             verbosity=-1 min_data_in_leaf={}",
            self.min_child_samples
        )
    }

    /// What is drawn for an iteration, counted from 0: these change before it, in this order. A
    /// function of the iteration and the seed, so that training goes on as if it had never ended.
    ///
    /// LightGBM draws by generators that go on from tree to tree. It begins one anew when the feature
    /// seed differs from that before (`ColSampler::SetConfig`), and those of rows when how often they
    /// are drawn changes (`BaggingSampleStrategy::ResetSampleConfig`): so that changes to and fro. (It
    /// must not be switched off in between: that strategy then keeps a pointer to settings that go.)
    pub(crate) fn draws(&self, iteration: u32) -> Vec<String> {
        let mut changes = Vec::new();
        let mut last = String::new();
        if self.subsample < 1.0 {
            let group = iteration / self.subsample_freq.max(1);
            changes.push("bagging_freq=2".to_owned());
            let seed = drawn(self.seed, "rows", group) >> 2;
            last = format!("bagging_freq=1 bagging_seed={seed}");
        }
        if self.colsample_bytree < 1.0 {
            // Even and odd in turn, so that no seed is that of the iteration before.
            let seed = ((drawn(self.seed, "columns", iteration) >> 3) << 1) | (iteration & 1);
            last = format!("{last} feature_fraction_seed={seed}");
        }
        if !last.is_empty() {
            changes.push(last);
        }
        changes
    }
}

/// A number that depends on all of these.
fn drawn(seed: u32, what: &str, number: u32) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(what.as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_refused_by_name() {
        let read: TreesConfig = serde_json::from_str(
            r#"{"numLeaves": 7, "classWeight": "Balanced", "earlyStoppingRounds": 5}"#,
        )
        .unwrap();
        assert_eq!((read.num_leaves, read.class_weight), (7, ClassWeight::Balanced));
        let read: TreesConfig = serde_json::from_str(r#"{"classWeight": {"fraud": 20}}"#).unwrap();
        assert_eq!(read.class_weight, ClassWeight::ByLabel([("fraud".to_owned(), 20.0)].into()));
        assert!(serde_json::from_str::<TreesConfig>(r#"{"leaves": 7}"#).is_err());
        let good = TreesConfig::default();
        for (task, config, setting) in [
            (
                Task::TabularClassification,
                TreesConfig { num_leaves: 1, ..good.clone() },
                "numLeaves",
            ),
            (
                Task::TabularClassification,
                TreesConfig { subsample: 0.5, ..good.clone() },
                "subsampleFreq",
            ),
            (
                Task::TabularClassification,
                TreesConfig { objective: Objective::L1, ..good.clone() },
                "objective",
            ),
            (
                Task::TabularRegression,
                TreesConfig { class_weight: ClassWeight::Balanced, ..good.clone() },
                "classWeight",
            ),
            (
                Task::TabularRegression,
                TreesConfig { learning_rate: f64::NAN, ..good.clone() },
                "learningRate",
            ),
        ] {
            let told = config.check(task).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{setting}: ")), "{told}");
        }
        assert!(good.check(Task::TabularRegression).is_ok());
    }

    #[test]
    fn what_is_drawn_depends_on_the_iteration_alone() {
        let config = TreesConfig {
            subsample: 0.5,
            subsample_freq: 2,
            colsample_bytree: 0.5,
            ..TreesConfig::default()
        };
        let seeds = |iteration| config.draws(iteration).pop().unwrap();
        assert_eq!(seeds(3), seeds(3));
        let rows = |iteration| seeds(iteration).split(" feature").next().unwrap().to_owned();
        assert_eq!(rows(2), rows(3));
        assert_ne!(rows(2), rows(4));
        assert!((0..1000).all(|iteration| seeds(iteration) != seeds(iteration + 1)));
        assert!(TreesConfig::default().draws(1).is_empty());
    }
}
