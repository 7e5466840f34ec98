//! Rows → a model that knows how good it is.

use std::ops::ControlFlow;
use std::sync::Arc;

use hearth_prepare::table::rules::TableRules;
use serde::{Deserialize, Serialize};

use crate::calibration::{Calibration, CalibrationMethod};
use crate::config::{Task, TreesConfig};
use crate::drift::Reference;
use crate::error::{Result, TabularError};
use crate::holdout::split;
use crate::model::{Model, Parts};
use crate::table::Table;
use crate::threshold::{Threshold, ThresholdTarget};
use crate::train::{Checkpoint, Iteration, number, resume};

/// How a model is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FitConfig {
    /// How trees are grown.
    pub trees: TreesConfig,
    /// How scores become probabilities; they stay as they are where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationMethod>,
    /// Of two labels, what the threshold is chosen for; 0.5 where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdTarget>,
}

/// What a model is made of.
#[derive(Clone, Copy, Debug)]
pub struct Fit<'a> {
    /// Training rows.
    pub train: &'a Table,
    /// Held-out rows. Where something is chosen on them ([`FitConfig`] names `earlyStoppingRounds`,
    /// `calibration`, or a `threshold` that is not fixed), half of them choose and the metrics are
    /// those of the other half (see [`crate::holdout`]); else of all.
    pub held_out: Option<&'a Table>,
    /// What the preparation did with columns.
    pub rules: Option<&'a TableRules>,
    /// From where to go on.
    pub checkpoint: Option<&'a Checkpoint>,
}

impl FitConfig {
    /// Whether something is chosen on held-out rows.
    fn tunes(&self) -> bool {
        let chosen = |target: ThresholdTarget| !matches!(target, ThresholdTarget::Fixed(_));
        self.trees.early_stopping_rounds.is_some()
            || self.calibration.is_some()
            || self.threshold.is_some_and(chosen)
    }

    fn check(&self, fit: &Fit<'_>) -> Result<()> {
        let features = fit.train.features();
        let regression = features.task == Task::TabularRegression;
        if regression && self.calibration.is_some() {
            return Err(TabularError::setting(
                "calibration",
                "a regression has no probabilities; leave it out",
            ));
        }
        if self.threshold.is_some() && !features.is_binary() {
            let detail = "only a model of two labels has a threshold; leave it out";
            return Err(TabularError::setting("threshold", detail));
        }
        if self.tunes() && fit.held_out.is_none_or(|rows| rows.rows() < 2) {
            let detail = "earlyStoppingRounds, calibration and a threshold for a target are chosen on \
                held-out rows, and there are none; hold some out (data.evalSplit)";
            return Err(TabularError::Data(detail.to_owned()));
        }
        Ok(())
    }
}

/// Trains, calibrates, chooses a threshold, and measures. `on_iteration` is told of each iteration.
///
/// # Errors
///
/// Settings that do not go with the rows, a threshold's target that is out of reach, and those of
/// [`resume`].
pub fn fit(
    fit: &Fit<'_>,
    config: &FitConfig,
    on_iteration: impl FnMut(Iteration<'_>) -> ControlFlow<()>,
) -> Result<Model> {
    config.check(fit)?;
    let features = fit.train.features();
    let halves = match fit.held_out {
        Some(rows) if config.tunes() => Some(split(rows, u64::from(config.trees.seed))),
        _ => None,
    };
    let (tuning, report) = match &halves {
        Some((tuning, report)) => (Some(tuning), Some(report)),
        None => (None, fit.held_out),
    };
    // Without early stopping nothing is chosen by the loss, so it may be of all held-out rows.
    let eval = if config.trees.early_stopping_rounds.is_some() { tuning } else { fit.held_out };
    let eval = eval.filter(|rows| rows.rows() > 0);
    let trained = resume(fit.checkpoint, (fit.train, eval), &config.trees, on_iteration)?;
    let parts = Parts {
        features: Arc::clone(features),
        trees: config.trees.clone(),
        rules: fit.rules.cloned(),
        calibration: None,
        threshold: None,
        metrics: None,
        reference: None,
    };
    let mut model = Model::new(trained.model, parts)?;
    if let Some(tuning) = tuning {
        tune(&mut model, tuning, config)?;
    } else if let Some(target) = config.threshold {
        model.parts.threshold = Some(Threshold::choose(target, &[], &[])?);
    }
    let report = report.filter(|rows| rows.rows() > 0);
    model.parts.metrics = report.map(|rows| model.evaluate(rows)).transpose()?;
    let scores = model.watched(report.unwrap_or(fit.train))?;
    model.parts.reference = Some(Reference::of(features, fit.train.values(), &scores));
    Ok(model)
}

/// Calibrates first: a threshold is one of probabilities.
fn tune(model: &mut Model, tuning: &Table, config: &FitConfig) -> Result<()> {
    let labels = model.parts.features.labels.len();
    if labels == 0 {
        return Ok(());
    }
    let mut probabilities = model.scores(tuning)?;
    let truths: Vec<usize> = tuning.labels().iter().map(|label| number(*label)).collect();
    if let Some(method) = config.calibration {
        let calibration = Calibration::fit(method, &probabilities, &truths, labels)?;
        probabilities.chunks_exact_mut(labels).for_each(|row| calibration.apply(row));
        model.parts.calibration = Some(calibration);
    }
    if let Some(target) = config.threshold {
        let of_last: Vec<f64> =
            probabilities.chunks_exact(labels).map(|row| row[labels - 1]).collect();
        let positive: Vec<bool> = truths.iter().map(|truth| truth + 1 == labels).collect();
        model.parts.threshold = Some(Threshold::choose(target, &of_last, &positive)?);
    }
    Ok(())
}
