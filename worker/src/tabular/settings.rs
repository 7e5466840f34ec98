//! What a job says → what `hearth-tabular` takes.

use std::path::Path;

use hearth_crds::objective::ClassWeights;
use hearth_crds::tabular::{self, Neural, Tabular};
use hearth_crds::training_job;
use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::{
    CalibrationMethod, Choices, ClassWeight, FeatureOptions, FitConfig, Objective, Shape, Task,
    ThresholdTarget, TreesConfig,
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
        other => Err(setting("task", format!("{other:?} is not of tables"))),
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

/// How a model of trees is made of them.
pub(super) fn fit(config: &TrainConfig) -> FitConfig {
    let asked = config.tabular.clone().unwrap_or_default();
    FitConfig {
        trees: TreesConfig {
            seed: seed(config),
            class_weight: class_weight(config),
            ..trees(&asked.trees.unwrap_or_default())
        },
        calibration: calibration(asked.calibration),
        threshold: asked.threshold.as_ref().and_then(ThresholdTarget::asked),
    }
}

/// The network that is asked for; `None` where trees are.
pub(super) fn network(config: &TrainConfig) -> Result<Option<Shape>, ConfigError> {
    let Some(asked) = config.tabular.as_ref().and_then(|tabular| tabular.neural.as_ref()) else {
        return Ok(None);
    };
    if config.tabular.as_ref().is_some_and(|tabular| tabular.trees.is_some()) {
        return Err(setting("tabular.neural", "there are tabular.trees, too; write one of them"));
    }
    if let Some((field, detail)) = asked.fault() {
        return Err(setting(field.trim_start_matches("spec."), detail));
    }
    if config.training != Neural::training(&config.training) {
        let detail =
            format!("networks of tables have {} alone; leave out all else", Neural::TRAINING);
        return Err(setting("training", detail));
    }
    Ok(Some(Shape::of(asked)))
}

/// What is chosen on held-out rows for a network.
pub(super) fn choices(config: &TrainConfig) -> Choices {
    let asked = config.tabular.clone().unwrap_or_default();
    Choices {
        calibration: calibration(asked.calibration),
        threshold: asked.threshold.as_ref().and_then(ThresholdTarget::asked),
        stops_early: config.training.early_stopping_patience.is_some(),
        seed: u64::from(seed(config)),
    }
}

/// What rows of a label count.
pub(super) fn class_weight(config: &TrainConfig) -> ClassWeight {
    let balanced = config
        .objective
        .as_ref()
        .is_some_and(|objective| objective.class_weights == ClassWeights::Balanced);
    if balanced { ClassWeight::Balanced } else { ClassWeight::None }
}

fn seed(config: &TrainConfig) -> u32 {
    u32::try_from(config.training.seed.rem_euclid(1 << 32)).unwrap_or(0)
}

fn calibration(asked: tabular::Calibration) -> Option<CalibrationMethod> {
    match asked {
        tabular::Calibration::None => None,
        tabular::Calibration::Sigmoid => Some(CalibrationMethod::Sigmoid),
        tabular::Calibration::Isotonic => Some(CalibrationMethod::Isotonic),
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
