//! A trained model: what it says of rows, and how good it is.

mod config;
mod files;
mod request;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use hearth_prepare::table::rules::TableRules;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::calibration::{Calibration, expit};
use crate::config::{Task, TreesConfig};
use crate::drift::{Histogram, Reference};
use crate::error::{Result, TabularError};
use crate::features::Features;
use crate::lightgbm::{Forest, Matrix, Predictor};
use crate::metrics::{ClassificationMetrics, Metrics, RegressionMetrics};
use crate::network::{Network, NetworkConfig, Scorer};
use crate::table::Table;
use crate::threshold::{Confusion, Threshold, counts};
use crate::train::number;

pub use config::MODEL_TYPE;
use request::Inputs;
pub use request::Rows;

/// A model of a table. Threads may share it: see `lightgbm::Predictor`, and [`Network`].
#[derive(Debug)]
pub struct Model {
    pub(crate) parts: Parts,
    learned: Learned,
    scorer: Option<Box<dyn Scorer>>,
    inputs: Inputs,
}

/// What gives rows raw scores.
#[derive(Debug)]
enum Learned {
    Trees { text: String, predictor: Box<Predictor> },
    Network(Box<dyn Network>),
}

/// How a model was learned, and what its weights alone do not say.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// How trees were grown.
    Trees(TreesConfig),
    /// A network's architecture, and how rows are given to it.
    Network(NetworkConfig),
}

/// What a model is besides its trees or weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The columns.
    pub features: Arc<Features>,
    /// How it was learned.
    pub recipe: Recipe,
    /// What is done with a row before features are taken.
    pub rules: Option<TableRules>,
    /// What scores mean.
    pub calibration: Option<Calibration>,
    /// Of two labels, from which probability on the last is given.
    pub threshold: Option<Threshold>,
    /// How good it is on held-out rows that nothing was chosen on.
    pub metrics: Option<Metrics>,
    /// How training rows are spread.
    pub reference: Option<Reference>,
}

/// What a model says of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prediction {
    /// A label.
    Label(LabelPrediction),
    /// A number.
    Number(NumberPrediction),
}

/// A label for a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelPrediction {
    /// The label: of two, the last where its probability is the threshold or more; else the likeliest.
    pub label: String,
    /// Its probability.
    pub score: f64,
    /// Probabilities of all labels, in the order of their numbers.
    pub probabilities: IndexMap<String, f64>,
    /// From which probability of the last of two labels on it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Why, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// A number for a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NumberPrediction {
    /// In the label's unit.
    pub value: f64,
    /// Why, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// Which features a raw score is made of: `base`, all contributions and `others` sum to it. Of trees exact
/// TreeSHAP (Lundberg, Erion & Lee 2018, arXiv:1802.03888), of networks integrated gradients
/// (Sundararajan, Taly & Yan 2017, arXiv:1703.01365).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Explanation {
    /// Whose raw score: of two labels the last, of more the one that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The raw score: of two labels the log-odds before calibration, of more what the softmax takes,
    /// of a regression the prediction.
    pub raw_score: f64,
    /// Of trees, the mean raw score over training rows; of networks, that of a row of medians and of the
    /// most frequent categories.
    pub base: f64,
    /// The greatest contributions, by absolute value.
    pub contributions: Vec<Contribution>,
    /// The sum of all other contributions.
    pub others: f64,
}

/// By how much a feature moves a raw score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contribution {
    /// Its name.
    pub feature: String,
    /// By how much.
    pub contribution: f64,
}

impl Model {
    /// Of LightGBM's text and all else.
    ///
    /// # Errors
    ///
    /// A text that is no model, and parts that do not go with it or with one another.
    pub fn new(text: String, parts: Parts) -> Result<Self> {
        let predictor = Box::new(Predictor::from_text(&text)?);
        let fault = parts.fault_of_trees(&predictor);
        Self::of(parts, Learned::Trees { text, predictor }, fault)
    }

