//! `threshold.json`: from which probability on a classifier's second label is its answer.

use std::io;
use std::path::Path;

use hearth_tabular::holdout::tunes;
use hearth_tabular::{ClassificationMetrics, Confusion, TabularError, Threshold, ThresholdTarget};
use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_json};
use crate::model::ModelError;

/// Name of the file.
pub const DECISION: &str = "threshold.json";

/// The answer is `label` from `threshold` on, and the other of two labels below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decision {
    /// The second label, in the order of their ids.
    pub label: String,
    /// The probability, and what it was chosen on.
    pub threshold: Threshold,
    /// How good the model is with it, on held-out rows that chose nothing.
    pub metrics: ClassificationMetrics,
}

/// The label that is the answer: the likeliest, the first of equal ones, or what the threshold of two says.
pub fn decided(scores: &[f32], threshold: Option<f64>) -> usize {
    if let ([_, second], Some(threshold)) = (scores, threshold) {
        return usize::from(f64::from(*second) >= threshold);
    }
    let labels = scores.iter().enumerate().rev();
    let best = labels.max_by(|(_, one), (_, other)| one.total_cmp(other));
    best.map_or(0, |(label, _)| label)
}

impl Decision {
    /// Chooses a threshold by half of the held-out rows, and measures it on the others: `scores` are
    /// probabilities of `label`, and `positive` tells which rows have it.
    ///
    /// # Errors
    ///
    /// A half without rows of both labels, and a target that no threshold meets.
    pub fn choose(
        label: String,
        target: ThresholdTarget,
        rows: &[(f64, bool)],
        seed: u64,
    ) -> Result<Self, TabularError> {
        let (tuning, report): (Vec<_>, Vec<_>) =
            (0_u64..).zip(rows).partition(|(row, _)| tunes(*row, seed));
        let half = |half: Vec<(u64, &(f64, bool))>| -> (Vec<f64>, Vec<bool>) {
            half.into_iter().map(|(_, row)| *row).unzip()
        };
        let (tuning, report) = (half(tuning), half(report));
        for ((_, positive), what) in [(&tuning, "chooses"), (&report, "tells what it costs")] {
            let with = positive.iter().filter(|is| **is).count();
            if with == 0 || with == positive.len() {
                let detail = format!(
                    "of the half of the rows for evaluation that {what}, {with} of {} have the label {label:?}; give more of both labels",
                    positive.len()
                );
                return Err(TabularError::Data(detail));
            }
        }
        let threshold = Threshold::choose(target, &tuning.0, &tuning.1)?;
        let truths: Vec<usize> = report.1.iter().map(|is| usize::from(*is)).collect();
        let given: Vec<usize> =
            report.0.iter().map(|score| usize::from(*score >= threshold.value)).collect();
        let of_both: Vec<f64> = report.0.iter().flat_map(|score| [1.0 - score, *score]).collect();
        let metrics = ClassificationMetrics {
            confusion: Some(Confusion::at(threshold.value, &report.0, &report.1)),
            ..ClassificationMetrics::of(&of_both, &given, &truths, 2)
        };
        Ok(Self { label, threshold, metrics })
    }

    /// Reads the file of a directory; `None` where it has none.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        read_json(&directory.join(DECISION))
    }

    /// Reads the file of a model with these labels; `None` where it has none.
    ///
    /// # Errors
    ///
    /// A file that is damaged, or of another model.
    pub fn of_model(directory: &Path, labels: &[String]) -> Result<Option<Self>, ModelError> {
        let malformed = |detail| ModelError::Malformed { path: directory.join(DECISION), detail };
        let decision = Self::read(directory).map_err(|error| malformed(error.to_string()))?;
        match decision {
            Some(Self { label, .. }) if labels.len() != 2 || labels[1] != label => {
                Err(malformed(format!(
                    "{label:?} is not the second of two labels, which config.json says are {labels:?}; they are not of one model"
                )))
            }
            decision => Ok(decision),
        }
    }

    /// Writes the file into a directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        write_json(&directory.join(DECISION), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<(f64, bool)> {
        (0..400).map(|row| (f64::from(row) / 400.0, row % 7 == 0 || row > 300)).collect()
    }

    #[test]
    fn of_equal_scores_the_first_label_is_the_answer_as_argmax_has_it() {
        let scores = [0.2_f32, 0.4, 0.4];
        let argmax = tch::Tensor::from_slice(&scores).argmax(0, false);
        assert_eq!(decided(&scores, None), 1);
        assert_eq!(argmax.int64_value(&[]), 1);
        assert_eq!(decided(&[0.5, 0.5], None), 0);
        assert_eq!(decided(&[0.5, 0.5], Some(0.5)), 1);
    }

    #[test]
    fn one_half_chooses_and_the_other_is_reported_on() {
        let decision =
            Decision::choose("bad".into(), ThresholdTarget::Recall(1.0), &rows(), 3).unwrap();
        let counts = |of: &Confusion| {
            let of = of.counts;
            of.true_positives + of.false_positives + of.true_negatives + of.false_negatives
        };
        let (chose, told) = (&decision.threshold.chosen_on, decision.metrics.confusion.as_ref());
        assert_eq!(counts(chose) + counts(told.unwrap()), 400);
        assert_eq!(counts(told.unwrap()), decision.metrics.rows);
        assert_eq!(chose.counts.false_negatives, 0);
        let again = Decision::choose("bad".into(), ThresholdTarget::Recall(1.0), &rows(), 3);
        assert_eq!(again.unwrap(), decision);
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Decision::read(home.path()).unwrap(), None);
        let target = ThresholdTarget::FalsePositiveRate(0.1);
        let decision = Decision::choose("bad".into(), target, &rows(), 0).unwrap();
        decision.write(home.path()).unwrap();
        assert_eq!(Decision::read(home.path()).unwrap(), Some(decision));
    }

    #[test]
    fn a_half_of_one_label_chooses_nothing() {
        let rows: Vec<_> = rows().into_iter().map(|(score, _)| (score, false)).collect();
        let refused = Decision::choose("bad".into(), ThresholdTarget::Recall(0.9), &rows, 0);
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("0 of") && told.contains("\"bad\""), "{told}");
    }
}
