//! From which probability on a row is taken for positive, and what that costs.

use hearth_crds::tabular;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TabularError};

/// What a threshold is chosen for. Shares are of held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ThresholdTarget {
    /// This probability.
    Fixed(f64),
    /// At most this share of the negative rows is taken for positive; then as many positive ones are
    /// found as can be.
    FalsePositiveRate(f64),
    /// At least this share of the positive rows is found; then as few negative ones are taken for
    /// positive as can be.
    Recall(f64),
    /// At most this share of the positive rows is missed: 1 − recall.
    MissRate(f64),
    /// At least this share of what is taken for positive is; then as many are found as can be.
    Precision(f64),
}

impl Default for ThresholdTarget {
    fn default() -> Self {
        Self::Fixed(0.5)
    }
}

impl ThresholdTarget {
    /// What a job asks for; `None` of one that asks for nothing.
    pub fn asked(asked: &tabular::Threshold) -> Option<Self> {
        let targets = [
            asked.false_positive_rate.map(Self::FalsePositiveRate),
            asked.recall.map(Self::Recall),
            asked.precision.map(Self::Precision),
            asked.value.map(Self::Fixed),
        ];
        targets.into_iter().flatten().next()
    }
}

/// From which probability on a row is taken for positive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Threshold {
    /// This one, included.
    pub value: f64,
    /// What it was chosen for.
    pub target: ThresholdTarget,
    /// What it costs on the rows that it was chosen on. [`crate::Metrics`] say it of others.
    pub chosen_on: Confusion,
}

/// Rows by what they are and what they are taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// Positive, and taken for it.
    pub true_positives: u64,
    /// Negative, and taken for positive.
    pub false_positives: u64,
    /// Negative, and taken for it.
    pub true_negatives: u64,
    /// Positive, and taken for negative.
    pub false_negatives: u64,
}

/// What a threshold costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confusion {
    /// Rows.
    pub counts: Counts,
    /// Of the negative rows, those taken for positive.
    pub false_positive_rate: Option<Share>,
    /// Of the positive rows, those found.
    pub recall: Option<Share>,
    /// Of the rows taken for positive, those that are.
    pub precision: Option<Share>,
}

/// A share with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Share {
    /// The share.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Share {
    /// `part` of `all`, with Wilson's score interval (Wilson 1927, JASA 22; Brown, Cai & DasGupta
    /// 2001, Statistical Science 16, recommend it for few rows). `None` of no rows.
    pub fn of(part: u64, all: u64) -> Option<Self> {
        /// Of the standard normal distribution, 0.975 is below.
        const Z: f64 = 1.959_963_984_540_054;
        if all == 0 {
            return None;
        }
        let (n, value) = (all as f64, part as f64 / all as f64);
        let scale = 1.0 + Z * Z / n;
        let middle = (value + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (value * (1.0 - value) / n + Z * Z / (4.0 * n * n)).sqrt();
        // At both ends the interval reaches 0 or 1, which rounding may miss.
        let low = if part == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if part == all { 1.0 } else { (middle + half).min(1.0) };
        Some(Self { value, low, high })
    }
}

impl Threshold {
    /// Chooses one by the probabilities that held-out rows have of being positive, and whether they
    /// are.
    ///
    /// # Errors
    ///
    /// A target that is no share, rows of one kind, and a target that no threshold meets that finds
    /// any positive row; the error says how near one comes.
    pub fn choose(
        target: ThresholdTarget,
        probabilities: &[f64],
        positive: &[bool],
    ) -> Result<Self> {
        let rows: Vec<(f64, bool)> =
            probabilities.iter().copied().zip(positive.iter().copied()).collect();
        let value = match target {
            ThresholdTarget::Fixed(value) => checked(value)?,
            _ => chosen(target, &rows)?,
        };
        let chosen_on = Confusion::of(counts(value, &rows));
        Ok(Self { value, target, chosen_on })
    }
}

fn checked(share: f64) -> Result<f64> {
    let good = (0.0..=1.0).contains(&share);
    good.then_some(share).ok_or_else(|| TabularError::setting("threshold", "write a share, 0 to 1"))
}

pub(crate) fn counts(threshold: f64, rows: &[(f64, bool)]) -> Counts {
    let mut counts = Counts::default();
    for (probability, positive) in rows {
        *match (*probability >= threshold, positive) {
            (true, true) => &mut counts.true_positives,
            (true, false) => &mut counts.false_positives,
            (false, true) => &mut counts.false_negatives,
            (false, false) => &mut counts.true_negatives,
        } += 1;
    }
    counts
}