    /// Of a network and all else.
    ///
    /// # Errors
    ///
    /// Parts that do not go with one another.
    pub fn of_network(network: Box<dyn Network>, parts: Parts) -> Result<Self> {
        let fault = match &parts.recipe {
            Recipe::Trees(_) => Some("the parts are of trees".to_owned()),
            Recipe::Network(config) => config.fault(&parts.features),
        };
        Self::of(parts, Learned::Network(network), fault)
    }

    fn of(parts: Parts, learned: Learned, fault: Option<String>) -> Result<Self> {
        let fault = fault.or_else(|| parts.fault());
        let inputs = Inputs::new(&parts.features, parts.rules.as_ref());
        match (fault, inputs) {
            (None, Ok(inputs)) => Ok(Self { parts, learned, scorer: None, inputs }),
            (Some(detail), _) | (None, Err(detail)) => Err(TabularError::Data(detail)),
        }
    }

    /// Reads the directory of a model of trees.
    ///
    /// # Errors
    ///
    /// Files that are missing or that are none of a model's, damaged ones among them; the error says
    /// which. A network, which takes [`Self::load_with`].
    pub fn load(directory: &Path) -> Result<Self> {
        Self::load_with(directory, |_, _, _| {
            Err("it is a network, which hearth-worker computes".to_owned())
        })
    }

    /// Reads a model's directory; `network` makes a network of a configuration, the raw scores of a
    /// row, and a safetensors file, or says what is wrong with that file.
    ///
    /// # Errors
    ///
    /// Those of [`Self::load`], and what `network` says.
    pub fn load_with(
        directory: &Path,
        network: impl FnOnce(&NetworkConfig, usize, &[u8]) -> Result<Box<dyn Network>, String>,
    ) -> Result<Self> {
        let config::Read { learned, learned_path, parts, path } = config::load(directory)?;
        let damaged = |error: TabularError| TabularError::damaged(&path, error.to_string());
        let Recipe::Network(config) = &parts.recipe else {
            let text = String::from_utf8(learned)
                .map_err(|_| TabularError::damaged(&learned_path, "it is no UTF-8"))?;
            return Self::new(text, parts).map_err(damaged);
        };
        // First whether the sizes are some: what they are not is not made.
        if let Some(fault) = parts.features.fault().or_else(|| config.fault(&parts.features)) {
            return Err(TabularError::damaged(&path, fault));
        }
        let network = network(config, parts.features.classes(), &learned)
            .map_err(|detail| TabularError::damaged(&learned_path, detail))?;
        Self::of_network(network, parts).map_err(damaged)
    }

