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
use crate::model::{Model, Parts, Recipe};
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

/// Rows that a model is made of, whatever learns them.
#[derive(Clone, Copy, Debug)]
pub struct FitRows<'a> {
    /// Training rows.
    pub train: &'a Table,
    /// Held-out rows, of which half choose where something is chosen.
    pub held_out: Option<&'a Table>,
    /// What the preparation did with columns.
    pub rules: Option<&'a TableRules>,
}

/// What is chosen on held-out rows, whatever learns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choices {
    /// How scores become probabilities.
    pub calibration: Option<CalibrationMethod>,
    /// What the threshold is chosen for.
    pub threshold: Option<ThresholdTarget>,
    /// Whether training ends by the loss of held-out rows.
    pub stops_early: bool,
    /// Deals held-out rows to both halves.
    pub seed: u64,
}

impl FitConfig {
    fn choices(&self) -> Choices {
        Choices {
            calibration: self.calibration,
            threshold: self.threshold,
            stops_early: self.trees.early_stopping_rounds.is_some(),
            seed: u64::from(self.trees.seed),
        }
    }
}

impl Choices {
    /// Whether something is chosen on held-out rows.
    fn tune(&self) -> bool {
        let chosen = |target: ThresholdTarget| !matches!(target, ThresholdTarget::Fixed(_));
        self.stops_early || self.calibration.is_some() || self.threshold.is_some_and(chosen)
    }

    fn check(&self, rows: FitRows<'_>) -> Result<()> {
        let features = rows.train.features();
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
        if self.tune() && rows.held_out.is_none_or(|rows| rows.rows() < 2) {
            let detail = "early stopping, calibration and a threshold for a target are chosen on \
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
    let rows = FitRows { train: fit.train, held_out: fit.held_out, rules: fit.rules };
    assemble(rows, &config.choices(), |eval, parts| {
        let trained = resume(fit.checkpoint, (fit.train, eval), &config.trees, on_iteration)?;
        Model::new(trained.model, Parts { recipe: Recipe::Trees(config.trees.clone()), ..parts })
    })
}

/// Makes a model of what `learn` learns: calibrates it, chooses a threshold, and measures. `learn` is
/// told the held-out rows that it may look at, and which columns and rules there are; its recipe
/// takes the place of that in the parts.
///
/// # Errors
///
/// Settings that do not go with the rows, a threshold's target that is out of reach, and those of
/// `learn`.
pub fn assemble<E: From<TabularError>>(
    rows: FitRows<'_>,
    choices: &Choices,
    learn: impl FnOnce(Option<&Table>, Parts) -> Result<Model, E>,
) -> Result<Model, E> {
    choices.check(rows)?;
    let halves = match rows.held_out {
        Some(held_out) if choices.tune() => Some(split(held_out, choices.seed)),
        _ => None,
    };
    let (tuning, report) = match &halves {
        Some((tuning, report)) => (Some(tuning), Some(report)),
        None => (None, rows.held_out),
    };
    // Without early stopping nothing is chosen by the loss, so it may be of all held-out rows.
    let eval = if choices.stops_early { tuning } else { rows.held_out };
    let parts = Parts {
        features: Arc::clone(rows.train.features()),
        recipe: Recipe::Trees(TreesConfig::default()),
        rules: rows.rules.cloned(),
        calibration: None,
        threshold: None,
        metrics: None,
        reference: None,
    };
    let mut model = learn(eval.filter(|rows| rows.rows() > 0), parts)?;
    if let Some(tuning) = tuning {
        tune(&mut model, tuning, choices)?;
    } else if let Some(target) = choices.threshold {
        model.parts.threshold = Some(Threshold::choose(target, &[], &[])?);
    }
    let report = report.filter(|rows| rows.rows() > 0);
    model.parts.metrics = report.map(|rows| model.evaluate(rows)).transpose()?;
    let scores = model.watched(report.unwrap_or(rows.train))?;
    let features = &model.parts.features;
    model.parts.reference = Some(Reference::of(features, rows.train.values(), &scores));
    Ok(model)
}

/// Calibrates first: a threshold is one of probabilities.
fn tune(model: &mut Model, tuning: &Table, choices: &Choices) -> Result<()> {
    let labels = model.parts.features.labels.len();
    if labels == 0 {
        return Ok(());
    }
    let mut probabilities = model.scores(tuning)?;
    let truths: Vec<usize> = tuning.labels().iter().map(|label| number(*label)).collect();
    if let Some(method) = choices.calibration {
        let calibration = Calibration::fit(method, &probabilities, &truths, labels)?;
        probabilities.chunks_exact_mut(labels).for_each(|row| calibration.apply(row));
        model.parts.calibration = Some(calibration);
    }
    if let Some(target) = choices.threshold {
        let of_last: Vec<f64> =
            probabilities.chunks_exact(labels).map(|row| row[labels - 1]).collect();
        let positive: Vec<bool> = truths.iter().map(|truth| truth + 1 == labels).collect();
        model.parts.threshold = Some(Threshold::choose(target, &of_last, &positive)?);
    }
    Ok(())
}
