//! A density over points by kernels around observed ones (Bergstra et al. 2011), with the choices
//! of Optuna's `_ParzenEstimator` (Watanabe 2023, arXiv:2304.11127): one kernel more is the prior,
//! old observations weigh less, and no kernel is narrower than a share of the range.

use std::f64::consts::{SQRT_2, TAU};

use super::dice::Dice;
use super::space::{Coordinate, Domain, Point, Range, Space};

/// Observations that weigh as much as the newest.
const RECENT: usize = 25;

/// A mixture of kernels, one an observation and one of the prior, each a product over dimensions.
#[derive(Debug)]
pub struct Parzen<'a> {
    space: &'a Space,
    weights: Vec<f64>,
    /// By kernel and dimension; none where the observation has no such dimension.
    kernels: Vec<Vec<Option<Kernel>>>,
    /// By dimension.
    prior: Vec<Kernel>,
}

#[derive(Clone, Debug)]
enum Kernel {
    /// Normal around `mean`, cut off at the range's ends.
    Normal { mean: f64, deviation: f64 },
    /// Probabilities of the choices.
    Choices(Vec<f64>),
}

impl<'a> Parzen<'a> {
    /// Of points in the order in which they were observed.
    pub fn new(space: &'a Space, observed: &[&Point]) -> Self {
        let dimensions = space.dimensions();
        let prior: Vec<Kernel> = dimensions.iter().map(|one| Kernel::prior(&one.domain)).collect();
        let mut kernels: Vec<Vec<Option<Kernel>>> =
            observed.iter().map(|point| vec![None; point.0.len()]).collect();
        for (index, dimension) in dimensions.iter().enumerate() {
            let places: Vec<(usize, Coordinate)> = observed
                .iter()
                .enumerate()
                .filter_map(|(kernel, point)| Some((kernel, (*point.0.get(index)?)?)))
                .collect();
            for ((kernel, _), made) in places.iter().zip(around(&dimension.domain, &places)) {
                kernels[*kernel][index] = Some(made);
            }
        }
        kernels.push(prior.iter().cloned().map(Some).collect());
        Self { space, weights: weights(observed.len()), kernels, prior }
    }

    /// A point drawn from the mixture.
    pub fn draw(&self, dice: &mut Dice) -> Point {
        let kernel = &self.kernels[dice.pick(&self.weights)];
        self.space.decide(|index, domain| {
            kernel[index].as_ref().unwrap_or(&self.prior[index]).draw(domain, dice)
        })
    }

    /// Logarithm of the density at a point.
    pub fn log_density(&self, point: &Point) -> f64 {
        let logs: Vec<f64> = self
            .kernels
            .iter()
            .zip(&self.weights)
            .map(|(kernel, weight)| weight.ln() + self.log_of_kernel(kernel, point))
            .collect();
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest.is_infinite() {
            return largest;
        }
        largest + logs.iter().map(|log| (log - largest).exp()).sum::<f64>().ln()
    }

    fn log_of_kernel(&self, kernel: &[Option<Kernel>], point: &Point) -> f64 {
        let places = self.space.dimensions().iter().zip(&point.0).enumerate();
        places
            .filter_map(|(index, (dimension, place))| {
                let kernel = kernel[index].as_ref().unwrap_or(&self.prior[index]);
                Some(kernel.log_density(&dimension.domain, (*place)?))
            })
            .sum()
    }
}

/// Of kernels in the order of their observations, and of the prior's; they add up to 1.
fn weights(observations: usize) -> Vec<f64> {
    let old = observations.saturating_sub(RECENT);
    let ramp = |index: usize| {
        let (first, steps) = (1.0 / observations as f64, old.saturating_sub(1).max(1) as f64);
        first + (1.0 - first) * index as f64 / steps
    };
    let weight = |index: usize| if index < old { ramp(index) } else { 1.0 };
    let mut all: Vec<f64> = (0..observations).map(weight).chain([1.0]).collect();
    let sum: f64 = all.iter().sum();
    for weight in &mut all {
        *weight /= sum;
    }
    all
}