    /// Writes a model's directory; the same bytes for the same model. `config.json` comes last: without
    /// it there is no model.
    ///
    /// # Errors
    ///
    /// Files that cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let learned = match &self.learned {
            Learned::Trees { text, .. } => Cow::Borrowed(text.as_bytes()),
            Learned::Network(network) => Cow::Owned(network.weights()?),
        };
        config::save(directory, &learned, &self.parts)
    }

    /// What it is besides its trees or weights.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// LightGBM's text; `None` of a network.
    pub fn text(&self) -> Option<&str> {
        match &self.learned {
            Learned::Trees { text, .. } => Some(text),
            Learned::Network(_) => None,
        }
    }

    /// The trees as data; `None` of a network.
    ///
    /// # Errors
    ///
    /// Trees that LightGBM grew with `zero_as_missing`, which ours never are.
    pub fn forest(&self) -> Result<Option<Forest>> {
        self.text().map(Forest::of).transpose().map_err(TabularError::Data)
    }

    /// Has something else compute raw scores. Explanations stay with what was learned.
    #[must_use]
    pub fn scored_by(self, scorer: Box<dyn Scorer>) -> Self {
        Self { scorer: Some(scorer), ..self }
    }

    /// Predicts rows.
    ///
    /// # Errors
    ///
    /// Those of [`Self::encode`].
    pub fn predict(&self, rows: &[Map<String, Value>]) -> Result<Vec<Prediction>> {
        self.predict_rows(&self.encode(rows)?, 0)
    }

    /// Reads rows. A field that is left out, or null, is a missing value.
    ///
    /// # Errors
    ///
    /// A field of a name that no column has, for a misspelt one would be missing; a missing value of a
    /// feature of which training rows missed none, once rules have mended it; a value that is none of
    /// its column. Columns that were left out of the features, and those made of others, are passed
    /// over.
    pub fn encode(&self, rows: &[Map<String, Value>]) -> Result<Rows> {
        self.inputs.rows(&self.parts.features, rows)
    }

    /// Predicts rows that were read; with the `explain` greatest contributions, where that is not 0.
    ///
    /// # Errors
    ///
    /// Rows of another model.
    pub fn predict_rows(&self, rows: &Rows, explain: usize) -> Result<Vec<Prediction>> {
        let raw = self.raw_scores(&rows.values)?;
        let classes = self.parts.features.classes();
        let explained = |raw| self.explained(&self.probabilities(raw)).0;
        let contributions = (explain > 0).then(|| {
            let of: Vec<usize> = if self.parts.features.task == Task::TabularRegression {
                vec![0; rows.rows]
            } else {
                raw.chunks_exact(classes).map(explained).collect()
            };
            self.contributions(&rows.values, &of)
        });
        let contributions = contributions.transpose()?;
        let width = self.parts.features.features.len() + 1;
        let mut predictions = Vec::with_capacity(rows.rows);
        for (row, raw) in raw.chunks_exact(classes).enumerate() {
            let contributions =
                contributions.as_ref().map(|all| &all[row * width..(row + 1) * width]);
            predictions.push(self.prediction(raw, contributions, explain));
        }
        Ok(predictions)
    }

    /// Raw scores, `[rows, classes]`, of values, `[rows, features]`: log-odds, what a softmax takes, or
    /// the prediction itself.
    ///
    /// # Errors
    ///
    /// Rows of another model, and what computes them.
    pub fn raw_scores(&self, values: &[f64]) -> Result<Vec<f64>> {
        let matrix = self.matrix(values)?;
        if let Some(scorer) = &self.scorer {
            return scorer.scores(values);
        }
        match &self.learned {
            Learned::Trees { predictor, .. } => predictor.scores(matrix),
            Learned::Network(network) => network.scores(values),
        }
    }

    /// Contributions to the raw score of each row's class, `[rows, features + 1]`, the base last.
    fn contributions(&self, values: &[f64], classes: &[usize]) -> Result<Vec<f64>> {
        let matrix = self.matrix(values)?;
        let predictor = match &self.learned {
            Learned::Network(network) => return network.contributions(values, classes),
            Learned::Trees { predictor, .. } => predictor,
        };
        let width = matrix.columns + 1;
        let all = predictor.contributions(matrix)?;
        let rows = all.chunks_exact(self.parts.features.classes() * width).zip(classes);
        let own = rows.flat_map(|(row, class)| &row[class * width..(class + 1) * width]);
        Ok(own.copied().collect())
    }

    /// Whose raw score is explained: its number among the raw scores, and the label.
    fn explained(&self, probabilities: &[f64]) -> (usize, usize) {
        if self.parts.features.is_binary() {
            return (0, 1);
        }
        let given = self.given(probabilities);
        (given, given)
    }

    fn prediction(&self, raw: &[f64], contributions: Option<&[f64]>, explain: usize) -> Prediction {
        let features = &self.parts.features;
        if features.task == Task::TabularRegression {
            let explanation =
                contributions.map(|all| self.explanation(raw, all, (0, None), explain));
            return Prediction::Number(NumberPrediction { value: raw[0], explanation });
        }
        let probabilities = self.probabilities(raw);
        let given = self.given(&probabilities);
        let (class, explained) = self.explained(&probabilities);
        let label = features.labels[explained].clone();
        let explanation =
            contributions.map(|all| self.explanation(raw, all, (class, Some(label)), explain));
        Prediction::Label(LabelPrediction {
            label: features.labels[given].clone(),
            score: probabilities[given],
            probabilities: features.labels.iter().cloned().zip(probabilities).collect(),
            threshold: features.is_binary().then(|| self.threshold()),
            explanation,
        })
    }

    /// Of a row's contributions to a class, `[features + 1]`.
    fn explanation(
        &self,
        raw: &[f64],
        contributions: &[f64],
        (class, label): (usize, Option<String>),
        most: usize,
    ) -> Explanation {
        let features = &self.parts.features.features;
        let mut numbered: Vec<(usize, f64)> =
            contributions[..features.len()].iter().copied().enumerate().collect();
        numbered.sort_by(|(_, one), (_, other)| other.abs().total_cmp(&one.abs()));
        let (first, rest) = numbered.split_at(most.min(numbered.len()));
        let name = |(number, contribution): &(usize, f64)| Contribution {
            feature: features[*number].name.clone(),
            contribution: *contribution,
        };
        Explanation {
            label,
            raw_score: raw[class],
            base: contributions[features.len()],
            contributions: first.iter().map(name).collect(),
            others: rest.iter().map(|(_, contribution)| contribution).sum(),
        }
    }

    /// Probabilities, `[labels]`, of raw scores, `[classes]`.
    fn probabilities(&self, raw: &[f64]) -> Vec<f64> {
        let mut probabilities = uncalibrated(raw);
        if let Some(calibration) = &self.parts.calibration {
            calibration.apply(&mut probabilities);
        }
        probabilities
    }

    fn threshold(&self) -> f64 {
        self.parts.threshold.as_ref().map_or(0.5, |threshold| threshold.value)
    }

    /// The number of the label that is given; of equally likely ones the first.
    fn given(&self, probabilities: &[f64]) -> usize {
        if self.parts.features.is_binary() {
            return usize::from(probabilities[1] >= self.threshold());
        }
        let likeliest = |best: usize, label: usize| {
            if probabilities[label] > probabilities[best] { label } else { best }
        };
        (1..probabilities.len()).fold(0, likeliest)
    }

    /// How good it is on rows.
    ///
    /// # Errors
    ///
    /// No rows, and rows of other features.
    pub fn evaluate(&self, table: &Table) -> Result<Metrics> {
        if table.rows() == 0 || *table.features() != self.parts.features {
            let detail = "there are no rows to evaluate on, or they have other features";
            return Err(TabularError::Data(detail.to_owned()));
        }
        let raw = self.raw_scores(table.values())?;
        let features = &self.parts.features;
        if features.task == Task::TabularRegression {
            return Ok(Metrics::Regression(RegressionMetrics::of(&raw, table.labels())));
        }
        let labels = features.labels.len();
        let rows = raw.chunks_exact(features.classes());
        let probabilities: Vec<f64> = rows.flat_map(|raw| self.probabilities(raw)).collect();
        let given: Vec<usize> =
            probabilities.chunks_exact(labels).map(|row| self.given(row)).collect();
        let truths: Vec<usize> = table.labels().iter().map(|label| number(*label)).collect();
        let mut metrics = ClassificationMetrics::of(&probabilities, &given, &truths, labels);
        if features.is_binary() {
            let rows = probabilities.chunks_exact(2).zip(&truths);
            let rows: Vec<_> = rows.map(|(row, truth)| (row[1], *truth == 1)).collect();
            metrics.confusion = Some(Confusion::of(counts(self.threshold(), &rows)));
        }
        Ok(Metrics::Classification(metrics))
    }

    /// Probabilities before calibration, `[rows, labels]`, or predictions, `[rows]`.
    pub(crate) fn scores(&self, table: &Table) -> Result<Vec<f64>> {
        let raw = self.raw_scores(table.values())?;
        if self.parts.features.task == Task::TabularRegression {
            return Ok(raw);
        }
        Ok(raw.chunks_exact(self.parts.features.classes()).flat_map(uncalibrated).collect())
    }

    /// What drift compares, of raw scores of a row.
    pub(crate) fn watched(&self, table: &Table) -> Result<Vec<f64>> {
        let raw = self.raw_scores(table.values())?;
        let classes = self.parts.features.classes();
        let of = |raw| score_of(&self.prediction(raw, None, 0), &self.parts.features);
        Ok(raw.chunks_exact(classes).map(of).collect())
    }

    /// What drift compares of rows and of what was said of them: values of the features, and the score.
    pub fn compared<'r>(
        &'r self,
        rows: &'r Rows,
        predictions: &'r [Prediction],
    ) -> impl Iterator<Item = (&'r [f64], f64)> {
        let features = &self.parts.features;
        let values = rows.values.chunks_exact(features.features.len());
        values.zip(predictions).map(|(values, said)| (values, score_of(said, features)))
    }

    fn matrix<'r>(&self, values: &'r [f64]) -> Result<Matrix<'r>> {
        let matrix = Matrix::new(values, self.parts.features.features.len());
        matrix.ok_or_else(|| TabularError::Data("these are rows of another model".to_owned()))
    }
}

