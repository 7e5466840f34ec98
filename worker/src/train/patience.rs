//! When to stop for want of progress: transformers' `EarlyStoppingCallback`. Pure.

use serde::{Deserialize, Serialize};

use crate::config::EarlyStopping;

/// How long the metric has not become better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Patience {
    /// The best value of all evaluations.
    pub best: Option<f64>,
    /// Evaluations since it was better by more than the threshold.
    pub waited: u32,
}

impl Patience {
    /// Takes note of an evaluation. Whether patience is at its end.
    pub fn observe(&mut self, rule: EarlyStopping, value: f64, greater_is_better: bool) -> bool {
        let better = |than: f64| if greater_is_better { value > than } else { value < than };
        let best = self.best;
        if best.is_none_or(&better) {
            self.best = Some(value);
        }
        if best.is_none_or(|best| better(best) && (value - best).abs() > rule.threshold) {
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        self.waited >= rule.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_at(values: &[f64], threshold: f64, greater_is_better: bool) -> Option<usize> {
        let mut patience = Patience::default();
        let rule = EarlyStopping { patience: 2, threshold };
        values.iter().position(|value| patience.observe(rule, *value, greater_is_better))
    }

    #[test]
    fn it_ends_after_so_many_evaluations_without_a_better_one() {
        assert_eq!(stops_at(&[1.0, 0.9, 0.9, 0.95], 0.0, false), Some(3));
        assert_eq!(stops_at(&[0.5, 0.6, 0.6, 0.7, 0.6], 0.0, true), None);
        assert_eq!(stops_at(&[0.5, 0.4, 0.3], 0.0, true), Some(2));
    }

    #[test]
    fn small_gains_do_not_count_and_still_move_the_bar() {
        assert_eq!(stops_at(&[1.0, 0.95, 0.9], 0.1, false), Some(2));
        assert_eq!(stops_at(&[1.0, 0.95, 0.84, 0.8], 0.1, false), None);
    }
}
