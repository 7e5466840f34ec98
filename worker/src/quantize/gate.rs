//! Whether a compressed model may take the place of the original.

use hearth_crds::training_arguments::Metric;
use serde::{Deserialize, Serialize};

use crate::event::EvalMetrics;

/// What the gate's metric was before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What is compared.
    pub metric: Metric,
    /// Of the original.
    pub before: f64,
    /// Of the compressed model.
    pub after: f64,
}

/// The compressed model lost too much.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "compression lost {lost:.4} of {metric}, and the gate allows {allowed}: {before:.4} before, {after:.4} after on {samples} rows; allow more in compression.gate.maxDrop, or serve the model uncompressed"
)]
pub struct GateFailed {
    metric: &'static str,
    lost: f64,
    allowed: f64,
    before: f64,
    after: f64,
    samples: u64,
}

impl Comparison {
    /// Picks the metric.
    pub fn of(metric: Metric, before: &EvalMetrics, after: &EvalMetrics) -> Self {
        // A gate on a figure that a model does not have never passes.
        let pick = |metrics: &EvalMetrics| metrics.value(metric).unwrap_or(f64::NAN);
        Self { metric, before: pick(before), after: pick(after) }
    }

    /// How much worse it got; below 0 where it got better.
    pub fn lost(&self) -> f64 {
        match self.metric {
            Metric::Loss => self.after - self.before,
            Metric::Accuracy | Metric::F1 | Metric::F1Macro => self.before - self.after,
        }
    }

    /// Passes where no more than `allowed` was lost. A figure that is no
    /// number never passes.
    pub fn check(&self, allowed: f64, samples: u64) -> Result<(), GateFailed> {
        let lost = self.lost();
        // Figures are quotients of counts: 0.97 - 0.96 is not exactly 0.01.
        if lost <= allowed + 1e-9 {
            return Ok(());
        }
        let Self { before, after, .. } = *self;
        Err(GateFailed { metric: name(self.metric), lost, allowed, before, after, samples })
    }
}

/// As it is written in YAML.
fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::Loss => "loss",
        Metric::Accuracy => "accuracy",
        Metric::F1 => "f1",
        Metric::F1Macro => "f1Macro",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loss_beyond_the_allowed_one_fails() {
        for (name, metric, before, after, allowed, passes) in [
            ("equal", Metric::F1, 0.97, 0.97, 0.0, true),
            ("better", Metric::F1, 0.97, 0.98, 0.0, true),
            ("on the line", Metric::F1, 0.97, 0.96, 0.01, true),
            ("beyond it", Metric::F1, 0.97, 0.959, 0.01, false),
            ("accuracy falls", Metric::Accuracy, 0.9, 0.8, 0.05, false),
            ("macro F1 falls", Metric::F1Macro, 0.9, 0.8, 0.05, false),
            ("a lower loss is better", Metric::Loss, 0.5, 0.1, 0.0, true),
            ("a higher loss is worse", Metric::Loss, 0.1, 0.5, 0.3, false),
            ("no number", Metric::F1, 0.9, f64::NAN, 1.0, false),
        ] {
            let passed = Comparison { metric, before, after }.check(allowed, 10).is_ok();
            assert_eq!(passed, passes, "{name}");
        }
    }

    #[test]
    fn the_sentence_tells_what_was_lost_and_what_to_do() {
        let failed = Comparison { metric: Metric::F1, before: 0.98, after: 0.9 }
            .check(0.01, 40)
            .unwrap_err();
        assert_eq!(
            failed.to_string(),
            "compression lost 0.0800 of f1, and the gate allows 0.01: 0.9800 before, 0.9000 after \
             on 40 rows; allow more in compression.gate.maxDrop, or serve the model uncompressed"
        );
    }
}
