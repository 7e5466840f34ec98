//! How far what is served is from what a model was trained on: rows of tables, and the numbers that
//! texts and pictures are told by.
//!
//! A [`Reference`] has, of each feature, into which bins training rows fall: ten between quantiles for
//! numbers, and beyond them where many are the least or the greatest, the most frequent values and all others for categories, and one for missing values. A
//! [`Drift`] counts rows by these bins, so its memory does not grow. Two numbers say how far both are
//! apart:
//!
//! - the population stability index, Σ (a − e) ln(a ÷ e) over bins, e and a being the shares of
//!   training and of served rows (Siddiqi 2006, Credit Risk Scorecards; the symmetric divergence of
//!   Jeffreys 1946): below 0.1 little, above 0.25 much;
//! - of numbers, the two-sample Kolmogorov–Smirnov statistic (Smirnov 1948), the largest difference
//!   between both distribution functions, here at the edges of bins: at most that of all rows.

use serde::{Deserialize, Serialize};

use crate::features::Features;
use crate::train::number;

/// Bins of numbers.
const BINS: usize = 10;
/// Values of a category with a bin of their own.
const VALUES: usize = 20;
/// Least share in a logarithm, since that of 0 has no end.
const LEAST: f64 = 1e-4;
/// Name of the score among the features; a column may have it, so it stands apart in what is said.
pub const SCORE: &str = "score";

/// How training rows are spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// Of the features, in their order.
    pub features: Vec<Histogram>,
    /// Of held-out rows' scores, for those of training rows are better than any later one's: the
    /// probability of the positive label of two, of the likeliest of more, or the prediction.
    pub score: Histogram,
}

/// Shares of rows by bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Histogram {
    /// Rising edges between bins of numbers; a number on an edge is below it. Of a category, the
    /// numbers of the values that have bins, in the order of the bins.
    pub edges: Vec<f64>,
    /// Whether it is of a category.
    pub category: bool,
    /// Shares: of the bins (of a category, the last is of all other values), then of missing values.
    pub shares: Vec<f64>,
}

impl Histogram {
    /// Of values; NaN is missing.
    pub fn of_numbers(values: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.collect();
        let rows = all.len();
        all.retain(|value| !value.is_nan());
        all.sort_unstable_by(f64::total_cmp);
        let quantile = |part: usize| all[(all.len() * part).div_ceil(BINS).max(1) - 1];
        let mut edges: Vec<f64> =
            if all.is_empty() { Vec::new() } else { (1..BINS).map(quantile).collect() };
        edges.dedup();
        // Where a tenth is the least or the greatest, such as a width that all pictures have, what is
        // beyond has a bin, though no value is in it.
        let below = all.first().map_or(f64::NAN, |least| least.next_down());
        if below.is_finite() && edges.first() == all.first() {
            edges.insert(0, below);
        }
        let mut histogram = Self { shares: vec![0.0; edges.len() + 2], edges, category: false };
        histogram.fill(&all, rows);
        histogram
    }

    /// Of the numbers of a category's values; NaN is missing.
    pub fn of_values(values: impl Iterator<Item = f64>, vocabulary: usize) -> Self {
        let all: Vec<f64> = values.collect();
        // Values are numbered by how frequent they are.
        let edges: Vec<f64> = (0..vocabulary.min(VALUES)).map(|number| number as f64).collect();
        let mut histogram = Self { shares: vec![0.0; edges.len() + 2], edges, category: true };
        histogram.fill(&all, all.len());
        histogram
    }

    /// Of the numbers of classes, of which there are so many: where these are over twenty, the most
    /// frequent have bins.
    pub fn of_classes(values: impl Iterator<Item = f64>, classes: usize) -> Self {
        let all: Vec<f64> = values.collect();
        let mut rows = vec![0_u64; classes];
        for value in all.iter().filter(|value| !value.is_nan()) {
            if let Some(rows) = rows.get_mut(number(*value)) {
                *rows += 1;
            }
        }
        let mut frequent: Vec<usize> = (0..classes).collect();
        // The sort is stable: of equally frequent ones the first stay.
        frequent.sort_by_key(|class| std::cmp::Reverse(rows[*class]));
        frequent.truncate(VALUES);
        frequent.sort_unstable();
        let edges: Vec<f64> = frequent.into_iter().map(|class| class as f64).collect();
        let mut histogram = Self { shares: vec![0.0; edges.len() + 2], edges, category: true };
        histogram.fill(&all, all.len());
        histogram
    }

    fn fill(&mut self, values: &[f64], rows: usize) {
        let mut counts = vec![0_u64; self.shares.len()];
        for value in values {
            counts[self.bin(*value)] += 1;
        }
        let known: u64 = counts[..counts.len() - 1].iter().sum();
        let last = counts.len() - 1;
        counts[last] = rows as u64 - known;
        let rows = rows.max(1) as f64;
        self.shares = counts.iter().map(|count| *count as f64 / rows).collect();
    }

