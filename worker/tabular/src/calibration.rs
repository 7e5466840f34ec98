//! Scores that are probabilities: of rows with a score of 0.2, one in five is what it is taken for.

use serde::{Deserialize, Serialize};

use crate::error::{Result, TabularError};

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CalibrationMethod {
    /// Isotonic regression (Zadrozny & Elkan 2002, KDD) by pooling adjacent violators, with straight
    /// lines between steps. Keeps the order of scores but for ties: scores of one step become one
    /// probability. For a thousand held-out rows or more.
    Isotonic,
    /// A sigmoid of the log-odds (Platt 1999), with targets and search of Lin, Lin & Weng (2007,
    /// Machine Learning 68). Keeps the order of scores; for few held-out rows.
    Sigmoid,
}

/// What held-out rows taught of scores: one curve of two labels (of the last), else one a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Calibration {
    curves: Vec<Curve>,
}

/// From a score to a probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Curve {
    /// Corners of lines, the scores increasing and the probabilities not decreasing.
    Isotonic { scores: Vec<f64>, probabilities: Vec<f64> },
    /// `1 / (1 + exp(a × ln(score / (1 − score)) + b))`.
    Sigmoid { a: f64, b: f64 },
}

impl Calibration {
    /// Of `probabilities`, `[rows, labels]`, that a model gave to held-out rows, and their labels'
    /// numbers.
    ///
    /// # Errors
    ///
    /// Rows that all have a label, or all lack it.
    pub fn fit(
        method: CalibrationMethod,
        probabilities: &[f64],
        truths: &[usize],
        labels: usize,
    ) -> Result<Self> {
        let of = if labels == 2 { 1..2 } else { 0..labels };
        let curve = |label: usize| {
            let rows = probabilities.chunks_exact(labels).zip(truths);
            let rows: Vec<(f64, bool)> =
                rows.map(|(row, truth)| (row[label], *truth == label)).collect();
            let with = rows.iter().filter(|(_, is)| *is).count();
            if with == 0 || with == rows.len() {
                let detail = format!(
                    "of {} held-out rows {with} have label number {label}; give more of both kinds, or leave it out",
                    rows.len()
                );
                return Err(TabularError::setting("calibration", detail));
            }
            Ok(match method {
                CalibrationMethod::Isotonic => isotonic(rows),
                CalibrationMethod::Sigmoid => sigmoid(&rows, with),
            })
        };
        Ok(Self { curves: of.map(curve).collect::<Result<_>>()? })
    }

    /// Turns a row's scores, `[labels]`, into probabilities that sum to 1.
    pub fn apply(&self, row: &mut [f64]) {
        if let ([curve], [other, score]) = (&*self.curves, &mut *row) {
            *score = curve.at(*score);
            *other = 1.0 - *score;
            return;
        }
        let mut sum = 0.0;
        for (score, curve) in row.iter_mut().zip(&self.curves) {
            *score = curve.at(*score);
            sum += *score;
        }
        // No curve takes the row for its label: none is likelier than another.
        let even = 1.0 / row.len() as f64;
        for score in row.iter_mut() {
            *score = if sum > 0.0 { *score / sum } else { even };
        }
    }

    /// What is wrong with a calibration that was read from a file.
    pub(crate) fn fault(&self, labels: usize) -> Option<&'static str> {
        let curves = if labels == 2 { 1 } else { labels };
        if self.curves.len() != curves {
            return Some("the calibration is of another number of labels");
        }
        let good = |curve: &Curve| match curve {
            Curve::Isotonic { scores, probabilities } => {
                let rising = scores.windows(2).all(|pair| pair[0] < pair[1]);
                let within = probabilities.iter().all(|value| (0.0..=1.0).contains(value));
                let same = scores.len() == probabilities.len() && !scores.is_empty();
                same && rising && within && probabilities.is_sorted()
            }
            Curve::Sigmoid { a, b } => a.is_finite() && b.is_finite(),
        };
        (!self.curves.iter().all(good)).then_some("the calibration has a curve that is none")
    }
}

