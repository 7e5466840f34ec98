//! Quantiles of any number of numbers in bounded memory: buckets whose bounds grow by 2%, so that a
//! quantile is within 1% of a number that is there (DDSketch, Masson et al., VLDB 2019).
//!
//! Invariant: merging is adding. What comes out does not depend on how the numbers were divided.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Growth of buckets.
const GROWTH: f64 = 1.02;

/// How numbers are spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sketch {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    sum: f64,
    zeros: u64,
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
}

impl Sketch {
    /// Adds a number; those that are none, and infinite ones, are passed over.
    pub(crate) fn add(&mut self, number: f64) {
        if !number.is_finite() {
            return;
        }
        let (min, max) = if self.count == 0 { (number, number) } else { (self.min, self.max) };
        self.min = min.min(number);
        self.max = max.max(number);
        self.count += 1;
        self.sum += number;
        if number == 0.0 {
            self.zeros += 1;
        } else {
            let side = if number > 0.0 { &mut self.positive } else { &mut self.negative };
            *side.entry(bucket(number.abs())).or_default() += 1;
        }
    }

    /// Adds another's numbers.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
        self.zeros += other.zeros;
        for (side, others) in
            [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)]
        {
            for (bucket, count) in others {
                *side.entry(*bucket).or_default() += count;
            }
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    /// The number below which a share of all are.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the count is none"
    )]
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.count.saturating_sub(1) as f64).round() as u64;
        let negative = self.negative.iter().rev().map(|(bucket, count)| (-middle(*bucket), *count));
        let positive = self.positive.iter().map(|(bucket, count)| (middle(*bucket), *count));
        let mut before = 0;
        for (number, count) in negative.chain([(0.0, self.zeros)]).chain(positive) {
            before += count;
            if rank < before {
                return number.clamp(self.min, self.max);
            }
        }
        self.max
    }
}

#[expect(clippy::cast_possible_truncation, reason = "logarithms of numbers are small")]
fn bucket(number: f64) -> i32 {
    (number.ln() / GROWTH.ln()).ceil() as i32
}

fn middle(bucket: i32) -> f64 {
    2.0 * GROWTH.powi(bucket) / (GROWTH + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_near_a_number_that_is_there(
            mut numbers in proptest::collection::vec(-1e6..1e6f64, 1..200),
            share in 0.0..1.0f64,
            cut in 0..200usize,
        ) {
            let (mut one, mut other) = (Sketch::default(), Sketch::default());
            for (index, number) in numbers.iter().enumerate() {
                if index < cut { one.add(*number) } else { other.add(*number) }
            }
            one.merge(&other);
            numbers.sort_unstable_by(f64::total_cmp);
            let rank = (share * (numbers.len() - 1) as f64).round();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
            let want = numbers[rank as usize];
            prop_assert!((one.quantile(share) - want).abs() <= want.abs() * 0.0101 + 1e-9);
            prop_assert_eq!(one.count, numbers.len() as u64);
        }
    }
}