    /// The number of a value's bin.
    fn bin(&self, value: f64) -> usize {
        if value.is_nan() {
            return self.edges.len() + 1;
        }
        if self.category {
            let own = self.edges.iter().position(|edge| edge.total_cmp(&value).is_eq());
            return own.unwrap_or(self.edges.len());
        }
        self.edges.partition_point(|edge| *edge < value)
    }

    /// What is wrong with one that was read from a file.
    pub fn fault(&self) -> Option<&'static str> {
        let shares = self.shares.iter().all(|share| (0.0..=1.0).contains(share));
        let rising = self.edges.windows(2).all(|pair| pair[0] < pair[1]);
        let finite = self.edges.iter().all(|edge| edge.is_finite());
        let whole = self.shares.len() == self.edges.len() + 2;
        (!(shares && rising && finite && whole)).then_some("a histogram of the reference is none")
    }
}

impl Reference {
    /// Of rows, `[rows, features]`, and of scores.
    pub fn of(features: &Features, values: &[f64], scores: &[f64]) -> Self {
        let columns = features.features.len();
        let of = |(number, feature): (usize, &crate::Feature)| {
            let column = values.iter().skip(number).step_by(columns).copied();
            match &feature.vocabulary {
                Some(vocabulary) => Histogram::of_values(column, vocabulary.len()),
                None => Histogram::of_numbers(column),
            }
        };
        Self {
            features: features.features.iter().enumerate().map(of).collect(),
            score: Histogram::of_numbers(scores.iter().copied()),
        }
    }
}

/// How far two spreads are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shift {
    /// Population stability index.
    pub psi: f64,
    /// Kolmogorov–Smirnov statistic of those that are not missing; `None` of a category, which has no
    /// order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ks: Option<f64>,
}

/// Counts of rows by the bins of a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drift {
    /// By feature, and of the score last.
    counts: Vec<Vec<u64>>,
    rows: u64,
}

impl Reference {
    /// Of the features, then of the score.
    pub fn histograms(&self) -> impl Iterator<Item = &Histogram> {
        self.features.iter().chain([&self.score])
    }
}

impl Drift {
    /// No rows yet, which are counted by the bins of these.
    pub fn by<'h>(histograms: impl IntoIterator<Item = &'h Histogram>) -> Self {
        let empty = |histogram: &Histogram| vec![0; histogram.shares.len()];
        Self { counts: histograms.into_iter().map(empty).collect(), rows: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a row: each of its values, with the histogram whose bins count it, in the order of
    /// [`Self::by`].
    pub fn count<'h>(&mut self, row: impl IntoIterator<Item = (&'h Histogram, f64)>) {
        for (counts, (histogram, value)) in self.counts.iter_mut().zip(row) {
            if let Some(count) = counts.get_mut(histogram.bin(value)) {
                *count += 1;
            }
        }
        self.rows += 1;
    }

    /// Adds what another counted by the same reference.
    pub fn merge(&mut self, other: &Self) {
        for (counts, more) in self.counts.iter_mut().zip(&other.counts) {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        self.rows += other.rows;
    }

    /// How far what was counted is from these, in the order of [`Self::by`]. Nothing before the first
    /// row.
    pub fn apart<'h>(&self, histograms: impl IntoIterator<Item = &'h Histogram>) -> Vec<Shift> {
        if self.rows == 0 {
            return Vec::new();
        }
        let shift = |(histogram, counts): (&Histogram, &Vec<u64>)| Shift {
            psi: psi(&histogram.shares, counts),
            ks: (!histogram.category).then(|| ks(&histogram.shares, counts)),
        };
        histograms.into_iter().zip(&self.counts).map(shift).collect()
    }
}

/// The population stability index of counts against shares, as many of both.
pub fn psi(expected: &[f64], actual: &[u64]) -> f64 {
    let rows = actual.iter().sum::<u64>().max(1) as f64;
    let of = |(expected, count): (&f64, &u64)| {
        let (e, a) = (expected.max(LEAST), (*count as f64 / rows).max(LEAST));
        (a - e) * libm::log(a / e)
    };
    expected.iter().zip(actual).map(of).sum()
}

