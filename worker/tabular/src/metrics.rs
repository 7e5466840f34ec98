//! How good predictions are. Each metric is scikit-learn's of the same name.

use serde::{Deserialize, Serialize};

use crate::threshold::Confusion;

/// How good predictions are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metrics {
    /// Of labels.
    Classification(ClassificationMetrics),
    /// Of numbers.
    Regression(RegressionMetrics),
}

/// How good labels and their probabilities are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassificationMetrics {
    /// Rows.
    pub rows: u64,
    /// Share of right labels.
    pub accuracy: f64,
    /// Mean F1 of the labels that rows have or were given.
    pub macro_f1: f64,
    /// Cross-entropy in nats.
    pub log_loss: f64,
    /// Mean squared distance of the probability from 1 or 0: of the positive label of two, of all
    /// labels, summed, where there are more (Brier 1950).
    pub brier: f64,
    /// Area under the ROC curve; of more than two labels, the mean over each against the rest. `None`
    /// where some label has no row, or all.
    pub roc_auc: Option<f64>,
    /// Average precision: area under the precision-recall curve by steps; of more than two labels as
    /// above.
    pub average_precision: Option<f64>,
    /// Of two labels, what their threshold costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

/// How good numbers are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegressionMetrics {
    /// Rows.
    pub rows: u64,
    /// Root of the mean squared error, in the label's unit.
    pub rmse: f64,
    /// Mean absolute error, in the label's unit.
    pub mae: f64,
    /// Share of the variance that is explained; `None` where labels do not vary.
    pub r2: Option<f64>,
}

impl RegressionMetrics {
    /// Of predictions, and what was to be predicted; as many of both, at least one.
    pub fn of(predicted: &[f64], truths: &[f64]) -> Self {
        let n = truths.len() as f64;
        let errors = || predicted.iter().zip(truths).map(|(predicted, truth)| predicted - truth);
        let squares: f64 = errors().map(|error| error * error).sum();
        let mean = truths.iter().sum::<f64>() / n;
        let spread: f64 = truths.iter().map(|truth| (truth - mean) * (truth - mean)).sum();
        Self {
            rows: truths.len() as u64,
            rmse: (squares / n).sqrt(),
            mae: errors().map(f64::abs).sum::<f64>() / n,
            r2: (spread > 0.0).then(|| 1.0 - squares / spread),
        }
    }
}

impl ClassificationMetrics {
    /// Of probabilities, `[rows, labels]`, labels that rows were given, and labels that they have, by
    /// number; at least one row.
    pub fn of(probabilities: &[f64], given: &[usize], truths: &[usize], labels: usize) -> Self {
        /// Probabilities are at least this, and at most 1 less this: doubles' own precision.
        const LEAST: f64 = f64::EPSILON;
        let n = truths.len() as f64;
        let rows = || probabilities.chunks_exact(labels).zip(truths);
        let right = given.iter().zip(truths).filter(|(given, truth)| given == truth).count();
        let loss =
            |(row, truth): (&[f64], &usize)| -libm::log(row[*truth].clamp(LEAST, 1.0 - LEAST));
        let square = |label: usize, (row, truth): (&[f64], &usize)| {
            let off = row[label] - f64::from(u8::from(*truth == label));
            off * off
        };
        let of = if labels == 2 { 1..2 } else { 0..labels };
        let brier: f64 =
            of.clone().map(|label| rows().map(|row| square(label, row)).sum::<f64>()).sum();
        let scored = |label: usize| -> Vec<(f64, bool)> {
            rows().map(|(row, truth)| (row[label], *truth == label)).collect()
        };
        let mean = |metric: fn(Vec<(f64, bool)>) -> Option<f64>| -> Option<f64> {
            let all: Option<Vec<f64>> = of.clone().map(|label| metric(scored(label))).collect();
            all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        Self {
            rows: truths.len() as u64,
            accuracy: right as f64 / n,
            macro_f1: macro_f1(given, truths, labels),
            log_loss: rows().map(loss).sum::<f64>() / n,
            brier: brier / n,
            roc_auc: mean(roc_auc),
            average_precision: mean(average_precision),
            confusion: None,
        }
    }
}

fn macro_f1(given: &[usize], truths: &[usize], labels: usize) -> f64 {
    let (mut both, mut either) = (vec![0_u64; labels], vec![0_u64; labels]);
    for (given, truth) in given.iter().zip(truths) {
        both[*truth] += u64::from(given == truth);
        either[*given] += 1;
        either[*truth] += 1;
    }
    let seen = both.iter().zip(&either).filter(|(_, either)| **either > 0);
    let f1: Vec<f64> = seen.map(|(both, either)| 2.0 * *both as f64 / *either as f64).collect();
    f1.iter().sum::<f64>() / f1.len() as f64
}

/// The chance that a row with the label has a higher score than one without, ties counting half (Mann
/// & Whitney 1947). `None` where all rows are of one kind.
pub fn roc_auc(mut rows: Vec<(f64, bool)>) -> Option<f64> {
    rows.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    // Of pairs, in halves: those with a lower negative count twice, ties once.
    let (mut halves, mut below, mut with) = (0_u128, 0_u64, 0_u64);
    for tied in rows.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let positive = tied.iter().filter(|(_, is)| *is).count() as u64;
        let negative = tied.len() as u64 - positive;
        halves += u128::from(positive) * (2 * u128::from(below) + u128::from(negative));
        below += negative;
        with += positive;
    }
    let pairs = u128::from(with) * u128::from(below);
    (pairs > 0).then(|| halves as f64 / (2 * pairs) as f64)
}

/// Precisions, weighted by how much recall grows at each score. `None` where no row has the label.
pub fn average_precision(mut rows: Vec<(f64, bool)>) -> Option<f64> {
    rows.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
    let with = rows.iter().filter(|(_, is)| *is).count();
    let (mut area, mut found, mut taken) = (0.0, 0, 0);
    for tied in rows.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let positive = tied.iter().filter(|(_, is)| *is).count();
        found += positive;
        taken += tied.len();
        area += positive as f64 / with as f64 * (found as f64 / taken as f64);
    }
    (with > 0).then_some(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_half() {
        let rows = |scores: [f64; 4]| scores.into_iter().zip([false, true, false, true]).collect();
        for (scores, auc) in [
            ([0.1, 0.9, 0.2, 0.8], 1.0),
            ([0.9, 0.1, 0.8, 0.2], 0.0),
            ([0.5, 0.5, 0.5, 0.5], 0.5),
            ([0.1, 0.4, 0.4, 0.8], 0.875),
        ] {
            assert_eq!(roc_auc(rows(scores)), Some(auc), "{scores:?}");
        }
        assert_eq!(roc_auc(vec![(0.5, true)]), None);
        assert_eq!(average_precision(vec![(0.5, false)]), None);
        // scikit-learn: average_precision_score([0, 1, 0, 1], [.1, .4, .4, .8]).
        let precision = average_precision(rows([0.1, 0.4, 0.4, 0.8])).unwrap();
        assert!((precision - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn numbers_are_measured_in_their_unit() {
        let metrics = RegressionMetrics::of(&[1.0, 2.0, 5.0], &[1.0, 3.0, 3.0]);
        assert!((metrics.mae - 1.0).abs() < 1e-12);
        assert!((metrics.rmse - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((metrics.r2.unwrap() - (1.0 - 5.0 / (8.0 / 3.0))).abs() < 1e-12);
        assert_eq!(RegressionMetrics::of(&[1.0], &[1.0]).r2, None);
    }
}