/// Kernels around places along one dimension.
fn around(domain: &Domain, places: &[(usize, Coordinate)]) -> Vec<Kernel> {
    match domain {
        Domain::Choices(values) => {
            let share = 1.0 / (places.len() + 1) as f64;
            let whole = 1.0 + share * values.len() as f64;
            let one = |choice: usize| {
                let mut all = vec![share / whole; values.len()];
                if let Some(chosen) = all.get_mut(choice) {
                    *chosen = (1.0 + share) / whole;
                }
                Kernel::Choices(all)
            };
            places
                .iter()
                .map(|(_, place)| match place {
                    Coordinate::Choice(choice) => one(*choice),
                    Coordinate::Number(_) => Kernel::prior(domain),
                })
                .collect()
        }
        Domain::Range(range) => {
            let deviation = deviation(range, places.len());
            let kernel = |place: &(usize, Coordinate)| match place.1 {
                Coordinate::Number(number) => {
                    Kernel::Normal { mean: range.scaled(number), deviation }
                }
                Coordinate::Choice(_) => Kernel::prior(domain),
            };
            places.iter().map(kernel).collect()
        }
    }
}

/// One for all kernels of a dimension, narrower the more there are (Scott's rule in two dimensions,
/// as Optuna's multivariate sampler has it, half as wide).
fn deviation(range: &Range, kernels: usize) -> f64 {
    let (low, high) = range.ends();
    let width = high - low;
    let least = width / (10.0 * (kernels as f64 + 2.0).min(100.0));
    (0.1 * (kernels.max(1) as f64).powf(-1.0 / 6.0) * width).clamp(least, width)
}

impl Kernel {
    /// Over the whole domain.
    fn prior(domain: &Domain) -> Self {
        match domain {
            Domain::Choices(values) => Self::Choices(vec![1.0 / values.len() as f64; values.len()]),
            Domain::Range(range) => {
                let (low, high) = range.ends();
                Self::Normal { mean: f64::midpoint(low, high), deviation: high - low }
            }
        }
    }

    fn draw(&self, domain: &Domain, dice: &mut Dice) -> Coordinate {
        match (self, domain) {
            (Self::Normal { mean, deviation }, Domain::Range(range)) => {
                let (low, high) = range.ends();
                // The mean is within the ends and the deviation at most their distance, so that
                // a third of the draws is at least.
                let mut place = f64::INFINITY;
                while !(low..=high).contains(&place) {
                    place = mean + deviation * dice.normal();
                }
                Coordinate::Number(range.number(place))
            }
            (Self::Choices(weights), _) => Coordinate::Choice(dice.pick(weights)),
            (Self::Normal { .. }, Domain::Choices(_)) => domain.at(dice.share()),
        }
    }

    fn log_density(&self, domain: &Domain, place: Coordinate) -> f64 {
        match (self, domain, place) {
            (
                Self::Normal { mean, deviation },
                Domain::Range(range),
                Coordinate::Number(number),
            ) => {
                let (low, high) = range.ends();
                let below = |place: f64| normal_below((place - mean) / deviation);
                let inside = (below(high) - below(low)).ln();
                if range.integer {
                    return (below(range.scaled(number + 0.5)) - below(range.scaled(number - 0.5)))
                        .max(f64::MIN_POSITIVE)
                        .ln()
                        - inside;
                }
                let far = (range.scaled(number) - mean) / deviation;
                -0.5 * far * far - (deviation * TAU.sqrt()).ln() - inside
            }
            (Self::Choices(weights), _, Coordinate::Choice(choice)) => {
                weights.get(choice).map_or(f64::NEG_INFINITY, |weight| weight.ln())
            }
            _ => f64::NEG_INFINITY,
        }
    }
}

/// Share of the normal distribution below `x`.
fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}
