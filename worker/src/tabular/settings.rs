//! What a job says → what `hearth-tabular` takes.

use std::path::Path;

use hearth_crds::objective::ClassWeights;
use hearth_crds::tabular::{self, Tabular};
use hearth_crds::training_job;
use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::{
    CalibrationMethod, ClassWeight, FeatureOptions, FitConfig, Objective, Task, ThresholdTarget,
    TreesConfig,
};

use crate::config::{ConfigError, setting};

/// Directory of the prepared rows.
pub(super) fn directory(config: &TrainConfig) -> Result<&Path, ConfigError> {
    let prepared = config.data.prepared.as_ref().and(config.data.train.path.parent());
    prepared
        .ok_or_else(|| setting("data.preparation", "rows of tables are prepared first; write it"))
}

/// What is predicted.
pub(super) fn task(task: training_job::Task) -> Result<Task, ConfigError> {
    match task {
        training_job::Task::TabularClassification => Ok(Task::TabularClassification),
        training_job::Task::TabularRegression => Ok(Task::TabularRegression),
        other => Err(setting("task", format!("{other:?} is not learned by trees"))),
    }
}

/// Which columns are learned from.
pub(super) fn features(config: &TrainConfig) -> FeatureOptions {
    let asked = config.tabular.clone().unwrap_or_default();
    let Tabular { features, exclude, categorical, .. } = asked;
    FeatureOptions {
        features: (!features.is_empty()).then_some(features),
        excluded: exclude,
        categories: categorical,
        labels: None,
    }
}

/// How a model is made of them.
pub(super) fn fit(config: &TrainConfig) -> FitConfig {
    let asked = config.tabular.clone().unwrap_or_default();
    let balanced = config
        .objective
        .as_ref()
        .is_some_and(|objective| objective.class_weights == ClassWeights::Balanced);
    FitConfig {
        trees: TreesConfig {
            seed: u32::try_from(config.training.seed.rem_euclid(1 << 32)).unwrap_or(0),
            class_weight: if balanced { ClassWeight::Balanced } else { ClassWeight::None },
            ..trees(&asked.trees)
        },
        calibration: match asked.calibration {
            tabular::Calibration::None => None,
            tabular::Calibration::Sigmoid => Some(CalibrationMethod::Sigmoid),
            tabular::Calibration::Isotonic => Some(CalibrationMethod::Isotonic),
        },
        threshold: asked.threshold.as_ref().and_then(ThresholdTarget::asked),
    }
}

fn trees(asked: &tabular::Trees) -> TreesConfig {
    let whole = |number: i32| number.unsigned_abs();
    TreesConfig {
        num_leaves: whole(asked.num_leaves),
        max_depth: asked.max_depth.unwrap_or(-1),
        learning_rate: asked.learning_rate,
        n_estimators: whole(asked.n_estimators),
        min_child_samples: whole(asked.min_child_samples),
        subsample: asked.subsample,
        subsample_freq: whole(asked.subsample_freq),
        colsample_bytree: asked.colsample_bytree,
        reg_alpha: asked.reg_alpha,
        reg_lambda: asked.reg_lambda,
        max_bin: whole(asked.max_bin),
        early_stopping_rounds: asked.early_stopping_rounds.map(whole),
        seed: 0,
        class_weight: ClassWeight::None,
        objective: Objective::L2,
    }
}