/// Goes down the probabilities; at each a threshold is possible.
fn chosen(target: ThresholdTarget, rows: &[(f64, bool)]) -> Result<f64> {
    let positives = rows.iter().filter(|(_, positive)| *positive).count() as u64;
    let negatives = rows.len() as u64 - positives;
    if positives == 0 || negatives == 0 {
        let detail = format!(
            "{positives} positive and {negatives} negative held-out rows choose nothing; give more of both"
        );
        return Err(TabularError::setting("threshold", detail));
    }
    // What is to be at most (or at least) the bound, of rows taken for positive.
    let (bound, name, at_most) = match target {
        ThresholdTarget::FalsePositiveRate(most) => (checked(most)?, "falsePositiveRate", true),
        ThresholdTarget::MissRate(most) => (checked(most)?, "missRate", true),
        ThresholdTarget::Recall(least) => (checked(least)?, "recall", false),
        ThresholdTarget::Precision(least) => (checked(least)?, "precision", false),
        ThresholdTarget::Fixed(value) => return checked(value),
    };
    let cost = |found: u64, wrong: u64| match target {
        ThresholdTarget::FalsePositiveRate(_) => wrong as f64 / negatives as f64,
        ThresholdTarget::MissRate(_) => (positives - found) as f64 / positives as f64,
        ThresholdTarget::Recall(_) => found as f64 / positives as f64,
        _ => found as f64 / (found + wrong) as f64,
    };
    let mut sorted = rows.to_vec();
    sorted.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
    let (mut found, mut wrong) = (0, 0);
    let mut best: Option<(f64, u64)> = None;
    let mut nearest: Option<f64> = None;
    let first_met = matches!(target, ThresholdTarget::Recall(_) | ThresholdTarget::MissRate(_));
    for (row, (probability, positive)) in sorted.iter().enumerate() {
        found += u64::from(*positive);
        wrong += u64::from(!positive);
        let next = sorted.get(row + 1).map(|(next, _)| *next);
        if found == 0 || next == Some(*probability) {
            continue;
        }
        let cost = cost(found, wrong);
        let nearer = |known: f64| if at_most { cost < known } else { cost > known };
        if nearest.is_none_or(nearer) {
            nearest = Some(cost);
        }
        if if at_most { cost <= bound } else { cost >= bound } {
            // Half-way to the next, so that another rounding decides nothing.
            let threshold = next.map_or(*probability, |next| f64::midpoint(*probability, next));
            if best.is_none_or(|(_, most)| found > most) {
                best = Some((threshold, found));
            }
            if first_met {
                break;
            }
        }
    }
    best.map(|(threshold, _)| threshold).ok_or_else(|| {
        let most = if at_most { "at most" } else { "at least" };
        let nearest = nearest.unwrap_or(f64::NAN);
        let detail = format!(
            "no threshold that finds any positive row has a {name} of {most} {bound} on {} held-out \
             rows; the closest is {nearest:.6}. Ask for that, or give more rows; of tables, calibration \
             Sigmoid has finer steps than Isotonic",
            rows.len()
        );
        TabularError::setting("threshold", detail)
    })
}

impl Confusion {
    /// What a threshold costs on rows with these probabilities of being positive.
    pub fn at(threshold: f64, probabilities: &[f64], positive: &[bool]) -> Self {
        let rows: Vec<(f64, bool)> =
            probabilities.iter().copied().zip(positive.iter().copied()).collect();
        Self::of(counts(threshold, &rows))
    }

    /// The shares of counts.
    pub fn of(counts: Counts) -> Self {
        let Counts { true_positives, false_positives, true_negatives, false_negatives } = counts;
        Self {
            counts,
            false_positive_rate: Share::of(false_positives, false_positives + true_negatives),
            recall: Share::of(true_positives, true_positives + false_negatives),
            precision: Share::of(true_positives, true_positives + false_positives),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f64; 8] = [0.9, 0.8, 0.8, 0.7, 0.6, 0.4, 0.3, 0.1];
    const POSITIVE: [bool; 8] = [true, true, false, true, false, true, false, false];

    #[test]
    fn each_target_takes_the_best_threshold_that_meets_it() {
        for (target, value, found, wrong) in [
            (ThresholdTarget::default(), 0.5, 3, 2),
            (ThresholdTarget::FalsePositiveRate(0.0), 0.85, 1, 0),
            (ThresholdTarget::FalsePositiveRate(0.25), 0.65, 3, 1),
            (ThresholdTarget::FalsePositiveRate(1.0), 0.35, 4, 2),
            (ThresholdTarget::Recall(0.75), 0.65, 3, 1),
            (ThresholdTarget::Recall(1.0), 0.35, 4, 2),
            (ThresholdTarget::MissRate(0.0), 0.35, 4, 2),
            (ThresholdTarget::Precision(0.75), 0.65, 3, 1),
            (ThresholdTarget::Precision(1.0), 0.85, 1, 0),
        ] {
            let chosen = Threshold::choose(target, &SCORES, &POSITIVE).unwrap();
            let counts = chosen.chosen_on.counts;
            assert!((chosen.value - value).abs() < 1e-12, "{target:?}: {}", chosen.value);
            let told = (counts.true_positives, counts.false_positives);
            assert_eq!(told, (found, wrong), "{target:?}");
        }
    }

    #[test]
    fn a_target_out_of_reach_is_refused_with_how_near_one_comes() {
        let positive = SCORES.map(|score| score < 0.85);
        let told = Threshold::choose(ThresholdTarget::FalsePositiveRate(0.5), &SCORES, &positive);
        let told = told.unwrap_err().to_string();
        assert!(told.contains("falsePositiveRate of at most 0.5 on 8"), "{told}");
        assert!(told.contains("closest is 1.000000"), "{told}");
        let told = Threshold::choose(ThresholdTarget::Recall(1.5), &SCORES, &positive);
        assert!(told.unwrap_err().to_string().contains("0 to 1"));
        let told = Threshold::choose(ThresholdTarget::Recall(0.5), &SCORES, &[true; 8]);
        assert!(told.unwrap_err().to_string().contains("0 negative"));
    }

    #[test]
    fn intervals_are_wilsons() {
        // The formula in Python, whose ends at 0 and 1 are exact here.
        for (part, all, low, high) in [
            (0, 10, 0.0, 0.277_532_799_862_889),
            (5, 10, 0.236_593_090_512_564, 0.763_406_909_487_436),
            (10, 10, 0.722_467_200_137_111, 1.0),
            (3, 1000, 0.001_020_783_881_139, 0.008_783_014_053_503),
        ] {
            let share = Share::of(part, all).unwrap();
            assert!((share.low - low).abs() < 1e-9, "{part}/{all}: {share:?}");
            assert!((share.high - high).abs() < 1e-9, "{part}/{all}: {share:?}");
        }
        assert_eq!(Share::of(0, 0), None);
    }
}