/// The score that drift compares.
fn score_of(prediction: &Prediction, features: &Features) -> f64 {
    match prediction {
        Prediction::Number(NumberPrediction { value, .. }) => *value,
        Prediction::Label(LabelPrediction { score, probabilities, .. }) => {
            let positive = probabilities.get_index(1).filter(|_| features.is_binary());
            positive.map_or(*score, |(_, probability)| *probability)
        }
    }
}

/// Probabilities, `[labels]`, of a classification's raw scores, `[classes]`.
fn uncalibrated(raw: &[f64]) -> Vec<f64> {
    if let [raw] = raw {
        return vec![expit(-raw), expit(*raw)];
    }
    let greatest = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut odds: Vec<f64> = raw.iter().map(|raw| libm::exp(raw - greatest)).collect();
    let sum: f64 = odds.iter().sum();
    for odds in &mut odds {
        *odds /= sum;
    }
    odds
}

impl Parts {
    /// What does not go with trees.
    fn fault_of_trees(&self, predictor: &Predictor) -> Option<String> {
        let (features, shape) = (&self.features, predictor.shape());
        if let Some(fault) = features.fault() {
            return Some(fault);
        }
        if matches!(self.recipe, Recipe::Network(_)) {
            return Some("the parts are of a network".to_owned());
        }
        let classification = matches!(&*shape.objective, name if name == "binary sigmoid:1" || name.starts_with("multiclass"));
        if shape.features != features.features.len()
            || shape.classes != features.classes()
            || classification != (features.task == Task::TabularClassification)
        {
            return Some("the trees are of other features, labels or another task".to_owned());
        }
        None
    }

    /// What does not go together.
    fn fault(&self) -> Option<String> {
        let features = &self.features;
        if let Some(fault) = features.fault() {
            return Some(fault);
        }
        let labels = features.labels.len();
        let calibration = self.calibration.as_ref().and_then(|of| of.fault(labels));
        let threshold = self
            .threshold
            .as_ref()
            .filter(|of| !features.is_binary() || !(0.0..=1.0).contains(&of.value));
        let reference = self.reference.as_ref().and_then(|of| {
            let whole = of.features.len() == features.features.len();
            let fault = of.features.iter().chain([&of.score]).find_map(Histogram::fault);
            fault.or((!whole).then_some("the reference is of other features"))
        });
        let threshold = threshold.map(|_| "the threshold is none");
        calibration.or(threshold).or(reference).map(str::to_owned)
    }
}
