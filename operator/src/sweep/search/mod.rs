//! Which point of a space is tried next: a pure function of the seed and of the trials so far, so
//! that an operator that starts anew proposes what the old one would have.
//!
//! | Module | What it does |
//! |-|-|
//! | [`space`] | dimensions, conditions between them, points |
//! | [`grid`] | every combination |
//! | [`tpe`], [`parzen`] | the tree-structured Parzen estimator |
//! | [`halving`] | asynchronous successive halving |
//! | [`median`] | stopping what falls behind |
//! | [`dice`] | random numbers by seed and trial |

pub mod dice;
pub mod grid;
pub mod halving;
pub mod median;
pub mod parzen;
pub mod space;
pub mod tpe;

#[cfg(test)]
mod regret;

use dice::Dice;
use space::{Point, Space};

/// Points that Sobol's sequence has before it repeats itself.
const SOBOL_POINTS: u32 = 1 << 16;

/// How points are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every combination, the last dimension fastest (scikit-learn's `ParameterGrid`).
    Grid,
    /// Independent draws.
    Random,
    /// Sobol's sequence, scrambled (Owen 1995; Burley 2020).
    Sobol,
    /// The tree-structured Parzen estimator (Bergstra et al. 2011).
    Tpe,
}

/// A trial so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where it was made.
    pub point: Point,
    /// What came of it: less is better. None while it runs, and where it failed.
    pub loss: Option<f64>,
    /// Whether it was stopped before its end, with this loss by then.
    pub stopped: bool,
}

/// The point of the trial after `trials`; none where a grid is used up.
pub fn next(space: &Space, method: Method, seed: u64, trials: &[Trial]) -> Option<Point> {
    let number = u32::try_from(trials.len()).unwrap_or(u32::MAX);
    let mut dice = Dice::new(seed, number);
    match method {
        Method::Grid => grid::point(space, trials.len()),
        Method::Random => Some(space.decide(|_, domain| domain.at(dice.share()))),
        Method::Sobol => Some(sobol(space, seed, number)),
        Method::Tpe if trials.len() < tpe::STARTUP => Some(sobol(space, seed, number)),
        Method::Tpe => Some(tpe::propose(space, trials, &mut dice)),
    }
}

fn sobol(space: &Space, seed: u64, number: u32) -> Point {
    // Another scramble where the sequence would repeat.
    let round = u64::from(number / SOBOL_POINTS);
    let mixed = Dice::new(seed, u32::MAX).word().wrapping_add(round);
    let seed = u32::try_from(mixed & u64::from(u32::MAX)).unwrap_or(0);
    space.decide(|index, domain| {
        let dimension = u32::try_from(index).unwrap_or(u32::MAX) % sobol_burley::NUM_DIMENSIONS;
        domain.at(sobol_burley::sample(number % SOBOL_POINTS, dimension, seed).into())
    })
}
