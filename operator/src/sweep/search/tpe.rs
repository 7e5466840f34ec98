//! The tree-structured Parzen estimator (Bergstra et al. 2011): of points drawn where good ones
//! were, the one that is least like the others.

use super::Trial;
use super::dice::Dice;
use super::parzen::Parzen;
use super::space::{Point, Space};

/// Trials before the estimate.
pub const STARTUP: usize = 10;
/// Points that are drawn and compared.
const CANDIDATES: usize = 24;
/// One of so many trials is a good one, and the most of these.
const GOOD_SHARE: usize = 10;
const MOST_GOOD: usize = 25;

/// Proposes a point after `trials`, in the order of their numbers. Those without a loss, failed or
/// still running, count as bad, so that trials at once go to different places; those that were
/// stopped come after all that ran to their end, as Optuna's pruned ones do.
pub fn propose(space: &Space, trials: &[Trial], dice: &mut Dice) -> Point {
    let told = trials.iter().enumerate();
    let mut told: Vec<(usize, bool, f64)> =
        told.filter_map(|(number, trial)| Some((number, trial.stopped, trial.loss?))).collect();
    told.sort_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)).then(a.0.cmp(&b.0)));
    told.truncate(told.len().div_ceil(GOOD_SHARE).min(MOST_GOOD));
    let mut is_good = vec![false; trials.len()];
    for (number, ..) in &told {
        is_good[*number] = true;
    }
    let of = |wanted: bool| -> Vec<&Point> {
        let chosen = trials.iter().zip(&is_good).filter(|(_, good)| **good == wanted);
        chosen.map(|(trial, _)| &trial.point).collect()
    };
    let (better, worse) = (Parzen::new(space, &of(true)), Parzen::new(space, &of(false)));
    let mut best = (f64::NEG_INFINITY, Point::default());
    for _ in 0..CANDIDATES {
        let point = better.draw(dice);
        let gain = better.log_density(&point) - worse.log_density(&point);
        if gain > best.0 || best.1.0.is_empty() {
            best = (gain, point);
        }
    }
    best.1
}