/// The Kolmogorov–Smirnov statistic at the edges of bins, whose last, of missing values, is passed
/// over.
pub fn ks(expected: &[f64], actual: &[u64]) -> f64 {
    let known = expected.len().min(actual.len()).saturating_sub(1);
    let (expected, actual) = (&expected[..known], &actual[..known]);
    let (all, rows) = (expected.iter().sum::<f64>(), actual.iter().sum::<u64>());
    if all <= 0.0 || rows == 0 {
        return 0.0;
    }
    let (mut e, mut a, mut most) = (0.0, 0.0, 0.0_f64);
    for (share, count) in expected.iter().zip(actual) {
        e += share / all;
        a += *count as f64 / rows as f64;
        most = most.max((e - a).abs());
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::ValueType;
    use crate::config::Task;
    use crate::features::Feature;

    fn features() -> Features {
        let number = |name: &str, vocabulary| Feature {
            name: name.to_owned(),
            type_: if vocabulary == 0 { ValueType::Number } else { ValueType::Text },
            missing: true,
            vocabulary: (vocabulary > 0).then(|| (0..vocabulary).map(|n| n.to_string()).collect()),
        };
        Features {
            task: Task::TabularRegression,
            label: "y".to_owned(),
            labels: Vec::new(),
            features: vec![number("x", 0), number("c", 3)],
            left_out: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// Normal numbers with that mean and deviation 1 (Box and Muller 1958), by a simple generator.
    fn normal(mean: f64, seed: u64) -> impl Iterator<Item = f64> {
        let uniform = move |number: u64| {
            let hash = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
            let [a, b, c, d, ..] = *hash.as_bytes();
            (f64::from(u32::from_le_bytes([a, b, c, d])) + 0.5) / 4_294_967_296.0
        };
        (0..).map(move |row| {
            let radius = (-2.0 * uniform(2 * row).ln()).sqrt();
            mean + radius * (std::f64::consts::TAU * uniform(2 * row + 1)).cos()
        })
    }

    const ROWS: usize = 10_000;

    fn rows(mean: f64, seed: u64, rare: usize) -> Vec<f64> {
        let rows = normal(mean, seed).take(ROWS).enumerate();
        rows.flat_map(|(row, x)| {
            let missing = row % 10 == 0;
            let category = if row % 100 < rare { 2.0 } else { (row % 2) as f64 };
            [if missing { f64::NAN } else { x }, category]
        })
        .collect()
    }

    /// Of `x`, `c` and the score.
    fn shifts(mean: f64, rare: usize) -> Vec<Shift> {
        let features = features();
        let trained = rows(0.0, 1, 5);
        let scores: Vec<f64> = normal(0.0, 2).take(ROWS).collect();
        let reference = Reference::of(&features, &trained, &scores);
        assert!(reference.features.iter().all(|histogram| histogram.fault().is_none()));
        let empty = Drift::by(reference.histograms());
        let (mut drift, mut other) = (empty.clone(), empty);
        assert!(drift.apart(reference.histograms()).is_empty());
        let served = rows(mean, 3, rare);
        for (row, score) in served.chunks_exact(2).zip(normal(mean, 4)) {
            let half = if drift.rows() < 5000 { &mut drift } else { &mut other };
            half.count(reference.histograms().zip(row.iter().copied().chain([score])));
        }
        drift.merge(&other);
        assert_eq!(drift.rows(), ROWS as u64);
        drift.apart(reference.histograms())
    }

    #[test]
    fn alike_rows_shift_little_and_moved_ones_much() {
        for shift in shifts(0.0, 5) {
            assert!(shift.psi < 0.02, "{shift:?}");
            assert!(shift.ks.unwrap_or_default() < 0.03, "{shift:?}");
        }
        let moved = shifts(1.0, 60);
        assert_eq!(moved.len(), 3);
        for shift in &moved {
            assert!(shift.psi > 0.25, "{shift:?}");
        }
        // Two normal distributions a deviation apart: 2 Φ(1/2) − 1 = 0.383 between them.
        let ks = moved[0].ks.unwrap();
        assert!((0.36..0.41).contains(&ks), "{ks}");
        assert_eq!(moved[1].ks, None);
    }

    #[test]
    fn frequent_classes_have_bins_and_others_share_one() {
        let few = Histogram::of_classes([2.0, 0.0, 2.0, 2.0].into_iter(), 3);
        assert_eq!(few.edges, [0.0, 1.0, 2.0]);
        assert_eq!(few.shares, [0.25, 0.0, 0.75, 0.0, 0.0]);
        assert_eq!(few.fault(), None);
        // Of 30 classes, 29 to 10 are there twice, and the others once.
        let values = (0..30).chain(10..30).map(f64::from);
        let many = Histogram::of_classes(values, 30);
        assert_eq!(many.edges, (10..30).map(f64::from).collect::<Vec<_>>());
        assert!((many.shares[20] - 0.2).abs() < 1e-12, "{:?}", many.shares);
    }

    #[test]
    fn numbers_on_edges_and_few_numbers_have_bins() {
        let histogram = Histogram::of_numbers([1.0, 1.0, 1.0, 2.0, f64::NAN].into_iter());
        assert_eq!(histogram.edges, [1.0_f64.next_down(), 1.0, 2.0]);
        assert_eq!(histogram.shares, [0.0, 0.6, 0.2, 0.0, 0.2]);
        assert_eq!(histogram.fault(), None);
        let histogram = Histogram::of_numbers([5.0; 3].into_iter());
        assert_eq!(histogram.shares, [0.0, 1.0, 0.0, 0.0]);
        for (value, bin) in [(4.9, 0), (5.0, 1), (5.1, 2), (f64::NAN, 3)] {
            assert_eq!(histogram.bin(value), bin, "{value}");
        }
        let none = Histogram::of_numbers(std::iter::empty());
        assert_eq!(none.shares, [0.0, 0.0]);
    }
}