impl Curve {
    fn at(&self, score: f64) -> f64 {
        match self {
            Self::Sigmoid { a, b } => expit(-(a * logit(score) + b)),
            Self::Isotonic { scores, probabilities } => {
                let above = scores.partition_point(|corner| *corner < score);
                let last = scores.len() - 1;
                if above == 0 || above > last {
                    return probabilities[above.min(last)];
                }
                let (low, high) = (scores[above - 1], scores[above]);
                let (from, to) = (probabilities[above - 1], probabilities[above]);
                from + (to - from) * ((score - low) / (high - low))
            }
        }
    }
}

/// As scikit-learn's `IsotonicRegression`: rows of one score become their mean, neighbours that fall
/// are pooled, and of a step its ends are kept.
fn isotonic(mut rows: Vec<(f64, bool)>) -> Curve {
    rows.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    // Scores with rows of that score, and rows among them that have the label.
    let mut points: Vec<(f64, u64, u64)> = Vec::new();
    for (score, is) in rows {
        match points.last_mut() {
            Some((last, all, with)) if last.total_cmp(&score).is_eq() => {
                *all += 1;
                *with += u64::from(is);
            }
            _ => points.push((score, 1, u64::from(is))),
        }
    }
    // Pools: rows, those with the label, and points. Means are compared as whole numbers.
    let mut pools: Vec<(u64, u64, usize)> = Vec::new();
    for (_, all, with) in &points {
        let mut pool = (*all, *with, 1);
        while let Some(before) = pools.last() {
            let falls = u128::from(before.1) * u128::from(pool.0)
                >= u128::from(pool.1) * u128::from(before.0);
            if !falls {
                break;
            }
            pool = (pool.0 + before.0, pool.1 + before.1, pool.2 + before.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let (mut scores, mut probabilities, mut at) = (Vec::new(), Vec::new(), 0);
    for (all, with, len) in pools {
        let mean = with as f64 / all as f64;
        let ends = if len == 1 { vec![at] } else { vec![at, at + len - 1] };
        for end in ends {
            scores.push(points[end].0);
            probabilities.push(mean);
        }
        at += len;
    }
    Curve::Isotonic { scores, probabilities }
}

/// Newton's method with backtracking, as in the appendix of Lin, Lin & Weng.
fn sigmoid(rows: &[(f64, bool)], with: usize) -> Curve {
    const STEPS: usize = 100;
    /// Added to the Hessian's diagonal.
    const RIDGE: f64 = 1e-12;
    let (with, without) = (with as f64, (rows.len() - with) as f64);
    let (high, low) = ((with + 1.0) / (with + 2.0), 1.0 / (without + 2.0));
    let rows: Vec<(f64, f64)> =
        rows.iter().map(|(score, is)| (logit(*score), if *is { high } else { low })).collect();
    let loss = |a: f64, b: f64| -> f64 {
        let of = |(score, target): &(f64, f64)| {
            let value = a * score + b;
            let target = if value >= 0.0 { *target } else { target - 1.0 };
            target * value + libm::log1p(libm::exp(-value.abs()))
        };
        rows.iter().map(of).sum()
    };
    let (mut a, mut b) = (0.0, libm::log((without + 1.0) / (with + 1.0)));
    let mut now = loss(a, b);
    for _ in 0..STEPS {
        let (mut aa, mut bb, mut ab, mut ga, mut gb) = (RIDGE, RIDGE, 0.0, 0.0, 0.0);
        for (score, target) in &rows {
            let p = expit(-(a * score + b));
            let (bend, slope) = (p * (1.0 - p), target - p);
            aa += score * score * bend;
            bb += bend;
            ab += score * bend;
            ga += score * slope;
            gb += slope;
        }
        if ga.abs() < 1e-10 && gb.abs() < 1e-10 {
            break;
        }
        let area = aa * bb - ab * ab;
        let (da, db) = (-(bb * ga - ab * gb) / area, -(aa * gb - ab * ga) / area);
        let fall = ga * da + gb * db;
        let mut step = 1.0;
        let moved = loop {
            let next = loss(a + step * da, b + step * db);
            // So near the end the loss no longer tells steps apart, and a whole one is right.
            if next < now + 1e-4 * step * fall || ga.abs() + gb.abs() < 1e-3 {
                break Some(next);
            }
            step /= 2.0;
            if step < 1e-10 {
                break None;
            }
        };
        // The loss is as low as doubles can tell.
        let Some(next) = moved else { break };
        (a, b, now) = (a + step * da, b + step * db, next);
    }
    Curve::Sigmoid { a, b }
}

/// `1 / (1 + exp(-x))`, by `libm`, so that it is the same on all machines.
pub(crate) fn expit(x: f64) -> f64 {
    if x >= 0.0 {
        return 1.0 / (1.0 + libm::exp(-x));
    }
    let small = libm::exp(x);
    small / (1.0 + small)
}

/// Log-odds, of a probability that is neither 0 nor 1 by more than 10^-15.
fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-15, 1.0 - 1e-15);
    libm::log(p / (1.0 - p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(scores: &[f64]) -> Vec<f64> {
        scores.iter().flat_map(|score| [1.0 - score, *score]).collect()
    }

    #[test]
    fn violators_are_pooled_and_lines_join_steps() {
        let scores = [0.1, 0.2, 0.3, 0.4, 0.4, 0.9];
        let truths = [0, 1, 0, 1, 0, 1];
        let fit = Calibration::fit(CalibrationMethod::Isotonic, &two(&scores), &truths, 2).unwrap();
        let want = Curve::Isotonic {
            scores: vec![0.1, 0.2, 0.4, 0.9],
            probabilities: vec![0.0, 0.5, 0.5, 1.0],
        };
        assert_eq!(fit.curves, [want]);
        for (score, probability) in
            [(0.0, 0.0), (0.15, 0.25), (0.3, 0.5), (0.65, 0.75), (0.9, 1.0), (1.0, 1.0)]
        {
            let mut row = [1.0 - score, score];
            fit.apply(&mut row);
            assert!((row[1] - probability).abs() < 1e-12, "{score}: {row:?}");
        }
        assert_eq!(fit.fault(2), None);
        assert!(fit.fault(3).is_some());
    }

    #[test]
    fn a_sigmoid_finds_the_odds_that_rows_have() {
        // Scores that say 0.9 and 0.1 where it is 0.7 and 0.3.
        let rows: Vec<(f64, usize)> =
            (0..2000).map(|row| (if row % 2 == 0 { 0.9 } else { 0.1 }, row)).collect();
        let truths: Vec<usize> = rows
            .iter()
            .map(|(score, row)| usize::from((row / 2 % 10 < 7) == (*score > 0.5)))
            .collect();
        let scores: Vec<f64> = rows.iter().map(|(score, _)| *score).collect();
        let fit = Calibration::fit(CalibrationMethod::Sigmoid, &two(&scores), &truths, 2).unwrap();
        let mut row = [0.1, 0.9];
        fit.apply(&mut row);
        assert!((row[1] - 0.7).abs() < 1e-3, "{row:?}");
    }

    #[test]
    fn many_labels_sum_to_one_and_one_sided_rows_are_refused() {
        let scores = [0.7, 0.2, 0.1, 0.2, 0.7, 0.1, 0.3, 0.3, 0.4, 0.2, 0.5, 0.3];
        let truths = [0, 1, 2, 1];
        let fit = Calibration::fit(CalibrationMethod::Isotonic, &scores, &truths, 3).unwrap();
        let mut row = [0.5, 0.3, 0.2];
        fit.apply(&mut row);
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{row:?}");
        let told = Calibration::fit(CalibrationMethod::Sigmoid, &two(&[0.1, 0.2]), &[0, 0], 2);
        assert!(told.unwrap_err().to_string().contains("of 2 held-out rows 0 have label"));
    }
}
